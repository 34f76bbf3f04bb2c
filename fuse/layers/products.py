"""Products of trained layers: on a processor by oneDNN, which torch does not ask for matrices in fp32.

torch gives fp32 matrix products on a CPU to MKL. On AMD processors with AVX-512 MKL reaches half of what oneDNN does:
on one core of an EPYC 9005 95 GFLOP/s against 220, forward and backward. Without AVX-512 MKL is ahead: 75 against 60,
and 77 against 34 where a weight of few columns meets many rows, as in Video Swin; oneDNN is not asked there. The
numbers are those of fp32 arithmetic either way and differ by rounding. `tests/benchmarks/train_eao.py` measures what
it makes of a training step: at width 3072, with other work running, our step was 1.8 to 1.95 times as fast as the
plain one without it and 2.1 to 2.4 times with it. Whatever oneDNN is not asked for (other devices, other types,
autocast, small products, a torch without oneDNN) goes through `torch.nn.functional`.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

SMALLEST_PRODUCT = 1 << 27 if torch.backends.cpu.get_cpu_capability() == "AVX512" else sys.maxsize
"""Multiplications from which oneDNN is asked; never without AVX-512. A new shape costs it about 0.3 ms; packed batches
bring new shapes."""


class Linear(nn.Linear):
    """`nn.Linear` through `linear`: the same parameters, names and initialisation."""

    def forward(self, x: Float[Tensor, "*B D_in"]) -> Float[Tensor, "*B D_out"]:
        return linear(x, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*B D_in"], weight: Float[Tensor, "D_out D_in"], bias: Float[Tensor, " D_out"] | None = None
) -> Float[Tensor, "*B D_out"]:
    """The product x W^T + b, as `torch.nn.functional.linear`."""
    if not _is_for_onednn(x, weight, num_products=x.numel() * len(weight)):
        return functional.linear(x, weight, bias)
    product: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return product.view(*x.shape[:-1], len(weight))


def _is_for_onednn(x: Tensor, weight: Tensor, *, num_products: int) -> bool:
    return (
        num_products >= SMALLEST_PRODUCT
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product x W^T + b of two matrices, either of which may be a transposed view."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _onednn(gradient, weight.T) if for_x else None,
            _onednn(gradient.T, x.T) if for_weight else None,
            gradient.sum(dim=0) if for_bias else None,
        )
