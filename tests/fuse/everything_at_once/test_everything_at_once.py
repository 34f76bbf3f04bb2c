"""Everything at Once beyond the golden cases: its options, its padding, its errors, its efficiency."""

from __future__ import annotations

import pytest
import torch
from frameloom import ConfigError, InputError
from frameloom.fuse import Tokens, create_model, model_config
from torch.nn import functional


def tiny(**config):
    return create_model("test_everything_at_once", **config).eval()


def test_published_size_is_that_of_the_paper() -> None:
    config = model_config("everything_at_once")
    assert (config.width, config.heads, config.depth, config.projection_dim) == (4096, 64, 1, 6144)
    assert config.audio_spec().widths == (128, 128, 256, 512, 1024, 2048, 4096)
    assert list(config.loss_weights().values()) == [1.0, 0.1, 0.1, 0.1, 0.1, 0.1]


def plain_tokens(model, name, rows):
    """The tokens of one sample's modality; one masking token where it has no rows."""
    if not len(rows):
        return model.fusion.masking_token[None]
    rows = model.davenet(rows[None])[0] if name == "audio" else rows
    return getattr(model, f"{name}_norm_layer")(getattr(model, f"{name}_token_proj")(rows))


def plain_block(block, x):
    """A transformer block over one sequence (N, D), a head at a time."""
    heads, width = block.attn.heads, x.shape[1] // block.attn.heads
    q, k, v = block.attn.qkv(block.norm1(x)).unflatten(1, (3, heads, width)).unbind(1)
    attended = [
        torch.softmax(q[:, h] @ k[:, h].T / width**0.5, dim=1) @ v[:, h] for h in range(heads)
    ]  # fmt: skip
    x = x + block.attn.proj(torch.cat(attended, dim=1))
    return x + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x))))


def plain_embedding(model, sample):
    """Equation 1 of one sample, by the paper: no padding, no batch. `sample` maps modalities to real rows (N, D)."""
    tokens = {name: plain_tokens(model, name, rows) for name, rows in sample.items()}
    x = torch.cat(list(tokens.values()))
    for block in model.fusion.blocks:
        x = plain_block(block, x)
    parts = dict(zip(tokens, x.split([len(each) for each in tokens.values()]), strict=True))
    projected = [getattr(model, f"{name}_proj")(part.mean(dim=0)) for name, part in parts.items()]
    return projected[0] if len(projected) == 1 else sum(each / each.norm() for each in projected) / len(projected)


