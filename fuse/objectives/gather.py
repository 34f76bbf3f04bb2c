"""One batch on several processes: the embeddings of all of them, so that every process contrasts with every negative.

A model calls `gathered` on what it is about to contrast. Outside of `whole_batch` this gives back what it got.

Legend: W processes, B samples of each, E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

from ..base import Embeddings

# For the process and not for the thread: on a GPU, backward runs in a thread of its own.
_gathering = False


@contextmanager
def whole_batch() -> Iterator[None]:
    """Let `gathered` gather, for the length of a block that every process of the default group runs."""
    global _gathering  # noqa: PLW0603 - one training at a time in one process
    before, _gathering = _gathering, True
    try:
        yield
    finally:
        _gathering = before


def gathered(vectors: Mapping[str, Tensor], nonempty: Mapping[str, Tensor]) -> Embeddings:
    """The embeddings and flags of the whole batch, one process's samples after the other's.

    Samples are gathered before any is left out, since each process leaves out another number of them. Vectors come
    back in float32 (float64 where they were), in which they are compared anyway.

    Args:
        vectors: (B, E) by name, or (B, ...); the same names and shapes on every process.
        nonempty: (B,) bool by modality.

    Returns:
        (W B, E) and (W B,). In backward each process receives W times the gradient of its own samples' embeddings:
        every process computes the same loss of all embeddings, so that gradients of the weights add up over processes
        to W times the whole batch's, and data parallelism takes their mean.
    """
    if not _gathering or not vectors:
        return Embeddings(dict(vectors), dict(nonempty))
    # One call for all of them, and one for all flags.
    exact = [each if each.dtype == torch.float64 else each.float() for each in vectors.values()]
    rows = [each.reshape(len(each), -1) for each in exact]
    joined: Tensor = _AllRows.apply(torch.cat(rows, dim=1))
    all_rows = torch.split(joined, [each.shape[1] for each in rows], dim=1)
    flags = torch.stack(list(nonempty.values()), dim=1).to(torch.uint8)
    all_flags = torch.cat(_from_all(flags)).bool().unbind(dim=1)
    return Embeddings(
        {name: each.reshape(-1, *vectors[name].shape[1:]) for name, each in zip(vectors, all_rows, strict=True)},
        dict(zip(nonempty, all_flags, strict=True)),
    )


def first_sample(num_own: int) -> int:
    """The place in the whole batch of this process's first sample of `num_own`: draws of single samples go by it."""
    return distributed.get_rank() * num_own if _gathering else 0


def _from_all(rows: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return parts


class _AllRows(torch.autograd.Function):
    """(B, E) of each process to (W B, E) of all."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.num_rows = len(rows)
        return torch.cat(_from_all(rows))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own = distributed.get_rank() * ctx.num_rows
        return gradient[own : own + ctx.num_rows] * distributed.get_world_size()
