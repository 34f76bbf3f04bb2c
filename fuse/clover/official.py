"""Conversion of names to and from the authors' checkpoints and configurations of Clover.

Authors' code: LeeYN-43/Clover@fa05f2e (CloverPretrain and CloverFinetune of mmaction/models/recognizers, and what they
build). A configuration is a document of mmaction whose "model" has a dict for each part; a checkpoint has "state_dict"
and "meta". The names of our weights are theirs but for integers that follow from shapes, which their code keeps among
the weights. Clover published no weights; what starts it is BERT's and Video Swin's (`initialised_from`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._vocabulary import ConfigError, InputError
from ..base import renamed_config
from ..layers import relative_index, without_counters

_SWIN_NAMES = {
    "patch_size": "patch",
    "stride": "stride",
    "in_chans": "channels",
    "embed_dim": "width",
    "depths": "depths",
    "num_heads": "heads",
    "window_size": "window",
    "mlp_ratio": "mlp_ratio",
    "qkv_bias": "qkv_bias",
    "qk_scale": "scale",
    "drop_rate": "dropout",
    "attn_drop_rate": "attention_dropout",
    "drop_path_rate": "drop_path",
    "patch_norm": "patch_norm",
    "mask_token": "mask_token",
}
_SWIN_DEFAULTS: dict[str, Any] = {
    "width": 96,
    "depths": (2, 2, 6, 2),
    "heads": (3, 6, 12, 24),
    "drop_path": 0.1,
}
_BERT_NAMES = {
    "vocab_size": "vocabulary",
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "max_position_embeddings": "max_positions",
    "type_vocab_size": "num_types",
    "layer_norm_eps": "eps",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
_FIXED: dict[str, Mapping[str, tuple[Any, ...]]] = {
    "backbone": {"type": ("SwinTransformer3D",), "frozen_stages": (-1,)},
    "text_backbone": {"type": ("BertFromPretrained",), "layer_norm_eps": (1e-12,)},
    "mm_backbone": {
        "type": ("CrossModalTransformerFromPretrained",),
        "use_prompt": (False,),
        "token_types": (2,),
        "layer_norm_eps": (1e-12,),
    },
    "ssl_head": {
        "type": ("NCEHeadForMM",),
        "ln": (True,),
        "text_bn": (False,),
        "spatial_type": ("avg",),
        "text_agg_type": ("cls",),
        "dropout_ratio": (0, 0.0),
    },
    "V": {"type": ("NCEHeadForVision",), "ln": (True,), "dropout_ratio": (0, 0.0)},
    "T": {"type": ("NCEHeadForText",), "text_bn": (False,)},
    "ssl_loss": {"type": ("ExclusiveNCEwithRankingLoss", "NormSoftmaxLoss"), "cos_sim": (True, False)},
    "mlm_loss": {"type": ("SoftmaxFocalLossMultiClass",), "reduction": ("mean",)},
}
"""Values that this model has no other of."""
_IGNORED: dict[str, set[str]] = {
    "backbone": {"pretrained", "pretrained2d", "use_checkpoint"},
    "text_backbone": {"pretrained_model"},
    "mm_backbone": {"pretrained_model", "word_pos_start", "return_mask"},
    "ssl_head": {"init_std"},
    "V": {"init_std", "cross_in_channels"},
    "T": set(),
    "ssl_loss": {"use_rank_trtm", "margin_trtm"},
    "mlm_loss": set(),
    "model": {
        "type", "freeze_stage", "freeze_except", "freeze_text_backbone", "freeze_dvae_backbone", "train_cfg",
        "test_cfg", "cls_head", "separate_test",
    },
}  # fmt: skip
"""Keys that change no number of this model: starting weights, what is frozen, what the authors' code never uses."""
_SHARED = {
    "backbone",
    "text_backbone",
    "mm_backbone",
    "text_vocab_size",
    "BertConfig",
    "ssl_head",
    "loss_type",
    "from_scratch",
}
_OF_PRETRAINING = {"mlm_head", "mlm_ssl_head", "mlm_loss", "ssl_loss", "symmetry_rank", "use_Cmask"}
_OF_FINETUNING = {"task", "itm_head", "answer_mask", "answer_cls", "qa_head", "vision_q_head"}
_OURS = "frameloom"
"""Under which key of "meta" `to_official` keeps our configuration."""


