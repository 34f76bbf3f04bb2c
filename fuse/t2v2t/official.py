"""Conversion of names to and from VindLU's checkpoints and configurations, and starting weights of BEiT and BERT.

Authors' code: klauscc/VindLU@3046548. Their checkpoint is a dict with "model". Its weights are under the names that
this model has, with "text_encoder." for "text_encoder.bert." where there is no head for masked words, and with
HuggingFace's integer buffers. Their model is built from two configurations of HuggingFace's kind, which are
"BeitConfig" and "BertConfig" here, and from "embed_dim", "temp", "vit_add_ln", "loss_weight", "vtm_hard_neg",
"mlm_masking_prob".

T2V2T published no code. Its rounds add "bypass", "bypass_intermediate" and "bypass_output" to those names, and
"fusion", our options by name, to the configuration.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..._vocabulary import ConfigError, InputError
from ..base import load_weights, renamed_config
from ..layers import relative_position_index, without_counters
from .config import T2V2TConfig

_BEIT_NAMES = {
    "hidden_size": "video_width",
    "num_hidden_layers": "video_depth",
    "num_attention_heads": "video_heads",
    "intermediate_size": "video_hidden",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "layer_norm_eps": "video_eps",
    "layer_scale_init_value": "layer_scale",
    "drop_path_rate": "drop_path",
    "use_relative_position_bias": "relative_bias",
    "num_frames": "num_frames",
    "temporal_model_position": "temporal",
    "use_temporal_position_embedding": "temporal_positions",
}
_BEIT_FIXED: dict[str, tuple[Any, ...]] = {
    "num_channels": (3,),
    "use_mask_token": (False,),
    "use_absolute_position_embeddings": (False,),
    "use_shared_relative_position_bias": (False,),
    "use_mean_pooling": (True,),
    "hidden_act": ("gelu",),
    "hidden_dropout_prob": (0, 0.0),
    "attention_probs_dropout_prob": (0, 0.0),
    "add_k_prompts": (0,),
    "temporal_model_block": ("timesformer", "none"),
    "temporal_model_init_value": (0, 0.0),
}
_BERT_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "text_width",
    "num_hidden_layers": "text_depth",
    "num_attention_heads": "text_heads",
    "intermediate_size": "text_hidden",
    "max_position_embeddings": "text_positions",
    "type_vocab_size": "text_types",
    "layer_norm_eps": "text_eps",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "fusion_layer": "first_fusion",
}
_BERT_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "pad_token_id": (0,),
    "cross_module": ("ca",),
    "initializer_range": (0.02,),
    "model_type": ("bert",),
    "position_embedding_type": ("absolute",),
}
_UNREAD = {"architectures", "encoder_width", "gradient_checkpointing", "temporal_model_config"}
"""Of both: what is read elsewhere or says nothing of the model."""
_NAMES = {
    "BeitConfig": "BeitConfig",
    "BertConfig": "BertConfig",
    "embed_dim": "projection_dim",
    "temp": "temperature",
    "vit_add_ln": "video_norm",
    "vtm_hard_neg": "hard_negatives",
    "mlm_masking_prob": "mask_probability",
    "loss_weight": "loss_weight",
    "fusion": "fusion",
}
_EVALUATION = {"k_test", "eval_frame_ensemble"}
_LOSSES = {"vtc": "vtc_weight", "vtm": "vtm_weight", "mlm": "mlm_weight"}
_VINDLU = {"fusion": "unidirectional", "fusion_order": "self_cross", "frame_class_tokens": True}
_OURS = (
    "fusion", "fusion_order", "fusion_norm", "fusion_mlp", "fusion_keys", "carry_frames", "shared_rounds",
    "text_padding", "frame_class_tokens", "temporal_heads", "temporal_drop_path", "max_words", "image_mean",
    "image_std", "seed",
)  # fmt: skip
"""Options that the authors' configurations do not have."""
_POSITIONS = "vision_encoder.embeddings.temporal_position_embeddings"
_TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Two names of one weight, within an encoder or decoder."""


def official_config(official: Mapping[str, Any], *, has_word_head: bool = True) -> dict[str, Any]:
    """The options of `create_model` that build the model of an official configuration.

    Args:
        official: see the head of this file; what says how to evaluate is left aside.
        has_word_head: whether the weights have a head for masked words.

    Raises:
        ConfigError: a key that the authors do not have, one that is missing, or what this model cannot be.
    """
    known = {key: value for key, value in official.items() if key not in _EVALUATION}
    options = renamed_config(known, _NAMES, where="the configuration of VindLU")
    beit, bert = (_section(options, name) for name in ("BeitConfig", "BertConfig"))
    fused = dict(options.pop("fusion", None) or _VINDLU)
    losses = dict(options.pop("loss_weight", {}))
    if losses.pop("mvm", 0):
        raise ConfigError("loss_weight.mvm is not 0; the authors' code has no such loss")
    options |= {name: float(value) for name, value in renamed_config(losses, _LOSSES, where="loss_weight").items()}
    if bert.get("encoder_width", beit["hidden_size"]) != beit["hidden_size"]:
        raise ConfigError(f"BertConfig.encoder_width must be BeitConfig.hidden_size, {beit['hidden_size']}")
    options |= video_options(beit) | text_options(bert)
    if not has_word_head:
        options["mlm_weight"] = 0.0
    return options | fused


def video_options(beit: Mapping[str, Any]) -> dict[str, Any]:
    """The options that "BeitConfig" has. Raises ConfigError as `official_config`."""
    width, temporal = beit.get("hidden_size", 768), dict(beit.get("temporal_model_config", {}))
    if temporal.pop("input_dim", width) != width:
        raise ConfigError(f"temporal_model_config.input_dim must be BeitConfig.hidden_size, {width}")
    options = renamed_config(temporal, {"droppath_rate": "temporal_drop_path"}, where="temporal_model_config")
    rest = _checked({"temporal_model_position": "last", **beit}, _BEIT_FIXED, where="BeitConfig")
    options |= renamed_config(rest, _BEIT_NAMES, where="BeitConfig") | {"temporal_heads": max(width // 64, 1)}
    return options | ({"temporal": "none"} if beit.get("temporal_model_block") == "none" else {})


def text_options(bert: Mapping[str, Any]) -> dict[str, Any]:
    """The options that "BertConfig" has. Raises ConfigError as `official_config`."""
    options = renamed_config(_checked(bert, _BERT_FIXED, where="BertConfig"), _BERT_NAMES, where="BertConfig")
    return options | {"max_words": min(32, options.get("text_positions", 512))}


def _section(options: dict[str, Any], name: str) -> dict[str, Any]:
    section = options.pop(name, None)
    if not isinstance(section, Mapping) or "hidden_size" not in section:
        raise ConfigError(f"the configuration of VindLU needs {name} with the sizes of its encoder; got {section!r}")
    return dict(section)


def _checked(section: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]], *, where: str) -> dict[str, Any]:
    """A section without the keys that can have one value alone. Raises ConfigError for another value."""
    for name, allowed in fixed.items():
        if name in section and section[name] not in allowed:
            raise ConfigError(
                f"{where}.{name} is {section[name]!r}; this model takes {' or '.join(map(repr, allowed))}"
            )
    return {name: value for name, value in section.items() if name not in {*fixed, *_UNREAD}}


def to_official_config(config: T2V2TConfig) -> dict[str, Any]:
    """The configuration from which `from_official` builds this model."""
    beit = {theirs: getattr(config, ours) for theirs, ours in _BEIT_NAMES.items()}
    block = {"temporal_model_block": "none" if config.temporal == "none" else "timesformer"}
    beit |= block | {"temporal_model_position": "last" if config.temporal == "none" else config.temporal}
    bert = {theirs: getattr(config, ours) for theirs, ours in _BERT_NAMES.items()}
    top = {theirs: getattr(config, ours) for theirs, ours in _NAMES.items() if ours in type(config).model_fields}
    return {
        **top,
        "BeitConfig": {**beit, "temporal_model_config": {"input_dim": config.video_width}},
        "BertConfig": {**bert, "encoder_width": config.video_width},
        "loss_weight": {theirs: getattr(config, ours) for theirs, ours in _LOSSES.items()},
        "fusion": {name: getattr(config, name) for name in _OURS},
    }


def unpacked_checkpoint(
    state_dict: Mapping[str, Any], config: Mapping[str, Any] | None
) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """The weights of a checkpoint under our names, and its configuration.

    Raises:
        InputError: a checkpoint without weights, or two values for what is one weight.
    """
    whole = "model" in state_dict and not isinstance(state_dict["model"], Tensor)
    weights = state_dict["model"] if whole else state_dict
    if not isinstance(weights, Mapping):
        raise InputError(f"the checkpoint's model is of type {type(weights).__name__}; it must map names to tensors")
    ours = {}
    for key, value in without_counters(weights).items():
        name = str(key).removeprefix("module.")
        for part in ("embeddings.", "encoder."):
            name = name.replace(f"text_encoder.{part}", f"text_encoder.bert.{part}")
        ours[name] = value
    for part, (alias, key) in itertools.product(("text_encoder", "text_decoder"), _TIED.items()):
        one, other = (ours.get(f"{part}.{name}") for name in (alias, key))
        if isinstance(one, Tensor) and isinstance(other, Tensor) and not _same(one, other):
            raise InputError(f"{part}: {alias} and {key} are one weight, and this checkpoint has two values for it")
    own = state_dict.get("config") if whole else None
    return ours, own if config is None and isinstance(own, Mapping) else config


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether there is nothing to say here: shapes and numbers that are not finite are `load_weights`' to tell."""
    return one.shape != other.shape or torch.equal(one, other) or not bool((one + other).isfinite().all())


