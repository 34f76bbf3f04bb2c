"""MILES: the objective's switches, the snapshot, checkpoints of the authors. Their numbers are in the golden cases."""

from __future__ import annotations

import pytest
import torch
from frameloom import ConfigError, InputError
from frameloom.fuse import Tokens, create_model
from frameloom.fuse.miles import MILES
from frameloom.fuse.miles.official import initialised_from
from frameloom.fuse.objectives import masked_regression

ARGUMENTS = {
    "video_params": {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "num_frames": 4,
        "num_classes": 0,
    },
    "text_params": {
        "vocab_size": 40,
        "max_position_embeddings": 16,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 32,
    },
    "projection_dim": 20,
}
BERT = {
    "model": "bert-base-uncased",
    "vocab_size": 40,
    "max_position_embeddings": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def miles(name: str = "test_miles", **options: object) -> MILES:
    torch.manual_seed(0)
    model = create_model(name, **options)
    assert isinstance(model, MILES)
    return model


@pytest.fixture
def batch(make_batch) -> dict[str, Tokens]:
    return make_batch(modalities=("text", "video"), pixels=True)


def weights_of(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.flatten() for _, parameter in module.named_parameters()]).detach().clone()


def moved(model: MILES) -> torch.Tensor:
    """Change the video encoder as a step of training does; its weights, but for the mask token."""
    with torch.no_grad():
        for parameter in model.video_model.parameters():
            parameter.add_(0.5)
    return torch.cat([p.flatten() for name, p in model.video_model.named_parameters() if name != "mask_token"]).detach()


class TestSnapshot:
    def test_it_becomes_a_copy_at_the_end_of_the_warm_up_and_follows_after_each_epoch(self) -> None:
        model = miles(warmup_epochs=2, snapshot_momentum=0.75)
        first = weights_of(model.snapshot)
        moved(model)
        model.epoch_ended()
        assert torch.equal(weights_of(model.snapshot), first)
        at_end_of_warmup = moved(model)
        model.epoch_ended()
        assert torch.equal(weights_of(model.snapshot), at_end_of_warmup)
        later = moved(model)
        model.epoch_ended()
        torch.testing.assert_close(weights_of(model.snapshot), 0.75 * at_end_of_warmup + 0.25 * later)

    def test_it_may_begin_with_the_untrained_encoder(self) -> None:
        model = miles(warmup_epochs=1, snapshot_start="initial")
        first = weights_of(model.snapshot)
        moved(model)
        model.epoch_ended()
        assert torch.equal(weights_of(model.snapshot), first)

    @pytest.mark.parametrize("momentum", [0.0, 0.5])
    def test_after_each_step_it_takes_the_weights_of_the_step_before(self, batch, momentum) -> None:
        model = miles(snapshot_update="step", snapshot_momentum=momentum).train()
        before = weights_of(model.snapshot)
        now = moved(model)
        model.loss(batch)
        torch.testing.assert_close(weights_of(model.snapshot), momentum * before + (1 - momentum) * now)
        model.epoch_ended()
        torch.testing.assert_close(weights_of(model.snapshot), momentum * before + (1 - momentum) * now)

    def test_it_may_be_the_encoder_itself(self, batch) -> None:
        model = miles(snapshot_update="current")
        assert not any(name.startswith("snapshot") for name in model.state_dict())
        assert model.loss(batch)[1]["mvm"] > 0

    def test_it_is_not_trained(self, batch) -> None:
        model = miles().train()
        model.loss(batch)[0].backward()
        assert all(parameter.grad is None for parameter in model.snapshot.parameters())


class TestLoss:
    def test_the_warm_up_is_contrastive_alone_and_of_whole_clips(self, batch) -> None:
        model = miles(warmup_epochs=1).eval()
        contrast, terms = model.loss(batch)
        assert set(terms) == {"text|video"}
        model.config = model.config.replaced(target="none")
        assert torch.equal(model.loss(batch)[0], contrast)

    @pytest.mark.parametrize(
        "options",
        [
            {"target": "pixels"},
            {"target": "pixels", "normalise_targets": True},
            {"mvm_features": "projected"},
            {"normalise_targets": True},
            {"regression_head": "linear"},
            {"contrast_video": "raw"},
            {"masking": "random", "tube": False},
            {"masking": "frame", "mask_ratio": 0.25},
            {"projection": "none", "text_width": 24, "projection_dim": 24},
            *({"mvm_loss": how} for how in ("sample_l2_sum", "token_l2_mean", "token_square_mean", "square_mean")),
        ],
        ids=str,
    )
    def test_every_switch_changes_the_objective_and_trains_everything(self, batch, options) -> None:
        model = miles(**options).train()
        loss, terms = model.loss(batch)
        loss.backward()
        assert set(terms) == {"text|video", "mvm"}
        assert loss.item() != miles().train().loss(batch)[0].item()
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]

    def test_masks_follow_from_the_step_and_the_state_dict_keeps_it(self, batch) -> None:
        model, other = miles().train(), miles().train()
        curve = [model.loss(batch)[0].item() for _ in range(3)]
        assert len(set(curve)) == 3
        other.loss(batch)
        resumed = miles().train()
        resumed.load_state_dict(other.state_dict())
        assert [resumed.loss(batch)[0].item() for _ in range(2)] == curve[1:]

    def test_in_evaluation_nothing_is_counted(self, batch) -> None:
        model = miles().eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert model.loss(batch)[0].item() == model.loss(batch)[0].item()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_one_frame_is_enough(self, batch) -> None:
        alone = {**batch, "video": Tokens(*(part[:, :1] for part in batch["video"]))}
        assert miles().loss(alone)[0].isfinite()

    def test_clips_without_text_are_still_reconstructed(self, batch) -> None:
        _, terms = miles().loss({"video": batch["video"]})
        assert set(terms) == {"mvm"}

    def test_regression_of_nothing_is_zero(self) -> None:
        nothing = torch.zeros(0, 4, requires_grad=True)
        loss = masked_regression(nothing, nothing, torch.zeros(0).long(), num_samples=2, how="square_mean")
        loss.backward()
        assert loss.item() == 0.0

    def test_a_perfect_prediction_has_a_gradient_of_zero(self) -> None:
        same = torch.ones(3, 4, requires_grad=True)
        loss = masked_regression(same, torch.ones(3, 4), torch.tensor([0, 0, 1]), num_samples=2, how="sample_l2_sum")
        loss.backward()
        assert torch.equal(same.grad, torch.zeros(3, 4))


