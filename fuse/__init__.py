"""Fusion models: tensors in, embeddings and losses out. Pure torch; knows no files, no features, no database."""

from . import everything_at_once as everything_at_once
from ._everything_at_once_config import EverythingAtOnceConfig
from ._face import MODALITIES, Embeddings, FusionModel, ModelConfig, Tokens, load_weights
from ._registry import create_model, list_models, model_config, model_description
from .everything_at_once import EverythingAtOnce

__all__ = [
    "MODALITIES",
    "Embeddings",
    "EverythingAtOnce",
    "EverythingAtOnceConfig",
    "FusionModel",
    "ModelConfig",
    "Tokens",
    "create_model",
    "list_models",
    "load_weights",
    "model_config",
    "model_description",
]
