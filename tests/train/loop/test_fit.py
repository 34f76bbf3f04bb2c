"""Training: it learns, it goes on after a kill with the same bits, it refuses what it cannot do."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import helpers.children
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from frameloom import ConfigError, InputError, IntegrityError, OutOfSpaceError
from frameloom import _files as _commit
from frameloom._files import FAIL_POINT_VARIABLE, FailPointError
from frameloom._vocabulary import FeatureArray, FeatureSpec, Modality
from frameloom.fuse import create_model
from frameloom.store import FeatureStore, Sample
from frameloom.store.health import compact_features
from frameloom.train import (
    DivergedError,
    checkpoint_digest,
    fit,
    get_recipe,
    load_checkpoint,
    read_checkpoint,
    read_losses,
)
from frameloom.train.data import ClipDataset, ClipFeatures, collate, stored_clips
from frameloom.train.evaluate import embed_batch, retrieval_metrics

SCRIPT = Path(helpers.children.__file__).with_name("killed_training.py")


def tiny_recipe(**overrides):
    options = {"epochs": 2, "min_steps": 0, "batch_size": 8, "checkpoint_steps": 0, "warmup_steps": 0}
    return get_recipe("everything_at_once_tiny", **{**options, **overrides})


def tiny_model(**config):
    torch.manual_seed(1)
    return create_model("test_everything_at_once", **config)


@pytest.fixture(scope="module")
def training() -> ModuleType:
    from helpers.children import killed_training

    return killed_training


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums in the same order wherever the training runs: in this process or in a child."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TestLearning:
    def test_it_learns_to_find_clips(self, make_samples, tmp_path) -> None:
        dataset = ClipDataset(make_samples(48), training=True)
        batch = collate([dataset[i] for i in range(48)])

        def validate(model):
            vectors = embed_batch(model.eval(), batch, ("text", "video+audio"))
            return {"r1": retrieval_metrics(vectors["text"] @ vectors["video+audio"].T).r1}

        result = fit(
            tiny_model(),
            dataset,
            recipe=tiny_recipe(epochs=12, batch_size=16, learning_rate=1e-2),
            folder=tmp_path,
            validate=validate,
        )
        assert result.epoch_losses[-1] < 0.5 * result.epoch_losses[0]
        assert result.metrics["r1"] > 50
        loaded, meta = load_checkpoint(tmp_path)
        assert validate(loaded) == result.metrics
        assert meta.recipe["batch_size"] == 16
        assert result.digest == checkpoint_digest(tmp_path)
        assert not (tmp_path / "progress").exists()

    def test_clips_may_lack_modalities(self, make_samples, tmp_path) -> None:
        samples = make_samples(24)
        for i, sample in enumerate(samples):
            if i % 3 == 0:
                sample["audio"] = None
            if i % 4 == 1:
                sample["video"] = None
            if i % 5 == 2:
                sample["text"] = []
        result = fit(tiny_model(), ClipDataset(samples, training=True), recipe=tiny_recipe(), folder=tmp_path)
        assert np.isfinite(result.epoch_losses).all()

    def test_silent_collections_train(self, make_samples, tmp_path) -> None:
        samples = [sample | {"audio": None} for sample in make_samples(16)]
        seen = []
        fit(
            tiny_model(),
            ClipDataset(samples, training=True),
            recipe=tiny_recipe(),
            folder=tmp_path,
            on_progress=lambda progress: seen.append(set(progress.terms)),
        )
        assert all(terms == {"text|video"} for terms in seen)

    def test_a_model_reads_what_it_takes_of_data_that_have_more(self, make_samples, tmp_path) -> None:
        seen = []
        fit(
            tiny_model(modalities=["text", "video"]),
            ClipDataset(make_samples(16), training=True),
            recipe=tiny_recipe(),
            folder=tmp_path,
            on_progress=lambda progress: seen.append(set(progress.terms)),
        )
        assert seen
        assert all(terms == {"text|video"} for terms in seen)

    def test_progress_counts_to_the_end(self, make_samples, tmp_path) -> None:
        seen = []
        fit(
            tiny_model(),
            ClipDataset(make_samples(20), training=True),
            recipe=tiny_recipe(),
            folder=tmp_path,
            on_progress=seen.append,
        )
        assert [(p.epoch, p.epochs, p.step, p.steps) for p in seen] == [
            (1, 2, 1, 4),
            (1, 2, 2, 4),
            (2, 2, 3, 4),
            (2, 2, 4, 4),
        ]
        assert seen[-1].seconds_left == 0
        assert all(p.learning_rate > 0 for p in seen)

    @pytest.mark.parametrize(("num_clips", "sizes"), [(5, [5]), (8, [8]), (9, [8]), (20, [8, 8])])
    def test_an_incomplete_batch_is_kept_only_when_it_is_the_only_one(
        self, make_samples, tmp_path, monkeypatch, num_clips, sizes
    ) -> None:
        model, seen = tiny_model(), []
        loss = type(model).loss
        monkeypatch.setattr(
            type(model),
            "loss",
            lambda self, batch, **options: seen.append(len(batch["text"].mask)) or loss(self, batch, **options),
        )
        fit(model, ClipDataset(make_samples(num_clips), training=True), recipe=tiny_recipe(epochs=1), folder=tmp_path)
        assert seen == sizes

    def test_frozen_batch_norm_keeps_its_statistics(self, make_samples, tmp_path) -> None:
        for freeze in (True, False):
            model = tiny_model()
            before = model.davenet.bn1.running_mean.clone()
            fit(
                model,
                ClipDataset(make_samples(16), training=True),
                recipe=tiny_recipe(freeze_batch_norm=freeze),
                folder=tmp_path / str(freeze),
            )
            assert torch.equal(model.davenet.bn1.running_mean, before) is freeze

    def test_mixed_precision_learns_on_a_cpu_and_resumes_to_the_bit(self, make_samples, tmp_path) -> None:
        def train(folder, *, stop_at: int = 0, precision: str = "bf16"):
            def on_progress(progress) -> None:
                if progress.step == stop_at:
                    raise KeyboardInterrupt

            recipe = tiny_recipe(precision=precision, epochs=4, checkpoint_steps=1, learning_rate=1e-2)
            dataset = ClipDataset(make_samples(16), training=True)
            return fit(tiny_model(), dataset, recipe=recipe, folder=folder, on_progress=on_progress)

        whole = train(tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped", stop_at=3)
        assert train(tmp_path / "stopped").digest == whole.digest
        assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")
        assert whole.epoch_losses[-1] < 0.8 * whole.epoch_losses[0]
        exact = train(tmp_path / "float32", precision="no")
        assert exact.digest != whole.digest
        assert read_losses(tmp_path / "whole")[0].loss == pytest.approx(exact.epoch_losses[0], rel=0.2)

    def test_gradient_checkpointing_changes_memory_and_no_bit(self, make_samples, tmp_path) -> None:
        kept: dict[bool, int] = {}

        def train(*, again: bool):
            sizes = []

            def kept_for_backward(tensor):
                sizes.append(tensor.numel())
                return tensor

            model = tiny_model(depth=2)
            with torch.autograd.graph.saved_tensors_hooks(kept_for_backward, lambda tensor: tensor):
                result = fit(
                    model,
                    ClipDataset(make_samples(16), training=True),
                    recipe=tiny_recipe(gradient_checkpointing=again, epochs=1),
                    folder=tmp_path / str(again),
                )
            kept[again] = sum(sizes)
            assert all("forward" not in vars(module) for module in model.modules()), "the model is as it was"
            return result

        assert train(again=True).digest == train(again=False).digest
        assert curve(tmp_path / "True") == curve(tmp_path / "False")
        assert kept[True] < 0.7 * kept[False]

    def test_a_model_without_blocks_cannot_be_checkpointed(self, make_samples, tmp_path) -> None:
        with pytest.raises(ConfigError, match="no blocks to compute again"):
            fit(
                create_model("test_howto100m"),
                ClipDataset(make_samples(8), training=True),
                recipe=tiny_recipe(gradient_checkpointing=True),
                folder=tmp_path,
            )

    def test_readers_in_other_processes_give_the_same_bits(self, make_samples, tmp_path) -> None:
        digests = {
            fit(
                tiny_model(),
                ClipDataset(make_samples(16), training=True),
                recipe=tiny_recipe(epochs=1),
                folder=tmp_path / str(workers),
                num_workers=workers,
            ).digest
            for workers in (0, 1)
        }
        assert len(digests) == 1

    def test_the_callers_random_state_is_left_alone(self, make_samples, tmp_path) -> None:
        dataset = ClipDataset(make_samples(16), training=True)
        model = tiny_model()
        torch.manual_seed(9)
        state = torch.get_rng_state()
        fit(model, dataset, recipe=tiny_recipe(), folder=tmp_path)
        assert torch.equal(torch.get_rng_state(), state)


class TestResuming:
    def test_a_kill_in_mid_epoch_costs_nothing(self, make_samples, tmp_path, training) -> None:
        samples = make_samples(40)
        clean = training.train(tmp_path / "clean", samples)
        assert (clean.steps, clean.resumed_at) == (15, 0)

        clips = tmp_path / "clips.pkl"
        clips.write_bytes(pickle.dumps(samples))
        killed = subprocess.run(
            [sys.executable, str(SCRIPT), str(tmp_path / "killed"), str(clips)],
            env={**os.environ, "KILL_AT_STEP": "9"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        resumed = training.train(tmp_path / "killed", samples)
        assert resumed.resumed_at == 8  # saved every 2 steps; step 9 was the fourth of the second epoch
        assert resumed.digest == clean.digest
        assert resumed.epoch_losses == clean.epoch_losses
        assert curve(tmp_path / "killed") == curve(tmp_path / "clean")

    @pytest.mark.parametrize("seeds", [range(3), pytest.param(range(3, 23), marks=pytest.mark.slow)])
    def test_a_kill_at_any_instant_leaves_no_trace_in_the_loss_curve(self, make_samples, tmp_path, seeds) -> None:
        clips = tmp_path / "clips.pkl"
        clips.write_bytes(pickle.dumps(make_samples(40)))
        ended = subprocess.run(
            [sys.executable, str(SCRIPT), str(tmp_path), str(clips)],
            env={**os.environ, "KILL_SEEDS": ",".join(map(str, seeds))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        deaths = json.loads(ended.stdout)["deaths"]
        assert [code for _, code, _ in deaths] == [-signal.SIGKILL] * len(seeds)
        assert len({resumed_at for _, _, resumed_at in deaths}) > 1
        for seed in seeds:
            assert curve(tmp_path / str(seed)) == curve(tmp_path / "clean")
            assert checkpoint_digest(tmp_path / str(seed)) == checkpoint_digest(tmp_path / "clean")

    @pytest.mark.parametrize(
        "point",
        [
            "losses.step:4",
            "progress.file:2",
            "progress.written:1",
            "progress.renamed:2",
            "checkpoint.written:1",
            "checkpoint.renamed:1",
            "checkpoint.written:2",
            "checkpoint.written:3",
        ],
    )
    def test_a_stop_while_saving_costs_nothing(self, make_samples, tmp_path, training, monkeypatch, point) -> None:
        samples = make_samples(40)
        _commit._passes.clear()
        monkeypatch.setenv(FAIL_POINT_VARIABLE, point.replace(":", ":raise:"))
        with pytest.raises(FailPointError):
            training.train(tmp_path, samples)
        monkeypatch.delenv(FAIL_POINT_VARIABLE)
        resumed = training.train(tmp_path, samples)
        assert resumed.digest == _clean_digest(training, samples, tmp_path / "clean")

    def test_a_store_that_was_compacted_meanwhile_changes_no_bit(self, tmp_path) -> None:
        def run(folder: Path, *, stop_at: int = 0):
            def on_progress(progress) -> None:
                if progress.step == stop_at:
                    raise KeyboardInterrupt

            clips = [ClipFeatures(clip=str(n), features={"video": (f"v{n}",), "audio": (f"a{n}",)}) for n in range(32)]
            dataset = ClipDataset(stored_clips(FeatureStore(tmp_path / "store"), clips, memory_bytes=0), training=True)
            recipe = tiny_recipe(checkpoint_steps=1)
            return fit(tiny_model(), dataset, recipe=recipe, folder=folder, on_progress=on_progress)

        for name, modality, dim in (("v", Modality.VIDEO, 24), ("a", Modality.AUDIO, 40)):
            spec = FeatureSpec(name=name, modality=modality, dim=dim, rate_hz=1.0, sampling={}, preprocessing={})
            for first in range(0, 32, 4):
                samples = []
                for n in range(first, first + 4):
                    values = np.random.default_rng((n, dim)).normal(size=(8, dim)).astype(np.float16)
                    feature = FeatureArray(values, np.arange(8)[:, None] + [0.0, 1.0])
                    samples.append(Sample(key=str(n), source_digest="0", fingerprint=f"{name}{n}", feature=feature))
                FeatureStore(tmp_path / "store").write_shard(name, samples, spec=spec)
        clean = run(tmp_path / "clean")
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", stop_at=3)
        compact_features(FeatureStore(tmp_path / "store"))
        resumed = run(tmp_path / "stopped")
        assert (resumed.resumed_at, resumed.digest) == (2, clean.digest)
        assert curve(tmp_path / "stopped") == curve(tmp_path / "clean")

    def test_a_finished_training_returns_at_once(self, make_samples, tmp_path, training) -> None:
        samples = make_samples(40)
        first = training.train(tmp_path, samples)
        again = training.train(tmp_path, samples, kill_at=1)
        assert again.resumed_at == again.steps == 15
        assert (again.digest, again.epoch_losses) == (first.digest, first.epoch_losses)

    @pytest.mark.parametrize("seed", [0, 3])
    def test_a_training_anew_in_the_folder_of_a_finished_one_goes_on_after_a_stop(
        self, make_samples, tmp_path, seed
    ) -> None:
        def run(*, resume: bool = True, stop_at: int = 0, **recipe):
            def on_progress(progress) -> None:
                if progress.step == stop_at:
                    raise KeyboardInterrupt

            dataset, recipe = ClipDataset(make_samples(16), training=True), tiny_recipe(**recipe)
            return fit(tiny_model(), dataset, recipe=recipe, folder=tmp_path, on_progress=on_progress, resume=resume)

        finished = run()
        with pytest.raises(KeyboardInterrupt):
            run(resume=False, stop_at=3, seed=seed)
        assert checkpoint_digest(tmp_path) == finished.digest
        anew = run(seed=seed)
        assert (anew.resumed_at, anew.steps) == (2, 4)
        assert (anew.digest == finished.digest) is (seed == 0)
        assert run(seed=seed).resumed_at == 4

    def test_a_finished_training_fills_the_model(self, make_samples, tmp_path) -> None:
        dataset, models = ClipDataset(make_samples(16), training=True), [tiny_model(), tiny_model()]
        for model in models:
            fit(model, dataset, recipe=tiny_recipe(), folder=tmp_path)
        for name, value in models[0].state_dict().items():
            assert torch.equal(value, models[1].state_dict()[name])

    @pytest.mark.parametrize(
        ("finished", "change", "named"),
        [
            (True, {"recipe": {"learning_rate": 0.5}}, "recipe"),
            (False, {"recipe": {"seed": 3}}, "recipe"),
            (True, {"provenance": {"examples": "others"}}, "provenance"),
            (False, {"model": {"depth": 2}}, "model"),
            (True, {"clips": 24}, "number of clips"),
        ],
    )
    def test_another_training_in_the_same_folder_is_refused(
        self, make_samples, tmp_path, finished, change, named
    ) -> None:
        def run(*, stop: bool, **changed) -> None:
            def on_progress(progress) -> None:
                if stop and progress.step == 3:
                    raise KeyboardInterrupt

            fit(
                tiny_model(**changed.get("model", {})),
                ClipDataset(make_samples(changed.get("clips", 16)), training=True),
                recipe=tiny_recipe(**changed.get("recipe", {})),
                folder=tmp_path,
                provenance=changed.get("provenance", {"examples": "these"}),
                on_progress=on_progress,
                resume=changed.get("resume", True),
            )

        if finished:
            run(stop=False)
        else:
            with pytest.raises(KeyboardInterrupt):
                run(stop=True)
        with pytest.raises(ConfigError, match=f"another {named}.*resume=False"):
            run(stop=False, **change)
        run(stop=False, resume=False, **change)
        assert (
            read_checkpoint(tmp_path).provenance["examples"]
            == change.get("provenance", {"examples": "these"})["examples"]
        )

    def test_a_damaged_state_is_found(self, make_samples, tmp_path, training, monkeypatch) -> None:
        samples = make_samples(40)
        _commit._passes.clear()
        monkeypatch.setenv(FAIL_POINT_VARIABLE, "checkpoint.written:raise")
        with pytest.raises(FailPointError):
            training.train(tmp_path, samples)
        monkeypatch.delenv(FAIL_POINT_VARIABLE)
        (state,) = (tmp_path / "progress").glob("step-*")
        for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
            path = state / name
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            with pytest.raises(IntegrityError, match="damaged"):
                training.train(tmp_path, samples)
            path.write_bytes(whole)
        assert training.train(tmp_path, samples).resumed_at == 15

    def test_a_full_disk_is_a_pause(self, make_samples, tmp_path, training, monkeypatch) -> None:
        samples = make_samples(40)
        _commit._passes.clear()
        monkeypatch.setenv(FAIL_POINT_VARIABLE, "progress.written:full:3")
        with pytest.raises(OutOfSpaceError, match="free some space"):
            training.train(tmp_path, samples)
        monkeypatch.delenv(FAIL_POINT_VARIABLE)
        assert training.train(tmp_path, samples).resumed_at == 4


class TestRefusals:
    def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_state(self, make_samples, tmp_path) -> None:
        samples = make_samples(16)
        dataset = ClipDataset(samples, training=True)

        def spoil(progress) -> None:
            if progress.step == 3:
                for sample in samples:
                    sample["audio"] = np.full((16, 40), 1e38, np.float32)  # finite, and no product of it is

        with pytest.raises(DivergedError, match=r"the loss of step 4 is nan.*learning_rate") as caught:
            fit(tiny_model(), dataset, recipe=tiny_recipe(epochs=4), folder=tmp_path, on_progress=spoil)
        assert caught.value.exit_code == 3
        (state,) = (tmp_path / "progress").glob("step-*")
        assert state.name == "step-000000002"

    def test_weights_that_are_not_finite_are_never_saved(self, make_samples, tmp_path) -> None:
        model = tiny_model()

        def spoil(progress) -> None:
            if progress.step == 4:
                with torch.no_grad():
                    model.fusion.masking_token.fill_(torch.inf)

        with pytest.raises(DivergedError, match="not finite"):
            fit(
                model,
                ClipDataset(make_samples(16), training=True),
                recipe=tiny_recipe(),
                folder=tmp_path,
                on_progress=spoil,
            )
        assert sorted(path.name for path in (tmp_path / "progress").iterdir()) == ["losses.jsonl", "step-000000002"]

    def test_a_metric_that_is_not_a_number_is_named_and_costs_one_epoch_at_most(self, make_samples, tmp_path) -> None:
        def run(*metrics: float):
            given = iter(metrics)
            dataset = ClipDataset(make_samples(16), training=True)
            validate = lambda model: {"r1": np.float32(next(given)), "rank": 3}  # noqa: E731
            return fit(tiny_model(), dataset, recipe=tiny_recipe(epochs=3), folder=tmp_path, validate=validate)

        with pytest.raises(InputError, match=r"r1 nan after epoch 2.*last saved state"):
            run(0.5, np.nan, 0.5)
        result = run(0.5, 0.25)
        assert (result.resumed_at, dict(result.metrics)) == (2, {"r1": 0.25, "rank": 3.0})

    def test_a_batch_that_processes_cannot_share_evenly_is_refused(self, make_samples, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(Accelerator, "num_processes", 3)
        with pytest.raises(ConfigError, match="batch_size 8 cannot be shared evenly by 3 processes"):
            fit(tiny_model(), ClipDataset(make_samples(16)), recipe=tiny_recipe(), folder=tmp_path)

    @pytest.mark.parametrize(
        ("num_clips", "options", "recipe", "message"),
        [
            (0, {}, {}, "no clips to train on"),
            (8, {"device": "tpu"}, {}, "allowed are cpu, cuda and cuda:N"),
            (8, {}, {"precision": "fp16"}, "fp16 needs a GPU"),
            (8, {"provenance": {"when": object()}}, {}, "values for JSON only"),
        ],
    )
    def test_what_cannot_be_trained_is_explained(
        self, make_samples, tmp_path, num_clips, options, recipe, message
    ) -> None:
        dataset = ClipDataset(make_samples(num_clips), training=True)
        with pytest.raises(ConfigError, match=message):
            fit(tiny_model(), dataset, recipe=tiny_recipe(**recipe), folder=tmp_path / "run", **options)
        assert not (tmp_path / "run").exists()

    def test_a_gpu_that_is_not_there(self, make_samples, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ConfigError, match="no GPU"):
            fit(tiny_model(), ClipDataset(make_samples(8)), recipe=tiny_recipe(), folder=tmp_path, device="cuda")

    def test_a_model_from_elsewhere_is_not_overwritten(self, make_samples, tmp_path) -> None:
        from frameloom.train import save_checkpoint

        save_checkpoint(tiny_model(), tmp_path)
        with pytest.raises(ConfigError, match="was not trained here"):
            fit(tiny_model(), ClipDataset(make_samples(8)), recipe=tiny_recipe(), folder=tmp_path)


def curve(folder: Path) -> dict[str, bytes]:
    """The files of a finished training's loss curve, by name."""
    return {path.name: path.read_bytes() for path in folder.rglob("losses*")}


class TestEmbedding:
    def test_only_combinations_that_the_batch_has(self, make_samples) -> None:
        dataset = ClipDataset([sample | {"audio": None} for sample in make_samples(4)])
        vectors = embed_batch(tiny_model().eval(), collate([dataset[i] for i in range(4)]))
        assert vectors.keys() == {"video"}
        assert vectors["video"].shape == (4, 20)
        np.testing.assert_allclose(np.linalg.norm(vectors["video"], axis=1), 1, rtol=1e-6)

    @pytest.mark.parametrize("combination", ["smell", "video+video", ""])
    def test_a_combination_that_cannot_be(self, make_samples, combination) -> None:
        dataset = ClipDataset(make_samples(2))
        with pytest.raises(InputError, match="join different ones of text, video, audio"):
            embed_batch(tiny_model(), collate([dataset[0]]), (combination,))


_clean_digests: dict[int, str] = {}


def _clean_digest(training: ModuleType, samples: list, folder: Path) -> str:
    """The digest of the training that was never stopped, run once for all the tests that compare with it."""
    if len(samples) not in _clean_digests:
        _clean_digests[len(samples)] = training.train(folder, samples).digest
    return _clean_digests[len(samples)]