def test_a_long_text_is_embedded_as_its_beginning_and_its_end() -> None:
    model = miles().eval()
    ids = torch.randint(1, 40, (1, 20))
    cut = torch.cat([ids[:, :11], ids[:, -1:]], dim=1)
    long, short = (model.encode(text=Tokens(each, torch.ones_like(each))) for each in (ids, cut))
    assert torch.equal(long, short)


class TestOfficial:
    def published(self, **changes: object) -> dict[str, torch.Tensor]:
        """A state dict as the authors have it: without mask token and snapshot."""
        model = miles(target="none", num_frames=4, max_words=12, **changes)
        return model.to_official()["state_dict"]

    @pytest.mark.parametrize("name", ["test_miles", "frozen_in_time"])
    @pytest.mark.parametrize("text", ["distilbert", "bert"])
    def test_a_checkpoint_goes_round(self, batch, name, text) -> None:
        small = {name: value for name, value in miles().config if name in miles().config.model_fields_set}
        options = {**small, "text_types": 2 if text == "bert" else 0}
        model = miles(name, **options)
        model.loss(batch)
        checkpoint = model.to_official()
        again = miles().from_official(checkpoint)
        assert (again.name, again.config) == ("frozen_in_time" if "frozen" in name else "miles", model.config)
        assert again.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
        written = again.to_official()["state_dict"]
        assert all(torch.equal(value, checkpoint["state_dict"][key]) for key, value in written.items())
        assert ("txt_proj.1.weight" in written) is ("frozen" in name)
        assert ("text_model.transformer.layer.0.attention.q_lin.weight" in written) is (text == "distilbert")

    def test_a_published_checkpoint_gives_a_model_without_snapshot(self) -> None:
        weights = self.published()
        model = miles().from_official({f"module.{name}": value for name, value in weights.items()}, ARGUMENTS)
        assert (model.config.target, model.config.max_words) == ("none", 16)
        assert model.to_official()["state_dict"].keys() == weights.keys()

    def test_or_begins_a_pre_training_whose_snapshot_is_a_copy_of_it(self) -> None:
        model = miles()
        model.from_official(self.published())
        for name, value in model.snapshot.state_dict().items():
            assert torch.equal(value, model.video_model.state_dict()[name])

    @pytest.mark.parametrize("num_frames", [2, 4, 6])
    def test_another_number_of_frames_is_cut_or_filled_with_zeros(self, num_frames) -> None:
        weights = self.published()
        table = torch.randn(1, 4, 24)
        weights["video_model.temporal_embed"] = table
        video = {**ARGUMENTS["video_params"], "num_frames": num_frames}
        model = miles().from_official(weights, {**ARGUMENTS, "video_params": video})
        loaded = model.video_model.temporal_embed
        assert torch.equal(loaded[:, :4], table[:, :num_frames])
        assert not loaded[:, 4:].any()

    def test_a_checkpoint_of_another_size_is_refused_and_changes_nothing(self) -> None:
        other = miles(width=48, target="none").to_official()["state_dict"]
        model = miles(target="none")
        before = weights_of(model)
        with pytest.raises(InputError, match=r"wrong shape: .* and \d+ more"):
            model.from_official(other)
        assert torch.equal(weights_of(model), before)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"projection": "mlp"}, "projection is 'mlp'; this model takes 'minimal' or ''"),
            ({"heads": 3}, "no argument 'heads'; known: .*video_params"),
            ({"video_params": {"num_classes": 10}}, r"video_params.num_classes is 10; this model takes 0"),
            ({"video_params": {"attention_style": "divided"}}, "attention_style is 'divided'"),
            ({"video_params": {"windows": 3}}, "video_params has no key 'windows'"),
            ({"text_params": {**BERT, "dim": 4}}, "text_params has no key 'dim'"),
        ],
    )
    def test_what_the_authors_or_this_model_do_not_have(self, changes, message) -> None:
        with pytest.raises(ConfigError, match=message):
            miles().from_official(self.published(), {**ARGUMENTS, **changes})

    def test_of_bert_frozen_in_time_reads_the_pooler_and_miles_the_first_state(self) -> None:
        model = miles(text_types=2, target="none", num_frames=4, max_words=12)
        weights = model.to_official()["state_dict"]
        arguments = {**ARGUMENTS, "text_params": BERT}
        of_miles = miles().from_official(weights, arguments)
        frozen = {name.replace("text_proj", "txt_proj"): value for name, value in weights.items()}
        of_frozen = miles().from_official(frozen, arguments)
        assert (of_miles.config.text_output, of_frozen.config.text_output) == ("cls", "pooler")
        ids = torch.randint(1, 40, (2, 5))
        vectors = [each.eval().encode(text=Tokens(ids, torch.ones(2, 5))) for each in (of_miles, of_frozen)]
        assert not torch.allclose(*vectors)


