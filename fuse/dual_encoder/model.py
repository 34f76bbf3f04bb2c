"""Dual encoders: frozen towers whose rows lie in one space, a clip as the mean of its frames.

Luo et al., "CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval" (Neurocomputing 2022), the
parameter-free "meanP"; Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings" (ICLR 2014),
"ConSE". The towers are backbones; nothing here is trained.

- meanP: a clip is the unit mean of the unit rows of its frames, a text the unit row that its tower gives. Each row is
  brought to unit length before the mean: without that, a few bright frames outweigh the others. Rows of sound, one for
  each window, are averaged in the same way.
- ConSE, equation (3): a picture's row is the mean of the vectors s(y_t) of its T likeliest classes, weighted by their
  probabilities p(y_t|x), over the sum Z of these: f(x) = 1/Z sum_t p(y_t|x) s(y_t). s is the sentence encoder on the
  class's name. That row then goes through meanP.
- Modalities given together: the unit mean of their vectors. Ranking clips by it is ranking them by the sum of their
  cosine similarities with each part of the question.

Deviations: meanP is of pictures; sound is ours. ConSE is for single pictures and Word2vec's vectors of class names;
frames and sentences are ours.

Legend: B batch, N frames or rows, D width of a row, E width of an embedding, C classes, T likeliest classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..._vocabulary import ConfigError, InputError
from ..base import ModelConfig, Tokens
from ..baselines import SeparateModel
from ..registry import register_model
from .config import DualEncoderConfig, ImagenetLabelsConfig


@register_model("dual_encoder", summary="towers of one space, such as CLIP's: a clip is the mean of its frames")
class DualEncoder(SeparateModel):
    """Rows of one space; a clip is the unit mean of its unit rows. Takes text, video and audio; has no weights."""

    config_type: ClassVar[type[ModelConfig]] = DualEncoderConfig
    paper: ClassVar[str] = "Luo et al., CLIP4Clip, Neurocomputing 2022 (meanP)"
    trains: ClassVar[bool] = False

    def __init__(self, config: DualEncoderConfig | ImagenetLabelsConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.text_dim
        self.modalities = config.all_modalities()

    def row_dims(self) -> dict[str, int]:
        """The width of a row of each modality."""
        return {name: getattr(self.config, f"{name}_dim") or self.dim for name in self.modalities}

    def in_space(self, modality: str, rows: Float[Tensor, "B N D"]) -> Float[Tensor, "B N E"]:
        """The rows of a tower in the common space, of any length: here as they are."""
        del modality
        return rows

    def embed(self, modality: str, tokens: Tokens) -> Float[Tensor, "B E"]:
        """The unit mean of the unit rows; zeros for a sample without rows."""
        rows = functional.normalize(self.in_space(modality, tokens.values).float(), dim=-1)
        return functional.normalize((rows * tokens.mask.bool()[..., None]).sum(dim=1), dim=-1)

    def loss(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """Raises ConfigError: there is nothing to train. InputError for a batch that `encode` would not take."""
        self.given(batch)
        raise ConfigError(f"the model {self.name} has nothing to train: its towers are frozen")


@register_model("imagenet_labels", summary="an image classifier and a sentence encoder, joined by class names (ConSE)")
@register_model(
    "test_imagenet_labels", summary="tiny widths, for tests", defaults={"text_dim": 12, "video_dim": 24, "top": 3}
)
class ImagenetLabels(DualEncoder):
    """ConSE: pictures by the names of their likeliest classes. Video rows are probabilities, text rows sentences.

    Attributes:
        label_vectors: (C, E) unit rows s(y) of the class names, random until `set_labels`.
    """

    config_type: ClassVar[type[ModelConfig]] = ImagenetLabelsConfig
    paper: ClassVar[str] = "Norouzi et al., Zero-Shot Learning by Convex Combination of Semantic Embeddings, ICLR 2014"
    config: ImagenetLabelsConfig

    def __init__(self, config: ImagenetLabelsConfig) -> None:
        super().__init__(config)
        random = functional.normalize(torch.randn(config.video_dim, config.text_dim), dim=-1)
        self.label_vectors = nn.Parameter(random, requires_grad=False)

    def set_labels(self, vectors: Float[Tensor, "C E"] | Float[np.ndarray, "C E"]) -> ImagenetLabels:
        """Take the sentence encoder's rows of the class names, in the classifier's order. Returns this model.

        Raises:
            InputError: not one row for each class, another width, or numbers that are not finite.
        """
        vectors = torch.as_tensor(vectors)
        if vectors.shape != self.label_vectors.shape or not vectors.isfinite().all():
            raise InputError(
                f"class names: {tuple(vectors.shape)} vectors, not finite ones of"
                f" {tuple(self.label_vectors.shape)} (classes, text_dim): use the classifier's own names"
            )
        self.label_vectors.data.copy_(functional.normalize(vectors.float(), dim=-1))
        return self

    def in_space(self, modality: str, rows: Float[Tensor, "B N D"]) -> Float[Tensor, "B N E"]:
        """Probabilities to ConSE's rows (equation 3); sentences as they are.

        Rows that were scaled, as the reader of features does, give the same: equation 3 divides by their sum.
        """
        if modality == "text":
            return rows
        top, classes = rows.topk(self.config.top, dim=-1)
        weights = top / top.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        return (weights[..., None] * self.label_vectors[classes]).sum(dim=-2)
