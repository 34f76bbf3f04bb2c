"""3D ResNets: windows as the protocols have them, networks as their authors build them, weights from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameloom._vocabulary import ConfigError, InputError, Status
from frameloom.extract import DecodedFrames, Decoder, backbone_spec, create_backbone, extract_file
from frameloom.extract.backbones.resnet3d import _VARIANTS, ResNet3dBackbone
from frameloom.extract.networks.resnet3d import ResNet3d, ZeroPaddedShortcut, randomise

NAMES = ("resnext101_3d", "resnet18_3d", "test_resnet3d")


def some_frames(count: int, *, size: int = 32) -> DecodedFrames:
    rng = np.random.default_rng(6)
    starts = np.arange(count) / 24
    pictures = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return DecodedFrames(pictures, np.stack([starts, starts + 1 / 24], axis=1))


def seeded(**options: Any) -> ResNet3d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return randomise(ResNet3d(**options)).eval()


class TestProtocol:
    def test_resnext101_follows_the_extractor(self) -> None:
        spec = backbone_spec("resnext101_3d")
        assert (spec.dim, spec.rate_hz) == (2048, 1.5)
        assert (spec.sampling["frame_rate_hz"], spec.sampling["num_frames"], spec.sampling["end"]) == (24, 16, "zeros")
        facts = spec.preprocessing
        assert (facts["short_side"], facts["crop"], facts["scale"]) == (112, 112, 1)
        assert (facts["mean"], facts["std"]) == ([110.6, 103.2, 96.3], [1, 1, 1])

    def test_the_end_is_filled_with_black_before_the_mean_is_taken_off(self) -> None:
        backbone, frames = create_backbone("test_resnet3d", dtype="float32"), some_frames(20)
        feature = backbone.encode(frames)
        assert feature.values.shape == (2, backbone.spec.dim)
        assert feature.times.tolist() == [
            [frames.times[0, 0], frames.times[15, 1]],
            frames.times[[16, 19], [0, 1]].tolist(),
        ]
        windows = np.zeros((2, 16, 32, 32, 3), np.float32)
        windows.reshape(32, 32, 32, 3)[:20] = frames.frames
        inputs = torch.from_numpy(windows - np.array([110.6, 103.2, 96.3], np.float32)).permute(0, 4, 1, 2, 3)
        with torch.inference_mode():
            expected = backbone.network(inputs.contiguous()).numpy()
        np.testing.assert_allclose(feature.values, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(("end", "num_rows"), [("zeros", 2), ("repeat", 2), ("drop", 1)])
    def test_the_end_is_a_choice(self, end: Any, num_rows: int) -> None:
        assert len(create_backbone("test_resnet3d", end=end).encode(some_frames(20)).values) == num_rows

    def test_repeating_and_filling_with_black_differ_in_the_last_row_alone(self) -> None:
        frames = some_frames(20)
        zeros, repeat = (create_backbone("test_resnet3d", end=end).encode(frames).values for end in ("zeros", "repeat"))
        assert np.array_equal(zeros[0], repeat[0])
        assert not np.allclose(zeros[1], repeat[1], atol=1e-2)

    @pytest.mark.parametrize(
        ("name", "scale", "mean", "std"),
        [
            ("resnext101_3d", 1, (110.6, 103.2, 96.3), (1, 1, 1)),
            ("resnet18_3d", 1 / 255, (0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)),
        ],
    )
    def test_pixels_become_numbers_channel_by_channel(self, name: str, scale: float, mean: Any, std: Any) -> None:
        tiny = ResNet3d(depth=10, widen_factor=0.125)
        backbone = ResNet3dBackbone(backbone_spec(name), tiny, device="cpu", weights_digest="none")
        frames = torch.from_numpy(some_frames(16, size=8).frames[None])
        inputs = backbone.prepare(frames)
        assert (inputs.shape, inputs.dtype) == ((1, 3, 16, 8, 8), torch.float32)
        assert inputs.is_contiguous(memory_format=torch.channels_last_3d)
        for channel in range(3):
            expected = (frames[..., channel].double() * scale - mean[channel]) / std[channel]
            torch.testing.assert_close(inputs[:, channel].double(), expected, rtol=1e-5, atol=1e-5)

    def test_a_file_gives_rows_that_stand_for_two_thirds_of_a_second(self, silent_clip: Path, decoder: Decoder) -> None:
        feature = extract_file(silent_clip, [create_backbone("test_resnet3d")], decoder=decoder)["test_resnet3d"]
        assert (feature.status, feature.values.shape) == (Status.OK, (3, 512))
        np.testing.assert_allclose(feature.times, [[0, 2 / 3], [2 / 3, 4 / 3], [4 / 3, 2]], atol=0.04)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(
        "options",
        [
            {"num_frames": 0},
            {"num_frames": 2.5},
            {"stride_frames": 0},
            {"crop": 16},
            {"crop": 128, "short_side": 112},
            {"frame_rate_hz": 0},
            {"end": "black"},
            {"precision": "float64"},
        ],
    )
    def test_impossible_options_are_refused(self, name: str, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            backbone_spec(name, **options)

    def test_windows_may_overlap(self) -> None:
        spec = backbone_spec("resnext101_3d", stride_frames=8, num_frames=32)
        assert (spec.rate_hz, spec.sampling["num_frames"]) == (3.0, 32)


class TestNetwork:
    def test_equals_torchvision_s_where_the_two_families_meet(self) -> None:
        from torchvision.models.video import r3d_18

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(12)
            official = r3d_18(weights=None).eval()
            clips = torch.randn(2, 3, 4, 24, 24)
            for module in official.modules():
                if isinstance(module, torch.nn.BatchNorm3d):
                    torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
                    torch.nn.init.normal_(module.running_mean, std=0.1)
        official.fc = torch.nn.Identity()
        network = ResNet3d(depth=18, conv1_t_size=3, no_max_pool=True).eval()
        network.load_state_dict({_by_kenshohara(key): value for key, value in official.state_dict().items()})
        with torch.inference_mode():
            torch.testing.assert_close(network(clips), official(clips), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("options", "dim", "num_blocks"),
        [
            ({"depth": 10}, 512, 4),
            ({"depth": 34}, 512, 16),
            ({"depth": 50}, 2048, 16),
            ({"depth": 101}, 2048, 33),
            ({"depth": 152}, 2048, 50),
            ({"depth": 200}, 2048, 66),
            ({"depth": 50, "cardinality": 32}, 2048, 16),
            ({"depth": 101, "cardinality": 32}, 2048, 33),
        ],
    )
    @pytest.mark.parametrize("shortcut", ["A", "B"])
    def test_every_depth_has_its_blocks_and_width(
        self, options: dict[str, Any], dim: int, num_blocks: int, shortcut: Any
    ) -> None:
        with torch.device("meta"):
            network = ResNet3d(**options, shortcut=shortcut)
            features = network(torch.empty(1, 3, 16, 112, 112))
        assert features.shape == (1, dim) == (1, network.dim)
        keys = network.state_dict().keys()
        assert (
            len({key.rsplit(".conv1", 1)[0] for key in keys if key.startswith("layer") and ".conv1." in key})
            == num_blocks
        )
        # a stage of basic blocks as wide as the stem needs no shortcut at its beginning
        num_shortcuts = 0 if shortcut == "A" else 4 - (dim == 512)
        assert sum(key.endswith("downsample.0.weight") for key in keys) == num_shortcuts

    @pytest.mark.parametrize("name", NAMES)
    def test_members_are_as_wide_as_their_specification_says(self, name: str) -> None:
        with torch.device("meta"):
            assert ResNet3d(**_VARIANTS[name].network).dim == backbone_spec(name).dim

    def test_a_resnext_groups_the_middle_convolution(self) -> None:
        network = ResNet3d(depth=50, cardinality=16)
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        assert shapes["layer1.0.conv1.weight"] == (64, 64, 1, 1, 1)
        assert shapes["layer1.0.conv2.weight"] == (64, 4, 3, 3, 3)
        assert shapes["layer1.0.conv3.weight"] == (256, 64, 1, 1, 1)

    def test_shortcut_a_thins_out_and_adds_channels_of_zeros(self) -> None:
        x = torch.arange(2 * 3 * 5 * 4 * 4, dtype=torch.float32).reshape(2, 3, 5, 4, 4)
        expected = torch.cat([torch.nn.functional.avg_pool3d(x, 1, stride=2), torch.zeros(2, 4, 3, 2, 2)], dim=1)
        for memory_format in (torch.contiguous_format, torch.channels_last_3d):
            assert torch.equal(ZeroPaddedShortcut(4, 2)(x.contiguous(memory_format=memory_format)), expected)

    def test_the_first_convolution_may_skip_frames(self) -> None:
        network = ResNet3d(depth=10, widen_factor=0.125, conv1_t_size=5, conv1_t_stride=2)
        assert network.conv1(torch.zeros(1, 3, 16, 32, 32)).shape == (1, 8, 8, 16, 16)

    @pytest.mark.parametrize("options", [{"depth": 20}, {"depth": 18, "shortcut": "C"}])
    def test_what_nobody_built_is_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="shortcut A or B"):
            ResNet3d(**options)


def _by_kenshohara(key: str) -> str:
    """torchvision's key name of an R3D as kenshohara calls it."""
    key = key.replace("stem.0.", "conv1.").replace("stem.1.", "bn1.")
    for number in (1, 2):
        key = key.replace(f".conv{number}.0.", f".conv{number}.").replace(f".conv{number}.1.", f".bn{number}.")
    return key


