"""What is looked at before numbers are taken: whether a video can have so many rows, and whether others are stored.

How many rows a file holds stands in its header. So an .npz that would unpack to gigabytes for a video of two seconds is
refused before anything of it is unpacked, as is whatever else cannot be of that video at that rate.

Rows may end as long after their video as `overhang_seconds` allows. Published features need that: windows reach over
the end, the last one is padded, a rate such as 24/16 was rounded, and containers tell their length wrong. Rows that end
later are stored up to a minute more, and told; so are rows that end long before their video, as dumps of cut videos and
of their first minutes do. They are told in seconds and in the rate that would fit, which shows whether it is the rate
that is wrong.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality
from ...extract import Decoder, probe
from ...store import Entry, FeatureStore, sample_checksum
from ...store.foreign import npz_names, read_npy, read_npz
from ..console import Console, readable_bytes
from ..project import PREFIX, FeatureRequest
from ..sync import fingerprint_of
from .ingest import NOTHING, Rules, checked_feature, step_seconds
from .layouts import Offer, Offered
from .matching import Matching, Target

OVERHANG_ROWS = 2
OVERHANG_SECONDS = 2.0
OVERHANG_PART = 0.02
REFUSED_SECONDS = 60.0
SHORT_PART = 0.1
MAX_UNPACKED = 100  # times the file's size, of what no video's length bounds: real features shrink to a tenth at most
MAX_UNPACKED_BYTES = 256_000_000  # and so much may be packed in any way: silence is zeros
_ARRAY_KEYS = ("features", "arr_0")  # as `_layouts` chooses


def overhang_seconds(video_seconds: float, row_seconds: float) -> float:
    """How long after its video a feature may end and need not be told: two rows, two seconds or 2 %, what is most."""
    return max(OVERHANG_ROWS * row_seconds, OVERHANG_SECONDS, OVERHANG_PART * video_seconds)


@dataclass(slots=True, kw_only=True)
class Lengths:
    """Holds the rows of offers against the lengths of their videos, each when it is read.

    Attributes:
        spec: what the rows are to be.
        rules: how they are read.
        folder: of the layouts that have a file for each video, else None.
        array: the array of .npz files that was asked for.
        paths: the video files, by key.
        decoder: reads their lengths.
        unfit: (origin, reason) of rows that were taken and end long before their video, or somewhat after it.
        unmeasured: keys of videos whose length cannot be told, so that any number of rows is taken for them.
        num_stored: rows of what is stored for a video, None for nothing. As many are not refused, for they are there.
    """

    spec: FeatureSpec
    rules: Rules
    folder: Path | None
    array: str | None
    paths: Mapping[str, Path]
    decoder: Decoder
    num_stored: Callable[[Target], int | None]
    unfit: dict[str, str] = field(default_factory=dict)
    unmeasured: dict[str, None] = field(default_factory=dict)
    _known: dict[str, float | None] = field(default_factory=dict)

    def guarded(self, matching: Matching) -> Matching:
        """The same pairs, whose offers raise InputError rather than read what their videos cannot have.

        Exports of ours are found by the content of the video, whose rows were measured then, and stay as they are.
        """
        pairs = ((target, offer, offer.source_digest is None) for target, offer in matching.pairs)
        guarded = (
            (one, replace(offer, read=partial(self._read, one, offer)) if other else offer)
            for one, offer, other in pairs
        )
        return replace(matching, pairs=tuple(guarded))

    def _read(self, target: Target, offer: Offer) -> Offered:
        seconds = self._seconds_of(target)
        if self.folder is not None:
            path = self.folder / _path_spelled(offer.origin)
            declared = _declared(path, self.array)
            if not self._has_rows(declared):
                return Offered(values=declared)  # whose shape alone will be refused
            self._check(target, self._num_rows(declared), None, seconds)
            if seconds is None:
                _check_packing(path, declared)
        offered = offer.read()
        if self._has_rows(offered.values):
            count, times = self._num_rows(offered.values), offered.times
            self._check(target, count, times, seconds)
            self._note_unfit(offer.origin, count, times, seconds)
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
        told = [info.duration_seconds, *(one.duration_seconds for one in (info.video, info.audio) if one is not None)]
        return max((one for one in told if one is not None and math.isfinite(one) and one > 0), default=None)

    def _has_rows(self, values: NDArray[Any]) -> bool:
        """Whether an array has the specification's width and so a number of rows."""
        return values.ndim == 2 and values.shape[0 if self.rules.transposed else 1] == self.spec.dim

    def _num_rows(self, values: NDArray[Any]) -> int:
        return int(values.shape[1 if self.rules.transposed else 0])

    @property
    def _row_seconds(self) -> float:
        return self.rules.seconds_per_row or step_seconds(self.spec)

    @property
    def _rows_together(self) -> int:
        return int(self.spec.sampling.get("rows_per_window", 1))

    def _end(self, count: int, times: NDArray[np.float64] | None) -> float:
        if times is not None and times.size and np.isfinite(times).all():
            return float(times.max())
        return math.ceil(count / self._rows_together) * self._row_seconds

    def _overhang(self, seconds: float) -> float:
        return overhang_seconds(seconds, self._row_seconds)

    def _check(self, target: Target, count: int, times: NDArray[np.float64] | None, seconds: float | None) -> None:
        if seconds is None or count == self.num_stored(target):
            return
        end, most = self._end(count, times), seconds + max(REFUSED_SECONDS, self._overhang(seconds))
        if end > most:
            raise InputError(self._compared(count, end, seconds, f" (until {most:,.1f} s is let pass)"))

    def _note_unfit(self, origin: str, count: int, times: NDArray[np.float64] | None, seconds: float | None) -> None:
        if seconds is None or not count:
            return
        end, overhang = self._end(count, times), self._overhang(seconds)
        if end - seconds > overhang or seconds - end > max(overhang, SHORT_PART * seconds):
            self.unfit[origin] = self._compared(count, end, seconds)

    def _compared(self, count: int, end: float, seconds: float, further: str = "") -> str:
        rate = f"{self._rows_together / self._row_seconds:g} a second"
        return (
            f"its {count:,} rows, at {rate}, end at {end:,.1f} s, and its video at {seconds:,.1f} s{further}: if it"
            f" is of this video, about {count / seconds:.3g} rows a second would fit (`options: {{rate_hz: ...}}`"
            " configures that where the backbone has it); if not, --mapping says of which"
        )


