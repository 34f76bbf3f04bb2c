"""The sizes of the audio CNN of AVLnet and Everything at Once, as data: reading them loads no torch.

Papers and authors' code: see `_davenet.py`, which is the network. `davenet_tiny` is ours: a narrow network for small
collections and a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from ._registry import Registry


@dataclass(frozen=True, slots=True)
class AudioCNNSpec:
    """The shape of an audio CNN.

    Attributes:
        blocks: residual blocks in each stage.
        widths: channels of the stem, then of each stage.
        kernel: frames that a convolution sees.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    kernel: int = 9

    @property
    def stride(self) -> int:
        """Frames that become one token: the first convolution of every stage halves their number."""
        return int(2 ** len(self.blocks))

    @property
    def reach_frames(self) -> int:
        """How many frames before and after frame ``i * stride`` token i depends on."""
        reach, apart = 0, 1
        for num_blocks in self.blocks:
            convolutions = 2 * num_blocks - 1  # all but the first one see frames that lie twice as far apart
            reach += (self.kernel // 2) * (apart + 2 * apart * convolutions)
            apart *= 2
        return reach


AUDIO_CNNS: Registry[AudioCNNSpec] = Registry("audio CNN")
AUDIO_CNNS.add("davenet_v1", AudioCNNSpec((2, 2, 2, 2), (128, 128, 256, 512, 1024)))
AUDIO_CNNS.add("davenet_v2", AudioCNNSpec((2, 2, 1, 1, 1, 1), (128, 128, 256, 512, 1024, 2048, 4096)))
AUDIO_CNNS.add("davenet_tiny", AudioCNNSpec((1, 1, 1, 1), (32, 32, 64, 96, 128)))
