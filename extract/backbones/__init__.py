"""The frozen backbones: each file registers its own. Those that find shots have a folder of their own."""

from ..shots import detectors
from ..speech import whisper
from . import (
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
    transformers_models,
    waveform,
    words,
)
from .timm_images import class_names
from .words import check_tags

__all__ = [
    "bert",
    "check_tags",
    "class_names",
    "clip",
    "davenet",
    "detectors",
    "logmel",
    "pixels",
    "resnet",
    "resnet3d",
    "s3d",
    "s3d_text",
    "swin3d",
    "timm_images",
    "transformers_models",
    "waveform",
    "whisper",
    "words",
]
