"""Embedding a batch of clips with a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ...fuse import FusionModel, Tokens


def embed_batch(
    model: FusionModel, batch: Mapping[str, Tokens], combinations: Sequence[str] = ("video", "audio", "video+audio")
) -> dict[str, NDArray[np.float32]]:
    """Unit vectors (B, E) of a batch, for each combination such as "text" or "video+audio".

    A combination of which the batch lacks a modality altogether is left out. A single clip that lacks one is
    embedded with the model's placeholder for it; the caller chooses by the masks which clips to keep.

    The model is used as it is: put it into evaluation mode first (`load_checkpoint` does).

    Args:
        model: any fusion model.
        batch: its modalities, or some of them.
        combinations: of the model's modalities, in any order; results are named in the model's ("audio+video" gives
            "video+audio").

    Raises:
        InputError: a combination of modalities that the model does not take, or features of another width.
        NonFiniteError: features that are not finite.
    """
    import torch

    from ...fuse import Tokens, combination_name

    device = next((weights.device for weights in model.parameters()), torch.device("cpu"))  # some have no weights
    moved = {name: Tokens(tokens.values.to(device), tokens.mask.to(device)) for name, tokens in batch.items()}
    vectors = {}
    with torch.inference_mode():
        for combination in dict.fromkeys(combination_name(each, order=model.modalities) for each in combinations):
            names = combination.split("+")
            if set(names) <= moved.keys():
                encoded = model.encode(**{name: moved[name] for name in names})
                vectors[combination] = encoded.float().cpu().numpy()
    return vectors