def test_embeddings_equal_plain_passes(make_batch) -> None:
    """Sharing the work of passes and of samples changes nothing."""
    model, batch = tiny(depth=2), make_batch({"audio": (32, 0, 7, 16), "text": (0, 3, 1, 4)})
    vectors, _ = model.embeddings(batch)
    assert len(vectors) == 6
    for name, vector in vectors.items():
        for i in range(4):
            sample = {part: batch[part].values[i][batch[part].mask[i]] for part in name.split("+")}
            torch.testing.assert_close(vector[i], plain_embedding(model, sample), atol=2e-6, rtol=1e-5)


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
    torch.nn.init.zeros_(model.audio_proj.fc.weight)  # audio contributes the same to every vector
    torch.nn.init.zeros_(model.audio_proj.cg.fc.weight)
    quiet, loud = (model.encode(video=batch["video"], audio=audio["audio"]) for audio in (batch, other))
    assert not torch.allclose(quiet, loud, atol=1e-4)
    late = [model.encode(video=batch["video"], audio=each["audio"], fusion="late") for each in (batch, other)]
    assert torch.equal(*late)


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

    def test_published_frames_are_shared_out_evenly(self) -> None:
        """6 frames are 2 tokens of 3, as in the authors' `extract_audio_tokens`, and not of 4 and 2."""
        frames = Tokens(torch.randn(2, 6, 40), torch.arange(6) < torch.tensor([[3], [4]]))
        masks = {
            padding: tiny(audio_padding=padding).tokens({"audio": frames})[0]["audio"].mask.tolist()
            for padding in ("published", "silenced")
        }
        assert masks == {"published": [[True, False], [True, True]], "silenced": [[True, False], [True, False]]}

    @pytest.mark.parametrize("num_frames", [1, 3, 4, 5, 127])
    def test_any_length_has_its_tokens(self, make_batch, num_frames) -> None:
        model = tiny()
        audio = Tokens(torch.randn(2, num_frames, 40), torch.ones(2, num_frames, dtype=torch.bool))
        tokens, nonempty = model.tokens({"audio": audio})
        assert tokens["audio"].mask.shape[1] == -(-num_frames // 4)
        assert tokens["audio"].mask.all()
        assert nonempty["audio"].all()


class TestVariants:
    def test_class_token(self, make_batch) -> None:
        vectors, _ = tiny(cls_token=True, individual_projections=False).embeddings(make_batch())
        assert {vector.shape for vector in vectors.values()} == {(4, 20)}

    def test_depth_zero_is_no_transformer(self, make_batch) -> None:
        model, batch = tiny(depth=0), make_batch()
        both = {"video": batch["video"], "audio": batch["audio"]}
        torch.testing.assert_close(model.encode(**both, fusion="late"), model.encode(**both, fusion="joint"))
        video = batch["video"].values[0][batch["video"].mask[0]]
        torch.testing.assert_close(
            model.embeddings({"video": batch["video"]}).vectors["video"][0],
            model.video_proj(plain_tokens(model, "video", video).mean(dim=0)),
        )

    def test_without_fused_pairs_pairs_are_late_and_leave_the_loss(self, make_batch) -> None:
        model, batch = tiny(fused_pairs=False), make_batch()
        assert model.loss(batch)[1].keys() == {"text|video", "text|audio", "video|audio"}
        both = {"video": batch["video"], "audio": batch["audio"]}
        assert torch.equal(model.encode(**both), model.encode(**both, fusion="late"))

    def test_without_fused_pairs_they_are_joint_when_asked_for(self, make_batch) -> None:
        batch, both = make_batch(), ("video", "audio")
        pairwise, fused = tiny(fused_pairs=False), tiny()
        pairwise.load_state_dict(fused.state_dict())
        for ask in (
            lambda model: model.embeddings(batch, fusion="joint").vectors["video+audio"],
            lambda model: model.encode(**{name: batch[name] for name in both}, fusion="joint"),
        ):
            assert torch.equal(ask(pairwise), ask(fused))

    def test_transformers_of_one_modality_each_are_late_when_asked_to_fuse(self, make_batch) -> None:
        model, batch = tiny(transformer="per_modality", fused_pairs=False), make_batch()
        joint, late = (model.embeddings(batch, fusion=how).vectors["video+audio"] for how in ("joint", "late"))
        assert torch.equal(joint, late)

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
        assert tokens["audio"].mask.shape[1] == 3

    def test_margin_softmax(self, make_batch) -> None:
        model, batch = tiny(contrast="margin_softmax", margin=0.2), make_batch()
        text, video = (model.encode(**{name: batch[name]}) for name in ("text", "video"))
        scores = text @ video.T - 0.2 * torch.eye(4)
        expected = sum(functional.cross_entropy(each, torch.arange(4)) for each in (scores, scores.T))
        assert model.loss(batch)[1]["text|video"].item() == pytest.approx(expected.item(), abs=1e-5)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"width": 10, "heads": 4}, "width 10"),
            ({"cls_token": True}, "individual_projections=False"),
            ({"transformer": "per_modality"}, "fused_pairs=False"),
            ({"modalities": ["video"]}, "too few: two or more"),
            ({"modalities": ["video", "smell"]}, "must be of text, video, audio"),
            ({"token_projection": "none"}, "token_projection='none'"),
            ({"projection": "none"}, "projection_dim 16"),
            ({"temperature": 0}, "temperature is 0"),
            ({"audio_cnn_widths": [8, 8]}, "one width for the stem"),
            ({"audio_cnn_blocks": [1, 0]}, r"audio_cnn_blocks \[1, 0\].*1 or more"),
            ({"audio_cnn_widths": [8, -8, 16]}, r"audio_cnn_widths \[8, -8, 16\].*1 or more"),
            ({"positional": True, "max_audio_frames": 3}, "max_audio_frames 3 leaves no token; use 4 or more"),
            ({"audio_reduction": "nearest", "max_audio_frames": 3}, "max_audio_frames 3 leaves no token"),
            ({"mlp_ratio": 0.01}, "mlp_ratio 0.01 leaves the MLP no width"),
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
