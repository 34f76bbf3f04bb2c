"""Files and several backbones in, one feature for each file and backbone out, whatever the files are."""

from __future__ import annotations

import functools
import os
import stat
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, MediaError, Modality, Status
from .buffers import RowTable
from .decode import DecodeEnd, Decoder, FramesChunk, SamplesChunk, reading_ahead
from .networks import checked_rows
from .spool import SampleSpool
from .types import DEFAULT_LIMITS, AudioWanted, Backbone, DecodedAudio, FramesWanted, Limits, MediaInfo
from .windows import Batcher, Stopwatch, VisualBackbone, Window, WindowCutter, Windows

# Worst last. A status that is not here left nothing to use, which is worse than both.
_USABLE = (Status.OK, Status.DAMAGED, Status.TRUNCATED)
AHEAD_BYTES = 16 * 1024**2
"""Decoded pictures and sound that may wait for the models."""


def extract_files(
    paths: Sequence[Path],
    backbones: Sequence[Backbone],
    *,
    limits: Limits = DEFAULT_LIMITS,
    decoder: Decoder | None = None,
    stopwatch: Stopwatch | None = None,
) -> list[dict[str, FeatureArray]]:
    """Decode each file once and give what every backbone makes of it.

    Decoding runs ahead in a process of its own while the models work, and batches of windows cross the borders of
    files. Memory is bounded by the batches and by what may wait for them, not by the length of a file.

    Args:
        paths: the files.
        backbones: with different names. One that reads text gives the status ``no_text``.
        limits: what a file may cost; a decoder that is given brings its own.
        decoder: a decoder to reuse; None starts one for this call.
        stopwatch: is told where the time goes.

    Returns:
        For each file, in order, one feature for each backbone's name. Failure of a file is a status with a message.

    Raises:
        ConfigError: two backbones have the same name, or the audio ones disagree on the sample rate.
    """
    stopwatch = stopwatch or Stopwatch()
    asked = _Asked(backbones)
    works = [_Work(asked) for _ in paths]
    batcher = Batcher(stopwatch=stopwatch)
    with ExitStack() as stack:
        if decoder is None:
            decoder = stack.enter_context(Decoder(limits=limits))
        source = _decode_files(paths, decoder, asked)
        for happened in _timed(stack.enter_context(_ahead(source, decoder)), stopwatch):
            works[happened.position].take(happened.event, batcher, stopwatch)
        batcher.flush()
    return [work.features() for work in works]


def extract_file(
    path: Path, backbones: Sequence[Backbone], *, limits: Limits = DEFAULT_LIMITS, decoder: Decoder | None = None
) -> dict[str, FeatureArray]:
    """`extract_files` for one file."""
    return extract_files([path], backbones, limits=limits, decoder=decoder)[0]


def probe(path: Path, *, limits: Limits = DEFAULT_LIMITS, decoder: Decoder | None = None) -> MediaInfo:
    """What a file holds and whether it can be read: it is opened, and its first picture and first sound are decoded.

    Never raises for a bad file; the status and the message say what is wrong. Give a decoder to look at many files.
    """
    with ExitStack() as stack:
        if decoder is None:
            decoder = stack.enter_context(Decoder(limits=limits))
        size_bytes = None
        try:
            size_bytes = check_file(path).st_size
            info = decoder.probe(path)
        except MediaError as error:
            return MediaInfo(
                path=str(path),
                status=error.status,
                message=error.message,
                size_bytes=size_bytes,
                video_status=error.status,
                audio_status=error.status,
            )
    return MediaInfo.from_dict({**info.as_dict(), "size_bytes": size_bytes})


