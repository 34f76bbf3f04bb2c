"""Ablations of models of pixels: variants differ in one thing, what is there is not made again, pairs are judged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameloom.fuse import Tokens
from frameloom.workflows.cli.app import app
from frameloom.workflows.console import Console
from frameloom.workflows.experiments.ablations import PIXEL_STUDIES, PixelWorld, run_pixel_study
from frameloom.workflows.experiments.ablations import pixel_study as studies
from frameloom.workflows.experiments.ablations.pixel_study import PixelStudy, Variant, judge_pairs, one_thread
from frameloom.workflows.experiments.ablations.pixel_world import (
    PixelClips,
    caption_of,
    false_traits,
    prepare_pixels,
    thing_of,
)
from frameloom.workflows.laboratory import ATTRIBUTES
from typer.testing import CliRunner

QUIET = Console(quiet=True)
WORLD = PixelWorld(num_train=10, num_test=5, num_pictures=6)
SHORT = {"epochs": 1, "batch_size": 5}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> PixelClips:
    return prepare_pixels(tmp_path_factory.mktemp("pixels"), WORLD, on_progress=lambda _: None)


def own(study: PixelStudy, variant: Variant) -> Mapping[str, Any]:
    """The recipe of a variant as data."""
    return study.recipe_of(variant, 1).model_dump()


# --- variants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PIXEL_STUDIES))
def test_variants_of_a_seed_differ_in_their_option_alone(name: str) -> None:
    study = PIXEL_STUDIES[name]
    plain = own(study, Variant(label="as the study"))
    for variant in study.variants.values():
        made = own(study, variant)
        assert {key: made[key] for key in made if key not in ("frames", "model_options")} == {
            key: plain[key] for key in made if key not in ("frames", "model_options")
        }
        pictures = {"pictures": "balanced"} if variant.pictures else {}
        assert made["frames"] == {**plain["frames"], **variant.frames, **pictures}
        assert made["model_options"] == {**plain["model_options"], **variant.options}
    assert len({json.dumps(own(study, one), sort_keys=True) for one in study.variants.values()}) == len(study.variants)


@pytest.mark.parametrize("name", list(PIXEL_STUDIES))
def test_no_variant_mirrors_clips_whose_captions_say_left_and_right(name: str) -> None:
    study = PIXEL_STUDIES[name]
    assert {study.recipe_of(one, 0).frames.flip for one in study.variants.values()} == {0.0}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", list(PIXEL_STUDIES))
def test_pictures_shorten_no_epoch(name: str) -> None:
    """A batch of both kinds needs as many of the one as of the other."""
    study = PIXEL_STUDIES[name]
    assert study.world.num_pictures >= study.world.num_train or not any(one.pictures for one in study.variants.values())


@pytest.mark.parametrize("name", list(PIXEL_STUDIES))
def test_claims_are_about_variants_and_kinds_that_there_are(name: str) -> None:
    study = PIXEL_STUDIES[name]
    for claim in study.claims:
        assert {claim.better, claim.worse} <= study.variants.keys()
        assert claim.kind in studies.KINDS


# --- clips -----------------------------------------------------------------------------------------------------------


def test_word_pieces_are_learned_from_the_captions_of_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[list[str]] = []

    def seen(captions: list[str], *_: Any, **__: Any) -> None:
        learned.append(list(captions))
        raise InterruptedError

    monkeypatch.setattr(
        "frameloom.workflows.experiments.ablations.pixel_world.learned_words",
        lambda *_, **__: type("Learned", (), {"train": staticmethod(seen), "options": {}}),
    )
    with pytest.raises(InterruptedError):
        prepare_pixels(tmp_path, WORLD, on_progress=lambda _: None)
    shown = (*WORLD.videos()[0], *WORLD.pictures())
    assert learned == [[caption_of(clip.traits) for clip in shown]]


def test_another_world_in_the_folder_has_its_own_word_pieces(clips: PixelClips, tmp_path: Path) -> None:
    other = replace(WORLD, num_train=5, num_test=10)
    one = prepare_pixels(tmp_path, WORLD, on_progress=lambda _: None)
    two = prepare_pixels(tmp_path, other, on_progress=lambda _: None)
    assert len({path.name for path in tmp_path.glob("pieces-*.txt")}) == 2
    again = prepare_pixels(tmp_path, WORLD, on_progress=lambda _: None)
    assert again.training == one.training == clips.training
    for world, made in ((WORLD, one), (other, two)):
        assert (len(made.training), len(made.testing)) == (world.num_train, world.num_test)
        assert studied(made)


def studied(clips: PixelClips) -> bool:
    """Whether every clip of training can be read: its frames and captions are in the store."""
    from frameloom.train.data import clip_data

    limits = {"num_frames": 4, "rule": "frozen_in_time", "size": 32, "max_words": 24}
    read = list(clip_data(str(clips.store), clips.training, limits).batches(range(len(clips.training))))
    return all({"text", "video"} <= set(batch) for batch in read)


def test_pairs_differ_in_the_one_thing_they_are_about(clips: PixelClips) -> None:
    assert Counter(pair.about for pair in clips.pairs) == {"direction": 2, "order": 2, "background": 1}
    for pair in clips.pairs:
        true, false = pair.captions
        assert len(true)
        assert true.tolist() != false.tolist()
    for clip in WORLD.videos()[1]:
        about, false_one = thing_of(clip.traits), false_traits(clip.traits, np.random.default_rng(0))
        assert {name for name in false_one if false_one[name] != clip.traits[name]} == {about}
        assert false_one[about] in ATTRIBUTES[about].values


def test_a_caption_names_what_a_clip_shows_and_a_value_has_one() -> None:
    shown = [clip.traits for clip in WORLD.videos()[0]]
    said = {(thing_of(traits), traits[thing_of(traits)]): caption_of(traits) for traits in shown}
    assert len(set(said.values())) == len(said)
    for traits in shown:
        assert caption_of(traits) == said[thing_of(traits), traits[thing_of(traits)]]
        assert ATTRIBUTES[thing_of(traits)].words[traits[thing_of(traits)]][0] in caption_of(traits)


def test_one_frame_tells_neither_direction_nor_order_and_the_ground(clips: PixelClips) -> None:
    assert clips.limits == {"direction": (50.0, 50.0), "order": (50.0, 100.0), "background": (100.0, 100.0)}


def test_the_limit_of_one_frame_sees_a_start_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were clips to begin on a known grid, the frames of another direction would not be there to be found."""
    from frameloom.workflows.experiments.ablations import pixel_world

    monkeypatch.setattr(pixel_world, "displacement", lambda _direction, _seconds: np.zeros(2))
    limits = pixel_world.one_frame_limits(WORLD.videos()[1], WORLD)
    assert limits["direction"][1] > 50.0


