"""Embedding a batch of clips with a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .._vocabulary import InputError

if TYPE_CHECKING:
    from ..fuse import FusionModel, Tokens


def embed_batch(
    model: FusionModel, batch: Mapping[str, Tokens], combinations: Sequence[str] = ("video", "audio", "video+audio")
) -> dict[str, NDArray[np.float32]]:
    """Unit vectors (B, E) of a batch, for each combination such as "text" or "video+audio".

    A combination of which the batch lacks a modality altogether is left out. A single clip that lacks one is
    embedded with the model's stand-in for it; which clips to keep is for the caller to say, by the masks.

    The model is used as it is: put it into evaluation mode first (`load_checkpoint` does).

    Raises:
        InputError: a combination of modalities that the model does not take.
    """
    import torch

    from ..fuse import Tokens

    device = next(model.parameters()).device
    moved = {name: Tokens(tokens.values.to(device), tokens.mask.to(device)) for name, tokens in batch.items()}
    vectors = {}
    with torch.inference_mode():
        for combination in combinations:
            names = combination.split("+")
            if not set(names) <= set(model.modalities) or len(set(names)) < len(names):
                raise InputError(
                    f"combination {combination!r}: join different ones of {', '.join(model.modalities)} by +"
                )
            if set(names) <= moved.keys():
                encoded = model.encode(**{name: moved[name] for name in names})
                vectors[combination] = encoded.float().cpu().numpy()
    return vectors
