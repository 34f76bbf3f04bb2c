"""Conversion of names to and from the authors' checkpoints and configurations of MILES and of Frozen in Time.

Authors' code: TencentARC/MCQ@3555a9b (MILES/model/model_MILES.py), m-bain/frozen-in-time@e1f13e1 (model/model.py). A
checkpoint is a dict with "state_dict", and in Frozen in Time "config". The arguments of both classes are "video_params"
(of the space-time transformer), "text_params" (the name of a text model of transformers; here its sizes too, under the
names of DistilBertConfig or BertConfig), "projection_dim", "projection". The two differ in the name of the text's
projection (`text_proj`, `txt_proj`), in what is read of BERT, and in how attentions over time begin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..._vocabulary import ConfigError, InputError
from ..base import load_weights, renamed_config, start_weights
from ..layers import inflated_frames, without_counters
from .config import MILESConfig

_OURS = "frameloom"
"""Under which key `to_official` keeps the options that the authors do not have."""
_ARGUMENTS = {"video_params", "text_params", "projection_dim", "projection", "load_checkpoint", "load_temporal_fix"}
_VIDEO_NAMES = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "width",
    "depth": "depth",
    "num_heads": "heads",
    "num_frames": "num_frames",
    "mlp_ratio": "mlp_ratio",
    "qkv_bias": "qkv_bias",
    "time_init": "time_init",
}
_VIDEO_FIXED: dict[str, tuple[Any, ...]] = {
    "model": ("SpaceTimeTransformer",),
    "arch_config": ("base_patch16_224",),
    "attention_style": ("frozen-in-time",),
    "in_chans": (3,),
    "num_classes": (0,),
    "qk_scale": (None,),
    "representation_size": (None,),
    **dict.fromkeys(("drop_rate", "attn_drop_rate", "drop_path_rate"), (0, 0.0)),
    **dict.fromkeys(("pretrained", "vit_init"), (True, False, "imagenet-21k")),
}
_DISTILBERT_NAMES = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "text_positions",
    "dim": "text_width",
    "n_layers": "text_depth",
    "n_heads": "text_heads",
    "hidden_dim": "text_hidden",
    "dropout": "text_dropout",
}
_BERT_NAMES = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "text_positions",
    "hidden_size": "text_width",
    "num_hidden_layers": "text_depth",
    "num_attention_heads": "text_heads",
    "intermediate_size": "text_hidden",
    "type_vocab_size": "text_types",
    "hidden_dropout_prob": "text_dropout",
}
_TEXT_FIXED = {"model", "pretrained", "input", "attention_dropout", "attention_probs_dropout_prob", "hidden_act"}
_TIME_INITS = {"rand": "random", "zeros": "zeros"}
_LAYER_NAMES = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
"""Of DistilBERT's layers, and of BERT's."""
_OBJECTIVE = (
    "temperature", "target", "mvm_weight", "mvm_loss", "mvm_features", "normalise_targets", "regression_head",
    "contrast_video", "warmup_epochs", "snapshot_update", "snapshot_momentum", "snapshot_start", "masking",
    "mask_ratio", "tube", "min_block", "fill_up_masks", "temporal_std", "max_words", "image_mean", "image_std", "seed",
)  # fmt: skip
"""Options that the authors' classes do not have."""


def resolved_config(
    state_dict: Mapping[str, Any], config: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any] | None, bool]:
    """The weights of a checkpoint in our names, the options of the model that it is of, and whether it is Frozen's.

    Raises:
        ConfigError: see `MILES.from_official`.
        InputError: a checkpoint without weights.
    """
    whole = "state_dict" in state_dict and not isinstance(state_dict["state_dict"], Tensor)
    official = state_dict["state_dict"] if whole else state_dict
    if not isinstance(official, Mapping):
        raise InputError(
            f"the checkpoint's state_dict is of type {type(official).__name__}; it must map names to tensors"
        )
    config = state_dict.get("config") if whole and config is None else config
    names = {str(key).removeprefix("module.") for key in official}
    is_frozen = any(name.startswith("txt_proj.") for name in names)
    weights = our_names(official)
    if config is None:
        return weights, None, is_frozen
    options = official_config(config, is_frozen=is_frozen or _kind(config) == "FrozenInTime")
    if _OURS not in config:
        options["target"] = "snapshot" if any(name.startswith("snapshot.") for name in names) else "none"
    return weights, options, is_frozen or _kind(config) == "FrozenInTime"


