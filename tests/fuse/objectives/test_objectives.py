"""The objectives against their equations, written out a second time, and what must leave them unchanged."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from frameloom.fuse.objectives.nce import combinatorial_loss, cosine_similarities, norm_softmax, norm_softmax_loss
from hypothesis import given, settings
from hypothesis import strategies as st

PAIRS = [("text", "video"), ("text", "video+audio"), ("audio", "text+video")]
NAMES = ("text", "video", "audio", "text+video", "video+audio")


def plain_nce(similarities: np.ndarray, temperature: float) -> float:
    """Equation 4 for every row and every column, by loops."""
    x, n = similarities / temperature, len(similarities)
    rows = [-x[i, i] + np.log(np.exp(x[i]).sum()) for i in range(n)]
    columns = [-x[i, i] + np.log(np.exp(x[:, i]).sum()) for i in range(n)]
    return float(np.mean(rows) + np.mean(columns))


@given(seed=st.integers(0, 2**16), size=st.integers(1, 9), temperature=st.sampled_from([0.05, 0.5, 1.0]))
@settings(max_examples=25, deadline=None)
def test_norm_softmax_is_equation_4_in_both_directions(seed, size, temperature) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarities = torch.rand(size, size, generator=generator, dtype=torch.float64) * 2 - 1
    expected = plain_nce(similarities.numpy(), temperature)
    assert norm_softmax(similarities, temperature=temperature).item() == pytest.approx(expected, abs=1e-9)


@given(
    seed=st.integers(0, 2**16),
    present=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=8),
    weights=st.lists(st.sampled_from([0.0, 0.1, 1.0, 2.5]), min_size=3, max_size=3),
)
@settings(max_examples=40, deadline=None)
def test_combinatorial_loss_is_equation_2_over_the_samples_that_have_all(seed, present, weights) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = {
        name: torch.randn(len(present), 6, generator=generator, dtype=torch.float64, requires_grad=True)
        for name in NAMES
    }
    nonempty = dict(zip(("text", "video", "audio"), torch.tensor(present).T, strict=True))
    contrast = partial(norm_softmax_loss, temperature=0.5)
    loss, terms = combinatorial_loss(
        vectors, nonempty, weights=dict(zip(PAIRS, weights, strict=True)), contrast=contrast
    )
    total = used = 0.0
    for (x, y), weight in zip(PAIRS, weights, strict=True):
        rows = np.all([nonempty[name].numpy() for name in {*x.split("+"), *y.split("+")}], axis=0)
        if weight and rows.any():
            similarities = cosine_similarities(vectors[x][rows], vectors[y][rows]).detach().numpy()
            total, used = total + weight * plain_nce(similarities, 0.5), used + weight
            assert f"{x}|{y}" in terms
        else:
            assert f"{x}|{y}" not in terms
    assert loss.item() == pytest.approx(total / used if used else 0.0, abs=1e-9)
    loss.backward()
    assert all(vector.grad.isfinite().all() for vector in vectors.values())


def test_terms_with_embeddings_that_were_not_computed_are_left_out() -> None:
    vectors = {"text": torch.randn(3, 4), "video": torch.randn(3, 4)}
    nonempty = {name: torch.ones(3, dtype=torch.bool) for name in vectors}
    _, terms = combinatorial_loss(vectors, nonempty, weights=dict.fromkeys(PAIRS, 1.0), contrast=norm_softmax_loss)
    assert terms.keys() == {"text|video"}


def test_cosine_survives_zero_vectors_and_half_precision() -> None:
    x = torch.zeros(2, 4, dtype=torch.bfloat16)
    similarities = cosine_similarities(x, torch.ones(3, 4, dtype=torch.bfloat16))
    assert similarities.dtype == torch.float32
    assert torch.equal(similarities, torch.zeros(2, 3))


def test_huge_scores_do_not_overflow() -> None:
    assert norm_softmax(torch.eye(4) * 1e4).isfinite()
