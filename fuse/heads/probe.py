"""Linear probe: what one linear layer reads off embeddings that stay as they are.

MILES (arXiv 2204.12408), section 4.2, "linear": the video encoder is fixed and a linear classifier trained. The paper
does not say how; here it is logistic regression with weight decay, to its optimum, without a draw. All-in-one's
probe trains its pooler and a head of two layers, see `AllInOne.train_probe`.

Legend: N clips, D width of an embedding, C classes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ..._vocabulary import InputError


def fit_linear_probe(
    vectors: Float[Tensor, "N D"],
    classes: Int[Tensor, " N"],
    *,
    num_classes: int,
    weight_decay: float = 1e-4,
    num_iterations: int = 200,
) -> nn.Linear:
    """A linear classifier of embeddings, each number of which is first brought to mean 0 and variance 1.

    Args:
        vectors: embeddings of the training clips.
        classes: of each, from 0; those below 0 are unknown and left out.
        num_classes: C.
        weight_decay: of the mean squared weight, added to the cross entropy.
        num_iterations: of L-BFGS at most.

    Returns:
        A layer that takes embeddings as they are: the scaling is part of its weights.

    Raises:
        InputError: no clip of a known class, a class that is not below C, or numbers that are not finite.
    """
    known = classes >= 0
    vectors, classes = vectors[known].detach().double(), classes[known]
    if not len(classes) or int(classes.max()) >= num_classes:
        raise InputError(f"a probe of {num_classes} classes needs clips of classes 0 to {num_classes - 1}")
    if not vectors.isfinite().all():
        raise InputError("embeddings of a probe must be finite numbers")
    mean, scale = vectors.mean(dim=0), vectors.std(dim=0, correction=0).clamp(min=1e-6)
    scaled = (vectors - mean) / scale
    weight = torch.zeros(num_classes, vectors.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=num_iterations, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        scores = functional.linear(scaled, weight, bias)
        loss = functional.cross_entropy(scores, classes) + weight_decay * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    probe = nn.Linear(vectors.shape[1], num_classes)
    with torch.no_grad():
        probe.weight.copy_(weight / scale)
        probe.bias.copy_(bias - (weight / scale) @ mean)
    return probe
