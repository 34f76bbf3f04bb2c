"""Retrieval in two stages as a user meets it: which candidates are judged, in what order answers come, what it cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import frameloom
import numpy as np
import pytest
from frameloom import ConfigError, FrameloomError, InputError
from frameloom.workflows.cli.app import app
from frameloom.workflows.experiments.evaluate import evaluate
from frameloom.workflows.project import Project
from frameloom.workflows.search import Query, SearchSession
from frameloom.workflows.search.rerank import Reranker
from frameloom.workflows.search.results import Candidate
from helpers.projects import make_collection, run_sync
from helpers.projects import write_pixel_config as configure
from typer.testing import CliRunner

JUDGES = ["test_t2v2t", "test_clover", "test_all_in_one"]


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "project"))


@pytest.mark.parametrize("judge", JUDGES)
def test_answers_have_the_order_of_the_joint_head(made: Path, judge: str) -> None:
    index = frameloom.open(made)
    first = index.search("a red picture", top=8)
    found = index.search("a red picture", top=8, rerank=judge, candidates=8)
    assert {one.clip for one in found} == {one.clip for one in first}
    assert [first[one.rank_before - 1].clip for one in found] == [one.clip for one in found]
    for one in found:
        named = {score.name: score.value for score in one.scores}
        assert named["rerank"] == one.score
        assert named["sight"] == pytest.approx(first[one.rank_before - 1].score)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert (found.reranking.candidates, found.reranking.judged, found.reranking.decoded) == (8, 8, 0)
    # The same numbers as the model itself gives for the frames that are stored.
    reranker = Reranker.called(Project.open(made), judge)
    clips = [Candidate(Path(one.path), one.start_seconds, one.end_seconds) for one in found]
    again = [reranker.judged("a red picture", [clip]).scores[0] for clip in clips]
    np.testing.assert_allclose(again, [one.score for one in found], atol=1e-4)


def test_top_and_candidates_are_two_numbers(made: Path) -> None:
    index = frameloom.open(made)
    whole = index.search("a red picture", top=6, rerank="test_t2v2t", candidates=6)
    assert {one.rank_before for one in whole} == {1, 2, 3, 4, 5, 6}
    page = index.search("a red picture", top=2, offset=3, rerank="test_t2v2t", candidates=6)
    assert [one.clip for one in page] == [one.clip for one in whole[3:5]]
    assert index.search("a red picture", top=1)[0].rank_before is None


def test_a_clip_is_encoded_once(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = SearchSession(Project.open(made))
    judge = session.reranker("test_t2v2t")
    seen: list[int] = []
    original = judge.model.states

    def states(modality: str, tokens: Any) -> Any:
        seen.extend([len(tokens.mask)] if modality == "video" else [])
        return original(modality, tokens)

    monkeypatch.setattr(judge.model, "states", states)
    first = session.search(Query(text="a red picture", rerank="test_t2v2t", candidates=8, top=8))
    assert sum(seen) == 8
    second = session.search(Query(text="a blue picture", rerank="test_t2v2t", candidates=8, top=8))
    assert sum(seen) == 8
    assert session.reranker("test_t2v2t") is judge
    assert {one.clip for one in first} == {one.clip for one in second}


def test_what_is_remembered_is_bounded(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from frameloom.workflows.search import rerank

    judge = Reranker.called(Project.open(made), "test_t2v2t")
    monkeypatch.setattr(rerank, "MOST_KEPT_BYTES", 1)
    clips = [Candidate(path, 0.0, 2.0) for path in sorted((made / "videos").iterdir())]
    scores = judge.judged("a red picture", clips).scores
    assert len(judge._kept) == 1
    np.testing.assert_allclose(judge.judged("a red picture", clips).scores, scores, atol=1e-5)


def test_without_time_nothing_is_judged_and_the_order_stays(made: Path) -> None:
    index = frameloom.open(made)
    first = index.search("a red picture", top=8)
    found = index.search("a red picture", top=8, rerank="test_t2v2t", candidates=8, budget_seconds=0)
    assert [one.clip for one in found] == [one.clip for one in first]
    assert [one.score for one in found] == [one.score for one in first]
    assert found.reranking.judged == 0
    assert any("budget of 0 s" in line for line in found.reranking.lines())


def test_when_the_time_is_up_the_rest_keep_their_order(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from frameloom.workflows.search import rerank

    clock = iter(range(1000))
    monkeypatch.setattr(rerank, "PAIRS_A_BATCH", 2)
    monkeypatch.setattr(rerank, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    session = SearchSession(Project.open(made))
    query = Query(text="a red picture", rerank="test_t2v2t", candidates=8, top=8, budget_seconds=3.0)
    found = session.search(query)
    assert found.reranking.judged == 4  # two batches of 2 begin before the third second
    assert {one.rank_before for one in found[:4]} == {1, 2, 3, 4}
    assert [one.rank_before for one in found[4:]] == [5, 6, 7, 8]
    assert all("rerank" not in [score.name for score in one.scores] for one in found[4:])


def test_no_candidates_are_no_answers(made: Path) -> None:
    found = frameloom.open(made).search("a red picture", where="views = 99", rerank="test_t2v2t")
    assert (list(found), found.reranking.candidates, found.reranking.judged) == ([], 0, 0)


def test_one_frame_is_enough(project: Path) -> None:
    configure(project, "test_t2v2t", model={"name": "test_t2v2t", "num_frames": 1})
    assert run_sync(project).exit_code == 0
    found = frameloom.open(project).search("a red picture", top=8, rerank="test_t2v2t", candidates=8)
    assert all(np.isfinite(one.score) for one in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rerank": "test_miles"}, "no joint head; models that re-rank: all_in_one,"),
        ({"rerank": "nothing"}, r"no model 'nothing' in this store \(there are: test_all_in_one, test_clover,"),
        ({"rerank": "test_t2v2t", "candidates": 3, "top": 4}, "4 answers of 3 candidates"),
        ({"rerank": "test_t2v2t", "candidates": 0}, "candidates is 0"),
        ({"rerank": "test_t2v2t", "budget_seconds": -1}, "budget_seconds is -1"),
        ({"rerank": "test_t2v2t", "diversity": 0.5}, "leave out --merge"),
        ({"rerank": "test_t2v2t", "ensemble": "median"}, "ensemble is 'median'"),
        ({"rerank": "test_t2v2t", "text": " "}, "empty question"),
        ({"rerank": "test_t2v2t", "text": None, "like": "x"}, "--rerank reads words with frames"),
    ],
)
def test_what_cannot_be_judged_is_refused(made: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        frameloom.open(made).search(**{"text": "a red picture", **options})


def test_frames_that_are_not_stored_are_decoded(project: Path, tmp_path: Path) -> None:
    """By a model of another project, which has half of the clips: a file is known by its content, wherever it lies."""
    other = Path(shutil.copytree(project, tmp_path / "other", ignore=shutil.ignore_patterns(".frameloom")))
    apart = tmp_path / "apart"
    apart.mkdir()
    for path in [*(other / "videos").glob("blue*"), *(other / "videos").glob("grey*")]:
        path.rename(apart / path.name)
    configure(other, "test_t2v2t")
    run_sync(other)
    found = frameloom.open(project).search("a red picture", top=8, rerank=str(other), candidates=8)
    assert (found.reranking.judged, found.reranking.decoded) == (8, 4)
    for path in apart.iterdir():
        path.rename(other / "videos" / path.name)
    assert run_sync(other).done["trained"] == 0
    again = frameloom.open(project).search("a red picture", top=8, rerank=str(other), candidates=8)
    assert (again.reranking.judged, again.reranking.decoded) == (8, 0)
    assert {one.clip: one.score for one in again} == pytest.approx({one.clip: one.score for one in found}, abs=1e-4)


def test_a_clip_whose_file_is_gone_keeps_its_place_behind_the_others(project: Path) -> None:
    index = frameloom.open(project)
    first = index.search("a red picture", top=8)
    Path(first[0].path).unlink()
    found = index.search("a red picture", top=8, rerank="test_t2v2t", candidates=8)
    assert found[-1].clip == first[0].clip
    assert len(found.reranking.problems) == 1
    assert Path(first[0].path).name in found.reranking.problems[0]


@pytest.mark.parametrize(("ensemble", "group_frames"), [("mean", 1), ("max", 2), ("lse", 3)])
def test_frames_are_judged_in_groups(made: Path, ensemble: Any, group_frames: int) -> None:
    judge = Reranker.called(Project.open(made), "test_t2v2t")
    clips = [Candidate(path, 0.0, 2.0) for path in sorted((made / "videos").iterdir())]
    together = judge.judged("a red picture", clips).scores
    apart = judge.judged("a red picture", clips, ensemble=ensemble, group_frames=group_frames).scores
    assert np.isfinite(apart).all()
    all_frames = judge.judged("a red picture", clips, ensemble=ensemble, group_frames=4).scores
    np.testing.assert_allclose(all_frames, together, atol=1e-5)  # one group of all


def test_evaluation_says_what_the_second_stage_wins_and_costs(made: Path) -> None:
    project = Project.open(made)
    found = evaluate(project, split="train", rerank="test_t2v2t", candidates=3)
    second = found.rerank
    assert second is not None
    assert (second.model, second.candidates) == ("test_t2v2t", 3)
    assert second.pairs == 3 * found.num_queries
    assert second.recall >= second.metrics["r1"]
    assert second.difference["r1"] == pytest.approx(second.metrics["r1"] - found.metrics["video"]["r1"])
    none = evaluate(project, split="train", rerank="test_t2v2t", candidates=3, budget_seconds=0.0).rerank
    assert none is not None
    assert none.metrics == found.metrics["video"]
    assert (none.pairs, none.difference["r1"]) == (0, 0.0)
    assert any("the answer is among them" in line for line in found.lines())


def test_evaluation_has_the_order_of_the_scores(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that knows the answer makes all that the candidates allow of it."""
    from frameloom.workflows.search.rerank import Judged

    def all_knowing(self: Any, text: str, candidates: Any, **how: Any) -> Judged:
        scores = np.array([float(text.split()[1] in one.path.name) for one in candidates], np.float32)
        return Judged(scores=scores, seconds=0.0, num_decoded=0, problems=())

    monkeypatch.setattr(Reranker, "judged", all_knowing)
    second = evaluate(Project.open(made), split="train", rerank="test_t2v2t", candidates=6).rerank
    assert second is not None
    assert second.recall == 100.0  # the split has 6 clips
    assert second.metrics["medr"] == 1.5  # two clips have each colour


def test_the_command_says_what_it_did(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    run = CliRunner()
    done = run.invoke(
        app, ["query", "a red picture", "--rerank", "test_t2v2t", "--candidates", "5", "--top", "2", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)) == 2
    assert {"rank_before", "scores"} <= json.loads(done.stdout)[0].keys()
    assert "5 of 5 candidates judged by test_t2v2t" in done.stderr
    done = run.invoke(app, ["query", "a red picture", "--rerank", "test_t2v2t", "--budget", "0", "--top", "2"])
    assert "0 of 8 candidates" in done.stderr
    assert "(before: 1)" in done.stdout
    done = run.invoke(app, ["evaluate", "--split", "train", "--rerank", "test_clover", "--candidates", "4", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rerank"]["pairs"] == 4 * json.loads(done.stdout)["num_queries"]
    done = run.invoke(app, ["query", "a red picture", "--rerank", "test_miles"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)


def test_a_project_that_was_not_synced_cannot_judge(project: Path, tmp_path: Path) -> None:
    make_collection(tmp_path / "new")
    configure(tmp_path / "new", "test_t2v2t")
    with pytest.raises(FrameloomError, match="nothing is indexed yet"):
        frameloom.open(project).search("a red picture", rerank=str(tmp_path / "new"))