def loaded_weights(model: nn.Module, weights: Mapping[str, Any], *, has_word_head: bool) -> None:
    """Put weights under our names into a model, in the authors' way for another number of frames.

    New frames have a position of 0, and those too many are cut off. A model without a head for masked words leaves out
    that of the checkpoint.

    Raises:
        InputError: what does not fit; the model is left as it was.
    """
    filled = dict(weights)
    own = model.state_dict()
    table = filled.get(_POSITIONS)
    if _POSITIONS in own and isinstance(table, Tensor) and table.dim() == 4:
        num_frames = own[_POSITIONS].shape[1]
        missing = max(num_frames - table.shape[1], 0)
        filled[_POSITIONS] = nn.functional.pad(table, (0, 0, 0, 0, 0, missing))[:, :num_frames]
    if not has_word_head:
        filled = {key: value for key, value in filled.items() if not key.startswith("text_encoder.cls.")}
    if "num_steps" in own:
        filled.setdefault("num_steps", own["num_steps"])
    load_weights(model, filled)


def official_weights(weights: Mapping[str, Tensor], config: T2V2TConfig) -> dict[str, Tensor]:
    """Our weights under the authors' names, with HuggingFace's integer buffers."""
    theirs = {}
    for name, value in weights.items():
        if name != "num_steps":
            theirs[name if config.has_word_head else name.replace("text_encoder.bert.", "text_encoder.")] = value
        if name.endswith("relative_position_bias_table"):
            grid = config.image_size // config.patch_size
            theirs[name.replace("bias_table", "index")] = relative_position_index(grid)
    bert = "text_encoder.bert." if config.has_word_head else "text_encoder."
    theirs[f"{bert}embeddings.position_ids"] = torch.arange(config.text_positions)[None]
    return theirs


