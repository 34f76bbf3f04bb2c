"""Image models of timm: the same numbers as timm's own model and transform, and the table held against timm."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from frameloom._vocabulary import ConfigError, InputError, Status
from frameloom.extract import DecodedFrames, backbone_spec, create_backbone
from frameloom.extract.backbones.timm_images import CLASSIFIERS, NAMED, TAGS, facts_of
from numpy.typing import NDArray
from PIL import Image
from timm.models.vision_transformer import checkpoint_filter_fn

# What a classifier's name, a pooling or a picture size of another kind could break.
OTHERS = ["test_convnext", "test_efficientnet", "test_resnet", "test_vit3"]


def timm_config(network: str) -> dict[str, Any]:
    return timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(network).to_dict())


def some_pictures(count: int, side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def as_frames(pictures: NDArray[np.uint8]) -> DecodedFrames:
    starts = np.arange(len(pictures), dtype=np.float64)
    return DecodedFrames(pictures, np.stack([starts, starts + 0.04], axis=1))


def random_model(network: str, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = timm.create_model(network, pretrained=False, **options).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            torch.nn.init.uniform_(buffer, 0.5, 2.0)
    return model


@torch.inference_mode()
def pooled(model: Any, inputs: torch.Tensor) -> NDArray[np.float32]:
    features: NDArray[np.float32] = model.forward_head(model.forward_features(inputs), pre_logits=True).numpy()
    return features


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_read_the_pixels_that_timm_says(name: str) -> None:
    config, facts = timm_config(name), CLASSIFIERS[name]
    assert config["input_size"] == (3, facts.size, facts.size)
    assert (config["crop_pct"], config["mean"], config["std"]) == (facts.crop_pct, facts.mean, facts.std)
    with torch.device("meta"):
        assert timm.create_model(name).num_classes == facts.dim


@pytest.mark.parametrize("name", NAMED)
class TestTable:
    def test_is_what_timm_says(self, name: str) -> None:
        config, facts = timm_config(name), NAMED[name]
        assert config["input_size"] == (3, facts.size, facts.size)
        assert (config["crop_pct"], config["mean"], config["std"]) == (facts.crop_pct, facts.mean, facts.std)
        assert timm.get_pretrained_cfg(name).fixed_input_size == facts.is_fixed_size
        with torch.device("meta"):
            assert timm.create_model(name, num_classes=0).num_features == facts.dim

    def test_s_tags_are_timm_s_and_use_the_same_pixels(self, name: str) -> None:
        sources = {source.tag: source for source in backbone_spec(name).weights}
        assert list(sources) == list(TAGS[name])
        for tag, source in sources.items():
            published = timm.get_pretrained_cfg(f"{name}.{tag}")
            assert source.url == f"hf://{published.hf_hub_id}/model.safetensors"
            assert published.license == "apache-2.0"
            assert timm_config(f"{name}.{tag}") == timm_config(name)


@pytest.mark.parametrize("network", [*NAMED, *OTHERS, "vgg11", "mobilenetv3_small_100.lamb_in1k"])
def test_scales_to_what_timm_s_transform_scales_to(network: str) -> None:
    transform = timm.data.create_transform(**timm_config(network))
    facts = facts_of(network)
    spec = backbone_spec("timm", network=network, size=facts.size)
    assert spec.preprocessing["short_side"] == transform.transforms[0].size
    assert (spec.preprocessing["crop"],) * 2 == tuple(transform.transforms[1].size)


@pytest.mark.parametrize("network", ["test_vit", *OTHERS])
def test_equals_timm_s_model_on_timm_s_pixels(network: str, tmp_path: Path) -> None:
    official = random_model(network)
    torch.save({"state_dict": official.state_dict()}, tmp_path / "weights.pth")
    size = facts_of(network).size
    ours = create_backbone(
        "timm", network=network, size=size, weights=tmp_path / "weights.pth", dtype="float32", rate_hz=2
    )
    pictures = some_pictures(2, int(ours.spec.preprocessing["short_side"]))
    transform = timm.data.create_transform(**timm_config(network))
    inputs = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
    feature = ours.encode(as_frames(pictures))
    assert feature.status is Status.OK
    np.testing.assert_allclose(feature.values, pooled(official, inputs), rtol=1e-4, atol=1e-4)


def test_another_picture_size_takes_positions_as_timm_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(random_model("test_vit").state_dict(), path)
    resized = random_model("test_vit", img_size=96)
    timm.models.load_checkpoint(resized, str(path), filter_fn=checkpoint_filter_fn)
    pictures = some_pictures(2, 96)
    inputs = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    ours = create_backbone("test_vit", size=96, weights=path, dtype="float32")
    values = ours.encode(as_frames(pictures)).values
    np.testing.assert_allclose(values, pooled(resized, inputs), rtol=1e-4, atol=1e-4)


def test_a_file_that_wraps_its_tensors_is_unwrapped(tmp_path: Path) -> None:
    """The published DeiT has its tensors under ``model``, with the classifier."""
    trained = create_backbone("test_vit", seed=5)
    weights = {**trained.network.state_dict(), "head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
    torch.save({"model": weights}, tmp_path / "weights.pth")
    loaded = create_backbone("test_vit", weights=tmp_path / "weights.pth")
    frames = as_frames(some_pictures(1, 64))
    assert np.array_equal(loaded.encode(frames).values, trained.encode(frames).values)


def test_a_tag_brings_its_own_pixels() -> None:
    plain, dino = (backbone_spec("timm", network=f"vit_base_patch16_224{tag}") for tag in ("", ".dino"))
    assert dino.preprocessing["mean"] == [0.485, 0.456, 0.406]
    assert plain.preprocessing["mean"] == [0.5, 0.5, 0.5]
    assert plain.dim == dino.dim == 768
    assert backbone_spec("timm").weights == ()


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("vit_base_patch16_225", "did you mean .*vit_base_patch16_224"),
        ("vit_base_patch16_224.dinosaur", "did you mean dino"),
        ("zzqq", "timm has no network 'zzqq'"),
        ("test_vit.", "timm has no tag ''"),
        (7, "must be a name of timm's"),
        ("", "timm has no network ''"),
    ],
)
def test_an_unknown_network_is_refused_with_help(network: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        backbone_spec("timm", network=network)


@pytest.mark.parametrize("size", [8, 4096, 64.5, "big", True])
def test_an_impossible_size_is_refused(size: Any) -> None:
    with pytest.raises(ConfigError, match="size"):
        backbone_spec("test_vit", size=size)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    for network in ("test_resnet", "test_vit3"):
        torch.save(random_model(network).state_dict(), tmp_path / "weights.pth")
        with pytest.raises(InputError, match="not for"):
            create_backbone("test_vit", weights=tmp_path / "weights.pth")


def test_a_classifier_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    weights = random_model("test_vit").state_dict()
    torch.save({**weights, "header.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"header\.weight is not expected"):
        create_backbone("test_vit", size=160, weights=tmp_path / "weights.pth")


def test_pictures_that_are_too_small_are_refused() -> None:
    with pytest.raises(InputError, match="64 x 64 pixels; 63 x 63 is less"):
        create_backbone("test_vit").encode(as_frames(some_pictures(1, 63)))


def test_random_weights_tell_colours_apart_and_stay_in_range() -> None:
    plain = np.zeros((2, 64, 64, 3), np.uint8)
    plain[0, :, :, 0], plain[1, :, :, 2] = 255, 255
    values = create_backbone("test_vit").encode(as_frames(plain)).values.astype(np.float32)
    assert np.abs(values).max() < 100
    red, blue = values / np.linalg.norm(values, axis=1, keepdims=True)
    assert red @ blue < 0.999


def test_a_size_that_is_no_whole_number_of_patches_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a multiple of 16, not 40"):
        create_backbone("test_vit", size=40)
    assert create_backbone("test_vit", size=48).spec.preprocessing["crop"] == 48
