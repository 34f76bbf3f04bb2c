"""Media in, arrays out: probing, decoding at exact times, and the frozen backbones.

Importing this package loads NumPy and nothing heavier; torch, PyAV and gensim are loaded by the calls that need them.
"""

from .backbones import (
    bert,
    clip,
    davenet,
    logmel,
    pixels,
    resnet,
    resnet3d,
    s3d,
    s3d_text,
    swin3d,
    timm_images,
    waveform,
    word2vec,
)
from .decode import DecodeEnd, Decoder, FramesChunk, SamplesChunk
from .networks import tokenize, train_word_vectors
from .pipeline import extract_file, extract_files, file_status, probe
from .registry import (
    Backbone,
    backbone_spec,
    create_backbone,
    list_backbones,
    needs_weights,
    path_options,
    weights_digest,
)
from .types import (
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
from .windows import Stopwatch, VisualBackbone, sampling

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
    "Stopwatch",
    "VideoInfo",
    "VisualBackbone",
    "backbone_spec",
    "bert",
    "clip",
    "create_backbone",
    "davenet",
    "extract_file",
    "extract_files",
    "file_status",
    "list_backbones",
    "logmel",
    "needs_weights",
    "path_options",
    "pixels",
    "probe",
    "resnet",
    "resnet3d",
    "s3d",
    "s3d_text",
    "sampling",
    "swin3d",
    "timm_images",
    "tokenize",
    "train_word_vectors",
    "waveform",
    "weights_digest",
    "word2vec",
]
