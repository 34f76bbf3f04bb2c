"""Ways to damage a media file, seeded: the same seed damages the same bytes.

A mutation takes the bytes of a file and of a second one (for swaps and splices) and gives the bytes of a damaged file.
Boxes are those of ISO/IEC 14496-12 section 4.2, chunks those of RIFF, clusters those of RFC 8794; where a file has
none of them, a mutation that needs them takes plain ranges of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Mutator = Callable[[bytes, bytes, np.random.Generator], bytes]

_BOX_NESTS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"moof", b"traf", b"mvex"})
_BOX_KINDS = _BOX_NESTS | {
    b"ftyp", b"mdat", b"free", b"mvhd", b"tkhd", b"mdhd", b"hdlr", b"stsd", b"stts", b"stss", b"ctts", b"stsc", b"stsz",
    b"stco", b"co64", b"elst", b"udta", b"vmhd", b"smhd", b"dref", b"mfhd", b"tfhd", b"tfdt", b"trun", b"trex", b"mfra",
}  # fmt: skip
_CLUSTER = b"\x1f\x43\xb6\x75"
_RIFF_CHUNKS = (b"RIFF", b"LIST", b"movi", b"idx1", b"avih", b"strh", b"strf")
_LIES = (0, 1, 7, 8, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
_LONGEST_RANGE = 8192
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Mutant:
    """A damaged file, how it was damaged and from what."""

    path: Path
    kind: str
    source: Path


@dataclass(frozen=True)
class _Box:
    kind: bytes
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


def flip_bits(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Between 1 and 32 single bits, anywhere."""
    damaged = bytearray(content)
    for _ in range(int(generator.integers(1, 33))):
        damaged[generator.integers(len(damaged))] ^= 1 << int(generator.integers(8))
    return bytes(damaged)


