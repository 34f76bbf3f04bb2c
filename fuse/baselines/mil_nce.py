"""MIL-NCE on frozen S3D features: a linear map of each side into one space, several captions for a clip.

Paper: Miech et al., "End-to-End Learning of Visual Representations from Uncurated Instructional Videos", CVPR 2020
(arXiv 1912.06430), sections 3 and 4. Authors' code: antoine77340/MIL-NCE_HowTo100M@b282b15 (s3dg.py, loss.py,
video_loader.py), whose numbers this file gives and whose state-dict names its attributes keep.

The authors train the S3D from pixels; here it is frozen, and what is trained comes on top of it: `fc` on its
`mixed_5c` features (backbone `s3d_howto100m`) and the two layers of the text tower on word vectors.

Several candidates: a batch may hold C captions for each clip. Its text then has B * C samples, where sample i * C + c
is candidate c of clip i, with B samples of video (C is what the numbers say; 1 where they are equal). Candidates
without words count nowhere, and clips without any are left out. `encode` takes one caption for a clip.

Legend: B clips, C candidate captions of a clip, N rows, D width of a row, E width of an embedding.

What follows the code where paper and code differ: the positives count twice in the denominator (see `mil_nce`).
Embeddings are compared by dot product, without normalisation. (`encode` gives unit vectors, as every model here:
ranking by it is ranking by cosine.) A clip of several rows is their mean, as in the authors' evaluation, which averages
windows.

Deviations:
* `padding="masked"` leaves padded words out. The authors' word 0 fills captions up to 20 and takes part in the maximum
  like any word: `padding="published"` does so, with `padding_word` as its vector.
* The authors' features are not normalised. A data set that normalises rows, as that of Everything at Once, is another
  input for the published `fc`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ..._vocabulary import InputError
from ..base import Embeddings, ModelConfig, Tokens, load_weights, padded_to, renamed_config
from ..objectives import dot_products, gathered, mil_nce, zero_of
from ..registry import create_model, register_model
from .pooling import Padding, max_over_words
from .separate import PooledConfig, SeparateModel, nonempty_of, own_weights

_OFFICIAL_NAMES = {"num_classes": "projection_dim"}
_OFFICIAL_BACKBONE = ("gating", "space_to_depth", "word2vec_path", "init", "token_to_word_path")
_BACKBONE_KEYS = ("conv1.", "conv_2b.", "conv_2c.", "gating.", "mixed_", "text_module.word_embd.")
_WORD_TABLE = "text_module.word_embd.weight"


class MILNCEConfig(PooledConfig):
    """The published sizes."""

    video_dim: PositiveInt = 1024
    """Width of a video feature row (1024: S3D's mixed_5c)."""
    hidden_dim: PositiveInt = 2048
    """Width of a pooled caption."""
    projection_dim: PositiveInt = 512
    """Width E of an embedding."""


class SentenceEmbedding(nn.Module):
    """The text tower: a linear layer and ReLU on every word, the maximum over words, a linear layer."""

    def __init__(self, dim_in: int, *, hidden: int, dim_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim_in, hidden)
        self.fc2 = nn.Linear(hidden, dim_out)

    def forward(self, words: Tokens, *, padding: Padding) -> Float[Tensor, "B E"]:
        """g(y) of captions."""
        return cast(Tensor, self.fc2(max_over_words(self.fc1(words.values), words.mask, padding=padding)))


@register_model("mil_nce", summary="MIL-NCE (CVPR 2020) on frozen S3D features")
@register_model(
    "test_mil_nce",
    summary="MIL-NCE with random weights, for tests",
    defaults={"video_dim": 24, "text_dim": 12, "hidden_dim": 16, "projection_dim": 20},
)
class MILNCE(SeparateModel):
    """Section 3: f(x) and g(y), compared by dot product under the MIL-NCE objective."""

    config_type: ClassVar[type[ModelConfig]] = MILNCEConfig
    paper: ClassVar[str] = "Miech et al., MIL-NCE, CVPR 2020 (arXiv 1912.06430)"
    config: MILNCEConfig
    padding_word: Tensor

    def __init__(self, config: MILNCEConfig | None = None) -> None:
        super().__init__()
        self.name = "mil_nce"
        self.config = config = config or MILNCEConfig()
        self.dim = config.projection_dim
        self.fc = nn.Linear(config.video_dim, config.projection_dim)
        self.text_module = SentenceEmbedding(config.text_dim, hidden=config.hidden_dim, dim_out=config.projection_dim)
        self.register_buffer("padding_word", torch.zeros(config.text_dim))

    def embed(self, modality: str, tokens: Tokens) -> Float[Tensor, "B E"]:
        """f(x) for video, g(y) for text, not normalised."""
        if modality == "text":
            words = padded_to(tokens, self.config.pad_words_to)
            if self.config.padding == "published":
                values = torch.where(words.mask.bool()[..., None], words.values, self.padding_word)
                words = words._replace(values=values)
            return cast(Tensor, self.text_module(words, padding=self.config.padding))
        real = tokens.mask.to(tokens.values.dtype)[..., None]
        return cast(Tensor, self.fc((tokens.values * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)))

    def embeddings(self, batch: Mapping[str, Tokens | None]) -> Embeddings:
        """The embeddings as they are compared in training, not of unit length; text may have C samples for each clip.

        Raises:
            InputError: shapes or modalities that this model does not take, or captions that are no whole number for
                each clip.
        """
        text, video = batch.get("text"), batch.get("video")
        if text is None or video is None or text.values.shape[:1] == video.values.shape[:1]:
            return super().embeddings(batch)
        given = {**self.given({**batch, "video": None}), **self.given({**batch, "text": None})}
        if len(text.values) < len(video.values) or len(text.values) % max(len(video.values), 1):
            raise InputError(
                f"{len(text.values)} captions for {len(video.values)} clips: use the same number of samples, or a"
                " whole number of candidates for each clip"
            )
        return Embeddings({name: self.embed(name, tokens) for name, tokens in given.items()}, nonempty_of(given))

    def loss(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 1 over the clips that have video and at least one caption with words; zero where none has.

        Raises:
            InputError: see `embeddings`.
        """
        vectors, nonempty = self.embeddings(batch)
        if len(vectors) < 2 or not len(vectors["video"]):
            return zero_of(vectors.values()), {}
        num_clips = len(vectors["video"])
        by_clip = {"text": vectors["text"].reshape(num_clips, -1), "video": vectors["video"]}
        candidates = nonempty["text"].reshape(num_clips, -1).unbind(dim=1)
        flags = {"video": nonempty["video"], **{f"text {c}": each for c, each in enumerate(candidates)}}
        vectors, flags = gathered(by_clip, flags)
        has_words_BC = torch.stack([each for name, each in flags.items() if name != "video"], dim=1)
        rows = flags["video"] & has_words_BC.any(dim=1)
        if not rows.any():
            return zero_of(vectors.values()), {}
        captions = vectors["text"][rows].reshape(-1, self.dim)
        term = mil_nce(dot_products(vectors["video"][rows], captions), present=has_words_BC[rows].flatten())
        return term, {"text|video": term.detach()}

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> MILNCE:
        """Take the authors' published weights; padding then takes part, as with the authors.

        Args:
            state_dict: the checkpoint of their S3D, whose convolutions are left to the backbone. The vector of word 0
                is taken from its table of words.
            config: the arguments of their `S3D` by their names; `num_classes` says the width of an embedding. A new
                model of that shape is returned. Without it the weights go into this model, whose shape must fit.

        Raises:
            ConfigError: a key of `config` that their model does not have.
            InputError: keys missing or unexpected, wrong shapes, numbers that are not finite.
        """
        model = self
        if config is not None:
            own = {key: value for key, value in config.items() if key not in _OFFICIAL_BACKBONE}
            options = renamed_config(own, _OFFICIAL_NAMES, where="the authors' S3D")
            model = cast(MILNCE, create_model("mil_nce", **options))
        named = own_weights(state_dict)
        weights = {key: value for key, value in named.items() if not key.startswith(_BACKBONE_KEYS)}
        if _WORD_TABLE in named:
            weights["padding_word"] = named[_WORD_TABLE][0]
        load_weights(model, {"padding_word": model.padding_word, **weights})
        model.config = model.config.replaced(padding="published", pad_words_to=model.config.pad_words_to or 20)
        return model

    def to_official(self) -> dict[str, Any]:
        """The weights of `fc` and of the text tower's layers as the authors' S3D reads them with its own."""
        return {key: value for key, value in self.state_dict().items() if key != "padding_word"}
