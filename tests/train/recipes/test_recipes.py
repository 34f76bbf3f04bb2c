"""Recipes: the published numbers, the overrides, the order of clips and the learning rate."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from frameloom import ConfigError, UnknownNameError
from frameloom.fuse import create_model, list_models, model_config, model_type
from frameloom.train import get_recipe, list_recipes
from frameloom.train.loop.schedule import epoch_order, learning_rate, num_epochs


def test_the_published_recipes_are_those_of_the_paper() -> None:
    table = {
        name: (r.epochs, r.batch_size, r.learning_rate, r.max_video_tokens, r.max_audio_frames, r.decay)
        for name in list_recipes("everything_at_once*")
        for r in [get_recipe(name)]
        if name != "everything_at_once_tiny" and not r.narration
    }
    assert table == {
        "everything_at_once": (15, 2240, 5e-5, 12, 768, 0.9),
        "everything_at_once_msrvtt": (25, 128, 5e-5, 48, 3072, 0.9),
        "everything_at_once_msrvtt_clip": (25, 64, 5e-5, 48, 3072, 0.9),
        "everything_at_once_youcook2": (5, 256, 1e-5, 72, 4608, 0.9),
    }


def test_recipes_of_narrated_videos_differ_only_where_the_ablations_do() -> None:
    names = list_recipes("everything_at_once_howto100m*")
    table = {}
    for name in names:
        r = get_recipe(name)
        assert (r.epochs, r.batch_size, r.learning_rate, r.max_video_tokens, r.max_audio_frames) == (
            15,
            224,
            5e-5,
            12,
            768,
        )
        assert (r.narration.clips_per_video, r.narration.min_seconds) == (10, 8.0)
        config = model_config(r.model, **r.model_options)
        weights = (config.lambda_tv, config.lambda_ta, config.lambda_a_tv)
        widths = (config.video_dim, config.text_dim)
        table[name.removeprefix("everything_at_once_howto100m")] = (
            r.narration.audio_shift, weights, widths, len(config.modalities)
        )  # fmt: skip
    published, equal = (1.0, 0.1, 0.1), (1.0, 1.0, 1.0)
    assert table == {
        "": ("later", published, (4096, 300), 3),
        "_aligned": ("none", equal, (4096, 300), 3),
        "_equal_weights": ("later", equal, (4096, 300), 3),
        "_tv": ("later", published, (4096, 300), 2),
        "_s3d": ("later", published, (1024, 300), 3),
        "_clip": ("later", published, (512, 512), 3),
    }


def test_all_in_one_is_trained_as_published() -> None:
    table = {}
    for name in list_recipes("all_in_one_*"):
        r = get_recipe(name)
        config = model_config(r.model, **r.model_options)
        assert config.cotraining is (r.frames.pictures == "balanced")
        if not name.endswith("_tiny"):
            table[name] = (r.epochs, r.batch_size, r.learning_rate, r.max_words)
            published = (r.schedule, r.optimizer, r.decay_all, r.betas, r.weight_decay, r.frames.num_frames)
            assert published == ("linear", "adamw", False, (0.9, 0.98), 0.01, 3)
            weights = (float(config.cotraining), float(r.task == "retrieval"))
            assert (config.mlm_weight, config.contrast_weight) == weights
            # Heads that begin anew learn ten times as fast; the ranking head begins as the matching head.
            assert r.head_rate == (1.0 if r.task == "retrieval" or config.rank_head else 10.0)
            assert (config.num_answers > 0) is (r.task == "open_answer")
            assert (config.option_head or config.rank_head) is (r.task == "multiple_choice")
            assert (config.caption_weight > 0) is (r.task == "captions")
    assert table == {
        "all_in_one_lsmdc_choice": (20, 256, 1e-5, 40),
        "all_in_one_msrvtt_captions": (20, 512, 1e-4, 40),
        "all_in_one_msrvtt_choice": (10, 256, 1e-4, 40),
        "all_in_one_msrvtt_qa": (20, 512, 1e-4, 40),
        "all_in_one_msvd_qa": (20, 512, 1e-4, 40),
        "all_in_one_tgif_action": (100, 512, 1e-4, 40),
        "all_in_one_tgif_frame": (20, 512, 1e-4, 40),
        "all_in_one_activitynet": (200, 1024, 3e-4, 40),
        "all_in_one_cotraining": (30, 2048, 1e-4, 40),
        "all_in_one_didemo": (200, 1024, 6e-4, 80),
        "all_in_one_lsmdc": (50, 1024, 1e-4, 80),
        "all_in_one_msrvtt": (200, 1024, 3e-4, 40),
    }
    assert (get_recipe("all_in_one_lsmdc").warmup_epochs, get_recipe("all_in_one_cotraining").warmup_steps) == (
        5.0,
        2500,
    )


def test_recipes_of_the_systems_compared_with_are_the_published_ones() -> None:
    """As the commands of their repositories have it."""
    table = {}
    for name in ("howto100m", "howto100m_narrated", "avlnet_narrated", "mcn_narrated", "mil_nce"):
        r = get_recipe(name)
        table[name] = (
            r.model,
            r.batch_size,
            r.narration and r.narration.clips_per_video,
            r.epochs,
            r.learning_rate,
            r.schedule,
        )
    assert table == {
        "howto100m": ("howto100m", 2048, None, 15, 1e-4, "exponential"),
        "howto100m_narrated": ("howto100m", 32, 64, 15, 1e-4, "exponential"),
        "avlnet_narrated": ("avlnet", 256, 32, 15, 2.5e-4, "exponential"),
        "mcn_narrated": ("mcn", 128, 32, 30, 1e-4, "cosine"),
        "mil_nce": ("mil_nce", 256, None, 150, 1e-3, "cosine"),
    }
    blocks = model_config("howto100m", **get_recipe("howto100m_narrated").model_options).clips_per_video
    assert blocks == get_recipe("howto100m_narrated").narration.clips_per_video


def test_recipes_of_clover_are_those_of_its_configurations() -> None:
    table = {
        name: (r.epochs, r.batch_size, r.learning_rate, r.warmup_epochs, r.clip_gradient, r.max_words)
        for name in list_recipes("clover*")
        for r in [get_recipe(name)]
        if not name.endswith("_tiny")
    }
    assert table == {
        "clover": (40, 1024, 5e-5, 4.0, 15.0, 30),
        "clover_msrvtt": (100, 128, 1.2e-5, 10.0, 5.0, 30),
        "clover_didemo": (50, 256, 1.2e-5, 5.0, 5.0, 64),
        "clover_lsmdc": (50, 128, 1.2e-5, 5.0, 5.0, 40),
        "clover_msrvtt_qa": (20, 256, 1.2e-5, 2.0, 50.0, 40),
        "clover_tgif_frame": (20, 128, 1.2e-5, 2.0, 50.0, 40),
        "clover_msvd_qa": (40, 128, 1.2e-5, 4.0, 50.0, 40),
        "clover_tgif_action": (100, 128, 5e-6, 10.0, 50.0, 100),
        "clover_tgif_transition": (50, 128, 5e-6, 5.0, 50.0, 100),
        "clover_lsmdc_choice": (20, 128, 1.2e-5, 2.0, 50.0, 256),
        "clover_lsmdc_blank": (20, 128, 1.2e-5, 2.0, 50.0, 200),
    }
    blank = get_recipe("clover_lsmdc_blank")
    assert (blank.task, blank.head_rate, blank.model_options["num_answers"]) == ("open_answer", 10.0, 908)
    recipe = get_recipe("clover")
    assert (recipe.weight_decay, recipe.betas, recipe.final_rate, recipe.frames.flip) == (0.005, (0.9, 0.98), 1e-3, 0.0)
    tuned = get_recipe("clover_msrvtt")
    assert (tuned.weight_decay, tuned.frames.num_frames, tuned.frames.limits()["num_frames"]) == (0.01, 12, 32)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_json_ready_and_names_options_that_its_model_has(name) -> None:
    recipe = get_recipe(name)
    assert json.loads(json.dumps(recipe.model_dump()))["name"] == name
    assert model_config(recipe.model, **recipe.model_options)


def test_every_model_that_learns_has_a_recipe_for_a_processor() -> None:
    ours = {name for name in list_models() if model_type(name).__module__.startswith("frameloom.fuse.")}
    learning = {name for name in ours if not name.startswith("test_") and model_type(name).trains}
    small = {name for name in learning if f"{name}_tiny" in list_recipes()}
    assert learning - small == {"everything_at_once_tiny", "all_in_one_s", "all_in_one_ti"}  # sizes of the others
    for name in small:
        recipe = get_recipe(f"{name}_tiny")
        with torch.device("meta"):
            model = create_model(recipe.model, **recipe.model_options)
        assert recipe.model.removesuffix("_tiny") == name
        assert sum(one.numel() for one in model.parameters()) < 20e6, name


def test_fields_can_be_replaced() -> None:
    recipe = get_recipe("everything_at_once_tiny", epochs=2, learning_rate=1)
    assert (recipe.epochs, recipe.learning_rate) == (2, 1)
    assert recipe.batch_size == get_recipe("everything_at_once_tiny").batch_size


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epoch": 3}, "'epoch'.*did you mean epochs"),
        ({"name": "mine"}, "leave out 'name'"),
        ({"epochs": 0}, "epochs is 0; it must be above 0"),
        ({"epochs": 2.5}, "epochs is 2.5; it must be of type int"),
        ({"epochs": True}, "must be of type int"),
        ({"learning_rate": "fast"}, "must be of type float"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": float("inf")}, "learning_rate is inf; it must be a finite number"),
        ({"clip_gradient": float("inf")}, "clip_gradient is inf; it must be a finite number"),
        ({"decay": float("nan")}, "decay is nan"),
        ({"decay": -0.9}, "decay is -0.9; it must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be 0.0 or more"),
        (
            {"schedule": "square"},
            "must be one of 'constant', 'exponential', 'cosine', 'cosine_after_warmup', 'linear' or 'steps'",
        ),
        ({"frames": {"curriculum": [[1, 4]]}}, "frames: .*curriculum .*pairs"),
        ({"frames": {"rule": "any"}}, "frames: .*rule is 'any'"),
        ({"precision": "int8"}, "must be one of 'no', 'fp16' or 'bf16'"),
        ({"sync_batch_norm": 1}, "sync_batch_norm is 1; it must be of type bool"),
        ({"gradient_checkpointing": "yes"}, "must be of type bool"),
    ],
)
def test_impossible_overrides_are_explained(overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        get_recipe("everything_at_once_tiny", **overrides)


def test_an_override_of_some_options_leaves_the_others() -> None:
    recipe = get_recipe("mcn_narrated", narration={"min_seconds": 4.0}, model_options={"pad_audio_to": 7})
    own = get_recipe("mcn_narrated")
    assert recipe.narration == own.narration.replaced(min_seconds=4.0)
    assert recipe.model_options == {**own.model_options, "pad_audio_to": 7}
    cleared = get_recipe("mcn_narrated", narration={}, model_options={})
    assert (cleared.narration, cleared.model_options) == (None, {})


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        get_recipe("everything_at_once_tinny")


def order(num_clips: int, *, seed: int = 1, epoch: int = 0) -> list[int]:
    return epoch_order(np.zeros(num_clips, int), batch_size=10, seed=seed).indices(epoch).tolist()


class TestOrder:
    def test_the_order_is_that_of_seed_and_epoch(self) -> None:
        assert order(50, seed=1, epoch=2) == order(50, seed=1, epoch=2)
        assert order(50, seed=1, epoch=2) != order(50, seed=1, epoch=3)
        assert order(50, seed=1, epoch=2) != order(50, seed=2, epoch=2)

    def test_clips_of_many_shards_are_mixed_over_many_batches_and_few_shards(self) -> None:
        groups = np.arange(40_000) // 100
        clips = epoch_order(groups, batch_size=50, seed=0).indices(0)
        met = [set(groups[clips[start : start + 1600]]) for start in range(0, 40_000, 1600)]
        assert max(map(len, met)) == 16
        assert set.union(*met) == set(groups)
        assert all(len(set(groups[clips[start : start + 50]])) > 8 for start in range(0, 40_000, 50))
        # Large batches meet more shards: as many as 32 batches fill.
        wide = epoch_order(groups, batch_size=500, seed=0).indices(0)
        assert len(set(groups[wide[:16_000]])) == 160


@pytest.mark.parametrize(
    ("narration", "message"),
    [
        ({"clips": 3}, "narration: unknown option 'clips': .*clips_per_video"),
        ({"max_words": 3}, "narration: unknown option 'max_words'"),
        ({"clips_per_video": 0}, "narration: clips_per_video is 0; it must be above 0"),
        ({"clips_per_video": "x"}, "clips_per_video is 'x'; it must be of type int"),
        ({"clips_per_video": True}, "clips_per_video is True"),
        ({"min_seconds": -1}, "min_seconds is -1; it must be above 0"),
        ({"min_seconds": float("inf")}, "min_seconds is inf"),
        ({"audio_shift": "l"}, "audio_shift is 'l'; it must be one of 'none', 'later' or 'random'"),
    ],
)
def test_options_of_narration_are_checked_before_anything_runs(narration: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_recipe("everything_at_once_tiny", narration=narration)


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


def test_recipes_of_t2v2t_and_vindlu_are_the_published_ones() -> None:
    """Tables 3 and 4 of T2V2T, and VindLU's configurations where they say something else."""
    table = {}
    for name in (*list_recipes("t2v2t*"), *list_recipes("vindlu*")):
        r = get_recipe(name)
        if name.endswith("_tiny"):
            continue
        assert (r.weight_decay, r.decay_all, r.schedule) == (0.02, False, "cosine_after_warmup")
        frames = (r.frames.num_frames, r.frames.test_frames, r.frames.size)
        table[name] = r.epochs, r.warmup_epochs, r.batch_size, r.learning_rate, r.final_rate, r.max_words, frames
        assert (model_config(r.model, **r.model_options).mlm_weight == 0) is (name != r.model)
    tuned, tested_longer = (12, 12, 224), (12, 32, 224)
    assert table == {
        "t2v2t": (10, 1.0, 512, 1e-4, 0.01, 32, (4, None, 224)),
        "t2v2t_msrvtt": (5, 0.5, 128, 1e-5, 0.1, 32, tuned),
        "t2v2t_didemo": (10, 0.5, 32, 1e-5, 0.1, 64, tuned),
        "t2v2t_activitynet": (10, 0.5, 32, 1e-5, 0.1, 64, tested_longer),
        "vindlu": (10, 1.0, 512, 1e-4, 0.01, 32, (4, None, 224)),
        "vindlu_msrvtt": (5, 0.0, 128, 1e-5, 0.01, 32, tuned),
        "vindlu_didemo": (10, 0.0, 32, 1e-5, 0.01, 64, tuned),
        "vindlu_activitynet": (10, 1.0, 32, 1e-5, 0.01, 64, tested_longer),
    }


def test_a_cosine_after_the_warm_up_begins_at_its_end_and_keeps_above_its_floor() -> None:
    recipe = get_recipe("vindlu", learning_rate=1.0, epochs=10, warmup_epochs=1.0, final_rate=0.01)
    rates = [learning_rate(recipe, step=step, steps_per_epoch=10) for step in range(104)]
    assert rates[:3] == pytest.approx([0.01, 0.1, 0.2])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert min(rates) == rates[103] == pytest.approx(0.01)
    straight = get_recipe("vindlu", learning_rate=1.0, warmup_epochs=0.0)
    assert learning_rate(straight, step=0, steps_per_epoch=10) == 1.0
