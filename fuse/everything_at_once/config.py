"""The configuration of Everything at Once. The authors' names for it are in `_everything_at_once_official.py`.

Paper: Shvetsova et al., CVPR 2022 (arXiv 2112.04446). Authors' configurations: ninatu/everything_at_once@4daeab6.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..._vocabulary import ConfigError
from ..base import MODALITIES, ModelConfig
from ..layers import AUDIO_CNNS, AudioCNNSpec
from .combinations import loss_terms, term_of

Reduction = Literal["none", "clip", "nearest", "max_pool", "avg_pool"]
PUBLISHED_LAMBDAS = (1.0, 0.1, 0.1, 0.1, 0.1, 0.1)
_RESERVED_NAMES = (*MODALITIES, "cls", "fusion", "self")


@dataclass(frozen=True, kw_only=True)
class EverythingAtOnceConfig(ModelConfig):
    """The published model; each field names its ablation.

    Attributes:
        video_dim: width of a video feature row (4096: ResNet-152 beside ResNeXt-101).
        text_dim: width of a word vector.
        mel_bands: mel bands of the spectrogram.
        modalities: which of text, video and audio the model embeds; without audio it is the paper's "tv" model.
        extra_dims: further modalities of feature rows and the widths of these, such as {"speech": 300} for a second
            stream of words. They are joined after the three, in alphabetical order.
        audio_cnn: registered audio CNN.
        audio_cnn_blocks: residual blocks of each of its stages; empty for the registered ones.
        audio_cnn_widths: channels of its stem and stages; empty for the registered ones.
        audio_padding: whether padded frames are silenced, so that a clip's embedding does not depend on how far it is
            padded, or run through the audio CNN, as the authors let them ("published").
        pad_audio_to: frames to which shorter audio is padded first; the authors always pad to their limit (768). Felt
            only where padding is not silenced. 0 leaves the audio as it comes.
        audio_reduction: how more audio tokens than `max_audio_frames` gives become that many; "none" keeps all.
        max_audio_frames: spectrogram frames that a clip has at most, where a limit applies.
        max_video_tokens: video rows that a clip has at most, where positional embeddings are used.
        max_words: words that a caption has at most, where positional embeddings are used.
        max_extra_tokens: rows of a further modality that a clip has at most, where positional embeddings are used.
        token_projection: features to tokens: gated unit, one linear layer, or nothing.
        width: width D of a token.
        depth: transformer blocks; 0 is "no transformers".
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over `width`.
        qkv_bias: whether queries, keys and values have a bias.
        transformer: one for all modalities, or one each (which cannot fuse).
        fused_pairs: whether the objective sees fused pairs ("fusion without combinatorial loss": no).
        cls_token: embed by a class token and not by averages; needs the shared projection.
        positional: add learned positional embeddings.
        projection: tokens to embeddings: gated unit, one linear layer, or nothing.
        projection_dim: width E of an embedding.
        individual_projections: a projection for each modality, or one for all.
        contrast: the contrastive loss: equation 4, or for comparison AVLnet's, MIL-NCE's or HowTo100M's, of cosines.
        temperature: tau of equation 4, and of "mil_nce" (1 as published there, of dot products).
        margin: of "margin_softmax" (0.001 as published), and of "max_margin" (0.1).
        lambda_tv: weight of text against video in equation 2.
        lambda_ta: weight of text against audio.
        lambda_va: weight of video against audio.
        lambda_t_va: weight of text against video+audio.
        lambda_v_ta: weight of video against text+audio.
        lambda_a_tv: weight of audio against text+video.
        lambda_extra: weight of every term of equation 3 in which a further modality takes part.
        lambdas: other weights for some of those, such as {"text|video+speech": 1.0}.
        max_modalities_per_step: of more modalities than this, a training step sees as many, drawn at random: with N
            modalities there are 2 ** N - 2 passes and (3 ** N - 2 ** (N + 1) + 1) / 2 terms (14 and 25 of four, 62 and
            301 of six), and the paper proposes random modality dropout beyond four.
    """

    video_dim: int = 4096
    text_dim: int = 300
    mel_bands: int = 40
    modalities: tuple[str, ...] = MODALITIES
    # Mappings have no hash; configurations that are equal have equal hashes without them.
    extra_dims: Mapping[str, int] = field(default_factory=dict, hash=False)
    audio_cnn: str = "davenet_v2"
    audio_cnn_blocks: tuple[int, ...] = ()
    audio_cnn_widths: tuple[int, ...] = ()
    audio_padding: Literal["silenced", "published"] = "silenced"
    pad_audio_to: int = 0
    audio_reduction: Reduction = "none"
    max_audio_frames: int = 768
    max_video_tokens: int = 12
    max_words: int = 20
    max_extra_tokens: int = 20
    token_projection: Literal["gated", "linear", "none"] = "gated"  # noqa: S105
    width: int = 4096
    depth: int = 1
    heads: int = 64
    mlp_ratio: float = 1.0
    qkv_bias: bool = True
    transformer: Literal["shared", "per_modality"] = "shared"
    fused_pairs: bool = True
    cls_token: bool = False
    positional: bool = False
    projection: Literal["gated", "linear", "none"] = "gated"
    projection_dim: int = 6144
    individual_projections: bool = True
    contrast: Literal["norm_softmax", "margin_softmax", "mil_nce", "max_margin"] = "norm_softmax"
    temperature: float = 0.05
    margin: float = 0.001
    lambda_tv: float = PUBLISHED_LAMBDAS[0]
    lambda_ta: float = PUBLISHED_LAMBDAS[1]
    lambda_va: float = PUBLISHED_LAMBDAS[2]
    lambda_t_va: float = PUBLISHED_LAMBDAS[3]
    lambda_v_ta: float = PUBLISHED_LAMBDAS[4]
    lambda_a_tv: float = PUBLISHED_LAMBDAS[5]
    lambda_extra: float = 0.1
    lambdas: Mapping[str, float] = field(default_factory=dict, hash=False)
    max_modalities_per_step: int = 4

    def __post_init__(self) -> None:
        # Lists come from JSON and YAML; tuples compare and hash. Mappings come back from JSON in another order.
        for name in ("modalities", "audio_cnn_blocks", "audio_cnn_widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "extra_dims", dict(sorted(self.extra_dims.items())))
        self._check_modalities()
        object.__setattr__(self, "lambdas", self._checked_lambdas())
        self._check()

    def _check_modalities(self) -> None:
        if not set(self.modalities) <= set(MODALITIES) or len(set(self.modalities)) < len(self.modalities):
            raise ConfigError(
                f"modalities {self.modalities} must be of {', '.join(MODALITIES)}; name further ones in extra_dims"
            )
        if len(self.all_modalities()) < 2:
            raise ConfigError(f"modalities {self.modalities} are too few: two or more are brought together")
        for name, width in self.extra_dims.items():
            # A name ending in _token would share a layer's name with another modality's token projection.
            if not re.fullmatch("[a-z][a-z0-9_]*", name) or name.endswith("_token") or name in _RESERVED_NAMES:
                raise ConfigError(
                    f"extra_dims: {name!r} cannot name a modality; use small letters, digits and _, begin with a "
                    f"letter, do not end with _token, and leave out {', '.join(_RESERVED_NAMES)}"
                )
            if width <= 0:
                raise ConfigError(f"extra_dims.{name} is {width}; the width of a row must be above 0")
        if self.max_modalities_per_step < 2:
            raise ConfigError(f"max_modalities_per_step is {self.max_modalities_per_step}; it must be 2 or more")

    def _checked_lambdas(self) -> dict[str, float]:
        """`lambdas` with every term written in the model's order."""
        checked: dict[str, float] = {}
        for written, weight in self.lambdas.items():
            x, y = term_of(written, order=self.all_modalities(), where="lambdas")
            if (x, y) in self._published_lambdas():
                raise ConfigError(f"lambdas: {written!r} is a term of equation 2; set its own lambda_... option")
            if f"{x}|{y}" in checked:
                raise ConfigError(f"lambdas: {written!r} is there twice, in two spellings; keep one of them")
            checked[f"{x}|{y}"] = weight
        for name, weight in {"lambda_extra": self.lambda_extra, **checked}.items():
            if not 0 <= weight < math.inf:
                raise ConfigError(f"{name}: a weight of the loss must be 0 or more; got {weight}")
        return dict(sorted(checked.items()))

    def _check(self) -> None:
        for name in ("temperature", "width", "projection_dim", "heads", "video_dim", "text_dim", "mel_bands"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.depth < 0:
            raise ConfigError(f"depth is {self.depth}; it must be 0 or more")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} cannot be shared by {self.heads} heads; use a multiple of heads")
        if self.cls_token and self.individual_projections:
            raise ConfigError("cls_token=True needs individual_projections=False: the class token has no modality")
        if self.transformer == "per_modality" and (self.cls_token or self.fused_pairs):
            raise ConfigError("transformer='per_modality' cannot fuse: set fused_pairs=False and cls_token=False")
        token_widths = {*self.token_widths().values(), self.width}
        if self.token_projection == "none" and len(token_widths) > 1:  # noqa: S105
            raise ConfigError(f"token_projection='none' needs features as wide as tokens; widths are {token_widths}")
        if self.projection == "none" and self.projection_dim != self.width:
            raise ConfigError(
                f"projection='none' needs projection_dim {self.width}, as width; got {self.projection_dim}"
            )

    def all_modalities(self) -> tuple[str, ...]:
        """What the model embeds, in its order: text, video, audio, then the further ones."""
        return (*(name for name in MODALITIES if name in self.modalities), *self.extra_dims)

    def row_dims(self) -> dict[str, int]:
        """The width of a row of each modality, of those left out too."""
        return {"text": self.text_dim, "video": self.video_dim, "audio": self.mel_bands, **self.extra_dims}

    def token_widths(self) -> dict[str, int]:
        """The width of what each modality's token projection takes."""
        return {**self.row_dims(), "audio": self.audio_spec().widths[-1]}

    def audio_spec(self) -> AudioCNNSpec:
        """The audio CNN's shape, with this configuration's own blocks and widths where it has some."""
        registered = AUDIO_CNNS[self.audio_cnn]
        blocks = self.audio_cnn_blocks or registered.blocks
        widths = self.audio_cnn_widths or registered.widths
        if len(widths) != len(blocks) + 1:
            raise ConfigError(
                f"audio_cnn_widths {list(widths)} needs one width for the stem and one for each of {len(blocks)} stages"
            )
        return AudioCNNSpec(blocks, widths, registered.kernel)

    def loss_weights(self, modalities: Sequence[str] | None = None) -> dict[tuple[str, str], float]:
        """The weights of equation 3 by the embeddings that each term compares: those of equation 2, and further ones.

        Args:
            modalities: of terms among these alone, in the model's order; None: among all of the model's.
        """
        published = self._published_lambdas()
        terms = loss_terms(self.all_modalities() if modalities is None else modalities)
        own = {term: self.lambdas.get("|".join(term), self.lambda_extra) for term in terms}
        return {term: published.get(term, weight) for term, weight in own.items()}

    def _published_lambdas(self) -> dict[tuple[str, str], float]:
        return {
            ("text", "video"): self.lambda_tv,
            ("text", "audio"): self.lambda_ta,
            ("video", "audio"): self.lambda_va,
            ("text", "video+audio"): self.lambda_t_va,
            ("video", "text+audio"): self.lambda_v_ta,
            ("audio", "text+video"): self.lambda_a_tv,
        }
