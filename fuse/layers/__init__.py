"""Layers that several models share."""

from .davenet import AUDIO_CNNS, AudioCNNSpec, DAVEnet, ResidualBlock, audio_cnn_spec, token_mask
from .packed import CLASS_TOKEN, Packed, Sequences, add_positions, join, pack, real_rows
from .products import Linear
from .transformer import LAYER_NORM_EPS, ContextGating, FusionBlock, FusionTransformer, GatedUnit

__all__ = [
    "AUDIO_CNNS",
    "CLASS_TOKEN",
    "LAYER_NORM_EPS",
    "AudioCNNSpec",
    "ContextGating",
    "DAVEnet",
    "FusionBlock",
    "FusionTransformer",
    "GatedUnit",
    "Linear",
    "Packed",
    "ResidualBlock",
    "Sequences",
    "add_positions",
    "audio_cnn_spec",
    "join",
    "pack",
    "real_rows",
    "token_mask",
]
