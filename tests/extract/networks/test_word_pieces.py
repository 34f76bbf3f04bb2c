"""Word pieces: learned ones are the same in every process, files are read as BERT reads them, others are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from frameloom import ConfigError, InputError
from frameloom._vocabulary import Status
from frameloom.extract import create_backbone, learned_words
from frameloom.extract.networks.word_pieces import SPECIAL_PIECES, train_word_pieces
from helpers.children import run_python
from transformers import BertTokenizer

CAPTIONS = [
    f"A {colour} dog {verb} on the {place}"
    for colour in ("red", "green", "blue", "grey", "Ünder")
    for verb in ("runs", "walks", "jumped")
    for place in ("grass", "street 日本", "roof", "re-entry's edge")
]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pieces") / "vocab.txt"
    train_word_pieces(CAPTIONS, path, vocabulary=400)
    return path


def folder_of(pieces: Path, folder: Path) -> Path:
    """The same vocabulary as transformers saves it."""
    BertTokenizer(vocab={piece: number for number, piece in enumerate(lines(pieces))}).save_pretrained(folder)
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_the_same_captions_give_the_same_bytes_in_any_process(pieces: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys; os.environ['RAYON_NUM_THREADS'] = sys.argv[2]\n"
        "from pathlib import Path; from frameloom.extract.networks.word_pieces import train_word_pieces\n"
        f"train_word_pieces({CAPTIONS!r}, Path(sys.argv[1]), vocabulary=400)"
    )
    for threads in ("1", "7"):
        run_python(code, str(tmp_path / threads), threads)
        assert (tmp_path / threads).read_bytes() == pieces.read_bytes()
    train_word_pieces(CAPTIONS[1:], tmp_path / "other", vocabulary=400)
    assert (tmp_path / "other").read_bytes() != pieces.read_bytes()


def test_special_pieces_are_where_bert_has_them_and_words_are_whole(pieces: Path) -> None:
    found = lines(pieces)
    assert {piece: found.index(piece) for piece in SPECIAL_PIECES} == SPECIAL_PIECES
    assert len(found) == len(set(found)) <= 400
    assert {"dog", "street", "under", "日"} <= set(found)


@pytest.mark.parametrize("vocabulary", [256, 300, 400])
def test_a_vocabulary_has_at_most_as_many_pieces_as_asked_for(vocabulary: int, tmp_path: Path) -> None:
    many = [*CAPTIONS, "".join(map(chr, range(0x4E00, 0x4E00 + 500)))]
    train_word_pieces(many, tmp_path / "v.txt", vocabulary=vocabulary)
    assert len(lines(tmp_path / "v.txt")) <= vocabulary


def test_captions_without_a_word_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 2 captions holds a word"):
        train_word_pieces(["", " \n"], tmp_path / "v.txt")
    assert not (tmp_path / "v.txt").exists()


def test_a_text_is_cut_as_transformers_cuts_it(pieces: Path, tmp_path: Path) -> None:
    ours = create_backbone("wordpiece", weights=pieces, vocabulary=400)
    by_folder = create_backbone("wordpiece", weights=folder_of(pieces, tmp_path / "bert"), vocabulary=400)
    theirs = BertTokenizer.from_pretrained(str(tmp_path / "bert"))
    for text in ("A Red DOG, running!", "the greenest street 日本", "zebra \ud800 ẞ", CAPTIONS[3]):
        expected = theirs(text.encode("utf-8", "replace").decode())["input_ids"]
        for backbone in (ours, by_folder):
            found = backbone.encode(text)
            assert found.values[:, 0].tolist() == expected
            assert (found.values.dtype, found.status) == (np.int32, Status.OK)
            assert np.isnan(found.times).all()


def test_capitals_count_where_they_are_asked_to(pieces: Path) -> None:
    as_written = create_backbone("wordpiece", weights=pieces, vocabulary=400, lower_case=False)
    assert SPECIAL_PIECES["[UNK]"] in as_written.encode("RED").values
    assert SPECIAL_PIECES["[UNK]"] not in as_written.encode("red").values


def test_a_text_without_a_word_and_one_that_never_ends(pieces: Path) -> None:
    backbone = create_backbone("wordpiece", weights=pieces, vocabulary=400)
    empty = backbone.encode("  ")
    assert (empty.status, len(empty.values)) == (Status.NO_TEXT, 0)
    long = backbone.encode("dog " * 900)
    assert (len(long.values), long.values[0, 0], long.values[-1, 0]) == (512, 101, 102)
    assert long.message == "only the first 512 word pieces were read"


def test_vocabularies_of_other_kinds_are_refused(pieces: Path, tmp_path: Path) -> None:
    def refused(path: Path, what: type[Exception], match: str) -> None:
        with pytest.raises(what, match=match):
            create_backbone("wordpiece", weights=path, vocabulary=300)

    (tmp_path / "many.txt").write_text(pieces.read_text() + "".join(f"{number}\n" for number in range(1000, 1200)))
    refused(tmp_path / "many.txt", InputError, f"the option vocabulary: {len(lines(pieces)) + 200}")
    moved = tmp_path / "moved.txt"
    moved.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ndog\n")
    refused(moved, InputError, r"\[UNK\] at 1, not at BERT's place 100")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    refused(tmp_path / "bytes.txt", InputError, "not a text of one piece a line")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    refused(tmp_path / "folder", ConfigError, "no vocabulary in")
    with pytest.raises(ConfigError, match="lower_case"):
        create_backbone("wordpiece", weights=pieces, lower_case=1)


def test_a_backbone_says_what_it_learns() -> None:
    learned = learned_words("wordpiece", vocabulary=900)
    assert learned is not None
    assert dict(learned.options) == {"vocabulary": 900, "lower_case": True}
    assert learned_words("bert_base_uncased") is None
