"""Recipes: the published numbers, the overrides, the order of clips and the learning rate."""

from __future__ import annotations

import json

import pytest
from frameloom import ConfigError, UnknownNameError
from frameloom.fuse import model_config
from frameloom.train import get_recipe, list_recipes
from frameloom.train._schedule import batches_of_epoch, learning_rate, num_epochs
from hypothesis import given
from hypothesis import strategies as st


def test_the_published_recipes_are_those_of_the_paper() -> None:
    table = {
        name: (r.epochs, r.batch_size, r.learning_rate, r.max_video_tokens, r.max_audio_frames, r.decay)
        for name in list_recipes("everything_at_once*")
        for r in [get_recipe(name)]
        if name != "everything_at_once_tiny"
    }
    assert table == {
        "everything_at_once": (15, 2240, 5e-5, 12, 768, 0.9),
        "everything_at_once_msrvtt": (25, 128, 5e-5, 48, 3072, 0.9),
        "everything_at_once_youcook2": (5, 256, 1e-5, 72, 4608, 0.9),
    }


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_json_ready_and_names_options_that_its_model_has(name) -> None:
    recipe = get_recipe(name)
    assert json.loads(json.dumps(recipe.as_dict()))["name"] == name
    assert model_config(recipe.model, **recipe.model_options)


def test_fields_can_be_replaced() -> None:
    recipe = get_recipe("everything_at_once_tiny", epochs=2, learning_rate=1)
    assert (recipe.epochs, recipe.learning_rate) == (2, 1)
    assert recipe.batch_size == get_recipe("everything_at_once_tiny").batch_size


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epoch": 3}, "'epoch'.*did you mean epochs"),
        ({"name": "mine"}, "no field 'name'"),
        ({"epochs": 0}, "epochs is 0; it must be above 0"),
        ({"epochs": 2.5}, "epochs is 2.5; it must be of type int"),
        ({"epochs": True}, "must be of type int"),
        ({"learning_rate": "fast"}, "must be of type float"),
        ({"weight_decay": -0.1}, "must not be negative"),
        ({"schedule": "linear"}, "must be one of constant, exponential, cosine"),
        ({"precision": "int8"}, "must be one of no, fp16, bf16"),
    ],
)
def test_impossible_overrides_are_explained(overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        get_recipe("everything_at_once_tiny", **overrides)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        get_recipe("everything_at_once_tinny")


class TestOrder:
    @given(
        num_clips=st.integers(1, 60),
        batch_size=st.integers(1, 20),
        epoch=st.integers(0, 5),
        num_processes=st.integers(1, 4),
    )
    def test_every_clip_comes_at_most_once_and_processes_share_each_batch(
        self, num_clips, batch_size, epoch, num_processes
    ) -> None:
        shares = [
            batches_of_epoch(
                num_clips, batch_size=batch_size, seed=1, epoch=epoch, rank=rank, num_processes=num_processes
            )
            for rank in range(num_processes)
        ]
        size = min(batch_size, num_clips)
        assert {len(share) for share in shares} == {num_clips // size if size >= num_processes else 0}
        assert {len(batch) for share in shares for batch in share} <= {size // num_processes}
        seen = [clip for share in shares for batch in share for clip in batch]
        assert len(seen) == len(set(seen))
        assert set(seen) <= set(range(num_clips))

    def test_the_order_is_that_of_seed_and_epoch(self) -> None:
        def order(seed: int, epoch: int) -> list[list[int]]:
            return batches_of_epoch(50, batch_size=10, seed=seed, epoch=epoch)

        assert order(1, 2) == order(1, 2)
        assert order(1, 2) != order(1, 3)
        assert order(1, 2) != order(2, 2)

    def test_an_incomplete_batch_is_kept_only_when_it_is_the_only_one(self) -> None:
        assert [len(batch) for batch in batches_of_epoch(25, batch_size=10, seed=0, epoch=0)] == [10, 10]
        assert [len(batch) for batch in batches_of_epoch(7, batch_size=10, seed=0, epoch=0)] == [7]


class TestLearningRate:
    def test_exponential_falls_after_every_epoch(self) -> None:
        recipe = get_recipe("everything_at_once")
        rates = [learning_rate(recipe, step=step, steps_per_epoch=3) for step in (0, 2, 3, 6)]
        assert rates == pytest.approx([5e-5, 5e-5, 4.5e-5, 4.05e-5])

    def test_cosine_rises_and_ends_near_zero(self) -> None:
        recipe = get_recipe("everything_at_once_tiny", warmup_steps=10, epochs=10, min_steps=0, learning_rate=1.0)
        rates = [learning_rate(recipe, step=step, steps_per_epoch=10) for step in range(100)]
        assert rates[0] == pytest.approx(0.1)
        assert max(rates) == rates[9]
        assert rates[50] == pytest.approx(0.5)
        assert rates[-1] < 0.001

    def test_a_small_collection_gets_more_epochs_and_a_large_one_those_of_the_recipe(self) -> None:
        recipe = get_recipe("everything_at_once_tiny", epochs=20, min_steps=120)
        assert [num_epochs(recipe, steps_per_epoch=steps) for steps in (1, 5, 6, 7, 100)] == [120, 24, 20, 20, 20]
        assert learning_rate(recipe, step=119, steps_per_epoch=1) < 1e-3 * recipe.learning_rate