# --- judging ---------------------------------------------------------------------------------------------------------


class Judge:
    """A model that is asked about all true captions first, then about all false ones; one that knows prefers these."""

    def __init__(self, *, knows: bool) -> None:
        self.knows, self.texts = knows, 0

    def encode(self, *, text: Tokens | None = None, video: Tokens | None = None) -> torch.Tensor:
        return torch.ones(len(video.mask), 1) if video is not None else self._judged(text)[:, None]

    def score(self, *, text: Tokens, video: Tokens) -> torch.Tensor:
        assert len(text.mask) == len(video.mask)
        return self._judged(text)

    def _judged(self, text: Tokens | None) -> torch.Tensor:
        assert text is not None
        first, self.texts = self.texts, self.texts + len(text.mask)
        asked = torch.arange(first, self.texts)
        return (self.knows & (asked < WORLD.num_test)).float()


@pytest.mark.parametrize("by", ["vectors", "score"])
@pytest.mark.parametrize(("knows", "accuracy"), [(False, 50.0), (True, 100.0)])
def test_ties_are_half_right_and_an_oracle_is_always_right(
    clips: PixelClips, by: Any, knows: bool, accuracy: float
) -> None:
    recipe = PIXEL_STUDIES["miles"].recipe_of(Variant(label=""), 0)
    found = judge_pairs(Judge(knows=knows), clips, recipe, by=by)
    assert found == dict.fromkeys(("time", "one frame", "direction", "order", "background"), accuracy)