def _kind(config: Mapping[str, Any]) -> str:
    arch = config.get("arch")
    return str(arch.get("type")) if isinstance(arch, Mapping) else ""


def official_config(config: Mapping[str, Any], *, is_frozen: bool = False) -> dict[str, Any]:
    """The options of `create_model` that build the model of an official configuration.

    Args:
        config: the authors' whole document, or the "args" of its "arch" alone.
        is_frozen: whether it is Frozen in Time's.

    Raises:
        ConfigError: an argument that the authors do not have, or a value that this model cannot have.
    """
    args = config["arch"].get("args", {}) if "arch" in config else config
    if not isinstance(args, Mapping):
        raise ConfigError(f"arch.args is {args!r}; it must map names to values")
    ours = dict(config.get(_OURS, {}))
    if unknown := sorted(args.keys() - _ARGUMENTS - {_OURS}):
        known = ", ".join(sorted(_ARGUMENTS))
        raise ConfigError(f"the authors' class has no argument {', '.join(map(repr, unknown))}; known: {known}")
    video, text = dict(args.get("video_params", {})), dict(args.get("text_params", {}))
    for name, allowed in _VIDEO_FIXED.items():
        if name in video and (value := video.pop(name)) not in allowed:
            raise ConfigError(f"video_params.{name} is {value!r}; this model takes {' or '.join(map(repr, allowed))}")
    options = renamed_config(video, _VIDEO_NAMES, where="video_params")
    if "time_init" in options:
        options["time_init"] = _TIME_INITS.get(str(options["time_init"]), options["time_init"])
    if "mlp_ratio" in options:
        options["mlp_ratio"] = float(options["mlp_ratio"])
    name = str(text.get("model", "distilbert-base-uncased"))
    is_bert = "hidden_size" in text or not name.startswith("distilbert")
    sizes = {key: value for key, value in text.items() if key not in _TEXT_FIXED}
    options |= renamed_config(sizes, _BERT_NAMES if is_bert else _DISTILBERT_NAMES, where="text_params")
    if is_bert:
        options = {"text_types": 2, "text_depth": 12, **options, "text_output": "pooler" if is_frozen else "cls"}
    projection = args.get("projection", "minimal")
    if projection not in ("minimal", ""):
        raise ConfigError(f"projection is {projection!r}; this model takes 'minimal' or ''")
    options["projection"] = projection or "none"
    if "projection_dim" in args:
        options["projection_dim"] = args["projection_dim"]
    options["max_words"] = options.get("text_positions", 512)
    return options | ours


def to_official_config(config: MILESConfig) -> dict[str, Any]:
    """The authors' document from which `from_official` builds this model; ours in it is what they do not have."""
    time_init = {ours: theirs for theirs, ours in _TIME_INITS.items()}[config.time_init]
    names = _BERT_NAMES if config.text_types else _DISTILBERT_NAMES
    text = {"model": "bert-base-uncased" if config.text_types else "distilbert-base-uncased"}
    args = {
        "video_params": {
            "model": "SpaceTimeTransformer",
            **{theirs: getattr(config, ours) for theirs, ours in _VIDEO_NAMES.items()},
            "time_init": time_init,
        },
        "text_params": {**text, **{theirs: getattr(config, ours) for theirs, ours in names.items()}},
        "projection_dim": config.projection_dim,
        "projection": "" if config.projection == "none" else config.projection,
    }
    kept = {name: getattr(config, name) for name in (*_OBJECTIVE, "text_output")}
    return {"arch": {"type": "MILES", "args": args}, _OURS: kept}


