"""MILES: masked visual modelling with targets that know language, and its base, Frozen in Time.

Papers: Ge et al., "MILES: Visual BERT Pre-training with Injected Language Semantics for Video-text Retrieval", ECCV
2022 (arXiv 2204.12408), whose sections and equations are named below; Bain et al., "Frozen in Time", ICCV 2021 (arXiv
2104.00650). Authors' code: TencentARC/MCQ@3555a9b (MILES/, evaluation alone), m-bain/frozen-in-time@e1f13e1. Video
encoder: `fuse/layers/vit.py`.

Legend: B batch, T frames, N patches of a frame, S = 1 + T N tokens, R masked places of a batch, D width, E width of an
embedding.

What follows the code where paper and code differ:
* Similarity is the cosine; the paper prints a dot product.
* The projection is one linear layer, the text's after a ReLU; the paper says two layers.
* Equation 2 is a mean over the batch in each direction, and the two are added; the paper prints sums.

What no code was published for follows the paper: the mask token replaces a patch after its projection and before its
positions are added; the snapshot encoder sees the whole clip. Each choice that the paper leaves open is a field of
`MILESConfig`. "theta is set as 0.996" (section 4.3) means lambda.

Deviations: frames that are padding are seen by nobody and predicted by nobody; the authors' clips are filled up with
black frames, which are seen. In evaluation mode `loss` draws the masks of step 0, and neither counts nor updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ..base import ModelConfig, Tokens
from ..layers import Bert, BertSpec, Linear, SpaceTimeTransformer, patches_of
from ..objectives import (
    combinatorial_loss,
    first_sample,
    gathered,
    masked_regression,
    norm_softmax_loss,
    unit,
)
from ..pixels import PixelModel, nonempty_of
from ..registry import create_model, register_model
from .config import MILESConfig
from .masks import batch_mask
from .official import initialised_from, loaded_weights, official_weights, resolved_config, to_official_config

TINY = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 6,
    "vocab_size": 40,
    "max_words": 12,
    "width": 24,
    "depth": 2,
    "heads": 2,
    "text_width": 16,
    "text_depth": 2,
    "text_heads": 2,
    "text_hidden": 32,
    "text_positions": 16,
    "projection_dim": 20,
}
FROZEN = "frozen_in_time"


@register_model("miles", summary="MILES (ECCV 2022): dual encoder from pixels, masked visual modelling on snapshots")
@register_model(
    FROZEN,
    summary="Frozen in Time (ICCV 2021): dual encoder from pixels, the base of MILES",
    defaults={"target": "none", "time_init": "zeros"},
)
@register_model(
    "test_miles",
    summary="MILES with random weights, for tests",
    defaults={**TINY, "warmup_epochs": 0, "min_block": 2, "text_dropout": 0.0},
)
class MILES(PixelModel):
    """Section 3: a space-time transformer and DistilBERT, contrasted, and masked patches regressed on a snapshot."""

    config_type: ClassVar[type[ModelConfig]] = MILESConfig
    paper: ClassVar[str] = "Ge et al., MILES, ECCV 2022 (arXiv 2204.12408)"
    config: MILESConfig
    num_epochs: Tensor
    num_steps: Tensor
    start_from = initialised_from

    def __init__(self, config: MILESConfig | None = None) -> None:
        super().__init__()
        self.name = "miles"
        self.config = config = config or MILESConfig()
        self.dim = config.projection_dim
        self.text_model = Bert(
            BertSpec(
                vocabulary=config.vocab_size,
                width=config.text_width,
                depth=config.text_depth,
                heads=config.text_heads,
                hidden=config.text_hidden,
                max_positions=config.text_positions,
                num_types=config.text_types,
                dropout=config.text_dropout,
                attention_dropout=config.text_dropout,
                pooler=config.text_types > 0,
            )
        )
        if self.text_model.pooler is not None and config.text_output == "cls":
            self.text_model.pooler.requires_grad_(requires_grad=False)  # in the weights of BERT, and not read
        self.video_model = video_encoder(config, mask_token=config.target != "none")
        if config.temporal_std:
            nn.init.normal_(self.video_model.temporal_embed, std=config.temporal_std)
        is_projected = config.projection == "minimal"
        self.text_proj = (
            nn.Sequential(nn.ReLU(), Linear(config.text_width, self.dim)) if is_projected else nn.Identity()
        )
        self.vid_proj = nn.Sequential(Linear(config.width, self.dim)) if is_projected else nn.Identity()
        if config.target == "none":
            return
        feature_width = self.dim if config.mvm_features == "projected" else config.width
        self.regression: nn.Module = nn.Identity()
        if config.target == "pixels":
            self.regression = Linear(config.width, 3 * config.patch_size**2)
        elif config.regression_head == "linear":
            self.regression = Linear(feature_width, feature_width)
        if self.keeps_snapshot:
            self.snapshot = video_encoder(config).requires_grad_(requires_grad=False)
            update_snapshot(self.snapshot, self.video_model, momentum=0.0)
        # Kept with the weights, so that a training that is resumed draws what it would have drawn.
        self.register_buffer("num_epochs", torch.zeros((), dtype=torch.int64))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))

    @property
    def keeps_snapshot(self) -> bool:
        """Whether the targets come from an encoder apart (table 8)."""
        return self.config.target == "snapshot" and self.config.snapshot_update != "current"

    # --- section 3.4: encoders ---------------------------------------------------------------------------------------

    def embed(self, modality: str, tokens: Tokens) -> Float[Tensor, "B E"]:
        """The projected [CLS] of a text, or class token of a clip."""
        values, mask = tokens.values, tokens.mask.bool()
        if modality == "text":
            return self.project_text(self.text_model(values, mask))
        return cast(Tensor, self.vid_proj(self.video_model(values, mask, rows=self._class_tokens(values))))

    def project_text(self, hidden: Float[Tensor, "B L D"]) -> Float[Tensor, "B E"]:
        """The projection of a text's hidden states, of which the first is read."""
        pooler = self.text_model.pooler if self.config.text_output == "pooler" else None
        return cast(Tensor, self.text_proj(hidden[:, 0] if pooler is None else pooler(hidden)))

    def _class_tokens(self, video: Tensor) -> Int[Tensor, " B"]:
        """The places of the class tokens among the tokens of a batch."""
        num_patches = self.video_model.pos_embed.shape[1] - 1
        return torch.arange(len(video), device=video.device) * (1 + video.shape[1] * num_patches)

    def word_patches(self, *, text: Tokens, video: Tokens) -> Float[Tensor, "B L T N"]:
        """Figure 3: the cosine of a text's tokens with a clip's patches, all projected as what is contrasted is."""
        given = self.given({"text": text, "video": video})
        words = self.text_proj(self.text_model(given["text"].values, given["text"].mask.bool()))
        pictures, frames = given["video"].values, given["video"].mask.bool()
        patches = self.vid_proj(self.video_model(pictures, frames)[:, 1:])
        unit_words, unit_patches = (unit(each.flatten(0, 1)).view_as(each) for each in (words, patches))
        cosines = torch.einsum("ble,bse->bls", unit_words, unit_patches)
        return cosines.reshape(*cosines.shape[:2], frames.shape[1], -1)

    # --- section 3.3: objectives -------------------------------------------------------------------------------------

    def loss(
        self, batch: Mapping[str, Tokens | None], *, masked: Bool[Tensor, "B T N"] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 1: the contrastive loss of the samples that have both, and the regression of masked patches.

        Args:
            batch: see `given_pixels`.
            masked: which patches are masked; None: drawn from the seed, the step and the sample's place in the batch.

        Returns:
            The loss, and of its terms "text|video" and "mvm" those that there are.
        """
        config, given = self.config, self.given(batch)
        nonempty, vectors, mvm = nonempty_of(given), {}, None
        if "text" in given:
            vectors["text"] = self.embed("text", given["text"])
        if "video" in given:
            video, frames = given["video"].values, given["video"].mask.bool()
            if masked is None and self._models_masks():
                masked = self._drawn_masks(frames)
            if masked is None:
                vectors["video"] = self.embed("video", given["video"])
            else:
                cls, mvm = self.masked_pass(video, frames, masked)
                is_raw = config.contrast_video == "raw"
                vectors["video"] = self.embed("video", given["video"]) if is_raw else self.vid_proj(cls)
        whole = gathered(vectors, nonempty)
        total, terms = combinatorial_loss(
            whole.vectors,
            whole.nonempty,
            weights={("text", "video"): 1.0},
            contrast=partial(norm_softmax_loss, temperature=config.temperature),
        )
        if mvm is not None and bool(nonempty["video"].any()):
            total, terms = total + config.mvm_weight * mvm, {**terms, "mvm": mvm.detach()}
        if self.training and config.target != "none":
            self._step_ended()
        return total, terms

    def masked_pass(
        self, video: Float[Tensor, "B T 3 H W"], frames: Bool[Tensor, "B T"], masked: Bool[Tensor, "B T N"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, ""]]:
        """The class tokens of the masked clips, and equation 4."""
        sample, places = self.masked_places(masked)
        cls = self._class_tokens(video)
        tokens = self.video_model(video, frames, masked=masked, rows=torch.cat([cls, places]))
        predicted = tokens[len(cls) :]
        with torch.no_grad():
            target = self._targets(video, frames, masked=masked, places=places)
        if self.config.mvm_features == "projected":
            predicted = self.vid_proj(predicted)
        loss = masked_regression(
            self.regression(predicted), target, sample, num_samples=len(video), how=self.config.mvm_loss
        )
        return tokens[: len(cls)], loss

    def masked_places(self, masked: Bool[Tensor, "B T N"]) -> tuple[Int[Tensor, " R"], Int[Tensor, " R"]]:
        """The sample of each masked patch, and its place among the tokens of the batch."""
        sample, patch = masked.flatten(1).nonzero(as_tuple=True)
        return sample, sample * (1 + masked[0].numel()) + 1 + patch if len(masked) else patch

    def _targets(self, video: Tensor, frames: Tensor, *, masked: Tensor, places: Tensor) -> Float[Tensor, "R P"]:
        config = self.config
        if config.target == "pixels":
            target = patches_of(video, patch_size=config.patch_size)[masked]
        else:
            target = (self.snapshot if self.keeps_snapshot else self.video_model)(video, frames, rows=places)
            target = self.vid_proj(target) if config.mvm_features == "projected" else target
        return functional.layer_norm(target, target.shape[-1:]) if config.normalise_targets else target

    def _models_masks(self) -> bool:
        return self.config.target != "none" and int(self.num_epochs) >= self.config.warmup_epochs

    def _drawn_masks(self, frames: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T N"]:
        """Section 3.2."""
        config = self.config
        return batch_mask(
            frames,
            seed=config.seed,
            step=int(self.num_steps) if self.training else 0,
            first_sample=first_sample(len(frames)),
            grid=self.video_model.grid,
            masking=config.masking,
            ratio=config.mask_ratio,
            tube=config.tube,
            min_patches=config.min_block,
            fill_up=config.fill_up_masks,
        )

    def continue_from(self, weights: Mapping[str, Tensor]) -> list[str]:
        """See the base; where there is no snapshot, the video encoder that was trained becomes it."""
        lacking = super().continue_from(weights)
        if "snapshot" in lacking:
            update_snapshot(self.snapshot, self.video_model, momentum=0.0)
        return lacking

    # --- section 3.2: the evolving snapshot --------------------------------------------------------------------------

    def _step_ended(self) -> None:
        """Count, and let a snapshot that follows every step take the weights before the optimiser changes them."""
        self.num_steps += 1
        if self.keeps_snapshot and self.config.snapshot_update == "step" and self._models_masks():
            update_snapshot(self.snapshot, self.video_model, momentum=self.config.snapshot_momentum)

    def epoch_ended(self) -> None:
        """Let the snapshot follow the video encoder, once per epoch; at the end of the warm-up it becomes a copy."""
        if self.config.target == "none":
            return
        self.num_epochs += 1
        if not self.keeps_snapshot:
            return
        if int(self.num_epochs) <= self.config.warmup_epochs:
            if self.config.snapshot_start == "after_warmup" and int(self.num_epochs) == self.config.warmup_epochs:
                update_snapshot(self.snapshot, self.video_model, momentum=0.0)
        elif self.config.snapshot_update == "epoch":
            update_snapshot(self.snapshot, self.video_model, momentum=self.config.snapshot_momentum)

    # --- the authors' checkpoints ------------------------------------------------------------------------------------

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> MILES:
        """Take weights of MILES or of Frozen in Time, or our own under their names.

        A checkpoint of another number of frames fits: its temporal embedding is cut, or filled up with zeros, as Frozen
        in Time does (MILES' code fails there). A published checkpoint has no mask token and no snapshot: the snapshot
        is then a copy of its video encoder.

        Args:
            state_dict: the whole checkpoint, or its "state_dict" alone; the prefix "module." is taken off.
            config: "video_params", "text_params", "projection_dim" and further arguments of the authors' class, see
                `official.py`; None: the checkpoint's own where `to_official` wrote it. A new model of that shape is
                returned, without snapshot where the checkpoint has none. Without one the weights go into this
                model, whose shape must fit.

        Raises:
            ConfigError: an argument that the authors' classes do not have, or that this model cannot have.
            InputError: keys missing or unexpected, wrong shapes, numbers that are not finite.
        """
        weights, options, is_frozen = resolved_config(state_dict, config)
        model = self
        if options is not None:
            model = cast(MILES, create_model(FROZEN if is_frozen else "miles", **options))
        loaded_weights(model, weights)
        return model

    def to_official(self) -> dict[str, Any]:
        """A checkpoint that the authors' code reads, and `from_official`.

        It loads without regard to names that it does not know: a mask token, a snapshot and the counters of a training
        stay in.

        Returns:
            "arch" (their class), "state_dict" (under their names, the tensors being the model's own) and "config".
        """
        is_frozen = self.name == FROZEN
        arch = "FrozenInTime" if is_frozen else "MILES"
        weights = official_weights(self.state_dict(), is_frozen=is_frozen)
        return {"arch": arch, "state_dict": weights, "config": to_official_config(self.config)}


def video_encoder(config: MILESConfig, *, mask_token: bool = False) -> SpaceTimeTransformer:
    """The video encoder of a configuration, with fresh weights."""
    return SpaceTimeTransformer(
        image_size=config.image_size,
        patch_size=config.patch_size,
        dim=config.width,
        depth=config.depth,
        heads=config.heads,
        num_frames=config.num_frames,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=config.qkv_bias,
        time_init=config.time_init,
        mask_token=mask_token,
    )


@torch.no_grad()
def update_snapshot(snapshot: nn.Module, video: nn.Module, *, momentum: float) -> None:
    """Section 3.2: every weight s of the snapshot becomes lambda s + (1 - lambda) v; the mask token is not its."""
    current = dict(video.named_parameters())
    for name, weight in snapshot.named_parameters():
        weight.copy_(weight * momentum + (1.0 - momentum) * current[name])
