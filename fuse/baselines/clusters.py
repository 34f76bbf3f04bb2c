"""Clusters that follow a training: k-means by cosine over a queue of recent samples, as MCN keeps them.

Source: brian7685/Multimodal-Clustering-Network@808948b (train_tri_kmeans.py), with the package fast_pytorch_kmeans.

Deviations:
* A cluster that loses all its members keeps its centre; there it becomes zeros, and stays empty.
* The first centres are rows at equal distances among those at hand, so that a run can be repeated; there they are
  drawn.
* The queue takes whole batches and is used as far as it is filled; there it takes half of each batch and is used once
  it is full.
* Queue, centres and step are kept with the weights, so that a training that goes on is the one that was stopped.

Legend: B samples, E width, K clusters, Q places in the queue.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

MAX_ROUNDS = 100
TOLERANCE = 1e-4


class OnlineClusters(nn.Module):
    """Centres of clusters, fitted anew every few steps, and the label of each sample.

    Attributes:
        centroids: (K, E); zeros before the first fit.
        queue: (Q, E) samples of the last steps, newest first.
    """

    centroids: Tensor
    queue: Tensor
    num_queued: Tensor
    num_steps: Tensor
    is_fitted: Tensor

    def __init__(self, dim: int, *, num_clusters: int, queue_rows: int, refit_every: int) -> None:
        super().__init__()
        self.refit_every = refit_every
        self.register_buffer("centroids", torch.zeros(num_clusters, dim))
        self.register_buffer("queue", torch.zeros(queue_rows, dim))
        self.register_buffer("num_queued", torch.zeros((), dtype=torch.int64))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("is_fitted", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, samples: Float[Tensor, "B E"]) -> Int[Tensor, " B"] | None:
        """The cluster of each sample; None as long as there were too few samples for a first fit.

        In training mode the samples join the queue, and the centres are fitted anew when it is time. Otherwise
        everything stays as it is.
        """
        with torch.autocast(samples.device.type, enabled=False):
            samples = samples.detach().to(self.centroids.dtype)
            if self.training:
                self._learn(samples)
            return nearest(samples, self.centroids) if self.is_fitted else None

    def _learn(self, samples: Float[Tensor, "B E"]) -> None:
        pool = torch.cat([samples, self.queue[: int(self.num_queued)]])
        is_due = not self.is_fitted or int(self.num_steps) % self.refit_every == 0
        if is_due and len(pool) >= len(self.centroids):
            first = pool[torch.arange(len(self.centroids), device=pool.device) * len(pool) // len(self.centroids)]
            self.centroids.copy_(k_means(pool, self.centroids if self.is_fitted else first))
            self.is_fitted.fill_(1)
        kept = pool[: len(self.queue)]
        self.queue[: len(kept)] = kept
        self.num_queued.fill_(len(kept))
        self.num_steps += 1


def k_means(
    rows: Float[Tensor, "N E"], centroids: Float[Tensor, "K E"], *, max_rounds: int = MAX_ROUNDS
) -> Float[Tensor, "K E"]:
    """Lloyd's algorithm: each row to the centre of the largest cosine, each centre to the mean of its rows.

    Ends when the centres move by less than 1e-4 (sum of squares), or after `max_rounds`.
    """
    for _ in range(max_rounds):
        labels = nearest(rows, centroids)
        counts = torch.bincount(labels, minlength=len(centroids))[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, labels, rows)
        moved = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
        distance = (moved - centroids).square().sum()
        centroids = moved
        if distance <= TOLERANCE:
            break
    return centroids


def nearest(rows: Float[Tensor, "N E"], centroids: Float[Tensor, "K E"]) -> Int[Tensor, " N"]:
    """The centre of the largest cosine with each row."""
    return (functional.normalize(rows, dim=1) @ functional.normalize(centroids, dim=1).T).argmax(dim=1)
