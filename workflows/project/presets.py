"""What `frameloom init` writes: a commented configuration for each way to begin."""

from __future__ import annotations

from pathlib import Path

from ..._registry import nearest
from ..._vocabulary import UnknownNameError
from ...extract import backbone_spec
from ...extract.weights import READY_ADVICE, find_source, is_at_hand

DEFAULT = "everything_at_once"
READY = "ready"
_TEMPLATES = Path(__file__).with_name("templates")
READY_WEIGHTS = {"efficientnet_lite0_classes": "imagenet", "all_minilm_l6_v2": "sentences"}


def list_presets() -> list[str]:
    """The names of the presets, sorted."""
    return sorted(path.stem for path in _TEMPLATES.glob("*.yaml"))


def preset_text(name: str) -> str:
    """The configuration of a preset, with ``$videos``, ``$captions`` and for some ``$weights`` to be filled in.

    Raises:
        UnknownNameError: no such preset; the nearest is named.
    """
    if name not in list_presets():
        raise UnknownNameError(f"no preset {name!r}: {nearest(name, list_presets())}")
    return (_TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8")


def default_preset(*, has_captions: bool) -> tuple[str, str]:
    """The preset of a collection for which none was named, and the reason; an empty one where it is plain."""
    if has_captions:
        return DEFAULT, ""
    sources = [find_source(backbone_spec(name).weights, tag) for name, tag in READY_WEIGHTS.items()]
    if all(source is not None and is_at_hand(source) for source in sources):
        return READY, "there are no captions to train on"
    return DEFAULT, f"it needs captions, and there are none; to search without: {READY_ADVICE}, and --preset {READY}"
