"""In which order clips are read: exact, by (seed, epoch), over any number of processes.

An epoch's order is made in three steps, each a pure function of (seed, epoch), so that there is nothing to save but a
position: the shards are put in random order; every `window_shards` of them are mixed, so that a reader meets few shards
at a time and yet neighbours in a shard are not neighbours in a batch; and the processes share the result.

The random numbers are raw output of PCG64, sorted, which NumPy promises never to change; its `permutation` has no such
promise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, InputError, check_word

Split = Literal["interleaved", "blocks"]
Remainder = Literal["pad", "drop", "keep"]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochOrder:
    """The clips that one process reads in an epoch, in order.

    Every clip is given exactly once per epoch over all processes, but for the remainder: the N clips modulo
    `world_size` that cannot be shared out evenly.

    Args:
        groups: (N,) number of the shard that each clip lies in; clips with the same number are read near each other.
        identity: names the clips; part of what a saved position must agree with.
        seed: of the order.
        shuffle: False gives the clips in their own order, in every epoch.
        window_shards: shards that are mixed with each other. None mixes all: a uniform random order without locality.
        rank: this process, from 0.
        world_size: processes that share the clips.
        split: "interleaved" gives process r the clips r, r + world_size, ... of one common order: the clips of a step
            do not depend on the number of processes. "blocks" cuts the shards' order into contiguous parts before
            mixing, so that each process reads shards of its own: two neighbours share one shard at most.
        remainder: "pad" gives the first clips of the order a second time, so that all processes have the same number;
            "drop" leaves out the last ones of the order, which differ from epoch to epoch; "keep" gives every clip
            exactly once, so that some processes have one more. With several processes that wait for each other at each
            step, only the first two end.
        lanes: parts into which the order is cut, and of which one clip each is taken in turn.

    Raises:
        InputError: a value outside what is allowed.
    """

    groups: NDArray[Any]
    identity: str = ""
    seed: int = 0
    shuffle: bool = True
    window_shards: int | None = 16
    rank: int = 0
    world_size: int = 1
    split: Split = "interleaved"
    remainder: Remainder = "pad"
    lanes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise InputError(f"rank {self.rank} of {self.world_size} processes: ranks are 0 to world_size - 1")
        if self.window_shards is not None and self.window_shards < 1:
            raise InputError(f"window_shards {self.window_shards}: 1 or more shards are mixed; None mixes all")
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: seeds are 0 or more")
        if self.lanes < 1:
            raise InputError(f"lanes {self.lanes}: 1 or more shards are streamed at a time")
        check_word("split", self.split, Split)
        check_word("remainder", self.remainder, Remainder)
        object.__setattr__(self, "groups", np.unique(self.groups, return_inverse=True)[1])

    def __len__(self) -> int:
        """The number of clips that this process is given in an epoch."""
        first, last, step = self._share(self._num_shared)
        return len(range(first, last, step))

    def indices(self, epoch: int) -> Indices:
        """The clips of one epoch for this process, `len(self)` of them."""
        if self.split == "blocks":
            return self._in_turn(self._own(epoch))
        return self._mine(self._in_turn(self._own(epoch)))

    def _own(self, epoch: int) -> Indices:
        """One epoch before lanes: of interleaved processes that of all, of blocks this process's."""
        if not self.shuffle:
            every = np.arange(len(self.groups))
            return self._mine(every) if self.split == "blocks" else every
        numbers = np.random.PCG64((self.seed, epoch))
        shards = numbers.random_raw(int(self.groups.max(initial=-1)) + 1)  # a random number for every shard
        clips = numbers.random_raw(len(self.groups))
        by_shard = np.lexsort((clips, shards[self.groups]))
        if self.split == "blocks":
            return self._mixed(self._mine(by_shard), clips)
        return self._mixed(by_shard, clips)

    def _in_turn(self, order: Indices) -> Indices:
        """Clip k of the order that is given is clip k // L of lane k % L."""
        if self.lanes == 1:
            return order
        parts = np.array_split(order, self.lanes)
        turns = np.concatenate([np.arange(len(part)) for part in parts])
        return order[np.argsort(turns, kind="stable")]

    def _mixed(self, order: Indices, draws: NDArray[np.uint64]) -> Indices:
        """Clips shard by shard, mixed within each window of shards."""
        if not len(order):
            return order
        shards = np.cumsum(np.diff(self.groups[order], prepend=self.groups[order[0]]) != 0)
        windows = shards // (self.window_shards or len(self.groups))
        return order[np.lexsort((draws[order], windows))]

    def _mine(self, order: Indices) -> Indices:
        """This process's share of an order of all clips."""
        first, last, step = self._share(self._num_shared)
        # Padding repeats the order from its beginning, more than once where there are fewer clips than processes.
        return order[np.arange(first, last, step) % max(1, len(order))]

    @property
    def _num_shared(self) -> int:
        remainder = len(self.groups) % self.world_size
        if not remainder or self.remainder == "keep":
            return len(self.groups)
        return len(self.groups) - remainder + (self.world_size if self.remainder == "pad" else 0)

    def _share(self, total: int) -> tuple[int, int, int]:
        """First, last and step of this process's positions among all that are shared."""
        if self.split == "interleaved":
            return self.rank, total, self.world_size
        return self.rank * total // self.world_size, (self.rank + 1) * total // self.world_size, 1

    def as_dict(self) -> dict[str, Any]:
        """The parameters of the order, for JSON; without rank and number of processes."""
        groups = np.ascontiguousarray(self.groups, "<i8").tobytes()
        return {
            "clips": len(self.groups),
            "identity": self.identity,
            "shards": hashlib.blake2b(groups, digest_size=16).hexdigest() if self.shuffle else "",
            "seed": self.seed,
            "shuffle": self.shuffle,
            "window_shards": self.window_shards,
            "split": self.split,
            "remainder": self.remainder,
            **({"lanes": self.lanes} if self.lanes > 1 else {}),
        }


