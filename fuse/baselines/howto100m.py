"""The text-video embedding of HowTo100M: gated units on pooled features, learned by max-margin ranking.

Paper: Miech et al., "HowTo100M", ICCV 2019 (arXiv 1906.03327), section 4. Authors' code:
antoine77340/howto100m@50af0ff (model.py, loss.py, youtube_dataloader.py), whose numbers this file gives and whose
state-dict names its attributes keep.

Legend: B batch, N rows, D width of a row, E width of an embedding.

What follows the code where paper and code differ, or where the paper says nothing:
* `cg.batch_norm` is in the weights and never applied.
* The loss is a mean over the whole matrix of similarities, its diagonal included (see `max_margin`).
* With several clips of one video in a batch, negatives of the same video weigh as much as all others together
  (`clips_per_video`, the authors' n_pair; 64 as published). With one, nothing is weighted.
* Their data loader pools a clip's rows and normalises each kind of feature for itself; here the model does (see
  `video_parts`), so that clips stay rows in the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ..._settings import Listed
from ..base import ModelConfig, Tokens, load_weights, padded_to, renamed_config
from ..layers import ContextGating
from ..objectives import dot_products, gathered, max_margin, negative_weights, zero_of
from ..registry import create_model, register_model
from .pooling import WordPooling, max_over_rows, unit_parts
from .separate import PooledConfig, SeparateModel, check_video_parts

_OFFICIAL_NAMES = {
    "embd_dim": "projection_dim",
    "video_dim": "video_dim",
    "we_dim": "text_dim",
    "sentence_dim": "sentence_dim",
    "n_pair": "clips_per_video",
    "max_words": "pad_words_to",
}


class HowTo100MConfig(PooledConfig):
    """The published model."""

    sentence_dim: NonNegativeInt = 0
    """Width of a pooled caption; 0: as wide as an embedding."""
    video_parts: Listed[int] = ()
    """Widths of the kinds of feature that are joined in a row, each normalised for itself after pooling ([2048, 2048]
    as published); empty: the row is normalised whole."""
    margin: NonNegativeFloat = 0.1
    """Of the ranking loss."""
    clips_per_video: PositiveInt = 1
    """Clips that a batch holds of each video, one after the other; decides the weights of negatives."""
    hard_negative_rate: float = Field(default=0.5, ge=0, le=1)
    """Share of the weight that negatives of the same video get, where there are any."""

    @model_validator(mode="after")
    def _check(self) -> HowTo100MConfig:
        check_video_parts(self.video_parts, video_dim=self.video_dim)
        return self


class _Gating(ContextGating):
    """Context gating, with the batch normalisation that the authors' weights hold and their code never applies."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.batch_norm = nn.BatchNorm1d(dim).requires_grad_(requires_grad=False)


class UnitGatedUnit(nn.Module):
    """A linear layer, context gating, and the result over its length."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim_in, dim_out)
        self.cg = _Gating(dim_out)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """A gated projection of unit length."""
        return functional.normalize(self.cg(self.fc(x)), dim=1)


@register_model("howto100m", summary="Text-video embedding of HowTo100M (ICCV 2019), max-margin ranking")
@register_model(
    "test_howto100m",
    summary="HowTo100M's embedding with random weights, for tests",
    defaults={"video_dim": 24, "text_dim": 12, "projection_dim": 20},
)
class HowTo100M(SeparateModel):
    """Section 4: f(v) and g(c), gated, of unit length, ranked with a margin."""

    config_type: ClassVar[type[ModelConfig]] = HowTo100MConfig
    paper: ClassVar[str] = "Miech et al., HowTo100M, ICCV 2019 (arXiv 1906.03327)"
    config: HowTo100MConfig

    def __init__(self, config: HowTo100MConfig | None = None) -> None:
        super().__init__()
        self.name = "howto100m"
        self.config = config = config or HowTo100MConfig()
        self.dim = config.projection_dim
        sentence_dim = config.sentence_dim or config.projection_dim
        self.text_pooling = WordPooling(config.text_dim, sentence_dim)
        self.GU_text = UnitGatedUnit(sentence_dim, config.projection_dim)
        self.GU_video = UnitGatedUnit(config.video_dim, config.projection_dim)

    def embed(self, modality: str, tokens: Tokens) -> Float[Tensor, "B E"]:
        """f(v) of section 4.1 for video, g(c) for text: unit vectors."""
        config = self.config
        if modality == "text":
            words = padded_to(tokens, config.pad_words_to)
            return cast(Tensor, self.GU_text(self.text_pooling(words, padding=config.padding)))
        pooled = unit_parts(max_over_rows(tokens, padding=config.padding), config.video_parts)
        return cast(Tensor, self.GU_video(pooled))

    def loss(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """Section 4.2: max-margin ranking of the clips that have both text and video; zero where none has.

        Raises:
            InputError: wrong shapes, or clips that do not come in blocks of `clips_per_video`.
        """
        vectors, nonempty = gathered(*self.embeddings(batch))
        total = zero_of(vectors.values())
        if len(vectors) < 2:
            return total, {}
        rows = nonempty["text"] & nonempty["video"]
        weights = None
        if self.config.clips_per_video > 1:  # of the pairs of clips that are left, by their places in the whole batch
            every = negative_weights(
                len(rows),
                clips_per_video=self.config.clips_per_video,
                hard_negative_rate=self.config.hard_negative_rate,
            )
            weights = every.to(rows.device)[rows][:, rows]
        if not rows.any():
            return total, {}
        similarities = dot_products(vectors["text"][rows], vectors["video"][rows])
        term = max_margin(similarities, margin=self.config.margin, weights=weights)
        return total + term, {"text|video": term.detach()}

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> HowTo100M:
        """Take the authors' published weights; padding then takes part, as with the authors.

        Args:
            state_dict: their checkpoint.
            config: the arguments of their `Net` by their names (embd_dim, video_dim, we_dim, sentence_dim, n_pair,
                max_words). A new model of that shape is returned. Without it the weights go into this model.

        Raises:
            ConfigError: a key of `config` that their model does not have.
            InputError: keys missing or unexpected, wrong shapes, numbers that are not finite.
        """
        model = self
        if config is not None:
            options = renamed_config(config, _OFFICIAL_NAMES, where="the authors' Net")
            options["sentence_dim"] = max(options.get("sentence_dim", 0), 0)
            model = cast(HowTo100M, create_model("howto100m", **options))
        load_weights(model, state_dict)
        model.config = model.config.replaced(padding="published", pad_words_to=model.config.pad_words_to or 20)
        return model
