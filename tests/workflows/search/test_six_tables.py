"""One store, six systems: switching the configuration keeps every table, and what two models share is made once."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import frameloom
import pytest
from frameloom import InputError
from frameloom.workflows.project import Project
from frameloom.workflows.project.kept import kept_models
from helpers.projects import make_collection, run_sync, write_config, write_pixel_config

PIXELS = ("test_miles", "test_all_in_one", "test_clover", "test_t2v2t")
READY: dict[str, Any] = {
    "features": {
        "video": {"backbone": "test_classes"},
        "audio": None,
        "text": {"backbone": "test_bert", "options": {"pooling": "mean_of_all"}},
    },
    "model": {"name": None},
    "training": {"recipe": "imagenet_labels", "overrides": {}},
    "store": {"combinations": ["video"]},
}


def switch(folder: Path, name: str) -> None:
    """What a user changes of `frameloom.yaml`."""
    if name in PIXELS:
        write_pixel_config(folder, name)
    else:
        write_config(folder, **(READY if name == "imagenet_labels" else {}))


@pytest.mark.slow
def test_six_systems_have_a_table_each_and_share_what_they_can(tmp_path: Path, decodes: list[str]) -> None:
    make_collection(tmp_path)
    names = ("test_everything_at_once", *PIXELS, "imagenet_labels")
    counted: dict[str, int] = {}
    for name in names:
        before = len(decodes)
        switch(tmp_path, name)
        report = run_sync(tmp_path)
        assert report.exit_code == 0, list(report.lines())
        assert report.done["embedded"] == 8
        counted[name] = len(decodes) - before
    # Everything at Once, the first model of pixels and the ready-made one read other frames; the rest share theirs.
    assert counted == {name: 8 if name in (names[0], PIXELS[0], names[-1]) else 0 for name in names}
    assert max(Counter(decodes).values()) == 3
    project = Project.open(tmp_path)
    assert {one.model for one in kept_models(project)} == set(names)
    tables = {one.model: one.table for one in kept_models(project)}
    assert len(set(tables.values())) == len(names)
    index = frameloom.open(tmp_path)
    answers = {name: index.search("a red picture", top=8, model=name) for name in names}
    assert all(len(found) == 8 for found in answers.values())
    features = [entry.fingerprint for entry in project.store.entries()]
    assert len(features) == len(set(features))
    for name in names:  # back again: nothing is to be done for any of them, and the answers are the same
        switch(tmp_path, name)
        before = len(decodes)
        assert run_sync(tmp_path).did_nothing
        assert len(decodes) == before
        assert frameloom.open(tmp_path).search("a red picture", top=8) == answers[name]
    with pytest.raises(InputError, match=r"no model 'frozen' in this store \(there are: .*test_t2v2t"):
        index.search("a red picture", model="frozen")


def test_several_models_of_a_name_are_told_apart_by_their_folders(made: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(made, tmp_path / "project"))
    write_pixel_config(project, "test_t2v2t", model={"name": "test_t2v2t", "config": {"projection_dim": 24}})
    run_sync(project)
    write_pixel_config(project, "test_miles")
    run_sync(project)
    models = [one for one in kept_models(Project.open(project)) if one.model == "test_t2v2t"]
    assert len(models) == 2
    assert sum(one.table is not None for one in models) == 1  # the last one has taken the table over
    index = frameloom.open(project)
    assert len(index.search("a red picture", top=8, model="test_t2v2t")) == 8
    (older,) = [one.folder for one in models if one.table is None]
    found = index.search("a red picture", top=8, rerank=older, candidates=8)
    assert found.reranking.judged == 8