def check_file(path: Path) -> os.stat_result:
    """The file's state. Raises MediaError for what is not a readable regular file with something in it."""
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError(Status.MISSING, "no such file") from None
    except OSError as error:
        raise MediaError(Status.UNREADABLE, f"the file cannot be reached: {error.strerror}") from None
    except ValueError as error:
        raise MediaError(Status.MISSING, f"no file can have this name: {error}") from None
    if not stat.S_ISREG(state.st_mode):
        raise MediaError(Status.NOT_REGULAR_FILE, "not a regular file but a folder, a pipe, a device or a socket")
    if state.st_size == 0:
        raise MediaError(Status.EMPTY_FILE, "the file is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise MediaError(Status.UNREADABLE, "the file may not be read: permission denied")
    return state


def file_status(features: Mapping[str, FeatureArray]) -> tuple[Status, str]:
    """Status and message of a file as a whole: those of its worst feature.

    What the file simply does not have (no sound track) is no fault of it, unless it has nothing that was asked for.

    Raises:
        InputError: there are no features.
    """
    if not features:
        raise InputError("a file's status needs at least one feature; none were given")
    judged = [feature for feature in features.values() if not feature.status.is_absence]
    if not judged:
        judged = sorted(features.values(), key=lambda feature: feature.status is not Status.NO_VIDEO)[:1]
    worst = max(judged, key=_badness)
    return worst.status, worst.message


def _badness(feature: FeatureArray) -> int:
    return _USABLE.index(feature.status) if feature.status in _USABLE else len(_USABLE)


def _identity(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_ino, state.st_size, state.st_mtime_ns


@dataclass(frozen=True, slots=True)
class _Happened:
    """Something that decoding gave, or why there is nothing more to give, for the file at this position."""

    position: int
    event: FramesChunk | SamplesChunk | DecodeEnd | MediaError

    @property
    def num_bytes(self) -> int:
        if isinstance(self.event, FramesChunk):
            return self.event.frames.frames.nbytes
        return self.event.samples.nbytes if isinstance(self.event, SamplesChunk) else 0


def _decode_files(paths: Sequence[Path], decoder: Decoder, asked: _Asked) -> Generator[_Happened, None, None]:
    for position, path in enumerate(paths):
        try:
            before = check_file(path)
            with closing(decoder.decode(path, frames=asked.frames_wanted, audio=asked.audio_wanted)) as events:
                for event in events:
                    if isinstance(event, DecodeEnd) and _identity(check_file(path)) != _identity(before):
                        raise MediaError(Status.CHANGED, "the file changed while it was read; the next run tries again")
                    yield _Happened(position, event)
        except MediaError as error:
            yield _Happened(position, error)


def _ahead(source: Generator[_Happened, None, None], decoder: Decoder) -> Any:
    return reading_ahead(
        source,
        max_bytes=AHEAD_BYTES,
        num_bytes=lambda happened: happened.num_bytes,
        interrupt=decoder.interrupt,
    )


def _timed(items: Iterator[_Happened], stopwatch: Stopwatch) -> Iterator[_Happened]:
    while True:
        begun = time.perf_counter()
        item = next(items, None)
        stopwatch.waiting += time.perf_counter() - begun
        if item is None:
            return
        yield item


class _Asked:
    """What the backbones ask of every file."""

    def __init__(self, backbones: Sequence[Backbone]) -> None:
        self.backbones = {backbone.spec.name: backbone for backbone in backbones}
        if len(self.backbones) < len(backbones):
            names = sorted(backbone.spec.name for backbone in backbones)
            raise ConfigError(f"each backbone may be given once; got {', '.join(names)}")
        self.visual: dict[FramesWanted, list[VisualBackbone]] = {}
        for backbone in self._of(Modality.VIDEO):
            if not isinstance(backbone, VisualBackbone):
                raise InputError(f"the backbone {backbone.spec.name!r} reads video and has no encode_windows")
            self.visual.setdefault(frames_wanted(backbone.spec), []).append(backbone)
        self.frames_wanted = list(self.visual)
        self.audio_wanted = _audio_wanted([backbone.spec for backbone in self._of(Modality.AUDIO)])

    def _of(self, modality: Modality) -> list[Backbone]:
        return [backbone for backbone in self.backbones.values() if backbone.spec.modality is modality]

    def readers(self, index: int) -> list[VisualBackbone]:
        """The backbones that the request of this index is for."""
        return self.visual[self.frames_wanted[index]]


class _Work:
    """What has come of one file so far."""

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked
        self._cutters = {
            backbone.spec.name: WindowCutter(backbone.windows)
            for readers in asked.visual.values()
            for backbone in readers
        }
        self._rows = {name: RowTable() for name in self._cutters}
        self._times = {name: RowTable() for name in self._cutters}
        self._sound: SampleSpool | None = None
        self._start_seconds = 0.0
        self._audio: dict[str, FeatureArray] = {}
        self._end = DecodeEnd(Status.NO_VIDEO, "", Status.NO_AUDIO, "")
        self._error: MediaError | None = None

    def take(
        self, event: FramesChunk | SamplesChunk | DecodeEnd | MediaError, batcher: Batcher, stopwatch: Stopwatch
    ) -> None:
        """Cut pictures into windows as they come; keep sound, whose features look at the whole track."""
        if isinstance(event, FramesChunk):
            stopwatch.num_frames += len(event.frames.frames)
            for backbone in self._asked.readers(event.index):
                self._add(backbone, self._cutters[backbone.spec.name].push(event.frames), batcher)
        elif isinstance(event, SamplesChunk):
            self._sound = self._sound or SampleSpool()
            self._sound.append(event.samples)
            self._start_seconds = event.start_seconds
        elif isinstance(event, MediaError):
            self._error = event
            self._close_sound()
        else:
            self._end = event
            for readers in self._asked.visual.values():
                for backbone in readers:
                    self._add(backbone, self._cutters[backbone.spec.name].finish(), batcher)
            self._hear(stopwatch)

    def features(self) -> dict[str, FeatureArray]:
        """The features of the file, once every batch has been run."""
        return {name: self._feature(backbone) for name, backbone in self._asked.backbones.items()}

    def _add(self, backbone: VisualBackbone, windows: Iterator[Window], batcher: Batcher) -> None:
        rows, times = self._rows[backbone.spec.name], self._times[backbone.spec.name]
        for window in windows:
            times.put(times.reserve(), np.asarray(window.times, np.float64))
            place = rows.reserve()  # pictures of another size may come back first
            batcher.add(backbone, window, functools.partial(rows.put, place))

    def _hear(self, stopwatch: Stopwatch) -> None:
        """Make the audio features, and let the sound go."""
        if self._end.audio_status in _USABLE:
            for name, backbone in self._asked.backbones.items():
                if backbone.spec.modality is Modality.AUDIO:
                    begun = time.perf_counter()
                    self._audio[name] = self._audio_feature(backbone)
                    stopwatch.audio[name] = stopwatch.audio.get(name, 0.0) + time.perf_counter() - begun
        self._close_sound()

    def _close_sound(self) -> None:
        if self._sound is not None:
            self._sound.close()
            self._sound = None

    def _feature(self, backbone: Backbone) -> FeatureArray:
        spec = backbone.spec
        if spec.modality is Modality.TEXT:
            message = "a media file holds no caption; encode captions as text"
            return FeatureArray.empty(spec, Status.NO_TEXT, message)
        if self._error is not None:
            return FeatureArray.empty(spec, self._error.status, self._error.message)
        if spec.modality is Modality.VIDEO:
            return self._video_feature(spec)
        if spec.name in self._audio:
            return self._audio[spec.name]
        return FeatureArray.empty(spec, self._end.audio_status, self._end.audio_message)

    def _video_feature(self, spec: FeatureSpec) -> FeatureArray:
        status, message = self._end.video_status, self._end.video_message
        if status not in _USABLE:
            return FeatureArray.empty(spec, status, message)
        if not self._rows[spec.name]:
            return FeatureArray.empty(spec, *self._why_no_rows(spec))
        times = self._times.pop(spec.name).rows()
        feature = checked_rows(spec, self._rows.pop(spec.name).rows(), times)
        if feature.status is not Status.OK:
            return feature
        return FeatureArray(feature.values, feature.times, status, message, self._end.video_extent)

    def _why_no_rows(self, spec: FeatureSpec) -> tuple[Status, str]:
        num_frames = Windows.from_data(spec.sampling).num_frames
        if num_frames == 1:
            return Status.UNDECODABLE, self._end.video_message or "every frame that is wanted is damaged"
        what = self._end.video_message or f"no {num_frames} frames of one size follow one another"
        return Status.UNDECODABLE, what

    def _audio_feature(self, backbone: Backbone) -> FeatureArray:
        assert self._asked.audio_wanted is not None
        samples = self._sound if self._sound is not None else SampleSpool()
        rate = self._asked.audio_wanted.sample_rate_hz
        feature = backbone.encode(DecodedAudio(samples, rate, self._start_seconds))
        if feature.status is not Status.OK:
            return feature
        messages = "; ".join(filter(None, (self._end.audio_message, feature.message)))
        return FeatureArray(feature.values, feature.times, self._end.audio_status, messages)


def frames_wanted(spec: FeatureSpec) -> FramesWanted:
    """What a specification of modality video asks of the decoder."""
    preprocessing = spec.preprocessing
    crop = None if preprocessing["crop"] is None else int(preprocessing["crop"])
    return FramesWanted(Windows.from_data(spec.sampling).frame_rate_hz, int(preprocessing["short_side"]), crop=crop)


def _audio_wanted(specs: list[FeatureSpec]) -> AudioWanted | None:
    rates = {int(spec.sampling["sample_rate_hz"]) for spec in specs}
    if len(rates) > 1:
        raise ConfigError(f"audio backbones of one project read one sample rate; these ask for {sorted(rates)} Hz")
    return AudioWanted(rates.pop()) if rates else None
