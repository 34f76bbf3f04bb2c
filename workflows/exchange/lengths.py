"""Rows are compared with the length of their video before they are read, and what is stored with what is given.

A file's header gives its number of rows. So an .npz that would unpack to gigabytes for a video of two seconds is
refused before anything of it is unpacked, as is whatever else cannot be of that video at that rate.

Rows may end `ALLOWED_SECONDS` after their video, or as much as the import allows. Published features need that: windows
reach over the end, the last one is padded, a rate such as 24/16 was rounded, and containers state a wrong length. Rows
whose end is further than a tenth and two rows from that of their video are imported and listed, with the rate that
would fit, which shows whether it is the rate that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureSpec, InputError, Modality
from ...extract import Decoder, probe
from ...store import FeatureStore, sample_checksum
from ..console import Console, readable_bytes
from ..project import ALLOWED_SECONDS, PREFIX, FeatureRequest
from ..sync import fingerprint_of
from .ingest import Rules, checked_feature, step_seconds
from .layouts import Offer, Offered
from .matching import Matching, Target

MAX_UNPACKED_BYTES = 256_000_000  # of what is packed, for a video of unknown length


@dataclass(slots=True, kw_only=True)
class Lengths:
    """Compares the rows of offers with the lengths of their videos, each when it is read.

    Attributes:
        spec: what the rows are to be.
        rules: how they are read.
        paths: the video files, by key.
        decoder: reads their lengths.
        allow_seconds: how long after their video rows may end.
        unfit: (origin, reason) of rows that were taken and end long before or after their video.
        unmeasured: keys of videos of unknown length, for which any number of rows is taken.
    """

    spec: FeatureSpec
    rules: Rules
    paths: Mapping[str, Path]
    decoder: Decoder
    allow_seconds: float = ALLOWED_SECONDS
    unfit: dict[str, str] = field(default_factory=dict)
    unmeasured: dict[str, None] = field(default_factory=dict)
    _known: dict[str, float | None] = field(default_factory=dict)

    def guarded(self, matching: Matching) -> Matching:
        """The same pairs, whose offers raise InputError rather than read what their videos cannot have.

        Exports of ours are found by the content of the video, whose rows were measured then, and stay as they are.
        """
        pairs = tuple(
            (target, offer if offer.source_digest else replace(offer, read=partial(self._read, target, offer)))
            for target, offer in matching.pairs
        )
        return replace(matching, pairs=pairs)

    def _read(self, target: Target, offer: Offer) -> Offered:
        seconds = self._seconds_of(target)
        if offer.declared is not None and offer.path is not None:
            declared = offer.declared()
            if not self._has_rows(declared):
                return Offered(values=declared)  # whose shape alone will be refused
            if seconds is not None:
                self._check(declared, None, seconds)
            elif declared.nbytes > max(MAX_UNPACKED_BYTES, 2 * (packed := offer.path.stat().st_size)):
                raise InputError(
                    f"its {readable_bytes(packed)} unpack to {readable_bytes(declared.nbytes)} ({declared.shape[0]:,} x"
                    f" {declared.shape[1]:,}), and the length of its video is unknown: write it again as .npy if that"
                    " is right"
                )
        offered = offer.read()
        if seconds is not None and self._has_rows(offered.values):
            end = self._check(offered.values, offered.times, seconds)
            if abs(end - seconds) > max(0.1 * seconds, 2 * self._row_seconds):
                self.unfit[offer.origin] = self._compared(offered.values, end, seconds)
        return offered

    def _seconds_of(self, target: Target) -> float | None:
        if self.spec.modality is Modality.TEXT:
            return None
        if target.key not in self._known:
            self._known[target.key] = found = self._measured(self.paths[target.key])
            if found is None:
                self.unmeasured[target.key] = None
        return self._known[target.key]

    def _measured(self, path: Path) -> float | None:
        """The longest that anything says of a file: containers often cut a stream's tail from their own length."""
        info = probe(path, decoder=self.decoder)
        stated = [info.duration_seconds, *(one.duration_seconds for one in (info.video, info.audio) if one is not None)]
        return max((one for one in stated if one is not None and math.isfinite(one) and one > 0), default=None)

    def _has_rows(self, values: NDArray[Any]) -> bool:
        """Whether an array has the specification's width and so a number of rows."""
        return values.ndim == 2 and values.shape[0 if self.rules.transposed else 1] == self.spec.dim and values.size > 0

    @property
    def _row_seconds(self) -> float:
        return self.rules.seconds_per_row or step_seconds(self.spec)

    def _check(self, values: NDArray[Any], times: NDArray[np.float64] | None, seconds: float) -> float:
        """When the rows end. Raises InputError when that is too long after their video."""
        if times is not None and times.size and np.isfinite(times).all():
            end = float(times.max())
        else:
            end = math.ceil(self._num_rows(values) / self._rows_together) * self._row_seconds
        if end > seconds + self.allow_seconds:
            most = f" (limit {seconds + self.allow_seconds:,.1f} s: --allow-length SECONDS raises it)"
            raise InputError(self._compared(values, end, seconds, most))
        return end

    def _num_rows(self, values: NDArray[Any]) -> int:
        return int(values.shape[1 if self.rules.transposed else 0])

    @property
    def _rows_together(self) -> int:
        return int(self.spec.sampling.get("rows_per_window", 1))

    def _compared(self, values: NDArray[Any], end: float, seconds: float, further: str = "") -> str:
        count, rate = self._num_rows(values), f"{self._rows_together / self._row_seconds:g} a second"
        return (
            f"its {count:,} rows, at {rate}, end at {end:,.1f} s, and its video at {seconds:,.1f} s{further}: if it"
            f" is of this video, about {count / seconds:.3g} rows a second would fit (`options: {{rate_hz: ...}}`"
            " configures that where the backbone has it); if not, --mapping says of which"
        )


def compare_with_stored(
    store: FeatureStore, request: FeatureRequest, matching: Matching, rules: Rules, console: Console
) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Read what is offered for features that are stored, and compare: a file that has changed is not passed over.

    Returns how many have the stored numbers, and (origin, reason) of those that have others.
    """
    pairs = [(offer, store.entry(fingerprint_of(target.source_digest, request))) for target, offer in matching.pairs]
    held = [(offer, entry) for offer, entry in pairs if entry is not None]
    others: list[tuple[str, str]] = []
    with console.progress("compare", len(held), "stored features") as advance:
        for offer, entry in held:
            try:
                feature = checked_feature(offer.read(), request.spec, rules, offer.origin)
                count = len(feature.values)
                is_same = count == entry.num_rows
                if not is_same or (count and sample_checksum(feature.values, feature.times) != entry.checksum):
                    there = ", ".join(filter(None, (f"{entry.num_rows:,} rows", entry.message)))
                    raise InputError(
                        f"other numbers ({there}) are stored for it as {request.name}, {request.weights_digest:.24},"
                        " and they stay: to have these, give them a name of their own"
                        f" (`weights: {PREFIX}NAME`) and import them again"
                    )
            except (InputError, ConfigError) as error:
                others.append((offer.origin, str(error)))
            advance(1)
    return len(held) - len(others), tuple(others)
