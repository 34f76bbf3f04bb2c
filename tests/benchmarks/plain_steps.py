"""The models of pixels as a plain implementation computes them, on the same weights, batch and draws.

The passes are those of the authors' code: of MILES all tokens of the last block; of Clover every encoder twice,
complete and masked, all tokens scored; of VindLU and T2V2T the frames of every pair projected anew, masked texts in
passes of their own. Attention is a softmax of a matrix of scores, products are torch's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from frameloom.fuse import Tokens
from frameloom.fuse.layers import products
from frameloom.fuse.objectives import masked_regression, norm_softmax_loss
from frameloom.fuse.t2v2t import model as t2v2t_model
from torch.nn import functional


@contextmanager
def plain_products() -> Iterator[None]:
    """Attention written out, products by torch: what torch's counter of operations sees."""
    was = functional.scaled_dot_product_attention, products.SMALLEST_PRODUCT
    functional.scaled_dot_product_attention, products.SMALLEST_PRODUCT = _attention, sys.maxsize
    try:
        yield
    finally:
        functional.scaled_dot_product_attention, products.SMALLEST_PRODUCT = was


@contextmanager
def plain_parts() -> Iterator[None]:
    """`plain_products`, and the joint encoder of VindLU and T2V2T in passes of the authors' code."""
    ours = t2v2t_model.fuse

    def fuse(rounds: Any, text: Any, frames: Any, *, text_mask: Any, frame_mask: Any, videos: Any = None) -> Any:
        rows = torch.arange(len(text)) if videos is None else videos
        num_own = len(rows) - len(frames)  # matching first, then masked words
        passes = [
            ours(rounds, text[part], frames[rows[part]], text_mask=text_mask[part], frame_mask=frame_mask[rows[part]])
            for part in (slice(0, num_own), slice(num_own, None))
        ]
        return [
            states[0]._replace(text=torch.cat([each.text for each in states])) for states in zip(*passes, strict=True)
        ]

    t2v2t_model.fuse = fuse
    try:
        with plain_products():
            yield
    finally:
        t2v2t_model.fuse = ours


def _attention(
    q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, scale: float | None = None
) -> Any:
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if attn_mask is not None:
        is_bias = attn_mask.is_floating_point()
        scores = scores + attn_mask if is_bias else scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    return functional.dropout(scores.softmax(dim=-1), dropout_p) @ v


def _miles_loss(model: Any, batch: dict[str, Any]) -> Any:
    """Equation 1 with both encoders computed whole, as the paper describes them."""
    given = model.given(batch)
    video, frames = given["video"].values, given["video"].mask.bool()
    masked = model._drawn_masks(frames)
    sample, places = model.masked_places(masked)
    tokens = model.video_model(video, frames, masked=masked)
    with torch.no_grad():
        target = model.snapshot(video, frames).flatten(0, 1)[places]
    regression = masked_regression(
        tokens.flatten(0, 1)[places], target, sample, num_samples=len(video), how=model.config.mvm_loss
    )
    vectors = model.embed("text", given["text"]), model.vid_proj(tokens[:, 0])
    model._step_ended()
    return norm_softmax_loss(*vectors, temperature=model.config.temperature) + regression


def _clover_loss(model: Any, batch: dict[str, Any]) -> Any:
    given = model.given(batch)
    masks, (ids, mask) = model.drawn_masks(given), given["text"]
    pictures = given["video"].values.transpose(1, 2)
    grids = [model.backbone(pictures), model.backbone(pictures, masks.cells)]
    complete, masked = (Tokens(grid.flatten(2, 3), torch.ones(grid.shape[:2], device=mask.device)) for grid in grids)
    states, hidden = model.text_states(given["text"]), model.text_states(Tokens(masks.ids, mask))
    of_text = model.fused(complete, hidden, mask).text
    of_video = model.fused(masked, states, mask).text
    vectors = {
        "V_e": model.project_video(complete),
        "V_m": model.project_video(masked),
        "T_e": model.ssl_head.text(states[:, 0]),
        "T_m": model.ssl_head.text(hidden[:, 0]),
        "M_Vmf": model.mlm_ssl_V_head(of_video[:, 0]),
        "M_Tmf": model.mlm_ssl_T_head(of_text[:, 0]),
    }
    scores = model.mlm_head["predictions"](of_text)[masks.words]
    words = model.word_loss(scores, ids[masks.words], num_samples=len(ids))
    return words + sum(model.alignment_terms(vectors).values())


PLAIN_LOSSES: dict[str, Callable[..., Any]] = {"miles": _miles_loss, "clover": _clover_loss}
"""Where the passes of the loss itself differ from ours."""