def flip_bits_of_the_head(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Between 1 and 8 single bits of the first bytes, where formats keep their structure."""
    return flip_bits(content[:_HEAD_BYTES], other, generator) + content[_HEAD_BYTES:]


def garbage(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A range of random bytes in place of what was there."""
    start, end = _range(content, generator)
    return content[:start] + generator.bytes(end - start) + content[end:]


def zero_range(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A range of zeros in place of what was there, as a disk's lost block leaves."""
    start, end = _range(content, generator)
    return content[:start] + bytes(end - start) + content[end:]


def duplicate_range(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A range that comes twice, which moves everything after it."""
    start, end = _range(content, generator)
    return content[:end] + content[start:end] + content[end:]


def delete_range(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A range that is left out, which moves everything after it."""
    start, end = _range(content, generator)
    return content[:start] + content[end:]


def truncate(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """The file up to anywhere."""
    return content[: int(generator.integers(1, len(content)))]


def swap_heads(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """The first bytes of another file before the rest of this one."""
    length = int(generator.integers(16, _HEAD_BYTES))
    return other[:length] + content[length:]


def swap_indices(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """The index (``moov``) of another file for the samples of this one; without one, the first third of another."""
    mine, theirs = _first(content, b"moov"), _first(other, b"moov")
    if mine is None or theirs is None:
        return other[: len(other) // 3] + content[len(content) // 3 :]
    return content[: mine.start] + other[theirs.start : theirs.end] + content[mine.end :]


def splice_tracks(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A track of another file in place of one of this file's, all sizes being right; without tracks, a splice."""
    mine, theirs = _all(content, b"trak"), _all(other, b"trak")
    index = _first(content, b"moov")
    if not mine or not theirs or index is None:
        return splice(content, other, generator)
    old, new = _choice(mine, generator), _choice(theirs, generator)
    length = index.length - old.length + new.length
    body = content[index.start + 4 : old.start] + other[new.start : new.end] + content[old.end : index.end]
    return content[: index.start] + length.to_bytes(4, "big") + body + content[index.end :]


def splice(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """The beginning of this file and the end of another, joined at clusters or transport packets if there are any."""
    return content[: _joint(content, generator)] + other[_joint(other, generator) :]


def inflate_sizes(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """One to three sizes in the headers of boxes, chunks or clusters that lie."""
    damaged = bytearray(content)
    places = [(box.start, "big") for box in _boxes(content)]
    places += [(place + 4, "little") for mark in _RIFF_CHUNKS for place in _find(content, mark)]
    places += [(place + 4, "big") for place in _find(content, _CLUSTER)]
    places = places or [(int(generator.integers(max(1, min(len(content), _HEAD_BYTES) - 4))), "big")]
    for _ in range(int(generator.integers(1, 4))):
        place, order = places[generator.integers(len(places))]
        damaged[place : place + 4] = _LIES[generator.integers(len(_LIES))].to_bytes(
            4, "big" if order == "big" else "little"
        )
    return bytes(damaged)


def lie_in_tables(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Up to eight fields of four bytes inside boxes other than the samples, or of the head, set to extreme values."""
    damaged = bytearray(content)
    boxes = [box for box in _boxes(content) if box.kind not in _BOX_NESTS | {b"mdat"} and box.length >= 16]
    for _ in range(int(generator.integers(1, 9))):
        box = _choice(boxes, generator) if boxes else _Box(b"", 0, min(len(content), _HEAD_BYTES))
        place = box.start + 8 + 4 * int(generator.integers(max(1, (box.length - 8) // 4)))
        damaged[place : place + 4] = _LIES[generator.integers(len(_LIES))].to_bytes(4, "big")
    return bytes(damaged[: len(content)])


MUTATORS: dict[str, Mutator] = {
    mutator.__name__: mutator
    for mutator in (
        flip_bits,
        flip_bits_of_the_head,
        garbage,
        zero_range,
        duplicate_range,
        delete_range,
        truncate,
        swap_heads,
        swap_indices,
        splice_tracks,
        splice,
        inflate_sizes,
        lie_in_tables,
    )
}


def mutants(sources: Sequence[Path], folder: Path, *, count: int, seed: int) -> Iterator[Mutant]:
    """Damaged files, one at a time, each kind in turn; a file is removed when the next one is asked for."""
    generator = np.random.default_rng(seed)
    kinds = list(MUTATORS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        source, other = (sources[index] for index in generator.choice(len(sources), 2, replace=len(sources) < 2))
        path = folder / f"{number:05d}_{kind}{source.suffix}"
        path.write_bytes(MUTATORS[kind](source.read_bytes(), other.read_bytes(), generator))
        yield Mutant(path, kind, source)
        path.unlink()


def _range(content: bytes, generator: np.random.Generator) -> tuple[int, int]:
    start = int(generator.integers(len(content)))
    return start, min(len(content), start + int(generator.integers(1, _LONGEST_RANGE)))


def _choice(boxes: list[_Box], generator: np.random.Generator) -> _Box:
    return boxes[generator.integers(len(boxes))]


def _find(content: bytes, mark: bytes) -> Iterator[int]:
    place = content.find(mark)
    while place >= 0:
        if place + 8 <= len(content):
            yield place
        place = content.find(mark, place + 1)


def _joint(content: bytes, generator: np.random.Generator) -> int:
    clusters = list(_find(content, _CLUSTER))
    if clusters:
        return clusters[generator.integers(len(clusters))]
    if content[:1] == b"\x47" and len(content) > 188:
        return 188 * int(generator.integers(1, len(content) // 188 + 1))
    return int(generator.integers(len(content)))


def _boxes(content: bytes, start: int = 0, end: int | None = None) -> Iterator[_Box]:
    """Every known box, parents before children."""
    end = len(content) if end is None else end
    while start + 8 <= end:
        length, kind = int.from_bytes(content[start : start + 4], "big"), content[start + 4 : start + 8]
        if length < 8 or start + length > end or kind not in _BOX_KINDS:
            return
        yield _Box(kind, start, length)
        if kind in _BOX_NESTS:
            yield from _boxes(content, start + 8, start + length)
        start += length


def _all(content: bytes, kind: bytes) -> list[_Box]:
    return [box for box in _boxes(content) if box.kind == kind]


def _first(content: bytes, kind: bytes) -> _Box | None:
    return next((box for box in _boxes(content) if box.kind == kind), None)
