"""Media in, arrays out: probing, decoding at exact times, and the frozen backbones.

Importing this package loads NumPy and nothing heavier; torch, PyAV and gensim are loaded by the calls that need them.
"""

from . import logmel, resnet, word2vec
from ._decoder import DecodeEnd, Decoder, FramesChunk, SamplesChunk
from ._extract import extract_file, file_status, probe
from ._media import (
    DEFAULT_LIMITS,
    AudioInfo,
    AudioWanted,
    DecodedAudio,
    DecodedFrames,
    FramesWanted,
    Limits,
    MediaInfo,
    VideoInfo,
)
from ._registry import Backbone, backbone_spec, create_backbone, list_backbones, weights_digest
from ._word_vectors import tokenize, train_word_vectors

__all__ = [
    "DEFAULT_LIMITS",
    "AudioInfo",
    "AudioWanted",
    "Backbone",
    "DecodeEnd",
    "DecodedAudio",
    "DecodedFrames",
    "Decoder",
    "FramesChunk",
    "FramesWanted",
    "Limits",
    "MediaInfo",
    "SamplesChunk",
    "VideoInfo",
    "backbone_spec",
    "create_backbone",
    "extract_file",
    "file_status",
    "list_backbones",
    "logmel",
    "probe",
    "resnet",
    "tokenize",
    "train_word_vectors",
    "weights_digest",
    "word2vec",
]
