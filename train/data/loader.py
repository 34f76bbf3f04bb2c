"""Batches with a position: what was given is known exactly, whatever workers have read ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..._vocabulary import ConfigError
from .batch import FeatureBatch, shared_array
from .features import FeatureDataset, FeatureSample, collate_features
from .order import ShardBatchSampler, check_order

if TYPE_CHECKING:
    from torch.utils.data import IterableDataset

StartMethod = Literal["fork", "spawn", "forkserver"]
Batches = Literal["samples", "padded"]


class FeatureLoader:
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
        dataset: a map-style data set, in which the sampler's order counts. Where it has `set_epoch`, that is called.
        sampler: the batches of this process.
        batches: how a batch is read. "samples" reads clips one by one, and ``collate`` puts them together. "padded",
            for a `FeatureDataset`, reads their rows straight into the places of a padded batch, without a copy;
            values keep the type that they are stored in.
        collate: makes a batch of a list of samples, or of the `FeatureBatch` of a padded one; None takes
            `collate_features` or `FeatureBatch.tokens`, which give the same but for the type of the values. With
            workers that are not forked it must be picklable.
        num_workers: processes that read; 0 reads in this one.
        start_method: of the workers; None is torch's own choice. Forked workers open files of their own.
        options: further options of `DataLoader`: `prefetch_factor`, `pin_memory`, `persistent_workers`, `timeout`.

    Raises:
        ConfigError: `persistent_workers` for a data set that draws spans anew in every epoch; "padded" for a data set
            that has no `read_batch`.
    """

    def __init__(
        self,
        dataset: Any,
        sampler: ShardBatchSampler,
        *,
        batches: Batches = "samples",
        collate: Callable[[Any], Any] | None = None,
        num_workers: int = 0,
        start_method: StartMethod | None = None,
        **options: Any,
    ) -> None:
        import torch
        from torch.utils.data import DataLoader

        changes = getattr(dataset, "draws", hasattr(dataset, "set_epoch"))
        if options.get("persistent_workers") and changes:
            raise ConfigError("persistent_workers: workers that outlive an epoch cannot be told the next one's draws")
        if batches not in get_args(Batches):
            raise ConfigError(f"batches {batches!r}: allowed are {', '.join(get_args(Batches))}")
        if batches == "padded" and not hasattr(dataset, "read_batch"):
            raise ConfigError(f"batches 'padded': {type(dataset).__name__} has no read_batch; use 'samples'")
        is_padded = batches == "padded"
        reader: Any = _PaddedReader(dataset) if is_padded else dataset
        default: Callable[[Any], Any] = FeatureBatch.tokens if is_padded else collate_features
        self.dataset, self.sampler = dataset, sampler
        self.epoch = 0
        self.batch = 0
        self._loader: DataLoader[Any] = DataLoader(
            reader,
            batch_sampler=sampler,
            collate_fn=collate or default,
            num_workers=num_workers,
            multiprocessing_context=start_method,
            # The loader draws a seed for its workers; from a generator of its own, so that the global one stays put.
            generator=torch.Generator().manual_seed(sampler.order.seed),
            **options,
        )

    def __len__(self) -> int:
        """The number of batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        self.sampler.start_at(self.epoch, self.batch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(self.epoch)
        for batch in self._loader:
            self.batch += 1
            yield batch
        self.epoch, self.batch = self.epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch's first batch; in the current epoch, stay where this loader is."""
        if epoch != self.epoch:
            self.epoch, self.batch = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON-ready data: the batches given so far. It is the same in all processes."""
        return {"epoch": self.epoch, "batch": self.batch, "order": self.sampler.as_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position. Raises ConfigError when it is of other clips or another order."""
        check_order(state, self.sampler)
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])


class _PaddedReader:
    """A data set whose batches are read at once: torch gives ``collate`` whatever `__getitems__` gives."""

    def __init__(self, dataset: FeatureDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, indices: Sequence[int]) -> FeatureBatch:
        from torch.utils.data import get_worker_info

        if get_worker_info() is None:
            return self._dataset.read_batch(indices)
        return self._dataset.read_batch(indices, allocate=shared_array)  # the queue copies what is not shared


def feature_stream(dataset: FeatureDataset, sampler: ShardBatchSampler) -> IterableDataset[FeatureSample]:
    """The clips of a sampler as an iterable data set, for loaders that take nothing else.

    A loader with the sampler's batch size gives the sampler's batches in its order, for any number of workers: worker w
    of K reads every K-th batch from the w-th on. `set_epoch`, `start_at`, `state_dict` and `load_state_dict`: see
    `_feature_stream.FeatureStream`.
    """
    from .stream import FeatureStream

    return FeatureStream(dataset, sampler)
