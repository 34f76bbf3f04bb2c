"""The Multimodal Clustering Network: AVLnet's branches, with clusters of clips and a reconstruction as further aims.

Paper: Chen et al., "Multimodal Clustering Networks for Self-supervised Learning from Unlabeled Videos", ICCV 2021
(arXiv 2104.12671). Authors' code: brian7685/Multimodal-Clustering-Network@808948b: the command that its README gives,
which is train_tri_kmeans.py on model_kmeans_ICCV.py; state-dict names are its. The code is followed throughout.

Legend: B batch, D width of a pooled vector, E width of an embedding.

What is followed:
* The three branches and the margin softmax of each pair are AVLnet's (`avlnet.py`).
* Clusters: k-means by cosine on the mean of a clip's three embeddings, over a queue of recent clips, fitted anew
  every 20 steps; each modality's embedding is then contrasted with all centres, with the margin, and the three are
  averaged.
* Reconstruction: each embedding goes through a network of two layers back to what its branch pooled (video: the pooled
  row; audio: the audio CNN's mean; text: the pooled words), mean squared error, times 50. Its last layer ends in a ReLU
  and the targets are not detached, as in the code, so that audio CNN and word layer learn from it too.

What is not:
* See `clusters.py` for the queue, the first centres and empty clusters. The authors forget the centres at the
  beginning of an epoch; here they stay.
* Clips without some modality take part: the mean is over those that they have, and a clip of one modality is left out.
* In evaluation mode the centres are used as they are, and nothing is learned into them.
* The repository's other variants (projection heads, Sinkhorn labels, soft labels, MIL-NCE) are not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from ..base import ModelConfig, Tokens
from ..objectives import cluster_contrast, gathered, zero_of
from ..registry import register_model
from .avlnet import OFFICIAL_NAMES, TEST_SIZES, AVLnet, AVLnetConfig
from .clusters import OnlineClusters
from .separate import nonempty_of, own_weights

_HEADS = {"video": "recon_v", "audio": "recon_a", "text": "recon_t"}
_ERROR = "reconstruction of "


class MCNConfig(AVLnetConfig):
    """The published model: AVLnet's options, and those of the two further aims."""

    num_clusters: PositiveInt = 256
    """Centres of k-means."""
    queue_rows: PositiveInt = 40_960
    """Recent clips that k-means sees together with the batch. They are kept with the weights: at the published size
    1 GB."""
    refit_every: PositiveInt = 20
    """Steps from one fit of the centres to the next."""
    cluster_weight: NonNegativeFloat = 1.0
    """Weight of the contrast with the centres; 0 leaves clusters out."""
    reconstruction_dim: PositiveInt = 1024
    """Width between the two layers of a reconstruction."""
    reconstruction_weight: NonNegativeFloat = 50.0
    """Weight of the reconstruction error; 0 leaves it out."""


class Reconstruction(nn.Sequential):
    """Linear, ReLU, linear, ReLU."""

    def __init__(self, dim_in: int, *, hidden: int, dim_out: int) -> None:
        super().__init__(nn.Linear(dim_in, hidden), nn.ReLU(), nn.Linear(hidden, dim_out), nn.ReLU())


