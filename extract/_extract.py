"""One file and several backbones in, one feature for each backbone out, whatever the file is."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, MediaError, Modality, Status
from ._decoder import DecodeEnd, Decoder, FramesChunk, SamplesChunk
from ._media import DEFAULT_LIMITS, AudioWanted, DecodedAudio, FramesWanted, Limits, MediaInfo
from ._registry import Backbone

# Worst last. A status that is not here left nothing to use, which is worse than both.
_USABLE = (Status.OK, Status.DAMAGED, Status.TRUNCATED)


def extract_file(
    path: Path, backbones: Sequence[Backbone], *, limits: Limits = DEFAULT_LIMITS, decoder: Decoder | None = None
) -> dict[str, FeatureArray]:
    """Decode a file once and give what every backbone makes of it.

    Args:
        path: the file.
        backbones: with different names. One that reads text gets the status ``no_text``.
        limits: what the file may cost; a decoder that is given brings its own.
        decoder: a decoder to reuse from file to file; None starts one for this file.

    Returns:
        One feature for each backbone's name, in their order. Failure of the file is a status with a message in it.

    Raises:
        ConfigError: two backbones have the same name, or the audio ones disagree on the sample rate.
    """
    work = _Work(backbones)
    with ExitStack() as stack:
        if decoder is None:
            decoder = stack.enter_context(Decoder(limits=limits))
        try:
            before = check_file(path)
            with closing(decoder.decode(path, frames=work.frames_wanted, audio=work.audio_wanted)) as events:
                for event in events:
                    work.take(event)
            if _identity(check_file(path)) != _identity(before):
                raise MediaError(Status.CHANGED, "the file changed while it was read; the next run tries again")
        except MediaError as error:
            return work.rejected(error.status, error.message)
    return work.finish()


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


class _Work:
    """What the backbones ask of a file, and what has come of it so far."""

    def __init__(self, backbones: Sequence[Backbone]) -> None:
        self._backbones = {backbone.spec.name: backbone for backbone in backbones}
        if len(self._backbones) < len(backbones):
            names = sorted(backbone.spec.name for backbone in backbones)
            raise ConfigError(f"each backbone may be given once; got {', '.join(names)}")
        self._requests: dict[FramesWanted, list[Backbone]] = {}
        for backbone in self._of(Modality.VIDEO):
            self._requests.setdefault(frames_wanted(backbone.spec), []).append(backbone)
        self.frames_wanted = list(self._requests)
        self.audio_wanted = _audio_wanted([backbone.spec for backbone in self._of(Modality.AUDIO)])
        self._rows: dict[str, list[FeatureArray]] = {name: [] for name in self._backbones}
        self._samples: list[NDArray[np.float32]] = []
        self._start_seconds = 0.0
        self._end = DecodeEnd(Status.NO_VIDEO, "", Status.NO_AUDIO, "")

    def take(self, event: FramesChunk | SamplesChunk | DecodeEnd) -> None:
        """Encode pictures as they come; keep sound, whose features look at the whole track."""
        if isinstance(event, FramesChunk):
            for backbone in self._requests[self.frames_wanted[event.index]]:
                self._rows[backbone.spec.name].append(backbone.encode(event.frames))
        elif isinstance(event, SamplesChunk):
            self._samples.append(event.samples)
            self._start_seconds = event.start_seconds
        else:
            self._end = event

    def finish(self) -> dict[str, FeatureArray]:
        """The features of a file that was decoded to its end."""
        return {name: self._feature(backbone) for name, backbone in self._backbones.items()}

    def rejected(self, status: Status, message: str) -> dict[str, FeatureArray]:
        """The features of a file of which nothing can be used."""
        return {
            name: self._no_text(backbone.spec)
            if backbone.spec.modality is Modality.TEXT
            else FeatureArray.empty(backbone.spec, status, message)
            for name, backbone in self._backbones.items()
        }

    def _of(self, modality: Modality) -> list[Backbone]:
        return [backbone for backbone in self._backbones.values() if backbone.spec.modality is modality]

    def _feature(self, backbone: Backbone) -> FeatureArray:
        if backbone.spec.modality is Modality.TEXT:
            return self._no_text(backbone.spec)
        if backbone.spec.modality is Modality.VIDEO:
            return self._video_feature(backbone.spec)
        return self._audio_feature(backbone)

    def _video_feature(self, spec: FeatureSpec) -> FeatureArray:
        status, message = self._end.video_status, self._end.video_message
        rows = self._rows[spec.name]
        if status not in _USABLE:
            return FeatureArray.empty(spec, status, message)
        if not rows:
            return FeatureArray.empty(spec, Status.UNDECODABLE, message or "every frame that is wanted is damaged")
        bad = next((row for row in rows if row.status is not Status.OK), None)
        if bad is not None:
            return FeatureArray.empty(spec, bad.status, bad.message)
        values = np.concatenate([row.values for row in rows])
        times = np.concatenate([row.times for row in rows])
        return FeatureArray(values, times, status, message, self._end.video_extent)

    def _audio_feature(self, backbone: Backbone) -> FeatureArray:
        status, message = self._end.audio_status, self._end.audio_message
        if status not in _USABLE:
            return FeatureArray.empty(backbone.spec, status, message)
        assert self.audio_wanted is not None
        samples = np.concatenate(self._samples) if self._samples else np.zeros(0, np.float32)
        feature = backbone.encode(DecodedAudio(samples, self.audio_wanted.sample_rate_hz, self._start_seconds))
        if feature.status is not Status.OK:
            return feature
        messages = "; ".join(filter(None, (message, feature.message)))
        return FeatureArray(feature.values, feature.times, status, messages)

    @staticmethod
    def _no_text(spec: FeatureSpec) -> FeatureArray:
        return FeatureArray.empty(spec, Status.NO_TEXT, "a media file holds no caption; encode captions as text")


def frames_wanted(spec: FeatureSpec) -> FramesWanted:
    """What a specification of modality video asks of the decoder."""
    return FramesWanted(float(spec.sampling["rate_hz"]), int(spec.preprocessing["short_side"]))


def _audio_wanted(specs: list[FeatureSpec]) -> AudioWanted | None:
    rates = {int(spec.sampling["sample_rate_hz"]) for spec in specs}
    if len(rates) > 1:
        raise ConfigError(f"audio backbones of one project read one sample rate; these ask for {sorted(rates)} Hz")
    return AudioWanted(rates.pop()) if rates else None