def process_of(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """(rank, number of processes): as given, else those of torch.distributed where it runs, else one process.

    Raises InputError when only one of them is given.
    """
    if rank is not None and world_size is not None:
        return rank, world_size
    if rank is not None or world_size is not None:
        raise InputError("rank and world_size belong together: give both or neither")
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class ShardBatchSampler:
    """The batches of one process: what `torch.utils.data.DataLoader` takes as `batch_sampler`.

    It lives in the main process and alone decides what is read; workers only read. It keeps no position of its own:
    a loader with workers asks for batches ahead of those that it has given, and so the one who counts the given ones
    knows the position (`FeatureLoader`), and says where to begin.

    Args:
        order: the clips of an epoch.
        batch_size: clips of a batch of this process.
        drop_last: whether an incomplete last batch is left out.
        share: (this process, number of processes) where all of them have the order of one, and each reads what lies
            together in every batch of all: shares gathered in order are the batch in order. An incomplete last batch is
            dropped.

    Raises:
        InputError: `batch_size` is not 1 or more.
    """

    def __init__(
        self, order: EpochOrder, *, batch_size: int, drop_last: bool = False, share: tuple[int, int] = (0, 1)
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size}: a batch has 1 or more clips")
        self.order = order
        self.batch_size = batch_size
        self.drop_last = drop_last or share[1] > 1
        self.share = share
        self.epoch = 0
        self.first_batch = 0

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Where the next iteration begins; every later one too, until this is called again."""
        self.epoch, self.first_batch = epoch, batch

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration with an epoch's first batch."""
        self.start_at(epoch)

    def __len__(self) -> int:
        """The number of batches of a whole epoch."""
        return math.ceil(self.num_clips / self.batch_size)

    @property
    def num_clips(self) -> int:
        """The clips that this process is given in an epoch."""
        num_clips = len(self.order) // self.share[1]
        return num_clips - num_clips % self.batch_size if self.drop_last else num_clips

    def indices(self, epoch: int) -> Indices:
        """The clips of an epoch's batches end to end, (num_clips,)."""
        rank, world_size = self.share
        order = self.order.indices(epoch)[: self.num_clips * world_size]
        return order if world_size == 1 else order.reshape(-1, world_size, self.batch_size)[:, rank].reshape(-1)

    def lanes(self) -> NDArray[np.int64]:
        """The lane that each of an epoch's clips is read in, (num_clips,)."""
        rank, world_size = self.share
        places = np.arange(self.num_clips * world_size)
        if world_size > 1:
            places = places.reshape(-1, world_size, self.batch_size)[:, rank].reshape(-1)
        if self.order.split == "interleaved":
            places = places * self.order.world_size + self.order.rank
        return places % self.order.lanes

    def __iter__(self) -> Iterator[list[int]]:
        indices = self.indices(self.epoch)
        for first in range(self.first_batch * self.batch_size, len(indices), self.batch_size):
            yield indices[first : first + self.batch_size].tolist()

    def as_dict(self) -> dict[str, Any]:
        """The values that a saved position must agree with, for JSON.

        Of an interleaved order this is the batch over all processes: it may be shared by another number of them.
        """
        shared = self.order.split == "interleaved"
        sizes = {"batch": self.batch_size * self.order.world_size * self.share[1]}
        if not shared:
            sizes = {"batch": self.batch_size, "processes": self.order.world_size}
        return {**self.order.as_dict(), **sizes, "drop_last": self.drop_last}


def check_order(state: Mapping[str, Any], sampler: ShardBatchSampler) -> None:
    """Refuse a position of other clips or of another order. Raises ConfigError."""
    then, now = state.get("order", {}), sampler.as_dict()
    differing = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    if differing:
        raise ConfigError(
            f"the saved position is of another order ({', '.join(differing)} differ): go on with the same clips and "
            "options, or begin the epoch anew with set_epoch"
        )
