"""Conversion of names to and from the authors' checkpoints and configurations of All-in-one.

Authors' code: showlab/all-in-one@ae0e288, AllInOne/ and CoTraining/. A checkpoint is a Lightning dict with
"state_dict"; its configuration is flat. Names of weights are ours. Which heads there are is read off the weights: the
authors build them by "loss_names", of which some share a head. The co-training program calls the matching head
`vtm_score`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..._vocabulary import ConfigError, InputError
from ..base import load_weights, renamed_config, start_trained, start_weights
from ..layers import inflated_frames, without_counters
from ..objectives import MASK_ID
from .config import AllInOneConfig

if TYPE_CHECKING:
    from .model import AllInOne

_OURS = "frameloom"
"""Under which key `to_official` keeps the options that the authors do not have."""
_NAMES = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "width",
    "num_layers": "depth",
    "num_heads": "heads",
    "mlp_ratio": "mlp_ratio",
    "num_frames": "num_frames",
    "vocab_size": "vocab_size",
    "max_text_len": "max_words",
    "shared_embedding_dim": "projection_dim",
    "drop_rate": "dropout",
}
_IGNORED = {
    "distilled", "vit", "max_image_len", "loss_names", "draw_false_text", "draw_options_text", "draw_false_video",
    "msrvttqa_label_size", "linear_evaluation", "grad_names", "order", "orders", "trainable",
}  # fmt: skip
"""What says nothing of the weights' shapes, or what they say themselves."""
_OWN_OPTIONS = (
    "distilled", "deit", "drop_path", "temporal", "rolling", "temporal_std", "patch_order", "cotraining", "mlm_weight",
    "vtm_weight", "transport_weight", "contrast_weight", "order_weight", "rank_weight",
    "num_false_texts", "answer_weight", "caption_weight", "temperature", "mask_probability", "mask_id", "rank_head",
    "num_answers", "option_head", "frame_order_head", "pixel_head", "image_mean", "image_std", "seed",
)  # fmt: skip