@register_model("mcn", summary="Multimodal Clustering Network (ICCV 2021): margin softmax, clusters, reconstruction")
@register_model(
    "test_mcn",
    summary="MCN with random weights, for tests",
    defaults={**TEST_SIZES, "num_clusters": 3, "queue_rows": 8, "refit_every": 2, "reconstruction_dim": 6},
)
class MCN(AVLnet):
    """AVLnet with centres of clusters and networks that reconstruct."""

    config_type: ClassVar[type[ModelConfig]] = MCNConfig
    paper: ClassVar[str] = "Chen et al., Multimodal Clustering Networks, ICCV 2021 (arXiv 2104.12671)"
    config: MCNConfig

    def __init__(self, config: MCNConfig | None = None) -> None:
        config = config or MCNConfig()
        super().__init__(config)
        self.name = "mcn"
        if config.reconstruction_weight:
            for name, dim in self.pooled_dims().items():
                head = Reconstruction(config.projection_dim, hidden=config.reconstruction_dim, dim_out=dim)
                setattr(self, _HEADS[name], head)
        if config.cluster_weight:
            self.clusters = OnlineClusters(
                config.projection_dim,
                num_clusters=config.num_clusters,
                queue_rows=config.queue_rows,
                refit_every=config.refit_every,
            )

    def loss(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """The margin softmax of the pairs, plus the weighted contrast with cluster centres and reconstruction error.

        Terms besides the pairs ("text|video", ...): "clusters", once there are centres, and "reconstruction", both
        before they are weighted.
        """
        given = self.given(batch)
        pooled = {name: self.pooled(name, tokens) for name, tokens in given.items()}
        vectors = {name: self.project(name, each) for name, each in pooled.items()}
        errors = {f"{_ERROR}{name}": self._error(name, vectors[name], each) for name, each in pooled.items()}
        together, nonempty = gathered({**vectors, **errors}, nonempty_of(given))
        vectors = {name: together[name] for name in given}
        errors = {name: together[f"{_ERROR}{name}"] for name in given}
        total, terms = self.pairs_loss(vectors, nonempty)
        in_two = torch.stack(list(nonempty.values())).sum(dim=0) >= 2
        rows = {name: each & in_two for name, each in nonempty.items() if (each & in_two).any()}
        for name, (weight, term) in self._further_aims(vectors, errors, rows).items():
            total, terms[name] = total + weight * term, term.detach()
        return total + zero_of(errors.values()), terms

    def _further_aims(
        self, vectors: Mapping[str, Tensor], errors: Mapping[str, Tensor], rows: Mapping[str, Bool[Tensor, " B"]]
    ) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of the terms besides the pairs, over the samples `rows` of each modality."""
        aims: dict[str, tuple[float, Tensor]] = {}
        if not rows:
            return aims
        if self.config.cluster_weight and (term := self._contrast_with_clusters(vectors, rows)) is not None:
            aims["clusters"] = (self.config.cluster_weight, term)
        if self.config.reconstruction_weight:
            term = torch.stack([errors[name][chosen].mean() for name, chosen in rows.items()]).sum()
            aims["reconstruction"] = (self.config.reconstruction_weight, term)
        return aims

    def _contrast_with_clusters(
        self, vectors: Mapping[str, Float[Tensor, "B E"]], rows: Mapping[str, Bool[Tensor, " B"]]
    ) -> Tensor | None:
        """The contrast of each modality's embeddings with the centres, averaged; None before there are centres."""
        has = torch.stack(list(rows.values()))[..., None]
        summed = torch.where(has, torch.stack([vectors[name] for name in rows]), 0.0).sum(dim=0)
        in_any = has.any(dim=0)[:, 0]
        labels = self.clusters((summed / has.sum(dim=0).clamp(min=1))[in_any])
        if labels is None:
            return None
        of_all = torch.zeros_like(in_any, dtype=torch.int64).masked_scatter(in_any, labels)
        terms = [
            cluster_contrast(vectors[name][chosen], self.clusters.centroids, of_all[chosen], margin=self.config.margin)
            for name, chosen in rows.items()
        ]
        return torch.stack(terms).mean()

    def _error(self, name: str, vectors: Float[Tensor, "B E"], pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B 1"]:
        """The mean squared error of each sample's reconstruction."""
        if not self.config.reconstruction_weight:
            return vectors.new_zeros(len(vectors), 1)
        rebuilt = getattr(self, _HEADS[name])(vectors)
        return functional.mse_loss(rebuilt, pooled, reduction="none").mean(dim=1, keepdim=True)

    def official_names(self) -> dict[str, str]:
        """Our names of the authors' arguments."""
        return {**OFFICIAL_NAMES, "cluster_size": "num_clusters", "recon_size": "reconstruction_dim"}

    def completed(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """The authors' weights, and this model's own centres and queue, which they do not publish."""
        own = {key: value for key, value in self.state_dict().items() if key.startswith("clusters.")}
        return {**own, **own_weights(state_dict)}

    def to_official(self) -> dict[str, Any]:
        """The weights as the authors' `Net` reads them."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("clusters.")}
