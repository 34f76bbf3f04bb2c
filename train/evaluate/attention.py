"""How much the modalities of a clip attend to each other in a model with a fusion transformer.

Source: figure 3 of Everything at Once (arXiv 2112.04446).

Legend: H heads, N tokens of one clip, D width, M modalities.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ..._vocabulary import InputError

CLASS_TOKEN = "cls"  # noqa: S105 - a name of a token


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityAttention:
    """How much the tokens of each modality attend to those of each (figure 3 of Everything at Once).

    Attributes:
        modalities: in the order of rows and columns.
        weights: (H, M, M), head, modality of the query, modality of the key: what a query gives to all keys of a
            modality together, averaged over its queries and then over clips. Rows sum to 1.
        tokens: mean number of tokens of each modality in a clip. Attention that did not distinguish tokens would be in
            proportion to them.
        num_clips: how many clips were averaged.
        block: of the transformer, from 1.
    """

    modalities: tuple[str, ...]
    weights: Float[np.ndarray, "H M M"]
    tokens: tuple[float, ...]
    num_clips: int
    block: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "modalities": list(self.modalities),
            "heads": self.weights.tolist(),
            "mean": self.weights.mean(axis=0).tolist(),
            "tokens": list(self.tokens),
            "clips": self.num_clips,
            "block": self.block,
        }


def check_fuses(model: Any, block: int) -> None:
    """Raises InputError for a model whose modalities do not attend to each other, or that has no such block."""
    fusion = getattr(model, "fusion", None)
    if fusion is None or getattr(model.config, "transformer", "shared") != "shared" or not len(fusion.blocks):
        raise InputError(
            f"the model {model.name} has no transformer that fuses modalities: there is no attention to plot"
        )
    if not 1 <= block <= len(fusion.blocks):
        raise InputError(f"block {block}: this model has blocks 1 to {len(fusion.blocks)}")


def mean_attention(model: Any, batches: Iterator[Mapping[str, Any]], *, block: int = 1) -> ModalityAttention:
    """Attention between modalities, averaged over batches of one clip each."""
    found, counts, names = [], [], list[str]()
    for batch in batches:
        groups = clip_tokens(model, batch)
        names = list(groups)
        sizes = [len(rows) for rows in groups.values()]
        weights = attention_weights(model.fusion, list(groups.values()), block=block)
        # Summed over the keys of a modality, averaged over the queries of one: (H, N, N) to (H, M, M).
        starts = np.cumsum([0, *sizes[:-1]])
        by_key = np.add.reduceat(weights, starts, axis=2)
        found.append(np.add.reduceat(by_key, starts, axis=1) / np.asarray(sizes)[None, :, None])
        counts.append(sizes)
    return ModalityAttention(
        modalities=tuple(names),
        weights=np.mean(found, axis=0),
        tokens=tuple(np.mean(counts, axis=0).tolist()),
        num_clips=len(found),
        block=block,
    )


def clip_tokens(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens (N, D) that enter the transformer for a batch of one clip, by modality, the class token first."""
    import torch

    device = next(model.parameters()).device
    moved = {name: type(each)(*(part.to(device) for part in each)) for name, each in batch.items()}
    with torch.inference_mode():
        made, _ = model.tokens(moved)
    groups = {
        name: each.values.reshape(-1, each.values.shape[-1])[: int(each.mask.sum())] for name, each in made.items()
    }
    cls = model.fusion.cls_token
    return groups if cls is None else {CLASS_TOKEN: cls[0], **groups}


def attention_weights(fusion: Any, groups: Sequence[Any], *, block: int) -> NDArray[np.float64]:
    """softmax(q k^T / sqrt(D / H)) of one block, (H, N, N), for the tokens of one clip.

    The model's own attention never makes this matrix; it is computed here from the same weights, in float64.
    """
    import torch

    from ...fuse.layers import Sequences

    *earlier, last = copy.deepcopy(fusion.blocks[:block]).double()
    with torch.inference_mode():
        x_ND = torch.cat(list(groups)).double()
        whole = Sequences.padded(x_ND.new_ones(1, len(x_ND)))
        for each in earlier:
            x_ND = each(x_ND, whole)
        qkv = last.attn.qkv(last.norm1(x_ND)).unflatten(-1, (3, last.attn.heads, -1))
        q, k, _v = qkv.permute(1, 2, 0, 3)  # each (H, N, D / H)
        weights: NDArray[np.float64] = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1).cpu().numpy()
    return weights
