"""Several processes, each with a share of a batch, compute the same as one process with the whole batch.

Four things depend on the whole batch. The negatives, and which terms of the loss there are:
`fuse/objectives/gather.py`. How far clips are padded, and which modalities there are: `equal_shapes`. The statistics of
batch normalisation: `synchronised_batch_norm`. And the gradient, which data parallelism averages.

Legend: B samples, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ..._vocabulary import FrameloomError
from ...fuse import Tokens


def equal_shapes(batch: Mapping[str, Tokens], *, modalities: Sequence[str]) -> dict[str, Tokens]:
    """A process's share, padded as the whole batch would be: as long, and with every modality that some process has.

    Samples without a modality are rows that no mask shows. The padding matters where it runs through batch
    normalisation; the modalities matter because every process must take the same path.

    Args:
        batch: this process's share.
        modalities: the model's; others are left to its check.

    Raises FrameloomError where processes have shares of different sizes.
    """
    share = next(iter(batch.values())).mask if batch else torch.zeros(0)
    shapes = [tuple(batch[name].values.shape[1:]) if name in batch else () for name in modalities]
    sizes = [(*shape, *[0] * (_MOST_SIZES - len(shape))) for shape in shapes]
    # No batch at all, on this process, is a share of unknown size.
    known = [len(share), -len(share)] if batch else [0, -(2**31)]
    agreed = torch.tensor([*known, *(number for size in sizes for number in size)], device=share.device)
    distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
    largest, smallest, *numbers = agreed.tolist()
    if batch and largest != -smallest:
        raise FrameloomError(
            f"processes have between {-smallest} and {largest} samples of a batch: shares must be equal"
        )
    wanted = zip(modalities, np.reshape(numbers, (-1, _MOST_SIZES)).tolist(), strict=True)
    padded = {name: _padded(batch.get(name), (largest, *filter(None, size)), share) for name, size in wanted if size[0]}
    return {**batch, **padded}


_MOST_SIZES = 4  # of a sample: frames, colours, height and width


def _padded(tokens: Tokens | None, shape: tuple[int, ...], share: Tensor) -> Tokens:
    if tokens is None:
        mask = torch.zeros(shape[:2], dtype=torch.bool, device=share.device)
        # Word pieces, which have no width, are numbers.
        dtype = torch.int64 if len(shape) == len(mask.shape) else torch.float32
        return Tokens(torch.zeros(shape, dtype=dtype, device=share.device), mask)
    missing = shape[1] - tokens.values.shape[1]
    padding = (*[0] * (2 * (len(shape) - 2)), 0, missing)
    return Tokens(functional.pad(tokens.values, padding), functional.pad(tokens.mask, (0, missing)))


@contextmanager
def synchronised_batch_norm(model: nn.Module) -> Iterator[None]:
    """Let the model's batch normalisation take its statistics over the samples of all processes, for a block.

    torch's own SyncBatchNorm does the same on GPUs only.
    """
    swapped = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if isinstance(child, _BatchNorm)
    ]
    for parent, name, child in swapped:
        setattr(parent, name, _SynchronisedBatchNorm.like(child))
    try:
        yield
    finally:
        for parent, name, child in swapped:
            setattr(parent, name, child.train(getattr(parent, name).training))


class _SynchronisedBatchNorm(_BatchNorm):
    """Batch normalisation whose statistics are those of all processes; weights and buffers are the other module's."""

    @classmethod
    def like(cls, other: _BatchNorm) -> _SynchronisedBatchNorm:
        made = cls(other.num_features, other.eps, other.momentum, affine=other.affine)
        made.track_running_stats = other.track_running_stats
        made._parameters, made._buffers = other._parameters, other._buffers
        return made.train(other.training)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        applied = _Normalise.apply(input, self.weight, self.bias, self.eps)
        normalised, mean, variance, count = cast(tuple[Tensor, Tensor, Tensor, Tensor], applied)
        self._remember(mean, variance * (count / (count - 1).clamp(min=1)))
        return normalised

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """The running statistics, as torch keeps them: the variance there divides by one element less."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked or 1) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, each channel by the elements of all processes.

    Each process sends its means, sums of squared deviations and count forward, two sums backward, in one call each.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _whole_statistics(x)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps), count)
        normalised = functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        ctx.mark_non_differentiable(mean, variance, count)
        return normalised, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_unused: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        others = _other_dims(x)
        shape = [1 if dim in others else x.shape[1] for dim in range(x.dim())]
        gradient = gradient.to(mean.dtype)
        x_hat = (x.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        sums = torch.stack([gradient.sum(others), (gradient * x_hat).sum(others)])
        # The weight's and the bias's own gradients stay those of this process: data parallelism averages them.
        of_bias, of_weight = (sums[0].clone(), sums[1].clone()) if weight is not None else (None, None)
        distributed.all_reduce(sums)
        shared, along = (sums / count).view(2, *shape)
        factor = scale if weight is None else scale * weight
        of_x = (gradient - shared - x_hat * along) * factor.view(shape)
        return of_x.to(x.dtype), of_weight, of_bias, None


def _whole_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means (C,), variances (C,), divided by the count, and the count (1,) of the elements of all processes."""
    x = x if x.dtype == torch.float64 else x.float()
    num_own = x.numel() // x.shape[1]
    # A process without an element takes part in the call, with nothing.
    variance, mean = torch.var_mean(x, _other_dims(x), correction=0) if num_own else x.new_zeros(2, x.shape[1])
    own = torch.cat([mean, variance * num_own, x.new_full((1,), num_own)])
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, own)
    means, squares, counts = torch.split(torch.stack(parts), [len(mean), len(mean), 1], dim=1)
    count = counts.sum(dim=0)
    whole_mean = (means * counts).sum(dim=0) / count
    return whole_mean, (squares + counts * (means - whole_mean).square()).sum(dim=0) / count, count


def _other_dims(x: Tensor) -> list[int]:
    return [dim for dim in range(x.dim()) if dim != 1]
