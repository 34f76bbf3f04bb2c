"""The audio CNN of AVLnet and Everything at Once, for fusion models that train it: the door to `_davenet.py`."""

from __future__ import annotations

from ..._audio_cnns import AUDIO_CNNS, AudioCNNSpec
from ..._davenet import DAVEnet, ResidualBlock, token_mask

__all__ = ["AUDIO_CNNS", "AudioCNNSpec", "DAVEnet", "ResidualBlock", "token_mask"]
