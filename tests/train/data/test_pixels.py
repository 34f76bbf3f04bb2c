"""Clips as pictures and word pieces: batches for training, for embedding and of questions; lists of clips on disk."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from frameloom import InputError
from frameloom.store import FeatureStore
from frameloom.train.data import (
    ClipFeatures,
    EpochOrder,
    FrameOptions,
    ShardBatchSampler,
    TrainingSet,
    clip_data,
    sample_batch,
    training_data,
)
from frameloom.train.data.pixels import PairedDataset, PixelDataset, cut_pieces, padded_pieces
from helpers.frames import SIDE, num_frames_of, picture, write_pixel_clips

LIMITS = {"max_words": 4, "num_frames": 3, "rule": "frozen_in_time", "size": SIDE}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ClipFeatures]]:
    root = tmp_path_factory.mktemp("pixels")
    return root, write_pixel_clips(root, num_pictures=6)


def test_a_clip_is_the_middles_of_its_frames_and_its_first_caption(stored) -> None:
    root, clips = stored
    data = clip_data(str(root), clips, LIMITS)
    batch = data.__getitems__([9, 0, 4])
    video, text = batch["video"], batch["text"]
    assert (tuple(video.values.shape), video.values.dtype) == ((3, 3, 3, SIDE, SIDE), torch.uint8)
    for place, number in enumerate([9, 0, 4]):
        count = num_frames_of(number)
        edges = np.linspace(0, count, min(3, count) + 1).astype(int)
        middles = [(a + b - 1) // 2 for a, b in itertools.pairwise(edges)]
        assert video.mask[place].tolist() == [True] * len(middles) + [False] * (3 - len(middles))
        for found, frame in zip(video.values[place], middles, strict=False):
            assert np.array_equal(found.permute(1, 2, 0).numpy(), picture(number, frame))
        assert text.values[place].tolist() == [101, 110 + number, 102]
    assert text.values.dtype == torch.int64


def test_a_long_text_keeps_its_last_piece(stored) -> None:
    root, clips = stored
    long = [replace(clip, captions=clip.captions[1:]) for clip in clips]
    text = clip_data(str(root), long, LIMITS).__getitems__([0, 1])["text"]
    assert text.values.tolist() == [[101, 110, 160, 102], [101, 111, 160, 102]]
    assert text.mask.all()


def test_tags_of_word_pieces_come_with_them() -> None:
    tagged = np.array([[101, 0], [7, 3], [8, 1], [9, 4], [102, 0]], np.int32)
    both = padded_pieces([cut_pieces(tagged, 4), cut_pieces(np.zeros((0, 1), np.int32), 4)])
    assert both["text"].values.tolist() == [[101, 7, 8, 102], [0, 0, 0, 0]]
    assert both["tags"].values.tolist() == [[0, 3, 1, 0], [0, 0, 0, 0]]
    assert both["tags"].mask.tolist() == [[True] * 4, [False] * 4]
    assert padded_pieces([tagged[:, :1]]).keys() == {"text"}


def test_clips_that_lack_one_of_both(stored) -> None:
    root, clips = stored
    data = clip_data(str(root), [clips[0], replace(clips[1], features={}), replace(clips[2], captions=())], LIMITS)
    batch = data.__getitems__([2, 0, 1])
    assert batch["video"].mask.any(dim=1).tolist() == [True, True, False]
    assert batch["text"].mask.any(dim=1).tolist() == [False, True, True]
    assert not batch["video"].values[2].any()
    assert "text" not in data.__getitems__([2])
    assert "video" not in data.__getitems__([1])


def test_a_question_in_memory_is_read_as_a_clip_is(stored) -> None:
    root, clips = stored
    store = FeatureStore(root)
    expected = clip_data(str(root), clips, LIMITS).__getitems__([3, 7])
    samples = [
        {"text": [store.read(clips[place].captions[0]).values], "video": store.read(clips[place].features["video"][0])}
        for place in (3, 7)
    ]
    spec = store.entry(clips[3].features["video"][0]).shard.spec
    found = sample_batch(samples, LIMITS, spec=spec)
    for name, tokens in expected.items():
        assert all(map(torch.equal, found[name], tokens))
    assert set(sample_batch([{"text": samples[0]["text"]}], LIMITS)) == {"text"}


def test_a_training_epoch_draws_and_another_draws_anew(stored) -> None:
    root, clips = stored
    options = FrameOptions(size=24, training=True, num_frames=2, curriculum=[[0, 1], [2, 2]])
    data = PixelDataset(FeatureStore(root), clips, options=options, max_words=9, seed=4)

    def epoch(number: int) -> dict[str, torch.Tensor]:
        data.set_epoch(number)
        return data.collate([data[place] for place in range(6)])

    first, again, second, third = epoch(0), epoch(0), epoch(1), epoch(2)
    assert all(torch.equal(first[name].values, again[name].values) for name in first)
    assert first["video"].values.shape[1] == second["video"].values.shape[1] == 1
    assert third["video"].values.shape[1] == 2
    assert not torch.equal(first["video"].values, second["video"].values)
    assert {tuple(epoch(number)["text"].mask.sum(dim=1).tolist()) for number in range(4)} != {(3,) * 6}


def test_a_list_on_disk_says_what_is_a_picture(stored, tmp_path: Path) -> None:
    root, clips = stored
    TrainingSet(clips=tuple(clips)).write(tmp_path / "clips.parquet")
    assert TrainingSet.read(tmp_path / "clips.parquet").clips == tuple(clips)
    options = FrameOptions(size=16, training=True, num_frames=3)
    pairs = training_data(tmp_path / "clips.parquet", str(root), limits=LIMITS, seed=0, frames=options, pairs=True)
    assert isinstance(pairs, PairedDataset)
    assert [len(part) for part in pairs.parts] == [len(clips) - 6, 6]
    assert [pairs.key(place) for place in range(len(pairs))] == [clip.clip for clip in clips]
    assert [pairs[place].frames.shape[0] for place in (0, len(clips) - 1)] == [3, 1]
    TrainingSet(clips=tuple(clips[:5])).write(tmp_path / "videos.parquet")
    with pytest.raises(InputError, match="5 clips of videos and 0 pictures"):
        training_data(tmp_path / "videos.parquet", str(root), limits=LIMITS, seed=0, frames=options, pairs=True)


def test_shares_of_two_processes_are_the_batches_of_one(stored) -> None:
    root, clips = stored
    data = PixelDataset(FeatureStore(root), clips, options=FrameOptions(size=SIDE), max_words=9)
    order = EpochOrder(groups=data.shard_groups(), seed=3, window_shards=3, lanes=data.lanes)

    def batches(size: int, share: tuple[int, int], num_workers: int = 0) -> list[torch.Tensor]:
        sampler = ShardBatchSampler(order, batch_size=size, drop_last=True, share=share)
        loader = data.loader(sampler, num_workers=num_workers)
        return [torch.cat([batch["video"].values.flatten(1), batch["text"].values[:, 1:2]], dim=1) for batch in loader]

    whole = batches(6, (0, 1))
    assert len(whole) == len(clips) // 6
    shares = [batches(3, (rank, 2), num_workers=rank) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert torch.equal(batch, torch.cat([share[step] for share in shares]))
    lanes = ShardBatchSampler(order, batch_size=3, share=(1, 2)).lanes()
    assert lanes[:6].tolist() == [3, 4, 5, 1, 2, 3]
