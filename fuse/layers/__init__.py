"""Layers that several models share."""

from .bert import (
    Bert,
    BertAttention,
    BertEmbeddings,
    BertEncoder,
    BertIntermediate,
    BertLayer,
    BertOutput,
    BertSpec,
    KeysValues,
    MaskedWordHead,
    initialise_as_bert,
    visible_before,
    visible_keys,
    without_counters,
)
from .davenet import AUDIO_CNNS, AudioCNNSpec, DAVEnet, ResidualBlock, audio_cnn_spec, token_mask
from .packed import CLASS_TOKEN, Packed, Sequences, add_positions, join, pack, real_rows
from .products import Linear
from .transformer import LAYER_NORM_EPS, ContextGating, FusionBlock, FusionTransformer, GatedUnit

__all__ = [
    "AUDIO_CNNS",
    "CLASS_TOKEN",
    "LAYER_NORM_EPS",
    "AudioCNNSpec",
    "Bert",
    "BertAttention",
    "BertEmbeddings",
    "BertEncoder",
    "BertIntermediate",
    "BertLayer",
    "BertOutput",
    "BertSpec",
    "ContextGating",
    "DAVEnet",
    "FusionBlock",
    "FusionTransformer",
    "GatedUnit",
    "KeysValues",
    "Linear",
    "MaskedWordHead",
    "Packed",
    "ResidualBlock",
    "Sequences",
    "add_positions",
    "audio_cnn_spec",
    "initialise_as_bert",
    "join",
    "pack",
    "real_rows",
    "token_mask",
    "visible_before",
    "visible_keys",
    "without_counters",
]
