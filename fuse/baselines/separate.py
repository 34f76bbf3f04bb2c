"""Models whose modalities meet nowhere before the joint space: one vector for each, compared by dot product.

Legend: B batch, N rows, D width of a row, E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from ..._vocabulary import ConfigError
from ..base import MODALITIES, Embeddings, FusionModel, ModelConfig, Tokens, given_modalities
from ..objectives import unit
from .pooling import Padding


class PooledConfig(ModelConfig):
    """The options that all of these models have."""

    video_dim: PositiveInt = 4096
    """Width of a video feature row (4096: ResNet-152 joined with ResNeXt-101)."""
    text_dim: PositiveInt = 300
    """Width of a word vector."""
    projection_dim: PositiveInt = 6144
    """Width E of an embedding (6144 in the released weights)."""
    padding: Padding = "masked"
    """Whether padded places take part in pooling, and in the audio CNN where there is one ("published"), or not."""
    pad_words_to: NonNegativeInt = 0
    """Words to which shorter captions are padded first (20 as published). Matters only where padding takes part."""

    def all_modalities(self) -> tuple[str, ...]:
        return SeparateModel.modalities


class SeparateModel(FusionModel):
    """Embeds each modality on its own: text and video, or a subclass's, which says how rows become one vector."""

    config: Any  # a ModelConfig with text_dim and video_dim
    modalities: tuple[str, ...] = ("text", "video")

    def row_dims(self) -> dict[str, int]:
        """The width of a row of each modality."""
        return {"text": self.config.text_dim, "video": self.config.video_dim}

    def embed(self, modality: str, tokens: Tokens) -> Float[Tensor, "B E"]:
        """The embedding that the objective compares, of one modality."""
        raise NotImplementedError

    def given(self, batch: Mapping[str, Tokens | None]) -> dict[str, Tokens]:
        """The modalities that a batch holds, checked. Raises InputError as `given_modalities` does."""
        present = {name: tokens for name, tokens in batch.items() if tokens is not None}
        return given_modalities(present, dims=self.row_dims(), allowed=self.modalities)

    def embeddings(self, batch: Mapping[str, Tokens | None]) -> Embeddings:
        """The embedding of each modality as it is compared in training: in most of these models, not of unit length.

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
        """The sum of the embeddings of those given, as AVLnet adds audio and video, as unit vectors.

        A sample that lacks some of them is the sum of the others; one that lacks all is what the model makes of zeros.

        Raises:
            InputError: no modality at all, one that this model does not take, or wrong shapes.
        """
        given = self.given({"text": text, "video": video, "audio": audio, **more})
        has = torch.stack(list(nonempty_of(given).values()))
        has = has | ~has.any(dim=0)
        vectors = torch.stack([self.embed(name, tokens) for name, tokens in given.items()])
        return unit(torch.where(has[..., None], vectors, 0.0).sum(dim=0))

    def to_official(self) -> dict[str, Any]:
        """The weights as the authors' code reads them, whose names are the model's own."""
        return dict(self.state_dict())


def nonempty_of(given: Mapping[str, Tokens]) -> dict[str, Tensor]:
    """(B,) bool for each modality: whether a sample has any row of it."""
    return {name: tokens.mask.bool().any(dim=1) for name, tokens in given.items()}


def own_weights(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the prefix of data parallelism."""
    return {str(key).removeprefix("module."): value for key, value in state_dict.items()}


def in_order(modalities: Sequence[str]) -> tuple[str, ...]:
    """Modalities of a configuration in the order in which they are joined.

    Raises:
        ConfigError: unknown ones, one that is there twice, or fewer than two.
    """
    if not set(modalities) <= set(MODALITIES) or len(set(modalities)) < max(len(modalities), 2):
        raise ConfigError(
            f"modalities {list(modalities)} must be two or three different ones of {', '.join(MODALITIES)}"
        )
    return tuple(name for name in MODALITIES if name in modalities)


def check_video_parts(parts: tuple[int, ...], *, video_dim: int) -> None:
    """Raises ConfigError for parts that do not make up a row."""
    if parts and (min(parts) <= 0 or sum(parts) != video_dim):
        raise ConfigError(
            f"video_parts {list(parts)} must add up to {video_dim}, the width of a video row; or be empty"
        )
