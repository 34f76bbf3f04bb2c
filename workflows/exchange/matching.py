"""Which feature belongs to which video: by content where that is known, else by a mapping, else by name."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..._vocabulary import ConfigError
from .layouts import Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One video or caption of the collection that a feature can be imported for."""

    key: str
    source_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """Offers joined with targets, and what was left on both sides.

    Attributes:
        pairs: what belongs together, in the order of the targets.
        refused: (origin, reason) of offers that fit several targets, or share one with another offer.
        unmatched: origins of offers that fit no target.
        without: targets that no offer fits.
    """

    pairs: tuple[tuple[Target, Offer], ...]
    refused: tuple[tuple[str, str], ...]
    unmatched: tuple[str, ...]
    without: tuple[Target, ...]


def match(offers: Sequence[Offer], targets: Sequence[Target], mapping: Mapping[str, str] | None = None) -> Matching:
    """Join offers and targets: by content, by a mapping, or by name.

    An offer's name fits a target's whole key; else the key without its ending; else that without its first folder; else
    the bare file name. The first of these that fits anything counts, and an offer that fits several targets fits none.
    """
    by_digest: dict[str, list[Target]] = {}
    by_key: dict[str, list[Target]] = {}
    levels: list[dict[str, list[Target]]] = [{} for _ in range(6)]
    for target in targets:
        by_digest.setdefault(target.source_digest, []).append(target)
        by_key[target.key] = [target]
        for level, name in zip(levels, _names_of(target.key), strict=True):
            level.setdefault(unicodedata.normalize("NFC", name), []).append(target)

    def fitting(offer: Offer) -> list[Target]:
        if offer.source_digest is not None:
            return by_digest.get(offer.source_digest, [])
        if mapping is not None:
            return by_key.get(mapping.get(offer.origin, mapping.get(offer.name, "")), [])
        name = unicodedata.normalize("NFC", offer.name)
        found = next((level[name] for level in levels if name in level), None)
        if found is None:  # what lies in folders of its own
            name = name.rpartition("/")[2]
            found = next((level[name] for level in levels[-2:] if name in level), [])
        return found

    chosen: dict[str, list[Offer]] = {}
    refused: list[tuple[str, str]] = []
    unmatched: list[str] = []
    for offer in offers:
        found = fitting(offer)
        if not found:
            unmatched.append(offer.origin)
        elif len(found) > 1 and offer.source_digest is None:
            names = ", ".join(repr(target.key) for target in found[:3])
            refused.append((offer.origin, f"its name fits {len(found)} videos ({names}): tell with --mapping"))
        else:
            for target in found:
                chosen.setdefault(target.key, []).append(offer)
    pairs = []
    for target in targets:
        offered = chosen.get(target.key, [])
        if len(offered) == 1 or (offered and offered[0].source_digest is not None):
            pairs.append((target, offered[0]))
        else:
            reason = f"{len(offered)} files fit {target.key!r}: tell with --mapping"
            refused += [(one.origin, reason) for one in offered]
    without = tuple(target for target in targets if target.key not in chosen)
    return Matching(pairs=tuple(pairs), refused=tuple(refused), unmatched=tuple(unmatched), without=without)


def _names_of(key: str) -> tuple[str, ...]:
    """The names that a file of a video may have: the nearer to its whole key, the earlier."""
    path = PurePosixPath(key)
    inner = PurePosixPath(*path.parts[1:]) if len(path.parts) > 1 else path
    return key, str(path.with_suffix("")), str(inner), str(inner.with_suffix("")), path.name, path.stem


def read_mapping(path: Path) -> dict[str, str]:
    """File (as the import lists it, or its name without ending) to video, from a .csv or .jsonl file.

    The names are looked up, never opened. Raises ConfigError for other columns, or a file that is there twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = (
                list(csv.DictReader(file))
                if path.suffix == ".csv"
                else [json.loads(line) for line in file if line.strip()]
            )
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise ConfigError(f"--mapping {path} cannot be read: {error}") from None
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        pair = (row.get("file"), row.get("video")) if isinstance(row, dict) else (None, None)
        if not isinstance(pair[0], str) or not isinstance(pair[1], str):
            raise ConfigError(f"--mapping {path}: row {number} needs the columns `file` and `video`")
        if found.setdefault(pair[0], pair[1]) != pair[1]:
            raise ConfigError(f"--mapping {path}: {pair[0]!r} is mapped to two videos")
    return found
