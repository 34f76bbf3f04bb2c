"""Batches with a position: what was given is known exactly, whatever workers have read ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError
from .clips import collate as collate_clips
from .features import FeatureDataset
from .order import EpochOrder, ShardBatchSampler, check_order

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


StartMethod = Literal["fork", "spawn", "forkserver"]


def _keep_nothing(_worker: int) -> None:
    """Have a worker that ends with its epoch, and so reads no clip twice, keep none in memory."""
    from torch.utils.data import get_worker_info

    dataset = getattr(get_worker_info(), "dataset", None)
    stored = getattr(dataset, "samples", dataset)
    if isinstance(stored, FeatureDataset) and stored.budget:
        stored.budget.bytes_left = 0


class Positioned:
    """A loader whose place is the epoch and the batches of it that were given, in the order of its sampler.

    Attributes:
        sampler: the batches of this process.
        epoch: the epoch whose batches are given.
        batch: batches of it that were given.
        clips: numbers of the clips of the batch that was given last or is being read.
    """

    sampler: ShardBatchSampler
    epoch: int = 0
    batch: int = 0
    clips: list[int]

    def __len__(self) -> int:
        """The number of batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        """The rest of the current epoch, and then its end is the next one's beginning."""
        raise NotImplementedError

    @property
    def groups(self) -> NDArray[np.int64]:
        """The shard of each clip, which the order follows from, as a number, (N,)."""
        return self.sampler.order.groups

    def regroup(self, groups: NDArray[Any], order_of: Callable[[NDArray[Any]], EpochOrder]) -> None:
        """Go back to the order that clips had in other shards, before a compaction."""
        self.sampler.order = replace(order_of(groups), lanes=self.sampler.order.lanes)

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch's first batch; in the current epoch, stay where this loader is."""
        if epoch != self.epoch:
            self.epoch, self.batch = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """The position, JSON: the batches given so far. It is the same in all processes."""
        return {"epoch": self.epoch, "batch": self.batch, "order": self.sampler.as_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position. Raises ConfigError when it is of other clips or another order."""
        check_order(state, self.sampler)
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])


class Together(Positioned):
    """Several loaders, of each of which a step takes a batch: a tuple. The shortest ends an epoch."""

    def __init__(self, loaders: Sequence[Positioned]) -> None:
        self.loaders, self.clips = loaders, []
        self.sampler = loaders[0].sampler

    def __len__(self) -> int:
        """The number of steps of a whole epoch."""
        return min(map(len, self.loaders))

    @property
    def groups(self) -> NDArray[np.int64]:
        """Those of all loaders, one after the other."""
        return np.concatenate([loader.groups for loader in self.loaders])

    def regroup(self, groups: NDArray[Any], order_of: Callable[[NDArray[Any]], EpochOrder]) -> None:
        """See `Positioned`."""
        ends = np.cumsum([len(loader.groups) for loader in self.loaders])
        for loader, part in zip(self.loaders, np.split(groups, ends[:-1]), strict=True):
            loader.regroup(part, order_of)

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch's first step; in the current epoch, stay where this loader is."""
        super().set_epoch(epoch)
        for loader in self.loaders:
            loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The position, JSON."""
        return {"epoch": self.epoch, "batch": self.batch, "loaders": [each.state_dict() for each in self.loaders]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position. Raises ConfigError when it is of other clips or another order."""
        for loader, each in zip(self.loaders, state["loaders"], strict=True):
            loader.load_state_dict(each)
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])

    def __iter__(self) -> Iterator[Any]:
        sources = [iter(loader) for loader in self.loaders]
        while self.batch < len(self):
            try:
                batches = tuple(map(next, sources))
            finally:
                firsts = np.cumsum([0, *(len(loader.groups) for loader in self.loaders)]).tolist()
                of_all = zip(firsts, self.loaders, strict=False)
                self.clips = [first + number for first, loader in of_all for number in loader.clips]
            self.batch += 1
            yield batches
        self.set_epoch(self.epoch + 1)


class FeatureLoader(Positioned):
    """torch's `DataLoader` over the batches of a sampler, with `state_dict` and `load_state_dict`.

    The order is the sampler's and lives in this process; workers only read. Batches come in order, and each is counted
    as it is given, so that a position is exact for any number of workers, and may be taken up with another number.

    Iterating gives the rest of the current epoch and then goes on to the next one: a loop that was left goes on where
    it was left. ::

        for epoch in range(loader.epoch, num_epochs):
            for batch in loader:
                ...
                state = loader.state_dict()  # this batch counts as given

    Args:
        dataset: a map-style data set, in which the sampler's order counts. Where it has `set_epoch`, that is called;
            where it has `__getitems__`, that reads a batch at once.
        sampler: the batches of this process.
        collate: makes a batch of what the data set gives; None takes the data set's own `collate`, or that of clips.
            With workers that are not forked it must be picklable.
        num_workers: processes that read; 0 reads in this one.
        start_method: of the workers; None is torch's own choice. Forked workers open files of their own.
        options: further options of `DataLoader`: `prefetch_factor`, `pin_memory`, `persistent_workers`, `timeout`.

    Attributes:
        epoch: the epoch whose batches are given.
        batch: batches of it that were given.
        clips: numbers of the clips of the batch that was given last or is being read.

    Raises:
        ConfigError: `persistent_workers` for a data set that draws anew in every epoch.
    """

    def __init__(
        self,
        dataset: Any,
        sampler: ShardBatchSampler,
        *,
        collate: Callable[[Any], Any] | None = None,
        num_workers: int = 0,
        start_method: StartMethod | None = None,
        **options: Any,
    ) -> None:
        import torch
        from torch.utils.data import DataLoader

        if options.get("persistent_workers") and getattr(dataset, "draws", hasattr(dataset, "set_epoch")):
            raise ConfigError(
                "persistent_workers: workers that outlive an epoch keep the draws of the first: leave it out"
            )
        self.dataset, self.sampler = dataset, sampler
        self.clips = []
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate or getattr(dataset, "collate", collate_clips),
            num_workers=num_workers,
            multiprocessing_context=start_method,
            # The loader draws a seed for its workers; from a generator of its own, so that the global one stays put.
            generator=torch.Generator().manual_seed(sampler.order.seed),
            **{"worker_init_fn": None if options.get("persistent_workers") else _keep_nothing, **options},
        )

    def __iter__(self) -> Iterator[Any]:
        self.sampler.start_at(self.epoch, self.batch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(self.epoch)
        order, size, batches = self.sampler.indices(self.epoch), self.sampler.batch_size, iter(self._loader)
        while self.batch < len(self):
            self.clips = order[self.batch * size :][:size].tolist()
            batch = next(batches)
            self.batch += 1
            yield batch
        self.epoch, self.batch = self.epoch + 1, 0
