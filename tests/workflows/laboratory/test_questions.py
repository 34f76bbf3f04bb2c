"""Questions of the laboratory: their answers are true, of a closed list, and no wording or place gives them away."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from frameloom.workflows.cli.app import app
from frameloom.workflows.laboratory import World, answers_of, make_collection
from frameloom.workflows.laboratory.attributes import ATTRIBUTES
from frameloom.workflows.laboratory.questions import plan_questions
from frameloom.workflows.laboratory.world import plan_clips
from typer.testing import CliRunner

THINGS = ("colour", "background", "texture", "size", "number", "shape", "direction", "first", "afterwards")


@pytest.fixture(scope="module")
def planned() -> tuple[dict, list[dict]]:
    world = World(num_train=300, num_val=0, num_test=100, temporal=True)
    clips = plan_clips(world)
    pairs = [(clip.video, clip.traits) for clip in clips]
    return dict(pairs), plan_questions(pairs, varying=world.varying, per_clip=4, seed=0)


def given(row: dict) -> str:
    return row["options"][row["answer"]] if "options" in row else row["answer"]


def test_answers_are_true_and_of_a_closed_list(planned) -> None:
    traits, rows = planned
    assert {row["about"] for row in rows} == set(THINGS)
    for row in rows:
        about, answer, clip = row["about"], given(row), traits[row["video"]]
        assert answer in answers_of(about)
        if about in ("first", "afterwards"):
            assert clip["order"].split("-")[about == "afterwards"] == answer
        elif about == "direction":
            assert clip[about] == answer
        else:
            assert answer in ATTRIBUTES[about].words[clip[about]]


def test_a_clip_is_asked_about_different_things(planned) -> None:
    _, rows = planned
    asked = Counter((row["video"], "options" in row, row["about"]) for row in rows)
    assert max(asked.values()) == 1
    assert Counter((video, kind) for video, kind, _ in asked).most_common()[-1][1] == 4


def test_options_hold_the_answer_once_at_any_place(planned) -> None:
    _, rows = planned
    chosen = [row for row in rows if "options" in row]
    assert all(len(set(row["options"])) == len(row["options"]) >= 3 for row in chosen)
    five = [row["answer"] for row in chosen if len(row["options"]) == 5]
    counts = Counter(five)
    assert set(counts) == set(range(5))
    assert max(counts.values()) < 2 * min(counts.values())


def test_the_words_of_a_question_say_little(planned) -> None:
    """Whoever knows the most frequent answer to each wording is not much better than a guess."""
    _, rows = planned
    by_wording: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if "options" not in row:
            by_wording[row["question"]][given(row)] += 1
    for wording, counts in by_wording.items():
        about = next(row["about"] for row in rows if row["question"] == wording)
        # By chance alone the commonest of A answers is above 1 / A; three standard errors.
        share, answers = 1 / len(answers_of(about)), counts.total()
        if about in ("first", "afterwards"):
            share = 0.5  # "flash" is the first of two of the four orders
        assert max(counts.values()) / answers < share + 3 * (share * (1 - share) / answers) ** 0.5


def test_the_same_seed_asks_the_same_whichever_clips_there_are(planned) -> None:
    traits, rows = planned
    some = [(video, traits[video]) for video in list(traits)[::7]]
    again = plan_questions(some, varying=list(ATTRIBUTES), per_clip=4, seed=0)
    assert again == [row for row in rows if row["video"] in dict(some)]
    assert again != plan_questions(some, varying=list(ATTRIBUTES), per_clip=4, seed=1)


def test_a_file_of_questions_goes_with_the_clips(tmp_path: Path) -> None:
    world = World(num_train=4, num_val=1, num_test=1, seconds=0.5, size=32, named_heard=0)
    made = make_collection(tmp_path, world, questions=2)
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 4
    assert {row["video"] for row in rows} == {clip.video for clip in made.clips}
    plain = make_collection(tmp_path / "plain", world)
    assert [clip.video for clip in plain.clips] == [clip.video for clip in made.clips]
    assert not (tmp_path / "plain" / "questions.jsonl").exists()


def test_the_command_makes_it(tmp_path: Path) -> None:
    options = ["--num-train", "3", "--num-val", "0", "--num-test", "2", "--seconds", "0.5", "--size", "32"]
    more = ["--temporal", "--named-heard", "0", "--questions", "1", "--quiet"]
    done = CliRunner().invoke(app, ["laboratory", str(tmp_path / "lab"), *options, *more])
    assert done.exit_code == 0, done.output
    assert done.output == f"{tmp_path / 'lab'}: 5 clips, 5 new\n"
    assert {path.name for path in (tmp_path / "lab").iterdir()} == {"videos", "captions.jsonl", "questions.jsonl"}
    refused = CliRunner().invoke(app, ["laboratory", str(tmp_path / "lab"), "--named-seen", "0", "--named-heard", "0"])
    assert refused.exit_code == 2
