"""Training recipes: data that differ only where the papers differ.

Source of the published ones: Everything at Once (arXiv 2112.04446), section 4.1, and the authors' configurations
(ninatu/everything_at_once@4daeab6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from ..._registry import Registry, nearest
from ..._vocabulary import ConfigError
from ..data import AudioShift


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained.

    Attributes:
        name: the registered name.
        model: registered model that it trains.
        model_options: options of that model which belong to the recipe.
        narration: `clips_per_video`, `min_seconds` and `audio_shift` of `NarratedDataset`; empty for recipes of single
            clips.
        max_video_tokens: feature rows of a clip that are kept.
        max_audio_frames: spectrogram frames (10 ms) of a clip that are kept.
        max_words: words of a caption that are kept.
        epochs: passes over the training clips.
        min_steps: fewest steps in all; on a small collection, epochs are added until there are so many.
        batch_size: clips in a batch, over all processes; with `narration` videos.
        optimizer: "adam", or "adamw", whose weight decay does not pass through the gradient.
        learning_rate: at the beginning, after the warm-up.
        weight_decay: on every weight that is trained.
        schedule: "constant"; "exponential": times `decay` after every epoch; "cosine": down to zero at the end.
        decay: see `schedule`.
        warmup_steps: steps over which the learning rate rises from zero.
        clip_gradient: largest norm of the gradient; 0 for no limit.
        freeze_batch_norm: train in evaluation mode, batch statistics as they are (the authors' fine-tuning).
        sync_batch_norm: on several processes, take batch statistics over all of them, as one process would. The
            authors' data parallelism takes them over each GPU's share. No difference on one process.
        gradient_checkpointing: keep only what enters each block, and compute the block again in backward: less memory,
            about a third more time, the same numbers.
        precision: "no" is float32; "fp16" and "bf16" are mixed precision.
        seed: of the order of clips, the choice of captions and any other draw.
        checkpoint_steps: steps between saved states within an epoch; 0 saves after epochs only.
    """

    name: str
    model: str = "everything_at_once"
    model_options: Mapping[str, Any] = field(default_factory=dict)
    narration: Mapping[str, Any] = field(default_factory=dict)
    max_video_tokens: int = 12
    max_audio_frames: int = 768
    max_words: int = 20
    epochs: int = 15
    min_steps: int = 0
    batch_size: int = 2240
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    schedule: Literal["constant", "exponential", "cosine"] = "exponential"
    decay: float = 0.9
    warmup_steps: int = 0
    clip_gradient: float = 0.0
    freeze_batch_norm: bool = False
    sync_batch_norm: bool = True
    gradient_checkpointing: bool = False
    precision: Literal["no", "fp16", "bf16"] = "no"
    seed: int = 0
    checkpoint_steps: int = 200

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "max_video_tokens", "max_audio_frames", "max_words"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"recipe {self.name}: {name} is {getattr(self, name)}; it must be above 0")
        for name in ("min_steps", "weight_decay", "warmup_steps", "clip_gradient", "checkpoint_steps", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"recipe {self.name}: {name} is {getattr(self, name)}; it must not be negative")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"recipe {self.name}: {name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}"
                )
        _check_narration(self.name, self.narration)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, JSON-ready."""
        return asdict(self)


_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": ("adam", "adamw"),
    "schedule": ("constant", "exponential", "cosine"),
    "precision": ("no", "fp16", "bf16"),
}


def _check_narration(recipe: str, narration: Mapping[str, Any]) -> None:
    """Refuse before anything is extracted what `NarratedDataset` would refuse after it."""
    for key, value in narration.items():
        if key == "clips_per_video":
            allowed, what = type(value) is int and value > 0, "a whole number above 0"
        elif key == "min_seconds":
            allowed, what = type(value) in (int, float) and 0 < value < math.inf, "a number of seconds above 0"
        elif key == "audio_shift":
            allowed, what = value in get_args(AudioShift), f"one of {', '.join(get_args(AudioShift))}"
        else:
            known = ["clips_per_video", "min_seconds", "audio_shift"]
            raise ConfigError(f"recipe {recipe}: narration has no option {key!r}: {nearest(str(key), known)}")
        if not allowed:
            raise ConfigError(f"recipe {recipe}: {key} of narration is {value!r}; it must be {what}")


_EQUAL_WEIGHTS: dict[str, Any] = {f"lambda_{name}": 1.0 for name in ("tv", "ta", "va", "t_va", "v_ta", "a_tv")}
_PADDING = {"audio_padding": "published"}
_PRETRAINING: dict[str, Any] = {**_PADDING, "pad_audio_to": 768}
_NARRATION: dict[str, Any] = {"clips_per_video": 10, "min_seconds": 8.0, "audio_shift": "later"}


def _pretraining(name: str, *, audio_shift: str = "later", **model_options: Any) -> Recipe:
    """Section 4.1 on narrated videos: 224 videos x 10 clips. The differences are those of section 4.4."""
    return Recipe(
        name=name,
        model_options={**_PRETRAINING, **model_options},
        narration={**_NARRATION, "audio_shift": audio_shift},
        batch_size=224,
        precision="fp16",
    )


# Systems that pool a clip's rows read all of them; longer clips than this many rows are hardly ever drawn.
_WHOLE_CLIP = 64
_POOLED_PADDING: dict[str, Any] = {"padding": "published", "pad_words_to": 20}
_AUDIO_MEAN = {**_POOLED_PADDING, "audio_mean": "all_in_training"}


def _howto100m(name: str, *, clips_per_video: int = 1, **differences: Any) -> Recipe:
    """Max-margin ranking of HowTo100M (arXiv 1906.03327)."""
    return Recipe(
        name=name,
        model="howto100m",
        model_options={**_POOLED_PADDING, "clips_per_video": clips_per_video},
        max_video_tokens=_WHOLE_CLIP,
        learning_rate=1e-4,
        **differences,
    )


def _avlnet(name: str, **differences: Any) -> Recipe:
    """AVLnet-Text-Tri (arXiv 2006.09199)."""
    return Recipe(
        name=name,
        model="avlnet",
        model_options={**_AUDIO_MEAN, "pad_audio_to": 800},
        max_video_tokens=_WHOLE_CLIP,
        max_audio_frames=800,
        learning_rate=2.5e-4,
        precision="fp16",
        **differences,
    )


def _mcn(name: str, **differences: Any) -> Recipe:
    """The Multimodal Clustering Network (arXiv 2104.12671)."""
    return Recipe(
        name=name,
        model="mcn",
        model_options={**_AUDIO_MEAN, "pad_audio_to": 1000},
        max_video_tokens=_WHOLE_CLIP,
        max_audio_frames=1000,
        epochs=30,
        learning_rate=1e-4,
        schedule="cosine",
        warmup_steps=5000,
        precision="fp16",
        **differences,
    )


RECIPES: Registry[Recipe] = Registry("recipe")
for _recipe in (
    # Section 4.1: 224 videos x 10 clips, mixed precision; here of single clips, below of narrated videos.
    Recipe(name="everything_at_once", model_options=_PRETRAINING, precision="fp16"),
    _pretraining("everything_at_once_howto100m"),
    # Text and sound of the same seconds, and every weight of the objective 1.
    _pretraining("everything_at_once_howto100m_aligned", audio_shift="none", **_EQUAL_WEIGHTS),
    _pretraining("everything_at_once_howto100m_equal_weights", **_EQUAL_WEIGHTS),
    _pretraining("everything_at_once_howto100m_tv", modalities=["text", "video"]),
    # One row a second of one stronger backbone in place of two; CLIP's text goes with its pictures.
    _pretraining("everything_at_once_howto100m_s3d", video_dim=1024),
    _pretraining("everything_at_once_howto100m_clip", video_dim=512, text_dim=512),
    # The fine-tunings of table 2; every weight of the objective is 1.
    Recipe(
        name="everything_at_once_msrvtt",
        model_options={**_EQUAL_WEIGHTS, **_PADDING, "pad_audio_to": 3072},
        max_video_tokens=48,
        max_audio_frames=3072,
        epochs=25,
        batch_size=128,
        freeze_batch_norm=True,
        precision="fp16",
    ),
    Recipe(
        name="everything_at_once_msrvtt_clip",
        model_options={**_EQUAL_WEIGHTS, **_PADDING, "pad_audio_to": 3072, "video_dim": 512, "text_dim": 512},
        max_video_tokens=48,
        max_audio_frames=3072,
        epochs=25,
        batch_size=64,
        freeze_batch_norm=True,
        precision="fp16",
    ),
    Recipe(
        name="everything_at_once_youcook2",
        model_options={**_EQUAL_WEIGHTS, **_PADDING, "pad_audio_to": 4608},
        max_video_tokens=72,
        max_audio_frames=4608,
        epochs=5,
        batch_size=256,
        learning_rate=1e-5,
        freeze_batch_norm=True,
        precision="fp16",
    ),
    # The systems compared with, on single clips and, as their authors' commands train them, on narrated videos:
    # 32 videos x 64 clips, 256 x 32, 128 x 32.
    _howto100m("howto100m", batch_size=2048),
    _howto100m(
        "howto100m_narrated",
        batch_size=32,
        clips_per_video=64,
        narration={"clips_per_video": 64, "min_seconds": 5.0, "audio_shift": "none"},
    ),
    _avlnet("avlnet", batch_size=8192),
    _avlnet(
        "avlnet_narrated",
        batch_size=256,
        narration={"clips_per_video": 32, "min_seconds": 8.0, "audio_shift": "none"},
    ),
    _mcn("mcn", batch_size=4096),
    _mcn(
        "mcn_narrated",
        batch_size=128,
        narration={"clips_per_video": 32, "min_seconds": 10.0, "audio_shift": "none"},
    ),
    # Its authors train the backbone as well, from pixels.
    Recipe(
        name="mil_nce",
        model="mil_nce",
        model_options=_POOLED_PADDING,
        max_video_tokens=_WHOLE_CLIP,
        epochs=150,
        batch_size=256,
        learning_rate=1e-3,
        schedule="cosine",
        warmup_steps=5000,
    ),
    # Ours, for hundreds of short clips and a CPU.
    Recipe(
        name="everything_at_once_tiny",
        model="everything_at_once_tiny",
        epochs=20,
        min_steps=120,
        batch_size=50,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup_steps=20,
        clip_gradient=1.0,
        max_video_tokens=32,
        max_audio_frames=1600,
    ),
):
    RECIPES.add(_recipe.name, _recipe)


def list_recipes(pattern: str = "*") -> list[str]:
    """The names of the recipes that match a shell pattern, sorted."""
    return RECIPES.names(pattern)


def get_recipe(name: str, /, **overrides: Any) -> Recipe:
    """A recipe, with some of its fields replaced.

    Raises:
        UnknownNameError: no such recipe; the nearest names are listed.
        ConfigError: an unknown field (the nearest is named), or a value that cannot be.
    """
    recipe = RECIPES[name]
    known = {each.name: getattr(recipe, each.name) for each in fields(Recipe) if each.name != "name"}
    for key, value in overrides.items():
        if key not in known:
            raise ConfigError(f"a recipe has no field {key!r}: {nearest(key, list(known))}")
        _check_type(key, value, known[key])
    return replace(recipe, **overrides)


def _check_type(key: str, value: Any, like: Any) -> None:
    wanted: Any = Mapping if isinstance(like, Mapping) else (int, float) if isinstance(like, float) else type(like)
    if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(like, bool)):
        kind = "mapping" if wanted is Mapping else type(like).__name__
        raise ConfigError(f"the recipe's {key} is {value!r}; it must be of type {kind}")