class TestWeights:
    @pytest.mark.parametrize("suffix", [".pth", ".pt"])
    def test_official_files_are_read_with_their_wrapper_and_classifier(self, tmp_path: Path, suffix: str) -> None:
        trained = create_backbone("test_resnet3d", seed=9)
        weights = {f"module.{key}": value.clone() for key, value in trained.network.state_dict().items()}
        weights |= {"module.fc.weight": torch.zeros(7, 512), "module.fc.bias": torch.zeros(7)}
        path = tmp_path / f"weights{suffix}"
        torch.save({"epoch": 3, "arch": "resnext-10", "state_dict": weights}, path)
        loaded = create_backbone("test_resnet3d", weights=path)
        expected = trained.encode(some_frames(20)).values
        assert np.array_equal(loaded.encode(some_frames(20)).values, expected)
        assert not np.array_equal(create_backbone("test_resnet3d").encode(some_frames(20)).values, expected)
        assert np.array_equal(
            create_backbone("test_resnet3d").from_official(weights).encode(some_frames(20)).values, expected
        )

    def test_weights_of_another_depth_are_refused_by_key(self) -> None:
        weights = ResNet3d(depth=18, cardinality=8, widen_factor=0.25).state_dict()
        with pytest.raises(InputError, match=r"layer1\.1\.conv1\.weight is not expected"):
            create_backbone("test_resnet3d").from_official(weights)

    def test_the_seed_alone_decides_random_weights(self) -> None:
        same, again, other = (create_backbone("test_resnet3d", seed=seed).network.state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(same[key], again[key]) for key in same)
        assert not torch.equal(same["conv1.weight"], other["conv1.weight"])

    @pytest.mark.parametrize(
        "options", [{"depth": 101, "cardinality": 32}, {"depth": 200}, {"depth": 18, "shortcut": "A"}]
    )
    def test_random_weights_keep_values_in_range_and_inputs_apart(self, options: dict[str, Any]) -> None:
        network = seeded(**options)
        pictures = torch.full((2, 3, 4, 32, 32), -100.0)
        pictures[0, 0], pictures[1, 2] = 155.0, 155.0  # red and blue, as the extractor's preprocessing gives them
        with torch.inference_mode():
            red, blue = network(pictures)
        assert 1 < torch.stack([red, blue]).abs().max() < 10_000
        assert torch.cosine_similarity(red, blue, dim=0) < 0.99

    def test_bfloat16_stays_near_float32(self) -> None:
        exact, fast = (
            create_backbone("test_resnet3d", precision=precision, dtype="float32").encode(some_frames(16)).values
            for precision in ("float32", "bfloat16")
        )
        assert 0 < np.abs(exact - fast).max() < 0.05 * np.abs(exact).max()
