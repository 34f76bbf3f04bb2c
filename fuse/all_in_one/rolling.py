"""How tokens of different frames meet in All-in-one: by rolling some of them from frame to frame.

Wang et al., "All in One" (arXiv 2203.07303), section 3.2; showlab/all-in-one@ae0e288,
AllInOne/modules/temporal_roll.py.
As published ("tokens"), of the visual tokens of a frame [cls, patches] the first eighth of patches comes from the frame
before and the last eighth from the frame after, cyclically; the class token and the rest stay. The other two are in the
code and not in the published models. With fewer than 8 tokens an eighth is zero, and by the code's slice every token,
the class token too, then comes from the frame after.

Legend: B batch, T frames, L visual tokens of a frame, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Rolling = Literal["tokens", "layers", "shift"]


def rolled(
    x: Float[Tensor, "B T L D"],
    frames: Bool[Tensor, "B T"] | None = None,
    *,
    how: Rolling = "tokens",
    layer: int = 0,
    parts: int = 8,
) -> Float[Tensor, "B T L D"]:
    """Visual tokens after rolling.

    Args:
        x: visual tokens of each frame, the class token first.
        frames: which frames are real: they roll among themselves, the others stay; None: all.
        how: "tokens" as published; "layers" rolls another eighth in each layer, one frame on, and as in the code
            leaves zeros between the class token and it; "shift" takes the first eighth, the class token too, from the
            frame after and the second from the frame before, with zeros at the ends.
        layer: from 0.
        parts: the part that rolls is one over this.
    """
    fold = x.shape[2] // parts
    if how == "shift":
        return _shifted(x, frames, fold=fold)
    if how == "layers":
        begin = 1 + fold * (layer % parts)
        eighth = moved(x[:, :, begin : begin + fold], frames, by=1)
        return torch.cat([x[:, :, :1], torch.zeros_like(x[:, :, 1:begin]), eighth, x[:, :, begin + fold :]], dim=2)
    if not fold:
        return moved(x, frames, by=-1)
    first, last = moved(x[:, :, 1 : 1 + fold], frames, by=1), moved(x[:, :, -fold:], frames, by=-1)
    return torch.cat([x[:, :, :1], first, x[:, :, 1 + fold : -fold], last], dim=2)


def moved(x: Float[Tensor, "B T L D"], frames: Bool[Tensor, "B T"] | None, *, by: int) -> Float[Tensor, "B T L D"]:
    """Each frame's tokens, of the frame `by` before it, cyclically over the real frames of each sample."""
    if frames is None:
        return x.roll(by, dims=1)
    return x[torch.arange(len(x), device=x.device)[:, None], neighbours(frames, by=by)]


def neighbours(frames: Bool[Tensor, "B T"], *, by: int) -> Int[Tensor, "B T"]:
    """The frame `by` before each real frame, counted over real frames in a circle; of padding itself."""
    number = frames.long().cumsum(dim=1) - 1
    real_first = torch.argsort((~frames).long(), dim=1, stable=True)
    count = frames.sum(dim=1, keepdim=True).clamp(min=1)
    own = torch.arange(frames.shape[1], device=frames.device).expand_as(number)
    return torch.where(frames, real_first.gather(1, (number - by) % count), own)


def _shifted(x: Tensor, frames: Tensor | None, *, fold: int) -> Tensor:
    """The first `fold` tokens of the next frame, as many of the frame before, zeros at the ends."""
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if frames is None else frames
    number = real.long().cumsum(dim=1)
    is_first, is_last = ((number == edge)[..., None, None] for edge in (1, number[:, -1:]))
    after = moved(x[:, :, :fold], frames, by=-1).masked_fill(is_last, 0.0)
    before = moved(x[:, :, fold : 2 * fold], frames, by=1).masked_fill(is_first, 0.0)
    shifted = torch.cat([after, before, x[:, :, 2 * fold :]], dim=2)
    return torch.where(real[..., None, None], shifted, x)
