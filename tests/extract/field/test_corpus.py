"""Files as people have them, whose right answer is known: rows, times, statuses and sound, against that answer.

FFmpeg's own decoding of the same streams is a second opinion: of a file that is `ok`, next to nothing may be missing.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom._vocabulary import MediaError, Outcome, Status
from frameloom.extract import Decoder
from helpers.field_media import (
    RECIPES,
    SILENT,
    SOUNDS,
    Bytes,
    FieldFile,
    Maker,
    Seen,
    ffmpeg_sees,
    seen,
    with_empty_chunks,
    with_exif,
    with_exif_chunk,
)
from helpers.media import steady, write_media

LARGEST_LOSS = 0.02
NOISE = np.random.default_rng(0).bytes(1000)
NMEA = b"$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A\r\n" * 20
TAG = b"TAG" + b"a song".ljust(125, b"\0")
PICTURES_ONLY: dict[str, Any] = {"tones": (), "audio": Status.NO_AUDIO}
SOUND_ONLY: dict[str, Any] = {"colours": "", "video": Status.NO_VIDEO}
TWICE: dict[str, Any] = {
    "colours": "RGBYMC" * 2,
    "tones": (*range(6), *range(6)),
    "end": 12.0,
    "sound_seconds": 12.0,
    "within": 0.3,
}


def plain() -> Iterator[FieldFile]:
    for recipe in RECIPES:
        more = PICTURES_ONLY if recipe in SILENT else {}
        yield FieldFile(name=f"plain.{recipe}", kind=f"plain {recipe}", make=lambda m, r=recipe: m.plain(r), **more)
    for recipe in SOUNDS:
        yield FieldFile(
            name=f"sound.{recipe}", kind=f"sound {recipe}", make=lambda m, r=recipe: m.plain(r), **SOUND_ONLY
        )


def side_data() -> Iterator[FieldFile]:
    for recipe in ("mjpeg.avi", "mjpeg.mov", "mjpeg.mkv", "mjpeg.mp4"):
        yield FieldFile(name=f"exif.{recipe}", kind="EXIF", make=lambda m, r=recipe: m.remuxed(r, with_exif))
    for recipe in ("png.mov", "png.avi"):
        yield FieldFile(name=f"exif.{recipe}", kind="eXIf", make=lambda m, r=recipe: m.remuxed(r, with_exif_chunk))


def joined() -> Iterator[FieldFile]:
    for recipe in ("mpg", "mpe", "vob", "ts", "mpeg2.ts", "mkv", "vp8.webm", "vp9.webm", "ffv1.mkv", "avi"):
        yield FieldFile(name=f"twice.{recipe}", kind="joined", make=lambda m, r=recipe: m.plain(r) * 2, **TWICE)
    yield FieldFile(
        name="thrice.mkv",
        kind="three joined, of which two are read",
        make=_three("mkv"),
        colours="RGBYM",
        tones=(0, 1, 2, 3, 4),
        end=5.0,
        sound_seconds=5.0,
        video=Status.DAMAGED,
        audio=Status.DAMAGED,
        within=0.3,
    )
    for recipe in ("mpg", "ts"):
        yield FieldFile(
            name=f"thrice.{recipe}",
            kind="three joined",
            make=_three(recipe),
            colours="RGB" + "YM" + "CWKRGB",
            tones=(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2),
            end=11.0,
            sound_seconds=11.0,
            within=0.3,
        )
    for recipe in ("mpg", "ts", "mkv"):
        for start in (100.0, 40_000.0):
            yield FieldFile(
                name=f"down_{start:g}.{recipe}",
                kind="joined, the second clock far lower",
                make=lambda m, r=recipe, s=start: m.plain(r, start=s) + m.plain(r),
                **TWICE,
            )
    for recipe in ("mpg", "ts"):
        yield FieldFile(
            name=f"up.{recipe}",
            kind="joined, the second clock far higher",
            make=lambda m, r=recipe: m.plain(r) + m.plain(r, start=40_000.0),
            **TWICE,
        )
        yield FieldFile(
            name=f"mute_first.{recipe}",
            kind="joined, the first without sound",
            make=lambda m, r=recipe: m.plain(r, has_sound=False) + m.plain(r),
            **{**TWICE, "tones": range(6), "sound_seconds": 6.0},
        )
        yield FieldFile(
            name=f"mute.{recipe}",
            kind="joined, no sound",
            make=lambda m, r=recipe: m.plain(r, has_sound=False) * 2,
            **{**TWICE, **PICTURES_ONLY, "sound_seconds": 0.0},
        )
    yield FieldFile(
        name="sizes.ts",
        kind="joined, of two sizes",
        make=lambda m: m.plain("ts") + m.plain("ts", size=(96, 128)),
        **TWICE,
    )
    for recipe in ("ts", "mpeg2.ts"):
        yield FieldFile(
            name=f"segments.{recipe}",
            kind="segments whose clock goes on",
            make=lambda m, r=recipe: (
                m.plain(r, seconds=2, start=1.0, sound_codec="mp2")
                + m.plain(r, seconds=2, start=3.0, first=2, sound_codec="mp2")
                + m.plain(r, seconds=2, start=5.0, first=4, sound_codec="mp2")
            ),
            within=0.3,
        )
    for recipe in ("mp3", "aac", "ac3"):
        yield FieldFile(
            name=f"twice.{recipe}",
            kind="joined sound",
            make=lambda m, r=recipe: m.plain(r) * 2,
            **{**TWICE, **SOUND_ONLY, "end": 0.0},
        )
    for recipe in ("mp4", "mov", "faststart.mp4"):
        damaged = {"video": Status.DAMAGED, "audio": Status.DAMAGED}
        yield FieldFile(
            name=f"twice.{recipe}",
            kind="joined, of which one is read",
            make=lambda m, r=recipe: m.plain(r) * 2,
            **damaged,
        )
    for recipe in ("wav", "aiff"):
        yield FieldFile(
            name=f"twice.{recipe}",
            kind="joined, of which one is read",
            make=lambda m, r=recipe: m.plain(r) * 2,
            **{**SOUND_ONLY, "audio": Status.DAMAGED},
        )


def _three(recipe: str) -> Callable[[Maker], bytearray]:
    return lambda m: m.plain(recipe, seconds=3) + m.plain(recipe, seconds=2, first=3) + m.plain(recipe, first=5)


def tracks() -> Iterator[FieldFile]:
    moving, still, pair = (64, 58, 28), (128, 1, 25), (128, 2, 25)
    answer: dict[str, Any] = {**PICTURES_ONLY, "colours": "RG", "end": 58 / 28}
    for suffix in ("mp4", "mov", "mkv", "ts", "avi"):
        for kind, order in (
            ("after it", (moving, still)),
            ("before it", (still, moving)),
            ("of two pictures", (pair, moving)),
        ):
            yield FieldFile(
                name=f"{kind.replace(' ', '_')}.{suffix}",
                kind=f"a larger still, {kind}",
                make=lambda m, s=suffix, o=order: m.tracks(s, o, all_default=True),
                **answer,
            )
    for suffix in ("mp4", "mov", "mkv", "ts"):
        yield FieldFile(
            name=f"scrap.{suffix}",
            kind="a scrap of sound before it, of more channels",
            make=lambda m, s=suffix: m.sounds(s, ((0.1, 5, "5.1"), (6.0, 0, "stereo"))),
            **SOUND_ONLY,
        )
    for suffix in ("mp4", "mkv"):
        yield FieldFile(
            name=f"large.{suffix}",
            kind="two tracks that move",
            make=lambda m, s=suffix: m.tracks(s, ((64, 58, 28), (128, 150, 25)), all_default=True),
            **{**PICTURES_ONLY, "end": 6.0},
        )


def tails() -> Iterator[FieldFile]:
    endings = {"noise": NOISE, "nmea": NMEA, "zeros": bytes(1000), "cut_free": b"\0\1\0\0free" + bytes(9)}
    for name, ending in endings.items():
        for recipe in ("mp4", "faststart.mp4", "fragments.mp4", "mov", "3gp"):
            yield FieldFile(
                name=f"{name}.{recipe}",
                kind=f"{name} after the last box",
                make=lambda m, r=recipe, e=ending: m.plain(r) + e,
            )
    for recipe in ("mkv", "ts", "mpg", "avi", "flv", "wmv"):
        yield FieldFile(name=f"noise.{recipe}", kind="noise after the end", make=lambda m, r=recipe: m.plain(r) + NOISE)
    for recipe in ("wav", "flac", "mp3", "aiff"):
        yield FieldFile(
            name=f"tag.{recipe}", kind="a tag after the end", make=lambda m, r=recipe: m.plain(r) + TAG, **SOUND_ONLY
        )


def empty_packets() -> Iterator[FieldFile]:
    for recipe in ("mjpeg.avi", "avi", "h264.avi"):
        yield FieldFile(
            name=f"empty.{recipe}",
            kind="empty packets at the end",
            make=lambda m, r=recipe: with_empty_chunks(m.plain(r, seconds=3.0, has_sound=False), 75),
            **{**PICTURES_ONLY, "colours": "RGBBBB"},
        )
        yield FieldFile(
            name=f"missing.{recipe}",
            kind="pictures that the header counts are missing",
            make=lambda m, r=recipe: _counted(m.plain(r, seconds=3.0, has_sound=False), 150),
            **{**PICTURES_ONLY, "colours": "RGB", "end": 3.0, "video": Status.DAMAGED},
        )


def _counted(avi: bytearray, count: int) -> bytes:
    place = avi.index(b"strh") + 8 + 32
    avi[place : place + 4] = struct.pack("<I", count)
    return bytes(avi)


def sizes() -> Iterator[FieldFile]:
    for size in (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x7FFFF000, 0xFFFFFFFF - 44):
        for codec in ("pcm_s16le", "pcm_f32le", "pcm_u8"):
            yield FieldFile(
                name=f"{size:x}_{codec}.wav",
                kind="WAV that was streamed",
                make=lambda m, s=size, c=codec: _sized(m.plain("wav", sound_codec=c), s),
                **SOUND_ONLY,
            )
    for size in (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000):
        yield FieldFile(
            name=f"{size:x}.aiff",
            kind="AIFF that was streamed",
            make=lambda m, s=size: _patched(m.plain("aiff"), b"SSND", struct.pack(">I", s)),
            **SOUND_ONLY,
        )
    yield FieldFile(
        name="counted.aiff",
        kind="AIFF that was streamed, its samples not counted",
        make=lambda m: _patched(_counted_aiff(m.plain("aiff")), b"SSND", b"\x7f" + b"\xff" * 3),
        **SOUND_ONLY,
    )
    yield FieldFile(name="streamed.au", kind="AU that was streamed", make=_streamed_au, **SOUND_ONLY)
    yield FieldFile(name="streamed.caf", kind="CAF that was streamed", make=_streamed_caf, **SOUND_ONLY)
    yield FieldFile(
        name="bits.wav",
        kind="a size of samples that is wrong",
        make=lambda m: _other_bits(m.plain("wav", sound_codec="adpcm_ima_wav")),
        **{**SOUND_ONLY, "tones": (), "sound_seconds": 3.0, "audio": Status.TRUNCATED},
    )
    for recipe, mark, order in (("wav", b"data", "<I"), ("aiff", b"SSND", ">I")):
        yield FieldFile(
            name=f"short.{recipe}",
            kind="a size that is too small",
            make=lambda m, r=recipe, k=mark, o=order: _patched(m.plain(r), k, struct.pack(o, 2240)),
            **{**SOUND_ONLY, "tones": (), "sound_seconds": 0.07, "audio": Status.DAMAGED},
        )


def _other_bits(content: bytearray) -> bytes:
    """ADPCM of 4 bits that calls itself one of 8: FFmpeg makes half of the samples of it."""
    content[34:36] = struct.pack("<H", 8)
    return bytes(content)


def _counted_aiff(content: bytearray) -> bytearray:
    place = content.index(b"COMM") + 10
    content[place : place + 4] = b"\x7f" + b"\xff" * 3
    return content


def _patched(content: bytearray, mark: bytes, size: bytes) -> bytes:
    place = content.index(mark) + 4
    content[place : place + len(size)] = size
    return bytes(content)


def _sized(wav: bytearray, size: int) -> bytes:
    wav[4:8] = struct.pack("<I", min(size + 36, 0xFFFFFFFF) if size else 0)
    return _patched(wav, b"data", struct.pack("<I", size))


def _streamed_au(maker: Maker) -> bytes:
    content = maker.plain("au")
    content[8:12] = b"\xff" * 4
    return bytes(content)


def _streamed_caf(maker: Maker) -> bytes:
    return _patched(maker.plain("caf"), b"data", b"\xff" * 8)


def guesses() -> Iterator[FieldFile]:
    for name, levels in (("soft_then_loud", (0.0005, 0.6)), ("loud_then_soft", (0.6, 0.0005))):
        for has_xing in ("0", "1"):
            yield FieldFile(
                name=f"{name}_{has_xing}.mp3",
                kind="a bit rate that varies",
                make=lambda m, v=levels, x=has_xing: _varied(m, v, x),
                **{**SOUND_ONLY, "tones": (), "sound_seconds": 20.0},
            )
    yield FieldFile(
        name="cut_with_xing.mp3",
        kind="cut",
        make=lambda m: _varied(m, (0.6, 0.6), "1")[:20_000],
        **{**SOUND_ONLY, "tones": (), "sound_seconds": None, "audio": Status.TRUNCATED},
    )


def _varied(maker: Maker, levels: tuple[float, float], xing: str) -> bytes:
    generator = np.random.default_rng(0)
    halves = [level * generator.standard_normal(10 * 16_000).clip(-1, 1) for level in levels]
    path = write_media(
        maker.folder / "varied.mp3",
        sound=np.concatenate(halves).astype(np.float32)[None],
        sound_codec="libmp3lame",
        sound_options={"q": "4", "flags": "+qscale", "global_quality": "472"},
        container_options={"write_xing": xing, "id3v2_version": "0"},
    )
    return path.read_bytes()


def protected() -> Iterator[FieldFile]:
    key = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "00112233445566778899aabbccddeeff",
        "encryption_kid": "112233445566778899aabbccddeeff00",
    }
    nothing: dict[str, Any] = {
        "colours": "",
        "tones": (),
        "end": 0.0,
        "sound_seconds": 0.0,
        "video": Status.UNDECODABLE,
        "audio": Status.UNDECODABLE,
    }
    for recipe in ("mp4", "mjpeg.mp4", "mpeg4.mp4"):
        yield FieldFile(
            name=f"encrypted.{recipe}",
            kind="encrypted",
            make=lambda m, r=recipe: m.plain(r, container_options=key),
            **nothing,
        )
    yield FieldFile(name="scrambled.ts", kind="scrambled", make=lambda m: _scrambled(m.plain("ts")), **nothing)


def _scrambled(content: bytearray) -> bytes:
    """Packets of 188 bytes: those of pictures and sound get the flag and other bytes after their adaptation field."""
    noise = np.random.default_rng(1)
    for start in range(0, len(content), 188):
        identity = (content[start + 1] & 0x1F) << 8 | content[start + 2]
        if 0x100 <= identity < 0x1000:
            payload = start + 4 + (1 + content[start + 4] if content[start + 3] & 0x20 else 0)
            content[start + 3] |= 0x80
            content[payload : start + 188] = noise.bytes(start + 188 - payload)
    return bytes(content)


def cut() -> Iterator[FieldFile]:
    for recipe in ("faststart.mp4", "fragments.mp4", "mkv", "vp8.webm", "ts", "avi", "mjpeg.avi", "flv"):
        yield FieldFile(
            name=f"cut.{recipe}",
            kind="cut",
            make=lambda m, r=recipe: m.plain(r)[: int(len(m.plain(r)) * 0.6) | 1],
            video=Status.TRUNCATED,
            audio=Status.TRUNCATED,
            colours=None,
            tones=None,
            within=None,
        )
    for recipe in ("wav", "aiff", "flac"):
        yield FieldFile(
            name=f"cut.{recipe}",
            kind="cut",
            make=lambda m, r=recipe: m.plain(r)[: int(len(m.plain(r)) * 0.6) | 1],
            **{**SOUND_ONLY, "audio": Status.TRUNCATED, "tones": None, "within": None},
        )


def clocks() -> Iterator[FieldFile]:
    for recipe in ("mp4", "mov", "mkv", "vp8.webm", "ts", "mpg", "vob", "flv"):
        for start in (0.48, 3600.0):
            yield FieldFile(
                name=f"start_{start:g}.{recipe}",
                kind=f"a clock that begins at {start:g} s",
                make=lambda m, r=recipe, s=start: m.plain(r, start=s),
            )
    for recipe in ("mp4", "mkv", "ts", "avi", "mpg"):
        yield FieldFile(
            name=f"tags.{recipe}",
            kind="colours of a rare kind",
            make=lambda m, r=recipe: m.plain(r, tags={"color_primaries": 11, "color_trc": 17}),
        )


def edits() -> Iterator[FieldFile]:
    for name, rate in (("frozen", 0), ("half", 1 << 15), ("double", 2 << 16)):
        for recipe in ("mp4", "mov", "faststart.mp4"):
            yield FieldFile(
                name=f"{name}.{recipe}",
                kind=f"an edit at {rate / (1 << 16):g} of its speed",
                make=lambda m, r=recipe, v=rate: _edited(m.plain(r), v),
                video=Status.DAMAGED,
            )

    yield FieldFile(
        name="pause.mp4",
        kind="a pause in the middle",
        make=lambda m: _with_edits(m.plain("mp4", has_sound=False), [(2000, 0), (2000, -1), (4000, 25_600)]),
        **{**PICTURES_ONLY, "colours": None, "within": None, "video": Status.DAMAGED},
    )


def _with_edits(content: bytearray, edits: Sequence[tuple[int, int]]) -> bytes:
    """A file of one track whose index comes last, with other edits: milliseconds, and their start in ticks."""
    made = struct.pack(">4sII", b"elst", 0, len(edits))
    made += b"".join(struct.pack(">IiI", length, start, 1 << 16) for length, start in edits)
    place = content.index(b"elst")
    size = struct.unpack(">I", content[place - 4 : place])[0]
    content[place : place + size - 4] = made
    for kind in (b"elst", b"edts", b"trak", b"moov"):
        outer = content.index(kind) - 4
        old = struct.unpack(">I", content[outer : outer + 4])[0]
        content[outer : outer + 4] = struct.pack(">I", old + len(made) + 4 - size)
    return bytes(content)


def _edited(content: bytearray, rate: int) -> bytes:
    """The first track, which is that of the pictures, with its first edit at another speed."""
    place = content.index(b"elst") + 20
    content[place : place + 4] = struct.pack(">I", rate)
    return bytes(content)


def torn() -> Iterator[FieldFile]:
    """A tenth of the bytes in the middle is something else, so that more than a tenth of the seconds is missing."""
    partial: dict[str, Any] = {"colours": None, "tones": None, "within": None}
    for recipe in ("mkv", "ffv1.mkv", "vp8.webm", "flv", "wmv", "mxf", "mpeg2.ts"):
        for name, filling in (("noise", None), ("zeros", b"\0")):
            yield FieldFile(
                name=f"torn_{name}.{recipe}",
                kind=f"{name} in the middle",
                make=lambda m, r=recipe, f=filling: _torn(m.plain(r), f),
                **{**partial, "video": Status.DAMAGED, "audio": Status.DAMAGED},
            )
    yield FieldFile(
        name="torn.avi",
        kind="noise in the middle",
        make=lambda m: _torn(m.plain("mjpeg.avi"), None),
        **{**partial, "video": Status.DAMAGED, "audio": Status.DAMAGED},
    )
    for recipe in ("opus", "flac", "wma"):
        yield FieldFile(
            name=f"torn.{recipe}",
            kind="noise in the middle of sound",
            make=lambda m, r=recipe: _torn(m.plain(r), None, share=0.3),
            **{**partial, "video": Status.NO_VIDEO, "audio": Status.DAMAGED},
        )
    for recipe, audio in (("mkv", Status.DAMAGED), ("flv", Status.TRUNCATED)):
        yield FieldFile(
            name=f"gone.{recipe}",
            kind="bytes in the middle are missing",
            make=lambda m, r=recipe: _torn(m.plain(r), b""),
            **{**partial, "video": Status.TRUNCATED, "audio": audio},
        )


def _torn(content: Bytes, filling: bytes | None, *, share: float = 0.1) -> bytes:
    start, length = len(content) // 2, int(len(content) * share)
    middle = np.random.default_rng(2).bytes(length) if filling is None else filling * length
    return bytes(content[:start]) + middle + bytes(content[start + length :])


def more_cut() -> Iterator[FieldFile]:
    partial: dict[str, Any] = {"colours": None, "tones": None, "within": None}
    for recipe in ("ogv", "wmv", "sorenson.flv", "gif"):
        yield FieldFile(
            name=f"third.{recipe}",
            kind="cut after a third",
            make=lambda m, r=recipe: m.plain(r)[: len(m.plain(r)) // 3 | 1],
            video=Status.TRUNCATED,
            audio=Status.NO_AUDIO if recipe in SILENT else Status.TRUNCATED,
            **partial,
        )
    for recipe in ("w64", "caf", "au", "voc", "opus", "wma"):
        yield FieldFile(
            name=f"third.{recipe}",
            kind="sound cut after a third",
            make=lambda m, r=recipe: m.plain(r)[: len(m.plain(r)) // 3 | 1],
            **{**partial, "video": Status.NO_VIDEO, "audio": Status.TRUNCATED},
        )
    for recipe in ("avi", "mjpeg.mkv"):
        yield FieldFile(
            name=f"index.{recipe}",
            kind="cut in the index behind the content",
            make=lambda m, r=recipe: m.plain(r)[: int(len(m.plain(r)) * 0.985)],
        )


def reserved() -> Iterator[FieldFile]:
    for recipe in ("mp4", "mpg", "vob", "flv", "wmv", "mxf", "ts", "mkv", "avi"):
        yield FieldFile(
            name=f"kept.{recipe}", kind="zeros that were reserved", make=lambda m, r=recipe: m.plain(r) + bytes(200_000)
        )
    for recipe in ("w64", "caf", "voc", "tta", "aac", "wav", "flac"):
        yield FieldFile(
            name=f"kept.{recipe}",
            kind="zeros that were reserved after sound",
            make=lambda m, r=recipe: m.plain(r) + bytes(200_000),
            **SOUND_ONLY,
        )


def paces() -> Iterator[FieldFile]:
    pause = [*steady(50, 25)[:50], *steady(100, 25, start=7.0)]
    still = [0.0, 1.0, 2.0, 3.0, 5.9]
    for suffix in ("mp4", "mov", "mkv", "ts", "flv"):
        yield FieldFile(
            name=f"waits.{suffix}",
            kind="no new picture for five seconds",
            make=lambda m, s=suffix: m.paced(s, pause, [number // 25 for number in range(150)]),
            **{**PICTURES_ONLY, "colours": "RGGGGGGBYMC", "end": 11.0},
        )
        yield FieldFile(
            name=f"slow.{suffix}",
            kind="a picture each second",
            make=lambda m, s=suffix: m.paced(s, steady(6, 1), range(6), frame_rate=1),
            **PICTURES_ONLY,
        )
    for suffix in ("mp4", "mkv"):
        yield FieldFile(
            name=f"held.{suffix}",
            kind="a last picture that stays",
            make=lambda m, s=suffix: m.paced(s, still, range(4), bf=0),
            **{**PICTURES_ONLY, "colours": "RGBYYY", "end": 5.9},
        )
    yield FieldFile(
        name="held.flv",
        kind="a header that counts how long the last picture stays, which no frame says",
        make=lambda m: m.paced("flv", still, range(4), bf=0),
        **{**PICTURES_ONLY, "colours": None, "within": None},
    )
    for recipe in ("ts", "mpg", "mpeg2.ts", "vob"):
        yield FieldFile(
            name=f"wrap.{recipe}",
            kind="a clock of 33 bits that begins again",
            make=lambda m, r=recipe: m.plain(r, start=2**33 / 90_000 - 3.0),
        )
    for recipe in ("mp4", "mov"):
        yield FieldFile(
            name=f"negative.{recipe}",
            kind="a clock that begins before zero",
            make=lambda m, r=recipe: m.plain(r, start=-1.0),
            colours="GBYMC",
            tones=(1, 2, 3, 4, 5),
            end=5.0,
            sound_seconds=5.0,
        )


def pixels() -> Iterator[FieldFile]:
    hevc: dict[str, Any] = {
        "codec": "libx265",
        "codec_options": {"preset": "ultrafast", "x265-params": "log-level=none"},
    }
    for name, more in {
        "hevc.mp4": hevc,
        "hevc.mkv": hevc,
        "ten.mp4": {"pixel_format": "yuv420p10le"},
        "chroma.mkv": {"pixel_format": "yuv444p"},
        "alpha.mov": {"codec": "prores_ks", "pixel_format": "yuva444p10le", "sound_codec": "pcm_s16le"},
        "tiny.mkv": {"codec": "ffv1", "pixel_format": "bgr0", "size": (1, 1), "sound_codec": "pcm_s16le"},
        "odd.mkv": {"codec": "ffv1", "pixel_format": "bgr0", "size": (3, 5), "sound_codec": "pcm_s16le"},
        "interlaced.mp4": {"codec_options": {"preset": "ultrafast", "x264-params": "tff=1"}, "size": (64, 64)},
        "pyramid.mp4": {"codec_options": {"preset": "fast", "x264-params": "bframes=8:b-adapt=0:b-pyramid=normal"}},
        "mov.txt": {"container": "mov"},
        "wrong.avi": {"container": "matroska"},
        "m2ts.mp4": {"container": "mpegts"},
    }.items():
        yield FieldFile(
            name=f"pixels_{name}",
            kind=f"pixels: {name}",
            make=lambda m, n=name, o=more: m.plain(
                n if n in RECIPES else n.replace("txt", "mov").partition(".")[2], **o
            ),
        )


FILES = [
    *plain(), *side_data(), *joined(), *tracks(), *tails(), *empty_packets(), *sizes(), *guesses(), *protected(),
    *cut(), *clocks(), *edits(), *torn(), *more_cut(), *reserved(), *paces(), *pixels(),
]  # fmt: skip
FIRST = [file for file in FILES if file in [each for each in FILES if each.kind == file.kind][:2]]
OTHERS = [pytest.param(file, marks=pytest.mark.slow) for file in FILES if file not in FIRST]


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("field"))


def test_is_large() -> None:
    assert len(FIRST) >= 150
    assert len({file.kind for file in FIRST}) >= 60
    assert max(Counter(file.name for file in FILES).values()) == 1


@pytest.mark.parametrize("file", FIRST + OTHERS, ids=lambda file: file.name)
def test_gives_what_was_put_in(file: FieldFile, maker: Maker, decoder: Decoder) -> None:
    path = maker.folder / file.name
    path.write_bytes(file.make(maker))
    found = seen(decoder, path)
    outcome = found.outcome
    assert outcome.video_status is file.video, outcome.video_message
    assert outcome.audio_status is file.audio, outcome.audio_message
    assert outcome.video_message or file.video is Status.OK
    assert ("is encrypted" in outcome.video_message) == (file.kind in ("encrypted", "scrambled"))
    if file.colours is not None:
        assert found.colours == file.colours
    if file.tones is not None:
        assert found.tones[: len(file.tones)] == [*file.tones]
    if file.within is not None:
        usual = 6.0 if file.colours else 0.0
        assert found.end == pytest.approx(usual if file.end is None else file.end, abs=file.within)
        sound = file.sound_seconds if file.sound_seconds is not None else 6.0 if file.tones else None
        assert sound is None or found.sound_seconds == pytest.approx(sound, abs=file.within)
    check_against_ffmpeg(path, found, decoder)
    path.unlink()


@pytest.mark.parametrize("hours", [7, 40])
def test_a_picture_that_is_held_beyond_the_limit_is_too_large(maker: Maker, decoder: Decoder, hours: int) -> None:
    """Some thousand bytes that ask for as many rows as there are seconds in hours."""
    content = maker.plain("mp4", seconds=1.0, has_sound=False)
    place = content.index(b"stts") + 8
    assert struct.unpack(">II", content[place : place + 8]) == (1, 25)
    content[place + 8 : place + 12] = struct.pack(">I", 12_800 * 3600 * hours)
    path = maker.folder / "held.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match="max_duration_seconds") as caught:
        seen(decoder, path)
    assert caught.value.status is Status.TOO_LARGE


def check_against_ffmpeg(path: Path, found: Seen, decoder: Decoder) -> None:
    info = decoder.probe(path)
    used = [stream.stream_index for stream in (info.video, info.audio) if stream is not None]
    num_frames, seconds = ffmpeg_sees(path, used)
    if found.outcome.video_status is Status.OK:
        assert found.num_frames >= (1 - LARGEST_LOSS) * num_frames
    if found.outcome.audio_status is Status.OK:
        assert found.sound_seconds >= (1 - LARGEST_LOSS) * seconds
    statuses = (found.outcome.video_status, found.outcome.audio_status)
    assert not [status for status in statuses if status.outcome is Outcome.QUARANTINED]