_RENAMED_LATER = {
    r"^layers\.": "encoder.layer.",
    r"\.attention\.q_proj\.": ".attention.attention.query.",
    r"\.attention\.k_proj\.": ".attention.attention.key.",
    r"\.attention\.v_proj\.": ".attention.attention.value.",
    r"\.attention\.o_proj\.": ".attention.output.dense.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
    r"(layer\.\d+)\.relative_position_bias\.": r"\1.attention.attention.relative_position_bias.",
    r"LayerNorm\.gamma$": "LayerNorm.weight",
    r"LayerNorm\.beta$": "LayerNorm.bias",
}
"""What transformers 5 calls the layers of BEiT, and what the oldest files call the norms of BERT."""
_RANDOM = re.compile(r"\.(temp_model|crossattention|bypass\w*|mlp)\.|\.temporal_position_embeddings$")
"""Of the two encoders, what neither network has."""


def initialised_from(
    model: nn.Module, *, video: Mapping[str, Tensor] | None = None, text: Mapping[str, Tensor] | None = None
) -> None:
    """Start a model from HuggingFace's weights of BEiT (pre-trained and fine-tuned on ImageNet-22k) and of BERT.

    The first layers of BERT become the text encoder, those after them the self-attention and MLP of the rounds, and its
    head, where given, that of masked words. Attention over time and across, and projections, stay as they are: random.
    What the two networks have and this model does not (classifiers, poolers) is left out.

    Args:
        model: a `T2V2T`.
        video: state dict of BeitModel, BeitForImageClassification or the like.
        text: state dict of BertModel, BertForMaskedLM, BertForPreTraining or the like.

    Raises:
        InputError: a weight of an encoder that is missing, or of another shape, such as of another picture size or
            vocabulary. The model is left as it was.
    """
    own = model.state_dict()
    filled = dict(own)
    for given, encoder in ((video, "vision_encoder."), (text, "text_encoder.bert.")):
        if given is None:
            continue
        renamed = {}
        for key, value in without_counters(given).items():
            name = re.sub(r"^(beit|bert)\.", "", key)
            for pattern, ours in _RENAMED_LATER.items():
                name = re.sub(pattern, ours, name)
            renamed["text_encoder." + name if name.startswith("cls.") else encoder + name] = value
        wanted = {name for name in own if name.startswith(encoder) and not _RANDOM.search(name)}
        if missing := sorted(wanted - renamed.keys()):
            raise InputError(f"the weights to start from lack {', '.join(missing[:3])}, {len(missing)} in all")
        for name in renamed.keys() & own.keys():
            if renamed[name].shape != own[name].shape:
                raise InputError(
                    f"{name} is {tuple(own[name].shape)} here and {tuple(renamed[name].shape)} in the weights to start "
                    "from; build the model with their sizes of picture, vocabulary and width"
                )
            filled[name] = renamed[name]
    load_weights(model, filled)
