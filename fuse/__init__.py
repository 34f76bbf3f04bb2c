"""Fusion models: tensors in, embeddings and losses out. Pure torch; knows no files, no features, no database."""

from .base import MODALITIES, Embeddings, FusionModel, ModelConfig, NonFiniteError, Tokens, load_weights
from .baselines import MCN, MILNCE, AVLnet, HowTo100M
from .everything_at_once import EverythingAtOnce, EverythingAtOnceConfig, combination_name
from .layers import FusionBlock, ResidualBlock
from .objectives import gathered, whole_batch
from .registry import create_model, list_models, model_config, model_description

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
