"""Clips as pictures, from tar shards of the backbone `pixels` through a pipeline of `webdataset`.

This is how models that are trained from pixels read. What comes out is a `FrameBatch`: (B, T, C, H, W) bytes, captions
and names. Legend: B clips, T frames, C channels, H and W pixels; L lanes, K workers, S shards.

Order. An epoch's order is that of `EpochOrder` in blocks: shards at random by (seed, epoch), cut over the processes at
a clip and not at a shard, so that each has the same number of clips however uneven the shards are (a remainder is
padded, dropped or kept, as `remainder` says), and mixed within each window of shards. A process cuts its share into L
lanes, each of which streams its shards from beginning to end, and takes a clip from each lane in turn. L has nothing to
do with the number of workers: worker k of K reads the lanes k, k + K, ... So the same clips come in the same order over
any number of workers, and a position is one number. (webdataset's own split by node and by worker deals out whole
shards: shares are uneven, the order depends on the number of workers, and there is no position in an epoch.)

Pipeline. One lane is a `webdataset.DataPipeline`: its shards -> `read_members` -> webdataset's `group_by_keys` ->
samples compared with their sidecar (`frame_shards`) -> frames chosen -> put in order -> decoded, cropped, flipped and
scaled. Of a window's shards only the chosen frames are held, as they are stored. A shard at the border of two lanes, or
in a window that they share, is read by both, each of which skips what is the other's.

Frames are chosen by the published rules (`frame_indices`). Each clip draws its caption, frames, crop and flip from a
generator seeded with (seed, epoch, clip): they do not depend on order, workers or processes. torch and webdataset are
loaded by the first iteration.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from ..._settings import Settings
from ..._vocabulary import InputError, IntegrityError, check_word, digest_of
from ...store import Entry, FeatureStore, SharedLock
from .frame_indices import At, Draws, clover_indices, frozen_in_time_indices, vindlu_indices
from .frame_shards import Picture, checked_arrays, decoded_bytes, decoded_jpeg, picture_of, random_crop, read_members
from .loader import Positioned
from .order import EpochOrder, Indices, Remainder, ShardBatchSampler, process_of

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
Rule = Literal["frozen_in_time", "vindlu", "clover"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameClip:
    """One clip to be read.

    Attributes:
        clip: its name.
        frames: fingerprint of its video's feature `pixels`, in a tar shard.
        captions: what is said of it, as text.
        start_seconds: first instant of the span.
        end_seconds: first instant after it. A span in which no frame lies gives the frame nearest to its middle.
        metadata: whatever goes with it into the batch, such as an answer.
    """

    clip: str
    frames: str
    captions: tuple[str, ...] = ()
    start_seconds: float = -math.inf
    end_seconds: float = math.inf
    metadata: Mapping[str, Any] = field(default_factory=dict)


class FrameOptions(Settings):
    """How a clip becomes T pictures."""

    num_frames: PositiveInt = 4
    """T: 1, 3, 4 or 8 as published. A clip of fewer frames is filled up with black ones, unless the rule repeats."""
    rule: Rule = "frozen_in_time"
    """Which frames are chosen (see `frame_indices`): one from each of T equal segments, or Clover's clips of one."""
    training: bool = False
    """Whether caption, frames, crop and flip are drawn. Otherwise: the first caption, the segments' middles, and the
    largest square from the picture's middle."""
    size: PositiveInt = 224
    """H and W."""
    min_area: float = Field(default=0.5, gt=0, le=1)
    """Smallest share of the picture's area that a random crop takes; 1 with `max_aspect` 1 takes the whole."""
    max_aspect: float = Field(default=4 / 3, ge=1)
    """Largest ratio of a random crop's sides, either way."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Chance that a clip is mirrored. 0 where captions say left and right."""


class FrameSample(NamedTuple):
    """One clip, prepared. `frames` is (T, C, H, W) uint8, of which the first `num_frames` are real."""

    place: int
    clip: str
    caption: str
    frames: Tensor
    num_frames: int
    metadata: Mapping[str, Any]


