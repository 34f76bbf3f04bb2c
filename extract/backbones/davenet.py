"""The audio CNN of AVLnet and Everything at Once as a frozen extractor: one row for every 16 or 64 spectrogram frames.

Papers: Rouditchenko et al., "AVLnet" (Interspeech 2021), version 1: 1024 channels, 6.25 rows a second; Shvetsova et
al., "Everything at Once" (CVPR 2022), version 2: 4096 channels, 1.5625 rows a second. Code:
ninatu/everything_at_once@4daeab6, model/utils/davenet.py, and roudimit/AVLnet@be70e95. The network is `_davenet.py`;
its input is the spectrogram of `logmel.py` with that file's protocol, in half precision as the authors store it.

Deviations, each on purpose:
- The authors run the network on clips of a fixed number of frames, padded with 0 dB. Here it sees the whole track once:
  a row near the border of a clip knows what lies beyond it, and nothing is padded.
- A row's time is that of the frames which the authors' audio mask ties to it: S of them, beginning with the one that it
  is centred on. Like any deep convolution it also depends on its surroundings: 4.2 s on either side in version 1, 8 s
  in version 2.
- Both papers train the network together with the rest; no weights of it alone are published. `from_official` takes it
  out of a whole checkpoint of AVLnet (``DAVEnet.``) or Everything at Once (``davenet.``). Random weights are drawn as
  the authors do it; values then stay below a few hundred, far inside float16.

A long track goes through the network in blocks that overlap by all that a row depends on, so that the rows at a
border are those of the whole track and memory beyond spectrogram and result is that of one block.

Legend: T spectrogram frames, F mel bands, S stride, N = ceil(T / S) rows, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..._audio_cnns import AUDIO_CNNS, AudioCNNSpec
from ..._vocabulary import FeatureArray, FeatureSpec, InputError, Modality, Status
from ..networks import FrozenNetwork, checked_rows
from ..registry import backbone_spec, register
from ..types import DecodedAudio, DecodedFrames
from .logmel import LogMel

if TYPE_CHECKING:
    import torch

BLOCK_FRAMES = 16_384
"""Spectrogram frames whose rows one forward pass gives: a multiple of every stride."""
_SPECTROGRAM = "logmel_avlnet"
_PREFIXES = ("davenet.", "DAVEnet.")
_PAPERS = {
    "davenet_v1": "Rouditchenko et al., AVLnet, Interspeech 2021",
    "davenet_v2": "Shvetsova et al., Everything at Once, CVPR 2022",
    "test_davenet": "Rouditchenko et al., AVLnet, Interspeech 2021",
}
_SHAPES = {
    "davenet_v1": AUDIO_CNNS["davenet_v1"],
    "davenet_v2": AUDIO_CNNS["davenet_v2"],
    "test_davenet": AudioCNNSpec((2, 1), (8, 8, 16)),
}


class FrozenDAVEnet(FrozenNetwork):
    """A sound track to (N, D) rows of the audio CNN's last map.

    Official weights are those of the network alone, or of a whole AVLnet or Everything at Once.

    Attributes:
        shape: its sizes.
        block_frames: frames whose rows one forward pass gives, a multiple of the stride. It does not change the rows.
    """

    def __init__(self, spec: FeatureSpec, network: torch.nn.Module, *, device: str, weights_digest: str) -> None:
        super().__init__(spec, network, device=device, weights_digest=weights_digest)
        self.shape = _SHAPES[spec.name]
        self.block_frames = BLOCK_FRAMES
        self._spectrogram = LogMel(backbone_spec(_SPECTROGRAM), weights_digest="none")

    @classmethod
    def random_network(cls, spec: FeatureSpec) -> Any:
        """The network, with weights drawn as its authors draw them."""
        from ..._davenet import DAVEnet

        shape = _SHAPES[spec.name]
        return DAVEnet(blocks=shape.blocks, widths=shape.widths, kernel=shape.kernel)

    def official_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """The audio CNN's part of a checkpoint, by its own key names; everything where there is no such part."""
        named = {key.removeprefix("module."): value for key, value in state_dict.items()}
        for prefix in _PREFIXES:
            part = {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}
            if part:
                return part
        return named

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """One row for every S spectrogram frames of a whole track, with the seconds that those frames look at."""
        if not isinstance(item, DecodedAudio):
            raise InputError(f"the backbone {self.spec.name!r} reads sound, not {type(item).__name__}")
        mel = self._spectrogram.encode(item)
        if mel.status is not Status.OK:
            return FeatureArray.empty(self.spec, mel.status, mel.message)
        starts = np.arange(0, len(mel.times), self.shape.stride)
        lasts = np.minimum(starts + self.shape.stride, len(mel.times)) - 1
        times = np.stack([mel.times[starts, 0], mel.times[lasts, 1]], axis=1)
        feature = checked_rows(self.spec, self.rows(mel.values), times)
        return FeatureArray(feature.values, feature.times, feature.status, feature.message or mel.message)

    def rows(self, mel: NDArray[Any]) -> NDArray[Any]:
        """A spectrogram (T, F) of any length to stored rows (N, D)."""
        stride, num_frames = self.shape.stride, len(mel)
        margin = -(-self.shape.reach_frames // stride) * stride
        values: NDArray[Any] = np.empty((-(-num_frames // stride), self.spec.dim), self.spec.dtype)
        for first in range(0, num_frames, self.block_frames):
            begin = max(0, first - margin)
            tokens = self.forward(mel[begin : first + self.block_frames + margin])
            kept = values[first // stride : (first + self.block_frames) // stride]
            with np.errstate(over="ignore"):
                kept[:] = tokens[(first - begin) // stride :][: len(kept)]
        return values

    def forward(self, mel: NDArray[Any]) -> NDArray[np.float32]:
        """A spectrogram (T, F) to tokens (N, D), float32, in one pass."""
        import torch

        inputs = torch.from_numpy(mel.astype(np.float32)).to(self._device)
        with self.computing():
            tokens: NDArray[np.float32] = self.network(inputs[None])[0].float().cpu().numpy()
        return tokens


def describe(name: str, shape: AudioCNNSpec) -> FeatureSpec:
    """Its specification is that of its spectrogram, and its stride."""
    spectrogram = backbone_spec(_SPECTROGRAM)
    hop_samples = int(spectrogram.sampling["hop_samples"]) * shape.stride
    return FeatureSpec(
        name=name,
        modality=Modality.AUDIO,
        dim=shape.widths[-1],
        rate_hz=spectrogram.sampling["sample_rate_hz"] / hop_samples,
        sampling={**spectrogram.sampling, "hop_samples": hop_samples},
        preprocessing={
            **spectrogram.preprocessing,
            "spectrogram": _SPECTROGRAM,
            "spectrogram_revision": spectrogram.revision,
            "spectrogram_dtype": spectrogram.dtype,
            "pooling": "none",
            "l2_normalised": False,
        },
        paper=_PAPERS[name],
    )


register(_SHAPES, describe, FrozenDAVEnet.build)
