"""The clips of a data set as an iterable one, in the very order of its batch sampler. Loads torch when imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ..._vocabulary import ConfigError
from .features import FeatureDataset, FeatureSample
from .order import ShardBatchSampler, check_order


class FeatureStream(IterableDataset[FeatureSample]):
    """An iterable data set whose workers share the batches of a sampler: worker w of K has every K-th from the w-th on.

    A loader takes its batches from the workers in turn, and so gives the sampler's batches in the sampler's order when
    it has the same batch size. Every clip is given once, whatever the number of workers.

    `state_dict` counts the clips that this copy has given. Without workers that is the position. With workers, each
    copy knows its own part: a loader that asks every worker for its state, and gives it back to the same worker, as
    torchdata's StatefulDataLoader does, goes on exactly. Who counts batches instead says ``start_at(epoch, batches)``.

    Call `set_epoch` before each epoch. It does not reach workers that outlive an epoch (`persistent_workers`).

    Args:
        dataset: where clips are read.
        sampler: their batches.
    """

    def __init__(self, dataset: FeatureDataset, sampler: ShardBatchSampler) -> None:
        super().__init__()
        self.dataset = dataset
        self.sampler = sampler
        self._part = (0, 1)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the next iteration gives all of it."""
        self.start_at(epoch)

    def start_at(self, epoch: int, batches: int = 0) -> None:
        """Let the next iteration begin after so many batches of an epoch, counted over all workers."""
        self._epoch, self._first, self._given = epoch, batches * self.sampler.batch_size, 0
        self._resumes = True

    def __iter__(self) -> Iterator[FeatureSample]:
        self._begin()
        size, (worker, num_workers) = self.sampler.batch_size, self._part
        indices = self.sampler.indices(self._epoch)[self._first :]
        self.dataset.set_epoch(self._epoch)
        own = indices[np.arange(len(indices)) // size % num_workers == worker]
        for index in own[self._given :]:
            self._given += 1
            yield self.dataset[int(index)]

    def _begin(self) -> None:
        info = get_worker_info()
        part = (info.id, info.num_workers) if info is not None else (0, 1)
        if self._given and self._resumes and part != self._part:
            raise ConfigError(
                f"this position is that of worker {self._part[0]} of {self._part[1]}, and this is worker {part[0]} of "
                f"{part[1]}: go on with as many workers, or from a count of batches"
            )
        if not self._resumes:
            self._first = self._given = 0
        self._part, self._resumes = part, False

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON-ready data."""
        worker, num_workers = self._part
        return {
            "epoch": self._epoch,
            "first": self._first,
            "given": self._given,
            "worker": worker,
            "num_workers": num_workers,
            "order": self.sampler.as_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration give what is left. Raises ConfigError when it is of other clips or another order."""
        check_order(state, self.sampler)
        self._epoch, self._first, self._given = int(state["epoch"]), int(state["first"]), int(state["given"])
        self._part, self._resumes = (int(state["worker"]), int(state["num_workers"])), True
        if self._part == (0, 1):  # one process has given them in order: any number of workers may go on from there
            self._first, self._given = self._first + self._given, 0
