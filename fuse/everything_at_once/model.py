"""Everything at Once: a multi-modal fusion transformer for video retrieval.

Paper: Shvetsova et al., CVPR 2022 (arXiv 2112.04446); section and equation numbers below are its. Authors' code:
ninatu/everything_at_once@4daeab6, whose numbers this file gives and whose state-dict names its attributes keep.

Any set of modalities (equation 3): `extra_dims` adds modalities of feature rows to text, video and audio, each with a
token projection, a norm layer and a projection of its own. Of N modalities every combination of up to N - 1 is embedded
and every two disjoint ones are compared; beyond four, a training step sees a random four (section 3.2.3 proposes random
modality dropout, and leaves open how). With text, video and audio alone that is equation 2, in its order.

Legend: B batch, N tokens, D width of a token, E width of an embedding, t text, v video, a audio.

What follows the code where paper and code differ (the rest is in `fuse/layers` and `fuse/objectives`):
* Pooling is a masked mean; the paper prints a bare sum.
* Equation 1 normalises the sum of two unit vectors; the code keeps (unit + unit) / 2. `embeddings` gives the code's
  vector, `encode` the unit vector, which is the paper's.
* With a class token (an ablation), a pair's embedding is the one projected token, not a mean.
* A modality that a sample does not have is one learned masking token, put in after projection and normalisation.
* `fusion.norm` and `davenet.batchnorm1` are in the weights and never applied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..._vocabulary import InputError
from ..base import (
    MODALITIES,
    Embeddings,
    FusionModel,
    ModelConfig,
    Tokens,
    given_modalities,
    load_weights,
    padded_to,
    present_modalities,
)
from ..layers import (
    CLASS_TOKEN,
    LAYER_NORM_EPS,
    DAVEnet,
    FusionTransformer,
    GatedUnit,
    Linear,
    Packed,
    add_positions,
    join,
    pack,
    real_rows,
    token_mask,
)
from ..objectives import (
    combinatorial_loss,
    compared_samples,
    gathered,
    margin_softmax_loss,
    max_margin_loss,
    mil_nce_loss,
    norm_softmax_loss,
    unit,
)
from ..registry import create_model, register_model
from .combinations import combination_name, compared_combinations
from .config import EverythingAtOnceConfig, Reduction
from .official import official_config, to_official_config, unpacked_checkpoint

Fusion = Literal["joint", "late"]
_LAMBDA_NAMES = ("lambda_tv", "lambda_ta", "lambda_va", "lambda_t_va", "lambda_v_ta", "lambda_a_tv")
_TINY = {
    "video_dim": 24,
    "text_dim": 12,
    "audio_cnn": "davenet_tiny",
    "audio_cnn_blocks": (1, 1),
    "audio_cnn_widths": (8, 8, 16),
    "width": 16,
    "heads": 2,
    "projection_dim": 20,
}


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
@register_model("test_everything_at_once", summary="Everything at Once with random weights, for tests", defaults=_TINY)
@register_model(
    "test_everything_at_once_speech",
    summary="Everything at Once of four modalities with random weights, for tests",
    defaults={**_TINY, "extra_dims": {"speech": 12}},
)
class EverythingAtOnce(FusionModel):
    """Section 3: tokens of any modalities, one transformer for all of them; of three, six embeddings of each sample."""

    config_type: ClassVar[type[ModelConfig]] = EverythingAtOnceConfig
    paper: ClassVar[str] = "Shvetsova et al., Everything at Once, CVPR 2022 (arXiv 2112.04446)"
    config: EverythingAtOnceConfig

    def __init__(self, config: EverythingAtOnceConfig | None = None) -> None:
        super().__init__()
        self.name = "everything_at_once"
        self.config = config = config or EverythingAtOnceConfig()
        self.dim = config.projection_dim
        self.modalities = config.all_modalities()
        self._build_token_layers(config)

        def transformer() -> FusionTransformer:
            """Section 3.2.3."""
            return FusionTransformer(
                config.width,
                depth=config.depth,
                heads=config.heads,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
                cls_token=config.cls_token,
            )

        self.fusion = transformer()
        if config.transformer == "per_modality":
            self.fusion_text = self.fusion  # the authors' weights hold the text's under both names
            for name in ("video", "audio", *config.extra_dims):
                setattr(self, f"fusion_{name}", transformer())
        # Section 3.2.4: g_t, g_v and g_a, or one for all.
        names = [f"{name}_proj" for name in config.token_widths()] if config.individual_projections else ["proj"]
        for name in names:
            setattr(self, name, _projection(config.projection, config.width, config.projection_dim))
        # A modality left out keeps its weights, as in the authors' text-video model, and does not train.
        for name in set(MODALITIES) - set(self.modalities):
            parts = [f"{name}_token_proj", f"{name}_norm_layer", f"{name}_proj"] + ["davenet"] * (name == "audio")
            for part in parts:
                if hasattr(self, part):
                    getattr(self, part).requires_grad_(requires_grad=False)

    def _build_token_layers(self, config: EverythingAtOnceConfig) -> None:
        """Section 3.2.1."""
        spec = config.audio_spec()
        self.davenet = DAVEnet(mel_bands=config.mel_bands, blocks=spec.blocks, widths=spec.widths, kernel=spec.kernel)
        self.audio_stride = self.davenet.stride
        limits = dict.fromkeys(config.extra_dims, config.max_extra_tokens) | {
            "video": config.max_video_tokens,
            "text": config.max_words,
            "audio": config.max_audio_frames // self.audio_stride,
        }
        for name, width in config.token_widths().items():
            setattr(self, f"{name}_token_proj", _projection(config.token_projection, width, config.width))
            setattr(self, f"{name}_norm_layer", nn.LayerNorm(config.width, eps=LAYER_NORM_EPS))
            if config.positional:
                positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, limits[name], config.width), std=0.02))
                setattr(self, f"{name}_pos_embed", positions)

    # --- section 3.2.1: token creation -------------------------------------------------------------------------------

    def tokens(self, batch: Mapping[str, Tokens | None]) -> tuple[dict[str, Packed], dict[str, Tensor]]:
        """The tokens of each modality in the batch, packed, and (B,) bool: which samples really have it.

        The audio CNN and the projections run once here; every combination shares what they give.
        """
        made, nonempty = {}, {}
        for name, given in given_modalities(batch, dims=self.config.row_dims(), allowed=self.modalities).items():
            rows = self._audio_rows(given) if name == "audio" else given
            projected = getattr(self, f"{name}_token_proj")(real_rows(rows.values, rows.mask))
            normed = getattr(self, f"{name}_norm_layer")(projected)
            made[name] = pack(normed, rows.mask, self.fusion.masking_token)
            if self.config.positional:
                positions, num_places = getattr(self, f"{name}_pos_embed"), made[name].mask.shape[1]
                if num_places > positions.shape[1]:
                    raise InputError(
                        f"{name} has {num_places} tokens and this model's positional embedding ends at "
                        f"{positions.shape[1]}; cut the input"
                    )
                made[name] = add_positions(made[name], positions[0])
            nonempty[name] = rows.mask.bool().any(dim=1)
        return made, nonempty

    def _audio_rows(self, audio: Tokens) -> Tokens:
        audio = padded_to(audio, self.config.pad_audio_to)
        is_silenced = self.config.audio_padding == "silenced"
        values = self.davenet(audio.values, audio.mask if is_silenced else None)
        # The authors share out the frames evenly: fewer than the stride where their number is not a multiple of it.
        stride = self.audio_stride if is_silenced else -(-audio.values.shape[1] // values.shape[1])
        mask = token_mask(audio.mask, stride=stride)
        if self.config.audio_reduction == "none":
            return Tokens(values, mask)
        num_real = audio.mask.bool().sum(dim=1) // stride
        limit = self.config.max_audio_frames // self.audio_stride
        reduced = [
            reduce_audio_tokens(row, num_real=int(count), num_tokens=limit, how=self.config.audio_reduction)
            for row, count in zip(values, num_real, strict=True)
        ]
        return Tokens(torch.stack(reduced), mask[:, :limit])

    # --- sections 3.2.3 and 3.2.4: fusion and projection -------------------------------------------------------------

    def _embed(
        self, tokens: Mapping[str, Packed], combinations: Collection[str], samples: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Equation 1, before its outer norm, of several combinations of modalities at once: (B, E) by their names.

        `samples` are the positions of those wanted, of a combination not wanted of all; rows of the others are 0.
        """
        # Section 3.2.3: the transformer over every combination; means over tokens by modality, then by combination.
        per_modality = self.config.transformer == "per_modality"
        groups = [[name] for name in combinations] if per_modality else [list(combinations)]
        pooled: dict[str, dict[str, Tensor]] = {}
        for group in filter(None, groups):
            transformer = getattr(self, f"fusion_{group[0]}") if per_modality else self.fusion
            needed = {name: each for name, each in tokens.items() if name in "+".join(group).split("+")}
            joined = join(needed, group, samples=samples, class_token=transformer.cls_token)
            pooled |= joined.by_part(transformer(joined.values, joined.sequences, joined.pool))
        # Section 3.2.4: g_t, g_v or g_a of a modality's means in all combinations that it is part of.
        projected: dict[str, dict[str, Tensor]] = {}
        for part, means in pooled.items():
            name = f"{part}_proj" if self.config.individual_projections else "proj"
            rows = getattr(self, name)(torch.cat(list(means.values())))
            projected[part] = dict(zip(means, rows.split([len(each) for each in means.values()]), strict=True))
        batch_size = len(next(iter(tokens.values())).mask)
        vectors = {}
        for combination in combinations:
            parts = [CLASS_TOKEN] if self.config.cls_token else combination.split("+")
            embedded = _combine([projected[part][combination] for part in parts])
            if (chosen := (samples or {}).get(combination)) is not None:
                embedded = embedded.new_zeros(batch_size, embedded.shape[1]).index_copy(0, chosen, embedded)
            vectors[combination] = embedded
        return vectors

    def embeddings(
        self,
        batch: Mapping[str, Tokens | None],
        *,
        fusion: Fusion | None = None,
        combinations: Sequence[str] | None = None,
        terms: Collection[tuple[str, str]] | None = None,
    ) -> Embeddings:
        """The embeddings that the authors' code returns: t, v, a as they are, a pair as the mean of two unit vectors.

        Args:
            batch: any subset of the model's modalities.
            fusion: "joint" lets the modalities of a combination attend to each other (va), "late" averages the single
                embeddings (v+a of table 4); None: as configured, joint combinations or none at all.
            combinations: which to embed, such as "video+audio"; those of which the batch lacks a modality altogether
                are left out. None: singles, pairs, and so on up to all of those given but one; of two, the pair too.
            terms: pairs of combinations that a loss compares: joint embeddings of samples that it does not look at are
                then not computed, and 0. None: those of all samples are.

        Raises:
            InputError: the batch has shapes or modalities that this model does not take.
        """
        tokens, nonempty = self.tokens(batch)
        if combinations is None:
            wanted = compared_combinations(list(tokens))
        else:
            named = [combination_name(each, order=self.modalities) for each in combinations]
            wanted = [each for each in dict.fromkeys(named) if set(each.split("+")) <= tokens.keys()]
        if fusion is None and not self.config.fused_pairs:
            wanted = [each for each in wanted if "+" not in each]
        if self._is_late(fusion):
            alone = self._embed(tokens, dict.fromkeys(name for each in wanted for name in each.split("+")))
            return Embeddings({each: _combine([alone[name] for name in each.split("+")]) for each in wanted}, nonempty)
        samples = None if terms is None else compared_samples(terms, nonempty, embedded=wanted)
        return Embeddings(self._embed(tokens, wanted, samples), nonempty)

    def _is_late(self, fusion: Fusion | None) -> bool:
        """Whether combinations are averages of single embeddings. Transformers of one modality each can do no other."""
        asked = fusion == "late" or (fusion is None and not self.config.fused_pairs)
        return asked or self.config.transformer == "per_modality"

    def encode(  # type: ignore[override]  # no modality may be called "fusion"
        self,
        *,
        text: Tokens | None = None,
        video: Tokens | None = None,
        audio: Tokens | None = None,
        fusion: Fusion | None = None,
        **more: Tokens | None,
    ) -> Float[Tensor, "B E"]:
        """Equation 1 for any combination: unit vectors.

        A sample without one of the modalities given is embedded with the masking token in its place.

        Args:
            text: word vectors (B, N, text_dim).
            video: feature rows (B, N, video_dim).
            audio: log-mel frames (B, T, mel_bands), time before bands.
            fusion: "joint" or "late", see `embeddings`; None: as configured.
            more: feature rows (B, N, its width) of further modalities, by the names in `extra_dims`.

        Raises:
            InputError: no modality at all, one that the model does not have, or shapes that it does not take.
        """
        tokens, _ = self.tokens({"text": text, "video": video, "audio": audio, **more})
        if self._is_late(fusion):
            return unit(_combine(list(self._embed(tokens, list(tokens)).values())))
        (fused,) = self._embed(tokens, ["+".join(tokens)]).values()
        return unit(fused)

    # --- section 3.3: the combinatorial loss -------------------------------------------------------------------------

    def loss(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 3 (2, with three modalities) over the embeddings that it compares.

        Terms that no sample of the batch can serve are left out. Where more than `max_modalities_per_step` are given,
        and gradients are wanted, as many of them are drawn from torch's generator: the same on every process that was
        seeded alike, and the same again in a training that was resumed.
        """
        config = self.config
        batch = self._drawn(batch)
        given = present_modalities(batch, self.modalities)
        weights = config.loss_weights(given)
        terms = [term for term, weight in weights.items() if weight]
        compared = [side for term in terms for side in term]
        vectors, nonempty = gathered(*self.embeddings(batch, combinations=[*given, *compared], terms=terms))
        contrasts: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "norm_softmax": partial(norm_softmax_loss, temperature=config.temperature),
            "margin_softmax": partial(margin_softmax_loss, margin=config.margin),
            "mil_nce": partial(mil_nce_loss, temperature=config.temperature),
            "max_margin": partial(max_margin_loss, margin=config.margin),
        }
        return combinatorial_loss(vectors, nonempty, weights=weights, contrast=contrasts[config.contrast])

    def _drawn(self, batch: Mapping[str, Tokens | None]) -> Mapping[str, Tokens | None]:
        """Random modality dropout: a batch of no more modalities than a training step sees."""
        present = present_modalities(batch, self.modalities)
        if len(present) <= self.config.max_modalities_per_step or not torch.is_grad_enabled():
            return batch
        shuffled = [self.modalities[index] for index in torch.randperm(len(self.modalities)).tolist()]
        kept = [name for name in shuffled if name in present][: self.config.max_modalities_per_step]
        return {name: tokens for name, tokens in batch.items() if name in kept or name not in self.modalities}

    # --- the authors' weights ----------------------------------------------------------------------------------------

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> EverythingAtOnce:
        """Take the authors' published weights; padded audio is then treated as the authors treat it.

        Args:
            state_dict: their whole checkpoint, or its "state_dict" alone; the prefix "module." is taken off.
            config: their configuration, or the "args" of their model alone, in their names (video_embed_dim,
                fusion_params, ...); None: the checkpoint's own. A new model of that shape is returned. Where there is
                none the weights go into this model, whose shape must fit.

        Raises:
            ConfigError: a class or key of `config` that the authors' code does not have.
            InputError: keys missing or unexpected, wrong shapes, numbers that are not finite.
        """
        weights, theirs = unpacked_checkpoint(state_dict, config)
        model = self
        if theirs is not None:
            lambdas = {name: getattr(self.config, name) for name in _LAMBDA_NAMES}
            model = cast(EverythingAtOnce, create_model("everything_at_once", **{**lambdas, **official_config(theirs)}))
        load_weights(model, weights)
        model.config = model.config.replaced(audio_padding="published")
        return model

    def to_official(self) -> dict[str, Any]:
        """A checkpoint that the authors' code reads, and `from_official`.

        Their code lets padded frames run through the audio CNN: the embeddings of a model that silences them are the
        same there where audio is not padded. It says epoch 0, since their evaluation reports one.

        Returns:
            "arch" (their class), "epoch", "state_dict" (under their names, the tensors being the model's own) and
            "config" ("arch" and "loss" of their configuration).

        Raises:
            ConfigError: their code has no such model: further modalities, another audio CNN.
        """
        config = to_official_config(self.config)
        return {"arch": config["arch"]["type"], "epoch": 0, "state_dict": dict(self.state_dict()), "config": config}


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


def _projection(kind: str, dim_in: int, dim_out: int) -> nn.Module:
    if kind == "gated":
        return GatedUnit(dim_in, dim_out)
    return Linear(dim_in, dim_out) if kind == "linear" else nn.Identity()


def _combine(projected: list[Tensor]) -> Float[Tensor, "B E"]:
    """Equation 1 without its outer norm: the mean of the unit vectors. One embedding alone stays as it is."""
    return projected[0] if len(projected) == 1 else torch.stack([unit(each) for each in projected]).mean(dim=0)
