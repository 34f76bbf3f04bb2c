"""The contrastive loss of a large batch in memory that grows with the batch, not with its square.

Rows of the matrix of similarities are made a chunk at a time and thrown away; of each row and column stays the
logarithm of its sum of exponentials, from which backward makes the chunk's probabilities again. That is one matrix
product more than the whole matrix needs: four instead of three.

Legend: B batch, E width of an embedding, R rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def chunked_nce(
    x: Float[Tensor, "B E"], y: Float[Tensor, "B E"], *, scale: float, margin: float, chunk_rows: int
) -> Float[Tensor, ""]:
    """Cross entropy of the diagonal of `scale * (x y^T - margin * 1)` in every row, plus that in every column.

    Args:
        x: unit vectors.
        y: unit vectors, the answer to x_i being y_i.
        scale: one over the temperature.
        margin: taken off the similarity of x_i and y_i.
        chunk_rows: R.
    """
    with torch.autocast(x.device.type, enabled=False):
        loss: Tensor = _ChunkedNCE.apply(x, y, scale, margin, chunk_rows)
    return loss


class _ChunkedNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: float, margin: float, chunk_rows: int) -> Tensor:
        ctx.how = scale, margin, chunk_rows
        of_rows = x.new_empty(len(x))
        # A column's sum goes on from chunk to chunk: in float64, so that it does not matter how many there are.
        of_columns = x.new_full((len(x),), -torch.inf, dtype=torch.float64)
        answers = x.new_empty(len(x))
        for chunk, scores in _chunks(x, y, *ctx.how):
            of_rows[chunk] = scores.logsumexp(dim=1)
            of_columns = torch.logaddexp(of_columns, scores.logsumexp(dim=0).double())
            answers[chunk] = scores.diagonal(chunk.start)
        ctx.save_for_backward(x, y, of_rows, of_columns.to(x.dtype))
        loss: Tensor = (of_rows.double() - answers).mean() + (of_columns - answers).mean()
        return loss.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, of_rows, of_columns = ctx.saved_tensors
        scale = ctx.how[0]
        of_x, of_y = torch.empty_like(x), torch.zeros_like(y)
        for chunk, scores in _chunks(x, y, *ctx.how):
            by_row = (scores - of_rows[chunk, None]).exp_()
            towards = scores.sub_(of_columns).exp_().add_(by_row)
            towards.diagonal(chunk.start).sub_(2.0)
            of_x[chunk] = towards @ y
            of_y.addmm_(towards.T, x[chunk])
        factor = gradient * (scale / len(x))
        return of_x.mul_(factor), of_y.mul_(factor), None, None, None


def _chunks(x: Tensor, y: Tensor, scale: float, margin: float, chunk_rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the matrix of scores (R, B), a chunk after the other."""
    for start in range(0, len(x), chunk_rows):
        chunk = slice(start, min(start + chunk_rows, len(x)))
        scores = x[chunk] @ y.T
        scores.diagonal(start).sub_(margin)
        yield chunk, scores.mul_(scale)
