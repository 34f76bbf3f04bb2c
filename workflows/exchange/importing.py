"""Features that were made elsewhere, taken into a store: matched to videos, checked, and kept under an honest identity.

What is stored is named by the content of the video, the backbone's specification, and the weights. Only the first is
known here; the others are what the configuration says. So numbers of unknown making belong under
``weights: imported:NAME``, an identity that claims nothing and that nothing else shares. To put them under the identity
of real weights takes `vouch`, except for exports of ours, which carry the identity that they were stored under.

Rows are held against the length of their video before they are read (`_import_checks.py`), and what is stored already
against what is stored. An import that was killed and is run again leaves the store as one that was not killed: what the
killed one had begun is swept away, and what it had finished is read again and compared.

One array is in memory at a time, with the copies by which its values are checked and cast: the peak is at most four
times the larger of its bytes as they were and as they are stored (measured: 3.4 times 384 MB of float16), besides 64 MB
of arrays that wait for their shard to be full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..._files import publish_text
from ..._vocabulary import ConfigError, ExitCode, FeatureSpec, Modality, canonical_json, digest_of
from ...extract import Decoder
from ...store import FeatureStore, code_version, feature_fingerprint, writer_lock
from ..console import Console
from ..project import PREFIX, FeatureRequest, Project, imported_weights, readable_path
from ..sync import fingerprint_of, survey, text_digest
from .ingest import Imported, Rules, check_rate, import_features
from .layouts import Choice, Offers, find_offers
from .lengths import Lengths, compare_with_stored
from .matching import Matching, Target, match, read_mapping
from .records import chosen_wants
from .tidy import RECORDS, tidy

_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did, or with `dry_run` would do.

    Attributes:
        feature: the project's name for it.
        identity: backbone and weights that it is stored under.
        imported: keys that were stored.
        already: how many were in the store, with the same numbers.
        absent: keys that were recorded as having none.
        refused: (origin, reason) of what was not taken.
        unmatched: origins that fit nothing in the collection.
        without: keys of the collection that nothing fits.
        unreadable: videos of the collection that could not be read, so that their content has no name.
        ignored: files in the folder that are not of this feature.
        unfit: (origin, sentence) of rows that were taken and end long before their video, or somewhat after it.
        unmeasured: keys of videos whose length nothing tells, so that no rows were too many for them.
        dry_run: whether nothing was written.
    """

    feature: str
    identity: str
    imported: tuple[str, ...] = ()
    already: int = 0
    absent: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    unmatched: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    unfit: tuple[tuple[str, str], ...] = ()
    unmeasured: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        """3 when something was refused, else 0."""
        return ExitCode.FAILURES if self.refused else ExitCode.OK

    def lines(self) -> Iterator[str]:
        """The report for a person."""
        for origin, reason in self.refused[:_SHOWN]:
            yield f"  refused: {origin}: {reason}"
        if len(self.refused) > _SHOWN:
            yield f"  and {len(self.refused) - _SHOWN} more were refused (--json names all)"
        verb = "would import" if self.dry_run else "imported"
        yield f"{verb} {len(self.imported)} as features.{self.feature} ({self.identity}); {self.already} were there"
        sides = (
            (self.absent, "recorded as having none"),
            (self.unmatched, "fit nothing in the collection"),
            (self.without, "of the collection have nothing here"),
            (self.unreadable, "of the collection cannot be read, and only their content names them"),
            (self.ignored, "are files of another kind"),
            (self.unmeasured, "are of unknown length, and any number of rows is taken for them"),
        )
        for names, what in sides:
            if names:
                yield f"  {len(names)} {what}, such as {names[0]!r}"
        if self.unfit:
            origin, reason = self.unfit[0]
            yield f"  {len(self.unfit)} were taken and are not as long as their video, such as {origin!r}: {reason}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        names = ("imported", "absent", "unmatched", "without", "unreadable", "ignored", "unmeasured")
        return {
            "feature": self.feature,
            "identity": self.identity,
            **{name: list(getattr(self, name)) for name in names},
            "already": self.already,
            "refused": [{"path": origin, "message": reason} for origin, reason in self.refused],
            "unfit": [{"path": origin, "message": reason} for origin, reason in self.unfit],
            "dry_run": self.dry_run,
            "exit_code": self.exit_code,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What is asked of an import.

    Attributes:
        path: the folder or file.
        layout: one of `_layouts.LAYOUTS`.
        feature: the project's name for it, or its backbone's.
        array: see `Choice`.
        suffix: see `Choice`.
        id_key: see `Choice`.
        mapping: a .csv or .jsonl file with the columns ``file`` and ``video``, where names do not say it.
        rate_hz: rows a second, or
        seconds_per_row: its inverse; both None for the specification's.
        transposed: see `Rules`.
        cast: see `Rules`.
        vouch: whether the user stands for the configured weights having made these numbers.
        absent: whether videos without an offer are recorded as having none.
        dry_run: read and check everything, and write nothing.
    """

    path: Path
    layout: str
    feature: str
    array: str | None = None
    suffix: str = ""
    id_key: str | None = None
    mapping: Path | None = None
    rate_hz: float | None = None
    seconds_per_row: float | None = None
    transposed: bool = False
    cast: bool = False
    vouch: bool = False
    absent: bool = False
    dry_run: bool = False


def import_into(project: Project, request: ImportRequest, console: Console) -> ImportReport:
    """Take features into a project's store, where `sync` then finds them.

    Raises:
        ConfigError: the request does not fit the configuration, or nothing matches.
        InputError: the layout's own file (a pickle, a manifest) cannot be trusted.
        LockedError: another process writes to the store.
        OutOfSpaceError: the disk is full; what was stored stays, and the same command goes on.
    """
    name, want = _only_want(project, request.feature)
    rules = _rules(request, want.spec)
    choice = Choice(array=request.array, suffix=request.suffix, id_key=request.id_key, identity=dict(want.identity()))
    found = find_offers(request.path, request.layout, choice)
    claims = _check_claim(name, want, found, vouch=request.vouch)
    targets, paths, unreadable = _targets(project, want)
    mapping = None if request.mapping is None else read_mapping(request.mapping)
    matching = match(found.offers, targets, mapping)
    if not matching.pairs and not matching.refused:
        raise ConfigError(_nothing_matches(request, found, targets))
    with Decoder() as decoder, nullcontext() if request.dry_run else writer_lock(project.root):
        if not request.dry_run:
            tidy(project.store, want.spec, console)
        folder = request.path if request.layout in ("npy", "video_features") else None
        lengths = Lengths(
            spec=want.spec,
            rules=rules,
            folder=folder,
            array=request.array,
            paths=paths,
            decoder=decoder,
            num_stored=partial(_num_stored, project.store, want),
        )
        guarded = lengths.guarded(matching)
        compared = compare_with_stored(project.store, want, guarded, rules, console)
        result = _take(project, want, guarded, rules, request, console)
        if not request.dry_run and (result.imported or compared.num_same):
            _record(project, name, want, request, claims=claims)
    return ImportReport(
        feature=name,
        identity=f"{want.spec.name}, {want.weights_digest:.24}",
        imported=tuple(result.imported),
        already=result.already - len(compared.others),
        absent=tuple(result.absent),
        refused=(*matching.refused, *compared.others, *result.refused),
        unmatched=matching.unmatched,
        without=tuple(target.key for target in matching.without if target.key not in result.absent),
        unreadable=unreadable,
        ignored=tuple(found.ignored),
        unfit=tuple(lengths.unfit.items()),
        unmeasured=tuple(lengths.unmeasured),
        dry_run=request.dry_run,
    )


def _take(
    project: Project, want: FeatureRequest, matching: Matching, rules: Rules, request: ImportRequest, console: Console
) -> Imported:
    return import_features(
        project.store,
        want.spec,
        lambda digest: feature_fingerprint(digest, want.spec, want.weights_digest),
        matching,
        rules,
        console,
        absent=request.absent,
        dry_run=request.dry_run,
    )


def _only_want(project: Project, feature: str) -> tuple[str, FeatureRequest]:
    found = chosen_wants(project, [feature])
    if len(found) > 1:
        raise ConfigError(f"--feature {feature}: it is both of {', '.join(found)}: name one of these")
    return next(iter(found.items()))


def _rules(request: ImportRequest, spec: FeatureSpec) -> Rules:
    """Raises ConfigError for a rate that is not the specification's, which is part of the features' identity."""
    rate, seconds = request.rate_hz, request.seconds_per_row
    if rate is not None and seconds is not None:
        raise ConfigError("--rate-hz and --seconds-per-row say the same: give one")
    if any(one is not None and not (np.isfinite(one) and one > 0) for one in (rate, seconds)):
        raise ConfigError("--rate-hz and --seconds-per-row must be more than 0")
    seconds = 1 / rate if rate is not None else seconds
    if seconds is not None and spec.rate_hz is not None:
        check_rate(seconds, spec)
    source = "" if request.layout == "frameloom" else request.layout
    return Rules(seconds_per_row=seconds, transposed=request.transposed, cast=request.cast, source=source)


def _check_claim(name: str, want: FeatureRequest, found: Offers, *, vouch: bool) -> bool:
    """Whether the user stands for the weights. Raises ConfigError where nobody does."""
    if imported_weights(want.weights_digest) is not None:
        return False
    if found.identity is not None and digest_of(dict(found.identity)) == digest_of(want.identity()):
        return False
    if vouch:
        return True
    made = ""
    if found.identity is not None:
        spec, weights = found.identity.get("spec"), found.identity.get("weights")
        made = f" (the export says {spec.get('name') if isinstance(spec, dict) else '?'}, {str(weights)[:24]})"
    raise ConfigError(
        f"nothing says that these numbers were made by {want.spec.name} with {want.weights_digest:.24}{made}:"
        f" write `weights: {PREFIX}NAME` under features.{name}, which gives them an identity of their own,"
        " or give --trust-weights where exactly these made them"
    )


def _num_stored(store: FeatureStore, want: FeatureRequest, target: Target) -> int | None:
    entry = store.entry(fingerprint_of(target.source_digest, want))
    return None if entry is None else entry.num_rows


def _targets(project: Project, want: FeatureRequest) -> tuple[list[Target], Mapping[str, Path], tuple[str, ...]]:
    """What can have a feature, with the files of videos, and the videos that cannot be read."""
    if want.modality is Modality.TEXT:
        return [Target(key=one, source_digest=text_digest(one)) for one in project.texts()], {}, ()
    files = [state.file for state in survey(project).videos]
    known = [Target(key=file.video.video, source_digest=file.digest) for file in files if file.digest is not None]
    paths = {file.video.video: file.video.path for file in files}
    return known, paths, tuple(file.video.video for file in files if file.digest is None)


def _nothing_matches(request: ImportRequest, found: Offers, targets: Sequence[Target]) -> str:
    key = repr(targets[0].key) if targets else "none that can be read"
    hint = "name the ending that follows the id with --suffix, or give --mapping"
    if request.layout == "frameloom":
        hint = "an export fits the very files that it was made from, by their content"
    return (
        f"{request.path}: none of its {len(found.offers)} features, such as {found.offers[0].name!r}, fits a video of"
        f" the collection, such as {key}: {hint}"
    )


def _record(project: Project, name: str, want: FeatureRequest, request: ImportRequest, *, claims: bool) -> None:
    """Keep beside the features what was imported or is the same as what was, and who stands for it."""
    facts = {
        "feature": name,
        "identity": want.identity(),
        "layout": request.layout,
        "path": readable_path(request.path.absolute()),
        "array": request.array,
        "suffix": request.suffix,
        "cast": request.cast,
        "transposed": request.transposed,
        "vouched": claims,
        "code_version": code_version(),
    }
    path = Path(project.root) / RECORDS / f"{digest_of(facts)}.json"
    publish_text(path, canonical_json(facts) + "\n")
