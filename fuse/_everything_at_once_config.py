"""The configuration of Everything at Once, and the authors' names for it.

Paper: Shvetsova et al., CVPR 2022 (arXiv 2112.04446). Authors' configurations: ninatu/everything_at_once@4daeab6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .._vocabulary import ConfigError
from ._face import MODALITIES, ModelConfig, renamed_config
from .davenet import AUDIO_CNNS, AudioCNNSpec

Reduction = Literal["none", "clip", "nearest", "max_pool", "avg_pool"]
PUBLISHED_LAMBDAS = (1.0, 0.1, 0.1, 0.1, 0.1, 0.1)


@dataclass(frozen=True, kw_only=True)
class EverythingAtOnceConfig(ModelConfig):
    """The published model; each field names its ablation.

    Attributes:
        video_dim: width of a video feature row (4096: ResNet-152 beside ResNeXt-101).
        text_dim: width of a word vector.
        mel_bands: mel bands of the spectrogram.
        modalities: which of text, video and audio the model embeds; without audio it is the paper's "tv" model.
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
        contrast: the contrastive loss.
        temperature: tau of equation 4.
        margin: margin of the margin softmax.
        lambda_tv: weight of text against video in equation 2.
        lambda_ta: weight of text against audio.
        lambda_va: weight of video against audio.
        lambda_t_va: weight of text against video+audio.
        lambda_v_ta: weight of video against text+audio.
        lambda_a_tv: weight of audio against text+video.
    """

    video_dim: int = 4096
    text_dim: int = 300
    mel_bands: int = 40
    modalities: tuple[str, ...] = MODALITIES
    audio_cnn: str = "davenet_v2"
    audio_cnn_blocks: tuple[int, ...] = ()
    audio_cnn_widths: tuple[int, ...] = ()
    audio_padding: Literal["silenced", "published"] = "silenced"
    pad_audio_to: int = 0
    audio_reduction: Reduction = "none"
    max_audio_frames: int = 768
    max_video_tokens: int = 12
    max_words: int = 20
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
    contrast: Literal["norm_softmax", "margin_softmax"] = "norm_softmax"
    temperature: float = 0.05
    margin: float = 0.001
    lambda_tv: float = PUBLISHED_LAMBDAS[0]
    lambda_ta: float = PUBLISHED_LAMBDAS[1]
    lambda_va: float = PUBLISHED_LAMBDAS[2]
    lambda_t_va: float = PUBLISHED_LAMBDAS[3]
    lambda_v_ta: float = PUBLISHED_LAMBDAS[4]
    lambda_a_tv: float = PUBLISHED_LAMBDAS[5]

    def __post_init__(self) -> None:
        # Lists come from JSON and YAML; tuples compare and hash.
        for name in ("modalities", "audio_cnn_blocks", "audio_cnn_widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check()

    def _check(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} cannot be shared by {self.heads} heads; use a multiple of heads")
        if self.cls_token and self.individual_projections:
            raise ConfigError("cls_token=True needs individual_projections=False: the class token has no modality")
        if self.transformer == "per_modality" and (self.cls_token or self.fused_pairs):
            raise ConfigError("transformer='per_modality' cannot fuse: set fused_pairs=False and cls_token=False")
        if not set(self.modalities) <= set(MODALITIES) or len(self.modalities) < 2:
            raise ConfigError(f"modalities {self.modalities} must be two or three of {', '.join(MODALITIES)}")
        token_widths = {self.video_dim, self.text_dim, self.audio_spec().widths[-1], self.width}
        if self.token_projection == "none" and len(token_widths) > 1:  # noqa: S105
            raise ConfigError(f"token_projection='none' needs features as wide as tokens; widths are {token_widths}")
        if self.projection == "none" and self.projection_dim != self.width:
            raise ConfigError(
                f"projection='none' needs projection_dim {self.width}, as width; got {self.projection_dim}"
            )
        for name in ("temperature", "width", "projection_dim", "heads"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")

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

    def lambdas(self) -> dict[tuple[str, str], float]:
        """The weights of equation 2 by the embeddings that each term compares."""
        return {
            ("text", "video"): self.lambda_tv,
            ("text", "audio"): self.lambda_ta,
            ("video", "audio"): self.lambda_va,
            ("text", "video+audio"): self.lambda_t_va,
            ("video", "text+audio"): self.lambda_v_ta,
            ("audio", "text+video"): self.lambda_a_tv,
        }


_OFFICIAL_NAMES = {
    "video_embed_dim": "video_dim",
    "text_embed_dim": "text_dim",
    "fusion_params": "fusion_params",
    "projection_dim": "projection_dim",
    "davenet_v2": "audio_cnn",
    "token_projection": "token_projection",
    "projection": "projection",
    "strategy_audio_pooling": "audio_reduction",
    "individual_projections": "individual_projections",
    "use_positional_emb": "positional",
    "video_max_tokens": "max_video_tokens",
    "text_max_tokens": "max_words",
    "audio_max_num_STFT_frames": "max_audio_frames",
    "cross_modal": "fused_pairs",
    "modalities": "modalities",
    "transformer": "transformer",
}
_OFFICIAL_FUSION_NAMES = {
    "embed_dim": "width",
    "depth": "depth",
    "num_heads": "heads",
    "mlp_ratio": "mlp_ratio",
    "qkv_bias": "qkv_bias",
    "use_cls_token": "cls_token",
}
_OFFICIAL_PROJECTIONS = {"gated": "gated", "minimal": "linear", "": "none"}


def official_config(official: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `create_model` that build the model of an official configuration.

    Three keys are not the authors' arguments but tell their classes apart: "modalities" (["text", "video"] for the
    TV-only class), "transformer" ("per_modality" for the class of that name) and "cross_modal".
    """
    options = renamed_config(official, _OFFICIAL_NAMES, where="the authors' EverythingAtOnceModel")
    fusion = options.pop("fusion_params", {})
    options |= renamed_config(fusion, _OFFICIAL_FUSION_NAMES, where="the authors' FusionTransformer")
    if "audio_cnn" in options:
        options["audio_cnn"] = "davenet_v2" if options["audio_cnn"] else "davenet_v1"
    for name in ("token_projection", "projection"):
        if name in options:
            options[name] = _OFFICIAL_PROJECTIONS.get(options[name], options[name])
    return {name: value for name, value in options.items() if value is not None}
