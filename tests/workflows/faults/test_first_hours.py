"""What a new user meets: what is missing is said before any work, and what was left out with the answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import frameloom
import numpy as np
import pytest
from click.testing import Result
from frameloom._vocabulary import ConfigError, InputError
from frameloom.fuse import create_model
from frameloom.train import get_recipe
from frameloom.workflows.cli.app import app
from frameloom.workflows.cli.options import without_tests
from frameloom.workflows.console import Console, printable
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync import stages
from frameloom.workflows.sync.executor import open_executor
from frameloom.workflows.sync.report import file_lines
from frameloom.workflows.sync.sync import make_plan
from helpers.projects import make_clip, run_sync, write_config
from typer.testing import CliRunner

TINY = {"name": "everything_at_once_tiny"}


def run(*command: str) -> Result:
    return CliRunner().invoke(app, list(command))


@pytest.fixture
def silent(tmp_path: Path) -> Path:
    """Two clips without captions."""
    (tmp_path / "videos").mkdir()
    for name in ("a", "b"):
        make_clip(tmp_path / "videos" / f"{name}.mp4", colour="red", pitch="low", seconds=1)
    write_config(tmp_path, collection={"captions": None}, features={"text": None}, model=TINY)
    return tmp_path


# Nothing to learn


def test_an_objective_without_a_term_is_refused_before_any_work(silent: Path, decodes: list[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"nothing to learn: .* video and audio.* set model\.config: \{lambda_va: 1\}"
    ):
        run_sync(silent)
    assert decodes == []
    write_config(
        silent, collection={"captions": None}, features={"text": None}, model={**TINY, "config": {"lambda_va": 1}}
    )
    assert run_sync(silent).done["trained"] == 1


def test_pictures_alone_are_nothing_to_compare(silent: Path) -> None:
    config = {"captions": None}
    write_config(
        silent, collection=config, features={"text": None, "audio": None}, model=TINY, store={"combinations": ["video"]}
    )
    with pytest.raises(ConfigError, match=r"nothing to learn: the training split has video, of which") as caught:
        run_sync(silent)
    assert "lambda" not in str(caught.value)


def test_a_training_whose_loss_has_no_term_is_an_error_everywhere(
    synced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(synced, model={"config": {f"lambda_{one}": 0 for one in ("tv", "ta", "va", "t_va", "v_ta", "a_tv")}})
    monkeypatch.setattr(sys.modules[make_plan.__module__], "_check_trainable", lambda _: None)
    with pytest.raises(InputError, match="no term of the objective of test_everything_at_once applies"):
        run_sync(synced)


def test_a_list_without_a_row_to_train_on_is_refused_before_any_work(silent: Path, decodes: list[str]) -> None:
    rows = [{"video": f"videos/{name}.mp4", "captions": ["red"], "split": "test"} for name in "abcdef"]
    (silent / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_config(silent, collection={"videos": "list.jsonl", "captions": None})
    with pytest.raises(
        ConfigError, match=r"every row of the 2 videos .* split test, and 4 videos of the list are missing"
    ):
        run_sync(silent)
    assert decodes == []


def test_missing_videos_are_counted_and_not_listed() -> None:
    files = [{"path": f"{n}.mp4", "status": "missing", "message": "no such file"} for n in range(1000)]
    files += [{"path": f"x{n}.mp4", "status": "not_media", "message": "text"} for n in range(22)]
    lines = list(file_lines(files))
    assert lines[0] == "  0.mp4: missing: no such file"
    assert lines[-2:] == ["  missing: 999 more (--json names them)", "  not_media: 2 more (--json names them)"]
    assert len(lines) == 1 + 20 + 2


def test_epochs_that_are_given_count() -> None:
    assert get_recipe("everything_at_once_tiny").min_steps == 120
    assert get_recipe("everything_at_once_tiny", epochs=2).min_steps == 0
    assert get_recipe("everything_at_once_tiny", epochs=2, min_steps=7).min_steps == 7
    assert get_recipe("everything_at_once_tiny", batch_size=2).min_steps == 120


def test_no_is_a_word_where_yaml_reads_a_truth() -> None:
    assert get_recipe("everything_at_once", precision=False).precision == "no"
    with pytest.raises(ConfigError):
        get_recipe("everything_at_once", precision=True)


# With the answers


def test_words_that_are_left_out_are_named(synced_once: Path) -> None:
    index = frameloom.open(synced_once / "frameloom.yaml")
    found = index.search("A RED zebra, a Zebra")
    assert [note for note in found.notes if "left out" in note] == [
        "not in the vocabulary, and left out of the question: zebra, Zebra"
    ]
    assert not any("left out" in note for note in index.search("A RED picture").notes)
    answer = run("query", "red zebra", "-c", str(synced_once / "frameloom.yaml"), "--json")
    assert "frameloom: note: not in the vocabulary, and left out of the question: zebra\n" in answer.stderr
    assert json.loads(answer.stdout)[0]["video"]


def test_a_condition_that_no_row_fulfils_is_named(synced_once: Path) -> None:
    index = frameloom.open(synced_once / "frameloom.yaml")
    found = index.search("red", where="split = 'val'")
    assert (len(found), found.notes[-1]) == (0, "no row of the table fulfils the condition of `where`")
    assert not any("condition" in note for note in index.search("red", where="split = 'test'").notes)


def test_random_features_are_announced(synced_once: Path) -> None:
    note = "features are random, for trying out: test_resnet (see `frameloom weights`)"
    assert f"note: {note}" in make_plan(Project.open(synced_once, read_only=True)).notes
    assert note in frameloom.open(synced_once / "frameloom.yaml").search("red").notes


def test_a_clip_is_named_by_its_video(synced_once: Path) -> None:
    index = frameloom.open(synced_once / "frameloom.yaml")
    first = index.search("red")[0]
    assert index.search(like=first.video, top=20) == index.search(like=first.clip, top=20)
    assert index.search(like=f"{first.video}@0.5", top=20) == index.search(like=first.clip, top=20)
    with pytest.raises(InputError, match="no clip has the id"):
        index.search(like=f"{first.video}@99")


def test_an_evaluation_says_what_was_missing(synced: Path) -> None:
    rows = [json.loads(line) for line in (synced / "captions.jsonl").read_text().splitlines()]
    silent = {row["video"] for row in rows if "None" in row["video"]}
    for row in rows:
        row["split"] = "test" if row["video"] in silent or "low" in row["video"] else "train"
    (synced / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_sync(synced)
    found = frameloom.open(synced / "frameloom.yaml").evaluate()
    assert found.missing["audio"] == len(silent) > 0
    assert found.missing["video"] == 0
    assert f"  audio: {len(silent)} of the {found.num_items} clips have none, and come last" in list(found.lines())
    assert (found.num_unasked, found.num_absent) == (0, 0)


# Models of others


def test_an_authors_file_becomes_a_checkpoint(synced: Path) -> None:
    import torch

    specs = {spec.modality.value: spec.dim for spec in Project.open(synced).specs}
    model = create_model("test_howto100m", video_dim=specs["video"], text_dim=specs["text"])
    torch.save(model.to_official(), synced / "theirs.pth")
    write_config(synced, model={"checkpoint": "theirs.pth"})
    refused = run("query", "red", "-c", str(synced / "frameloom.yaml"))
    assert refused.exit_code == 2
    assert "frameloom import-model" in refused.stderr
    folder = synced / "imported"
    command = ["import-model", str(synced / "theirs.pth"), str(folder), "--model", "test_howto100m"]
    assert "do not fit the model's configuration" in run(*command).stderr
    done = run(*command, "--option", f"video_dim={specs['video']}", "--option", f"text_dim={specs['text']}")
    assert done.exit_code == 0, done.output
    again = run(*command)
    assert (again.exit_code, "not an empty folder" in again.stderr) == (2, True)
    text = {"backbone": "word2vec", "options": {"dim": 16}, "weights": _vectors(synced)}
    write_config(
        synced,
        model={"checkpoint": "imported"},
        features={"text": text, "audio": None},
        store={"combinations": ["video"]},
    )
    report = run_sync(synced)
    assert (report.done["trained"], report.done["embedded"], report.exit_code) == (0, 8, 0)
    assert run("query", "red", "-c", str(synced / "frameloom.yaml")).exit_code == 0


def _vectors(folder: Path) -> str:
    (path,) = (folder / ".frameloom" / "models").glob("word_vectors-*.bin")
    return str(path)


# Addresses, lists, terminals


@pytest.mark.parametrize(
    "address", ["nonsense", "tcp://", "tcp://10.0.0.1", "tcp://host.invalid:8786", "tcp://x:99999"]
)
def test_what_is_no_address_of_a_scheduler_is_refused_at_once(address: str) -> None:
    with (
        pytest.raises(ConfigError, match=r"run\.scheduler: no Dask scheduler can be at"),
        open_executor(workers=None, scheduler=address),
    ):
        pytest.fail("the block began")


def test_names_for_tests_are_listed_where_they_are_asked_for() -> None:
    assert without_tests(["test_a", "b"], "*") == ["b"]
    assert without_tests(["test_a"], "test_*") == ["test_a"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\x1b[2Jb", r"a\x1b[2Jb"), ("a\u202eb", r"a\u202eb"), ("\x9b1m", r"\x9b1m"), ("ä\n\t漢", "ä\n\t漢")],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(text) == shown
    Console().say(text)
    assert capsys.readouterr().err == f"{shown}\n"


def test_captions_with_controls_reach_no_terminal(synced: Path) -> None:
    path = synced / "captions.jsonl"
    path.write_text(path.read_text().replace("a red picture", "a red \\u001b[2J\\u009bpicture"))
    run_sync(synced)
    config = str(synced / "frameloom.yaml")
    for flags in ([], ["--json"]):
        answer = run("query", "red", "-c", config, *flags)
        assert answer.exit_code == 0
        assert not {"\x1b", "\x9b"} & {*answer.stdout}
    assert any("\x9b" in caption for one in json.loads(answer.stdout) for caption in one["captions"])


def test_rates_are_those_of_the_backbones_and_the_model(synced: Path) -> None:
    def seconds() -> Any:
        return make_plan(Project.open(synced, read_only=True)).estimated_seconds

    assert seconds() == 0
    write_config(synced, training={"overrides": {"epochs": 4, "batch_size": 4}})
    assert seconds() > 0
    write_config(synced, model={"name": "everything_at_once_tiny"})
    assert seconds() is None
    assert "million weights)" in (make_plan(Project.open(synced, read_only=True)).train or "")
    assert stages.rate_name("extract", "b", "a") == "extract a b"


def test_files_from_the_future_are_remembered(silent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import time

    from frameloom import _files
    from frameloom._files import SETTLED_SECONDS, is_settled

    path = silent / "videos" / "a.mp4"
    now = time.time()
    os.utime(path, (now, now + 10_000))
    assert not is_settled(path.stat())  # its time of change is of now
    monkeypatch.setattr(_files, "time", SimpleNamespace(time=lambda: now + 2 * SETTLED_SECONDS))
    assert is_settled(path.stat())
    assert np.isfinite(SETTLED_SECONDS)
