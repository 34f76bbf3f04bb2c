"""Files of word vectors in the two word2vec formats, read with bounds and written durably; and making them with gensim.

Layout: a first line "V D", then V entries. Text: the word and D numbers on a line. Binary: the word, a blank, D
little-endian float32. The reader is our own: it needs no gensim to answer a question, believes no number in the
header that the file's size contradicts, and cannot execute anything (gensim's own ``.kv`` and ``.model`` files are
pickles: refused).
"""

from __future__ import annotations

import mmap
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._files import make_folder, publish
from ..._vocabulary import InputError

_WORD = re.compile(r"[\w']+")
_MAX_HEADER_BYTES = 64
_MAX_WORD_BYTES = 1000
_MAX_DIM = 10_000
_MAX_LINE_BYTES_PER_NUMBER = 64
_PICKLED = (".kv", ".model", ".pkl", ".npy")
# Mean length of a vector, near that of the GoogleNews ones, so that a model may move from the one to the other.
_MEAN_LENGTH = 2.0
_SPECTRUM_POWER = 0.25
_NOISE = 1e-6  # singular values below this share of the largest are float32's rounding


class WordVectors(NamedTuple):
    """V words and their vectors (V, D), float32, in the order of the file."""

    words: list[str]
    vectors: NDArray[np.float32]


def tokenize(text: str) -> list[str]:
    """The words of a text: runs of word characters and apostrophes, case kept."""
    return _WORD.findall(text)


def read_word_vectors(path: str | Path) -> WordVectors:
    """Read a file in either word2vec format, found out by looking.

    Raises:
        InputError: the file is of another kind, or damaged.
    """
    path = Path(path)
    if path.suffix in _PICKLED:
        raise InputError(
            f"word vectors in {path}: this kind of file can run code when it is read; where it "
            "came from, write it with save_word2vec_format(..., binary=True) and give that file"
        )
    size = path.stat().st_size
    with path.open("rb") as stream:
        num_words, dim = _read_header(path, stream.readline(_MAX_HEADER_BYTES), size)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _read_text if _is_text(data, stream.tell(), dim) else _read_binary
            words, vectors = reader(path, data, stream.tell(), num_words, dim)
    if not np.isfinite(vectors).all():
        raise InputError(f"word vectors in {path}: some values are not finite numbers")
    first = {word: row for row, word in reversed(list(enumerate(words)))}
    kept = sorted(first.values())  # of a word that occurs twice the first vector counts, as in gensim
    return (
        WordVectors([words[row] for row in kept], vectors[kept])
        if len(kept) < len(words)
        else WordVectors(words, vectors)
    )


def train_word_vectors(
    captions: Sequence[str], path: str | Path, *, dim: int = 300, seed: int = 0, epochs: int = 20
) -> None:
    """Train word2vec (skip-gram, negative sampling) on captions and write the vectors in the binary format.

    The same captions and seed give the same bytes: one worker thread, and no use of Python's random hashes. Every
    word is kept, however rare, but for those of 1,000 bytes and more, which the format's reader refuses. What the
    vectors have in common is taken out (`spread` says why), and all are scaled by one factor to mean length 2.

    Raises:
        InputError: the captions hold no word.
    """
    readable = ([word for word in tokenize(text) if len(word.encode()) < _MAX_WORD_BYTES] for text in captions)
    sentences = [words for words in readable if words]
    if not sentences:
        raise InputError(f"none of the {len(captions)} captions holds a word; word vectors need at least one")
    from gensim.models import Word2Vec

    model = Word2Vec(
        sentences=sentences,
        vector_size=dim,
        window=5,
        min_count=1,
        sg=1,
        negative=5,
        sample=0,
        seed=seed,
        workers=1,
        epochs=epochs,
        hashfxn=lambda word: zlib.crc32(str(word).encode()),
    )
    vectors = np.asarray(model.wv.vectors, np.float32)
    write_word_vectors(WordVectors(list(model.wv.index_to_key), spread(vectors)), path)


def write_word_vectors(vectors: WordVectors, path: str | Path) -> None:
    """Write the binary format, durably and whole or not at all."""
    lines = [b"%d %d\n" % vectors.vectors.shape]
    for word, vector in zip(vectors.words, vectors.vectors, strict=True):
        lines.append(word.encode() + b" " + vector.astype("<f4").tobytes())
    path = Path(path)
    make_folder(path.parent)
    publish(path, b"".join(lines))


