"""Questions about videos: the file, what is trained on, what is asked, and what cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from frameloom import ConfigError, InputError, IntegrityError
from frameloom.fuse.clover.model import TINY as TINY_CLOVER
from frameloom.train import load_checkpoint, read_checkpoint
from frameloom.train.evaluate import cider
from frameloom.workflows.cli.app import app
from frameloom.workflows.experiments import evaluate_task
from frameloom.workflows.health.models import unused_models
from frameloom.workflows.project import Project, question_texts
from frameloom.workflows.project.questions import read_questions
from frameloom.workflows.search import trained
from frameloom.workflows.sync import ask, take_state
from helpers.projects import make_collection, run_sync
from typer.testing import CliRunner

COLOURS = ("red", "green", "blue", "grey")
TINY: dict[str, Any] = {
    "frames": {"size": 32, "num_frames": 2},
    "epochs": 4,
    "min_steps": 0,
    "batch_size": 4,
    "max_words": 12,
}
SMALL = {"patch_size": 8, "width": 24, "depth": 1, "heads": 2}


# Without what the project decides; as JSON gives it back, for YAML would name a tuple that is there twice.
CLOVER: dict[str, Any] = json.loads(json.dumps({**TINY_CLOVER, "num_frames": 2, "max_positions": 32}))
for _name in ("image_size", "vocab_size", "max_words"):
    del CLOVER[_name]


def configure(
    folder: Path, recipe: str, *, questions: bool = True, model: dict[str, Any] | None = None, **overrides: Any
) -> Path:
    config: dict[str, Any] = {
        "collection": {"videos": "videos", "captions": "captions.jsonl"},
        "features": {
            "video": {"backbone": "pixels", "options": {"size": 40, "rate_hz": 4, "frames": "jpeg"}},
            "text": {"backbone": "wordpiece", "options": {"vocabulary": 256}},
        },
        "model": model or {"config": SMALL},
        "training": {"recipe": recipe, "overrides": {**TINY, **overrides}},
        "store": {"format": "webdataset", "combinations": ["video"]},
        "run": {"workers": 0, "batch_videos": 3},
    }
    if questions:
        config["collection"]["questions"] = "questions.jsonl"
    path = folder / "frameloom.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def write_questions(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """An open question and one with options about each clip, one that nobody can answer, one about no clip."""
    rows: list[dict[str, Any]] = []
    for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines():
        name = json.loads(line)["video"]
        colour = name.split("/")[1].split()[0]
        rows.append({"video": name, "question": "which colour is it?", "answer": colour, "about": "colour"})
        others = [one for one in COLOURS if one != colour]
        rows.append({"video": name, "question": "what is it?", "options": [others[0], colour], "answer": 1})
    rows.append({"video": rows[0]["video"], "question": "who is it?"})
    rows.append({"video": "videos/none.mp4", "question": "which colour is it?", "answer": "red"})
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was trained on open questions."""
    folder = tmp_path_factory.mktemp("questions") / "project"
    make_collection(folder)
    write_questions(folder, rows_of(folder))
    configure(folder, "all_in_one_qa_tiny")
    report = run_sync(folder)
    assert report.exit_code == 0, list(report.lines())
    assert (report.done["trained"], report.done["embedded"]) == (1, 8)
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "project"))


def test_training_reads_the_questions_and_keeps_the_list_of_answers(made: Path) -> None:
    state = take_state(Project.open(made))
    asked = ask(state, split="train")
    assert (len(asked.questions), asked.num_unknown) == (7, 1)
    assert list(asked.lines()) == ["1 question without a known answer"]
    provenance = read_checkpoint(trained(Project.open(made)).folder).provenance
    # As they come; grey clips are all of the test split.
    assert provenance["answers"] == ["red", "green", "blue"]


