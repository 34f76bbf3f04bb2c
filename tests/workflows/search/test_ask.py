"""A question about one video: who answers it, from which answers, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameloom import ConfigError, FrameloomError, InputError, MediaError
from frameloom.fuse import Tokens, create_model
from frameloom.fuse.t2v2t import T2V2TConfig, VindLUQA
from frameloom.fuse.t2v2t.model import TINY
from frameloom.train import save_checkpoint
from frameloom.workflows.cli.app import app
from frameloom.workflows.project import Project
from frameloom.workflows.project.kept import kept_project
from frameloom.workflows.search import SearchSession
from frameloom.workflows.search.ask import ask
from helpers.projects import make_collection, write_pixel_config
from typer.testing import CliRunner

ANSWERS = ["red", "green", "blue"]
LIMITS = {"max_words": 12, "num_frames": 4, "rule": "frozen_in_time", "size": 32}


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "project"))


def clip(folder: Path) -> Path:
    return folder / "videos" / "red & low.v1.mp4"


def test_a_head_chooses_among_the_answers_that_it_learned(project: Path) -> None:
    options: dict[str, Any] = {"task": "open_answer", "num_answers": 3, "vocab_size": 256}
    model = create_model("test_clover", **options)
    save_checkpoint(model, project / "given", provenance={"answers": ANSWERS, "limits": LIMITS})
    write_pixel_config(project, "test_clover", model={"name": "test_clover", "checkpoint": "given"})
    opened = Project.open(project)
    reply = ask(opened, clip(project), "what colour is it?")
    assert (reply.way, len(reply.answers)) == ("head", 3)
    assert sum(one.probability for one in reply.answers) == pytest.approx(1.0)
    # The same numbers as the model gives for what the project reads.
    session = SearchSession(opened)
    text = torch.from_numpy(session.words("what colour is it?").astype(np.int64)).T
    frames = session.frames_of(clip(project))
    from frameloom._vocabulary import canonical_json
    from frameloom.train.data import sample_batch

    spec = canonical_json(session.resolved.features.media[0].spec.identity())
    video = sample_batch([{"video": frames}], session.resolved.limits, spec=spec)["video"]
    with torch.no_grad():
        scores = model.eval().answers(text=Tokens(text, torch.ones_like(text)), video=video)[0]
    best = int(scores.argmax())
    assert reply.answers[0].answer == ANSWERS[best]
    assert reply.answers[0].score == pytest.approx(float(scores[best]), abs=1e-5)
    two = ask(opened, clip(project), "what colour is it?", answers=["blue", "red"])
    assert {one.answer for one in two.answers} == {"blue", "red"}
    assert len(ask(opened, clip(project), "what colour is it?", top=1).answers) == 1
    with pytest.raises(InputError, match="did not learn the answer 'purple'"):
        ask(opened, clip(project), "what colour is it?", answers=["purple"])


def test_a_joint_head_says_how_well_each_answer_fits(made: Path) -> None:
    project = kept_project(Project.open(made), "test_t2v2t")
    reply = ask(project, clip(made), "what colour is the picture", answers=ANSWERS)
    assert (reply.way, reply.model) == ("matching", "test_t2v2t")
    session = SearchSession(project)
    judge = SearchSession(Project.open(made)).reranker("test_t2v2t")
    from frameloom.workflows.search import Candidate

    for one in reply.answers:
        alone = judge.judged(f"what colour is the picture {one.answer}", [Candidate(clip(made), 0.0, 2.0)]).scores[0]
        assert one.score == pytest.approx(float(alone), abs=1e-4)
    assert session.model.name == "test_t2v2t"


def test_the_authors_file_ranks_given_answers(made: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = VindLUQA(T2V2TConfig(**{**TINY, "vocab_size": 256, "fusion": "unidirectional"}))
    torch.save(model.to_official(), tmp_path / "qa.pth")
    opened = Project.open(made)
    how: dict[str, Any] = {"answers": ANSWERS, "weights": tmp_path / "qa.pth", "model": "vindlu_qa"}
    reply = ask(opened, clip(made), "what colour is it?", **how)
    assert reply.way == "ranking"
    assert sorted(one.answer for one in reply.answers) == sorted(ANSWERS)
    assert sum(one.probability for one in reply.answers) == pytest.approx(1.0)
    assert [one.probability for one in reply.answers] == sorted(
        (one.probability for one in reply.answers), reverse=True
    )
    with pytest.raises(ConfigError, match="say by --model what it is"):
        ask(opened, clip(made), "what?", answers=ANSWERS, weights=tmp_path / "qa.pth")
    with pytest.raises(InputError, match=r"no such file|does not exist|missing\.pth"):
        ask(opened, clip(made), "what?", answers=ANSWERS, weights=tmp_path / "missing.pth", model="vindlu_qa")


def test_a_span_is_looked_at_alone(made: Path) -> None:
    project = kept_project(Project.open(made), "test_t2v2t")
    whole = ask(project, clip(made), "what colour", answers=ANSWERS)
    outside = ask(project, clip(made), "what colour", answers=ANSWERS, span=(50.0, 60.0))  # the nearest frame
    assert {one.answer for one in whole.answers} == {one.answer for one in outside.answers}


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("test_t2v2t", {"question": "  "}, "an empty question"),
        ("test_t2v2t", {"answers": []}, "has learned no answers: give some"),
        ("test_t2v2t", {"answers": ["red", " red"]}, "give each once"),
        ("test_t2v2t", {"answers": [""]}, "with a word at least"),
        ("test_t2v2t", {"top": 0}, "top = 0"),
        ("test_t2v2t", {"question": "\u200b"}, "no word of"),
        ("test_miles", {}, "no joint head; models that re-rank"),
    ],
)
def test_what_cannot_be_answered_is_refused(made: Path, model: str, options: dict[str, Any], message: str) -> None:
    given = {"question": "what colour", "answers": ANSWERS, **options}
    if options.get("question") == "\u200b":
        given["answers"] = ["\u200b"]
    with pytest.raises((InputError, ConfigError), match=message):
        ask(kept_project(Project.open(made), model), clip(made), **given)


def test_files_that_cannot_be_read_and_models_that_are_not_there(made: Path, tmp_path: Path) -> None:
    project = kept_project(Project.open(made), "test_t2v2t")
    with pytest.raises(MediaError):
        ask(project, tmp_path / "nothing.mp4", "what colour", answers=ANSWERS)
    make_collection(tmp_path / "new")
    write_pixel_config(tmp_path / "new", "test_t2v2t")
    with pytest.raises(FrameloomError, match="run `frameloom sync`"):
        ask(Project.open(tmp_path / "new"), clip(made), "what colour", answers=ANSWERS)


def test_the_command(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    (tmp_path / "answers.txt").write_text("red\n\ngreen\n")
    run = CliRunner()
    options = ["--model", "test_t2v2t", "--answers", str(tmp_path / "answers.txt"), "--answer", "blue"]
    done = run.invoke(app, ["ask", str(clip(made)), "what colour is it?", *options, "--json"])
    assert done.exit_code == 0, done.output
    assert {one["answer"] for one in json.loads(done.stdout)["answers"]} == set(ANSWERS)
    done = run.invoke(app, ["ask", str(clip(made)), "what colour is it?", *options])
    assert done.stdout.count("%") == 3
    for wrong in (
        ["ask", "nothing.mp4", "what?", *options],
        ["ask", str(clip(made)), "what?", "--answers", "none.txt"],
    ):
        done = run.invoke(app, wrong)
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
