"""A file's first bytes and its outermost structure, read without FFmpeg.

Two questions are answered here. Why could FFmpeg not open a file: is it text, a playlist, a recording that was never
finished? And does a file end before its own structure says so, which decoders pass over in silence?
Layouts: ISO/IEC 14496-12 section 4.2 (boxes), RFC 8794 (EBML), ISO/IEC 13818-1 (packets of
188 bytes), the RIFF chunk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..._vocabulary import MediaError, Status

_HEAD_BYTES = 4096
_MAX_BOXES = 10_000
_ISO_FIRST_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid"})
# A box that holds nothing that is shown: an unfinished one costs no picture and no sound.
_ISO_FILLERS = frozenset({b"free", b"skip", b"wide", b"udta", b"uuid"})
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_TS_SYNC, _TS_PACKET_BYTES = b"\x47", 188
_PLAYLIST_STARTS = ("#extm3u", "ffconcat", "<?xml", "<mpd", "<smil", "<asx", "v=0", "[playlist]", "[reference]")
_PLAYLIST_MARKS = ("#extm3u", "ffconcat version", "<mpd", "<smil", "<asx", "m=video", "[playlist]", "[reference]")
_STILL_PICTURES = ((b"\x89PNG", "a PNG picture"), (b"GIF8", "a GIF picture"), (b"\xff\xd8\xff", "a JPEG picture"))
# What a picture begins with, and FFmpeg's demuxer of one picture in a file.
_PICTURE_DEMUXERS = (
    (re.compile(rb"\x89PNG"), "png_pipe"),
    (re.compile(rb"\xff\xd8\xff"), "jpeg_pipe"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp_pipe"),
    (re.compile(rb"BM....\0\0\0\0", re.DOTALL), "bmp_pipe"),
)


class Box(NamedTuple):
    """One top-level ISO box."""

    kind: bytes
    start: int
    length: int


def why_not_media(path: Path) -> tuple[Status, str]:
    """Status and message for a file that FFmpeg refused to open as a container."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
        text = _as_text(head)
        if text is not None:
            return _why_not_text(text)
        for magic, what in _STILL_PICTURES:
            if head.startswith(magic):
                return Status.CONTAINER_NOT_ALLOWED, f"this is {what}; give a video or sound file"
        if head[4:8] in _ISO_FIRST_BOXES:
            return _why_not_iso(stream, path.stat().st_size)
    if head.startswith((_EBML, b"RIFF", b"OggS", b"FLV", b"fLaC")):
        return Status.UNDECODABLE, "the container's header is damaged; copy the file again from its source"
    return Status.NOT_MEDIA, "nothing in this file looks like video or sound"


def picture_demuxer(path: Path) -> str:
    """FFmpeg's demuxer for a still picture. Raises MediaError for another file."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    for beginning, demuxer in _PICTURE_DEMUXERS:
        if beginning.match(head):
            return demuxer
    raise MediaError(Status.CONTAINER_NOT_ALLOWED, "not a picture that is read here: PNG, JPEG, WebP or BMP")


def is_cut(path: Path) -> bool | None:
    """Whether the file ends before its outermost structure does; None for formats that do not say."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(4 * _TS_PACKET_BYTES)
        if head[4:8] in _ISO_FIRST_BOXES:
            boxes = list(_iso_boxes(stream, size))
            return any(box.start + box.length > size for box in boxes if box.kind not in _ISO_FILLERS)
        if head.startswith(_EBML):
            return _is_ebml_cut(stream, size)
        if head.startswith(b"RIFF"):
            declared = int.from_bytes(head[4:8], "little")
            return None if declared in (0, 0xFFFFFFFF) else 8 + declared > size
        if head[::_TS_PACKET_BYTES] == _TS_SYNC * 4:
            return True if size % _TS_PACKET_BYTES else None
    return None


def _as_text(head: bytes) -> str | None:
    """The bytes as text, when they are text: valid UTF-8 (but for a cut last letter) without control characters."""
    try:
        text = head[: len(head) - 3].decode() if len(head) == _HEAD_BYTES else head.decode()
    except UnicodeDecodeError:
        return None
    return text if all(letter >= " " or letter in "\t\n\r\f" for letter in text) else None


def _why_not_text(text: str) -> tuple[Status, str]:
    start = text.lstrip("\ufeff \t\r\n").lower()
    if start.startswith(_PLAYLIST_STARTS) and any(mark in start for mark in _PLAYLIST_MARKS):
        return Status.CONTAINER_NOT_ALLOWED, "this is a playlist, which names other files; give those files themselves"
    return Status.NOT_MEDIA, "this is a text file, whatever its name says"


def _why_not_iso(stream: BinaryIO, size: int) -> tuple[Status, str]:
    if any(box.kind == b"moov" for box in _iso_boxes(stream, size)):
        return Status.UNDECODABLE, "the MP4 index (moov) is damaged; copy the file again from its source"
    return (
        Status.NO_INDEX,
        "an MP4 without its index (moov), as a recording that was cut off leaves; repair it with a tool such as "
        "untrunc, or copy it again",
    )


def _iso_boxes(stream: BinaryIO, size: int) -> Iterator[Box]:
    start = 0
    for _ in range(_MAX_BOXES):
        if start + 8 > size:
            return
        stream.seek(start)
        header = stream.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            length = size - start
        if length < 8:
            return
        yield Box(header[4:8], start, length)
        start += length


def _is_ebml_cut(stream: BinaryIO, size: int) -> bool | None:
    stream.seek(4)
    header_length = _ebml_size(stream)
    if header_length is None:
        return None
    stream.seek(header_length, 1)
    if stream.read(4) != _SEGMENT:
        return None
    segment_length = _ebml_size(stream)
    return None if segment_length is None else stream.tell() + segment_length > size


def _ebml_size(stream: BinaryIO) -> int | None:
    """A variable-length size at the stream's position; None when it is unknown (all ones) or missing."""
    first = stream.read(1)
    if not first or first[0] == 0:
        return None
    num_bytes = 9 - first[0].bit_length()
    rest = stream.read(num_bytes - 1)
    value = int.from_bytes(bytes([first[0] & ((1 << (8 - num_bytes)) - 1)]) + rest, "big")
    return None if value == (1 << (7 * num_bytes)) - 1 or len(rest) < num_bytes - 1 else value