def test_answers_are_judged_next_to_what_needs_no_clip(made: Path) -> None:
    found = evaluate_task(Project.open(made), split="train")
    assert (found.num_asked, found.num_unknown) == (7, 1)
    assert set(found.figures) == {"model", "model, black frames", "question alone", "majority"}
    # Of six answers two are "blue", and "who is it?" has none.
    assert found.figures["majority"]["accuracy"] == pytest.approx(100 * 2 / 7)
    assert set(found.by_about) == {"colour"}
    # The test split has "grey" alone, which nobody was taught.
    unseen = evaluate_task(Project.open(made))
    assert (unseen.num_asked, unseen.num_unknown, unseen.figures["model"]["accuracy"]) == (2, 2, 0.0)


def test_evaluate_follows_the_recipe(made: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", "-c", str(made / "frameloom.yaml"), "--split", "train"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("open_answer: 7 questions of the split 'train'")
    refused = CliRunner().invoke(app, ["evaluate", "-c", str(made / "frameloom.yaml"), "--measure", "nDCG@10"])
    assert refused.exit_code == 2
    empty = CliRunner().invoke(app, ["evaluate", "-c", str(made / "frameloom.yaml"), "--split", "val"])
    assert (empty.exit_code, "can be asked" in empty.output) == (2, True)


def test_options_are_learned_from_with_another_recipe_and_nothing_is_extracted(project: Path, decodes) -> None:
    configure(project, "all_in_one_choice_tiny", max_words=24)
    report = run_sync(project)
    assert (report.exit_code, report.done["extracted"], report.done["trained"]) == (0, 0, 1)
    assert decodes == []
    found = evaluate_task(Project.open(project), split="train")
    assert (found.task, found.num_asked, found.num_unknown) == ("multiple_choice", 6, 0)
    assert found.figures["model"].keys() == {"accuracy"}


def test_a_training_begins_with_a_trained_model(project: Path) -> None:
    """A checkpoint of the same words: what it has is taken, the new head is named; of other words it is refused."""
    source = trained(Project.open(project)).folder
    still = {"epochs": 1, "learning_rate": 1e-12, "warmup_steps": 0, "weight_decay": 0.0, "max_words": 24}
    path = configure(project, "all_in_one_choice_tiny", **still)
    without = Project.open(project).resolve().model_key
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["model"]["start"] = {"model": str(source.relative_to(project))}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert Project.open(project).resolve().model_key != without
    done = CliRunner().invoke(app, ["sync", "-c", str(path)])
    assert done.exit_code == 0, done.output
    assert f"it began with {config['model']['start']['model']}; new in it: mc_vqa_classifier" in done.output
    weights = [load_checkpoint(one)[0].state_dict() for one in (source, trained(Project.open(project)).folder)]
    name = "transformer.blocks.0.attn.qkv.weight"
    torch.testing.assert_close(weights[1][name], weights[0][name], atol=1e-6, rtol=0)

    # The folder that another training would begin with is told.
    told = CliRunner().invoke(app, ["status", "-c", str(path)]).output
    assert f"checkpoint: {trained(Project.open(project)).folder}" in told
    # What the configuration begins with is in use.
    assert not [path for path in unused_models(Project.open(project)) if source.is_relative_to(path)]

    pieces = next((project / ".frameloom/models").glob("word_pieces-*.txt")).read_text(encoding="utf-8").splitlines()
    (project / "words.txt").write_text("\n".join([*pieces[:-2], pieces[-1], pieces[-2]]) + "\n", encoding="utf-8")
    config["features"]["text"]["weights"] = "words.txt"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"model.start.model: .* was trained on other text features"):
        run_sync(project)
    config["features"]["text"]["weights"] = None
    config["training"]["overrides"]["seed"] = 7
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    weights = next(source.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match="SHA-256 is not the one recorded"):
        run_sync(project)
    weights.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        run_sync(project)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_clover", "all_in_one, and the model is test_clover"),
        ("dual_encoder", "nothing of dual_encoder"),
    ],
)
def test_a_start_that_cannot_be_is_refused_before_any_work(project: Path, name: str, message: str) -> None:
    path = configure(project, "all_in_one_qa_tiny")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["model"] = {"name": name, "start": {"model": str(trained(Project.open(project)).folder)}}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        Project.open(project).resolve()


