"""Conversion of names to and from the authors' checkpoints and configurations of Everything at Once.

Paper: Shvetsova et al., CVPR 2022 (arXiv 2112.04446). Authors' code: ninatu/everything_at_once@4daeab6. Their
checkpoint is a dict with "arch", "epoch", "step", "state_dict", "optimizer", "monitor_best" and "config", and their
configuration a document whose "arch" names a class and its "args", and whose "loss" has the weights of equation 2. The
names of our weights are theirs, so that only configurations need translation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._vocabulary import ConfigError, InputError
from ..base import renamed_config
from .config import EverythingAtOnceConfig

_CLASSES: dict[str, dict[str, Any]] = {
    "EverythingAtOnceModel": {},
    "EverythingAtOnceModel_TV_Only": {"modalities": ["text", "video"]},
    "TransformerPerModalityModel": {"transformer": "per_modality", "cross_modal": False},
}
"""The authors' classes, and the options in which they differ."""
_NAMES = {
    "video_embed_dim": "video_dim",
    "text_embed_dim": "text_dim",
    "fusion_params": "fusion_params",
    "projection_dim": "projection_dim",
    "davenet_v2": "audio_cnn",
    "token_projection": "token_projection",
    "projection": "projection",
    "strategy_audio_pooling": "audio_reduction",
    "individual_projections": "individual_projections",
    "use_positional_emb": "positional",
    "video_max_tokens": "max_video_tokens",
    "text_max_tokens": "max_words",
    "audio_max_num_STFT_frames": "max_audio_frames",
    "cross_modal": "fused_pairs",
    "modalities": "modalities",
    "transformer": "transformer",
}
_REQUIRED = ("video_embed_dim", "text_embed_dim", "fusion_params")
_DEFAULTS = {
    "projection_dim": 6144,
    "davenet_v2": True,
    "token_projection": "gated",
    "projection": "gated",
    "strategy_audio_pooling": "none",
    "individual_projections": True,
    "use_positional_emb": False,
    "cross_modal": True,
}
_FUSION_NAMES = {
    "embed_dim": "width",
    "depth": "depth",
    "num_heads": "heads",
    "mlp_ratio": "mlp_ratio",
    "qkv_bias": "qkv_bias",
    "use_cls_token": "cls_token",
}
_FUSION_DEFAULTS = {
    "embed_dim": 768,
    "depth": 1,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "use_cls_token": False,
}
_DROPOUTS = ("drop_rate", "attn_drop_rate", "drop_path_rate")
_PROJECTIONS = {"gated": "gated", "minimal": "linear", "": "none"}
_LOSS_NAMES = {
    "contrastive_loss": "contrast",
    "temperature": "temperature",
    "tv_weight": "lambda_tv",
    "ta_weight": "lambda_ta",
    "va_weight": "lambda_va",
    "t_va_weight": "lambda_t_va",
    "v_ta_weight": "lambda_v_ta",
    "a_tv_weight": "lambda_a_tv",
}
_CONTRASTS = {"NormSoftmax": "norm_softmax", "MMS": "margin_softmax"}
_AUTHORS_MARGIN = 0.001
_AUTHORS_MEL_BANDS = 40


