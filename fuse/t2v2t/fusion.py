"""The joint encoder of T2V2T: rounds of text to video and of video to text.

Paper: Kim et al., "Text-to-Video-to-Text Fusion for Text-to-Video Retrieval" (T2V2T), equations 1 and 2; no code was
published. What it leaves open is a field of `FusionSpec`; its base VindLU (klauscc/VindLU@3046548, file xbert) is the
"unidirectional" kind, where frames do not change.

Legend: B pairs, V videos, N frames, P tokens of a frame, L tokens of a text, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from ..layers import BertAttention, BertIntermediate, BertLayer, BertOutput, BertSpec, KeysValues, Linear, visible_keys

FusionKind = Literal["bypass", "naive", "unidirectional"]
MLPKind = Literal["transformer", "single"]


class FusionSpec(BertSpec):
    """The shape of a round; the defaults are the reading that the golden cases took."""

    kind: FusionKind = "bypass"
    """Equation 1: frames attend to the text and themselves ("bypass"), to the text alone ("naive"), or stay as they are
    ("unidirectional", VindLU)."""
    order: Literal["self_cross", "cross_self"] = "cross_self"
    """Equation 2 attends to the frames, then to the text; VindLU the other way round."""
    mlp: MLPKind = "transformer"
    """The fully connected layer, GELU and LayerNorm after both equations: BERT's two layers with a residual, or one."""
    bypass_keys: Literal["shared", "separate"] = "shared"
    """Whether text and frames have the same key and value projections in equation 1."""
    carry_frames: bool = True
    """Whether the next round's frames are this one's (F_T2V), or the video encoder's again."""
    text_padding: Literal["masked", "seen"] = "masked"
    """Whether frames attend to the padding of a text."""


class PairStates(NamedTuple):
    """What a round gives.

    Attributes:
        text: (B, L, D), F_T2V2T.
        frames: (B, N, P, D), F_T2V; of a unidirectional round the frames as they came, (V, N, P, C).
    """

    text: Float[Tensor, "B L D"]
    frames: Float[Tensor, "_ N P _"]


class _SingleMLP(nn.Module):
    """LayerNorm(GELU(dense(x))): the other reading of "a fully connected layer, GELU, a layer normalization"."""

    def __init__(self, spec: BertSpec) -> None:
        super().__init__()
        self.dense = Linear(spec.width, spec.width)
        self.LayerNorm = nn.LayerNorm(spec.width, eps=spec.eps)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        y: Tensor = self.LayerNorm(self.dropout(functional.gelu(self.dense(x))))
        return y


class _Bypass(BertAttention):
    """Bypass cross-attention: each frame attends to the text and to itself; the text's keys are made once."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(spec)
        self.sees_itself = spec.kind == "bypass"
        if spec.bypass_keys == "separate":
            self.text_key, self.text_value = Linear(spec.width, spec.width), Linear(spec.width, spec.width)
        self.separate = spec.bypass_keys == "separate"

    def of_text(self, text: Float[Tensor, "B L D"]) -> KeysValues:
        """The text, projected."""
        if not self.separate:
            return self.keys_values(text)
        return KeysValues(self.by_head(self.text_key(text)), self.by_head(self.text_value(text)))

    def looked_at(
        self, text: Float[Tensor, "B L D"], frames: Float[Tensor, "F P D"], visible: Bool[Tensor, "B 1 1 L"]
    ) -> tuple[KeysValues, Bool[Tensor, "F 1 1 K"]]:
        """F_T || F_V[i] of equation 1 for F = B N frames, and which of it is seen; a frame's own tokens always are."""
        num_frames = len(frames) // max(len(text), 1)
        of_text = [each.repeat_interleave(num_frames, dim=0) for each in self.of_text(text)]
        visible = visible.repeat_interleave(num_frames, dim=0)
        if not self.sees_itself:
            return KeysValues(*of_text), visible
        joined = [torch.cat(pair, dim=2) for pair in zip(of_text, self.keys_values(frames), strict=True)]
        own = visible.new_ones(len(frames), 1, 1, frames.shape[1])
        return KeysValues(*joined), torch.cat([visible, own], dim=-1)


