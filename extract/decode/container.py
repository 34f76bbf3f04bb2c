"""A file's first bytes and its outermost structure, read without FFmpeg.

What decoders do not say: why FFmpeg could not open a file (text, a playlist, a recording that was never finished), what
its header promises and what was only guessed, which bytes no structure accounts for, what is encrypted, which edits are
not applied. Where a file ends is in `ends`.
Layouts: ISO/IEC 14496-12 section 4.2 (boxes), RFC 8794 (EBML), ISO/IEC 13818-1 (packets of
188 bytes), the RIFF chunk.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from ..._vocabulary import MediaError, Status

HEAD_BYTES = 4096
_FLAGGED_EARLY = 6  # pictures or blocks by which FFmpeg's flag may come before the place
_HEAD_PACKETS = 2000
_MAX_INDEX_BYTES = 64 * 1024**2
ENCRYPTED = "the content is encrypted (protected by a key or a licence): give a copy that plays without one"
MAX_BOXES = 10_000
_MAX_CHUNKS = 1_000_000
ISO_FIRST_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid"})
# The chunks of RIFF (little-endian) and AIFF (big-endian) files that hold content or other chunks.
IFF: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"FORM": "big"}
IFF_SOUND = frozenset({b"WAVE", b"AIFF", b"AIFC"})
IFF_SOUND_CONTENT = frozenset({b"data", b"SSND"})
IFF_CONTENT = frozenset({b"data", b"SSND", b"LIST", b"RIFF"})
_IFF_HEADER_BYTES = 8
# FFmpeg's demuxers of formats in which nothing says how much there is.
_WITHOUT_HEADER = frozenset(
    {"aac", "ac3", "eac3", "dts", "amr", "amrnb", "amrwb", "mpeg", "mpegts", "w64", "caf", "voc"}
)
_PLACEHOLDER_ROUNDING = 1 << 16
_ISO_PAUSE, _ISO_USUAL_RATE = -1, 1 << 16  # of an edit: its start in the media, and its rate in 16.16 bits
_ISO_ENCRYPTED = frozenset({b"encv", b"enca", b"drmi", b"drms"})
EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
TS_SYNC, TS_PACKET_BYTES = b"\x47", 188
_PLAYLIST_STARTS = ("#extm3u", "ffconcat", "<?xml", "<mpd", "<smil", "<asx", "v=0", "[playlist]", "[reference]")
_PLAYLIST_MARKS = ("#extm3u", "ffconcat version", "<mpd", "<smil", "<asx", "m=video", "[playlist]", "[reference]")
_STILL_PICTURES = ((b"\x89PNG", "a PNG picture"), (b"\xff\xd8\xff", "a JPEG picture"))
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
        head = stream.read(HEAD_BYTES)
        text = _as_text(head)
        if text is not None:
            return _why_not_text(text)
        for magic, what in _STILL_PICTURES:
            if head.startswith(magic):
                return Status.CONTAINER_NOT_ALLOWED, f"this is {what}; give a video or sound file"
        if head[4:8] in ISO_FIRST_BOXES:
            return _why_not_iso(stream, path.stat().st_size)
    if head.startswith((EBML, *IFF, b"OggS", b"FLV", b"fLaC", b"caff", b".snd")):
        return Status.UNDECODABLE, "the container's header is damaged; copy the file again from its source"
    return Status.NOT_MEDIA, "nothing in this file looks like a container of video or sound that is read here"


def picture_demuxer(path: Path) -> str:
    """FFmpeg's demuxer for a still picture. Raises MediaError for another file."""
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    for beginning, demuxer in _PICTURE_DEMUXERS:
        if beginning.match(head):
            return demuxer
    raise MediaError(Status.CONTAINER_NOT_ALLOWED, "not a picture that is read here: PNG, JPEG, WebP or BMP")


