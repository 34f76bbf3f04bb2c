"""Word vectors: read as gensim reads them, refused where they are damaged, and made the same way every time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom import ConfigError, FrameloomError, InputError, Status
from frameloom.extract import create_backbone, tokenize, train_word_vectors
from frameloom.extract.networks.word_vectors import WordVectors, read_word_vectors, write_word_vectors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CAPTIONS = [
    f"{a} {colour} {shape} {verb} a {sound}"
    for a in ("a", "one")
    for colour in ("red", "green", "blue", "yellow")
    for shape in ("dot", "square")
    for verb, sound in (("plays", "beep"), ("makes", "buzz"))
]
WORDS = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=12)


def write_text(path: Path, vectors: WordVectors) -> None:
    lines = [f"{word} {' '.join(map(repr, map(float, row)))}" for word, row in zip(*vectors, strict=True)]
    path.write_text(f"{len(vectors.words)} {vectors.vectors.shape[1]}\n" + "\n".join(lines) + "\n", encoding="utf-8")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS, min_size=1, max_size=8, unique=True), dim=st.integers(1, 9), as_text=st.booleans())
def test_what_is_written_is_read(tmp_path: Path, words: list[str], dim: int, as_text: bool) -> None:
    written = WordVectors(words, np.random.default_rng(dim).standard_normal((len(words), dim)).astype(np.float32))
    path = tmp_path / "vectors"
    (write_text if as_text else lambda path, vectors: write_word_vectors(vectors, path))(path, written)
    found = read_word_vectors(path)
    assert found.words == words
    assert np.array_equal(found.vectors, written.vectors)


@pytest.mark.parametrize("binary", [True, False])
def test_reads_what_gensim_writes_as_gensim_reads_it(tmp_path: Path, binary: bool) -> None:
    from gensim.models import KeyedVectors

    theirs = KeyedVectors(7)
    words = ["Don't", "add", "sel", "poivre", "été", "日本"]
    theirs.add_vectors(words, np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32))
    path = tmp_path / "vectors.bin"
    theirs.save_word2vec_format(str(path), binary=binary)
    ours, again = read_word_vectors(path), KeyedVectors.load_word2vec_format(str(path), binary=binary)
    assert ours.words == again.index_to_key == words
    assert np.array_equal(ours.vectors, again.vectors)
    write_word_vectors(ours, path)
    assert np.array_equal(KeyedVectors.load_word2vec_format(str(path), binary=True).vectors, ours.vectors)


def test_of_a_word_that_occurs_twice_the_first_vector_counts(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("3 2\na 1 2\nb 3 4\na 5 6\n")
    found = read_word_vectors(tmp_path / "v.txt")
    assert found.words == ["a", "b"]
    assert found.vectors.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "first line"),
        (b"hello\n", "first line"),
        (b"2\n", "first line"),
        (b"-3 4\na 1 2 3 4\n", "first line"),
        (b"0 4\n", "at least 1 word"),
        (b"3 0\n", "at least 1 word"),
        (b"1000000000 300\na " + b"0 " * 300, "too short"),
        (b"2 3\na 1 2 3\nb 1 2\n", "entry 2 of 2"),
        (b"2 3\na 1 2 3\nb 1 2 x\n", "entry 2"),
        (b"2 3\na 1 2 3\n      ", "entry 2 of 2"),
        (b"1 2\na 1 nan\n", "finite"),
        (b"1 2\n\xff\xfe 1 2\n", "UTF-8"),
        (b"2 4\nab " + bytes(16) + b"\ncd " + bytes(3), "too short"),
        (b"2 4\nab " + bytes(16) + b"\ncd " + bytes(9), "entry 2 of 2"),
        (b"2 4\nab " + bytes(16) + b"\n" + b"x" * 40, "entry 2 of 2"),
        (b"1 4\n" + b"y" * 4000, "entry 1 of 1"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "vectors.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_word_vectors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".kv", ".model", ".pkl", ".npy"])
def test_files_that_could_run_code_are_refused_unread(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"vectors{suffix}").write_bytes(b"1 1\na 1\n")
    with pytest.raises(InputError, match="can run code"):
        read_word_vectors(tmp_path / f"vectors{suffix}")


def test_words_keep_their_case_and_their_apostrophes() -> None:
    assert tokenize("Don't add the salt, yet! 3 eggs_2") == ["Don't", "add", "the", "salt", "yet", "3", "eggs_2"]
    assert tokenize("  \n\t") == []


def test_unknown_words_are_dropped_and_nothing_known_is_a_status(tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    write_word_vectors(WordVectors(["dog", "Dog", "runs"], np.eye(3, dtype=np.float32)), path)
    backbone = create_backbone("word2vec", weights=path, dim=3)
    assert backbone.encode("The Dog, a dog, runs!").values.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert len(backbone.encode("dog " * 50).values) == 50
    unknown = backbone.encode("cats sleep")
    assert (unknown.status, unknown.values.shape) == (Status.NO_TEXT, (0, 3))
    assert "cats" in unknown.message
    assert backbone.encode("!!").status is Status.NO_TEXT


def test_a_width_that_is_not_the_specified_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    write_word_vectors(WordVectors(["a"], np.ones((1, 5), np.float32)), path)
    with pytest.raises(ConfigError, match="dim: 5"):
        create_backbone("word2vec", weights=path)


def test_training_gives_the_same_bytes_whatever_python_s_hash_seed(tmp_path: Path) -> None:
    train_word_vectors(CAPTIONS, tmp_path / "a.bin", dim=12, epochs=3)
    code = (
        "import sys; from pathlib import Path; from frameloom.extract import train_word_vectors\n"
        f"train_word_vectors({CAPTIONS!r}, Path(sys.argv[1]), dim=12, epochs=3)"
    )
    env = {**os.environ, "PYTHONHASHSEED": "123"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b.bin")], check=True, env=env)
    content = (tmp_path / "a.bin").read_bytes()
    assert (tmp_path / "b.bin").read_bytes() == content
    train_word_vectors(CAPTIONS, tmp_path / "c.bin", dim=12, epochs=3, seed=1)
    assert (tmp_path / "c.bin").read_bytes() != content


def test_trained_vectors_tell_words_of_a_kind_apart(tmp_path: Path) -> None:
    train_word_vectors(CAPTIONS, tmp_path / "v.bin", dim=50)
    words, vectors = read_word_vectors(tmp_path / "v.bin")
    assert set(words) == set(" ".join(CAPTIONS).split())
    assert np.linalg.norm(vectors, axis=1).mean() == pytest.approx(2.0, rel=1e-3)
    unit = dict(zip(words, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=True))
    colours = [unit[word] for word in ("red", "green", "blue", "yellow")]
    assert max(colours[i] @ colours[j] for i in range(4) for j in range(i)) < 0.9


def test_captions_without_words_are_refused_and_one_word_will_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 2 captions"):
        train_word_vectors(["", "?!"], tmp_path / "v.bin")
    assert not (tmp_path / "v.bin").exists()
    train_word_vectors(["hello"], tmp_path / "v.bin", dim=4)
    assert read_word_vectors(tmp_path / "v.bin").words == ["hello"]


@pytest.mark.parametrize("letter", ["w", "ö"])
def test_a_word_that_no_reader_takes_is_left_out(tmp_path: Path, letter: str) -> None:
    long, longest_kept = letter * 1100, letter * (999 // len(letter.encode()))
    train_word_vectors([f"a {long} dog", long, f"a {longest_kept} cat"], tmp_path / "v.bin", dim=4, epochs=1)
    assert set(read_word_vectors(tmp_path / "v.bin").words) == {"a", "dog", "cat", longest_kept}
    with pytest.raises(InputError, match="holds a word"):
        train_word_vectors([long], tmp_path / "w.bin", dim=4, epochs=1)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, old = tmp_path / "v.bin", WordVectors(["a"], np.ones((1, 2), np.float32))
    write_word_vectors(old, path)

    def fail(handle: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr("frameloom._files.os.fsync", fail)
    with pytest.raises(FrameloomError, match="no space"):
        write_word_vectors(WordVectors(["b"], np.zeros((1, 2), np.float32)), path)
    assert read_word_vectors(path).words == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_question_is_spelled_as_the_vectors_are(tmp_path: Path) -> None:
    write_word_vectors(
        WordVectors(["a", "dog", "Paris", "TV", "The", "the"], np.eye(6, 4, dtype=np.float32)), tmp_path / "v.bin"
    )
    backbone: Any = create_backbone("word2vec", weights=tmp_path / "v.bin", dim=4)
    assert backbone.respelled("A DOG in paris, the tv") == "a dog in Paris the TV"
    assert backbone.respelled("The dog") == "The dog"
    # Captions stay as they are written: features that are stored do not change.
    assert len(backbone.encode("A Dog").values) == 0
    assert len(backbone.encode(backbone.respelled("A Dog")).values) == 2
