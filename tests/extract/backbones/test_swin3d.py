"""Video Swin Transformers: torchvision's networks, its weights' own facts, and windows of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameloom._vocabulary import ConfigError, InputError, Status
from frameloom.extract import DecodedFrames, Decoder, backbone_spec, create_backbone, extract_file
from frameloom.extract.backbones.swin3d import Swin3d

PUBLISHED = ("swin3d_t", "swin3d_s", "swin3d_b")


def some_frames(count: int, *, size: int = 32) -> DecodedFrames:
    rng = np.random.default_rng(7)
    starts = np.arange(count) / 15
    pictures = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return DecodedFrames(pictures, np.stack([starts, starts + 1 / 15], axis=1))


def official(name: str) -> torch.nn.Module:
    """torchvision's own network with its classifier, with random weights."""
    from torchvision.models import get_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(13)
        return get_model(name, weights=None, num_classes=5).eval()


class TestPublished:
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_facts_are_those_that_torchvision_s_weights_carry(self, name: str) -> None:
        from torchvision.models import get_model_weights

        spec = backbone_spec(name)
        enum = get_model_weights(name)
        assert {source.tag: source.url for source in spec.weights} == {
            weights.name.lower(): weights.url for weights in enum
        }
        for weights, source in zip(enum, spec.weights, strict=True):
            transforms, facts = weights.transforms(), spec.preprocessing
            assert transforms.resize_size == [facts["short_side"]]
            assert transforms.crop_size == [facts["crop"]] * 2
            assert (transforms.mean, transforms.std) == (facts["mean"], facts["std"])
            assert f"`frame_rate={spec.sampling['frame_rate_hz']:g}`" in weights.meta["_docs"]
            assert f"`clip_len={spec.sampling['num_frames']}`" in weights.meta["_docs"]
            assert f"-{source.sha256}.pth" in weights.url

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_networks_are_those_that_torchvision_builds(self, name: str) -> None:
        with torch.device("meta"):
            ours, theirs = Swin3d.random_network(backbone_spec(name)), official(name)
        shapes = {key: value.shape for key, value in theirs.state_dict().items() if not key.startswith("head.")}
        assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
        assert backbone_spec(name).dim == theirs.num_features

    def test_equals_torchvision_s_transforms_and_network(self, tmp_path: Path) -> None:
        from torchvision.transforms._presets import VideoClassification

        theirs, frames = official("swin3d_t"), some_frames(4, size=64)
        transforms = VideoClassification(
            crop_size=(64, 64), resize_size=(64,), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )
        clip = transforms(torch.from_numpy(frames.frames).permute(0, 3, 1, 2).contiguous())
        path = tmp_path / "swin3d_t.pth"
        torch.save({"model": {f"module.{key}": value for key, value in theirs.state_dict().items()}}, path)
        ours = create_backbone("swin3d_t", weights=path, num_frames=4, short_side=64, crop=64, dtype="float32")
        prepared = ours.prepare(torch.from_numpy(frames.frames[None]))
        torch.testing.assert_close(prepared[0], clip, rtol=1e-5, atol=1e-5)
        features = ours.encode(frames).values
        assert features.shape == (1, 768)
        with torch.inference_mode():
            logits = theirs(clip[None]).numpy()
            np.testing.assert_allclose(theirs.head(torch.from_numpy(features)).numpy(), logits, rtol=1e-4, atol=1e-4)


class TestWindows:
    def test_windows_follow_one_another_and_the_last_repeats_its_last_frame(self) -> None:
        backbone, frames = create_backbone("test_swin3d", dtype="float32"), some_frames(11)
        feature = backbone.encode(frames)
        assert feature.values.shape == (2, 32)
        assert feature.times.tolist() == [
            [frames.times[0, 0], frames.times[7, 1]],
            [frames.times[8, 0], frames.times[10, 1]],
        ]
        last = np.concatenate([frames.frames[8:], np.repeat(frames.frames[-1:], 5, axis=0)])
        expected = backbone.forward(torch.from_numpy(np.stack([frames.frames[:8], last]))).numpy()
        np.testing.assert_allclose(feature.values, expected, rtol=1e-4, atol=1e-4)

    def test_time_matters(self) -> None:
        """A window is looked at as a whole: frames in another order give another feature."""
        backbone, frames = create_backbone("test_swin3d", dtype="float32"), some_frames(8)
        turned = DecodedFrames(frames.frames[::-1].copy(), frames.times)
        assert not np.allclose(backbone.encode(frames).values, backbone.encode(turned).values, atol=1e-3)

    def test_a_file_gives_rows(self, silent_clip: Path, decoder: Decoder) -> None:
        feature = extract_file(silent_clip, [create_backbone("test_swin3d")], decoder=decoder)["test_swin3d"]
        assert (feature.status, feature.values.shape) == (Status.OK, (4, 32))
        np.testing.assert_allclose(feature.times[:, 0], np.arange(4) * 8 / 15, atol=0.04)

    def test_rates_are_those_of_the_windows(self) -> None:
        assert backbone_spec("swin3d_t").rate_hz == 15 / 32
        assert backbone_spec("swin3d_t", stride_frames=16).rate_hz == 15 / 16
        assert backbone_spec("swin3d_t", end="drop").identity() != backbone_spec("swin3d_t").identity()

    @pytest.mark.parametrize("options", [{"crop": 512}, {"num_frames": 0}, {"end": "last"}, {"dtype": "bfloat16"}])
    def test_impossible_options_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            backbone_spec("swin3d_b", **options)


class TestWeights:
    def test_weights_go_through_a_file(self, tmp_path: Path) -> None:
        trained, frames = create_backbone("test_swin3d", seed=9), some_frames(8)
        weights = {f"module.{key}": value.clone() for key, value in trained.network.state_dict().items()}
        path = tmp_path / "weights.pth"
        torch.save(weights | {"module.head.weight": torch.zeros(5, 32), "module.head.bias": torch.zeros(5)}, path)
        loaded = create_backbone("test_swin3d", weights=path)
        expected = trained.encode(frames).values
        assert np.array_equal(loaded.encode(frames).values, expected)
        assert not np.array_equal(create_backbone("test_swin3d").encode(frames).values, expected)

    def test_weights_of_another_member_are_refused_by_key(self) -> None:
        weights = create_backbone("test_swin3d").network.state_dict()
        weights = {key: value for key, value in weights.items() if key != "norm.weight"}
        with pytest.raises(InputError, match=r"norm\.weight is missing"):
            create_backbone("test_swin3d").from_official(weights)

    def test_the_seed_alone_decides_random_weights(self) -> None:
        same, again, other = (create_backbone("test_swin3d", seed=seed).network.state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(same[key], again[key]) for key in same)
        assert not torch.equal(same["patch_embed.proj.weight"], other["patch_embed.proj.weight"])

    def test_random_weights_tell_colours_apart(self) -> None:
        backbone = create_backbone("swin3d_t", num_frames=4, short_side=32, crop=32)
        plain = np.zeros((8, 32, 32, 3), np.uint8)
        plain[:4, :, :, 0], plain[4:, :, :, 2] = 255, 255
        red, blue = backbone.encode(DecodedFrames(plain, np.zeros((8, 2)))).values.astype(np.float32)
        assert np.abs([red, blue]).max() < 100
        assert red @ blue < 0.99 * np.linalg.norm(red) * np.linalg.norm(blue)
