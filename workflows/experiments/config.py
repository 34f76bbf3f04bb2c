"""The configuration of projects over clips of the laboratory: of the demo and of ablations."""

from __future__ import annotations

from pathlib import Path

from ..._files import publish_text
from ..project import CONFIG_NAME

_CONFIG = """\
# Change something, run `frameloom sync`, and only what that touches is done again. With other features (pretrained
# `weights:`, another backbone) the demo and `frameloom ablate` measure on those.
collection:
  videos: {videos}
  captions: {captions}
  clip_seconds: null             # one clip for each of these short videos

features:
  video:
    backbone: resnet18
    weights: null                # a path to ImageNet weights, if you have them; null: random weights from the seed
    seed: {seed}
    options: {{short_side: 96}}
  audio:
    backbone: logmel_avlnet
  text:
    backbone: word2vec
    weights: null                # null: word vectors are trained from the captions of the training clips
    seed: {seed}

training:
  recipe: everything_at_once_tiny
  overrides: {{seed: {seed}}}

run:
  batch_videos: 32
"""


def write_demo_config(folder: Path, *, seed: int, videos: str = "videos", captions: str = "captions.jsonl") -> None:
    """Write the configuration of a project over a collection that the laboratory made."""
    publish_text(folder / CONFIG_NAME, _CONFIG.format(seed=seed, videos=videos, captions=captions))
