"""Attention: the products give what torch's kernel gives, on both sides of every limit."""

from __future__ import annotations

import pytest
import torch
from frameloom.fuse.layers import attention as module
from frameloom.fuse.layers.attention import MOST_KEYS, attention
from torch import Tensor
from torch.nn import functional

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-2}  # of bfloat16: both sides round


def parts(num_keys: int, dtype: torch.dtype, *, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_keys)
    shapes = [(2, 3, 6, 16), (2, 3, num_keys, 16), (2, 3, num_keys, 16)]
    return [(scale * torch.randn(shape, generator=generator)).to(dtype).requires_grad_() for shape in shapes]


def seen(kind: str, num_keys: int, dtype: torch.dtype) -> Tensor | None:
    """One of the masks that layers give; the second query of `bool` sees nothing."""
    if kind == "none":
        return None
    generator = torch.Generator().manual_seed(1)
    if kind == "added":
        return torch.randn(1, 3, 6, num_keys, generator=generator).to(dtype)
    visible = torch.rand(2, 1, 6, num_keys, generator=generator) < 0.7
    visible[..., 0] = True
    visible[:, :, 1] = False
    return visible


@pytest.mark.parametrize("dtype", list(MOST_KEYS))
@pytest.mark.parametrize("kind", ["none", "bool", "added"])
@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("is_short", [True, False])
def test_values_and_gradients_are_those_of_the_kernel(
    dtype: torch.dtype, kind: str, scale: float | None, *, is_short: bool
) -> None:
    num_keys = 7 if is_short else MOST_KEYS[dtype] + 1
    mask = seen(kind, num_keys, dtype)
    ours, theirs = parts(num_keys, dtype), parts(num_keys, dtype)
    found = attention(*ours, mask=mask, scale=scale)
    wanted = functional.scaled_dot_product_attention(*theirs, attn_mask=mask, scale=scale)
    found.float().square().sum().backward()
    wanted.float().square().sum().backward()
    for one, other in zip(
        [found, *(part.grad for part in ours)], [wanted, *(part.grad for part in theirs)], strict=True
    ):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    if kind == "bool":
        assert not found[:, :, 1].any()


def test_large_scores_are_not_rounded_to_bfloat16() -> None:
    """As far from float64 as the kernel is, also under autocast."""
    given = parts(200, torch.bfloat16, scale=3.0)
    exact = functional.scaled_dot_product_attention(*(one.double() for one in given))
    of_kernel = (functional.scaled_dot_product_attention(*given) - exact).abs().mean()
    assert (attention(*given) - exact).abs().mean() < 1.5 * of_kernel
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(*given)
    assert found.dtype == torch.bfloat16
    assert (found - exact).abs().mean() < 1.5 * of_kernel


def test_the_kernel_is_left_out_where_it_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    kernel = functional.scaled_dot_product_attention
    recorded = lambda *tensors, **options: asked.append(tensors[1].shape[-2]) or kernel(*tensors, **options)  # noqa: E731
    monkeypatch.setattr(module.functional, "scaled_dot_product_attention", recorded)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for num_keys in (8, 9, 257):
            attention(*parts(num_keys, dtype))
    assert asked == [9, 257, 257, 8, 9, 257]


def test_dropped_weights_are_those_of_the_kernel() -> None:
    results = []
    for compute in (
        lambda *tensors: attention(*tensors, dropout=0.5),
        lambda *tensors: functional.scaled_dot_product_attention(*tensors, dropout_p=0.5),
    ):
        torch.manual_seed(0)
        results.append(compute(*parts(7, torch.float32)))
    torch.testing.assert_close(*results)
