"""Fusion models: tensors in, embeddings and losses out. Pure torch; knows no files, no features, no database.

Second doors: `fuse.layers` and `fuse.objectives`.
"""

from .all_in_one import AllInOne
from .base import FusionModel, ModelConfig, NonFiniteError, Tokens, load_weights
from .baselines import MCN, MILNCE, AVLnet, HowTo100M
from .clover import Clover, WordTag
from .dual_encoder import DualEncoder, ImagenetLabels
from .everything_at_once import EverythingAtOnce, combination_name
from .miles import MILES
from .registry import create_model, list_models, model_config, model_description, model_type
from .t2v2t import T2V2T, VindLUQA

__all__ = [
    "MCN",
    "MILES",
    "MILNCE",
    "T2V2T",
    "AVLnet",
    "AllInOne",
    "Clover",
    "DualEncoder",
    "EverythingAtOnce",
    "FusionModel",
    "HowTo100M",
    "ImagenetLabels",
    "ModelConfig",
    "NonFiniteError",
    "Tokens",
    "VindLUQA",
    "WordTag",
    "combination_name",
    "create_model",
    "list_models",
    "load_weights",
    "model_config",
    "model_description",
    "model_type",
]
