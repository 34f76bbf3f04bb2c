"""Media in, arrays out: probing, decoding at exact times, and the frozen backbones.

Importing this package loads NumPy and nothing heavier; torch, PyAV and gensim are loaded by the calls that need them.
`extract.decode`, `extract.windows`, `extract.weights` and `extract.backbones` are doors of their own.
"""

from . import backbones
from .backbones import class_names
from .decode import DecodedAudio, DecodedFrames, Decoder, Limits
from .networks import tokenize, train_word_vectors
from .pipeline import extract_file, extract_files, file_status, probe
from .registry import (
    backbone_spec,
    create_backbone,
    follows_weights,
    learned_words,
    list_backbones,
    path_options,
    weights_digest,
)
from .types import Backbone

__all__ = [
    "Backbone",
    "DecodedAudio",
    "DecodedFrames",
    "Decoder",
    "Limits",
    "backbone_spec",
    "backbones",
    "class_names",
    "create_backbone",
    "extract_file",
    "extract_files",
    "file_status",
    "follows_weights",
    "learned_words",
    "list_backbones",
    "path_options",
    "probe",
    "tokenize",
    "train_word_vectors",
    "weights_digest",
]
