"""Every backbone keeps the same promises: a specification that is cheap and true, features that repeat."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameloom._vocabulary import (
    ConfigError,
    FeatureArray,
    FeatureSpec,
    InputError,
    Modality,
    Status,
    UnknownNameError,
    canonical_json,
)
from frameloom.extract import (
    Backbone,
    DecodedAudio,
    DecodedFrames,
    backbone_spec,
    create_backbone,
    list_backbones,
    weights_digest,
)
from frameloom.extract.networks import frozen
from frameloom.extract.networks.word_pieces import train_word_pieces
from frameloom.extract.networks.word_vectors import WordVectors, write_word_vectors
from frameloom.extract.registry import BACKBONES
from frameloom.extract.windows.sampling import Windows
from safetensors.torch import save_file

CHEAP = [*list_backbones("test_*"), "logmel_avlnet", "waveform_16khz", "word2vec", "wordpiece"]


def some_frames(count: int = 5, *, height: int = 64, width: int = 80) -> DecodedFrames:
    rng = np.random.default_rng(3)
    starts = np.arange(count) + 0.48
    return DecodedFrames(
        rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8), np.stack([starts, starts + 0.04], axis=1)
    )


def some_sound(num_samples: int = 16_000, *, start: float = 0.0) -> DecodedAudio:
    rng = np.random.default_rng(4)
    return DecodedAudio((0.1 * rng.standard_normal(num_samples)).astype(np.float32), 16_000, start)


ITEMS: dict[Modality, Any] = {
    Modality.VIDEO: some_frames(),
    Modality.AUDIO: some_sound(start=1.5),
    Modality.TEXT: "a dog does a trick",
}


@pytest.mark.parametrize("name", list_backbones())
class TestSpecification:
    """What holds for every registered backbone, without building it."""

    def test_is_plain_data_with_one_spelling(self, name: str) -> None:
        spec = backbone_spec(name)
        assert spec.name == name
        assert json.loads(canonical_json(spec.identity())) == spec.identity()
        assert backbone_spec(name) == spec

    def test_tells_the_planner_what_it_reads(self, name: str) -> None:
        spec = backbone_spec(name)
        assert spec.dim > 0
        is_of_words = spec.modality is Modality.TEXT or spec.sampling.get("rows") == "words"
        assert (spec.rate_hz is None) == is_of_words
        if spec.modality is Modality.VIDEO:
            per_window = spec.sampling.get("rows_per_window", 1)
            assert Windows.from_data(spec.sampling).rate_hz * per_window == spec.rate_hz
            assert spec.preprocessing["short_side"] >= 32 or "stretch_width" in spec.preprocessing
        if spec.modality is Modality.AUDIO:
            assert spec.sampling["sample_rate_hz"] > 0

    def test_an_option_that_it_lacks_is_refused_by_name(self, name: str) -> None:
        with pytest.raises(ConfigError, match="no option 'short_sid'"):
            backbone_spec(name, short_sid=3)

    def test_cites_its_source(self, name: str) -> None:
        assert backbone_spec(name).paper


@pytest.fixture(scope="module")
def vectors_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "vectors.bin"
    words = ["a", "dog", "trick", "Don't"]
    write_word_vectors(WordVectors(words, np.random.default_rng(5).standard_normal((4, 8)).astype(np.float32)), path)
    return path


@pytest.fixture(params=CHEAP)
def made(request: pytest.FixtureRequest, vectors_path: Path) -> tuple[Backbone, dict[str, Any]]:
    """A cheap backbone of each family, and how it was made."""
    how: dict[str, Any] = {"name": request.param}
    if request.param == "word2vec":
        how |= {"weights": vectors_path, "dim": 8}
    if request.param == "wordpiece":
        how |= {"weights": vectors_path.with_name("pieces.txt"), "vocabulary": 300}
        train_word_pieces([ITEMS[Modality.TEXT]], how["weights"], vocabulary=300)
    return create_backbone(**how), how


class TestBackbone:
    """What holds for every backbone that is built."""

    def test_is_what_its_specification_says(self, made: tuple[Backbone, dict[str, Any]]) -> None:
        backbone, how = made
        assert isinstance(backbone, Backbone)
        options = {key: value for key, value in how.items() if key not in ("name", "weights")}
        assert backbone.spec == backbone_spec(how["name"], **options)
        assert backbone.weights_digest == weights_digest(how["name"], how.get("weights"))

    def test_gives_rows_of_the_promised_kind(self, made: tuple[Backbone, dict[str, Any]]) -> None:
        backbone, _ = made
        feature = backbone.encode(ITEMS[backbone.spec.modality])
        assert isinstance(feature, FeatureArray)
        assert (feature.status, feature.message) == (Status.OK, "")
        assert feature.values.shape == (len(feature.times), backbone.spec.dim)
        assert feature.values.dtype == backbone.spec.dtype
        assert len(feature.values) > 0
        assert np.isfinite(feature.values).all()

    def test_gives_every_row_its_time(self, made: tuple[Backbone, dict[str, Any]]) -> None:
        backbone, _ = made
        times = backbone.encode(ITEMS[backbone.spec.modality]).times
        assert times.dtype == np.float64
        if backbone.spec.modality is Modality.TEXT:
            assert np.isnan(times).all()
        else:
            assert (times[:, 0] < times[:, 1]).all()
            middles = times.mean(axis=1)[:: backbone.spec.sampling.get("rows_per_window", 1)]
            assert (np.diff(middles) > 0).all()

    def test_gives_the_same_bytes_every_time(self, made: tuple[Backbone, dict[str, Any]]) -> None:
        backbone, how = made
        item = ITEMS[backbone.spec.modality]
        first = backbone.encode(item).values.tobytes()
        assert backbone.encode(item).values.tobytes() == first
        assert create_backbone(**how).encode(item).values.tobytes() == first

    def test_refuses_what_it_does_not_read(self, made: tuple[Backbone, dict[str, Any]]) -> None:
        backbone, _ = made
        for modality, item in ITEMS.items():
            if modality is not backbone.spec.modality:
                with pytest.raises(InputError, match=backbone.spec.name):
                    backbone.encode(item)

    def test_leaves_torch_s_generator_alone(self, made: tuple[Backbone, dict[str, Any]]) -> None:
        before = torch.get_rng_state()
        create_backbone(**made[1])
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [name for name in CHEAP if BACKBONES[name].weights == "optional"])
def test_other_weights_are_another_identity(name: str) -> None:
    backbone = create_backbone(name)
    given = {key: value.clone() for key, value in backbone.network.state_dict().items()}
    assert backbone.from_official(given, {}) is backbone
    digest = backbone.weights_digest
    assert digest.startswith("state_dict:")
    changed = next(key for key, value in given.items() if value.is_floating_point())
    given[changed] = given[changed] + 1
    assert backbone.from_official(given).weights_digest != digest


@pytest.mark.parametrize("name", [name for name in CHEAP if BACKBONES[name].weights == "optional"])
def test_weights_that_are_refused_change_nothing(name: str) -> None:
    backbone = create_backbone(name)
    before = {key: value.clone() for key, value in backbone.network.state_dict().items()}
    first, expected = next(iter(before)), backbone.encode(ITEMS[backbone.spec.modality]).values
    for last in ("fc", "fc2"):  # that of S3D and of its text tower may have another size
        taller = {key: value[[0, *range(len(value))]] for key, value in before.items() if key.startswith(f"{last}.")}
        given = {key: value + 1 for key, value in before.items() if key != first} | taller
        with pytest.raises(InputError):
            backbone.from_official(given)
        assert backbone.weights_digest == "seeded:0"
        assert all(torch.equal(value, before[key]) for key, value in backbone.network.state_dict().items())
        assert np.array_equal(backbone.encode(ITEMS[backbone.spec.modality]).values, expected)


def test_a_device_that_is_not_here_is_said_before_anything_is_fetched() -> None:
    with pytest.raises(ConfigError, match="device 'gpu': allowed are cpu, cuda"):
        create_backbone("resnet18", weights="imagenet1k_v1", device="gpu")


def test_a_file_of_weights_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pt"
    torch.save(create_backbone("test_resnet").network.state_dict(), path)
    monkeypatch.setattr(frozen, "digest_of_weights", None)
    assert create_backbone("test_resnet", weights=path).weights_digest == weights_digest("test_resnet", path)


def test_names_are_found_by_pattern_and_helped_when_misspelt() -> None:
    assert list_backbones("resnet1*") == ["resnet152", "resnet18", "resnet18_3d"]
    with pytest.raises(UnknownNameError, match=r"did you mean .*resnet152"):
        backbone_spec("resnet-152")
    with pytest.raises(ValueError, match="registered twice"):
        BACKBONES.add("resnet18", BACKBONES["resnet18"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"rate_hz": 0}),
        ("resnet18", {"rate_hz": 1000}),
        ("resnet18", {"short_side": 8}),
        ("resnet18", {"short_side": 64.5}),
        ("resnet18", {"short_side": "big"}),
        ("resnet18", {"rate_hz": float("nan")}),
        ("word2vec", {"dim": 0}),
        ("word2vec", {"dim": "wide"}),
        ("wordpiece", {"vocabulary": 9}),
        ("wordpiece", {"lower_case": "yes"}),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        backbone_spec(name, **options)


def test_options_are_part_of_the_identity() -> None:
    usual = backbone_spec("resnet18")
    assert backbone_spec("resnet18", rate_hz=1) == usual
    for options in ({"rate_hz": 2.0}, {"short_side": 96}):
        assert backbone_spec("resnet18", **options).identity() != usual.identity()
    assert replace(usual, paper="elsewhere").identity() == usual.identity()


def test_weights_are_named_by_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"abc")
    assert weights_digest("resnet18", None) == "seeded:0"
    assert weights_digest("resnet18", None, seed=7) == "seeded:7"
    assert weights_digest("logmel_avlnet", None, seed=7) == "none"
    expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert weights_digest("resnet18", str(path)) == expected
    for name, weights in (("logmel_avlnet", path), ("word2vec", None), ("resnet18", tmp_path / "none.pt")):
        with pytest.raises(ConfigError):
            weights_digest(name, weights)
        with pytest.raises(ConfigError):
            create_backbone(name, weights=weights)


class TestResNet:
    def test_equals_torchvision_s_network_on_torchvision_s_weights(self) -> None:
        from torchvision.models import resnet18

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            official = resnet18(weights=None).eval()
        for module in official.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
                torch.nn.init.normal_(module.running_mean, std=0.1)
        frames = some_frames(3)
        pixels = torch.from_numpy(frames.frames).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        official.fc = torch.nn.Identity()
        with torch.inference_mode():
            expected = official((pixels - mean) / std).numpy()
        official.fc = torch.nn.Linear(512, 1000)
        ours = create_backbone("resnet18").from_official({f"module.{k}": v for k, v in official.state_dict().items()})
        np.testing.assert_allclose(
            ours.forward(torch.from_numpy(frames.frames[:, None])).numpy(), expected, rtol=1e-4, atol=1e-4
        )

    def test_each_frame_counts_for_itself(self) -> None:
        backbone, frames = create_backbone("test_resnet"), some_frames(20)
        together = backbone.encode(frames)
        parts = [backbone.encode(DecodedFrames(frames.frames[k : k + 1], frames.times[k : k + 1])) for k in range(20)]
        np.testing.assert_allclose(
            together.values, np.concatenate([part.values for part in parts]), rtol=2e-3, atol=1e-3
        )
        assert np.array_equal(together.times, frames.times)

    def test_the_seed_decides_the_weights(self) -> None:
        frames = some_frames(1)
        first, second = (create_backbone("test_resnet", seed=seed).encode(frames).values for seed in (0, 1))
        assert not np.array_equal(first, second)

    def test_random_weights_tell_colours_apart_and_stay_in_range(self) -> None:
        backbone = create_backbone("resnet18", short_side=64)
        plain = np.zeros((2, 64, 64, 3), np.uint8)
        plain[0, :, :, 0], plain[1, :, :, 2] = 255, 255
        values = backbone.encode(DecodedFrames(plain, np.zeros((2, 2)))).values.astype(np.float32)
        assert np.abs(values).max() < 100
        red, blue = values / np.linalg.norm(values, axis=1, keepdims=True)
        assert red @ blue < 0.999

    def test_no_frames_are_a_status(self) -> None:
        empty = DecodedFrames(np.zeros((0, 64, 64, 3), np.uint8), np.zeros((0, 2)))
        assert create_backbone("test_resnet").encode(empty).status is Status.NO_FRAMES

    def test_values_beyond_float16_are_a_status(self) -> None:
        backbone = create_backbone("test_resnet")
        backbone.network.layer4[-1].bn2.weight.fill_(1e9)
        feature = backbone.encode(some_frames(1))
        assert (feature.status, len(feature.values)) == (Status.NON_FINITE, 0)

    @pytest.mark.parametrize(("capability", "lines"), [("AVX2", 1), ("AVX512", 0)])
    def test_bfloat16_on_a_processor_without_it_is_reported(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capability: str, lines: int
    ) -> None:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        create_backbone("test_resnet", precision="float32")
        assert not caplog.messages
        create_backbone("test_resnet", precision="bfloat16")
        assert [message.split(":")[0] for message in caplog.messages] == ["test_resnet"] * lines

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
    def test_weights_go_through_a_file(self, tmp_path: Path, suffix: str) -> None:
        trained = create_backbone("test_resnet", seed=9)
        path = tmp_path / f"weights{suffix}"
        weights = {key: value.clone().contiguous() for key, value in trained.network.state_dict().items()}
        if suffix == ".safetensors":
            save_file(weights, path)
        else:
            torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}, "epoch": 3}, path)
        loaded = create_backbone("test_resnet", weights=path)
        assert loaded.weights_digest.startswith("sha256:")
        assert np.array_equal(loaded.encode(some_frames()).values, trained.encode(some_frames()).values)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda weights: weights.pop("layer1.0.conv1.weight"), "layer1.0.conv1.weight is missing"),
            (lambda weights: weights.update(extra=torch.zeros(1)), "extra is not expected"),
            (lambda weights: weights.update({"bn1.bias": torch.zeros(3)}), r"bn1.bias is \(3,\), not"),
            (lambda weights: weights["bn1.bias"].fill_(float("nan")), "bn1.bias holds values that are not finite"),
        ],
    )
    def test_weights_for_something_else_are_refused_by_key(self, tmp_path: Path, change: Any, words: str) -> None:
        weights = {key: value.clone() for key, value in create_backbone("test_resnet").network.state_dict().items()}
        change(weights)
        torch.save(weights, tmp_path / "weights.pt")
        with pytest.raises(InputError, match=words):
            create_backbone("test_resnet", weights=tmp_path / "weights.pt")

    @pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors", "weights.onnx", "list.pt", "nothing.pt"])
    def test_damaged_and_foreign_files_are_refused(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        weights = create_backbone("test_resnet").network.state_dict()
        if name == "list.pt":
            torch.save([1, 2], path)
        elif name == "nothing.pt":
            torch.save({}, path)
        elif name == "cut.safetensors":
            save_file({key: value.contiguous() for key, value in weights.items()}, path)
            path.write_bytes(path.read_bytes()[:-100])
        else:
            torch.save(weights, path)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=name):
            create_backbone("test_resnet", weights=path)

    def test_a_file_of_weights_cannot_run_code(self, tmp_path: Path) -> None:
        canary = tmp_path / "canary"
        path = tmp_path / "weights.pt"
        path.write_bytes(pickle.dumps(Payload(str(canary)), protocol=2))
        with pytest.raises(InputError):
            create_backbone("test_resnet", weights=path)
        torch.save(Payload(str(canary)), path)
        with pytest.raises(InputError):
            create_backbone("test_resnet", weights=path)
        assert not canary.exists()


class Payload:
    """What would make a file if it were unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def test_a_specification_is_part_of_the_backbone_s_public_face() -> None:
    assert isinstance(backbone_spec("resnet152"), FeatureSpec)
    assert (backbone_spec("resnet152").dim, backbone_spec("resnet152").rate_hz) == (2048, 1.0)
    assert (backbone_spec("resnet18").dim, backbone_spec("logmel_avlnet").dim) == (512, 40)