def unpacked_checkpoint(
    state_dict: Mapping[str, Any], config: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The weights and the configuration of a checkpoint, which may be weights alone.

    A whole configuration given with a checkpoint replaces what it names of the checkpoint's own, as the authors do it
    for evaluation; arguments of a model alone replace all of it.

    Raises:
        InputError: a checkpoint without weights.
    """
    if "state_dict" not in state_dict:
        return state_dict, config
    weights, own = state_dict["state_dict"], state_dict.get("config")
    if not isinstance(weights, Mapping):
        raise InputError(
            f"the checkpoint's state_dict is of type {type(weights).__name__}; it must map names to tensors"
        )
    if own is not None and not isinstance(own, Mapping):
        raise InputError(f"the checkpoint's config is of type {type(own).__name__}; it must map names to values")
    if config is None or own is None or "video_embed_dim" in config:
        return weights, own if config is None else config
    return weights, {**own, **config}


def official_config(official: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `create_model` that build the model of an official configuration.

    Args:
        official: the authors' whole document, or the "args" of its "arch" alone. With the latter, three keys that are
            not their arguments tell their classes apart: "modalities" (["text", "video"] for the TV-only class),
            "transformer" ("per_modality" for the class of that name) and "cross_modal".

    Raises:
        ConfigError: a class or key that the authors do not have, a key that is missing, or what this model cannot be.
    """
    if "arch" not in official:
        return _model_options(official)
    arch = _mapping(official["arch"], where="arch")
    kind = str(arch.get("type"))
    if kind not in _CLASSES:
        raise ConfigError(f"arch.type is {kind!r}; this model takes {', '.join(_CLASSES)}")
    options = _model_options({**_mapping(arch.get("args", {}), where="arch.args"), **_CLASSES[kind]})
    return options | (_loss_options(_mapping(official["loss"], where="loss")) if official.get("loss") else {})


def _model_options(args: Mapping[str, Any]) -> dict[str, Any]:
    missing = [name for name in _REQUIRED if args.get(name) is None]
    if missing:
        raise ConfigError(f"the authors' EverythingAtOnceModel also needs {', '.join(missing)}; give its args")
    options = renamed_config({**_DEFAULTS, **args}, _NAMES, where="the authors' EverythingAtOnceModel")
    options |= _fusion_options(_mapping(options.pop("fusion_params"), where="fusion_params"))
    options["audio_cnn"] = "davenet_v2" if options["audio_cnn"] else "davenet_v1"
    for name in ("token_projection", "projection"):
        options[name] = _PROJECTIONS.get(str(options[name]), options[name])
    if options.get("max_audio_frames") is None:
        options["audio_reduction"] = "none"  # the authors reduce nothing without a limit, whatever the strategy
    if options.get("transformer") == "per_modality" and options["positional"]:
        raise ConfigError(
            "the authors' TransformerPerModalityModel never adds its positional embeddings; this one does"
        )
    return {name: value for name, value in options.items() if value is not None}


def _fusion_options(fusion: Mapping[str, Any]) -> dict[str, Any]:
    dropping = [name for name in _DROPOUTS if fusion.get(name)]
    if dropping:
        raise ConfigError(
            f"fusion_params.{dropping[0]} is {fusion[dropping[0]]}; this model, as published, drops nothing"
        )
    known = {name: value for name, value in fusion.items() if name not in _DROPOUTS}
    return renamed_config({**_FUSION_DEFAULTS, **known}, _FUSION_NAMES, where="the authors' FusionTransformer")


def _loss_options(loss: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of equation 2: those that the authors do not write are 0."""
    if loss.get("type") != "CombinatorialLoss":
        raise ConfigError(f"loss.type is {loss.get('type')!r}; this model takes CombinatorialLoss")
    absent = {name: 0.0 for name in _LOSS_NAMES if name.endswith("_weight")}
    args = _mapping(loss.get("args", {}), where="loss.args")
    options = renamed_config({**absent, **args}, _LOSS_NAMES, where="the authors' CombinatorialLoss")
    if "contrast" in options:
        options["contrast"] = _CONTRASTS.get(str(options["contrast"]), options["contrast"])
        options |= {"margin": _AUTHORS_MARGIN} if options["contrast"] == "margin_softmax" else {}
    return options


def to_official_config(config: EverythingAtOnceConfig) -> dict[str, Any]:
    """The "arch" and "loss" of the authors' configuration, from which their code builds this model.

    Raises:
        ConfigError: their code has no such model.
    """
    _check_known_to_authors(config)
    kind = _class_of(config)
    args = {name: getattr(config, ours) for name, ours in _NAMES.items() if name not in _unsaid(config)}
    args["davenet_v2"] = config.audio_cnn == "davenet_v2"
    for name in ("token_projection", "projection"):
        args[name] = _inverse(_PROJECTIONS)[args[name]]
    args["fusion_params"] = {name: getattr(config, ours) for name, ours in _FUSION_NAMES.items()}
    loss = {name: getattr(config, ours) for name, ours in _LOSS_NAMES.items()}
    loss["contrastive_loss"] = _inverse(_CONTRASTS)[config.contrast]
    return {"arch": {"type": kind, "args": args}, "loss": {"type": "CombinatorialLoss", "args": loss}}


def _unsaid(config: EverythingAtOnceConfig) -> set[str]:
    """The arguments that the authors' class does not have, or that their code would take for a limit."""
    unsaid = {"modalities", "transformer", "fusion_params"}
    if config.transformer == "per_modality":
        unsaid |= {"cross_modal", "individual_projections"}
    if not config.positional:
        unsaid |= {"video_max_tokens", "text_max_tokens"}
        unsaid |= {"audio_max_num_STFT_frames"} if config.audio_reduction == "none" else set()
    return unsaid


def _class_of(config: EverythingAtOnceConfig) -> str:
    if config.transformer == "per_modality":
        return "TransformerPerModalityModel"
    return "EverythingAtOnceModel" if "audio" in config.modalities else "EverythingAtOnceModel_TV_Only"


def _check_known_to_authors(config: EverythingAtOnceConfig) -> None:
    """Raise ConfigError, naming the first option that the authors' code does not have."""
    per_modality = config.transformer == "per_modality"
    has_audio = "audio" in config.modalities
    problems = {
        "extra_dims": bool(config.extra_dims),
        "modalities": not {"text", "video"} <= set(config.modalities) or (per_modality and not has_audio),
        "audio_cnn": config.audio_cnn not in ("davenet_v1", "davenet_v2"),
        "audio_cnn_blocks": bool(config.audio_cnn_blocks),
        "audio_cnn_widths": bool(config.audio_cnn_widths),
        "mel_bands": config.mel_bands != _AUTHORS_MEL_BANDS,
        "positional": per_modality and config.positional,
        "individual_projections": per_modality and not config.individual_projections,
        "contrast": config.contrast not in _CONTRASTS.values(),
        "margin": config.contrast == "margin_softmax" and config.margin != _AUTHORS_MARGIN,
    }
    for name, is_unknown in problems.items():
        if is_unknown:
            value = getattr(config, name)
            raise ConfigError(
                f"the authors' code has no model with {name} {value!r}; keep this one as a checkpoint of ours"
            )


def _mapping(value: Any, *, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where} of the authors' configuration is {value!r}; it must map names to values")
    return value


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {value: key for key, value in table.items()}
