"""The audio CNN of AVLnet and Everything at Once, for models that train it: the door to the root's `_davenet.py`."""

from __future__ import annotations

from collections.abc import Sequence

from ..._audio_cnns import AUDIO_CNNS, AudioCNNSpec
from ..._davenet import DAVEnet, ResidualBlock, token_mask
from ..._vocabulary import ConfigError

__all__ = ["AUDIO_CNNS", "AudioCNNSpec", "DAVEnet", "ResidualBlock", "audio_cnn_spec", "token_mask"]


def audio_cnn_spec(name: str, *, blocks: Sequence[int] = (), widths: Sequence[int] = ()) -> AudioCNNSpec:
    """The shape of a registered audio CNN, with other blocks and widths where some are given.

    Raises:
        UnknownNameError: no audio CNN has this name.
        ConfigError: widths that do not fit the blocks, or either of them below 1.
    """
    registered = AUDIO_CNNS[name]
    blocks, widths = tuple(blocks or registered.blocks), tuple(widths or registered.widths)
    if len(widths) != len(blocks) + 1:
        raise ConfigError(
            f"audio_cnn_widths {list(widths)} needs one width for the stem and one for each of {len(blocks)} stages"
        )
    if min(*blocks, *widths) < 1:
        raise ConfigError(
            f"audio_cnn_blocks {list(blocks)} and audio_cnn_widths {list(widths)} must be 1 or more in every stage"
        )
    return AudioCNNSpec(blocks, widths, registered.kernel)