def unread_bytes(path: Path, read_until: int) -> int:
    """Bytes that look like content and that the structure does not account for, so that decoders pass them over.

    What lies behind a length in a WAV or AIFF header that is too short, a second movie behind the first, Matroska
    segments behind the last byte that was read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(12)
        if head[:4] in IFF and head[8:] in IFF_SOUND:
            chunks = list(iff_chunks(stream, size))
            others = [chunk.start for chunk in chunks if chunk.kind in IFF]
            if others:
                return size - others[0]
            end = max((chunk.start + chunk.length for chunk in chunks), default=size)
            stream.seek(end)
            rest = stream.read(HEAD_BYTES)
            is_padding = not rest.strip(b"\0") or _as_text(rest) is not None
            return 0 if is_padding or any(is_placeholder(chunk.length) for chunk in chunks) else size - end
        if head[4:8] in ISO_FIRST_BOXES:
            boxes = list(iso_boxes(stream, size))
            contents = [box.length for box in boxes if box.kind == b"mdat"]
            return sum(contents[1:]) if sum(box.kind == b"moov" for box in boxes) > 1 else 0
        if head.startswith(EBML):
            return sum(segment.length for segment in ebml_segments(stream) if segment.start > read_until)
    return 0


def num_repeats_at_end(path: Path, stream_index: int) -> int:
    """How many empty chunks, each for one more tick of the last picture, end a stream of an AVI file.

    FFmpeg passes over them, and over their entries in the index.
    """
    count, size, ours = 0, path.stat().st_size, (b"%02ddc" % stream_index, b"%02ddb" % stream_index)
    with path.open("rb") as stream:
        movies = [chunk for chunk in iff_chunks(stream, size) if chunk.kind == b"LIST"]
        for movie in movies:
            place, end = movie.start + 12, min(size, movie.start + movie.length)
            for _ in range(_MAX_CHUNKS):
                stream.seek(place)
                header = stream.read(_IFF_HEADER_BYTES)
                if place >= end or len(header) < _IFF_HEADER_BYTES:
                    break
                length = int.from_bytes(header[4:], "little")
                if header[:4] in ours:
                    count = 0 if length else count + 1
                place += 12 if header[:4] == b"LIST" else _IFF_HEADER_BYTES + length + length % 2
    return count


def encrypted_tracks(path: Path) -> frozenset[int]:
    """The numbers, from 0, of the tracks of an MP4 file whose samples are encrypted (ISO/IEC 14496-12 section 8.12)."""
    entries = [re.search(rb"stsd.{12}(.{4})", track, re.DOTALL) for track in _iso_tracks(path)]
    return frozenset(
        number for number, entry in enumerate(entries) if entry is not None and entry.group(1) in _ISO_ENCRYPTED
    )


def tracks_with_other_edits(path: Path) -> frozenset[int]:
    """The numbers, from 0, of the tracks of an MP4 file with edits that FFmpeg does not apply (section 8.6.6).

    It applies where content begins and ends, and a pause before it; no pause within and no other speed.
    """
    found = set()
    for number, track in enumerate(_iso_tracks(path)):
        place = track.find(b"elst") + 4
        if place < 4 or len(track) < place + 8:
            continue
        layout = struct.Struct(">QqI" if track[place] else ">IiI")
        count = min(int.from_bytes(track[place + 4 : place + 8], "big"), (len(track) - place - 8) // layout.size)
        edits = [layout.unpack_from(track, place + 8 + layout.size * index) for index in range(count)]
        begun = list(dropwhile(lambda edit: edit[1] == _ISO_PAUSE, edits))
        if any(start == _ISO_PAUSE or rate != _ISO_USUAL_RATE for _, start, rate in begun):
            found.add(number)
    return frozenset(found)


def _iso_tracks(path: Path) -> list[bytes]:
    """What describes each track of an MP4 file, in FFmpeg's order of streams; none of another file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(8)[4:] not in ISO_FIRST_BOXES:
            return []
        movie = next((box for box in iso_boxes(stream, size) if box.kind == b"moov"), None)
        if movie is None:
            return []
        stream.seek(movie.start)
        content = stream.read(min(movie.length, _MAX_INDEX_BYTES))
    return content.split(b"trak")[1:]


def looks_encrypted(path: Path) -> bool:
    """Whether a transport stream of which nothing can be decoded is scrambled (ISO/IEC 13818-1 section 2.4.3.3)."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_PACKETS * TS_PACKET_BYTES)
    if head[: 4 * TS_PACKET_BYTES : TS_PACKET_BYTES] != TS_SYNC * 4:
        return False
    flags = head[3::TS_PACKET_BYTES]
    return sum(flag >> 6 > 1 for flag in flags) > len(flags) / 2


def counter_restarts(path: Path, position: int, identity: int) -> bool:
    """Whether the counter of a transport stream's packets begins again at zero, with a picture or block, soon after.

    There files were joined whose clocks go on, such as the segments of a broadcast. Nothing is lost, though FFmpeg
    takes the jump of the counter for a loss.
    """
    with path.open("rb") as stream:
        stream.seek(position)
        head = stream.read(_HEAD_PACKETS * TS_PACKET_BYTES)
    last, num_starts = None, 0
    for place in range(0, len(head) - TS_PACKET_BYTES + 1, TS_PACKET_BYTES):
        sync, high, low, flags = head[place : place + 4]
        if sync != TS_SYNC[0]:
            return False
        if (high & 0x1F) << 8 | low != identity or not flags & 0x10:
            continue
        counter, starts = flags & 0x0F, bool(high & 0x40)
        if last is not None and counter != (last + 1) % 16:
            return starts and counter == 0
        last, num_starts = counter, num_starts + starts
        if num_starts > _FLAGGED_EARLY:
            return False
    return False


def states_duration(path: Path, demuxer: str) -> bool:
    """Whether a file's header states how long it is. Where none does, FFmpeg guesses by the bit rate so far."""
    if demuxer in ("wav", "aiff"):
        with path.open("rb") as stream:
            is_iff = stream.read(4) in IFF
            chunks = iff_chunks(stream, path.stat().st_size) if is_iff else iter(())
            return not any(is_placeholder(chunk.length) for chunk in chunks if chunk.kind in IFF_SOUND_CONTENT)
    if demuxer not in ("mp3", *_WITHOUT_HEADER):
        return True
    with path.open("rb") as stream:
        head = stream.read(10)
        tag_bytes = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
        stream.seek(10 + tag_bytes if head.startswith(b"ID3") else 0)
        first_frame = stream.read(HEAD_BYTES)
    return demuxer == "mp3" and any(mark in first_frame for mark in (b"Xing", b"Info", b"VBRI"))


