"""What models of pixels share: options of their input, the check of a batch, and the embedding of what is given.

Legend: B batch, T frames, L tokens of a text, E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from .._settings import Listed
from .base import Embeddings, FusionModel, ModelConfig, Tokens, given_pixels
from .objectives import unit

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PixelConfig(ModelConfig):
    """The options that models of pixels have."""

    image_size: PositiveInt = 224
    """Pixels of a side of a picture."""
    patch_size: PositiveInt = 16
    """Pixels of a side of a patch; the picture's side is a multiple of it."""
    num_frames: PositiveInt = 4
    """Frames that the temporal embedding has room for; a clip may have fewer."""
    vocab_size: PositiveInt = 30_522
    """Ids of the text's tokenizer (30522: uncased WordPiece of BERT)."""
    max_words: PositiveInt = 77
    """Tokens of a text, [CLS] and [SEP] among them. A longer one is cut and keeps [SEP]."""
    image_mean: Listed[float] = IMAGENET_MEAN
    """Of red, green and blue from 0 to 1, taken off bytes."""
    image_std: Listed[PositiveFloat] = IMAGENET_STD
    """What they are divided by."""
    seed: NonNegativeInt = 0
    """Of the draws of a training step: masks, negatives."""

    def all_modalities(self) -> tuple[str, ...]:
        return PixelModel.modalities


class PixelModel(FusionModel):
    """Embeds texts of token ids and clips of pictures, each on its own."""

    config: Any  # a PixelConfig
    modalities: tuple[str, ...] = ("text", "video")
    takes_pixels: ClassVar[bool] = True

    def embed(self, modality: str, tokens: Tokens) -> Float[Tensor, "B E"]:
        """The embedding that the objective compares, of one modality; of a clip, its pictures normalised."""
        raise NotImplementedError

    def given(self, batch: Mapping[str, Tokens | None]) -> dict[str, Tokens]:
        """What a batch holds, checked, its pictures normalised. Raises InputError as `given_pixels` does."""
        c = self.config
        given = given_pixels(batch, size=c.image_size, vocabulary=c.vocab_size, max_words=c.max_words)
        if "video" in given:
            values = normalised_pixels(given["video"].values, mean=c.image_mean, std=c.image_std)
            given["video"] = given["video"]._replace(values=values)
        return given

    def embeddings(self, batch: Mapping[str, Tokens | None]) -> Embeddings:
        """The embedding of each modality as it is compared in training, not of unit length.

        Raises:
            InputError: the batch has shapes or modalities that this model does not take.
        """
        given = self.given(batch)
        return Embeddings({name: self.embed(name, tokens) for name, tokens in given.items()}, nonempty_of(given))

    def encode(
        self,
        *,
        text: Tokens | None = None,
        video: Tokens | None = None,
        audio: Tokens | None = None,
        **more: Tokens | None,
    ) -> Float[Tensor, "B E"]:
        """Unit vectors of one modality; of both, the unit mean of their unit vectors.

        A sample that lacks one of two given is the other alone; one that lacks all is what the model makes of nothing.

        Raises:
            InputError: no modality at all, one that this model does not take, or wrong shapes.
        """
        vectors, nonempty = self.embeddings({"text": text, "video": video, "audio": audio, **more})
        has = torch.stack([nonempty[name] for name in vectors])
        has = has | ~has.any(dim=0)
        units = torch.stack([unit(vector) for vector in vectors.values()])
        return unit(torch.where(has[..., None], units, 0.0).sum(dim=0))


def normalised_pixels(
    pictures: Num[Tensor, "B T 3 H W"], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "B T 3 H W"]:
    """Bytes as (x / 255 - mean) / std in float32; floating-point numbers as they are."""
    if pictures.is_floating_point():
        return pictures
    shift, scale = (torch.tensor(each, device=pictures.device)[:, None, None] for each in (mean, std))
    return (pictures / 255.0 - shift) / scale


def nonempty_of(given: Mapping[str, Tokens]) -> dict[str, Tensor]:
    """(B,) bool for each modality: whether a sample has any frame or token of it."""
    return {name: tokens.mask.bool().any(dim=1) for name, tokens in given.items()}
