"""Which table and which word vectors belong to which model, as files of a store say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from frameloom import InputError, IntegrityError
from frameloom.workflows.index import Index
from frameloom.workflows.project import Project
from frameloom.workflows.project.kept import kept_models, kept_project, kept_words, table_of
from helpers.projects import run_sync, write_config


def write(root: Path, name: str, data: object) -> None:
    (root / "models").mkdir(parents=True, exist_ok=True)
    (root / "models" / name).write_text(json.dumps(data))


def test_the_first_model_has_the_configured_table_and_others_their_own(tmp_path: Path) -> None:
    assert table_of(tmp_path, "clips", "clover") == "clips"
    write(tmp_path, "tables.json", {"clips": "clover-0123456789ab"})
    assert table_of(tmp_path, "clips", "clover") == "clips"
    assert table_of(tmp_path, "clips", "t2v2t") == "clips_t2v2t"
    assert table_of(tmp_path, "others", "t2v2t") == "others"
    assert table_of(tmp_path, "clips", "My-Model " * 9) == ("clips_" + "my_model_" * 9)[:63]
    (tmp_path / "models" / "tables.json").write_text("[]")
    with pytest.raises(IntegrityError, match=r"tables\.json is damaged"):
        table_of(tmp_path, "clips", "clover")


def test_each_kind_of_words_has_its_pointer_and_older_stores_have_one(tmp_path: Path) -> None:
    assert kept_words(tmp_path, "word_pieces-{}.txt") == {}
    write(tmp_path, "word_vectors.json", {"file": "word_pieces-aa.txt"})
    assert kept_words(tmp_path, "word_pieces-{}.txt")["file"] == "word_pieces-aa.txt"
    assert kept_words(tmp_path, "word_vectors-{}.bin") == {}
    write(tmp_path, "word_pieces.json", {"file": "word_pieces-bb.txt"})
    write(tmp_path, "word_vectors.json", {"file": "word_vectors-cc.bin"})
    assert kept_words(tmp_path, "word_pieces-{}.txt")["file"] == "word_pieces-bb.txt"
    assert kept_words(tmp_path, "word_vectors-{}.bin")["file"] == "word_vectors-cc.bin"


def test_a_store_that_was_moved_knows_its_models(synced: Path, tmp_path: Path) -> None:
    write_config(synced, model={"name": "test_avlnet"})
    assert run_sync(synced).exit_code == 0
    moved = Path(shutil.move(synced, tmp_path / "elsewhere"))
    project = Project.open(moved)
    assert {one.model for one in kept_models(project)} == {"test_everything_at_once", "test_avlnet"}
    other = kept_project(project, "test_everything_at_once")
    assert (other.base.resolve(), other.root.resolve()) == (moved.resolve(), (moved / ".frameloom").resolve())
    found = Index(moved).search("a red picture", model="test_everything_at_once")
    assert Path(found[0].path).is_file()


def test_names_of_models_that_are_not_there(synced: Path) -> None:
    project = Project.open(synced)
    assert kept_project(project, "test_everything_at_once") is project
    assert kept_project(project, str(synced)).root == project.root
    with pytest.raises(InputError, match=r"no model 'clover' in this store \(there are: test_everything_at_once\)"):
        kept_project(project, "clover")
