"""Evaluation of a project: which captions ask, intervals, two models on the same questions, TREC files, mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from frameloom import ConfigError, InputError
from frameloom.workflows.cli.app import app
from frameloom.workflows.index import Index
from helpers.projects import make_collection, run_sync, write_config
from typer.testing import CliRunner, Result


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models over the same clips, all of which are to be found; the second hears nothing."""
    found = []
    for name, sections in (("both", {}), ("seen", {"features": {"audio": None}})):
        folder = tmp_path_factory.mktemp("evaluate") / name
        make_collection(folder)
        path = folder / "captions.jsonl"
        path.write_text(path.read_text().replace('"train"', '"test"').replace("test", "train", 4))
        write_config(folder, **sections)
        assert run_sync(folder).exit_code == 0
        found.append(folder)
    return found[0], found[1]


def command(folder: Path, *arguments: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(app, ["evaluate", *arguments])


def test_each_figure_has_its_interval(projects: tuple[Path, Path]) -> None:
    found = Index(projects[0]).evaluate()
    assert list(found.metrics) == list(found.intervals) == ["video", "audio", "video+audio"]
    for name, values in found.metrics.items():
        for column, (low, high) in found.intervals[name].items():
            assert low <= values[column] <= high
    lines = list(found.lines())
    assert [line.split()[0] for line in lines if "[" in line] == ["video", "audio", "video+audio"]


def test_the_first_captions_ask_or_all(projects: tuple[Path, Path]) -> None:
    index = Index(projects[0])
    first, every = index.evaluate(), index.evaluate(captions="all")
    assert every.num_items == first.num_items == first.num_queries
    assert every.num_queries == 2 * first.num_queries


def test_two_models_answer_the_same_questions(projects: tuple[Path, Path]) -> None:
    ours, theirs = (Index(one).evaluate() for one in projects)
    compared = Index(projects[0]).evaluate(against=projects[1] / "frameloom.yaml").against
    assert compared is not None
    assert (compared.combination, compared.other_combination) == ("video+audio", "video")
    assert compared.other == str(projects[1])
    for column, value in compared.difference.items():
        assert value == ours.metrics["video+audio"][column] - theirs.metrics["video"][column]
        low, high = compared.intervals[column]
        assert low <= value <= high
    itself = Index(projects[0]).evaluate(against=projects[0]).against
    assert itself is not None
    assert set(itself.intervals.values()) == {(0.0, 0.0)}


def test_other_questions_are_not_compared(projects: tuple[Path, Path], synced: Path) -> None:
    with pytest.raises(InputError, match=r"2 questions in this split where .* has 4, 2 of them the same"):
        Index(projects[0]).evaluate(against=synced)


def test_a_run_lets_other_tools_read_the_answers(projects: tuple[Path, Path], tmp_path: Path) -> None:
    names = ["R@1", "R@5", "RR"]
    found = Index(projects[0]).evaluate(captions="all", run=tmp_path / "out.trec", measures=names)
    run = list(ir_measures.read_trec_run(str(tmp_path / "out.trec")))
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "out.qrels")))
    assert len(qrels) == found.num_queries
    assert len({(one.query_id, one.score) for one in run}) == len(run) == found.num_queries * found.num_items
    measured = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in names], qrels, run)
    assert {str(name): value for name, value in measured.items()} == pytest.approx(found.measures)
    assert 100 * found.measures["R@5"] == pytest.approx(found.metrics["video+audio"]["r5"])


def test_a_question_without_a_known_word_is_a_miss_of_every_measure(synced: Path) -> None:
    path = synced / "captions.jsonl"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(line.replace("a grey picture", "xyzzy") if "grey & low" in line else line for line in lines)
    )
    run_sync(synced)
    found = Index(synced).evaluate(measures=["R@5"])
    assert found.measures == {"R@5": 0.5}
    assert found.intervals["video"]["r10"] == (0.0, 100.0)


def test_without_the_extra_one_line_says_what_to_install(
    projects: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(ConfigError, match=r"pip install 'frameloom\[trec\]'"):
        Index(projects[0]).evaluate(measures=["RR"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tests"}, "allowed are train, val, test"),
        ({"captions": "some"}, "allowed are first, all"),
        ({"measures": ["nonsense@3"]}, "nonsense@3"),
        ({"measures": ["__import__('os')"]}, "ir-measures"),
        ({"run": "out.qrels"}, "another one"),
        ({"split": "val"}, r"retrieval needs at least 2; the manifest has test, train .* give --split"),
        ({"against": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_mistakes_are_told(projects: tuple[Path, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, ConfigError), match=message):
        Index(projects[0]).evaluate(**options)


def test_the_command(projects: tuple[Path, Path], tmp_path: Path) -> None:
    done = command(projects[0], "--against", str(projects[1]), "--run", str(tmp_path / "out.trec"), "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["against"]["other"] == str(projects[1])
    assert (tmp_path / "out.trec").exists()
    wrong = command(projects[0], "--measure", "nonsense@3")
    assert wrong.exit_code == 2
    assert len(wrong.stderr.splitlines()) == 1
