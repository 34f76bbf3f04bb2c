"""Fusion models: tensors in, embeddings and losses out. Pure torch; knows no files, no features, no database."""

from . import everything_at_once as everything_at_once
from ._combinations import combination_name
from ._everything_at_once_config import EverythingAtOnceConfig
from ._face import MODALITIES, Embeddings, FusionModel, ModelConfig, NonFiniteError, Tokens, load_weights
from ._gather import gathered, whole_batch
from ._layers import FusionBlock
from ._registry import create_model, list_models, model_config, model_description
from .avlnet import AVLnet
from .davenet import ResidualBlock
from .everything_at_once import EverythingAtOnce
from .howto100m import HowTo100M
from .mcn import MCN
from .mil_nce import MILNCE

__all__ = [
    "MCN",
    "MILNCE",
    "MODALITIES",
    "AVLnet",
    "Embeddings",
    "EverythingAtOnce",
    "EverythingAtOnceConfig",
    "FusionBlock",
    "FusionModel",
    "HowTo100M",
    "ModelConfig",
    "NonFiniteError",
    "ResidualBlock",
    "Tokens",
    "combination_name",
    "create_model",
    "gathered",
    "list_models",
    "load_weights",
    "model_config",
    "model_description",
    "whole_batch",
]
