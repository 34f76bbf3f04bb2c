"""Golden cases of the S3D family. Both official classes are called S3D: the keys of the state dict tell which it is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from frameloom.extract import create_backbone
from frameloom.extract.backbones.s3d import _KINETICS_STAGES
from frameloom.extract.networks.s3d import ORDER, space_to_depth
from golden.golden_case import Case
from numpy.typing import NDArray

Outputs = dict[str, NDArray]


def s3d(case: Case) -> Outputs:
    is_kinetics = any(key.startswith("base.") for key, _, _ in case.state_dict_spec)
    with torch.inference_mode():
        outputs = _kinetics(case) if is_kinetics else {**_video(case), **_text(case)}
    return {name: value.contiguous().numpy() for name, value in outputs.items()}


def _kinetics(case: Case) -> dict[str, torch.Tensor]:
    backbone = create_backbone("s3d_kinetics").from_official(case.make_state_dict())
    with _maps(backbone.network) as maps:
        features = backbone.embed(torch.from_numpy(case.make_inputs()["video"]))
    bases = {f"base_{index}": maps[name] for index, name in _KINETICS_STAGES.items()}
    return {"logits": backbone.classify(features), "features": features, **bases}


def _video(case: Case) -> dict[str, torch.Tensor]:
    inputs = case.make_inputs()
    if "video" not in inputs:
        return {}
    video = torch.from_numpy(inputs["video"])
    stem = "space_to_depth" if case.config["space_to_depth"] else "whole"
    both = {}
    for output in ("mixed_5c", "joint"):
        options = {"stem": stem, "output": output, "joint_dim": case.config["num_classes"]}
        backbone = create_backbone("s3d_howto100m", **options).from_official(case.make_state_dict())
        with _maps(backbone.network) as maps:
            both[output] = backbone.embed(video)
    outputs = {"mixed_5c": both["mixed_5c"], "video_embedding": both["joint"]}
    if stem == "space_to_depth":
        # The network leaves out the planes that the official one computes and drops.
        outputs["space_to_depth"] = space_to_depth(video)
        maps["conv1"] = backbone.network.conv1(outputs["space_to_depth"])
    return outputs | {f"map_{name}": value for name, value in maps.items()}


def _text(case: Case) -> dict[str, torch.Tensor]:
    inputs, config = case.make_inputs(), case.config
    sentences = config.get("sentences", [])
    if not sentences and "word_ids" not in inputs:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dict.npy"
        np.save(path, np.array(config.get("dictionary", ["a"])))
        backbone = create_backbone("s3d_howto100m_text", vocabulary=path, dim=config["num_classes"])
    backbone.from_official(case.make_state_dict())
    ids = backbone.token_ids(sentences)
    outputs = {"sentence_ids": ids, "sentence_embedding": backbone.forward(ids)} if sentences else {}
    if "word_ids" in inputs:
        outputs["text_embedding"] = backbone.forward(torch.from_numpy(inputs["word_ids"]))
    return outputs


@contextmanager
def _maps(network: torch.nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """What each stage of a network gives while this is open, by its name, to tell where a difference begins."""
    maps: dict[str, torch.Tensor] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: torch.nn.Module, _given: tuple, result: torch.Tensor) -> None:
            maps[name] = result.clone()

        return getattr(network, name).register_forward_hook(hook)

    handles = [keep(name) for name in ORDER]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


ADAPTERS = {"S3D": s3d}