def _path_spelled(text: str) -> str:
    """The path that `readable_path` spelled so."""

    def byte(found: re.Match[bytes]) -> bytes:
        return b"\\" if found[1] == b"\\" else bytes([int(found[1][1:], 16)])

    return os.fsdecode(re.sub(rb"\\(\\|x[0-9a-f]{2})", byte, text.encode()))


def _declared(path: Path, array: str | None) -> NDArray[Any]:
    """What the header of a file says, as an array of that shape that takes no memory."""
    if path.suffix == ".npy":
        return read_npy(path, only_shape=True)
    if array is None:
        names = npz_names(path)
        array = next((name for name in _ARRAY_KEYS if name in names), None)
    return read_npz(path, array, only_shape=True)


def _check_packing(path: Path, declared: NDArray[Any]) -> None:
    packed = path.stat().st_size
    if declared.nbytes > MAX_UNPACKED_BYTES and declared.nbytes > MAX_UNPACKED * packed:
        raise InputError(
            f"its {readable_bytes(packed)} unpack to {readable_bytes(declared.nbytes)} ({declared.shape[0]:,} x"
            f" {declared.shape[1]:,}), and nothing tells how long its video is: write it again as .npy if that is right"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Offers whose feature the store has already: how many have the stored numbers, and which have others, and why."""

    num_same: int
    others: tuple[tuple[str, str], ...]


def compare_with_stored(
    store: FeatureStore, want: FeatureRequest, matching: Matching, rules: Rules, console: Console
) -> Compared:
    """Read what is offered for features that are stored, and compare: a file that has changed is not passed over."""
    pairs = [(offer, store.entry(fingerprint_of(target.source_digest, want))) for target, offer in matching.pairs]
    held = [(offer, one) for offer, one in pairs if one is not None and (one.num_rows or one.message != NOTHING)]
    others: list[tuple[str, str]] = []
    with console.progress("compare", len(held), "stored features") as advance:
        for offer, entry in held:
            try:
                feature = checked_feature(offer.read(), want.spec, rules, offer.origin)
                _check_same(feature, entry, want)
            except (InputError, ConfigError) as error:
                others.append((offer.origin, str(error)))
            advance(1)
    return Compared(num_same=len(held) - len(others), others=tuple(others))


def _check_same(feature: FeatureArray, entry: Entry, want: FeatureRequest) -> None:
    count = len(feature.values)
    if count != entry.num_rows or (count and sample_checksum(feature.values, feature.times) != entry.checksum):
        there = f"{entry.num_rows:,} rows" + (f", {entry.message}" if entry.message else "")
        raise InputError(
            f"other numbers ({there}) are stored for it as {want.spec.name}, {want.weights_digest:.24}, and they stay:"
            f" to have these, give them a name of their own (`weights: {PREFIX}NAME`) and import them again"
        )
