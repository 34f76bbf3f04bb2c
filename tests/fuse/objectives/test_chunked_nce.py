"""The contrastive loss in chunks: the numbers of the whole matrix, and never the matrix."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from frameloom.fuse.objectives.chunked import chunked_nce
from frameloom.fuse.objectives.nce import margin_softmax_loss, norm_softmax_loss, unit
from torch.utils._python_dispatch import TorchDispatchMode

LOSSES = [partial(norm_softmax_loss, temperature=0.05), partial(margin_softmax_loss, margin=0.2)]


def pairs(num: int, dim: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(num, dim, dtype=dtype)
    return x.requires_grad_(), (x.detach() + torch.randn(num, dim, dtype=dtype)).requires_grad_()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("chunk_rows", [1, 7, 64, 99])
def test_chunks_give_the_loss_and_the_gradients_of_the_whole_matrix(loss, dtype, tolerance, chunk_rows) -> None:
    x, y = pairs(100, 32, dtype)
    whole, chunked = loss(x, y, chunk_rows=100), loss(x, y, chunk_rows=chunk_rows)
    assert whole.grad_fn.name() != chunked.grad_fn.name()
    torch.testing.assert_close(chunked, whole, rtol=0, atol=tolerance)
    # The gradient of a loss of a loss: a factor that is not one must come through.
    expected, found = (torch.autograd.grad(3 * each, (x, y)) for each in (whole, chunked))
    for a, b in zip(expected, found, strict=True):
        assert (a - b).abs().max() < tolerance


def test_the_gradient_is_that_of_finite_differences() -> None:
    x, y = pairs(6, 4, torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, y: chunked_nce(unit(x), unit(y), scale=5.0, margin=0.1, chunk_rows=4), (x, y)
    )


def test_one_side_may_be_fixed() -> None:
    x, y = pairs(9, 4)
    norm_softmax_loss(x, y.detach(), chunk_rows=2).backward()
    assert x.grad is not None


def test_huge_scores_do_not_overflow() -> None:
    x, y = pairs(9, 4)
    loss = norm_softmax_loss(x, y, temperature=1e-6, chunk_rows=2)
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()


def test_mixed_precision_does_not_reach_the_scores() -> None:
    x, y = pairs(40, 16)
    exact = norm_softmax_loss(x, y)
    for chunk_rows in (8, 40):
        with torch.autocast("cpu", torch.bfloat16):
            loss = norm_softmax_loss(x, y, chunk_rows=chunk_rows)
        assert loss.item() == pytest.approx(exact.item(), abs=1e-5)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, torch.Tensor):
                self.num_elements = max(self.num_elements, each.numel())
        return made


@pytest.mark.parametrize("loss", LOSSES)
def test_no_tensor_grows_with_the_square_of_the_batch(loss) -> None:
    largest = {}
    for chunk_rows in (16, 512):
        x, y = pairs(512, 8)
        with Largest() as seen:
            loss(x, y, chunk_rows=chunk_rows).backward()
        largest[chunk_rows] = seen.num_elements
    assert largest == {16: 16 * 512, 512: 512 * 512}


@pytest.mark.slow
def test_a_batch_of_16_384_stays_far_below_its_matrix() -> None:
    """The matrix of cosines alone is a gigabyte, and the usual loss holds five of that size."""
    import resource

    x, y = pairs(16_384, 512)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    norm_softmax_loss(x, y).backward()
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert x.grad.isfinite().all()
    assert grown_bytes < 0.6e9
