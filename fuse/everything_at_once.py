"""Everything at Once: a multi-modal fusion transformer for video retrieval.

Paper: Shvetsova et al., CVPR 2022 (arXiv 2112.04446); section and equation numbers below are its. Authors' code:
ninatu/everything_at_once@4daeab6, whose numbers this file gives and whose state-dict names its attributes keep.

Legend: B batch, N tokens, D width of a token, E width of an embedding, t text, v video, a audio.

What follows the code where paper and code differ (the rest is in `_layers.py`, `_objectives.py` and `davenet.py`):
* Pooling is a masked mean; the paper prints a bare sum.
* Equation 1 normalises the sum of two unit vectors; the code keeps (unit + unit) / 2. `embeddings` gives the code's
  vector, `encode` the unit vector, which is the paper's.
* With a class token (an ablation), a pair's embedding is the one projected token, not a mean.
* A modality that a sample does not have is one learned masking token, put in after projection and normalisation.
* `fusion.norm` and `davenet.batchnorm1` are in the weights and never applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from .._vocabulary import InputError
from ._everything_at_once_config import EverythingAtOnceConfig, Reduction, official_config
from ._face import MODALITIES, Embeddings, FusionModel, ModelConfig, Tokens, given_modalities, load_weights
from ._layers import LAYER_NORM_EPS, FusionTransformer, GatedUnit, masked_mean, replace_empty
from ._objectives import combinatorial_loss, margin_softmax, norm_softmax, unit
from ._registry import create_model, register_model
from .davenet import DAVEnet, token_mask

Fusion = Literal["joint", "late"]
_LAMBDA_NAMES = ("lambda_tv", "lambda_ta", "lambda_va", "lambda_t_va", "lambda_v_ta", "lambda_a_tv")


@register_model("everything_at_once", summary="Everything at Once (CVPR 2022), the published size")
@register_model(
    "everything_at_once_tiny",
    summary="Everything at Once for small collections and a CPU",
    defaults={
        "video_dim": 512,
        "audio_cnn": "davenet_tiny",
        "width": 128,
        "heads": 4,
        "projection_dim": 128,
        "lambda_tv": 0.3,
        "lambda_ta": 0.3,
        "lambda_va": 0.0,
        "lambda_t_va": 1.0,
        "lambda_v_ta": 0.1,
        "lambda_a_tv": 0.1,
    },
)
@register_model(
    "test_everything_at_once",
    summary="Everything at Once with random weights, for tests",
    defaults={
        "video_dim": 24,
        "text_dim": 12,
        "audio_cnn": "davenet_tiny",
        "audio_cnn_blocks": (1, 1),
        "audio_cnn_widths": (8, 8, 16),
        "width": 16,
        "heads": 2,
        "projection_dim": 20,
    },
)
class EverythingAtOnce(FusionModel):
    """Section 3: tokens of any modalities, one transformer for all of them, six embeddings of each sample."""

    config_type: ClassVar[type[ModelConfig]] = EverythingAtOnceConfig
    paper: ClassVar[str] = "Shvetsova et al., Everything at Once, CVPR 2022 (arXiv 2112.04446)"
    config: EverythingAtOnceConfig

    def __init__(self, config: EverythingAtOnceConfig | None = None) -> None:
        super().__init__()
        self.name = "everything_at_once"
        self.config = config = config or EverythingAtOnceConfig()
        self.dim = config.projection_dim
        self.modalities = tuple(name for name in MODALITIES if name in config.modalities)
        self._build_token_layers(config)
        self._build_transformers(config)
        self._build_projections(config)
        self._freeze_unused()

    def _build_token_layers(self, config: EverythingAtOnceConfig) -> None:
        """Section 3.2.1."""
        spec = config.audio_spec()
        self.davenet = DAVEnet(mel_bands=config.mel_bands, blocks=spec.blocks, widths=spec.widths, kernel=spec.kernel)
        self.audio_stride = self.davenet.stride
        widths = {"video": config.video_dim, "text": config.text_dim, "audio": self.davenet.dim}
        limits = {
            "video": config.max_video_tokens,
            "text": config.max_words,
            "audio": config.max_audio_frames // self.audio_stride,
        }
        for name, width in widths.items():
            setattr(self, f"{name}_token_proj", _projection(config.token_projection, width, config.width))
            setattr(self, f"{name}_norm_layer", nn.LayerNorm(config.width, eps=LAYER_NORM_EPS))
            if config.positional:
                positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, limits[name], config.width), std=0.02))
                setattr(self, f"{name}_pos_embed", positions)

    def _build_transformers(self, config: EverythingAtOnceConfig) -> None:
        """Section 3.2.3. With one for each modality, the authors' weights hold the text's under two names."""

        def build() -> FusionTransformer:
            return FusionTransformer(
                config.width,
                depth=config.depth,
                heads=config.heads,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
                cls_token=config.cls_token,
            )

        self.fusion = build()
        if config.transformer == "per_modality":
            self.fusion_text = self.fusion
            self.fusion_video = build()
            self.fusion_audio = build()

    def _build_projections(self, config: EverythingAtOnceConfig) -> None:
        """g_t, g_v and g_a of section 3.2.4, or one for all."""
        if not config.individual_projections:
            self.proj = _projection(config.projection, config.width, config.projection_dim)
            return
        for name in MODALITIES:
            setattr(self, f"{name}_proj", _projection(config.projection, config.width, config.projection_dim))

    def _freeze_unused(self) -> None:
        """A modality left out keeps its weights, as in the authors' text-video model, and does not train."""
        for name in set(MODALITIES) - set(self.modalities):
            parts = [f"{name}_token_proj", f"{name}_norm_layer", f"{name}_proj"] + ["davenet"] * (name == "audio")
            for part in parts:
                if hasattr(self, part):
                    getattr(self, part).requires_grad_(requires_grad=False)

    # --- section 3.2.1: token creation -------------------------------------------------------------------------------

    def tokens(self, batch: Mapping[str, Tokens | None]) -> tuple[dict[str, Tokens], dict[str, Tensor]]:
        """Tokens (B, N, D) of each modality in the batch, and (B,) bool: which samples really have it.

        The audio CNN and the projections run once here; the six passes of the transformer share what they give.
        """
        config = self.config
        dims = {"text": config.text_dim, "video": config.video_dim, "audio": config.mel_bands}
        made, nonempty = {}, {}
        for name, given in given_modalities(batch, dims=dims, allowed=self.modalities).items():
            rows = self._audio_rows(given) if name == "audio" else given
            projected = getattr(self, f"{name}_token_proj")(rows.values)
            normed = getattr(self, f"{name}_norm_layer")(projected)
            repaired, nonempty[name] = replace_empty(Tokens(normed, rows.mask), self.fusion.masking_token)
            made[name] = self._with_positions(name, repaired)
        return made, nonempty

    def _audio_rows(self, audio: Tokens) -> Tokens:
        audio = _padded_to(audio, num_frames=self.config.pad_audio_to)
        silenced = audio.mask if self.config.audio_padding == "silenced" else None
        values = self.davenet(audio.values, silenced)
        mask = token_mask(audio.mask, stride=self.audio_stride)
        if self.config.audio_reduction == "none":
            return Tokens(values, mask)
        num_real = audio.mask.bool().sum(dim=1) // self.audio_stride
        limit = self.config.max_audio_frames // self.audio_stride
        reduced = [
            reduce_audio_tokens(row, num_real=int(count), num_tokens=limit, how=self.config.audio_reduction)
            for row, count in zip(values, num_real, strict=True)
        ]
        return Tokens(torch.stack(reduced), mask[:, :limit])

    def _with_positions(self, name: str, tokens: Tokens) -> Tokens:
        if not self.config.positional:
            return tokens
        positions = getattr(self, f"{name}_pos_embed")
        num_tokens = tokens.values.shape[1]
        if num_tokens > positions.shape[1]:
            raise InputError(
                f"{name} has {num_tokens} tokens and this model's positional embedding ends at {positions.shape[1]}; "
                "cut the input"
            )
        return tokens._replace(values=tokens.values + positions[:, :num_tokens])

    # --- sections 3.2.3 and 3.2.4: fusion and projection -------------------------------------------------------------

    def _embed(self, tokens: Mapping[str, Tokens]) -> Float[Tensor, "B E"]:
        """One pass of the transformer over one combination of modalities, and equation 1 (before its outer norm)."""
        fused = self._transformer(next(iter(tokens)))(tokens)
        if self.config.cls_token:
            return cast(Tensor, self.proj(fused["cls"].values[:, 0]))
        return _combine([self._project(name, masked_mean(fused[name])) for name in tokens])

    def _transformer(self, modality: str) -> FusionTransformer:
        per_modality = self.config.transformer == "per_modality"
        return cast(FusionTransformer, getattr(self, f"fusion_{modality}") if per_modality else self.fusion)

    def _project(self, modality: str, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        projection = getattr(self, f"{modality}_proj") if self.config.individual_projections else self.proj
        return cast(Tensor, projection(pooled))

    def embeddings(self, batch: Mapping[str, Tokens | None], *, fusion: Fusion | None = None) -> Embeddings:
        """The embeddings that the authors' code returns: t, v, a as they are, a pair as the mean of two unit vectors.

        Args:
            batch: any subset of text, video and audio; each pair of those given is embedded too.
            fusion: "joint" lets a pair's modalities attend to each other (va), "late" averages the two single
                embeddings (v+a of table 4); None: as configured, joint pairs or none at all.

        Raises:
            InputError: the batch has shapes or modalities that this model does not take.
        """
        tokens, nonempty = self.tokens(batch)
        vectors = {name: self._embed({name: tokens[name]}) for name in tokens}
        if fusion is None and not self.config.fused_pairs:
            return Embeddings(vectors, nonempty)
        for x, y in combinations(tokens, 2):
            late = fusion == "late" or not self.config.fused_pairs
            pair = _combine([vectors[x], vectors[y]]) if late else self._embed({x: tokens[x], y: tokens[y]})
            vectors[f"{x}+{y}"] = pair
        return Embeddings(vectors, nonempty)

    def encode(
        self,
        *,
        text: Tokens | None = None,
        video: Tokens | None = None,
        audio: Tokens | None = None,
        fusion: Fusion | None = None,
    ) -> Float[Tensor, "B E"]:
        """Equation 1 for any combination: unit vectors.

        A sample without one of the modalities given is embedded with the masking token in its place.

        Args:
            text: word vectors (B, N, text_dim).
            video: feature rows (B, N, video_dim).
            audio: log-mel frames (B, T, mel_bands), time before bands.
            fusion: "joint" or "late", see `embeddings`; None: as configured.

        Raises:
            InputError: no modality at all, or shapes that this model does not take.
        """
        given = {"text": text, "video": video, "audio": audio}
        tokens, _ = self.tokens({name: value for name, value in given.items() if value is not None})
        if fusion == "late" or not self.config.fused_pairs:
            return unit(_combine([self._embed({name: each}) for name, each in tokens.items()]))
        return unit(self._embed(tokens))

    # --- section 3.3: the combinatorial loss -------------------------------------------------------------------------

    def loss(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 2 over the six embeddings; terms that no sample of the batch can serve are left out."""
        vectors, nonempty = self.embeddings(batch)
        config = self.config
        contrast = (
            partial(norm_softmax, temperature=config.temperature)
            if config.contrast == "norm_softmax"
            else partial(margin_softmax, margin=config.margin)
        )
        return combinatorial_loss(vectors, nonempty, weights=config.lambdas(), contrast=contrast)

    # --- the authors' weights ----------------------------------------------------------------------------------------

    def from_official(
        self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
    ) -> EverythingAtOnce:
        """Take the authors' published weights; padded audio is then treated as the authors treat it.

        Args:
            state_dict: the "state_dict" of their checkpoint; the prefix "module." is taken off.
            config: the "args" of their model, in their names (video_embed_dim, fusion_params, ...). A new model of that
                shape is returned. Without it the weights go into this model, whose shape must fit.

        Raises:
            ConfigError: a key of `config` that the authors' model does not have.
            InputError: keys missing or unexpected, wrong shapes, numbers that are not finite.
        """
        model = self
        if config is not None:
            lambdas = {name: getattr(self.config, name) for name in _LAMBDA_NAMES}
            model = cast(EverythingAtOnce, create_model("everything_at_once", **lambdas, **official_config(config)))
        load_weights(model, state_dict)
        model.config = replace(model.config, audio_padding="published")
        return model


def reduce_audio_tokens(
    tokens: Float[Tensor, "N C"], *, num_real: int, num_tokens: int, how: Reduction
) -> Float[Tensor, "M C"]:
    """Bring the audio tokens of one clip to `num_tokens`, for clips longer than those trained on (table 6).

    The first `num_real` tokens are resampled ("nearest") or pooled; when there are no more than `num_tokens` of them,
    the first `num_tokens` are taken as they are, padding included, which is also what "clip" does.
    """
    if how == "none":
        return tokens
    if how == "clip" or num_real <= num_tokens:
        return tokens[:num_tokens]
    real = tokens[:num_real].T.unsqueeze(0)
    if how == "nearest":
        resampled = functional.interpolate(real, size=num_tokens, mode="nearest")
    elif how == "max_pool":
        resampled = functional.adaptive_max_pool1d(real, num_tokens)
    else:
        resampled = functional.adaptive_avg_pool1d(real, num_tokens)
    return resampled.squeeze(0).T


def _padded_to(audio: Tokens, *, num_frames: int) -> Tokens:
    missing = max(num_frames - audio.values.shape[1], 0)
    return Tokens(functional.pad(audio.values, (0, 0, 0, missing)), functional.pad(audio.mask, (0, missing)))


def _projection(kind: str, dim_in: int, dim_out: int) -> nn.Module:
    if kind == "gated":
        return GatedUnit(dim_in, dim_out)
    return nn.Linear(dim_in, dim_out) if kind == "linear" else nn.Identity()


def _combine(projected: list[Tensor]) -> Float[Tensor, "B E"]:
    """Equation 1 without its outer norm: the mean of the unit vectors. One embedding alone stays as it is."""
    return projected[0] if len(projected) == 1 else torch.stack([unit(each) for each in projected]).mean(dim=0)
