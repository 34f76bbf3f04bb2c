"""Products of trained layers: on a processor by oneDNN, which torch does not ask for matrices in fp32.

torch gives fp32 matrix products on a CPU to MKL. On AMD processors MKL reaches half of what oneDNN does: on one core of
an EPYC 9005 95 GFLOP/s against 220, forward and backward. Convolutions over time with large kernels do better as such
products too (110 GFLOP/s, and 70 backward, as convolutions of 4096 channels), because the kernel is used as it lies
in memory. The numbers are those of fp32 arithmetic either way and differ by rounding. `tests/benchmarks/train_eao.py`
measures what it makes of a training step.

It is at the root because `_davenet.py` and `fuse` use it. Whatever oneDNN is not asked for (other devices, other types,
autocast, small products, a torch without oneDNN) goes through `torch.nn.functional`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

SMALLEST_PRODUCT = 1 << 27
"""Multiplications from which oneDNN is asked. A new shape costs it about 0.3 ms; packed batches bring new shapes."""
SMALLEST_KERNEL = 1 << 22
"""Numbers in a convolution's kernel from which it is computed as a product of matrices."""


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


def convolution_over_time(
    x: Float[Tensor, "B C 1 T"], kernel: Float[Tensor, "C2 C 1 K"], *, stride: int = 1
) -> Float[Tensor, "B C2 1 T2"]:
    """A convolution along T with an odd kernel, K // 2 zeros at both ends and no bias.

    Only where gradients are wanted is it a product of matrices: what frozen networks extract keeps its last digits.
    """
    wanted = torch.is_grad_enabled() and kernel.numel() >= SMALLEST_KERNEL
    if not wanted or not _is_for_onednn(x, kernel, num_products=x[:, 0].numel() // stride * kernel.numel()):
        return functional.conv2d(x, kernel, stride=(1, stride), padding=(0, kernel.shape[3] // 2))
    convolved: Tensor = _Convolution.apply(x, kernel, stride)
    return convolved


def _is_for_onednn(x: Tensor, weight: Tensor, *, num_products: int) -> bool:
    return (
        num_products >= SMALLEST_PRODUCT
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
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


class _Convolution(torch.autograd.Function):
    """What every output sees of x, as rows of a matrix (B T2, C K); made again in backward, K times the size of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.stride = stride
        y = _onednn(_columns(x, kernel, stride), kernel.flatten(1))
        return y.view(len(x), -1, len(kernel)).transpose(1, 2).unsqueeze(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, kernel = ctx.saved_tensors
        rows = gradient.squeeze(2).transpose(1, 2).reshape(-1, len(kernel))
        for_x, for_kernel, _ = ctx.needs_input_grad
        x_gradient = kernel_gradient = None
        if for_x:
            columns = _onednn(rows, kernel.flatten(1).T).view(len(x), -1, kernel[0].numel()).transpose(1, 2)
            x_gradient = functional.fold(columns, (1, x.shape[3]), **_window(kernel, ctx.stride))
        if for_kernel:
            kernel_gradient = _onednn(rows.T, _columns(x, kernel, ctx.stride).T).view_as(kernel)
        return x_gradient, kernel_gradient, None


def _columns(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return functional.unfold(x, **_window(kernel, stride)).transpose(1, 2).flatten(0, 1)


def _window(kernel: Tensor, stride: int) -> dict[str, Any]:
    return {"kernel_size": (1, kernel.shape[3]), "padding": (0, kernel.shape[3] // 2), "stride": (1, stride)}