class FrameBatch(NamedTuple):
    """The input of a model that reads pixels.

    Attributes:
        frames: (B, T, C, H, W) uint8, RGB; frames after a clip's last are black.
        num_frames: (B,) how many of T are real.
        captions: of each clip the one that was chosen; "" where it has none.
        clips: names.
        places: (B,) places among the clips that the loader was given (the kept ones).
        metadata: of each clip.
    """

    frames: Tensor
    num_frames: Tensor
    captions: list[str]
    clips: list[str]
    places: Tensor
    metadata: list[Mapping[str, Any]]

    def normalised(self, mean: Sequence[float], std: Sequence[float], *, device: Any = None) -> Tensor:
        """(B, T, C, H, W) float32: ``(frames / 255 - mean) / std`` by channel. Bytes go to the device, not floats."""
        import torch

        frames = self.frames.to(device, non_blocking=True).float().div_(255)
        shift, scale = (torch.tensor(each, device=frames.device).view(-1, 1, 1) for each in (mean, std))
        return frames.sub_(shift).div_(scale)


def collate_frames(samples: Sequence[FrameSample]) -> FrameBatch:
    """A batch of prepared clips."""
    import torch

    places, clips, captions, frames, counts, metadata = zip(*samples, strict=True)
    return FrameBatch(
        torch.stack(frames), torch.tensor(counts), list(captions), list(clips), torch.tensor(places), list(metadata)
    )


class FrameLoader(Positioned):
    """Batches of clips as pictures, with a position; the face of `FeatureLoader`.

    Iterating gives the rest of the current epoch and then goes on to the next one. `state_dict` counts the batches
    given; a loader of the same clips goes on exactly there, with any number of workers.

    Args:
        store: where the shards are; a remote one's shards are copied to this machine as they are read.
        clips: to be read.
        options: how a clip becomes pictures.
        batch_size: B of this process.
        drop_last: whether an incomplete last batch is left out.
        seed: of order and draws.
        shuffle: False gives the clips shard by shard as they are stored.
        window_shards: shards that are mixed with each other: the larger, the better mixed, and the more is held.
        lanes: L, the shards that a process streams at a time. Part of the order, and so of a position.
        rank: this process, from 0; None: as torch.distributed says.
        world_size: processes that share the clips.
        remainder: what happens where the clips cannot be shared evenly: "pad", "drop" or "keep" (see `EpochOrder`).
        missing: whether a clip without frames is an error or is left out ("skip", counted in `num_skipped`).
        num_workers: processes that read and decode; 0: this one.
        options of torch's `DataLoader`: `prefetch_factor`, `pin_memory`, `multiprocessing_context`, `timeout`.

    Raises:
        InputError: a clip has no frames; its frames are in no tar shard, or of different sizes.
    """

    def __init__(
        self,
        store: FeatureStore | Path,
        clips: Iterable[FrameClip],
        *,
        options: FrameOptions,
        batch_size: int,
        drop_last: bool = False,
        seed: int = 0,
        shuffle: bool = True,
        window_shards: int = 4,
        lanes: int = 8,
        rank: int | None = None,
        world_size: int | None = None,
        remainder: Remainder = "pad",
        missing: Literal["error", "skip"] = "error",
        num_workers: int = 0,
        **loader: Any,
    ) -> None:
        check_word("missing", missing, Literal["error", "skip"])
        if lanes < 1:
            raise InputError(f"lanes {lanes}: 1 or more shards are streamed at a time")
        self.store = store if isinstance(store, FeatureStore) else FeatureStore(store)
        self._hold = SharedLock(self.store.place.folder)  # nothing is merged while it is read
        given = list(clips)
        entries = [self.store.entry(clip.frames) for clip in given]
        problems = [_missing_frames(clip, entry) for clip, entry in zip(given, entries, strict=True)]
        if missing == "error" and (first := next(filter(None, problems), None)):
            raise InputError(f"{first}; extract it, or leave such clips out by missing='skip'")
        kept = [entry for entry, problem in zip(entries, problems, strict=True) if entry is not None and not problem]
        self.clips = [clip for clip, problem in zip(given, problems, strict=True) if not problem]
        self.num_skipped = len(given) - len(kept)
        specs = {entry.shard.spec for entry in kept}
        if len(specs) > 1:
            raise InputError("the clips' frames are of several specifications: read those of one at a time")
        for entry in kept:
            if entry.shard.path.suffix != ".tar":
                raise InputError(f"the frames of {entry.key!r} are in an HDF5 shard: write them with format webdataset")
        order = EpochOrder(
            groups=np.unique([str(entry.shard.path) for entry in kept], return_inverse=True)[1],
            identity=digest_of(
                [[clip.clip, clip.frames, str(clip.start_seconds), str(clip.end_seconds)] for clip in self.clips]
                + [lanes]
            ),
            seed=seed,
            shuffle=shuffle,
            window_shards=window_shards,
            split="blocks",
            remainder=remainder,
            **dict(zip(("rank", "world_size"), process_of(rank, world_size), strict=True)),
        )
        self.sampler = ShardBatchSampler(order, batch_size=batch_size, drop_last=drop_last)
        self._reader = _Reader(self.store, self.clips, options, picture_of(specs), lanes, seed)
        self._loader = {**loader, "num_workers": num_workers}
        _log.info("%d clips of %d are read, %d left out", len(kept), len(given), self.num_skipped)

    def __iter__(self) -> Iterator[FrameBatch]:
        import torch
        from webdataset import DataPipeline, WebLoader

        first = self.batch * self.sampler.batch_size
        epoch = _Epoch(self._reader, self.epoch, self.sampler.indices(self.epoch), first)
        # The loader draws a seed for its workers; from a generator of its own, so that the global one stays put.
        chance = torch.Generator().manual_seed(self.sampler.order.seed)
        samples = WebLoader(
            DataPipeline(epoch), batch_size=None, collate_fn=_as_it_is, generator=chance, **self._loader
        )
        batches = samples.select(bool).batched(self.sampler.batch_size, collation_fn=collate_frames)
        for batch in batches:
            self.batch += 1
            yield batch
        self.epoch, self.batch = self.epoch + 1, 0


