"""Where a file ends, and where it is torn: content that its own structure misses.

Decoders pass over both in silence. Runs in the decoder subprocess only. Layouts: GIF89a (trailer), Adobe's FLV 10.1
(annex E), RFC 3533 (pages of Ogg), Microsoft's ASF 1.20.3 (header and data object), Sony's Wave64, Apple's CAF 1.0,
Sun's .au, Creative's .voc; the others as in `container`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import av
import av.error

from ..._vocabulary import Status
from .container import (
    EBML,
    ENCRYPTED,
    HEAD_BYTES,
    IFF,
    IFF_CONTENT,
    IFF_SOUND,
    IFF_SOUND_CONTENT,
    ISO_FIRST_BOXES,
    MAX_BOXES,
    TS_PACKET_BYTES,
    TS_SYNC,
    Box,
    ebml_segments,
    ebml_size,
    iff_chunks,
    is_placeholder,
    iso_boxes,
    looks_encrypted,
)
from .open import opened

# A box that, unfinished, shows that the file goes on: content, its index, what lies between fragments. Anything else
# after the last of them is what cameras and file systems append.
_ISO_CONTENT = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"sidx", b"emsg", b"prft"})
# What may follow the clusters of a Matroska segment: seek head, cues, chapters, tags, attachments, filling, checksum.
_EBML_BESIDE = frozenset(map(bytes.fromhex, ("114d9b74", "1c53bb6b", "1043a770", "1254c367", "1941a469", "ec", "bf")))
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
_FLV_TAGS = (8, 9, 18)
_FLV_LEAST_BYTES = 11
_UNKNOWN = 0xFFFFFFFF
_ZEROS_AT_ONCE, _MOST_READS = 1 << 20, 1024
_NO_COMPLAINTS = ("Estimating duration",)
# FFmpeg's demuxers that pass over what they do not understand without a word.
_QUIET = frozenset({"mpeg", "mpegts"})
_LARGEST_HOLE = 0.02  # share of a file that no packet accounts for, in one place
_LARGEST_HOLE_BYTES = 8192  # four packs of a program stream


def is_cut(path: Path) -> bool | None:
    """Whether the file ends before its outermost structure does; None for formats that do not say."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(4 * TS_PACKET_BYTES)
        for magic, look in _BY_MAGIC.items():
            if head.startswith(magic):
                return look(stream, size)
        if head[4:8] in ISO_FIRST_BOXES:
            boxes = list(iso_boxes(stream, size))
            return any(box.start + box.length > size for box in boxes if box.kind in _ISO_CONTENT)
        if head[:4] in IFF:
            kinds = IFF_SOUND_CONTENT if head[8:12] in IFF_SOUND else IFF_CONTENT
            content = [chunk for chunk in iff_chunks(stream, size) if chunk.kind in kinds]
            if any(is_placeholder(chunk.length) for chunk in content):
                return None
            return any(chunk.start + chunk.length > size for chunk in content)
        if head[::TS_PACKET_BYTES] == TS_SYNC * 4:
            stream.seek(size - size % TS_PACKET_BYTES)
            return stream.read(1) == TS_SYNC or None
    return None


def _matroska(stream: BinaryIO, size: int) -> bool | None:
    segments = list(ebml_segments(stream))
    over = [one for one in segments if one.start + one.length > size]
    return any(_misses_cluster(stream, one, size) for one in over) if segments else None


def _misses_cluster(stream: BinaryIO, segment: Box, size: int) -> bool:
    """Whether a segment that goes on after the end of the file is cut in its content, and not in its index or tags."""
    stream.seek(segment.start + 4)
    ebml_size(stream)
    for _ in range(MAX_BOXES):
        first = stream.read(1)
        if not first or not first[0]:
            break
        kind = first + stream.read(8 - first[0].bit_length())
        length = ebml_size(stream)
        if length is None or stream.tell() + length > size:
            return kind not in _EBML_BESIDE
        stream.seek(length, 1)
    return True


def _gif(stream: BinaryIO, size: int) -> bool | None:
    """True without the last block's end, which the trailer should follow; zeros may come after them."""
    stream.seek(max(0, size - HEAD_BYTES))
    tail = stream.read()
    return (b"\0;" not in tail and not tail.endswith(b"\0")) or None


def _flv(stream: BinaryIO, size: int) -> bool | None:
    """By the size of the file that the header may state, or by the last tag, whose length comes after it, too."""
    stream.seek(0)
    head = stream.read(HEAD_BYTES)
    place = head.find(b"filesize\0") + 9
    if place >= 9 and len(head) >= place + 8 and struct.unpack_from(">d", head, place)[0] > size:
        return True
    stream.seek(max(0, size - 4))
    length = int.from_bytes(stream.read(4), "big")
    if not _FLV_LEAST_BYTES <= length <= size - 4:
        return None
    stream.seek(size - 4 - length)
    tag = stream.read(4)
    is_whole = tag[0] in _FLV_TAGS and int.from_bytes(tag[1:], "big") + _FLV_LEAST_BYTES == length
    return False if is_whole else None