def test_a_question_at_fault_is_the_one_that_is_named(project: Path) -> None:
    """Of those that fill a blank one has none, and is left out; one has it behind the last word that is read."""
    rows = [row | {"question": "it is [MASK] all over"} for row in rows_of(project) if "options" not in row]
    rows[0]["question"] = "what is it?"
    write_questions(project, rows)
    model = {"config": {**CLOVER, "task": "fill_blank"}}
    configure(project, "clover_qa_tiny", model=model)
    assert run_sync(project).exit_code == 0
    assert ask(take_state(Project.open(project)), split="train").left_out["it has no [MASK] to fill in"] == 1
    rows[0]["question"] = " ".join(["very"] * 20) + " [MASK]"
    write_questions(project, rows)
    configure(project, "clover_qa_tiny", model=model, seed=1)
    with pytest.raises(
        InputError, match=r"^sample \d+ \(videos/[^(]*\(very [^)]*\)\): text 0 of the batch .* no \[MASK\]"
    ):
        run_sync(project)


def test_a_checkpoint_of_answers_says_itself_what_it_is(project: Path) -> None:
    """What its configuration says counts, and not what the project's would."""
    rows = [row | {"question": "it is [MASK] all over"} for row in rows_of(project) if "options" not in row]
    write_questions(project, rows)
    configure(project, "clover_qa_tiny", model={"config": {**CLOVER, "task": "fill_blank"}})
    assert run_sync(project).exit_code == 0
    folder = str(trained(Project.open(project)).folder)
    write_questions(project, [rows[0] | {"question": "what is it?"}, *rows[1:]])
    path = configure(project, "clover_qa_tiny", model={"name": "clover", "checkpoint": folder})
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["features"]["text"]["weights"] = str(next((project / ".frameloom/models").glob("word_pieces-*.txt")))
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert run_sync(project).exit_code == 0
    found = evaluate_task(Project.open(project), split="train")
    assert found.left_out["it has no [MASK] to fill in"] == 1


def test_a_head_of_other_answers_begins_anew(project: Path) -> None:
    source = trained(Project.open(project)).folder
    write_questions(project, [row | {"answer": "x" + row["answer"]} for row in rows_of(project) if row.get("about")])
    path = configure(project, "all_in_one_qa_tiny", model={"config": SMALL, "start": {"model": str(source)}})
    done = CliRunner().invoke(app, ["sync", "-c", str(path)])
    assert (done.exit_code, "new in it: vqa_classifier" in done.output) == (0, True), done.output


def test_answers_without_vectors_are_refused_before_the_training(project: Path) -> None:
    configure(project, "clover_qa_tiny", model={"config": {**CLOVER, "projections": False}})
    with pytest.raises(ConfigError, match=r"model.config.projections: clover would have no vectors"):
        run_sync(project)


@pytest.mark.parametrize(
    ("recipe", "task", "asked"),
    [
        ("clover_qa_tiny", "open_answer", 7),
        ("clover_choice_tiny", "multiple_choice", 6),
        ("clover_qa_tiny", "fill_blank", 7),
    ],
)
def test_clover_answers_too_and_nothing_is_extracted(
    project: Path, decodes, recipe: str, task: str, asked: int
) -> None:
    if task == "fill_blank":
        rows = [row | {"question": "it is [MASK] all over"} for row in rows_of(project)]
        write_questions(project, [row for row in rows if "options" not in row])
    configure(project, recipe, model={"config": {**CLOVER, "task": task}}, max_words=24)
    report = run_sync(project)
    assert (report.exit_code, report.done["extracted"], report.done["trained"]) == (0, 0, 1)
    assert (decodes, report.done["embedded"]) == ([], 8)
    found = evaluate_task(Project.open(project), split="train")
    assert (found.num_asked, found.num_unknown) == (asked, 1 if "qa" in recipe else 0)
    assert set(found.figures) == {"model", "model, black frames", "question alone", "majority"}


