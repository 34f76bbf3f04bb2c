"""Clips as training and embedding read them from the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from frameloom import InputError, LockedError
from frameloom._vocabulary import FeatureArray, FeatureSpec, Modality
from frameloom.fuse import create_model
from frameloom.store import FeatureStore, Sample, exclusive_lock
from frameloom.store.health import compact_features
from frameloom.train import fit, get_recipe
from frameloom.train.data import (
    ClipDataset,
    ClipFeatures,
    FeatureDataset,
    FeatureLoader,
    TrainingSet,
    UniformWindow,
    collate,
    stored_clips,
)
from torch.utils.data import get_worker_info

NUM_CLIPS, IN_SHARD = 24, 4


def spec(name: str, modality: Modality, dim: int) -> FeatureSpec:
    rate = None if modality is Modality.TEXT else 1.0
    return FeatureSpec(name=name, modality=modality, dim=dim, rate_hz=rate, sampling={}, preprocessing={})


def feature(name: str, number: int, rows: int, dim: int) -> FeatureArray:
    values = np.random.default_rng((number, len(name))).standard_normal((rows, dim)).astype(np.float16)
    starts = np.full(rows, np.nan) if name in ("text", "speech") else np.arange(rows, dtype=np.float64)
    return FeatureArray(values, np.stack([starts, starts + 1], axis=1))


def sample(name: str, made: FeatureArray) -> Sample:
    return Sample(key=name, source_digest=f"source of {name}", fingerprint=name, feature=made)


@pytest.fixture
def clips(tmp_path: Path) -> tuple[FeatureStore, list[ClipFeatures]]:
    """Clips of seconds 1 to 4 of their videos; every third is silent, every fourth has something to say."""
    store = FeatureStore(tmp_path / "features")
    widths = {"video": (Modality.VIDEO, 24), "audio": (Modality.AUDIO, 40), "text": (Modality.TEXT, 12)}
    widths["speech"] = (Modality.TEXT, 12)
    for name, (modality, dim) in widths.items():
        for first in range(0, NUM_CLIPS, IN_SHARD):
            numbers = range(first, first + IN_SHARD)
            samples = [sample(f"{name}-{i}", feature(name, i, 4 + i % 3, dim)) for i in numbers]
            store.write_shard(name, samples, spec=spec(name, modality, dim))
    examples = [
        ClipFeatures(
            clip=f"clip {i}",
            start_seconds=1.0,
            end_seconds=4.0,
            features={
                "video": (f"video-{i}",),
                "audio": () if i % 3 == 0 else (f"audio-{i}",),
                "speech": (f"speech-{i}",) if i % 4 == 0 else (),
            },
            captions=(f"text-{i}", f"text-{(i + 1) % NUM_CLIPS}"),
        )
        for i in range(NUM_CLIPS)
    ]
    return store, examples


def test_a_clip_is_its_span_of_media_and_all_of_its_texts(clips) -> None:
    store, examples = clips
    stored = stored_clips(store, examples)
    for number in range(NUM_CLIPS):
        sample = stored[number]
        own = store.read(f"video-{number}").values
        np.testing.assert_array_equal(sample["video"], own[1:4])
        assert (len(sample["audio"]) == 0) is (number % 3 == 0)
        np.testing.assert_array_equal(sample["text"][1], store.read(f"text-{(number + 1) % NUM_CLIPS}").values)
        assert len(sample["speech"]) == (len(store.read(f"speech-{number}").values) if number % 4 == 0 else 0)
        assert stored.key(number) == f"clip {number}"


def test_the_list_of_clips_comes_back_from_its_file(clips, tmp_path) -> None:
    _, examples = clips
    listed = TrainingSet(clips=tuple(examples))
    listed.write(tmp_path / "examples.parquet")
    assert TrainingSet.read(tmp_path / "examples.parquet") == listed


def test_shards_matter_only_where_memory_does_not_hold_everything(clips) -> None:
    store, examples = clips
    assert not stored_clips(store, examples).shard_groups().any()
    small = stored_clips(store, examples, memory_bytes=1000)
    assert small.num_bytes() > 1000
    groups = small.shard_groups().reshape(-1, IN_SHARD)
    assert (groups == groups[:, :1]).all()
    assert len(np.unique(groups)) == NUM_CLIPS // IN_SHARD


def test_memory_changes_nothing_but_the_speed(clips, tmp_path) -> None:
    """A clip that is read anew in every epoch is the clip that was kept."""
    store, examples = clips
    kept, read = (ClipDataset(stored_clips(store, examples, memory_bytes=size)) for size in (10**9, 0))
    for _ in range(2):
        same_batch(kept.__getitems__(range(NUM_CLIPS)), read.__getitems__(range(NUM_CLIPS)))


def num_kept(_batch) -> int:
    dataset = get_worker_info().dataset
    dataset = getattr(dataset, "samples", dataset)
    return sum(len(rows._kept) for streams in dataset._rows.values() for rows in streams)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize(("is_persistent", "kept"), [(False, [0, 0, 0]), (True, [8, 16, 24])])
def test_workers_keep_nothing_that_they_never_read_again(clips, is_persistent, kept, start_method) -> None:
    dataset = FeatureDataset(*clips, features=["video"], memory_bytes=10**9)
    loader = FeatureLoader(
        dataset if is_persistent else ClipDataset(dataset),
        dataset.batches(batch_size=8),
        collate=num_kept,
        num_workers=1,
        persistent_workers=is_persistent,
        start_method=start_method,
    )
    assert list(loader) == kept


def same_batch(one: dict, other: dict) -> None:
    """Equal to the last bit, in the same order of modalities."""
    assert list(one) == list(other)
    for name, tokens in one.items():
        assert tokens.values.dtype == other[name].values.dtype
        assert tokens.values.equal(other[name].values)
        assert tokens.mask.equal(other[name].mask)


@pytest.mark.parametrize("limits", [{}, {"max_video_tokens": 2, "max_audio_frames": 1, "max_words": 3}])
@pytest.mark.parametrize("joined", [False, True])
def test_a_batch_that_is_read_at_once_is_that_of_its_clips_to_the_bit(clips, limits, joined: bool) -> None:
    store, examples = clips
    for number, one in enumerate(examples):
        video = one.features["video"] * (2 if joined and number else 1)
        audio = (f"audio-{number}",) if joined else one.features["audio"]
        examples[number] = replace(one, features=one.features | {"video": video[::-1], "audio": audio})
    examples += [replace(examples[5], captions=()), replace(examples[7], start_seconds=2.2, end_seconds=2.4)]
    dataset = ClipDataset(stored_clips(store, examples), training=True, seed=3, **limits)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        for indices in (range(len(examples)), [24, 5, 0], [3], [0, 3]):
            same_batch(dataset.__getitems__(indices), collate([dataset[index] for index in indices]))


def test_a_training_that_reads_from_shards_ends_and_learns(clips, tmp_path) -> None:
    store, examples = clips
    examples = [replace(one, features=one.features | {"speech": ()}) for one in examples]
    dataset = ClipDataset(stored_clips(store, examples, memory_bytes=0), training=True)
    recipe = get_recipe("everything_at_once_tiny", epochs=4, min_steps=0, batch_size=8, warmup_steps=0)
    result = fit(create_model("test_everything_at_once"), dataset, recipe=recipe, folder=tmp_path / "model")
    assert result.steps == 4 * 3
    assert result.epoch_losses[-1] < result.epoch_losses[0]


@pytest.mark.parametrize("name", ["audio", "speech"])
def test_streams_that_nobody_joins_are_refused(clips, name: str) -> None:
    store, examples = clips
    examples[3] = replace(examples[3], features={name: ("speech-0", "speech-4")})
    examples = [examples[3], replace(examples[4], features={})]
    with pytest.raises(InputError, match=f"'{name}' has 2 streams, and only those of video are joined"):
        ClipDataset(stored_clips(store, examples))


def test_a_feature_is_not_named_as_captions_are(clips) -> None:
    store, _ = clips
    clip = ClipFeatures(clip="c", features={"text": ("text-1",)}, captions=("text-2",))
    with pytest.raises(InputError, match="feature is named 'text'"):
        stored_clips(store, [clip])
    with pytest.raises(InputError, match="feature 'text' is the name of captions"):
        ClipDataset(stored_clips(store, [replace(clip, captions=())]))


def test_windows_are_drawn_anew_in_every_epoch(clips) -> None:
    store, examples = clips
    draw = UniformWindow(1.0, seed=4)
    dataset = ClipDataset(FeatureDataset(store, examples, features=["video"], draw=draw), training=True)
    read = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        read.append(dataset.__getitems__(range(NUM_CLIPS))["video"].values)
        spans = [draw(epoch, index, (1.0, 4.0)) for index in range(NUM_CLIPS)]
        assert [dataset.samples.span(index) for index in range(NUM_CLIPS)] == spans
    assert not read[0].equal(read[1])


@pytest.mark.parametrize("span", [(2.2, 2.4), (3.6, 9.0), (40.0, 41.0)])
def test_a_span_without_a_row_of_its_own_gets_the_nearest(clips, span) -> None:
    """A span shorter than a row, one that only touches the end, and one beside a damaged video's last row."""
    store, _ = clips
    clip = ClipFeatures(clip="c", start_seconds=span[0], end_seconds=span[1], features={"video": ("video-0",)})
    rows = stored_clips(store, [clip])[0]["video"]
    nearest = min(3, int(sum(span) / 2))
    np.testing.assert_array_equal(rows, store.read("video-0").values[nearest : nearest + 1])