def states_samples(path: Path) -> bool:
    """Whether a WAV file says how many samples its coded sound becomes (the fact chunk), which is a promise."""
    with path.open("rb") as stream:
        head = stream.read(12)
        is_sound = head[:4] == b"RIFF" and head[8:] in IFF_SOUND
        return is_sound and any(chunk.kind == b"fact" for chunk in iff_chunks(stream, path.stat().st_size))


def is_placeholder(length: int) -> bool:
    """Whether a size was written before the length was known: nothing, or the most that 31 or 32 bits hold, rounded."""
    content = length - _IFF_HEADER_BYTES
    rounding = _PLACEHOLDER_ROUNDING
    return content == 0 or abs(content - (1 << 31)) <= rounding or content >= (1 << 32) - rounding


def iff_chunks(stream: BinaryIO, size: int) -> Iterator[Box]:
    """The chunks of a RIFF or AIFF file without their filling to even lengths; it ends where no chunk begins.

    The one that holds them all is left out, and of others like it there is the head.
    """
    stream.seek(0)
    order = IFF[stream.read(4)]
    start = 12
    for _ in range(MAX_BOXES):
        stream.seek(start)
        header = stream.read(_IFF_HEADER_BYTES)
        kind, length = header[:4], int.from_bytes(header[4:], order)
        is_over = start + _IFF_HEADER_BYTES + length > size
        if (
            len(header) < _IFF_HEADER_BYTES
            or not kind.isascii()
            or not kind.decode().isprintable()
            or (is_over and kind not in IFF_CONTENT)
        ):
            return
        if kind in IFF and not is_over:  # of an AVI beyond 1 GB, or of a file that was joined on
            length = 4
        yield Box(kind, start, _IFF_HEADER_BYTES + length)
        start += _IFF_HEADER_BYTES + length + length % 2


def _as_text(head: bytes) -> str | None:
    """The bytes as text, when they are text: valid UTF-8 (but for a cut last letter) without control characters."""
    try:
        text = head[: len(head) - 3].decode() if len(head) == HEAD_BYTES else head.decode()
    except UnicodeDecodeError:
        return None
    return text if all(letter >= " " or letter in "\t\n\r\f" for letter in text) else None


def _why_not_text(text: str) -> tuple[Status, str]:
    start = text.lstrip("\ufeff \t\r\n").lower()
    if start.startswith(_PLAYLIST_STARTS) and any(mark in start for mark in _PLAYLIST_MARKS):
        return Status.CONTAINER_NOT_ALLOWED, "this is a playlist, which names other files; give those files themselves"
    return Status.NOT_MEDIA, "this is a text file, whatever its name says"


def _why_not_iso(stream: BinaryIO, size: int) -> tuple[Status, str]:
    if any(box.kind == b"moov" for box in iso_boxes(stream, size)):
        return Status.UNDECODABLE, "the MP4 index (moov) is damaged; copy the file again from its source"
    return (
        Status.NO_INDEX,
        "an MP4 without its index (moov), as a recording that was cut off leaves; repair it with a tool such as "
        "untrunc, or copy it again",
    )


def iso_boxes(stream: BinaryIO, size: int) -> Iterator[Box]:
    start = 0
    for _ in range(MAX_BOXES):
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


def ebml_segments(stream: BinaryIO) -> Iterator[Box]:
    """The segments of a Matroska file, up to one without a size: one, or more where files were joined."""
    start = 0
    for _ in range(MAX_BOXES):
        stream.seek(start)
        kind, length = stream.read(4), ebml_size(stream)
        if kind not in (EBML, _SEGMENT) or length is None:
            return
        end = stream.tell() + length
        if kind == _SEGMENT:
            yield Box(kind, start, end - start)
        start = end


def ebml_size(stream: BinaryIO) -> int | None:
    """A variable-length size at the stream's position; None when it is unknown (all ones) or missing."""
    first = stream.read(1)
    if not first or first[0] == 0:
        return None
    num_bytes = 9 - first[0].bit_length()
    rest = stream.read(num_bytes - 1)
    value = int.from_bytes(bytes([first[0] & ((1 << (8 - num_bytes)) - 1)]) + rest, "big")
    return None if value == (1 << (7 * num_bytes)) - 1 or len(rest) < num_bytes - 1 else value