def test_captions_are_written_and_judged(project: Path) -> None:
    configure(project, "all_in_one_captions_tiny", questions=False)
    assert run_sync(project).exit_code == 0
    found = evaluate_task(Project.open(project))
    assert set(found.figures["model"]) == {"BLEU-4", "METEOR", "CIDEr"}
    assert set(found.figures) == {"model", "model, black frames", "majority"}
    # As papers print it: a hundred times CIDEr-D, of one training caption for all clips.
    rows = map(json.loads, (project / "captions.jsonl").read_text(encoding="utf-8").splitlines())
    references = [row["captions"] for row in rows if row["split"] == "train"]
    possible = {100 * cider([one] * len(references), references).mean() for several in references for one in several}
    figure = evaluate_task(Project.open(project), split="train").figures["majority"]["CIDEr"]
    assert figure > 0
    assert any(figure == pytest.approx(one) for one in possible)
    configure(project, "all_in_one_tiny", questions=False)
    retrieval = Project.open(project)
    with pytest.raises(ConfigError, match="is for retrieval"):
        evaluate_task(retrieval)


def test_a_recipe_of_questions_needs_them(project: Path) -> None:
    configure(project, "all_in_one_qa_tiny", questions=False, seed=1)
    with pytest.raises(ConfigError, match="name a file of questions"):
        run_sync(project)
    write_questions(project, [row for row in rows_of(project) if "answer" not in row])
    configure(project, "all_in_one_qa_tiny", seed=1)
    with pytest.raises(InputError, match=r"at least 2 questions .* found 0 among 1"):
        run_sync(project)
    write_questions(project, rows_of(project))
    configure(project, "all_in_one_qa_tiny", model_options={"num_answers": 0})
    with pytest.raises(ConfigError, match="has no room for answers"):
        run_sync(project)


def test_what_is_read_of_a_question() -> None:
    assert question_texts("what is it?") == ("what is it?",)
    assert question_texts("", ("a dog", "a cat")) == ("a dog", "a cat")
    assert question_texts("what?", ("a", "b")) == ("what? Options: a b Answer: a", "what? Options: a b Answer: b")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no `question`"),
        ({"question": "what?", "options": ["a"], "answer": 0}, "two different texts or more"),
        ({"question": "what?", "options": ["a", "a"], "answer": 0}, "two different texts or more"),
        ({"question": "what?", "options": "a", "answer": 0}, "a list of texts"),
        ({"question": "what?", "options": ["a", "b"], "answer": 2}, "from 0 to 1"),
        ({"question": "what?", "options": ["a", "b"], "answer": "a"}, "the number of the right option"),
        ({"question": "what?", "options": ["a", "b"], "answer": True}, "the number of the right option"),
        ({"question": "what?", "split": "test"}, "in 'train' there: leave it out"),
    ],
)
def test_rows_that_cannot_be_are_named(made: Path, tmp_path: Path, row: dict[str, Any], message: str) -> None:
    name = str(made / "videos" / "red & low.v1.mp4")
    write_questions(tmp_path, [{"video": name, "question": "fine?"}, {"video": name, **row}])
    with pytest.raises(ConfigError, match=rf"question 2: .*{message}"):
        read_questions(tmp_path / "questions.jsonl", Project.open(made).collection.videos)


def test_rows_about_other_videos_are_counted(made: Path) -> None:
    found = Project.open(made).questions
    assert found.unmatched == ("videos/none.mp4",)
    assert len(found.questions) == 17
    assert {one.split for one in found.questions} == {"train", "test"}


def test_questions_of_a_span_and_of_csv(made: Path, tmp_path: Path) -> None:
    name = made / "videos" / "red & low.v1.mp4"
    (tmp_path / "questions.csv").write_text(
        f'video,question,options,answer,start_seconds,end_seconds\n{name},what?,"[""a"", ""b""]",1,0.5,1.0\n'
    )
    ((one,), _) = read_questions(tmp_path / "questions.csv", Project.open(made).collection.videos)
    assert (one.options, one.answer, one.start_seconds, one.end_seconds) == (("a", "b"), "b", 0.5, 1.0)