def our_names(official: Mapping[str, Any]) -> dict[str, Any]:
    """Weights under the names of `MILES`: a text model's as BERT's, without integer buffers; ours as they are."""
    renamed = {}
    for key, value in without_counters(official).items():
        name = re.sub(r"^txt_proj\.", "text_proj.", str(key).removeprefix("module."))
        if found := re.match(r"text_model\.transformer\.layer\.(\d+)\.(.+)\.(weight|bias)$", name):
            number, layer, leaf = found.groups()
            name = f"text_model.encoder.layer.{number}.{_LAYER_NAMES.get(layer, layer)}.{leaf}"
        renamed[name] = value
    return renamed


def official_weights(weights: Mapping[str, Tensor], *, is_frozen: bool) -> dict[str, Tensor]:
    """Weights of `MILES` under the authors' names."""
    is_bert = any(name.startswith("text_model.embeddings.token_type") for name in weights)
    theirs = {ours: name for name, ours in _LAYER_NAMES.items()}
    renamed = {}
    for ours, value in weights.items():
        name = re.sub(r"^text_proj\.", "txt_proj." if is_frozen else "text_proj.", ours)
        found = re.match(r"text_model\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias)$", name)
        if found and not is_bert:
            number, layer, leaf = found.groups()
            name = f"text_model.transformer.layer.{number}.{theirs[layer]}.{leaf}"
        renamed[name] = value
    return renamed


def loaded_weights(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Put weights in our names into a model: temporal embeddings of its length, what a published checkpoint lacks.

    Raises:
        InputError: what does not fit; the model is left as it was.
    """
    own, filled = model.state_dict(), dict(weights)
    for name in ("video_model.temporal_embed", "snapshot.temporal_embed"):
        table = filled.get(name)
        if name in own and isinstance(table, Tensor) and table.dim() == 3:
            filled[name] = inflated_frames(table, own[name].shape[1])
    has_snapshot = any(name.startswith("snapshot.") for name in filled)
    if not has_snapshot and "video_model.mask_token" not in filled:
        for name, value in own.items():
            if name.startswith(("snapshot.", "regression.")) or name == "video_model.mask_token":
                filled[name] = filled.get(name.replace("snapshot.", "video_model."), value)
    if "num_epochs" in own:
        filled.setdefault("num_epochs", torch.tensor(model.config.warmup_epochs if has_snapshot else 0))  # type: ignore[union-attr]
        filled.setdefault("num_steps", torch.tensor(0))
    load_weights(model, filled)


def initialised_from(
    model: nn.Module, *, video: Mapping[str, Tensor] | None = None, text: Mapping[str, Tensor] | None = None
) -> None:
    """Begin the video encoder with a ViT of timm, and the text encoder with DistilBERT or BERT of transformers.

    Section 4.3 of MILES: a ViT of ImageNet-21k and DistilBERT. Attention over time and its normalisation, temporal
    positions and projections stay as they are. The snapshot becomes a copy of the video encoder.

    Args:
        model: a `MILES`.
        video: state dict of a vision transformer of timm, of the model's picture and patch size.
        text: state dict of DistilBertModel, BertModel, or a model with a head on one of them.

    Raises:
        InputError: weights of another shape, or none that the model has.
    """
    if video is not None:
        start_weights(model, {f"video_model.{name}": value for name, value in video.items()}, source="a ViT of timm")
        if any(name.startswith("snapshot.") for name in model.state_dict()):
            start_weights(model, {f"snapshot.{name}": value for name, value in video.items()}, source="a ViT of timm")
    if text is not None:
        named = {f"text_model.{re.sub('^(distilbert|bert)[.]', '', name)}": value for name, value in text.items()}
        start_weights(model, our_names(named), source="DistilBERT or BERT")
