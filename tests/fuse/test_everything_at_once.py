"""Everything at Once beyond the golden cases: its options, its padding, its errors, its efficiency."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from frameloom import ConfigError, InputError
from frameloom.fuse import Tokens, create_model, model_config
from frameloom.fuse._everything_at_once_config import official_config
from frameloom.fuse._layers import masked_mean
from torch.nn import functional


def tiny(**config):
    return create_model("test_everything_at_once", **config).eval()


def test_published_size_is_that_of_the_paper() -> None:
    config = model_config("everything_at_once")
    assert (config.width, config.heads, config.depth, config.projection_dim) == (4096, 64, 1, 6144)
    assert config.audio_spec().widths == (128, 128, 256, 512, 1024, 2048, 4096)
    assert list(config.lambdas().values()) == [1.0, 0.1, 0.1, 0.1, 0.1, 0.1]


def test_embeddings_equal_six_plain_passes(make_batch) -> None:
    """Sharing the tokens between passes changes nothing: equation 1 written out, each pass from the raw features."""
    model, batch = tiny(), make_batch({"audio": (32, 0, 7, 16), "text": (0, 3, 1, 4)})
    vectors, _ = model.embeddings(batch)
    projections = {"text": model.text_proj, "video": model.video_proj, "audio": model.audio_proj}
    for size in (1, 2):
        for names in combinations(("text", "video", "audio"), size):
            tokens, _ = model.tokens({name: batch[name] for name in names})
            fused = model.fusion(tokens)
            projected = [projections[name](masked_mean(fused[name])) for name in names]
            expected = projected[0] if size == 1 else sum(functional.normalize(each) for each in projected) / 2
            torch.testing.assert_close(vectors["+".join(names)], expected, atol=1e-6, rtol=1e-5)


def test_encode_is_the_unit_vector_of_the_embedding(make_batch) -> None:
    model, batch = tiny(), make_batch()
    for fusion in ("joint", "late"):
        for name, vector in model.embeddings(batch, fusion=fusion).vectors.items():
            encoded = model.encode(**{part: batch[part] for part in name.split("+")}, fusion=fusion)
            torch.testing.assert_close(encoded, functional.normalize(vector), atol=1e-6, rtol=1e-5)


def test_late_fusion_differs_from_joint_fusion(make_batch) -> None:
    model, batch = tiny(), make_batch()
    joint, late = (model.encode(video=batch["video"], audio=batch["audio"], fusion=how) for how in ("joint", "late"))
    assert not torch.allclose(joint, late, atol=1e-3)


def test_modalities_attend_to_each_other(make_batch) -> None:
    """In a joint pass the video tokens see the audio: another sound changes what the video contributes."""
    model, batch, other = tiny(), make_batch(), make_batch(seed=50)
    quiet, loud = (
        model.fusion(model.tokens({"video": batch["video"], "audio": audio})[0])["video"].values
        for audio in (batch["audio"], other["audio"])
    )
    assert not torch.allclose(quiet, loud, atol=1e-4)


class TestAudioPadding:
    def test_silenced_padding_leaves_no_trace(self, make_batch) -> None:
        model, audio = tiny(), make_batch()["audio"]
        padded = Tokens(functional.pad(audio.values, (0, 0, 0, 21), value=5.0), functional.pad(audio.mask, (0, 21)))
        torch.testing.assert_close(model.encode(audio=padded), model.encode(audio=audio), atol=1e-6, rtol=1e-5)

    def test_published_padding_is_felt_unless_the_length_is_fixed(self, make_batch) -> None:
        audio = make_batch()["audio"]
        padded = Tokens(functional.pad(audio.values, (0, 0, 0, 21)), functional.pad(audio.mask, (0, 21)))
        model = tiny(audio_padding="published")
        assert not torch.allclose(model.encode(audio=padded), model.encode(audio=audio), atol=1e-4)
        fixed = create_model("test_everything_at_once", audio_padding="published", pad_audio_to=64).eval()
        torch.testing.assert_close(fixed.encode(audio=padded), fixed.encode(audio=audio), atol=1e-6, rtol=1e-5)

    @pytest.mark.parametrize("num_frames", [1, 3, 4, 5, 127])
    def test_any_length_has_its_tokens(self, make_batch, num_frames) -> None:
        model = tiny()
        audio = Tokens(torch.randn(2, num_frames, 40), torch.ones(2, num_frames, dtype=torch.bool))
        tokens, nonempty = model.tokens({"audio": audio})
        assert tokens["audio"].values.shape[1] == -(-num_frames // 4)
        assert tokens["audio"].mask.all()
        assert nonempty["audio"].all()


class TestVariants:
    def test_class_token(self, make_batch) -> None:
        vectors, _ = tiny(cls_token=True, individual_projections=False).embeddings(make_batch())
        assert {vector.shape for vector in vectors.values()} == {(4, 20)}

    def test_depth_zero_is_no_transformer(self, make_batch) -> None:
        model, batch = tiny(depth=0), make_batch()
        tokens, _ = model.tokens(batch)
        assert torch.equal(model.fusion(tokens)["video"].values, tokens["video"].values)

    def test_without_fused_pairs_pairs_are_late_and_leave_the_loss(self, make_batch) -> None:
        model, batch = tiny(fused_pairs=False), make_batch()
        assert model.loss(batch)[1].keys() == {"text|video", "text|audio", "video|audio"}
        both = {"video": batch["video"], "audio": batch["audio"]}
        assert torch.equal(model.encode(**both), model.encode(**both, fusion="late"))

    def test_text_and_video_alone(self, make_batch) -> None:
        model, batch = tiny(modalities=["text", "video"]), make_batch()
        audio = batch.pop("audio")
        loss, terms = model.loss(batch)
        loss.backward()
        assert terms.keys() == {"text|video"}
        assert all(p.grad is None for p in model.davenet.parameters())
        with pytest.raises(InputError, match="takes text, video"):
            model.loss({**batch, "audio": audio})

    def test_positions_matter_where_they_are_embedded(self, make_batch) -> None:
        batch = make_batch({"text": (5, 5, 5, 5)})
        reversed_ = Tokens(batch["text"].values.flip(1), batch["text"].mask)
        for positional in (False, True):
            model = tiny(positional=positional)
            same = torch.allclose(model.encode(text=reversed_), model.encode(text=batch["text"]), atol=1e-6)
            assert same is not positional

    def test_more_tokens_than_positions_are_refused(self, make_batch) -> None:
        with pytest.raises(InputError, match=r"video has 6 tokens.*ends at 4"):
            tiny(positional=True, max_video_tokens=4).encode(video=make_batch()["video"])

    @pytest.mark.parametrize("how", ["clip", "nearest", "max_pool", "avg_pool"])
    def test_long_audio_is_reduced(self, make_batch, how) -> None:
        model = tiny(audio_reduction=how, max_audio_frames=12)
        tokens, _ = model.tokens({"audio": make_batch()["audio"]})
        assert tokens["audio"].values.shape[1] == 3

    def test_margin_softmax(self, make_batch) -> None:
        batch = make_batch()
        losses = {how: tiny(contrast=how).loss(batch)[0].item() for how in ("norm_softmax", "margin_softmax")}
        assert losses["margin_softmax"] < losses["norm_softmax"]

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"width": 10, "heads": 4}, "width 10"),
            ({"cls_token": True}, "individual_projections=False"),
            ({"transformer": "per_modality"}, "fused_pairs=False"),
            ({"modalities": ["video"]}, "two or three"),
            ({"modalities": ["video", "smell"]}, "two or three"),
            ({"token_projection": "none"}, "token_projection='none'"),
            ({"projection": "none"}, "projection_dim 16"),
            ({"temperature": 0}, "temperature is 0"),
            ({"audio_cnn_widths": [8, 8]}, "one width for the stem"),
            ({"contrast": "triplet"}, "'triplet'.*must be one of 'norm_softmax'"),
            ({"width": "wide"}, "must be of type int"),
            ({"width": True}, "must be of type int"),
            ({"heads": 2.0}, "must be of type int"),
            ({"audio_cnn": "davenet_v3"}, "no audio CNN is called 'davenet_v3'"),
        ],
    )
    def test_impossible_options_are_explained(self, config, message) -> None:
        with pytest.raises(ConfigError, match=message):
            tiny(**config)


class TestOfficialConfiguration:
    def test_names_are_translated(self) -> None:
        options = official_config(
            {"video_embed_dim": 7, "davenet_v2": True, "token_projection": "minimal", "fusion_params": {"num_heads": 3}}
        )
        assert options == {"video_dim": 7, "audio_cnn": "davenet_v2", "token_projection": "linear", "heads": 3}

    @pytest.mark.parametrize("config", [{"video_dim": 7}, {"fusion_params": {"heads": 3}}])
    def test_a_name_that_is_not_theirs_is_refused(self, config) -> None:
        with pytest.raises(ConfigError, match="has no key"):
            tiny().from_official({}, config)

    def test_official_weights_bring_the_official_padding(self) -> None:
        model = tiny()
        assert model.config.audio_padding == "silenced"
        assert model.from_official(model.state_dict()).config.audio_padding == "published"
