"""Files as people have them: a colour for each second of pictures and a tone for each second of sound, then a fault.

The right answer follows from the writing side, as the letters of the colours and the numbers of the tones.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from frameloom._vocabulary import Status
from frameloom.extract import Decoder
from frameloom.extract.decode import AudioWanted, DecodeEnd, FramesChunk, FramesWanted, SamplesChunk
from numpy.typing import NDArray

from helpers.media import steady, write_media

RATE = 16_000
FRAME_RATE = 25
LETTERS = "RGBYMCWK"
_COLOURS = np.array(
    [[200, 30, 30], [30, 180, 30], [40, 40, 200], [200, 200, 40], [200, 40, 200], [40, 200, 200], [230] * 3, [20] * 3]
)
_LOWEST_HZ, _STEP_HZ = 400, 200

Options = dict[str, Any]
Bytes = bytes | bytearray

# Containers with codecs that they often hold; what is not named is H.264 and AAC.
_VPX: Options = {"sound_codec": "libopus", "sound_rate": 48_000, "codec_options": {"deadline": "realtime"}}
RECIPES: dict[str, Options] = {
    "mp4": {},
    "m4v": {"container": "mp4"},
    "f4v": {"container": "f4v"},
    "3gp": {"container": "3gp"},
    "3g2": {"container": "3g2"},
    "faststart.mp4": {"container_options": {"movflags": "faststart"}},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov+delay_moov+default_base_moof"}},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mov": {"sound_codec": "pcm_s16le"},
    "mjpeg.mov": {"codec": "mjpeg", "pixel_format": "yuvj420p", "sound_codec": "pcm_s16le"},
    "mjpeg.mp4": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "mjpeg.mkv": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "png.mov": {"codec": "png", "pixel_format": "rgb24", "sound_codec": "pcm_s16le"},
    "png.avi": {"codec": "png", "pixel_format": "rgb24", "sound_codec": "pcm_s16le"},
    "prores.mov": {"codec": "prores_ks", "pixel_format": "yuv422p10le", "sound_codec": "pcm_s16le"},
    "mkv": {},
    "ffv1.mkv": {"codec": "ffv1", "sound_codec": "flac"},
    "vp8.webm": {"codec": "libvpx", **_VPX},
    "vp9.webm": {"codec": "libvpx-vp9", **_VPX},
    "ogv": {"codec": "libvpx", "sound_codec": "flac", "codec_options": {"deadline": "realtime"}},
    "ts": {},
    "mpeg2.ts": {"codec": "mpeg2video", "sound_codec": "mp2"},
    "mpg": {"codec": "mpeg1video", "sound_codec": "mp2", "container": "mpeg"},
    "mpe": {"codec": "mpeg1video", "sound_codec": "mp2", "container": "mpeg"},
    "vob": {"codec": "mpeg2video", "sound_codec": "ac3", "sound_rate": 48_000, "container": "vob"},
    "avi": {"codec": "mpeg4", "sound_codec": "libmp3lame"},
    "divx": {"codec": "mpeg4", "sound_codec": "libmp3lame", "container": "avi"},
    "h264.avi": {"sound_codec": "pcm_s16le", "codec_options": {"bf": "0"}},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p", "sound_codec": "pcm_s16le"},
    "flv": {},
    "sorenson.flv": {"codec": "flv", "sound_codec": "libmp3lame", "sound_rate": 44_100},
    "wmv": {"codec": "wmv2", "sound_codec": "libmp3lame", "container": "asf"},
    "mxf": {"codec": "mpeg2video", "sound_codec": "pcm_s16le", "sound_rate": 48_000},
    "gif": {"codec": "gif", "pixel_format": "rgb8", "frame_rate": 25},
    "ivf": {"codec": "libvpx", "codec_options": {"deadline": "realtime"}},
}
SILENT = frozenset({"gif", "ivf"})
SOUNDS: dict[str, Options] = {
    "wav": {"sound_codec": "pcm_s16le"},
    "w64": {"sound_codec": "pcm_s16le"},
    "aiff": {"sound_codec": "pcm_s16be"},
    "au": {"sound_codec": "pcm_s16be"},
    "caf": {"sound_codec": "pcm_s16be"},
    "wv": {"sound_codec": "wavpack"},
    "tta": {"sound_codec": "tta"},
    "voc": {"sound_codec": "pcm_u8"},
    "flac": {"sound_codec": "flac"},
    "mp3": {"sound_codec": "libmp3lame"},
    "m4a": {"sound_codec": "aac", "container": "ipod"},
    "aac": {"sound_codec": "aac", "container": "adts"},
    "ac3": {"sound_codec": "ac3", "sound_rate": 48_000},
    "eac3": {"sound_codec": "eac3", "sound_rate": 48_000},
    "opus": {"sound_codec": "libopus", "sound_rate": 48_000},
    "mka": {"sound_codec": "flac", "container": "matroska"},
    "wma": {"sound_codec": "libmp3lame", "container": "asf"},
}


@dataclass(frozen=True, kw_only=True)
class FieldFile:
    """One file and what is right for it.

    Attributes:
        name: unique; its last suffix is the file's.
        kind: what is the matter with it.
        make: gives the file's bytes.
        colours: of the middles of its seconds.
        end: seconds at which its pictures end.
        tones: of the seconds of its sound that are whole.
        sound_seconds: how long its sound is.
        within: by how many seconds ends may be off.
    """

    name: str
    kind: str
    make: Callable[[Maker], Bytes]
    colours: str | None = "RGBYMC"
    tones: Sequence[int] | None = (0, 1, 2, 3, 4, 5)
    end: float | None = None
    sound_seconds: float | None = None
    video: Status = Status.OK
    audio: Status = Status.OK
    within: float | None = 0.15


@dataclass
class Maker:
    """Writes files into a folder and keeps them for the next that begins with the same."""

    folder: Path
    made: dict[str, bytes] = field(default_factory=dict)

    def plain(self, recipe: str, *, seconds: float = 6.0, start: float = 0.0, first: int = 0, **more: Any) -> bytearray:
        """Pictures and sound of a recipe; the first second has this colour and this tone."""
        key = repr((recipe, seconds, start, first, sorted(more.items(), key=str)))
        if key not in self.made:
            options = {"frame_rate": FRAME_RATE, **{**RECIPES, **SOUNDS}[recipe], **more}
            has_sound = options.pop("has_sound", recipe not in SILENT)
            has_video = options.pop("has_video", recipe in RECIPES)
            rate = options.setdefault("sound_rate", RATE)
            if "codec" not in options:
                options.setdefault("codec_options", {"preset": "ultrafast", "bf": "2"})
            size = options.pop("size", (48, 64))
            path = write_media(
                self.folder / f"made.{recipe}",
                instants=steady(round(seconds * FRAME_RATE), FRAME_RATE, start=start) if has_video else (),
                paint=lambda number: colour(number // FRAME_RATE + first, size),
                sound=tone_track(seconds, rate, first=first)[None] if has_sound else None,
                sound_start=start,
                **options,
            )
            self.made[key] = path.read_bytes()
        return bytearray(self.made[key])

    def remuxed(self, recipe: str, change: Callable[[bytes], bytes]) -> bytes:
        """A plain file whose packets of pictures are changed."""
        source, target = self.folder / f"before.{recipe}", self.folder / f"after.{recipe}"
        source.write_bytes(self.plain(recipe))
        with av.open(str(source)) as given, av.open(str(target), "w") as output:
            streams = {stream.index: output.add_stream_from_template(stream) for stream in given.streams}
            for packet in given.demux():
                if packet.dts is not None:
                    is_video = packet.stream.type == "video"
                    copy = av.Packet(change(bytes(packet)) if is_video else bytes(packet))
                    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                    copy.duration, copy.is_keyframe = packet.duration, packet.is_keyframe
                    copy.stream = streams[packet.stream.index]
                    output.mux(copy)
        return target.read_bytes()

    def tracks(self, suffix: str, tracks: Sequence[tuple[int, int, float]], *, all_default: bool = False) -> bytes:
        """Tracks of pictures (width, number of frames, frames a second); of one or two frames, all of them black."""
        path = self.folder / f"tracks.{suffix}"
        with av.open(str(path), "w") as output:
            streams = []
            for width, _, rate in tracks:
                stream = output.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
                stream.width, stream.height, stream.pix_fmt = width, width * 3 // 4, "yuv420p"
                stream.codec_context.options = {"preset": "ultrafast"}
                if all_default:
                    stream.disposition = av.stream.Disposition.default
                streams.append(stream)
            for stream, (width, count, rate) in zip(streams, tracks, strict=True):
                for number in range(count):
                    index = int(number / rate) if count > 2 else LETTERS.index("K")
                    frame = av.VideoFrame.from_ndarray(colour(index, (width * 3 // 4, width)))
                    frame.pts = number
                    output.mux(stream.encode(frame))
                output.mux(stream.encode(None))
        return path.read_bytes()

    def paced(
        self,
        suffix: str,
        instants: Sequence[float],
        seconds: Sequence[int],
        *,
        frame_rate: int | None = None,
        bf: int = 2,
    ) -> bytes:
        """Pictures with the colours of these seconds, each on display until the next instant; no sound."""
        options = {"preset": "ultrafast", "bf": str(bf)}
        path = self.folder / f"paced.{suffix}"
        paint = [colour(second) for second in seconds]
        write_media(path, instants=instants, paint=paint.__getitem__, frame_rate=frame_rate, codec_options=options)
        return path.read_bytes()

    def sounds(self, suffix: str, tracks: Sequence[tuple[float, int, str]]) -> bytes:
        """Tracks of sound (seconds, first tone, layout of channels)."""
        path = self.folder / f"sounds.{suffix}"
        with av.open(str(path), "w") as output:
            streams = [output.add_stream("aac", rate=RATE, layout=layout) for *_, layout in tracks]
            for stream, (seconds, first, layout) in zip(streams, tracks, strict=True):
                track = np.tile(tone_track(seconds, RATE, first=first), (stream.layout.nb_channels, 1))
                for start in range(0, track.shape[1], 1024):
                    block = np.ascontiguousarray(track[:, start : start + 1024])
                    frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                    frame.sample_rate, frame.pts = RATE, start
                    output.mux(stream.encode(frame))
                output.mux(stream.encode(None))
        return path.read_bytes()


def colour(second: int, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """The picture (H, W, 3) of a second."""
    return np.broadcast_to(_COLOURS[second % len(LETTERS)].astype(np.uint8), (*size, 3)).copy()


def tone_track(seconds: float, rate: int, *, first: int = 0) -> NDArray[np.float32]:
    """Sound (N,) with another tone in each second."""
    time = np.arange(round(seconds * rate)) / rate
    hertz = _LOWEST_HZ + _STEP_HZ * ((np.floor(time).astype(int) + first) % len(LETTERS))
    return (0.4 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def with_exif(jpeg: bytes) -> bytes:
    """A JPEG with an EXIF segment after its first marker."""
    segment = b"Exif\0\0" + _TIFF
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def with_exif_chunk(png: bytes) -> bytes:
    """A PNG with an eXIf chunk after its header."""
    chunk = b"eXIf" + _TIFF
    return png[:33] + struct.pack(">I", len(_TIFF)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


_TIFF = b"MM\0*\0\0\0\x08\0\x01\x01\x0f\0\x02\0\0\0\x04abc\0\0\0\0\0"  # the maker of the camera is called abc


def with_empty_chunks(avi: Bytes, count: int, *, stream: int = 0) -> bytes:
    """An AVI that ends with chunks that hold nothing: "the same picture again"."""
    movie = avi.index(b"movi")
    size = struct.unpack("<I", avi[movie - 4 : movie])[0]
    end = movie + size
    index = avi.index(b"idx1", end)
    num_bytes = struct.unpack("<I", avi[index + 4 : index + 8])[0]
    name = b"%02ddc" % stream
    entries = avi[index + 8 : index + 8 + num_bytes]
    entries += b"".join(struct.pack("<4sIII", name, 0, end - movie + 8 * number, 0) for number in range(count))
    made = bytearray(avi[:end]) + (name + bytes(4)) * count + b"idx1" + struct.pack("<I", len(entries)) + entries
    made[movie - 4 : movie] = struct.pack("<I", size + 8 * count)
    made[4:8] = struct.pack("<I", len(made) - 8)
    for place in (made.index(b"avih") + 8 + 16, made.index(b"strh") + 8 + 32):
        number = struct.unpack("<I", made[place : place + 4])[0]
        made[place : place + 4] = struct.pack("<I", number + count)
    return bytes(made)


@dataclass(frozen=True)
class Seen:
    """What the decoder gives of a file."""

    colours: str
    tones: list[int]
    num_frames: int
    end: float
    sound_seconds: float
    outcome: DecodeEnd


def seen(decoder: Decoder, path: Path) -> Seen:
    """A file's colours and tones, its distinct pictures and its seconds."""
    colours, starts, samples = "", set[float](), [np.zeros(0, np.float32)]
    wanted = [FramesWanted(1.0, 32), FramesWanted(4.0 * FRAME_RATE, 8)]
    for event in decoder.decode(path, frames=wanted, audio=AudioWanted(RATE)):
        if isinstance(event, FramesChunk) and event.index == 0:
            colours += "".join(_letter(frame) for frame in event.frames.frames)
        elif isinstance(event, FramesChunk):
            starts.update(event.frames.times[:, 0].tolist())
        elif isinstance(event, SamplesChunk):
            samples.append(event.samples)
    assert isinstance(event, DecodeEnd)
    track = np.concatenate(samples)
    end = event.video_extent[1] if event.video_extent is not None else 0.0
    return Seen(colours, list(_tones(track)), len(starts), end, len(track) / RATE, event)


