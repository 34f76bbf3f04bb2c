"""Clips as pictures and word pieces: what `fit` and `embed` read for models that learn from pixels.

The face of `ClipDataset`; frames come through `FrameReader` and `FrameLoader`, captions are rows of the text feature
`wordpiece`. A batch is "video": (B, T, C, H, W) bytes with masks (B, T), and "text": (B, L) numbers of pieces with
masks (B, L). Longer texts are cut and keep their last piece, [SEP]. In training, word pieces with tags give "tags" too.
Questions have "answer", (B, 1) int64 whose mask is 0 where it is unknown; with options, in the place of "text" there is
"options": (B, O, L) with masks (B, O, L), O being the most that a question has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import FeatureArray, InputError
from ...store import FeatureStore, SharedLock
from .clips import ClipFeatures, ClipSample, QuestionFeatures
from .frame_shards import picture_of, stored_frames
from .frames import (
    FrameClip,
    FrameLoader,
    FrameOptions,
    FrameReader,
    FrameSample,
    decoded_pictures,
)
from .loader import Positioned
from .order import ShardBatchSampler

if TYPE_CHECKING:
    from ...fuse import Tokens

_TEXTS_KEPT = 65_536
_FRAMES_AT_A_TIME = 64


class PixelDataset:
    """Clips of a store, as models of pixels read them.

    Args:
        store: where frames and captions are.
        clips: each with one feature "video", of `pixels` in tar shards, and captions of `wordpiece`; or one of both.
        options: how a clip becomes pictures.
        max_words: L, pieces of a text that are kept.
        seed: of every draw.

    Attributes:
        lanes: shards that are streamed at a time.

    Raises:
        InputError: the frames are not `pixels` in tar shards of one size.
    """

    lanes = 8

    def __init__(
        self,
        store: FeatureStore,
        clips: Sequence[ClipFeatures],
        *,
        options: FrameOptions,
        max_words: int,
        seed: int = 0,
    ) -> None:
        self.store, self.clips, self.options, self.max_words = store, clips, options, max_words
        self.epoch = 0
        self._hold = SharedLock(store.place.folder)
        seen = [place for place, clip in enumerate(clips) if clip.has("video")]
        self._place_of = dict(zip(seen, range(len(seen)), strict=True))
        self._reader = FrameReader(
            store, map(_frame_clip, (clips[place] for place in seen)), options=options, seed=seed
        )
        self._pieces = lru_cache(maxsize=_TEXTS_KEPT)(self._read_pieces)

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose captions, frames and crops are drawn."""
        self.epoch = epoch

    def shard_groups(self) -> NDArray[np.int64]:
        """The shard that each clip's frames are read from, as a number, (N,); -1 without frames."""
        groups = np.full(len(self), -1, np.int64)
        groups[list(self._place_of)] = self._reader.groups
        return groups

    def key(self, index: int) -> str:
        """The name of a clip."""
        return self.clips[index].clip

    def __getitem__(self, index: int) -> FrameSample:
        """One clip of the current epoch, which has frames."""
        sample: FrameSample = next(iter(self._reader.lane([self._place_of[index]], self.epoch)))
        return sample

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tokens]:
        """A batch of several clips: every modality that some of them has."""
        return self._batch(indices, self._frames_of(indices))

    def batches(self, indices: Sequence[int]) -> Iterator[dict[str, Tokens]]:
        """Batches of several clips in turn, as many as fit into memory at a time; a video's frames are read once."""
        frames, size = self._frames_of(indices), max(1, _FRAMES_AT_A_TIME // self.options.num_frames)
        for first in range(0, len(indices), size):
            yield self._batch(indices[first : first + size], frames)

    def _frames_of(self, indices: Sequence[int]) -> Iterator[FrameSample]:
        places = [self._place_of[one] for one in indices if one in self._place_of]
        return iter(self._reader.lane(places, self.epoch) if places else ())

    def _batch(self, indices: Sequence[int], frames: Iterator[FrameSample]) -> dict[str, Tokens]:
        import torch

        from ...fuse import Tokens

        batch: dict[str, Tokens] = {}
        seen = [place for place, index in enumerate(indices) if index in self._place_of]
        if seen:
            found = _video(list(islice(frames, len(seen))))
            values, mask = (each.new_zeros(len(indices), *each.shape[1:]) for each in found)
            values[torch.tensor(seen)], mask[torch.tensor(seen)] = found
            batch["video"] = Tokens(values, mask)
        captions = [self.clips[index].captions[:1] for index in indices]
        if any(captions):
            batch["text"] = self._texts([one[0] if one else "" for one in captions])["text"]
        return batch

    def collate(self, samples: Sequence[FrameSample]) -> dict[str, Tokens]:
        """A batch of prepared clips, with the captions that were drawn for them."""
        batch = {"video": _video(samples)}
        captions = [sample.caption for sample in samples]
        return {**self._texts(captions), **batch} if any(captions) else batch

    def loader(self, sampler: ShardBatchSampler, *, num_workers: int = 0) -> Positioned:
        """Batches in the order of a sampler."""
        return FrameLoader.over(self._reader, sampler, collate=self.collate, num_workers=num_workers)

    def _texts(self, captions: Sequence[str]) -> dict[str, Tokens]:
        return padded_pieces([self._pieces(each) for each in captions])

    def _read_pieces(self, caption: str) -> NDArray[np.int32]:
        found = self.store.read(caption).values if caption else np.zeros((0, 1), np.int32)
        return cut_pieces(found, self.max_words)


class QuestionDataset(PixelDataset):
    """Questions about clips, open-ended or with options, each with the pictures of its clip; see `PixelDataset`.

    Args:
        store: where frames and texts are.
        questions: all open-ended (one text each), or all with options (more than one).
        options: how a clip becomes pictures.
        max_words: L.
        seed: of every draw.

    Raises:
        InputError: questions of both kinds, or without frames.
    """

    def __init__(
        self,
        store: FeatureStore,
        questions: Sequence[QuestionFeatures],
        *,
        options: FrameOptions,
        max_words: int,
        seed: int = 0,
    ) -> None:
        clips = [one.of_clip for one in questions]
        if lacking := next((one.clip for one in clips if not one.has("video")), None):
            raise InputError(f"the question {lacking!r} is about a clip without frames: leave it out")
        self.has_options = any(len(one.texts) > 1 for one in questions)
        if self.has_options and not all(len(one.texts) > 1 for one in questions):
            raise InputError("some questions have options and some are open-ended: ask those of one kind at a time")
        super().__init__(store, clips, options=options, max_words=max_words, seed=seed)
        self.questions = questions

    def collate(self, samples: Sequence[FrameSample]) -> dict[str, Tokens]:
        """A batch of prepared clips with their questions."""
        return {"video": _video(samples), **self._asked([self.questions[sample.place] for sample in samples])}

    def _batch(self, indices: Sequence[int], frames: Iterator[FrameSample]) -> dict[str, Tokens]:
        found = _video(list(islice(frames, len(indices))))
        return {"video": found, **self._asked([self.questions[index] for index in indices])}

    def _asked(self, questions: Sequence[QuestionFeatures]) -> dict[str, Tokens]:
        from ...fuse import Tokens

        answers = np.array([[one.answer] for one in questions], np.int64)
        answer = Tokens.of(np.maximum(answers, 0), answers >= 0)
        if not self.has_options:
            return {"text": self._texts([one.texts[0] for one in questions])["text"], "answer": answer}
        most = max(len(one.texts) for one in questions)
        padded = [(*one.texts, *[""] * (most - len(one.texts))) for one in questions]
        values, mask = self._texts([text for texts in padded for text in texts])["text"]
        shape = (len(questions), most, -1)
        return {"options": Tokens(values.view(shape), mask.view(shape)), "answer": answer}


class PairedDataset:
    """Clips of several kinds, of each of which every training step takes a batch: videos and still pictures.

    Attributes:
        parts: one for each kind; items are numbered one after the other.
    """

    def __init__(self, parts: Sequence[PixelDataset]) -> None:
        self.parts = parts
        self.collate = parts[0].collate

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def set_epoch(self, epoch: int) -> None:
        """See `PixelDataset`."""
        for part in self.parts:
            part.set_epoch(epoch)

    def key(self, index: int) -> str:
        """The name of a clip."""
        part, place = self._found(index)
        return part.key(place)

    def __getitem__(self, index: int) -> FrameSample:
        part, place = self._found(index)
        return part[place]

    def _found(self, index: int) -> tuple[PixelDataset, int]:
        for part in self.parts[:-1]:
            if index < len(part):
                return part, index
            index -= len(part)
        return self.parts[-1], index


def middle_options(limits: Mapping[str, Any]) -> FrameOptions:
    """How a clip is read to be embedded: frames from the middles, the whole square."""
    return FrameOptions(num_frames=limits["num_frames"], rule=limits["rule"], size=limits["size"])


def _frame_clip(clip: ClipFeatures) -> FrameClip:
    return FrameClip(
        clip=clip.clip,
        frames=clip.features["video"][0],
        captions=clip.captions,
        start_seconds=clip.start_seconds,
        end_seconds=clip.end_seconds,
    )


def _video(samples: Sequence[FrameSample]) -> Tokens:
    import torch

    from ...fuse import Tokens

    frames = torch.stack([sample.frames for sample in samples])
    counts = torch.tensor([sample.num_frames for sample in samples])
    return Tokens(frames, torch.arange(frames.shape[1]) < counts[:, None])


def cut_pieces(rows: NDArray[Any], max_words: int) -> NDArray[np.int32]:
    """A text's rows (L, 1), or (L, 2) with tags: all of (N, ...), or the first and last of them."""
    numbers: NDArray[np.int32] = rows.astype(np.int32)
    return numbers if len(numbers) <= max_words else np.concatenate([numbers[: max_words - 1], numbers[-1:]])


def padded_pieces(texts: Sequence[NDArray[np.int32]]) -> dict[str, Tokens]:
    """A batch of texts as (B, L) int64 with masks, padded with zeros; "tags" too where the rows have them."""
    from ...fuse import Tokens

    columns = max(rows.shape[1] for rows in texts)
    values = np.zeros((columns, len(texts), max(map(len, texts))), np.int64)
    mask = np.zeros(values.shape[1:], bool)
    for place, rows in enumerate(texts):
        values[: rows.shape[1], place, : len(rows)], mask[place, : len(rows)] = rows.T, True
    return {name: Tokens.of(column, mask) for name, column in zip(("text", "tags"), values, strict=False)}


def pixel_batch(samples: Sequence[ClipSample], limits: Mapping[str, Any], *, spec: str) -> dict[str, Tokens]:
    """See `sample_batch`. Raises InputError where the pictures are not whole frames."""
    import torch

    from ...fuse import Tokens

    batch: dict[str, Tokens] = {}
    texts = [sample.get("text") or () for sample in samples]
    if any(map(len, texts)):
        nothing = np.zeros((0, 1), np.int32)
        rows = [cut_pieces(each[0] if each else nothing, limits["max_words"]) for each in texts]
        batch["text"] = padded_pieces(rows)["text"]
    clips: list[FeatureArray | None] = [sample.get("video") for sample in samples]
    if any(clip is not None for clip in clips):
        options, picture = middle_options(limits), picture_of([spec])
        values = torch.zeros(len(clips), options.num_frames, 3, options.size, options.size, dtype=torch.uint8)
        counts = torch.zeros(len(clips), 1, dtype=torch.int64)
        for place, clip in enumerate(clips):
            if clip is not None:
                frames = stored_frames(clip.values, clip.times, num_frames=options.num_frames, rule=options.rule)
                values[place, : len(frames)] = decoded_pictures(frames, picture, options)
                counts[place] = len(frames)
        batch["video"] = Tokens(values, torch.arange(options.num_frames) < counts)
    return batch
