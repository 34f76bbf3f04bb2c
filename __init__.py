"""frameloom: from a folder of videos to answers.

Extracts what frozen backbones see, hear and read, stores it once, trains video-language fusion models on it, writes the
embeddings of every clip into LanceDB, and answers questions in any mixture of text, video and audio.
"""

from ._api import create_backbone, create_model, list_backbones, list_models, open
from ._version import __version__
from ._vocabulary import (
    Clip,
    ConfigError,
    FeatureArray,
    FeatureSpec,
    FrameloomError,
    InputError,
    IntegrityError,
    LockedError,
    MediaError,
    Modality,
    Outcome,
    OutOfSpaceError,
    Status,
    UnknownNameError,
)

__all__ = [
    "Clip",
    "ConfigError",
    "FeatureArray",
    "FeatureSpec",
    "FrameloomError",
    "InputError",
    "IntegrityError",
    "LockedError",
    "MediaError",
    "Modality",
    "OutOfSpaceError",
    "Outcome",
    "Status",
    "UnknownNameError",
    "__version__",
    "create_backbone",
    "create_model",
    "list_backbones",
    "list_models",
    "open",
]
