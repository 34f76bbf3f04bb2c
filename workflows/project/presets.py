"""What `frameloom init` writes: a commented configuration for each way to begin."""

from __future__ import annotations

from pathlib import Path
from string import Template

from ..._registry import nearest
from ..._vocabulary import UnknownNameError
from ...extract import backbone_spec
from ...extract.weights import READY_ADVICE, find_source, is_at_hand
from ...train import list_recipes

DEFAULT = "everything_at_once"
READY = "ready"
_TEMPLATES = Path(__file__).with_name("templates")
_PIXELS = "pixels"
_TITLES = {
    "all_in_one": "All-in-one (CVPR 2023): one transformer reads words, pictures and both, and can judge pairs.",
    "clover": "Clover (CVPR 2023): videos, texts and their pairs aligned, with parts of either masked.",
    "miles": "MILES (ECCV 2022): a video encoder and a text encoder, with masked patches predicted from its own past.",
    "t2v2t": "T2V2T: a video encoder and a text encoder, and a joint one in which frames look at the text and back.",
}
_OWN = {
    "clover": {
        "overrides": "{frames: {pictures: as_videos}}",
        "why_overrides": ";\n  # with still pictures {frames: {pictures: balanced}}, as in the paper",
        "config": "{word_masking: random}",
        "why_config": "   # semantic needs tags: en_core_web_md in the options of text, and frameloom[tags]",
    }
}
READY_WEIGHTS = {"efficientnet_lite0_classes": "imagenet", "all_minilm_l6_v2": "sentences"}


def list_presets() -> list[str]:
    """The names of the presets, sorted."""
    own = (path.stem for path in _TEMPLATES.glob("*.yaml") if path.stem != _PIXELS)
    return sorted([*own, *_of_pixels(), *_of_pixels("_tiny")])


def _of_pixels(end: str = "") -> list[str]:
    """Models of pixels: those that there are recipes of."""
    return [f"{name}{end}" for name in _TITLES if f"{name}{end}" in list_recipes()]


def preset_text(name: str) -> str:
    """The configuration of a preset, with ``$videos``, ``$captions`` and for some ``$weights`` to be filled in.

    Raises:
        UnknownNameError: no such preset; the nearest is named.
    """
    if name not in list_presets():
        raise UnknownNameError(f"no preset {name!r}: {nearest(name, list_presets())}")
    model = name.removesuffix("_tiny")
    if model not in _TITLES:
        return (_TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8")
    text = (_TEMPLATES / f"{_PIXELS}.yaml").read_text(encoding="utf-8")
    return Template(text).safe_substitute(_pixel_values(model, is_tiny=name != model))


def _pixel_values(model: str, *, is_tiny: bool) -> dict[str, str]:
    """What the template of models of pixels says of one of them."""
    end = "_tiny" if is_tiny else ""
    others = ", ".join(other for other in _of_pixels(end) if other != f"{model}{end}")
    settings = {"overrides": "{}", "why_overrides": "", "config": "{}", "why_config": ""}
    settings |= {} if is_tiny else _OWN.get(model, {})
    shared = settings | {"title": _TITLES[model], "others": others, "recipe": f"{model}{end}"}
    if is_tiny:
        return shared | {
            "why_rate": "Four frames a second, for clips of a few seconds; 80 pixels leave room for crops of 64.",
            "rate_hz": "4",
            "size": "80",
            "vocabulary": "2000",
            "why_recipe": f"A model small enough for two cores. At the paper's size, for GPUs: {model}.",
            "device": "cpu",
        }
    return shared | {
        "why_rate": "Two frames a second, as VindLU keeps its videos; 256 pixels leave room for crops of 224.",
        "rate_hz": "2",
        "size": "256",
        "vocabulary": "30522",
        "why_recipe": f"The paper's size, for GPUs; set batch_size to what they hold. On a CPU: {model}_tiny.",
        "device": "cuda            # cpu is far too slow at this size",
    }


def default_preset(*, has_captions: bool) -> tuple[str, str]:
    """The preset of a collection for which none was named, and the reason; an empty one where it is plain."""
    if has_captions:
        return DEFAULT, ""
    sources = [find_source(backbone_spec(name).weights, tag) for name, tag in READY_WEIGHTS.items()]
    if all(source is not None and is_at_hand(source) for source in sources):
        return READY, "there are no captions to train on"
    return DEFAULT, f"it needs captions, and there are none; to search without: {READY_ADVICE}, and --preset {READY}"
