"""Clips into classes: by the names of the classes, by a linear probe, and what is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from frameloom import InputError
from frameloom.workflows.cli.app import app
from frameloom.workflows.experiments import classes as module
from frameloom.workflows.experiments import evaluate_classes
from frameloom.workflows.project import Project
from helpers.projects import make_collection, run_sync, write_config
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of four colours, of which one grey clip has no class."""
    folder = tmp_path_factory.mktemp("classes") / "project"
    make_collection(folder)
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        colour = row["video"].split("/")[1].split()[0]
        row |= {"split": "test" if number % 2 else "train", "colour": colour if number != 7 else ""}
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_config(folder)
    assert run_sync(folder).exit_code == 0
    return folder


def test_classes_are_found_by_names_and_by_a_probe(made: Path) -> None:
    found = evaluate_classes(Project.open(made), column="colour", prompt="a {} picture")
    assert (found.num_clips, found.num_classes, found.unseen) == (3, 4, 0)
    assert found.left_out == {"it has no class": 1}
    # The clips of a colour look the same to the frozen network, so that a probe tells them apart.
    assert found.accuracy["probe"] == 100.0
    assert found.accuracy["majority"] == pytest.approx(100 / 3)
    assert all(low <= found.accuracy[name] <= high for name, (low, high) in found.intervals.items())


def test_the_nearest_name_is_the_guess(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Project.open(made).table.get(where="is_primary", columns=["video", "vector"])
    of_colour = {row["video"].split("/")[1].split()[0]: np.array(row["vector"], np.float32) for row in rows}
    asked: list[str] = []

    def named(_session: object, sentences: list[str]) -> np.ndarray:
        asked.extend(sentences)
        return np.stack([of_colour[sentence.split()[0]] for sentence in sentences])

    monkeypatch.setattr(module, "_named", named)
    found = evaluate_classes(Project.open(made), column="colour", prompt="{} it is")
    assert asked == ["blue it is", "green it is", "grey it is", "red it is"]
    assert found.accuracy["zero-shot"] == 100.0


def test_the_command_and_its_refusals(made: Path) -> None:
    config = ["-c", str(made / "frameloom.yaml")]
    done = CliRunner().invoke(app, ["evaluate", *config, "--classes", "colour"])
    assert done.exit_code == 0, done.output
    assert "3 clips of the split 'test', 4 classes of the column 'colour'" in done.output
    assert "1 clip left out: it has no class" in done.output
    for options, message in (
        (["--classes", "taste"], "the manifest has no column 'taste' with anything in it; it has colour, views"),
        (["--classes", "colour", "--split", "val"], "0 clips of the split 'val' have a value"),
        (["--classes", "colour", "--prompt", "it"], "write {} once"),
        (["--classes", "colour", "--prompt", "{} qqqq"], None),
    ):
        refused = CliRunner().invoke(app, ["evaluate", *config, *options])
        assert refused.exit_code == (2 if message else 0)
        assert message is None or message in refused.output


def test_a_class_of_no_training_clip_is_counted(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "project"))
    text = (folder / "captions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    rows[1]["colour"] = "crimson"
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(InputError, match="no word of"):
        evaluate_classes(Project.open(folder), column="colour")  # nobody taught this word
    found = evaluate_classes(Project.open(folder), column="colour", prompt="a {} picture")
    assert (found.num_classes, found.unseen) == (5, 1)
    assert found.accuracy["probe"] == pytest.approx(200 / 3)
