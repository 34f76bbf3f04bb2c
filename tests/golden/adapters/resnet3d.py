"""Golden cases of the 3D ResNets: kenshohara's builders, and video_feature_extractor's ResNeXt with its protocol."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import torch
from frameloom.extract import DecodedFrames, backbone_spec
from frameloom.extract.backbones.resnet3d import ResNet3dBackbone
from frameloom.extract.networks.resnet3d import ResNet3d
from frameloom.extract.windows.windows import WindowCutter, stacked
from golden.golden_case import Case
from numpy.typing import NDArray

Outputs = dict[str, NDArray]


def resnet_3d(case: Case) -> Outputs:
    weights, inputs = case.make_state_dict(), case.make_inputs()
    backbone = _backbone(case).from_official(weights)
    if "frames" in inputs:
        frames = _windows(inputs["frames"], backbone)
        clips = backbone.prepare(frames)
        features = backbone.forward(frames)
    else:
        (value,) = inputs.values()
        clips = torch.from_numpy(value)
        with torch.inference_mode():
            features = backbone.embed(clips)
    normalised = torch.nn.functional.normalize(features)
    outputs = {
        "clips": clips,
        "features": features,
        "features_normalised": normalised,
        "features_half": normalised.half().float(),
        "logits": torch.nn.functional.linear(features, weights["fc.weight"], weights["fc.bias"]),
        **_maps(backbone.network, clips),
    }
    return {name: value.contiguous().numpy() for name, value in outputs.items()}


def _backbone(case: Case) -> ResNet3dBackbone:
    config = case.config
    is_resnext = "resnext" in f"{case.component} {config.get('model', '')}".lower()
    given = ("widen_factor", "conv1_t_size", "conv1_t_stride", "no_max_pool", "n_input_channels")
    network = ResNet3d(
        depth=config["model_depth"] if "model_depth" in config else _depth(case.component),
        cardinality=config.get("cardinality", config.get("resnext_cardinality", 32)) if is_resnext else None,
        shortcut=config.get("shortcut_type", "B"),
        **{name: config[name] for name in given if name in config},
    )
    size, num_frames = config.get("sample_size", 112), config.get("sample_duration", 16)
    spec = backbone_spec("resnext101_3d", short_side=size, crop=size, num_frames=num_frames)
    return ResNet3dBackbone(spec, network, device="cpu", weights_digest="none")


def _depth(component: str) -> int:
    """The depth in the builder's name; video_feature_extractor's `get_model` knows 101 alone."""
    found = re.search(r"resne(?:x)?t(\d+)", component)
    return int(found[1]) if found else 101


def _windows(frames: NDArray, backbone: ResNet3dBackbone) -> torch.Tensor:
    """Frames (T, 3, H, W) as the windows (B, N, H, W, 3) that the backbone would be given."""
    pictures = np.ascontiguousarray(frames.astype(np.uint8).transpose(0, 2, 3, 1))
    cutter = WindowCutter(backbone.windows)
    item = DecodedFrames(pictures, np.zeros((len(pictures), 2)))
    return torch.from_numpy(stacked([*cutter.push(item), *cutter.finish()]))


def _maps(network: ResNet3d, clips: torch.Tensor) -> dict[str, torch.Tensor]:
    """The map after each part, to tell in which one a difference begins."""
    with torch.inference_mode():
        maps = _run(network, ("conv1", "bn1"), clips)
        maps["map_relu"] = torch.relu(maps["map_bn1"])
        return maps | _run(network, ("maxpool", "layer1", "layer2", "layer3", "layer4"), maps["map_relu"])


def _run(network: ResNet3d, parts: Iterable[str], value: torch.Tensor) -> dict[str, torch.Tensor]:
    maps = {}
    for part in parts:
        value = maps[f"map_{part}"] = getattr(network, part)(value)
    return maps


ADAPTERS = dict.fromkeys(
    (
        "models.resnet",
        "models.resnext",
        "resnet",
        "resnext",
        "videocnn.models.resnet",
        "videocnn.models.resnext",
        "get_model(type='3d')",
    ),
    resnet_3d,
)
