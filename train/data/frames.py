"""Clips as pictures, from tar shards of the backbone `pixels` through a pipeline of `webdataset`.

This is how models that are trained from pixels read. What comes out is a `FrameBatch`: (B, T, C, H, W) bytes, captions
and names. Legend: B clips, T frames, C channels, H and W pixels; L lanes, K workers, S shards.

Order. An epoch's order is that of `EpochOrder` in blocks: shards at random by (seed, epoch), cut over the processes at
a clip and not at a shard, so that each has the same number of clips however uneven the shards are (a remainder is
padded, dropped or kept, as `remainder` says), and mixed within each window of shards. A process cuts its share into L
lanes, each of which streams its shards from beginning to end, and takes a clip from each lane in turn. L has nothing to
do with the number of workers: worker k of K reads the lanes k, k + K, ... So the same clips come in the same order over
any number of workers, and a position is one number. In a training, processes take shares of every batch instead
(`FrameLoader.over`), and together give the batches of one. (webdataset's own split by node and by worker deals out
whole shards: shares are uneven, the order depends on the number of workers, and there is no position in an epoch.)

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from ..._settings import Listed, Settings
from ..._vocabulary import InputError, IntegrityError, check_word, digest_of
from ...store import Entry, FeatureStore, SharedLock
from .frame_indices import Draws, Rule
from .frame_shards import (
    Picture,
    checked_arrays,
    decoded_bytes,
    decoded_jpeg,
    picture_of,
    random_crop,
    read_members,
    stored_frames,
)
from .loader import Positioned
from .order import EpochOrder, Indices, Remainder, ShardBatchSampler, process_of

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)


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
    curriculum: Listed[Listed[NonNegativeInt]] = ()
    """Epochs (from 0) from which on another number of frames is read, in training: `[[0, 1], [16, 4]]` reads one frame
    in the first 16 epochs. None: always `num_frames`."""
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

    @field_validator("curriculum")
    @classmethod
    def _stages(cls, stages: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        firsts = [stage[0] for stage in stages if len(stage) == 2 and stage[1] > 0]
        if len(firsts) < len(stages) or firsts != sorted({0, *firsts}) * bool(stages):
            raise ValueError("is pairs (first epoch, frames), the first of epoch 0, in the order of epochs")
        return stages

    def frames_in(self, epoch: int) -> int:
        """T of an epoch (from 0)."""
        begun = [frames for first, frames in self.curriculum if first <= epoch and self.training]
        return begun[-1] if begun else self.num_frames


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
        opened = store if isinstance(store, FeatureStore) else FeatureStore(store)
        reader = FrameReader(opened, clips, options=options, seed=seed, missing=missing)
        self.num_skipped = reader.num_skipped
        order = EpochOrder(
            groups=reader.groups,
            identity=digest_of([reader.identity(), lanes]),
            seed=seed,
            shuffle=shuffle,
            window_shards=window_shards,
            split="blocks",
            remainder=remainder,
            lanes=lanes,
            **dict(zip(("rank", "world_size"), process_of(rank, world_size), strict=True)),
        )
        self._take(reader, ShardBatchSampler(order, batch_size=batch_size, drop_last=drop_last), num_workers, **loader)

    @classmethod
    def over(
        cls,
        reader: FrameReader,
        sampler: ShardBatchSampler,
        *,
        collate: Callable[[Sequence[FrameSample]], Any] | None = None,
        num_workers: int = 0,
        **loader: Any,
    ) -> FrameLoader:
        """A loader of a reader's clips in the order of any sampler; `collate` makes its batches, in this process."""
        made = cls.__new__(cls)
        made.num_skipped = reader.num_skipped
        made._take(reader, sampler, num_workers, collate or collate_frames, **loader)
        return made

    def _take(
        self,
        reader: FrameReader,
        sampler: ShardBatchSampler,
        num_workers: int,
        collate: Callable[[Sequence[FrameSample]], Any] = collate_frames,
        **loader: Any,
    ) -> None:
        self.store, self.reader, self.sampler, self.clips = reader.store, reader, sampler, []
        self._hold = SharedLock(reader.store.place.folder)  # nothing is merged while it is read
        self._collate = collate
        self._loader = {**loader, "num_workers": num_workers}

    def __iter__(self) -> Iterator[Any]:
        import torch
        from webdataset import DataPipeline, WebLoader

        size, order = self.sampler.batch_size, self.sampler.indices(self.epoch)
        epoch = _Epoch(self.reader, self.epoch, order, self.sampler.lanes(), self.batch * size)
        # The loader draws a seed for its workers; from a generator of its own, so that the global one stays put.
        chance = torch.Generator().manual_seed(self.sampler.order.seed)
        samples = WebLoader(
            DataPipeline(epoch), batch_size=None, collate_fn=_as_it_is, generator=chance, **self._loader
        )
        batches = iter(samples.select(bool).batched(size, collation_fn=self._collate))
        while True:
            self.clips = order[self.batch * size :][:size].tolist()
            if (batch := next(batches, None)) is None:
                break
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

    reader: FrameReader
    epoch: int
    indices: Indices
    lanes: Indices
    first: int

    def __call__(self) -> Iterator[FrameSample | None]:
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info is not None else (0, 1)
        indices, lanes = self.indices[self.first :], self.lanes[self.first :]
        streams = {
            lane: iter(self.reader.lane(indices[lanes == lane].tolist(), self.epoch))
            for lane in np.unique(lanes).tolist()
            if lane % num_workers == worker
        }
        place, turn = 0, 0
        while place < len(indices):
            lane = int(lanes[place])
            is_next = lane % num_workers == turn
            if turn == worker:
                yield next(streams[lane]) if is_next else None
            place, turn = place + is_next, (turn + 1) % num_workers


