"""Training and judging with any set of modalities: one that is missing in a batch, in all clips, or in a question."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from frameloom import InputError
from frameloom.fuse import NonFiniteError, Tokens, create_model
from frameloom.train import fit, get_recipe, load_checkpoint
from frameloom.train.data import ClipDataset, collate
from frameloom.train.evaluate import embed_batch, retrieval_metrics


@pytest.fixture
def make_clips(make_samples):
    """Clips with a second stream of words, which show what the first shows."""

    def make(num_clips: int = 32):
        samples = make_samples(num_clips)
        return [{**sample, "speech": sample["text"][-1]} for sample in samples]

    return make


def model_with_speech(**config):
    torch.manual_seed(1)
    return create_model("test_everything_at_once_speech", **config)


def trained(clips, folder, *, model=None, epochs=6):
    recipe = get_recipe(
        "everything_at_once_tiny",
        epochs=epochs,
        min_steps=0,
        batch_size=16,
        checkpoint_steps=0,
        warmup_steps=0,
        learning_rate=1e-2,
    )
    model = model_with_speech() if model is None else model
    return model, fit(model, ClipDataset(clips, training=True), recipe=recipe, folder=folder)


def recall(model, clips, query: str, answer: str) -> float:
    vectors = embed_batch(model.eval(), collate([ClipDataset(clips)[i] for i in range(len(clips))]), (query, answer))
    return retrieval_metrics(vectors[query] @ vectors[answer].T).r1


def without(clip, name):
    if name == "speech":
        return {**clip, "speech": None}
    return {**clip, name: [] if name == "text" else None}


@pytest.fixture
def whole(make_clips):
    clips = make_clips(8)
    return collate([ClipDataset(clips)[i] for i in range(8)])


class TestEmbedBatch:
    def test_any_combination_in_any_order_is_named_in_the_models(self, whole) -> None:
        model = model_with_speech().eval()
        vectors = embed_batch(model, whole, ["speech+video", "speech", "audio+text+speech+video", "video+speech"])
        assert list(vectors) == ["video+speech", "speech", "text+video+audio+speech"]
        with torch.no_grad():
            expected = model.encode(video=whole["video"], speech=whole["speech"])
        np.testing.assert_array_equal(vectors["video+speech"], expected.numpy())

    @pytest.mark.parametrize("wrong", ["smell", "video+smell", "speech+speech", "video|speech"])
    def test_what_the_model_does_not_take_is_answered_with_its_own(self, whole, wrong) -> None:
        with pytest.raises(InputError, match=r"join different ones of text, video, audio, speech by \+"):
            embed_batch(model_with_speech(), whole, ["video", wrong])

    def test_a_model_without_it_may_be_given_a_batch_with_it(self, whole) -> None:
        model = create_model("test_everything_at_once", modalities=["text", "video"]).eval()
        assert embed_batch(model, whole, ["video+text"])["text+video"].shape == (8, 20)
        with pytest.raises(InputError, match="different ones of text, video by"):
            embed_batch(model, whole, ["speech"])

    def test_what_the_batch_lacks_is_left_out(self, whole) -> None:
        del whole["audio"]
        vectors = embed_batch(model_with_speech().eval(), whole, ["video+audio", "audio", "video+speech"])
        assert list(vectors) == ["video+speech"]

    def test_numbers_that_are_not_finite_are_named(self, whole) -> None:
        values = whole["speech"].values.clone()
        values[5, 0, 2] = math.nan
        spoilt = {**whole, "speech": Tokens(values, whole["speech"].mask)}
        assert embed_batch(model_with_speech().eval(), spoilt, ["video"])["video"].shape == (8, 20)
        with pytest.raises(NonFiniteError, match=r"speech holds .* in sample 5 of the batch"):
            embed_batch(model_with_speech().eval(), spoilt, ["video+speech"])

    def test_without_captions_there_is_no_text(self, make_clips) -> None:
        """Such a sample has no text; when all are so, nobody can ask for it."""
        clips = make_clips(4)
        for clip in clips[:2]:
            clip["text"] = []
        model = model_with_speech().eval()
        batch = collate([ClipDataset(clips)[i] for i in range(4)])
        assert batch["text"].mask.any(dim=1).tolist() == [False, False, True, True]
        vectors = embed_batch(model, batch, ["text"])["text"]
        np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
        assert np.isfinite(vectors).all()
        empty = collate([ClipDataset(clips)[i] for i in range(2)])
        assert "text" not in empty
        with pytest.raises(InputError, match="no modality; give at least one of text, video, audio, speech"):
            model.encode(text=Tokens(torch.zeros(2, 0, 12), torch.zeros(2, 0)))


class TestTraining:
    def test_a_fourth_modality_is_learned_by_configuration_alone(self, make_clips, tmp_path) -> None:
        clips = make_clips()
        model, result = trained(clips, tmp_path)
        assert result.loss < 0.7 * result.epoch_losses[0]
        assert recall(model, clips, "speech", "video+audio") > 30
        assert recall(model, clips, "text", "video+audio+speech") > 30
        loaded, meta = load_checkpoint(tmp_path)
        assert loaded.modalities == ("text", "video", "audio", "speech")
        assert meta.config["extra_dims"] == {"speech": 12}
        assert recall(loaded, clips, "speech", "video+audio") == recall(model, clips, "speech", "video+audio")

    @pytest.mark.parametrize("name", ["text", "video", "audio", "speech"])
    def test_one_may_be_missing_in_every_clip(self, make_clips, tmp_path, name) -> None:
        clips = [without(clip, name) for clip in make_clips()]
        model = model_with_speech()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        model, result = trained(clips, tmp_path, model=model)
        assert result.loss < 0.8 * result.epoch_losses[0]
        after = model.state_dict()
        assert torch.equal(after[f"{name}_proj.fc.weight"], before[f"{name}_proj.fc.weight"])
        query, *rest = [each for each in model.modalities if each != name]
        assert recall(model, clips, query, "+".join(rest)) > 30  # of 32 clips: a guess finds 3 percent

    def test_a_model_trained_without_it_still_answers_questions_of_it(self, make_clips, tmp_path) -> None:
        model, _ = trained([without(clip, "speech") for clip in make_clips()], tmp_path, epochs=2)
        batch = collate([ClipDataset(make_clips(4))[i] for i in range(4)])
        vectors = embed_batch(model.eval(), batch, ["speech", "video+speech"])
        np.testing.assert_allclose(np.linalg.norm(vectors["video+speech"], axis=1), 1.0, atol=1e-5)

    def test_one_may_be_missing_in_the_question_alone(self, make_clips, tmp_path) -> None:
        clips = make_clips()
        model, _ = trained(clips, tmp_path)
        silent = [without(clip, "audio") for clip in clips]
        gallery = embed_batch(model.eval(), collate([ClipDataset(clips)[i] for i in range(32)]), ["video+audio"])
        queries = embed_batch(model, collate([ClipDataset(silent)[i] for i in range(32)]), ["text+speech"])
        scores = queries["text+speech"] @ gallery["video+audio"].T
        assert retrieval_metrics(scores).r1 > 30

    def test_one_may_be_missing_in_some_batches(self, make_clips, tmp_path) -> None:
        """Every clip has three of the four, each another three."""
        names = ("text", "video", "audio", "speech")
        clips = [without(clip, names[i % 4]) for i, clip in enumerate(make_clips())]
        model, result = trained(clips, tmp_path, epochs=3)
        assert result.loss < result.epoch_losses[0]
        assert all(p.isfinite().all() for p in model.parameters())

    def test_a_training_of_five_goes_on_with_the_same_bits(self, make_clips, tmp_path) -> None:
        """The random four of each step are drawn again as they would have been."""
        clips = [{**clip, "speech": clip["text"][-1], "ocr": clip["text"][0]} for clip in make_clips(16)]
        config = {"extra_dims": {"speech": 12, "ocr": 12}, "lambdas": {"text|video+speech": 1.0}}
        recipe = get_recipe("everything_at_once_tiny", epochs=2, min_steps=0, batch_size=4, checkpoint_steps=3)

        class StopError(Exception):
            pass

        def stop(progress) -> None:
            if progress.step == 5:
                raise StopError

        weights = []
        for folder, on_progress in ((tmp_path / "whole", None), (tmp_path / "stopped", stop)):
            for told in (on_progress, None):
                torch.manual_seed(1)
                model = create_model("test_everything_at_once", **config)
                try:
                    result = fit(
                        model, ClipDataset(clips, training=True), recipe=recipe, folder=folder, on_progress=told
                    )
                except StopError:
                    continue
                weights.append(model.state_dict())
                break
        assert result.resumed_at == 4
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
