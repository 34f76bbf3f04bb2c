"""The frozen backbones: each file registers its own."""

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
    waveform,
    word2vec,
)

__all__ = [
    "bert",
    "clip",
    "davenet",
    "logmel",
    "pixels",
    "resnet",
    "resnet3d",
    "s3d",
    "s3d_text",
    "swin3d",
    "timm_images",
    "waveform",
    "word2vec",
]