def spread(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (V, D) whose common part and strongest directions weigh less: centred, singular values to the power 1/4.

    A small collection uses the words of a kind (its colours, say) in the same few contexts, and their trained vectors
    end up with cosines of 0.98 to 0.99, which hides from a model what a caption says. This leaves them about 0.5, and
    words of different kinds below 0. The harder form, which drops the strongest directions, is Mu and Viswanath,
    "All-but-the-Top" (ICLR 2018).
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, strengths, right = np.linalg.svd(centred, full_matrices=False)
    kept = strengths > _NOISE * strengths[0]
    flat = (left[:, kept] * strengths[kept] ** _SPECTRUM_POWER) @ right[kept] if kept.any() else vectors
    mean_length = np.linalg.norm(flat, axis=1).mean()
    scaled: NDArray[np.float32] = (flat * (_MEAN_LENGTH / mean_length)).astype(np.float32)
    return scaled


def _read_header(path: Path, line: bytes, size: int) -> tuple[int, int]:
    """Number of words and width, as far as the file's size allows: an entry has a byte for each number at least."""
    match = re.fullmatch(rb"(\d{1,12}) (\d{1,6})\r?\n", line)
    if match is None:
        raise InputError(f"word vectors in {path}: expected a first line 'number_of_words width', found {line[:40]!r}")
    num_words, dim = int(match.group(1)), int(match.group(2))
    if not 1 <= dim <= _MAX_DIM or num_words < 1:
        raise InputError(
            f"word vectors in {path}: {num_words} words of width {dim}; at least 1 word of width 1 to {_MAX_DIM}"
        )
    if num_words * (2 + dim) > size:
        raise InputError(
            f"word vectors in {path}: the first line promises {num_words} words of width {dim}, for which "
            f"a file of {size} bytes is too short; fetch it again"
        )
    return num_words, dim


def _is_text(data: mmap.mmap, start: int, dim: int) -> bool:
    """Whether the first entry is a line of a word and D numbers."""
    end = data.find(b"\n", start, start + _MAX_WORD_BYTES + dim * _MAX_LINE_BYTES_PER_NUMBER)
    fields = data[start : len(data) if end < 0 else end].split() if end >= 0 or len(data) - start < 1 << 20 else []
    if len(fields) != dim + 1:
        return False
    try:
        [float(number) for number in fields[1:]]
    except ValueError:
        return False
    return True


def _read_text(
    path: Path, data: mmap.mmap, start: int, num_words: int, dim: int
) -> tuple[list[str], NDArray[np.float32]]:
    words, vectors = [], np.empty((num_words, dim), np.float32)
    data.seek(start)
    for row in range(num_words):
        fields = data.readline().rstrip(b"\r\n").rsplit(b" ", dim) if data.tell() < len(data) else []
        if len(fields) != dim + 1 or not all(fields):
            raise InputError(f"word vectors in {path}: entry {row + 1} of {num_words} is not a word and {dim} numbers")
        words.append(_word(path, fields[0], row))
        try:
            vectors[row] = [float(number) for number in fields[1:]]
        except ValueError as error:
            raise InputError(f"word vectors in {path}: entry {row + 1}: {error}") from error
    return words, vectors


def _read_binary(
    path: Path, data: mmap.mmap, start: int, num_words: int, dim: int
) -> tuple[list[str], NDArray[np.float32]]:
    if num_words * (2 + 4 * dim) > len(data):
        raise InputError(
            f"word vectors in {path}: the file is too short for {num_words} words of width {dim}; fetch it again"
        )
    words, vectors = [], np.empty((num_words, dim), np.float32)
    for row in range(num_words):
        blank = data.find(b" ", start, start + _MAX_WORD_BYTES)
        end = blank + 1 + 4 * dim
        if blank < 0 or end > len(data):
            raise InputError(
                f"word vectors in {path}: entry {row + 1} of {num_words} is damaged or missing; fetch it again"
            )
        words.append(_word(path, data[start:blank].lstrip(b"\r\n"), row))
        vectors[row] = np.frombuffer(data[blank + 1 : end], "<f4")
        start = end
    return words, vectors


def _word(path: Path, raw: bytes, row: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"word vectors in {path}: the word of entry {row + 1} is not UTF-8: {raw[:40]!r}") from error