def test_what_was_stored_after_the_store_was_opened_is_found(clips) -> None:
    store, _ = clips
    other = FeatureStore(store.root)
    assert len(other) > 0
    made = sample("video-late", feature("video", 99, 4, 24))
    store.write_shard("video", [made], spec=spec("video", Modality.VIDEO, 24))
    clip = ClipFeatures(clip="c", start_seconds=0.0, end_seconds=4.0, features={"video": ("video-late",)})
    assert len(stored_clips(other, [clip])[0]["video"]) == 4


@pytest.mark.parametrize("is_planned", [False, True])
def test_shards_that_were_merged_after_the_store_was_opened_are_found_again(clips, is_planned: bool) -> None:
    store, examples = clips
    reader = FeatureStore(store.root)
    assert len(reader) > 0
    found = stored_clips(reader, examples) if is_planned else None
    if is_planned:
        with pytest.raises(LockedError, match="is reading"), exclusive_lock(store.root):
            pass
    compact_features(FeatureStore(store.root))  # as another machine may, which these locks do not reach
    assert len(FeatureStore(store.root).shards()) < len(reader.shards())
    late = found or stored_clips(reader, examples)
    for index, example in enumerate(examples):
        clip = late[index]
        number = int(example.features["video"][0].removeprefix("video-"))
        rows = {name: feature(name, number, 4 + number % 3, dim).values for name, dim in (("video", 24), ("text", 12))}
        np.testing.assert_array_equal(clip["video"], rows["video"][1:4])
        np.testing.assert_array_equal(clip["text"][0], rows["text"])


def test_a_text_that_is_not_stored_is_no_empty_text(clips) -> None:
    store, _ = clips
    captions = ("text-0", "text-nowhere")
    clip = ClipFeatures(clip="c", features={"video": ("video-0",)}, captions=captions)
    with pytest.raises(InputError, match="no feature text-nowhere"):
        stored_clips(store, [clip])