def _missing_frames(clip: FrameClip, entry: Entry | None) -> str:
    """Why a clip cannot be read; empty where it can."""
    if entry is None:
        return f"clip {clip.clip!r} has no frames in the store ({clip.frames})"
    if not entry.num_rows:
        return f"clip {clip.clip!r} has no frames: {entry.status.value} ({entry.message})"
    start, end = entry.start_seconds or 0.0, math.inf if entry.end_seconds is None else entry.end_seconds
    if clip.start_seconds >= end or clip.end_seconds <= start:
        return f"clip {clip.clip!r} lies outside of its video, {start:.3f} to {end:.3f} s"
    return ""


def _as_it_is(sample: Any) -> Any:
    return sample


@dataclass(frozen=True)
class _Epoch:
    """The first stage of the pipeline: what this worker gives of one process's share of an epoch.

    torch's loader asks its workers in turn. A worker whose turn it is, while the next clip is another's, gives None.
    """

    reader: _Reader
    epoch: int
    indices: Indices
    first: int

    def __call__(self) -> Iterator[FrameSample | None]:
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info is not None else (0, 1)
        num_lanes = self.reader.lanes
        # Clip k of the process is clip k // L of lane k % L.
        lanes = [indices.tolist() for indices in np.array_split(self.indices, num_lanes)]
        streams = {
            lane: iter(self.reader.lane(lanes[lane][max(0, -(-(self.first - lane) // num_lanes)) :], self.epoch))
            for lane in range(worker, num_lanes, num_workers)
        }
        place, turn = self.first, 0
        while place < len(self.indices):
            lane = place % num_lanes
            is_next = lane % num_workers == turn
            if turn == worker:
                yield next(streams[lane]) if is_next else None
            place, turn = place + is_next, (turn + 1) % num_workers


@dataclass(frozen=True)
class _Reader:
    """The reader of one lane: clips by their places among all, in the order in which they are wanted."""

    store: FeatureStore
    clips: list[FrameClip]
    options: FrameOptions
    picture: Picture
    lanes: int
    seed: int

    def lane(self, order: Sequence[int], epoch: int) -> Any:
        """The pipeline of one lane, over clips in their order."""
        from webdataset import DataPipeline
        from webdataset.tariterators import group_by_keys

        wanted: dict[str, dict[str, list[int]]] = {}
        entries: dict[str, Entry] = {}
        for index in order:
            entry = self.store.entry(self.clips[index].frames)
            assert entry is not None
            entries[entry.sample_id] = entry
            wanted.setdefault(str(entry.shard.path), {}).setdefault(entry.sample_id, []).append(index)

        def shards() -> Iterator[dict[str, Any]]:
            for path, samples in wanted.items():
                one = entries[next(iter(samples))]
                if not one.shard.path.is_file():
                    self.store.read_times(one.shard.path, one.first_row, one.first_row)  # brings a remote shard here
                yield {"url": path, "entries": [entries[name] for name in samples]}

        def checked(samples: Iterable[dict[str, Any]]) -> Iterator[tuple[Entry, NDArray[Any], NDArray[Any]]]:
            for sample in samples:
                entry = entries[sample["__key__"]]
                yield (entry, *checked_arrays(entry, sample))

        def chosen(samples: Iterable[tuple[Entry, NDArray[Any], NDArray[Any]]]) -> Iterator[_Chosen]:
            for entry, values, times in samples:
                for index in wanted[str(entry.shard.path)][entry.sample_id]:
                    yield self._choose(index, epoch, values, times)

        def in_order(found: Iterable[_Chosen]) -> Iterator[_Chosen]:
            source, held = iter(found), dict[int, _Chosen]()
            for index in order:
                while index not in held:
                    one = next(source, None)
                    if one is None:
                        entry = next(each for each in entries.values() if each.fingerprint == self.clips[index].frames)
                        raise IntegrityError(f"sample {entry.key!r} is missing in shard {entry.shard.path}; repair it")
                    held[one.place] = one
                yield held.pop(index)

        def prepared(found: Iterable[_Chosen]) -> Iterator[FrameSample]:
            return map(self._prepare, found)

        return DataPipeline(shards, read_members, group_by_keys, checked, chosen, in_order, prepared)

    def _choose(self, index: int, epoch: int, values: NDArray[np.uint8], times: NDArray[np.float64]) -> _Chosen:
        """The frames of a clip as they are stored, and what is drawn for it."""
        clip, options = self.clips[index], self.options
        draw = np.random.default_rng((self.seed, epoch, index))
        captions = clip.captions or ("",)
        caption = captions[int(draw.integers(len(captions))) if options.training else 0]
        draws = Draws(int(draw.integers(2**32))) if options.training else None
        # Rows of one frame follow each other at the frame's time: one row where it is raw.
        first_rows = np.flatnonzero(np.r_[True, (times[1:] != times[:-1]).any(axis=1)])
        starts, ends = times[first_rows].T
        inside = np.flatnonzero((starts < clip.end_seconds) & (ends > clip.start_seconds))
        if not len(inside):
            inside = np.array([np.abs(starts + ends - clip.start_seconds - clip.end_seconds).argmin()])
        count = len(inside)
        at: At = "random" if options.training else "middle"
        if options.rule == "frozen_in_time":
            picked = frozen_in_time_indices(count, num_frames=options.num_frames, at=at, draws=draws)
        elif options.rule == "vindlu":
            picked = vindlu_indices(count, num_frames=options.num_frames, at=at, draws=draws)
        else:
            picked = clover_indices(count, num_clips=options.num_frames, at=at, draws=draws)
        borders = np.append(first_rows, len(values))
        frames = [values[borders[place] : borders[place + 1]].tobytes() for place in inside[picked]]
        return _Chosen(index, caption, frames, draw)

    def _prepare(self, chosen: _Chosen) -> FrameSample:
        """Decode, crop, flip, scale; black frames after the last."""
        import torch
        from torchvision.transforms.v2 import functional

        options, side, clip = self.options, self.picture.side, self.clips[chosen.place]
        decode = decoded_jpeg if self.picture.is_jpeg else decoded_bytes
        pictures = torch.from_numpy(np.stack([decode(frame, side) for frame in chosen.frames])).permute(0, 3, 1, 2)
        if options.training:
            top, left, height, width = random_crop(chosen.draw, side, options.min_area, options.max_aspect)
            pictures = pictures[:, :, top : top + height, left : left + width]
            if chosen.draw.random() < options.flip:
                pictures = pictures.flip(3)
        if pictures.shape[2:] != (options.size, options.size):
            pictures = functional.resize(pictures, [options.size, options.size], antialias=True)
        frames = pictures.new_zeros(options.num_frames, 3, options.size, options.size)
        frames[: len(pictures)] = pictures
        return FrameSample(chosen.place, clip.clip, chosen.caption, frames, len(pictures), clip.metadata)


class _Chosen(NamedTuple):
    """A clip's frames as they are stored, waiting for their turn."""

    place: int
    caption: str
    frames: list[bytes]
    draw: np.random.Generator