def test_torch_has_its_threads_again() -> None:
    before = torch.get_num_threads()

    def stopped() -> None:
        with one_thread():
            assert torch.get_num_threads() == 1
            raise InterruptedError

    with pytest.raises(InterruptedError):
        stopped()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [
        ((52.0, 54.0), (46.0, 48.0), "neither learned"),  # two standard errors of 100 pairs are ten points
        ((90.0, 92.0), (46.0, 48.0), "as published"),
        ((46.0, 48.0), (90.0, 92.0), "**the other way round**"),
        ((90.0, 70.0), (80.0, 80.0), "not settled"),
        ((55.0, 75.0), (50.0, 52.0), "neither learned"),  # guesses whose biases differ that much
    ],
)
def test_a_verdict_needs_a_variant_that_learned_something(
    better: tuple[float, ...], worse: tuple[float, ...], verdict: str
) -> None:
    study = PIXEL_STUDIES["miles"]
    found = {key: tuple(dict.fromkeys(studies.KINDS, value) for value in better) for key in study.variants}
    found["none"] = tuple(dict.fromkeys(studies.KINDS, value) for value in worse)
    result = studies.PixelResult(
        name="miles",
        study=study,
        recipe=study.recipe_of(Variant(label=""), 0),
        clips=dict.fromkeys(studies.KINDS, 100),
        limits={},
        found=found,
        seconds=0.0,
        document=Path("miles.md"),
    )
    claim = next(one for one in study.claims if (one.better, one.worse) == ("snapshot", "none") and one.kind == "time")
    assert result.judged()[study.claims.index(claim)].verdict == verdict


# --- a study ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(PIXEL_STUDIES))
def test_a_study_is_run_and_the_second_time_only_printed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    how = {"seeds": 2, "world": WORLD, "overrides": SHORT, "console": QUIET}
    first = run_pixel_study(name, tmp_path, **how)
    assert torch.get_num_threads() == threads
    lines = list(first.lines())
    assert lines == first.document.read_text().splitlines()
    assert sum(line.startswith("| ") for line in lines) == len(first.study.variants) + len(first.study.claims) + 4
    assert any("best judge who sees one frame" in line for line in lines)
    monkeypatch.setattr("frameloom.train.fit", None)  # nothing is trained
    assert list(run_pixel_study(name, tmp_path, **how).lines()) == lines


def test_options_reach_the_study_and_what_it_has_no_use_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, ...]] = []

    def noted(name: str, _folder: Path, *, seeds: int, world: PixelWorld, overrides: Any, console: Console) -> None:
        given.append((name, seeds, world, overrides))
        raise SystemExit(0)

    monkeypatch.setattr("frameloom.workflows.experiments.ablations.run_pixel_study", noted)
    run = CliRunner()
    sizes = ["--num-train", "30", "--num-test", "7", "--world", "3", "--seeds", "2", "--steps", "9"]
    run.invoke(app, ["ablate", "miles", str(tmp_path), *sizes])
    run.invoke(app, ["ablate", "all_in_one", str(tmp_path), "--epochs", "4"])
    assert given == [
        ("miles", 2, PixelWorld(num_train=30, num_test=7, seed=3), {"epochs": 1, "min_steps": 9}),
        ("all_in_one", 3, PixelWorld(num_train=6000, num_pictures=6000), {"epochs": 4}),
    ]
    for wrong in (
        ["miles", "--num-long", "5"],
        ["all_in_one", "--tables", "7"],
        ["miles", "--objective", "published"],
        ["miles", "--epochs", "2", "--steps", "3"],
        ["clover", "--num-long", "5"],
        ["t2v2t", "--epochs", "5"],
        ["everything_at_once", "--steps", "5"],
    ):
        done = run.invoke(app, ["ablate", wrong[0], str(tmp_path), *wrong[1:]])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert len(given) == 2