def _ogg(stream: BinaryIO, size: int) -> bool | None:
    """True where the last page is not whole; None where what is there in its place says nothing."""
    stream.seek(max(0, size - _OGG_PAGE_BYTES))
    tail = stream.read()
    if (place := tail.rfind(b"OggS")) < 0:
        return None
    last = tail[place:]
    num_segments = last[26] if len(last) > 26 else 256
    return 27 + num_segments + sum(last[27 : 27 + num_segments]) > len(last) or None


def _asf(stream: BinaryIO, size: int) -> bool | None:
    """By the size of the data object, which follows the header."""
    stream.seek(16)
    start = int.from_bytes(stream.read(8), "little")
    stream.seek(start + 16)
    length = int.from_bytes(stream.read(8), "little")
    return start + length > size if length > 50 else None  # a stream that was being sent states the header alone


def _wave64(stream: BinaryIO, size: int) -> bool | None:
    start = 40
    for _ in range(MAX_BOXES):
        stream.seek(start)
        header = stream.read(24)
        length = int.from_bytes(header[16:], "little")
        if len(header) < 24 or length < 24:
            break
        if header.startswith(b"data"):
            return start + length > size if 24 < length < 1 << 62 else None
        start += (length + 7) // 8 * 8
    return None


def _caf(stream: BinaryIO, size: int) -> bool | None:
    start = 8
    for _ in range(MAX_BOXES):
        stream.seek(start)
        header = stream.read(12)
        length = int.from_bytes(header[4:], "big", signed=True)
        if len(header) < 12 or length < 0:  # also of a stream that was being written
            break
        if header.startswith(b"data"):
            return start + 12 + length > size
        start += 12 + length
    return None


def _au(stream: BinaryIO, size: int) -> bool | None:
    stream.seek(4)
    start, length = struct.unpack(">II", stream.read(8).ljust(8, b"\xff"))
    return None if length == _UNKNOWN else start + length > size


def _voc(stream: BinaryIO, size: int) -> bool | None:
    stream.seek(20)
    start = int.from_bytes(stream.read(2), "little")
    for _ in range(MAX_BOXES):
        stream.seek(start)
        header = stream.read(4)
        if not header or not header[0]:
            return False if header else None
        start += 4 + int.from_bytes(header[1:], "little")
        if start > size:
            return True
    return None


_BY_MAGIC: dict[bytes, Callable[[BinaryIO, int], bool | None]] = {
    EBML: _matroska,
    b"GIF8": _gif,
    b"FLV": _flv,
    b"OggS": _ogg,
    bytes.fromhex("3026b2758e66cf11"): _asf,
    b"riff": _wave64,
    b"caff": _caf,
    b".snd": _au,
    b"Creative Voice": _voc,
}


def content_bytes(path: Path, read_until: int) -> int:
    """Size of a file without the zeros at its end, which recorders reserve; at least what was read of it."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        for _ in range(_MOST_READS):
            if size <= read_until:
                break
            start = max(read_until, size - _ZEROS_AT_ONCE)
            stream.seek(start)
            block = stream.read(size - start).rstrip(b"\0")
            size = start + len(block)
            if block:
                break
    return size


def is_torn(path: Path) -> bool:
    """Whether something is damaged or missing within a file, as far as its structure shows it.

    FFmpeg's demuxers find it and go on; they say so in their log alone. So the packets are read once more, which takes
    a small part of the time of decoding.
    """
    level, largest, end = av.logging.get_level(), 0, 0
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as messages, opened(path) as container:
            demuxer = container.format.name
            try:
                for packet in container.demux():
                    if packet.pos is not None:
                        largest = max(largest, packet.pos - end if end else 0)
                        end = max(end, packet.pos + packet.size)
            except (av.error.FFmpegError, IndexError):
                pass
    finally:
        av.logging.set_level(level)
    if demuxer in _QUIET and largest > max(_LARGEST_HOLE_BYTES, _LARGEST_HOLE * path.stat().st_size):
        return True
    return any(name in demuxer and not text.startswith(_NO_COMPLAINTS) for _, name, text in messages if name)


def nothing_decoded(path: Path, num_errors: int, otherwise: Status, what: str) -> tuple[Status, str]:
    """Why nothing of a stream could be decoded."""
    if looks_encrypted(path):
        return Status.UNDECODABLE, ENCRYPTED
    if num_errors:
        return Status.UNDECODABLE, f"nothing could be decoded; {counted(num_errors, 'packet')} failed"
    return otherwise, f"the stream holds no {what}"


def counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