class TestStartingWeights:
    def test_of_timm_and_transformers(self) -> None:
        timm, transformers = pytest.importorskip("timm"), pytest.importorskip("transformers")
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 7}
        vit = timm.models.VisionTransformer(**sizes)
        text = transformers.DistilBertForMaskedLM(
            transformers.DistilBertConfig(
                vocab_size=40, max_position_embeddings=16, dim=16, n_layers=2, n_heads=2, hidden_dim=32
            )
        )
        model = miles()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        initialised_from(model, video=vit.state_dict(), text=text.state_dict())
        kept = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
        changed = model.state_dict().keys() - kept
        assert {"video_model.blocks.1.attn.qkv.weight", "snapshot.blocks.0.mlp.fc1.weight"} <= changed
        assert "text_model.encoder.layer.1.attention.self.query.weight" in changed
        assert all("timeattn" in name or "temporal" in name or "mask_token" in name or "norm" in name.lower()
                   or "bias" in name or "proj" in name or name.startswith("num_") for name in kept)  # fmt: skip
        ids = torch.randint(1, 40, (2, 5))
        mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
        theirs = text.distilbert.eval()(ids, attention_mask=mask).last_hidden_state[:, 0]
        torch.testing.assert_close(model.eval().text_model(ids, mask)[:, 0], theirs, atol=1e-5, rtol=1e-5)

    def test_of_a_frozen_in_time_the_video_encoder_is_the_snapshot_too(self) -> None:
        trained, model = miles(target="none"), miles()
        assert model.continue_from(trained.state_dict()) == ["snapshot"]
        own = model.state_dict()
        for name, value in trained.video_model.state_dict().items():
            assert torch.equal(own[f"video_model.{name}"], value)
            assert torch.equal(own[f"snapshot.{name}"], value)

    def test_of_another_size_or_kind(self) -> None:
        with pytest.raises(InputError, match=r"pos_embed is \(1, 17, 24\) here and \(1, 5, 24\) in a ViT of timm"):
            initialised_from(miles(), video={"pos_embed": torch.zeros(1, 5, 24)})
        with pytest.raises(InputError, match="none of these weights is one of DistilBERT or BERT; they begin with"):
            initialised_from(miles(), text={"conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "image_size 30 must be a multiple of patch_size 8"),
        ({"heads": 5}, "width 24 cannot be shared by 5 heads"),
        ({"text_heads": 3}, "text_width 16 cannot be shared by 3 heads; use a multiple of text_heads"),
        ({"max_words": 99}, "max_words 99 must be at most text_positions 16"),
        ({"projection": "none"}, "projection='none' needs"),
        ({"target": "pixels", "mvm_features": "projected"}, "target='pixels' has a linear layer of its own"),
        ({"text_output": "pooler"}, "needs BERT"),
        ({"mask_ratio": 1.0}, "mask_ratio is 1.0"),
    ],
)
def test_options_that_cannot_be(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        miles(**options)


@torch.no_grad()
def test_words_go_with_patches_by_the_cosine_of_what_is_projected(batch) -> None:
    model = miles().eval()
    found = model.word_patches(text=batch["text"], video=batch["video"])
    (size, length), num_frames = batch["text"].mask.shape, batch["video"].mask.shape[1]
    assert found.shape == (size, length, num_frames, 16)
    hidden = model.text_proj(model.text_model(batch["text"].values, batch["text"].mask.bool()))[0, 1]
    pictures = model.given(batch)["video"].values
    tokens = model.vid_proj(model.video_model(pictures, batch["video"].mask.bool()))[0]
    patch = tokens[1 + 16 * (num_frames - 1) + 5]
    assert float(found[0, 1, -1, 5]) == pytest.approx(float(torch.cosine_similarity(hidden, patch, dim=0)), abs=1e-5)