def ffmpeg_sees(path: Path, indices: Sequence[int]) -> tuple[int, float]:
    """How many pictures and seconds of sound FFmpeg decodes of some streams, none of its own checks apart."""
    num_frames, seconds = 0, 0.0
    with av.open(str(path)) as container:
        streams = [container.streams[index] for index in indices]
        while True:
            try:
                for packet in container.demux(streams):
                    with suppress(av.error.FFmpegError):
                        for frame in packet.decode():
                            num_frames += isinstance(frame, av.VideoFrame)
                            seconds += frame.samples / frame.sample_rate if isinstance(frame, av.AudioFrame) else 0.0
                break
            except av.error.BlockingIOError:  # FFmpeg asks for another call
                continue
    return num_frames, seconds


def _letter(picture: NDArray[np.uint8]) -> str:
    mean = picture.mean(axis=(0, 1))
    return LETTERS[int(np.abs(_COLOURS - mean).sum(axis=1).argmin())]


def _tones(track: NDArray[np.float32]) -> Iterator[int]:
    """The tones of the middles of its seconds; -1 for silence."""
    for second in range(int(len(track) / RATE + 0.05)):
        middle = track[second * RATE + RATE // 4 : second * RATE + 3 * RATE // 4]
        spectrum = np.abs(np.fft.rfft(middle))
        yield round((spectrum.argmax() * 2 - _LOWEST_HZ) / _STEP_HZ) if np.abs(middle).max() > 0.01 else -1