def swin_options(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `VideoSwin` for those of the authors' SwinTransformer3D.

    Raises:
        ConfigError: an argument that it does not have, or a value that this encoder cannot have.
    """
    options = {**_SWIN_DEFAULTS, **renamed_config(_checked(backbone, "backbone"), _SWIN_NAMES, where="backbone")}
    for name in ("patch", "stride", "window", "depths", "heads"):
        if name in options:
            options[name] = tuple(options[name])
    for name in ("mlp_ratio", "drop_path", "dropout", "attention_dropout"):
        if name in options:
            options[name] = float(options[name])
    return options


def bert_options(official: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `BertSpec` for HuggingFace's BertConfig. Raises ConfigError for what it does not have."""
    if official.get("hidden_act", "gelu") != "gelu":
        raise ConfigError(f"BertConfig.hidden_act is {official['hidden_act']!r}; this model takes 'gelu'")
    return renamed_config(
        {name: value for name, value in official.items() if name != "hidden_act"}, _BERT_NAMES, where="BertConfig"
    )


def fusion_options(mm_backbone: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `CrossModalEncoder` for those of the authors' CrossModalTransformerFromPretrained, and "depth".

    Raises:
        ConfigError: an argument that it does not have, or a value that this encoder cannot have.
    """
    given = {"use_text_cls": False, "num_hidden_layers": 12, "img_in_size": 768, "num_frames": 4, "spacial_tokens": 49}
    given |= _checked(mm_backbone, "mm_backbone")
    names = {
        "use_text_cls": "text_cls",
        "num_hidden_layers": "depth",
        "img_in_size": "video_dim",
        "num_frames": "num_times",
        "spacial_tokens": "num_places",
        "hidden_size": "width",
    }
    return renamed_config(given, names, where="mm_backbone")


def resolved_config(
    state_dict: Mapping[str, Any], config: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], dict[str, Any] | None]:
    """The weights of a checkpoint, and the options of the model that it is of where a configuration says so.

    Raises:
        ConfigError, InputError: see `Clover.from_official`.
    """
    whole = "state_dict" in state_dict and not isinstance(state_dict["state_dict"], Tensor)
    weights = state_dict["state_dict"] if whole else state_dict
    if not isinstance(weights, Mapping):
        raise InputError(
            f"the checkpoint's state_dict is of type {type(weights).__name__}; it must map names to tensors"
        )
    if config is not None:
        return weights, official_config(config)
    meta = state_dict.get("meta") if whole else None
    ours = meta.get(_OURS) if isinstance(meta, Mapping) else None
    return weights, dict(ours) if isinstance(ours, Mapping) else None


def official_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `create_model` that build the model of an official configuration.

    Args:
        config: the authors' document, or its "model" alone. A "task" makes it CloverFinetune's, else it is
            CloverPretrain's.

    Raises:
        ConfigError: a key that the authors do not have, parts that do not fit each other, or what this model cannot be.
    """
    model = config.get("model", config)
    if not isinstance(model, Mapping):
        raise ConfigError(f"model of the authors' configuration is {model!r}; it must map names to values")
    is_tuned = model.get("task") is not None
    known = _SHARED | (_OF_FINETUNING if is_tuned else _OF_PRETRAINING) | _IGNORED["model"]
    if unknown := sorted(model.keys() - known):
        kind = "CloverFinetune" if is_tuned else "CloverPretrain"
        raise ConfigError(f"the authors' {kind} has no key {', '.join(map(repr, unknown))}; known: {sorted(known)}")
    if model.get("from_scratch"):
        raise ConfigError("from_scratch=True divides pictures by 255 once more; this model takes normalised pictures")
    options = _encoder_options(model)
    options |= _tuning_options(model) if is_tuned else _pretraining_options(model)
    if head := _part(model, "ssl_head"):
        head = _checked(head, "ssl_head")
        options |= {"video_hidden": head["img_hidden_dim"], "projection_dim": head["vts_embed_dim"]}
    return options


def _encoder_options(model: Mapping[str, Any]) -> dict[str, Any]:
    swin, fusion = swin_options(_part(model, "backbone")), fusion_options(_part(model, "mm_backbone"))
    bert = bert_options(_part(model, "BertConfig"))
    text = _checked(_part(model, "text_backbone"), "text_backbone")
    (frames, *patch), (step, *stride) = swin.get("patch", (2, 4, 4)), swin.get("stride", (2, 4, 4))
    side, width = round(fusion["num_places"] ** 0.5), swin["width"] << (len(swin["depths"]) - 1)
    problems = {
        "backbone.patch_size and stride": {*patch, *stride} == {patch[0]},
        "backbone.in_chans": swin.get("channels", 3) == 3,
        "backbone.qkv_bias": swin.get("qkv_bias", True),
        "backbone.qk_scale": swin.get("scale") is None,
        "backbone.patch_norm": swin.get("patch_norm", True),
        "backbone.drop_rate": not swin.get("dropout") and not swin.get("attention_dropout"),
        "mm_backbone.spacial_tokens": side**2 == fusion["num_places"],
        "mm_backbone.img_in_size": fusion["video_dim"] == width,
        "mm_backbone.hidden_size": fusion.get("width", 768) == bert.get("width", 768),
        "text_vocab_size": model.get("text_vocab_size") in (None, bert.get("vocabulary", 30522)),
        "BertConfig.type_vocab_size": bert.get("num_types", 2) == 2,
        "BertConfig.layer_norm_eps": bert.get("eps", 1e-12) == 1e-12,
        "BertConfig dropout": bert.get("dropout", 0.1) == bert.get("attention_dropout", 0.1),
    }
    for name, fits in problems.items():
        if not fits:
            raise ConfigError(f"{name} of the authors' configuration does not fit the rest, or no model here has it")
    names = {
        "vocabulary": "vocab_size",
        "width": "text_width",
        "heads": "text_heads",
        "hidden": "text_hidden",
        "max_positions": "max_positions",
        "dropout": "dropout",
    }
    return {
        **{ours: bert[name] for name, ours in names.items() if name in bert},
        "text_depth": text.get("num_hidden_layers", 12),
        "fusion_depth": fusion["depth"],
        "text_cls": fusion["text_cls"],
        "num_frames": (fusion["num_times"] - 1) * step + frames,
        "patch_frames": frames,
        "frame_step": step,
        "patch_size": patch[0],
        "image_size": side * patch[0] << (len(swin["depths"]) - 1),
        "swin_width": swin["width"],
        "swin_depths": swin["depths"],
        "swin_heads": swin["heads"],
        "swin_mlp_ratio": swin.get("mlp_ratio", 4.0),
        "window": swin.get("window", (8, 7, 7)),
        "drop_path": swin["drop_path"],
        "max_words": min(bert.get("max_positions", 512), 512),
    }


def _pretraining_options(model: Mapping[str, Any]) -> dict[str, Any]:
    loss, heads, words = (_part(model, name) for name in ("ssl_loss", "mlm_ssl_head", "mlm_loss"))
    loss = _checked(loss, "ssl_loss", keep=("type",))
    options: dict[str, Any] = {"task": "pretraining", "temperature": float(loss.get("temperature", 0.05))}
    options["gamma"] = float(_checked(words, "mlm_loss").get("gamma", 2.0)) if words else 0.0
    if loss.get("type") != "ExclusiveNCEwithRankingLoss":
        if heads or model.get("symmetry_rank"):
            raise ConfigError("mlm_ssl_head and symmetry_rank need ssl_loss ExclusiveNCEwithRankingLoss")
        return options | {"alignment": "pair", "ranking": False}
    if not model.get("symmetry_rank") or not model.get("use_Cmask", True):
        raise ConfigError("this model aligns both sides, with masked samples: symmetry_rank and use_Cmask must be True")
    video, text = (_checked(_part(heads, name), name) for name in ("V", "T"))
    if not video or not text:
        raise ConfigError("mlm_ssl_head needs V and T: this model has a head for each side")
    return options | {
        "fused_hidden": 2 * video.get("hidden_dim", 768),
        "ranking": bool(loss.get("use_rank", False) and loss.get("use_rank_ttm", True)),
        "margin": float(loss.get("margin_ttm", 5.0)),
    }


def _tuning_options(model: Mapping[str, Any]) -> dict[str, Any]:
    task, head = model["task"], _part(model, "qa_head")
    if model.get("vision_q_head") is not None:
        raise ConfigError("vision_q_head is a head that this model does not put before its answers; leave it out")
    options: dict[str, Any] = {"match_head": model.get("itm_head") is not None}
    if task == "retrieval":
        loss = _part(model, "loss_type")
        return options | {"task": "retrieval", "temperature": float(loss.get("temperature", 0.07))}
    if task not in ("video_qa", "FIB"):
        raise ConfigError(f"task is {task!r}; this model takes retrieval, video_qa and FIB")
    kind, fills = head.get("type"), bool(model.get("answer_mask"))
    if kind not in ("QA_OE_Head", "QA_MC_head"):
        raise ConfigError(f"qa_head.type is {kind!r}; this model takes QA_OE_Head and QA_MC_head")
    if not fills and (not model.get("answer_cls") or options["match_head"]):
        raise ConfigError(
            "answers are read at [CLS] or at [MASK], without itm_head before: set answer_cls or answer_mask"
        )
    if fills and kind != "QA_OE_Head":
        raise ConfigError("answer_mask goes with a QA_OE_Head")
    choice = {"task": "multiple_choice", "answer_dropout": float(head.get("dropout_ratio", 0.1))}
    listed = {
        "task": "fill_blank" if fills else "open_answer",
        "answer_dropout": float(head.get("dropout_ratio", 0.5)),
        "num_answers": head.get("num_labels"),
    }
    return options | (choice if kind == "QA_MC_head" else listed)


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a configuration; nothing where it is None or left out."""
    part = config.get(name) or {}
    if not isinstance(part, Mapping):
        raise ConfigError(f"{name} of the authors' configuration is {part!r}; it must map names to values")
    return part


def _checked(part: Mapping[str, Any], name: str, *, keep: Sequence[str] = ()) -> dict[str, Any]:
    """A part without what this model has no choice in. Raises ConfigError for another choice."""
    fixed = _FIXED[name]
    for key, allowed in fixed.items():
        if key in part and part[key] not in allowed:
            raise ConfigError(f"{name}.{key} is {part[key]!r}; this model takes {' or '.join(map(repr, allowed))}")
    dropped = (fixed.keys() | _IGNORED[name]) - {*keep}
    return {key: value for key, value in part.items() if key not in dropped}


def our_weights(official: Mapping[str, Any]) -> dict[str, Any]:
    """Weights without the integers that follow from shapes."""
    return {str(key).removeprefix("module."): value for key, value in without_counters(official).items()}


def official_weights(weights: Mapping[str, Tensor], *, window: Sequence[int]) -> dict[str, Tensor]:
    """Weights as the authors' code keeps them, with the positions of BERT and the indices of Video Swin."""
    complete: dict[str, Tensor] = {}
    index = relative_index((window[0], window[1], window[2]), (window[0], window[1], window[2]))
    for name, value in weights.items():
        parent, _, leaf = name.rpartition(".")
        if name.endswith("embeddings.word_embeddings.weight") or name.endswith("bert_embedding.word_embeddings.weight"):
            positions = weights[name.replace("word_embeddings", "position_embeddings")]
            complete[name.replace("word_embeddings.weight", "position_ids")] = torch.arange(len(positions))[None]
        complete[name] = value
        if leaf == "relative_position_bias_table":
            complete[f"{parent}.relative_position_index"] = index
    return complete


def initialised_from(
    model: nn.Module, *, text: Mapping[str, Tensor] | None = None, video: Mapping[str, Tensor] | None = None
) -> list[str]:
    """Start a Clover from published weights, as section 4.1 does; what they do not have stays as it is.

    Args:
        model: the Clover.
        text: of HuggingFace's BertModel, BertForMaskedLM or BertForPreTraining: the text encoder, the first layers of
            the multi-modal encoder, and the head of masked words.
        video: of a Video Swin of mmaction, with or without the prefix "backbone.".

    Returns:
        The names of the weights that were set.

    Raises:
        InputError: weights of another shape, or none that the model has; the model is left as it was.
    """
    own, found = model.state_dict(), dict[str, Tensor]()
    for key, value in without_counters(video or {}).items():
        found[f"backbone.{key.removeprefix('backbone.')}"] = value
    for key, value in without_counters(text or {}).items():
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", key))
        name = name.removeprefix("bert.")
        found[f"text_backbone.bert.{name}"] = value
        if name.startswith("encoder."):
            found[f"multimodal_backbone.bert_{name}"] = value
        if name.startswith("embeddings."):
            found[f"multimodal_backbone.bert_embedding.{name.removeprefix('embeddings.')}"] = value
        if name == "embeddings.word_embeddings.weight":
            found.setdefault("mlm_head.predictions.decoder.weight", value)
        if name.startswith("cls.predictions."):
            place = name.removeprefix("cls.").replace("predictions.bias", "predictions.decoder.bias")
            found[f"mlm_head.{place}"] = value
    fitting = {name: value for name, value in found.items() if name in own}
    wrong = [name for name, value in fitting.items() if value.shape != own[name].shape]
    if wrong or not fitting:
        raise InputError(
            f"these weights do not fit the model: {', '.join(wrong[:5]) or 'no name of theirs is its own'}"
        )
    model.load_state_dict(fitting, strict=False)
    return list(fitting)
