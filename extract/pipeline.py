"""Files and several backbones in, one feature for each file and backbone out, whatever the files are."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, MediaError, Modality, Status
from .buffers import RaggedTable, RowTable, SampleSpool, keep_freed_memory
from .decode import DecodeEnd, Decoder, FramesChunk, SamplesChunk, check_file, reading_ahead
from .networks import checked_rows
from .types import (
    DEFAULT_LIMITS,
    AudioWanted,
    Backbone,
    DecodedAudio,
    FramesWanted,
    Limits,
    MediaInfo,
)
from .windows import Batcher, Stopwatch, VisualBackbone, Window, WindowCutter, Windows

# Worst last. A status that is not here left nothing to use, which is worse than all three.
_USABLE = (Status.OK, Status.DAMAGED, Status.TRUNCATED)
AHEAD_BYTES = 16 * 1024**2
"""Decoded pictures and sound that may wait for the models."""


def extract_files(
    paths: Sequence[str | Path],
    backbones: Sequence[Backbone],
    *,
    limits: Limits = DEFAULT_LIMITS,
    decoder: Decoder | None = None,
    stopwatch: Stopwatch | None = None,
    is_picture: bool = False,
) -> list[dict[str, FeatureArray]]:
    """Decode each file once and give what every backbone makes of it.

    Decoding runs ahead in a process of its own while the models work, and batches of windows cross the borders of
    files. Memory is bounded by the batches and by what may wait for them, not by the length of a file.

    Args:
        paths: the files.
        backbones: with different names. One that reads text gives the status ``no_text``.
        limits: what a file may cost; a decoder that is given brings its own.
        decoder: a decoder to reuse; None starts one for this call.
        stopwatch: adds up where the time goes.
        is_picture: the files are still pictures (PNG, JPEG, WebP, BMP), each a video of one frame.

    Returns:
        For each file, in order, one feature for each backbone's name. Failure of a file is a status with a message.

    Raises:
        ConfigError: two backbones have the same name, or the audio ones disagree on the sample rate.
    """
    keep_freed_memory()
    stopwatch = stopwatch or Stopwatch()
    request = DecodeRequest(backbones)
    states = [FileState(request) for _ in paths]
    batcher = Batcher(stopwatch=stopwatch)
    with ExitStack() as stack:
        if decoder is None:
            decoder = stack.enter_context(Decoder(limits=limits))
        source = reading_ahead(
            _decode_files([Path(path) for path in paths], decoder, request, is_picture=is_picture),
            max_bytes=AHEAD_BYTES,
            num_bytes=lambda event: event.num_bytes,
            interrupt=decoder.interrupt,
        )
        events = stack.enter_context(source)
        while True:
            begun = time.perf_counter()
            event = next(events, None)
            stopwatch.waiting += time.perf_counter() - begun
            if event is None:
                break
            states[event.position].take(event.content, batcher, stopwatch)
        batcher.flush()
    return [state.features() for state in states]


def extract_file(
    path: str | Path,
    backbones: Sequence[Backbone],
    *,
    limits: Limits = DEFAULT_LIMITS,
    decoder: Decoder | None = None,
    is_picture: bool = False,
) -> dict[str, FeatureArray]:
    """`extract_files` for one file."""
    return extract_files([path], backbones, limits=limits, decoder=decoder, is_picture=is_picture)[0]


def probe(path: str | Path, *, limits: Limits = DEFAULT_LIMITS, decoder: Decoder | None = None) -> MediaInfo:
    """What a file holds and whether it can be read: it is opened, and its first picture and first sound are decoded.

    Never raises for a bad file; the status and the message say what is wrong. Give a decoder to look at many files.
    """
    with ExitStack() as stack:
        if decoder is None:
            decoder = stack.enter_context(Decoder(limits=limits))
        size_bytes = None
        try:
            size_bytes = check_file(Path(path)).st_size
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


def file_status(features: Mapping[str, FeatureArray]) -> tuple[Status, str]:
    """Status and message of a file as a whole: those of its worst feature.

    A stream that the file lacks (no sound track) does not count as a fault, unless the file has no requested stream.

    Raises:
        InputError: there are no features.
    """
    if not features:
        raise InputError("a file's status needs at least one feature; none were given")
    judged = [feature for feature in features.values() if not feature.status.is_absence]
    if not judged:
        judged = sorted(features.values(), key=lambda feature: feature.status is not Status.NO_VIDEO)[:1]
    worst = max(judged, key=lambda one: _USABLE.index(one.status) if one.status in _USABLE else len(_USABLE))
    return worst.status, worst.message


@dataclass(frozen=True, slots=True)
class DecodeEvent:
    """Something that decoding the file at this position gave, or why there is nothing more."""

    position: int
    content: FramesChunk | SamplesChunk | DecodeEnd | MediaError

    @property
    def num_bytes(self) -> int:
        """About what it takes in memory."""
        if isinstance(self.content, FramesChunk):
            return self.content.frames.frames.nbytes
        return self.content.samples.nbytes if isinstance(self.content, SamplesChunk) else 0


def _decode_files(
    paths: Sequence[Path], decoder: Decoder, request: DecodeRequest, *, is_picture: bool
) -> Generator[DecodeEvent, None, None]:
    for position, path in enumerate(paths):
        try:
            before = check_file(path)
            frames, audio = request.frames_wanted, request.audio_wanted
            with closing(decoder.decode(path, frames=frames, audio=audio, is_picture=is_picture)) as chunks:
                for chunk in chunks:
                    if isinstance(chunk, DecodeEnd) and _identity(check_file(path)) != _identity(before):
                        raise MediaError(Status.CHANGED, "the file changed while it was read; the next run tries again")
                    yield DecodeEvent(position, chunk)
        except MediaError as error:
            yield DecodeEvent(position, error)


def _identity(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_ino, state.st_size, state.st_mtime_ns


class DecodeRequest:
    """The frames and the sound that backbones need of every file.

    Raises:
        ConfigError: two have the same name, or the audio ones disagree on the sample rate.
        InputError: one reads video and has no `encode_windows`.
    """

    def __init__(self, backbones: Sequence[Backbone]) -> None:
        self.backbones = {backbone.spec.name: backbone for backbone in backbones}
        if len(self.backbones) < len(backbones):
            names = sorted(backbone.spec.name for backbone in backbones)
            raise ConfigError(f"each backbone may be given once; got {', '.join(names)}")
        self.visual: dict[FramesWanted, list[VisualBackbone]] = {}
        rates = set()
        for backbone in backbones:
            if backbone.spec.modality is Modality.VIDEO:
                if not isinstance(backbone, VisualBackbone):
                    raise InputError(f"the backbone {backbone.spec.name!r} reads video and has no encode_windows")
                self.visual.setdefault(frames_wanted(backbone.spec), []).append(backbone)
            elif backbone.spec.modality is Modality.AUDIO:
                rates.add(int(backbone.spec.sampling["sample_rate_hz"]))
        if len(rates) > 1:
            raise ConfigError(f"audio backbones of one project read one sample rate; these ask for {sorted(rates)} Hz")
        self.frames_wanted = list(self.visual)
        self.audio_wanted = AudioWanted(rates.pop()) if rates else None


class FileState:
    """The progress of one file."""

    def __init__(self, request: DecodeRequest) -> None:
        self._request = request
        self._cutters = {
            backbone.spec.name: WindowCutter(backbone.windows)
            for readers in request.visual.values()
            for backbone in readers
        }
        ragged = {name for name, backbone in request.backbones.items() if getattr(backbone, "is_ragged", False)}
        self._rows = {name: RaggedTable() if name in ragged else RowTable() for name in self._cutters}
        self._times = {name: RowTable() for name in self._cutters}
        self._sound: SampleSpool | None = None
        self._start_seconds = 0.0
        self._audio: dict[str, FeatureArray] = {}
        self._end = DecodeEnd(Status.NO_VIDEO, "", Status.NO_AUDIO, "")
        self._error: MediaError | None = None

    def take(
        self, content: FramesChunk | SamplesChunk | DecodeEnd | MediaError, batcher: Batcher, stopwatch: Stopwatch
    ) -> None:
        """Cut pictures into windows as they come; keep sound, whose features look at the whole track."""
        if isinstance(content, FramesChunk):
            stopwatch.num_frames += len(content.frames.frames)
            for backbone in self._request.visual[self._request.frames_wanted[content.index]]:
                self._add(backbone, self._cutters[backbone.spec.name].push(content.frames), batcher)
        elif isinstance(content, SamplesChunk):
            self._sound = self._sound or SampleSpool()
            self._sound.append(content.samples)
            self._start_seconds = content.start_seconds
        elif isinstance(content, MediaError):
            self._error = content
            self._close_sound()
        else:
            self._end = content
            for readers in self._request.visual.values():
                for backbone in readers:
                    self._add(backbone, self._cutters[backbone.spec.name].finish(), batcher)
            self._encode_audio(stopwatch)
            self._close_sound()

    def features(self) -> dict[str, FeatureArray]:
        """The features of the file, once every batch has been run."""
        return {name: self._feature(backbone.spec) for name, backbone in self._request.backbones.items()}

    def _add(self, backbone: VisualBackbone, windows: Iterator[Window], batcher: Batcher) -> None:
        rows, times = self._rows[backbone.spec.name], self._times[backbone.spec.name]
        for window in windows:
            times.put(times.reserve(), np.asarray(window.times, np.float64))
            place = rows.reserve()  # pictures of another size may come back first
            batcher.add(backbone, window, functools.partial(rows.put, place))

    def _encode_audio(self, stopwatch: Stopwatch) -> None:
        if self._end.audio_status not in _USABLE or self._request.audio_wanted is None:
            return
        rate = self._request.audio_wanted.sample_rate_hz
        track = DecodedAudio(self._sound if self._sound is not None else SampleSpool(), rate, self._start_seconds)
        for name, backbone in self._request.backbones.items():
            if backbone.spec.modality is Modality.AUDIO:
                begun = time.perf_counter()
                feature = backbone.encode(track)
                if feature.status is Status.OK:
                    messages = "; ".join(filter(None, (self._end.audio_message, feature.message)))
                    feature = FeatureArray(feature.values, feature.times, self._end.audio_status, messages)
                self._audio[name] = feature
                stopwatch.audio[name] = stopwatch.audio.get(name, 0.0) + time.perf_counter() - begun

    def _close_sound(self) -> None:
        if self._sound is not None:
            self._sound.close()
            self._sound = None

    def _feature(self, spec: FeatureSpec) -> FeatureArray:
        if spec.name in self._audio:
            return self._audio[spec.name]
        status, message = self._end.video_status, self._end.video_message
        if spec.modality is Modality.TEXT:
            status, message = Status.NO_TEXT, "a media file holds no caption; encode captions as text"
        elif self._error is not None:
            status, message = self._error.status, self._error.message
        elif spec.modality is Modality.AUDIO:
            status, message = self._end.audio_status, self._end.audio_message
        elif status in _USABLE and not self._rows[spec.name]:
            num_frames = Windows.from_data(spec.sampling).num_frames
            why = f"no {num_frames} frames of one size follow one another"
            message = message or (why if num_frames > 1 else "every frame that is wanted is damaged")
            status = Status.UNDECODABLE
        if spec.modality is not Modality.VIDEO or status not in _USABLE:
            return FeatureArray.empty(spec, status, message)
        times = self._times.pop(spec.name).rows()
        feature = checked_rows(spec, self._rows.pop(spec.name).rows(), times)
        if feature.status is not Status.OK:
            return feature
        return FeatureArray(feature.values, feature.times, status, message, self._end.video_extent)


def frames_wanted(spec: FeatureSpec) -> FramesWanted:
    """The frames that a specification of modality video requests from the decoder."""
    facts, rate_hz = spec.preprocessing, Windows.from_data(spec.sampling).frame_rate_hz
    return FramesWanted(rate_hz, facts["short_side"], crop=facts["crop"], stretch_width=facts.get("stretch_width"))