class FusionLayer(BertLayer):
    """One round. A unidirectional one is a layer of BERT with cross-attention, which is what VindLU has."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(spec, cross=True)
        self.crossattention: BertAttention
        self.fusion = spec
        if spec.kind != "unidirectional":
            self.bypass = _Bypass(spec)
            if spec.mlp == "single":
                self.bypass_mlp = _SingleMLP(spec)
            else:
                self.bypass_intermediate = BertIntermediate(spec)
                self.bypass_output = BertOutput(spec.hidden, spec)
        if spec.mlp == "single":
            del self.intermediate, self.output
            self.mlp = _SingleMLP(spec)

    def frames_of(
        self, text: Float[Tensor, "B L D"], frames: Float[Tensor, "B N P D"], visible: Bool[Tensor, "B 1 1 L"]
    ) -> Float[Tensor, "B N P D"]:
        """Equation 1 and what follows it: the frames of every pair after looking at its text."""
        rows = frames.flatten(0, 1)
        context, seen = self.bypass.looked_at(text, self.bypass.output.before(rows), visible)
        rows = self.bypass(rows, context, visible=seen)
        if self.fusion.mlp == "single":
            rows = self.bypass_mlp(rows)
        else:
            rows = self.bypass_output(self.bypass_intermediate(self.bypass_output.before(rows)), rows)
        updated: Tensor = rows.view_as(frames)
        return updated

    def text_mass(
        self, text: Float[Tensor, "B L D"], frames: Float[Tensor, "B N P D"], visible: Bool[Tensor, "B 1 1 L"]
    ) -> Float[Tensor, "B N"]:
        """How much each frame attends to the text in equation 1, from 0 to 1: the mean over heads and tokens."""
        rows = frames.flatten(0, 1)
        context, seen = self.bypass.looked_at(text, self.bypass.output.before(rows), visible)
        weights = self.bypass.weights(rows, context, visible=seen)[..., : text.shape[1]]
        return weights.sum(dim=-1).mean(dim=(1, 2)).view(frames.shape[:2])

    def after_attention(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        y: Tensor = self.mlp(x) if self.fusion.mlp == "single" else super().after_attention(x)
        return y


def fuse(
    rounds: Sequence[FusionLayer],
    text: Float[Tensor, "B L D"],
    frames: Float[Tensor, "V N P C"],
    *,
    text_mask: Shaped[Tensor, "B L"],
    frame_mask: Shaped[Tensor, "V N"],
    videos: Int[Tensor, " B"] | None = None,
) -> list[PairStates]:
    """The states of every round, of pairs of a text and a video; those of the last one are the joint encoder's output.

    A unidirectional round projects each video once, however many texts it is paired with.

    Args:
        rounds: the layers, one after the other.
        text: F_T, the text encoder's states.
        frames: F_V, the video encoder's states, normalised, of width D but in unidirectional rounds; what padded frames
            hold must be finite.
        text_mask: nonzero where a token is real.
        frame_mask: nonzero where a frame is real; padded ones are not attended to.
        videos: the video of each text; None: that of the same number.
    """
    visible = visible_keys(text_mask)
    frames_seen = None
    if not bool(frame_mask.bool().all()):
        real = frame_mask if videos is None else frame_mask.index_select(0, videos)
        frames_seen = visible_keys(real.repeat_interleave(frames.shape[2], dim=1))
    states = []
    encoded = None
    for layer in rounds:
        if layer.fusion.kind == "unidirectional":
            context = layer.crossattention.keys_values(frames.flatten(1, 2))
            text = layer(
                text,
                visible=visible,
                context=context if videos is None else context.rows(videos),
                context_visible=frames_seen,
            )
            states.append(PairStates(text, frames))
            continue
        if encoded is None:  # from here on each pair has frames of its own
            encoded = frames = frames if videos is None else frames.index_select(0, videos)
        text_seen = visible if layer.fusion.text_padding == "masked" else torch.ones_like(visible)
        fused = layer.frames_of(text, frames, text_seen)
        text = layer(text, visible=visible, context=fused.flatten(1, 2), context_visible=frames_seen)
        states.append(PairStates(text, fused))
        frames = fused if layer.fusion.carry_frames else encoded
    return states