def resolved_config(
    state_dict: Mapping[str, Any], config: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The weights of a checkpoint, and the options of the model that it is of; None where nothing says them.

    Raises:
        ConfigError: see `AllInOne.from_official`.
        InputError: a checkpoint without weights.
    """
    whole = "state_dict" in state_dict and not isinstance(state_dict["state_dict"], Tensor)
    official = state_dict["state_dict"] if whole else state_dict
    if not isinstance(official, Mapping):
        kind = type(official).__name__
        raise InputError(f"the checkpoint's state_dict is of type {kind}; it must map names to tensors")
    weights = {str(key).removeprefix("module."): value for key, value in without_counters(official).items()}
    config = state_dict.get("config") if whole and config is None else config
    return weights, None if config is None else official_config(config, weights)


def official_config(config: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `create_model` that build the model of an official configuration and its weights.

    Raises:
        ConfigError: a key that the authors do not have, or a value that this model cannot have.
    """
    ours = dict(config.get(_OURS, {}))
    sizes = {name: value for name, value in config.items() if name not in _IGNORED and name != _OURS}
    options = renamed_config(sizes, _NAMES, where="the authors' configuration")
    for name in ("mlp_ratio", "dropout"):
        if name in options:
            options[name] = float(options[name])
    if config.get("max_image_len", -1) not in (-1, None):
        raise ConfigError(f"max_image_len is {config['max_image_len']}; this model reads all patches (-1)")
    if (vocabulary := options.get("vocab_size", 30_522)) <= MASK_ID:
        options["mask_id"] = vocabulary - 1  # smaller than BERT's own, which has no [MASK] that the authors know
    answers = weights.get("vqa_classifier.4.weight")
    options |= {
        "distilled": "transformer.dist_token" in weights,
        "deit": "deit" in str(config.get("vit", "")),
        "cotraining": "vtm_score.fc.weight" in weights,
        "mlm_weight": float("mlm_score.bias" in weights),
        "vtm_weight": float(not weights.keys().isdisjoint(("itm_score.fc.weight", "vtm_score.fc.weight"))),
        "contrast_weight": float("txt_proj.weight" in weights),
        "rank_head": "rank_output.weight" in weights,
        "num_answers": len(answers) if isinstance(answers, Tensor) else 0,
        "option_head": "mc_vqa_classifier.4.weight" in weights,
        "frame_order_head": "vcop_classifier.fc7.weight" in weights,
        "order_weight": float("vcop_classifier.fc7.weight" in weights),
        "pixel_head": "mpp_score.decoder.weight" in weights,
    }
    return options | ours


def to_official_config(config: AllInOneConfig) -> dict[str, Any]:
    """The authors' configuration from which `from_official` builds this model; under a key of ours the rest."""
    named = {theirs: getattr(config, ours) for theirs, ours in _NAMES.items()}
    size = {192: "tiny", 384: "small"}.get(config.width, "base")
    vit = f"vit_deit_{size}" if config.deit else f"vit_{size}"
    distilled = "_distilled" if config.distilled else ""
    return {
        **named,
        "vit": f"{vit}{distilled}_patch{config.patch_size}_{config.image_size}",
        _OURS: {name: getattr(config, name) for name in _OWN_OPTIONS},
    }


def loaded_weights(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Put weights into a model: a temporal embedding of its length, positions of texts that both have.

    Raises:
        InputError: what does not fit; the model is left as it was.
    """
    own, filled = model.state_dict(), dict(weights)
    table = filled.get("transformer.temporal_embed")
    if isinstance(table, Tensor) and table.dim() == 3:
        filled["transformer.temporal_embed"] = inflated_frames(table, own["transformer.temporal_embed"].shape[1])
    name = "text_embeddings.position_embeddings.weight"
    positions, wanted = filled.get(name), own[name]
    if isinstance(positions, Tensor) and positions.dim() == 2 and positions.shape[1] == wanted.shape[1]:
        filled[name] = torch.cat([positions[: len(wanted)], wanted[len(positions) :].to(positions)])
    filled.setdefault("num_steps", torch.tensor(0))
    load_weights(model, filled)


def initialised_from(
    model: nn.Module, *, video: Mapping[str, Tensor] | None = None, text: Mapping[str, Tensor] | None = None
) -> None:
    """Begin the backbone with a ViT or DeiT of timm, and words and their head with BERT of transformers.

    The authors begin with the ViT alone, and their words at random.

    Args:
        model: an `AllInOne`.
        video: state dict of a (distilled) vision transformer of timm, of the model's picture and patch size.
        text: state dict of BertModel, BertForMaskedLM or BertForPreTraining; its positions are cut to the model's.

    Raises:
        InputError: weights of another shape, or none that the model has.
    """
    if video is not None:
        start_weights(model, {f"transformer.{name}": value for name, value in video.items()}, source="a ViT of timm")
    if text is not None:
        named = {}
        for name, value in without_counters(text).items():
            own = re.sub(r"^(bert[.])?embeddings[.]", "text_embeddings.", name)
            named[re.sub(r"^cls[.]predictions[.]", "mlm_score.", own)] = value
        positions = "text_embeddings.position_embeddings.weight"
        if positions in named:
            named[positions] = named[positions][: len(model.state_dict()[positions])]
        start_weights(model, named, source="BERT")


def continued_from(model: AllInOne, weights: Mapping[str, Tensor]) -> list[str]:
    """See `start_trained`; a head that ranks texts, where it is new, begins as the matching head that was trained."""
    named = {re.sub(r"^(itm|vtm)_score\.", f"{model.matching_name}.", name): value for name, value in weights.items()}
    lacking = start_trained(model, named, heads=model.head_names)
    if "rank_output" in lacking:
        model.begin_ranking()
    return lacking
