"""AVLnet-Text: audio, video and words, each pooled and gated on its own, learned by the masked margin softmax.

Paper: Rouditchenko et al., "AVLnet", Interspeech 2021 (arXiv 2006.09199), with independent audio and text branches
("AVLnet-Text-Tri"); without text it is AVLnet itself. Authors' code: roudimit/AVLnet@be70e95 (model.py, train.py). The
authors of Everything at Once compare with it in their own frame, `AVLnetBaselineModel` of
ninatu/everything_at_once@4daeab6 (everything_at_once/model/avlnet.py), whose numbers this file gives and whose
state-dict names its attributes keep; they are those of AVLnet's code.

Legend: B batch, N rows, D width of a row, E width of an embedding, T frames, S frames that become one audio token.

What follows the code where paper and code differ, or where the paper says nothing:
* Embeddings are compared by dot product, without normalisation and without a temperature. (`encode` gives unit
  vectors, as every model here: ranking by it is ranking by cosine.)
* The gated unit of audio is as wide as the audio CNN, and one linear layer follows it.
* Audio is averaged over all tokens, those of padding too, in training, and over the real ones afterwards.
* The three losses are summed, not averaged.

Deviations:
* `padding="masked"` silences padding in the audio CNN and leaves it out everywhere, so that a clip's embedding does
  not depend on how far it is padded. `from_official` sets "published", which gives the authors' numbers.
* Whether a clip has audio is read from its audio; the code of Everything at Once reads it from its video.
* Terms see the samples that have both modalities; the authors train on clips that have all.
* Fusing audio and text before the comparison ("AVLnet-Text-Fused") is another model, and not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import combinations
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from ..._settings import Listed
from ..._vocabulary import ConfigError
from ..base import MODALITIES, ModelConfig, Tokens, load_weights, padded_to, renamed_config
from ..layers import AudioCNNSpec, DAVEnet, GatedUnit, audio_cnn_spec, token_mask
from ..objectives import gathered, margin_softmax_of_products, sum_over_pairs, zero_of
from ..registry import create_model, register_model
from .pooling import WordPooling, max_over_rows, unit_parts
from .separate import PooledConfig, SeparateModel, check_video_parts, in_order

OFFICIAL_NAMES = {
    "embd_dim": "projection_dim",
    "video_dim": "video_dim",
    "we_dim": "text_dim",
    "davenet_v2": "audio_cnn",
    "tri_modal": "modalities",
}


class AVLnetConfig(PooledConfig):
    """The published AVLnet-Text-Tri."""

    mel_bands: PositiveInt = 40
    """Mel bands of the spectrogram."""
    modalities: Listed[str] = MODALITIES
    """Which of text, video and audio the model has; video and audio alone are AVLnet without text."""
    audio_cnn: str = "davenet_v1"
    """Registered audio CNN."""
    audio_cnn_blocks: Listed[int] = ()
    """Residual blocks of each of its stages; empty for the registered ones."""
    audio_cnn_widths: Listed[int] = ()
    """Channels of its stem and stages; empty for the registered ones."""
    video_parts: Listed[int] = ()
    """Widths of the kinds of feature that are joined in a row, each normalised for itself after pooling ([2048, 2048]
    in AVLnet's code); empty: the row is normalised whole (Everything at Once's code)."""
    audio_mean: Literal["real", "all", "all_in_training"] = "real"
    """Audio tokens that are averaged: "real" ones, "all", or "all_in_training" and real ones else, as published. More
    than the real ones needs padding="published"."""
    pad_audio_to: NonNegativeInt = 0
    """Frames to which shorter audio is padded first (800 as published). Matters only where padding takes part."""
    objective: Literal["pairs", "text_to_sum"] = "pairs"
    """ "pairs": each modality against each other; "text_to_sum": text against audio+video, AVLnet's fine-tuning for
    retrieval."""
    margin: NonNegativeFloat = 0.001
    """Of the margin softmax."""

    @model_validator(mode="after")
    def _check(self) -> AVLnetConfig:
        check_video_parts(self.video_parts, video_dim=self.video_dim)
        self.audio_spec()
        all_three = len(self.all_modalities()) == len(MODALITIES)
        if self.padding == "masked" and self.audio_mean != "real":
            raise ConfigError(
                f"audio_mean={self.audio_mean!r} averages padding: set padding='published', or 'real' here"
            )
        if self.objective == "text_to_sum" and not all_three:
            raise ConfigError(f"objective='text_to_sum' needs text, video and audio; modalities are {self.modalities}")
        return self

    def all_modalities(self) -> tuple[str, ...]:
        return in_order(self.modalities)

    def audio_spec(self) -> AudioCNNSpec:
        """The audio CNN's shape, with this configuration's own blocks and widths where it has some."""
        return audio_cnn_spec(self.audio_cnn, blocks=self.audio_cnn_blocks, widths=self.audio_cnn_widths)


TEST_SIZES = {
    "video_dim": 24,
    "text_dim": 12,
    "audio_cnn": "davenet_tiny",
    "audio_cnn_blocks": (1, 1),
    "audio_cnn_widths": (8, 8, 16),
    "projection_dim": 20,
}


@register_model("avlnet", summary="AVLnet-Text-Tri (2020): pooled audio, video and text, margin softmax")
@register_model("test_avlnet", summary="AVLnet with random weights, for tests", defaults=TEST_SIZES)
class AVLnet(SeparateModel):
    """Three branches into one space; what a branch gates is `pooled`, and what it gives is `project`ed from that."""

    config_type: ClassVar[type[ModelConfig]] = AVLnetConfig
    paper: ClassVar[str] = "Rouditchenko et al., AVLnet, Interspeech 2021 (arXiv 2006.09199)"
    config: AVLnetConfig

    def __init__(self, config: AVLnetConfig | None = None) -> None:
        super().__init__()
        self.name = "avlnet"
        self.config = config = config or AVLnetConfig()
        self.dim = config.projection_dim
        self.modalities = config.all_modalities()
        if "audio" in self.modalities:
            spec = config.audio_spec()
            self.DAVEnet = DAVEnet(
                mel_bands=config.mel_bands, blocks=spec.blocks, widths=spec.widths, kernel=spec.kernel
            )
            self.GU_audio = GatedUnit(self.DAVEnet.dim, self.DAVEnet.dim)
            self.DAVEnet_projection = nn.Linear(self.DAVEnet.dim, config.projection_dim)
        if "video" in self.modalities:
            self.GU_video = GatedUnit(config.video_dim, config.projection_dim)
        if "text" in self.modalities:
            self.text_pooling_caption = WordPooling(config.text_dim, config.projection_dim)
            self.GU_text_captions = GatedUnit(config.projection_dim, config.projection_dim)

    def row_dims(self) -> dict[str, int]:
        return {**super().row_dims(), "audio": self.config.mel_bands}

    def pooled_dims(self) -> dict[str, int]:
        """The width of what `pooled` gives of each modality that the model has."""
        dims = {"text": self.config.projection_dim, "video": self.config.video_dim}
        return {name: self.DAVEnet.dim if name == "audio" else dims[name] for name in self.modalities}

    def pooled(self, modality: str, tokens: Tokens) -> Float[Tensor, "B D"]:
        """One vector of a modality, before its gated unit."""
        padding = self.config.padding
        if modality == "audio":
            return self._pooled_audio(padded_to(tokens, self.config.pad_audio_to))
        if modality == "text":
            words = padded_to(tokens, self.config.pad_words_to)
            return cast(Tensor, self.text_pooling_caption(words, padding=padding))
        return unit_parts(max_over_rows(tokens, padding=padding), self.config.video_parts)

    def _pooled_audio(self, audio: Tokens) -> Float[Tensor, "B D"]:
        frames, masked = audio.mask.bool(), self.config.padding == "masked"
        values = self.DAVEnet(audio.values, frames if masked else None)
        num_tokens, which = values.shape[1], self.config.audio_mean
        if masked:
            used = token_mask(frames, stride=self.DAVEnet.stride)
        elif which == "all" or (which == "all_in_training" and self.training):
            used = frames.new_ones(len(frames), num_tokens)
        else:  # as the authors count them, at least one token of each clip
            num_real = (frames.sum(dim=1) // round(frames.shape[1] / num_tokens)).clamp(min=1)
            used = torch.arange(num_tokens, device=frames.device) < num_real[:, None]
        weights = used.to(values.dtype)[..., None]
        pooled: Tensor = (values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return pooled

    def project(self, modality: str, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """The embedding of a modality from its pooled vector."""
        if modality == "audio":
            return cast(Tensor, self.DAVEnet_projection(self.GU_audio(pooled)))
        return cast(Tensor, self.GU_text_captions(pooled) if modality == "text" else self.GU_video(pooled))

    def embed(self, modality: str, tokens: Tokens) -> Float[Tensor, "B E"]:
        """The embedding of one modality, not normalised."""
        return self.project(modality, self.pooled(modality, tokens))

    def loss(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """The margin softmax of each pair of modalities, summed; or of text against audio+video (see `objective`)."""
        vectors, nonempty = gathered(*self.embeddings(batch))
        if self.config.objective == "pairs":
            return self.pairs_loss(vectors, nonempty)
        return self._text_to_sum_loss(vectors, nonempty)

    def pairs_loss(
        self, vectors: Mapping[str, Tensor], nonempty: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The margin softmax of each pair of modalities, over the samples that have both, and the sum of these."""
        contrast = partial(margin_softmax_of_products, margin=self.config.margin)
        return sum_over_pairs(vectors, nonempty, pairs=combinations(self.modalities, 2), contrast=contrast)

    def _text_to_sum_loss(
        self, vectors: Mapping[str, Tensor], nonempty: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total = zero_of(vectors.values())
        if len(vectors) < len(MODALITIES):
            return total, {}
        rows = torch.stack(list(nonempty.values())).all(dim=0)
        if not rows.any():
            return total, {}
        media = vectors["audio"][rows] + vectors["video"][rows]
        term = margin_softmax_of_products(vectors["text"][rows], media, margin=self.config.margin)
        return total + term, {"text|video+audio": term.detach()}

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> AVLnet:
        """Take the authors' published weights; padding is then treated as the authors treat it.

        Args:
            state_dict: of AVLnet's `Net` (tri_modal, or audio and video alone), or of `AVLnetBaselineModel`.
            config: the arguments of either by their names (embd_dim, video_dim, we_dim, davenet_v2, tri_modal). A new
                model of that shape is returned. Without it the weights go into this model, whose shape must fit.

        Raises:
            ConfigError: a key of `config` that the authors' model does not have.
            InputError: keys missing or unexpected, wrong shapes, numbers that are not finite.
        """
        model = self
        if config is not None:
            model = cast(AVLnet, create_model(self.name.removeprefix("test_"), **self.official_options(config)))
        load_weights(model, model.completed(state_dict))
        model.config = model.config.replaced(
            padding="published", audio_mean="all_in_training", pad_words_to=model.config.pad_words_to or 20
        )
        return model

    def official_options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The options of `create_model` that build the model of the authors' arguments."""
        options = renamed_config(config, self.official_names(), where="the authors' Net and AVLnetBaselineModel")
        if "audio_cnn" in options:
            options["audio_cnn"] = "davenet_v2" if options["audio_cnn"] else "davenet_v1"
        if "modalities" in options:
            options["modalities"] = MODALITIES if options["modalities"] else ("video", "audio")
        return options

    def official_names(self) -> dict[str, str]:
        """Our names of the authors' arguments."""
        return OFFICIAL_NAMES

    def completed(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """The authors' weights, with what this model keeps besides."""
        return state_dict
