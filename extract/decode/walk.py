"""One pass over a file for everything that was asked of it. Runs in the decoder subprocess only.

Picture and sound are decoded from the same walk over the packets, in order; only `decode_frame` seeks. The walk goes on
in a thread of its own while this one scales the pictures and hands them on: each takes about as long as the other, and
where models keep every core busy, two threads that each take half of the time slow them down less than one that takes
it all.
The outcome of each stream is judged at the end: what was damaged, what is missing, and whether the file ends too
early, which decoders pass over in silence (they return the frames that they find).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import av.error
import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import MediaError, Status
from ..types import AudioWanted, DecodedFrames, FramesWanted, Limits, StreamOutcome
from .audio import AudioPass
from .clocks import Clock, DecodingOrder, JoinedPackets
from .container import (
    counter_restarts,
    num_repeats_at_end,
    states_duration,
    states_samples,
    tracks_with_other_edits,
    unread_bytes,
)
from .ends import content_bytes, counted, is_cut, is_torn, nothing_decoded
from .memory import raise_if_memory_was_short
from .open import WITHOUT_CLOCK, OpenMedia, is_empty, open_media
from .prefetch import reading_ahead
from .video import FrameSampler, Picture, Scaler, Timestamps, VideoPass, check_dimensions

_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")  # which MP3 files hold among their packets
_DEFAULT_FRAME_SECONDS = 0.04
_PICTURES_OF_A_DECODER = 4  # what it may ask for at once
_WAITING_BYTES = 32 * 1024**2  # of decoded pictures and sound, before they are scaled and handed on
_LOST_SECONDS = 0.1  # of an AVI, whose frames are counted and not timed
_LARGEST_LOSS = 0.02  # share of a stream that may be dropped before its status says so
_PADDING_BYTES = 4096  # tags, two packs of a program stream
_LARGEST_TAIL = 0.2  # share of a file that an index after the content, or a last page, may take
_WITH_TAIL = ("mov", "matroska", "avi", "asf", "mxf", "ogg")
_SOUGHT = ("mov", "matroska")  # containers with a time stamp of presentation for each picture, and an index
_SEEK_BACK_SECONDS = 1.0  # containers count decoding times, which come before those of presentation


class _Ready(NamedTuple):
    """Something decoded that waits to be handed on."""

    hand_on: Callable[[], None]
    num_bytes: int


class Sink(Protocol):
    """Where decoded chunks go."""

    def frames(self, index: int, frames: DecodedFrames) -> None:
        """Take pictures for the request of this index."""

    def samples(self, samples: NDArray[np.float32], start_seconds: float) -> None:
        """Take (N,) samples that follow those before them; the track begins at ``start_seconds``."""


def decode(
    path: Path,
    *,
    frames: Sequence[FramesWanted],
    audio: AudioWanted | None,
    limits: Limits,
    sink: Sink,
    is_picture: bool = False,
) -> tuple[StreamOutcome, StreamOutcome]:
    """Decode a file once and give every chunk to the sink.

    Returns:
        The outcome for the pictures and for the sound; only requested streams are judged.

    Raises:
        MediaError: the file cannot be used at all.
        MemoryError: a limit of memory was met.
    """
    with open_media(path, limits=limits, is_picture=is_picture) as media:
        run = _Run(media, path=path, frames=frames, audio=audio, limits=limits, sink=sink)
        run.walk()
        outcomes = run.judge()
        missing = run.requests_without_rows()
    if missing:
        # A second, equal walk for content so short that no grid instant falls into it: the frame in its middle. Where
        # that one is damaged there are no rows, which says enough.
        with open_media(path, limits=limits, is_picture=is_picture) as media:
            run = _Run(media, path=path, frames=list(missing.values()), audio=None, limits=limits, sink=sink)
            run.indices = list(missing)
            run.walk()
            run.judge()
    return outcomes


def decode_frame(path: Path, *, wanted: FramesWanted, limits: Limits, sink: Sink) -> None:
    """Give the sink the one picture that is on display at the first of ``wanted.at_seconds``.

    A seek is believed where it shows itself right: decoding begins with a keyframe whose own time stamp is not after
    the instant. Otherwise the file is decoded from its beginning. Either way nothing after the picture is decoded.

    Raises:
        MediaError: the file cannot be used, or shows no picture at that instant, or a damaged one.
        MemoryError: a limit of memory was met.
    """
    for is_sought in (True, False):
        with open_media(path, limits=limits) as media:
            run = _Run(media, path=path, frames=[wanted], audio=None, limits=limits, sink=sink)
            if is_sought and not run.seek(min(wanted.at_seconds or (0.0,))):
                continue
            run.walk(is_ahead=False)
            if run.num_rows:
                return
            if not is_sought:
                run.raise_for_instant(min(wanted.at_seconds or (0.0,)))


class _Run:
    """The state of one walk over a file."""

    def __init__(
        self,
        media: OpenMedia,
        *,
        path: Path,
        frames: Sequence[FramesWanted],
        audio: AudioWanted | None,
        limits: Limits,
        sink: Sink,
    ) -> None:
        self.indices = list(range(len(frames)))
        self._media, self._path, self._wanted, self._limits, self._sink = media, path, frames, limits, sink
        self._samplers: list[FrameSampler] = []
        self._ready: list[_Ready] = []
        self._video = self._start_video() if frames and media.video is not None else None
        self._audio = self._start_audio(audio) if audio is not None and media.audio is not None else None
        self._wants_video, self._wants_audio = bool(frames), audio is not None
        self._num_errors = {"video": 0, "audio": 0}
        self._states_duration = states_duration(path, media.container.format.name)
        self._counts_frames = media.container.format.name == "avi"
        self._timestamps = DecodingOrder() if self._counts_frames else Timestamps()
        self._packet_ends: dict[int, float] = {}
        self._bytes_end = 0
        self._joined: JoinedPackets | None = None
        self._clocks = {
            stream.index: Clock(stream, media.zero, self._latest_end(stream))
            for stream in (media.video, media.audio)
            if stream is not None
        }
        self._stopped_by: str | None = None
        self._is_drained = True
        self._awaits_keyframe = False

    @property
    def num_rows(self) -> int:
        return sum(sampler.num_rows for sampler in self._samplers)

    def seek(self, instant: float) -> bool:
        """Go to the keyframe before an instant in seconds. False where it is not tried, or does not succeed."""
        stream = self._media.video
        if stream is None or instant <= _SEEK_BACK_SECONDS:
            return False
        if not self._media.container.format.name.startswith(_SOUGHT):
            return False
        ticks = int((self._media.zero + Fraction(instant - _SEEK_BACK_SECONDS)) / stream.time_base)
        try:
            self._media.container.seek(ticks, stream=stream, backward=True)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            return False
        self._awaits_keyframe = True
        return True

    def raise_for_instant(self, instant: float) -> NoReturn:
        """Raise MediaError: why the whole file has no picture for an instant in seconds."""
        outcome = self.judge()[0]
        if outcome.extent is None or (outcome.status is Status.DAMAGED and instant < outcome.extent[1]):
            raise MediaError(outcome.status, outcome.message)
        start, end = outcome.extent
        raise MediaError(
            Status.TOO_SHORT, f"no picture is on display at {instant:.3f} s: they go from {start:.3f} to {end:.3f} s"
        )

    def walk(self, *, is_ahead: bool = True) -> None:
        """Decode to the end of the file, or to where it cannot be read any further, and hand on what was asked for.

        It ends before where no later picture is wanted, which decoding ahead learns late.
        """
        decoded = reading_ahead(
            self._decoded(),
            max_bytes=_WAITING_BYTES if is_ahead else 1,
            num_bytes=lambda ready: ready.num_bytes,
            interrupt=lambda: None,  # it waits for nothing but this thread
        )
        with decoded as waiting:
            for ready in waiting:
                ready.hand_on()
        for sampler in self._samplers:
            sampler.flush()

    def _decoded(self) -> Generator[_Ready, None, None]:
        streams = [stream for stream in (self._media.video, self._media.audio) if stream is not None]
        for stream in streams:
            stream.codec_context.thread_count = 1
        if streams:
            self._joined = JoinedPackets(self._packets(streams), self._media.container.format.name)
            for packet in self._joined:
                clock = self._clocks[packet.stream.index]
                start = clock.instant(packet.pts)
                if start is not None:
                    is_stated = self._counts_frames or packet.stream.type == "audio"  # otherwise in decoding order
                    end = start + ((clock.span(packet.duration) or 0.0) if is_stated else 0.0)
                    self._packet_ends[packet.stream_index] = max(end, self._packet_ends.get(packet.stream_index, 0.0))
                self._decode_packet(packet)
                yield from self._taken()
                if self._samplers and not self._wants_audio and all(one.is_done for one in self._samplers):
                    return
        if not self._is_drained:
            for stream in streams:
                self._decode_packet(av.Packet(0), stream)
                yield from self._taken()
        if self._video is not None and self._counts_frames:
            stream = self._media.video
            num_repeats = num_repeats_at_end(self._path, stream.index)
            self._video.hold_until(self._packet_ends.get(stream.index, 0.0) + num_repeats * float(stream.time_base))
        for taker in (self._video, self._audio):
            if taker is not None:
                taker.finish()
                yield from self._taken()

    def _taken(self) -> list[_Ready]:
        taken, self._ready = self._ready, []
        return taken

    def judge(self) -> tuple[StreamOutcome, StreamOutcome]:
        """How the pictures and the sound went.

        Raises:
            MemoryError: pictures are missing and memory was short: decoders pass a failed allocation off as damage.
        """
        video = self._video
        if video is not None and (self._num_errors["video"] or video.num_corrupt):
            raise_if_memory_was_short(self._limits, spare_bytes=_PICTURES_OF_A_DECODER * video.picture_bytes)
        return self._judge_video(), self._judge_audio()

    def requests_without_rows(self) -> dict[int, FramesWanted]:
        """Requests that got nothing though there are pictures, turned into requests for the middle of the content."""
        video = self._video
        if video is None or video.first_start is None or video.num_corrupt == video.num_frames:
            return {}
        middle = (video.first_start + video.end) / 2
        return {
            index: replace(wanted, at_seconds=(middle,))
            for index, wanted, sampler in zip(self.indices, self._wanted, self._samplers, strict=True)
            if sampler.num_rows == 0
        }

    def _start_video(self) -> VideoPass:
        stream = self._media.video
        check_dimensions(stream.codec_context.width, stream.codec_context.height, limits=self._limits)
        pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
        scaler = Scaler(pixel_aspect)
        for position, wanted in enumerate(self._wanted):

            def emit(frames: DecodedFrames, position: int = position) -> None:
                self._sink.frames(self.indices[position], frames)

            self._samplers.append(FrameSampler(wanted, scaler=scaler, emit=emit))
        duration = float(1 / stream.average_rate) if stream.average_rate else _DEFAULT_FRAME_SECONDS
        size = stream.codec_context.width, stream.codec_context.height

        def show(picture: Picture) -> None:
            def hand_on() -> None:
                for sampler in self._samplers:
                    sampler.offer(picture)

            self._ready.append(_Ready(hand_on, picture.num_bytes))

        return VideoPass(show=show, default_duration=duration, limits=self._limits, declared_size=size)

    def _start_audio(self, wanted: AudioWanted) -> AudioPass:
        def emit(samples: NDArray[np.float32]) -> None:
            assert self._audio is not None
            start = self._audio.start or 0.0
            self._ready.append(_Ready(lambda: self._sink.samples(samples, start), samples.nbytes))

        return AudioPass(sample_rate_hz=wanted.sample_rate_hz, emit=emit, limits=self._limits)

    def _packets(self, streams: list[Any]) -> Iterator[Any]:
        packets, indices = self._media.container.demux(), {stream.index for stream in streams}
        while True:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except av.error.BlockingIOError:  # nothing that is a packet within 64 KB
                packets = self._media.container.demux()
                continue
            except av.error.FFmpegError as error:
                self._stopped_by, self._is_drained = error.strerror, False
                return
            except IndexError:
                # At the end of a file in which a stream came up midway, PyAV looks for it among those of the beginning.
                self._is_drained = False
                return
            if packet is None:
                return
            self._bytes_end = max(self._bytes_end, (packet.pos or 0) + packet.size)
            if packet.stream.index in indices:
                yield packet

    def _decode_packet(self, packet: Any, stream: Any = None) -> None:
        stream = stream or packet.stream
        taker = self._video if stream is self._media.video else self._audio
        if taker is None:
            return
        if is_empty(packet):  # the picture before it is on display for longer
            if isinstance(taker, VideoPass):
                begin = self._clocks[stream.index].instant(packet.pts if packet.dts is None else packet.dts)
                taker.hold_until((begin or 0.0) + (self._clocks[stream.index].span(packet.duration) or 0.0))
            return
        if packet.is_corrupt and not self._is_whole(packet, stream):
            self._note_damage(taker, stream)
        try:
            decoded = stream.codec_context.decode(packet if packet.size else None)
        except MemoryError:
            raise
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            if not bytes(packet).startswith(_TAGS):
                self._note_damage(taker, stream)
            return
        clock = self._clocks[stream.index]
        for frame in decoded:
            if isinstance(taker, VideoPass):
                # After a seek: what is shown before the keyframe may be built from pictures that were passed over.
                self._awaits_keyframe = self._awaits_keyframe and not frame.key_frame
                if self._awaits_keyframe:
                    continue
                timestamp = self._timestamps.best(frame.pts, frame.dts)
                taker.push(frame, clock.believable(timestamp), clock.span(frame.duration))
            else:
                taker.push(frame, clock.believable(frame.pts))

    def _is_whole(self, packet: Any, stream: Any) -> bool:
        """Whether a packet that is flagged lacks nothing.

        Samples at the end of the file need no others; and where segments were joined a counter begins again.
        """
        if self._media.container.format.name == "mpegts" and packet.pos is not None:
            return counter_restarts(self._path, packet.pos, stream.id)
        is_last = (packet.pos or 0) + packet.size >= self._path.stat().st_size
        return is_last and str(stream.codec_context.name).startswith("pcm_")

    def _note_damage(self, taker: VideoPass | AudioPass, stream: Any) -> None:
        self._num_errors[stream.type] += 1
        if isinstance(taker, VideoPass):
            taker.note_damage()

    def _judge_video(self) -> StreamOutcome:
        outcome = StreamOutcome()
        if not self._wants_video:
            return outcome
        if self._video is None:
            outcome.report(*(self._media.video_problem or (Status.NO_VIDEO, "the file has no moving picture")))
            return outcome
        num_frames, num_corrupt, num_errors = self._video.num_frames, self._video.num_corrupt, self._num_errors["video"]
        if num_frames == 0:
            outcome.report(*nothing_decoded(self._path, num_errors, Status.NO_FRAMES, "frame"))
            return outcome
        if num_corrupt == num_frames:
            outcome.report(Status.UNDECODABLE, f"every frame is damaged ({num_frames})")
            return outcome
        if self._video.first_start is not None:
            outcome.extent = (self._video.first_start, max(self._video.first_start, self._video.end))
        self._judge_end(outcome, self._media.video, self._video.end)
        if num_corrupt or num_errors:
            outcome.report(
                Status.DAMAGED,
                f"left out {num_corrupt} damaged of {counted(num_frames, 'frame')}; "
                f"{counted(num_errors, 'packet')} could not be decoded",
            )
        self._judge_timestamps(outcome, self._media.video)
        self._judge_gaps(outcome, self._video.gap_seconds, self._video.end)
        lost = self._video.lost_seconds
        if lost > _LARGEST_LOSS * (self._video.end + lost):
            outcome.report(Status.DAMAGED, f"{lost:.2f} s of pictures were dropped: their timestamps go back")
        if self._video.num_misplaced:
            outcome.report(Status.OK, f"{counted(self._video.num_misplaced, 'frame')} without a usable timestamp")
        return outcome

    def _judge_audio(self) -> StreamOutcome:
        outcome, audio = StreamOutcome(), self._audio
        if not self._wants_audio:
            return outcome
        if audio is None:
            outcome.report(*(self._media.audio_problem or (Status.NO_AUDIO, "the file has no sound track")))
            return outcome
        num_errors = self._num_errors["audio"] + audio.num_corrupt
        if audio.num_blocks == 0:
            outcome.report(*nothing_decoded(self._path, num_errors, Status.NO_SAMPLES, "sample"))
            return outcome
        if audio.num_non_finite:
            outcome.report(Status.NON_FINITE, "the sound holds values that are not numbers")
        self._judge_end(outcome, self._media.audio, audio.end)
        if num_errors:
            outcome.report(Status.DAMAGED, f"{counted(num_errors, 'packet')} of sound could not be decoded")
        self._judge_timestamps(outcome, self._media.audio)
        self._judge_gaps(outcome, audio.gap_seconds, audio.end)
        if audio.gap_seconds:
            outcome.report(Status.OK, f"{audio.gap_seconds:.2f} s of gaps in the sound were filled with silence")
        if audio.overlap_seconds:
            is_much = audio.overlap_seconds > _LARGEST_LOSS * (audio.end + audio.overlap_seconds)
            outcome.report(
                Status.DAMAGED if is_much else Status.OK,
                f"{audio.overlap_seconds:.2f} s of sound overlapped what came before and was dropped",
            )
        return outcome

    def _judge_timestamps(self, outcome: StreamOutcome, stream: Any) -> None:
        count = self._clocks[stream.index].num_unbelievable
        if count:
            outcome.report(Status.DAMAGED, f"{counted(count, 'timestamp')} far beyond the end of the content")

    def _judge_gaps(self, outcome: StreamOutcome, gap_seconds: float, end: float) -> None:
        """Tell what is missing from a pause: where nothing has a time of its own, or where the file is torn, too."""
        has_clock = self._media.container.format.name not in WITHOUT_CLOCK.split(",")
        if gap_seconds > _LARGEST_LOSS * end and (not has_clock or is_torn(self._path)):
            outcome.report(Status.DAMAGED, f"{gap_seconds:.2f} s are missing where the file is damaged")

    def _judge_end(self, outcome: StreamOutcome, stream: Any, end: float) -> None:
        """Find out whether content is missing at the end.

        What a structure holds and what a header states are promises; a duration by the bit rate is a guess. A whole
        structure that was read to its end has lost nothing, whatever its header claims, as long as it was decoded.
        """
        cut, size, declared = is_cut(self._path), self._path.stat().st_size, self._declared_end(stream)
        if cut and self._media.container.format.name.startswith(_SOUGHT) and declared is not None:
            cut = end < declared - _LOST_SECONDS / 2  # otherwise what is missing is not of this stream
        if cut or self._stopped_by is not None:
            why = "the file ends before its own structure does" if cut else f"reading stopped: {self._stopped_by}"
            outcome.report(Status.TRUNCATED, f"{why}; content until {end:.2f} s was used")
            return
        if stream.index in tracks_with_other_edits(self._path):
            outcome.report(Status.DAMAGED, "the file asks for a pause or another speed, which is not applied")
        unread = unread_bytes(self._path, self._bytes_end)
        if unread > _LARGEST_LOSS * size:
            outcome.report(Status.DAMAGED, f"{unread} bytes behind the content that the header states were not read")
        if declared is not None and declared - end > _LOST_SECONDS and self._lacks_pictures():
            message = f"{declared - end:.2f} s of {stream.type} are missing, and what comes after is early by as much"
            outcome.report(Status.DAMAGED, message)
            return
        has_tail = self._media.container.format.name.startswith(_WITH_TAIL)
        tail = max((_LARGEST_TAIL if has_tail else _LARGEST_LOSS) * size, _PADDING_BYTES)
        is_read = size - self._bytes_end < tail
        read_until = self._packet_ends.get(stream.index, 0.0)
        reached = end if stream.duration is not None else max(end, *self._packet_ends.values())
        if read_until - end > max(0.5, _LARGEST_LOSS * read_until):
            outcome.report(Status.DAMAGED, f"content until {read_until:.2f} s was read, {end:.2f} s of it was decoded")
        elif declared is not None and declared - reached > max(0.5, _LARGEST_LOSS * declared):
            message = f"the header promises {declared:.2f} s, the content ends at {end:.2f} s"
            is_idle = cut is False and is_read and not states_samples(self._path) and not is_torn(self._path)
            outcome.report(Status.OK if is_idle else Status.TRUNCATED, message)
        elif cut is None and content_bytes(self._path, self._bytes_end) - self._bytes_end >= tail:
            outcome.report(Status.TRUNCATED, f"nothing in the last part of the file can be read, after {end:.2f} s")

    def _lacks_pictures(self) -> bool:
        """Whether frames are missing in a file that counts them: then what is missing of the sound is lost as well."""
        if not self._counts_frames or self._video is None:
            return False
        declared = self._declared_end(self._media.video)
        return declared is not None and declared - self._video.end > _LOST_SECONDS

    def _latest_end(self, stream: Any) -> float | None:
        duration = self._media.container.duration
        ends = [self._declared_end(stream), None if duration is None else duration / av.time_base]
        known = [end for end in ends if end is not None]
        return min(max(known), self._limits.max_duration_seconds) if known else None

    def _declared_end(self, stream: Any) -> float | None:
        """What is promised: None where nothing is, and where joined content goes beyond what any header knows of."""
        is_joined = self._joined is not None and self._joined.num_joins > 0
        if is_joined or not self._states_duration:
            return None
        if stream.duration is not None:
            start = stream.start_time or 0
            return float((start + stream.duration) * stream.time_base - self._media.zero)
        duration = self._media.container.duration
        return None if duration is None else duration / av.time_base