class FrameReader:
    """Clips of a store as pictures, by their places.

    Args:
        store: where the shards are.
        clips: to be read.
        options: how a clip becomes pictures.
        seed: of the draws.
        missing: whether a clip without frames is an error or is left out ("skip", counted in `num_skipped`).

    Attributes:
        clips: those that are read.
        groups: the shard of each, as a number, (N,).

    Raises:
        InputError: a clip has no frames; its frames are in no tar shard, or of different sizes.
    """

    def __init__(
        self,
        store: FeatureStore,
        clips: Iterable[FrameClip],
        *,
        options: FrameOptions,
        seed: int = 0,
        missing: Literal["error", "skip"] = "error",
    ) -> None:
        check_word("missing", missing, Literal["error", "skip"])
        self.store, self.options, self.seed = store, options, seed
        given = list(clips)
        entries = [store.entry(clip.frames) for clip in given]
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
        self.picture = picture_of(specs)
        self.groups = np.unique([str(entry.shard.path) for entry in kept], return_inverse=True)[1]
        _log.info("%d clips of %d are read, %d left out", len(kept), len(given), self.num_skipped)

    def identity(self) -> str:
        """The clips' own: names, frames and spans."""
        return digest_of(
            [[clip.clip, clip.frames, str(clip.start_seconds), str(clip.end_seconds)] for clip in self.clips]
        )

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
        span, num_frames = (clip.start_seconds, clip.end_seconds), options.frames_in(epoch)
        frames = stored_frames(values, times, span=span, num_frames=num_frames, rule=options.rule, draws=draws)
        return _Chosen(index, caption, frames, num_frames, draw)

    def _prepare(self, chosen: _Chosen) -> FrameSample:
        """Decode, crop, flip, scale; black frames after the last."""
        options, clip = self.options, self.clips[chosen.place]
        draw = chosen.draw if options.training else None
        pictures = decoded_pictures(chosen.frames, self.picture, options, draw)
        frames = pictures.new_zeros(chosen.num_frames, *pictures.shape[1:])
        frames[: len(pictures)] = pictures
        return FrameSample(chosen.place, clip.clip, chosen.caption, frames, len(pictures), clip.metadata)


def decoded_pictures(
    frames: Sequence[bytes], picture: Picture, options: FrameOptions, draw: np.random.Generator | None = None
) -> Tensor:
    """Stored frames as (frames, C, H, W) bytes; cropped and mirrored at random where there is a generator."""
    import torch
    from torchvision.transforms.v2 import functional

    decode, side = decoded_jpeg if picture.is_jpeg else decoded_bytes, picture.side
    pictures = torch.from_numpy(np.stack([decode(frame, side) for frame in frames])).permute(0, 3, 1, 2)
    if draw is not None:
        top, left, height, width = random_crop(draw, side, options.min_area, options.max_aspect)
        pictures = pictures[:, :, top : top + height, left : left + width]
        if draw.random() < options.flip:
            pictures = pictures.flip(3)
    if pictures.shape[2:] != (options.size, options.size):
        pictures = functional.resize(pictures, [options.size, options.size], antialias=True)
    return pictures


class _Chosen(NamedTuple):
    """A clip's frames as they are stored, waiting for their turn."""

    place: int
    caption: str
    frames: list[bytes]
    num_frames: int
    draw: np.random.Generator
