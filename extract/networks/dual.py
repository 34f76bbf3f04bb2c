"""Dual encoders of transformers: what a folder says of its towers, and the rows that they give.

Families differ in the names of their parts; `get_text_features`, `get_image_features`, `get_video_features` and
`get_audio_features` are what they share. Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision" (ICML 2021), is the first of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._vocabulary import FrameloomError, InputError, Modality
from ..weights import ModelFolder
from .frozen import seeded_network

if TYPE_CHECKING:
    import torch

_MEDIA = {"image": Modality.VIDEO, "video": Modality.VIDEO, "audio": Modality.AUDIO}
_READS = {"image": "pictures", "video": "windows of frames", "audio": "sound"}
# The parts of a network that serve one kind of input alone, by which families of transformers call them.
_PARTS = {
    "text": ("text_model", "text_projection", "text_encoder", "text_proj"),
    "image": ("vision_model", "visual_projection", "vision_proj"),
    "video": ("vision_model", "visual_projection", "mit"),
    "audio": ("audio_model", "audio_projection"),
}
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
_PREPARES = {
    "AutoTokenizer": "vocabulary (tokenizer.json)",
    "AutoImageProcessor": "image processor (preprocessor_config.json)",
    "AutoFeatureExtractor": "feature extractor (preprocessor_config.json)",
}
_ITC = "BlipForImageTextRetrieval"  # of the listed families the one without `get_text_features`
_KINDS_OF_ITC = ("text", "image")


@contextmanager
def reading(what: str, folder: Path) -> Iterator[None]:
    """Read a part of a folder with transformers, quietly. Whatever it raises becomes one line."""
    from transformers.utils import logging

    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (FrameloomError, MemoryError):
        raise
    except Exception as error:  # a stranger's file may trip the readers anywhere
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error)).strip()
        raise InputError(f"the {what} in {folder} cannot be read: {reason[:300]}; fetch the folder again") from error
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()


@lru_cache(maxsize=16)
def model_config(folder: ModelFolder) -> Any:
    """The configuration of a folder's dual encoder.

    Raises:
        InputError: it is damaged, of a family that this release of transformers lacks, or no dual encoder.
    """
    import transformers

    with reading("configuration (config.json)", folder.path):
        family = json.loads((folder.path / "config.json").read_text(encoding="utf-8")).get("model_type")
        if family not in transformers.CONFIG_MAPPING:
            raise InputError(
                f"the model in {folder.path} is of the family {family!r}, which transformers {transformers.__version__}"
                " does not know: install a newer release, or give another model"
            )
        config = transformers.AutoConfig.from_pretrained(
            str(folder.path), local_files_only=True, trust_remote_code=False
        )
    kinds = kinds_of(config)
    if "text" not in kinds or len(kinds) < 2:
        raise InputError(
            f"{folder.path} holds {_architecture(config)}, which does not bring texts and pictures, video or sound to"
            " one space: give a dual encoder, such as a CLIPModel, SiglipModel or ClapModel"
        )
    return config


def _architecture(config: Any) -> str:
    return str((getattr(config, "architectures", None) or ["a model without a name"])[0])


def _class_of(config: Any) -> Any:
    """The class that the weights were saved from; None where transformers has none of that name and family."""
    import transformers

    found = getattr(transformers, _architecture(config), None)
    return found if isinstance(found, type) and getattr(found, "config_class", None) is type(config) else None


def kinds_of(config: Any) -> tuple[str, ...]:
    """What a model reads, of text, image, video and audio."""
    if _architecture(config) == _ITC:
        return _KINDS_OF_ITC
    return tuple(kind for kind in ("text", *_MEDIA) if hasattr(_class_of(config), f"get_{kind}_features"))


def kind_for(folder: ModelFolder, modality: Modality) -> str:
    """The kind of input that a backbone of a modality gives the model. Raises InputError where it reads none such."""
    config = model_config(folder)
    kinds = kinds_of(config)
    if modality is Modality.TEXT:
        return "text"
    fitting = [kind for kind in kinds if _MEDIA.get(kind) is modality]
    if not fitting:
        reads = " and ".join(_READS[kind] for kind in kinds if kind in _READS)
        others = " and ".join(f"transformers_{_MEDIA[kind]}" for kind in kinds if kind in _MEDIA)
        raise InputError(f"{_architecture(config)} in {folder.path} reads texts and {reads}: use it with {others}")
    return fitting[-1]


def width_of(folder: ModelFolder) -> int:
    """The width of a row, which all towers share."""
    config = model_config(folder)
    text = getattr(config, "text_config", None)
    if _architecture(config) == _ITC:
        width = config.image_text_hidden_size
    else:
        width = getattr(config, "projection_dim", None) or getattr(text, "projection_size", None)
    if not isinstance(width, int):
        raise InputError(f"{folder.path}: the configuration does not say how wide the rows of its towers are")
    return width


def load_part(kind: str, folder: ModelFolder) -> Any:
    """What prepares a model's inputs: ``AutoTokenizer``, ``AutoImageProcessor`` or ``AutoFeatureExtractor``.

    Raises:
        InputError: it is missing or damaged.
    """
    import transformers

    if kind == "AutoTokenizer" and not any((folder.path / name).is_file() for name in _VOCABULARIES):
        # Without one, transformers makes up an empty one for some families.
        raise InputError(
            f"no vocabulary in {folder.path}: it needs {' or '.join(_VOCABULARIES)}, as transformers saves it"
        )
    with reading(_PREPARES[kind], folder.path):
        return getattr(transformers, kind).from_pretrained(
            str(folder.path), local_files_only=True, trust_remote_code=False
        )


def load_network(folder: ModelFolder, kind: str) -> Any:
    """The model of a folder, less the towers that this kind of input does not go through.

    A weight that the folder lacks becomes NaN, so that rows which depend on one cannot pass for rows.

    Raises:
        InputError: the weights are damaged, or of another model.
    """
    import torch

    model = _class_of(model_config(folder))
    with reading("weights", folder.path):
        network, found = seeded_network(
            lambda: model.from_pretrained(
                str(folder.path),
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            ),
            seed=0,
        )
    own = dict(network.named_parameters())
    for name in found["missing_keys"]:
        if name in own:
            own[name].data.fill_(torch.nan)
    for part in {part for parts in _PARTS.values() for part in parts} - {*_PARTS[kind]}:
        if hasattr(network, part):
            delattr(network, part)
    return network


def rows_of(network: Any, kind: str, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Inputs as transformers prepares them to rows (B, D), as the tower gives them: not always of unit length."""
    if type(network).__name__ == _ITC:
        if kind == "text":
            return network.text_proj(network.text_encoder(**inputs).last_hidden_state[:, 0])  # type: ignore[no-any-return]
        return network.vision_proj(network.vision_model(**inputs).last_hidden_state[:, 0])  # type: ignore[no-any-return]
    found = getattr(network, f"get_{kind}_features")(**inputs)
    return found if hasattr(found, "dtype") else found.pooler_output  # type: ignore[no-any-return]
