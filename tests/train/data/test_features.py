"""The training reader: every clip exactly once, a position that is exact, and missing features that are counted."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from frameloom import ConfigError, InputError, IntegrityError
from frameloom._vocabulary import FeatureArray, FeatureSpec, Modality, Status
from frameloom.store import FeatureStore, Sample
from frameloom.train.data import (
    ClipDataset,
    ClipFeatures,
    EpochOrder,
    FeatureDataset,
    FeatureLoader,
    ShardBatchSampler,
    UniformWindow,
)
from frameloom.train.data.features import FeatureBatch
from hypothesis import example, given, settings
from hypothesis import strategies as st

NUM_VIDEOS, NUM_SHARDS = 30, 6
DIMS = {"video": 4, "audio": 3, "text": 5}


def make_spec(name: str, *, dim: int | None = None) -> FeatureSpec:
    modality = Modality(name)
    rate = None if modality is Modality.TEXT else 1.0
    return FeatureSpec(name=name, modality=modality, dim=dim or DIMS[name], rate_hz=rate, sampling={}, preprocessing={})


def make_feature(name: str, number: int, num_rows: int) -> FeatureArray:
    values = np.random.default_rng((number, len(name))).standard_normal((num_rows, DIMS[name])).astype(np.float16)
    times = np.arange(num_rows)[:, None] * 2.0 + [0.0, 2.0]  # a row lasts two seconds
    if name == "text":
        times = np.full((num_rows, 2), np.nan)
    status = Status.OK if num_rows else Status.NO_AUDIO
    return FeatureArray(values, times, status)


def num_rows_of(name: str, number: int) -> int:
    """Every fifth video has no sound."""
    return 0 if name == "audio" and number % 5 == 4 else 3 + number % 7


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("features"), "hdf5")


@pytest.fixture(scope="module", params=["hdf5", "webdataset"])
def each_store(request, tmp_path_factory) -> FeatureStore:
    """The same features in each format of shards."""
    return FeatureStore(write_store(tmp_path_factory.mktemp(request.param), request.param))


def write_store(folder: Path, shard_format: str) -> Path:
    store = FeatureStore(folder)
    for name in DIMS:
        for shard in range(NUM_SHARDS):
            numbers = range(shard, NUM_VIDEOS, NUM_SHARDS)
            features = {n: make_feature(name, n, num_rows_of(name, n)) for n in numbers}
            samples = [
                Sample(key=f"v{n}", source_digest="0", fingerprint=f"{name}-{n}", feature=feature)
                for n, feature in features.items()
            ]
            store.write_shard(name, samples, spec=make_spec(name), format=shard_format)
    return store.root


def make_clips(numbers=range(NUM_VIDEOS), names=("video",), **span: float) -> list[ClipFeatures]:
    features = {n: {name: (f"{name}-{n}",) for name in names} for n in numbers}
    return [ClipFeatures(clip=f"clip {n}", features=features[n], **span) for n in numbers]


@pytest.fixture(scope="module")
def store(root: Path) -> FeatureStore:
    return FeatureStore(root)


@pytest.fixture(scope="module")
def dataset(root: Path) -> FeatureDataset:
    return FeatureDataset(root, make_clips(), features=["video"])


def given_by(loader) -> list[list[int]]:
    return [list(batch) for batch in loader]


def indices_of(batch: FeatureBatch) -> list[int]:
    """A batch's clips; reads nothing but what the worker has read."""
    assert (batch.features["video"][0].num_rows > 0).all()
    return batch.index.tolist()


def noted_reads(store: FeatureStore, monkeypatch) -> list[list[tuple[int, int]]]:
    """What is read from now on: the rows [first, last) of every call."""
    calls, read = [], store.read_rows_into

    def noted(shard, spans, targets) -> None:
        calls.append(list(spans))
        read(shard, spans, targets)

    monkeypatch.setattr(store, "read_rows_into", noted)
    return calls


class TestOrder:
    @given(
        num_clips=st.integers(0, 60),
        num_shards=st.integers(1, 9),
        window=st.none() | st.integers(1, 10),
        world_size=st.integers(1, 5),
        split=st.sampled_from(["interleaved", "blocks"]),
        remainder=st.sampled_from(["pad", "drop", "keep"]),
        shuffle=st.booleans(),
        epoch=st.integers(0, 3),
    )
    def test_every_clip_is_given_exactly_once(
        self, num_clips, num_shards, window, world_size, split, remainder, shuffle, epoch
    ) -> None:
        groups = np.arange(num_clips) % num_shards * 7
        options = {"window_shards": window, "world_size": world_size, "split": split, "remainder": remainder}
        orders = [
            EpochOrder(groups=groups, rank=rank, shuffle=shuffle, seed=3, **options) for rank in range(world_size)
        ]
        parts = [order.indices(epoch).tolist() for order in orders]
        assert [len(part) for part in parts] == [len(order) for order in orders]
        counts, over = Counter(index for part in parts for index in part), num_clips % world_size
        if remainder == "keep":
            assert counts == Counter(range(num_clips))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
        else:
            assert len(set(map(len, parts))) == 1
        if remainder == "drop":
            assert counts.total() == len(counts) == num_clips - over
        if remainder == "pad":
            assert set(counts) == set(range(num_clips))
            assert counts.total() == num_clips + (world_size - over if over and num_clips else 0)

    @given(num_clips=st.integers(1, 50), size=st.integers(1, 9), drop=st.booleans(), first=st.integers(0, 9))
    def test_batches_are_the_order_cut(self, num_clips, size, drop, first) -> None:
        order = EpochOrder(groups=np.zeros(num_clips))
        sampler = ShardBatchSampler(order, batch_size=size, drop_last=drop)
        sampler.start_at(2)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        kept = num_clips - num_clips % size if drop else num_clips
        assert list(chain(*batches)) == order.indices(2)[:kept].tolist()
        sampler.start_at(2, first)
        assert list(sampler) == batches[first:]

    def test_the_order_follows_from_seed_and_epoch(self) -> None:
        def order(seed: int, epoch: int) -> list[int]:
            return EpochOrder(groups=np.arange(40) // 8, seed=seed).indices(epoch).tolist()

        assert order(1, 0) == order(1, 0)
        assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9

    def test_the_order_never_changes(self) -> None:
        """Written down once: a saved position must mean the same in later versions of NumPy and of this module."""
        order = EpochOrder(groups=[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3], window_shards=2, seed=5)
        assert order.indices(1).tolist() == [3, 8, 4, 6, 7, 5, 9, 2, 10, 11, 1, 0]

    def test_a_window_holds_few_shards_and_mixes_them(self) -> None:
        groups = np.repeat(np.arange(12), 20)
        order = EpochOrder(groups=groups, window_shards=3, seed=1).indices(0)
        for window in groups[order].reshape(4, 60):
            assert len(set(window)) == 3
            assert (np.diff(window) != 0).sum() > 20
        assert len(set(groups[EpochOrder(groups=groups, window_shards=None).indices(0)][:60])) == 12

    def test_blocks_give_each_process_shards_of_its_own(self) -> None:
        groups = np.repeat(np.arange(12), 10)
        parts = [
            set(groups[EpochOrder(groups=groups, world_size=4, rank=rank, split="blocks").indices(3)])
            for rank in range(4)
        ]
        assert [len(part) for part in parts] == [3, 3, 3, 3]
        assert len(set.union(*parts)) == 12

    def test_the_clips_of_a_step_do_not_depend_on_the_number_of_processes(self) -> None:
        def steps(world_size: int, batch_size: int) -> list[set[int]]:
            parts = [
                ShardBatchSampler(
                    EpochOrder(groups=np.arange(48) // 6, world_size=world_size, rank=rank), batch_size=batch_size
                )
                for rank in range(world_size)
            ]
            return [set().union(*batches) for batches in zip(*parts, strict=True)]

        assert steps(1, 8) == steps(2, 4) == steps(4, 2)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
            ({"window_shards": 0}, "window_shards 0"),
            ({"seed": -1}, "seed -1"),
            ({"split": "halves"}, "split 'halves': allowed are interleaved, blocks"),
            ({"remainder": "wrap"}, "remainder 'wrap': allowed are pad, drop, keep"),
        ],
    )
    def test_what_cannot_be_is_refused(self, options, message) -> None:
        with pytest.raises(InputError, match=message):
            EpochOrder(groups=[0, 1], **options)

    @given(num_clips=st.integers(1, 60), size=st.integers(1, 9), world_size=st.integers(1, 4), epoch=st.integers(0, 3))
    def test_processes_share_every_batch_and_their_shares_are_the_batch_in_order(
        self, num_clips, size, world_size, epoch
    ) -> None:
        order = EpochOrder(groups=np.zeros(num_clips))
        samplers = [
            ShardBatchSampler(order, batch_size=size, drop_last=True, share=(rank, world_size))
            for rank in range(world_size)
        ]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        steps = [list(chain(*shares)) for shares in zip(*samplers, strict=True)]
        whole = size * world_size
        assert len(steps) == len(samplers[0]) == num_clips // whole
        assert list(chain(*steps)) == order.indices(epoch)[: num_clips - num_clips % whole].tolist()
        assert len({json.dumps(sampler.as_dict()) for sampler in samplers}) == 1

    def test_rank_and_size_belong_together_and_batches_have_clips(self, dataset) -> None:
        with pytest.raises(InputError, match="belong together"):
            dataset.batches(batch_size=2, rank=0)
        with pytest.raises(InputError, match="batch_size 0"):
            dataset.batches(batch_size=0)


class TestCoverage:
    @pytest.mark.parametrize("num_workers", [0, 1, 2])
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    @pytest.mark.parametrize("split", ["interleaved", "blocks"])
    def test_loaders_of_all_processes_give_every_clip_once(self, dataset, world_size, split, num_workers) -> None:
        found: Counter[int] = Counter()
        for rank in range(world_size):
            sampler = dataset.batches(batch_size=4, rank=rank, world_size=world_size, split=split, remainder="keep")
            loader = FeatureLoader(
                dataset, sampler, collate=indices_of, num_workers=num_workers, start_method=fork(num_workers)
            )
            found.update(index for batch in loader for index in batch)
        assert found == Counter(range(NUM_VIDEOS))

    def test_processes_of_torch_are_found(self, dataset, monkeypatch) -> None:
        from torch import distributed

        monkeypatch.setattr(distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(distributed, "get_rank", lambda: 1)
        monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
        order = dataset.batches(batch_size=2).order
        assert (order.rank, order.world_size) == (1, 3)


def fork(num_workers: int) -> str | None:
    """Fork is fast; that spawn works as well has a test of its own."""
    return "fork" if num_workers else None


class TestPosition:
    def whole(self, dataset, sampler) -> list[list[int]]:
        loader = FeatureLoader(dataset, sampler, collate=indices_of)
        return [*loader, *loader]

    @pytest.mark.parametrize("drop_last", [False, True])
    def test_every_position_goes_on_in_the_same_order(self, dataset, drop_last) -> None:
        def loader() -> FeatureLoader:
            sampler = dataset.batches(batch_size=4, seed=7, rank=1, world_size=2, drop_last=drop_last)
            return FeatureLoader(dataset, sampler, collate=indices_of)

        first = loader()
        expected, states = [], [json.dumps(first.state_dict())]
        for _ in range(2):
            for batch in first:
                expected.append(batch)
                states.append(json.dumps(first.state_dict()))
        assert len(expected) == 2 * len(first)
        for given_before, state in enumerate(states):
            second = loader()
            second.load_state_dict(json.loads(state))
            rest = [batch for _ in range(second.epoch, 2) for batch in second]
            assert rest == expected[given_before:]

    def test_workers_read_ahead_and_the_position_does_not(self, dataset) -> None:
        sampler = dataset.batches(batch_size=3, seed=1)
        expected = self.whole(dataset, sampler)
        loader = FeatureLoader(dataset, sampler, collate=indices_of, num_workers=2, start_method="fork")
        iterator = iter(loader)
        found = [next(iterator) for _ in range(3)]
        state = loader.state_dict()
        iterator.close()
        resumed = FeatureLoader(dataset, sampler, collate=indices_of, num_workers=1, start_method="fork")
        resumed.load_state_dict(state)
        found += [*resumed, *resumed]
        assert found == expected

    def test_a_loop_that_was_left_goes_on(self, dataset) -> None:
        loader = FeatureLoader(dataset, dataset.batches(batch_size=3), collate=indices_of)
        expected = self.whole(dataset, dataset.batches(batch_size=3))
        found = []
        for batch in loader:
            found.append(batch)
            if len(found) == 4:
                break
        loader.set_epoch(0)
        assert [*found, *loader] == expected[: len(loader)]
        loader.set_epoch(0)
        assert list(loader) == expected[: len(loader)]

    def test_another_number_of_processes_may_go_on(self, dataset) -> None:
        def loaders(world_size: int) -> list[FeatureLoader]:
            options = {"batch_size": 12 // world_size, "world_size": world_size, "seed": 4}
            samplers = [dataset.batches(rank=rank, **options) for rank in range(world_size)]
            return [FeatureLoader(dataset, sampler, collate=indices_of) for sampler in samplers]

        (one,) = loaders(1)
        first = next(iter(one))
        rest = []
        for loader in loaders(2):
            loader.load_state_dict(one.state_dict())
            rest += chain(*loader)
        assert Counter([*first, *rest]) == Counter(range(NUM_VIDEOS))

    @pytest.mark.parametrize(
        ("change", "name"), [({"seed": 2}, "seed"), ({"batch_size": 5}, "batch"), ({"split": "blocks"}, "split")]
    )
    def test_a_position_of_another_order_is_refused(self, dataset, change, name) -> None:
        state = FeatureLoader(dataset, dataset.batches(batch_size=4)).state_dict()
        other = FeatureLoader(dataset, dataset.batches(**{"batch_size": 4, **change}))
        with pytest.raises(ConfigError, match=f"another order .*{name}"):
            other.load_state_dict(state)

    def test_a_position_of_other_clips_is_refused(self, root, dataset) -> None:
        state = FeatureLoader(dataset, dataset.batches(batch_size=4)).state_dict()
        other = FeatureDataset(root, make_clips(reversed(range(NUM_VIDEOS))), features=["video"])
        with pytest.raises(ConfigError, match=r"another order .*identity"):
            FeatureLoader(other, other.batches(batch_size=4)).load_state_dict(state)


class TestReading:
    @settings(max_examples=60)
    @example(number=6, start=1, length=2)  # both ends on a row's middle
    @given(number=st.integers(0, NUM_VIDEOS - 1), start=st.integers(-2, 24), length=st.integers(0, 24))
    def test_a_span_is_what_the_store_gives(self, store, number, start, length) -> None:
        expected = store.read_span(f"video-{number}", float(start), float(start + length))
        (clip,) = make_clips([number], start_seconds=float(start), end_seconds=float(start + length))
        dataset = FeatureDataset(store, [clip], features=["video"], missing="empty")
        values = dataset[0]["video"]
        assert values.dtype == np.float16
        np.testing.assert_array_equal(values, expected.values)
        assert len(values) == len(expected.values) == dataset.num_rows("video")[0]

    def test_clips_without_a_span_are_whole_and_text_always_is(self, root) -> None:
        store = FeatureStore(root)
        clips = [*make_clips([3], ["video", "text"]), *make_clips([3], ["video", "text"], end_seconds=4.0)]
        whole, cut = FeatureDataset(store, clips, features=["video", "text"])
        np.testing.assert_array_equal(whole["video"], store.read("video-3").values)
        np.testing.assert_array_equal(cut["video"], store.read("video-3").values[:2])
        np.testing.assert_array_equal(cut["text"], store.read("text-3").values)

    def test_only_the_rows_of_a_span_are_read(self, root, monkeypatch) -> None:
        dataset = FeatureDataset(root, make_clips([6], start_seconds=4.0, end_seconds=8.0), features=["video"])
        calls = noted_reads(dataset.store, monkeypatch)
        assert len(dataset[0]["video"]) == 2
        ((rows,),) = calls
        assert rows[1] - rows[0] == 2

    def test_several_clips_come_in_the_order_asked_for(self, root) -> None:
        store = FeatureStore(root)
        dataset = FeatureDataset(
            store, make_clips(names=["video", "audio"]), features=["video", "audio"], missing="empty"
        )
        wanted = [17, 4, 29, 4, 0]
        batch = dataset.read(wanted)
        assert batch.index.tolist() == wanted
        for place, number in enumerate(wanted):
            for name in ("video", "audio"):
                expected = store.read(f"{name}-{number}").values
                np.testing.assert_array_equal(batch.features[name][0].rows(place), expected)
                np.testing.assert_array_equal(dataset[number][name], expected)
        with pytest.raises(IndexError):
            dataset[NUM_VIDEOS]
        assert dataset.read([-1]).index.tolist() == [NUM_VIDEOS - 1]

    def test_memory_keeps_what_was_read_up_to_its_limit(self, root, monkeypatch) -> None:
        first_bytes = FeatureStore(root).read("video-0").values.nbytes
        dataset = FeatureDataset(root, make_clips(), features=["video"], memory_bytes=first_bytes)
        calls = noted_reads(dataset.store, monkeypatch)
        expected = [dataset[index]["video"] for index in (0, 1)]
        assert len(calls) == 2
        calls.clear()
        batch = dataset.read([0, 1, 0]).features["video"][0]
        assert len(list(chain(*calls))) == 1  # the second is read again
        for place, index in enumerate((0, 1, 0)):
            np.testing.assert_array_equal(batch.rows(place), expected[index])
        batch.values[:] = 0  # the next epoch is given what was kept
        np.testing.assert_array_equal(dataset[0]["video"], expected[0])
        copy = pickle.loads(pickle.dumps(dataset))
        calls = noted_reads(copy.store, monkeypatch)
        copy[0]
        assert len(calls) == 1

    def test_a_nearest_row_stands_for_a_span_shorter_than_a_row(self, root) -> None:
        spans = [(2.2, 2.6), (3.5, 3.9), (100.0, 100.5)]
        clips = [make_clips([6], start_seconds=start, end_seconds=end)[0] for start, end in spans]
        strict = FeatureDataset(root, clips, features=["video"], missing="empty")
        assert strict.num_rows("video").tolist() == [0, 0, 0]
        nearest = FeatureDataset(root, clips, features=["video"], missing="empty", narrow="nearest")
        assert nearest.num_rows("video").tolist() == [1, 1, 0]
        rows = FeatureStore(root).read("video-6").values
        np.testing.assert_array_equal(nearest[0]["video"], rows[1:2])
        np.testing.assert_array_equal(nearest[1]["video"], rows[1:2])
        closest = FeatureDataset(root, clips, features=["video"], missing="empty", narrow="closest")
        np.testing.assert_array_equal(closest[2]["video"], rows[-1:])

    def test_damage_is_found_and_named(self, tmp_path) -> None:
        store = FeatureStore(tmp_path)
        sample = Sample(key="v", source_digest="0", fingerprint="video-0", feature=make_feature("video", 0, 9))
        shard = store.write_shard("video", [sample], spec=make_spec("video"))
        dataset = FeatureDataset(tmp_path, make_clips([0]), features=["video"])
        data = bytearray(shard.path.read_bytes())
        data[data.index(sample.feature.values.tobytes()) + 5] ^= 1
        shard.path.write_bytes(data)
        with pytest.raises(IntegrityError, match=shard.name):
            dataset[0]


def same_batch(one: dict, other: dict) -> bool:
    """Whether two batches of tokens are equal to the last bit."""
    return one.keys() == other.keys() and all(
        one[name].values.dtype == other[name].values.dtype
        and one[name].values.equal(other[name].values)
        and one[name].mask.dtype == other[name].mask.dtype
        and one[name].mask.equal(other[name].mask)
        for name in one
    )


def flip_a_value(shard: Path, feature: FeatureArray) -> None:
    """Change the lowest bit of one stored number; the file's size and times stay as they are."""
    data, status = bytearray(shard.read_bytes()), shard.stat()
    place = data.index(feature.values.tobytes()) + feature.values.nbytes // 2
    data[place] ^= 1
    with shard.open("r+b") as file:  # the same file: whoever has it open sees it
        file.write(data)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))


class TestBatches:
    NAMES = ("video", "audio", "text")

    @settings(max_examples=40, deadline=None)
    @given(
        indices=st.lists(st.integers(-NUM_VIDEOS, NUM_VIDEOS - 1), min_size=1, max_size=12)
        | st.integers(0, NUM_VIDEOS - 8).map(lambda first: [*range(first, first + 8)]),
        end=st.sampled_from([np.inf, 8.0, 0.5]),
        memory_bytes=st.sampled_from([0, 200, 10**6]),
        seconds=st.none() | st.sampled_from([1.0, 5.0]),
    )
    def test_they_are_the_clips_padded(self, each_store, indices, end, memory_bytes, seconds) -> None:
        dataset = FeatureDataset(
            each_store,
            make_clips(names=self.NAMES, end_seconds=end),
            features=self.NAMES,
            missing="empty",
            draw=UniformWindow(seconds, seed=2) if seconds else None,
            memory_bytes=memory_bytes,
        )
        samples = pickle.loads(pickle.dumps(dataset))
        for epoch in range(3):  # read for the first time, read again or from memory, and once more
            for each in (dataset, samples):
                each.set_epoch(epoch)
            batch = dataset.read(indices)
            tokens = batch.tokens()
            assert all(np.shares_memory(tokens[name].values.numpy(), batch.features[name][0].values) for name in tokens)
            for name in self.NAMES:
                rows = [samples[index % NUM_VIDEOS][name] for index in indices]
                assert (name in tokens) == any(map(len, rows))
                for place, each in enumerate(rows if name in tokens else ()):
                    values, mask = (part[place].numpy() for part in tokens[name])
                    assert values.dtype == each.dtype
                    np.testing.assert_array_equal(values[: len(each)], each)
                    assert not values[len(each) :].any()
                    assert mask.tolist() == [True] * len(each) + [False] * (len(values) - len(each))

    @pytest.mark.parametrize("drawn", [False, True])
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_loader_gives_them_and_goes_on_exactly(self, each_store, num_workers, drawn) -> None:
        dataset = FeatureDataset(
            each_store,
            make_clips(names=self.NAMES),
            features=self.NAMES,
            missing="empty",
            draw=UniformWindow(4.0) if drawn else None,
        )
        sampler = dataset.batches(batch_size=4, seed=3)
        expected = []
        for epoch in range(2):
            dataset.set_epoch(epoch)
            sampler.set_epoch(epoch)
            expected += [dataset.read(indices).tokens() for indices in sampler]
        options = {"num_workers": num_workers, "start_method": fork(num_workers)}
        loader = FeatureLoader(dataset, sampler, **options)
        given_first = []
        for batch in loader:
            given_first.append(batch)
            if len(given_first) == 3:
                break
        state = json.loads(json.dumps(loader.state_dict()))
        resumed = FeatureLoader(dataset, sampler, **options)
        resumed.load_state_dict(state)
        found = [*given_first, *resumed, *resumed]
        assert len(found) == len(expected) == 16
        assert all(map(same_batch, found, expected))

    def test_a_loader_knows_which_clips_it_reads(self, dataset) -> None:
        sampler = dataset.batches(batch_size=7, seed=2)
        loader = FeatureLoader(dataset, sampler, collate=indices_of)
        assert all(loader.clips == batch for batch in loader)

    def test_streams_are_read_together_and_joined_by_clip_datasets_only(self, root) -> None:
        clips = [ClipFeatures(clip="c", features={"video": ("video-3", "video-6")})]
        dataset = FeatureDataset(root, clips, features=["video"])
        assert [len(rows) for rows in dataset[0]["video"]] == [6, 9]
        assert dataset.num_rows("video").tolist() == [9]
        with pytest.raises(InputError, match="video has several streams"):
            dataset.read([0]).tokens()
        with pytest.raises(InputError, match="windows are drawn of single ones"):
            FeatureDataset(root, clips, features=["video"], draw=UniformWindow(1.0))

    @pytest.mark.parametrize("name", ["video", "audio"])  # whole words, and three half floats to a row
    @pytest.mark.parametrize("shard_format", ["hdf5", "webdataset"])
    def test_damage_that_comes_later_is_found_always(self, tmp_path, name, shard_format) -> None:
        store = FeatureStore(tmp_path)
        feature = make_feature(name, 0, 9)
        others = [
            Sample(key="w", source_digest="0", fingerprint=f"{name}-{n}", feature=make_feature(name, n, 4))
            for n in (1, 2)
        ]
        sample = Sample(key="v", source_digest="0", fingerprint=f"{name}-0", feature=feature)
        shard = store.write_shard(name, [others[0], sample, others[1]], spec=make_spec(name), format=shard_format)
        dataset = FeatureDataset(store, make_clips([0, 1, 2], [name]), features=[name])
        before = dataset.read([0, 1, 2]).tokens()
        flip_a_value(shard.path, feature)
        with pytest.raises(IntegrityError, match=f"{shard.name}.*checksum"):
            dataset.read([2, 0, 1])
        with pytest.raises(IntegrityError, match=f"{shard.name}.*checksum"):
            dataset[0]
        np.testing.assert_array_equal(dataset[1][name], before[name].values[1, :4].numpy())
        with shard.path.open("r+b") as file:
            file.truncate(1000)
        with pytest.raises(IntegrityError, match=shard.name):
            dataset.read([0])

    def test_clips_are_read_in_the_order_of_the_file(self, tmp_path, monkeypatch) -> None:
        store, lengths, names = FeatureStore(tmp_path), [4, 4, 4, 3, 4, 4], list[str]()
        values = [make_feature("video", number, length) for number, length in enumerate(lengths)]
        for shard in (range(4), range(4, 6)):
            samples = [
                Sample(key="v", source_digest="0", fingerprint=f"video-{n}", feature=values[n]) for n in reversed(shard)
            ]
            names += [sample.fingerprint for sample in samples]
            store.write_shard("video", samples, spec=make_spec("video"))
        clips = [ClipFeatures(clip=name, features={"video": (name,)}) for name in names]  # 3 2 1 0, 5 4
        dataset = FeatureDataset(store, clips, features=["video"])
        calls = noted_reads(store, monkeypatch)
        batch = dataset.read([3, 5, 0, 2, 4]).features["video"][0]
        assert sorted(calls) == [[(0, 3), (7, 11), (11, 15)], [(0, 4), (4, 8)]]
        for place, index in enumerate([3, 5, 0, 2, 4]):
            expected = values[int(names[index].removeprefix("video-"))].values
            np.testing.assert_array_equal(batch.rows(place), expected)

    def test_a_clip_that_is_not_there_is_refused(self, dataset) -> None:
        with pytest.raises(IndexError, match="of 30"):
            dataset.read([0, NUM_VIDEOS])
        with pytest.raises(IndexError, match="of 30"):
            dataset.read([-NUM_VIDEOS - 1])


COUNTS = {
    "video": {"no_row_in_span": 1},
    "audio": {"no_audio": 6, "not_given": 1, "not_stored": 1, "no_row_in_span": 1},
}


class TestDrawnSpans:
    NAMES = ("video", "audio", "text")

    def dataset(self, root: Path, **options) -> FeatureDataset:
        clips = make_clips([6, 13, 4], self.NAMES)
        return FeatureDataset(
            root, clips, features=self.NAMES, missing="empty", draw=UniformWindow(4.0, seed=1), **options
        )

    def test_a_window_is_cut_from_every_feature_with_times(self, root, store) -> None:
        dataset = self.dataset(root)
        starts = set()
        for epoch in range(12):
            dataset.set_epoch(epoch)
            for index, number in enumerate((6, 13)):
                start, end = dataset.span(index)
                starts.add(start)
                assert 0 <= start < end == start + 4 <= num_rows_of("video", number) * 2
                for name in ("video", "audio"):
                    expected = store.read_span(f"{name}-{number}", start, end).values
                    np.testing.assert_array_equal(dataset[index][name], expected)
                assert len(dataset[index]["text"]) == num_rows_of("text", number)
        assert len(starts) == 24
        assert len(dataset[2]["audio"]) == 0

    @settings(max_examples=30, deadline=None)
    @example(gaps=[0.0], spans=[(-1.0, 0.0), (0.0, 1e9), (1e9, 2e9), (0.0, 0.0)])
    @given(
        gaps=st.lists(st.sampled_from([0.0, 0.001, 0.01, 1.0, 1000.0]), min_size=1, max_size=6),
        spans=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8),
    )
    def test_rows_of_a_long_sample_are_found_by_the_times_near_by(self, tmp_path_factory, gaps, spans) -> None:
        """Whatever the rows' rate is, and however it changes."""
        num_rows = 20_000
        starts = np.cumsum(np.resize(np.repeat(gaps, 3_001), num_rows))
        feature = FeatureArray(np.arange(num_rows, dtype=np.float32)[:, None], np.stack([starts, starts], axis=1))
        store = FeatureStore(tmp_path_factory.mktemp("long"))
        spec = replace(make_spec("audio", dim=1), dtype="float32")
        sample = Sample(key="v", source_digest="0", fingerprint="a", feature=feature)
        store.write_shard("audio", [sample], spec=spec)
        read, most = store.read_times, 0

        def noted(shard: Path, first: int, last: int):
            nonlocal most
            most = max(most, last - first)
            return read(shard, first, last)

        cuts = [(starts[-1] * low, starts[-1] * high) for low, high in spans]
        dataset = FeatureDataset(
            store,
            [ClipFeatures(clip="v", features={"audio": ("a",)})],
            features=["audio"],
            draw=lambda epoch, index, extent: cuts[epoch],
        )
        store.read_times = noted
        for epoch, (low, high) in enumerate(cuts):
            dataset.set_epoch(epoch)
            expected = np.flatnonzero((starts >= low) & (starts < high))
            assert dataset.read([0]).features["audio"][0].values[0, :, 0].tolist() == expected.tolist()
        assert most <= 1024

    def test_windows_follow_from_seed_epoch_and_clip(self) -> None:
        spans = {
            UniformWindow(4.0, seed)(epoch, index, (1.0, 9.0))
            for seed in (0, 1)
            for epoch in (0, 1)
            for index in (0, 1)
        }
        assert len(spans) == 8
        assert UniformWindow(4.0)(3, 5, (1.0, 9.0)) == UniformWindow(4.0)(3, 5, (1.0, 9.0))
        assert UniformWindow(4.0)(0, 0, (1.0, 3.0)) == (1.0, 5.0)
        places = [UniformWindow(2.0)(0, index, (0.0, 12.0))[0] for index in range(2000)]
        assert abs(np.mean(places) - 5) < 0.3
        assert (np.histogram(places, bins=5, range=(0, 10))[0] > 300).all()

    def test_loaders_tell_their_workers_the_epoch(self, root) -> None:
        dataset = self.dataset(root)
        sampler = dataset.batches(batch_size=2, shuffle=False)
        read = [
            [batch["video"].values.tolist() for _ in range(3) for batch in loader]
            for loader in (
                FeatureLoader(dataset, sampler),
                FeatureLoader(dataset, sampler, num_workers=1, start_method="fork"),
            )
        ]
        assert read[0] == read[1]
        assert read[0][:2] != read[0][2:4]
        with pytest.raises(ConfigError, match="persistent_workers"):
            FeatureLoader(dataset, sampler, num_workers=1, persistent_workers=True)
        with pytest.raises(ConfigError, match="persistent_workers"):
            FeatureLoader(ClipDataset([], training=True), sampler, num_workers=1, persistent_workers=True)


class TestMissing:
    NAMES = ("video", "audio")

    def clips(self) -> list[ClipFeatures]:
        """Sound is missing in 6 of 30 videos, is not named for one, and is not stored for another."""
        clips = make_clips(names=self.NAMES)
        clips[0] = ClipFeatures(clip="clip 0", features={"video": ("video-0",)})
        clips[1] = ClipFeatures(clip="clip 1", features={"video": ("video-1",), "audio": ("audio-99",)})
        clips[2] = ClipFeatures(clip="clip 2", features=clips[2].features, start_seconds=5.2, end_seconds=5.3)
        return clips

    def test_error_says_how_many_and_what_to_do(self, root) -> None:
        with pytest.raises(InputError, match=r"8 of 30 clips lack audio .no_audio 6, not_given 1.*'clip 0'.*'skip'"):
            FeatureDataset(
                root, [c for c in self.clips() if c.clip != "clip 2"] + make_clips([3], self.NAMES), features=["audio"]
            )

    def test_skip_leaves_clips_out_and_counts_them(self, root, caplog) -> None:
        with caplog.at_level(logging.INFO, logger="frameloom"):
            dataset = FeatureDataset(root, self.clips(), features=self.NAMES, missing="skip")
            pickle.loads(pickle.dumps(dataset))[0]
        assert (dataset.num_given, dataset.num_skipped, len(dataset)) == (30, 9, 21)
        assert dataset.missing_counts == COUNTS
        assert [dataset.key(i) for i in range(3)] == ["clip 3", "clip 5", "clip 6"]
        assert all(len(rows) for index in range(len(dataset)) for rows in dataset[index].values())
        (record,) = caplog.records
        assert record.getMessage() == (
            "21 clips of 30 are read, 9 left out; video is missing in 1 (no_row_in_span 1); "
            "audio is missing in 9 (no_audio 6, no_row_in_span 1, not_given 1, not_stored 1)"
        )

    def test_empty_gives_masks(self, root) -> None:
        dataset = FeatureDataset(root, self.clips(), features=self.NAMES, missing={"video": "skip", "audio": "empty"})
        assert (len(dataset), dataset.num_skipped) == (29, 1)
        assert dataset.missing_counts == COUNTS
        lacking = [dataset.key(i) for i in np.flatnonzero(~dataset.present("audio"))]
        assert lacking == [f"clip {n}" for n in (0, 1, 4, 9, 14, 19, 24, 29)]
        batch = dataset.read(range(5)).tokens()  # clips 0, 1, 3, 4, 5
        assert batch["audio"].mask.any(dim=1).tolist() == [False, False, True, False, True]
        assert batch["audio"].mask.sum(dim=1).tolist() == [len(dataset[i]["audio"]) for i in range(5)]
        assert batch["video"].mask.any(dim=1).all()
        assert dataset.read([0, 1]).tokens().keys() == {"video"}

    def test_optional_features_may_lack_and_what_is_named_must_be_stored(self, root) -> None:
        clips = [clip for clip in self.clips() if clip.clip != "clip 1"]
        assert len(FeatureDataset(root, clips, features=self.NAMES, missing="optional")) == 29
        with pytest.raises(InputError, match="no feature audio-99 in "):
            FeatureDataset(root, self.clips(), features=self.NAMES, missing="optional")

    def test_a_clip_is_read_near_the_first_feature_that_it_has(self, root) -> None:
        clips = [ClipFeatures(clip="a", features={"audio": ("audio-0",)}), *make_clips([0, 1, 6], self.NAMES)]
        dataset = FeatureDataset(root, clips, features=self.NAMES, missing="empty")
        groups = dataset.shard_groups().tolist()
        assert groups[1] == groups[3] != groups[2]
        assert groups[0] not in groups[1:]

    def test_unknown_words_are_refused(self, root) -> None:
        for options, message in [
            ({"missing": "ignore"}, "missing of video 'ignore': allowed are error, skip, empty, optional"),
            ({"missing": {"audio": "skip"}}, "one policy for each"),
            ({"narrow": "wide"}, "narrow 'wide'"),
            ({"features": "video"}, "give a list of names"),
        ]:
            with pytest.raises(InputError, match=message):
                FeatureDataset(root, make_clips(), **{"features": ["video"], **options})
        with pytest.raises(InputError, match="no feature 'audio'; it has video"):
            FeatureDataset(root, make_clips(), features=["video"]).present("audio")

    def test_one_feature_has_one_width(self, root, tmp_path) -> None:
        clips = [*make_clips([0]), ClipFeatures(clip="b", features={"video": ("text-1",)})]
        with pytest.raises(InputError, match=r"video is float16 \(T, 4\) and, of 'v1', float16 \(T, 5\)"):
            FeatureDataset(root, clips, features=["video"])

    def test_rows_out_of_order_are_refused(self, tmp_path) -> None:
        feature = make_feature("video", 0, 4)
        feature = FeatureArray(feature.values, feature.times[::-1])
        sample = Sample(key="v", source_digest="0", fingerprint="video-0", feature=feature)
        FeatureStore(tmp_path).write_shard("video", [sample], spec=make_spec("video"))
        with pytest.raises(InputError, match="'v' are not in the order of time"):
            FeatureDataset(tmp_path, make_clips([0], start_seconds=1.0), features=["video"])
        with pytest.raises(InputError, match="'v' are not in the order of time"):
            FeatureDataset(tmp_path, make_clips([0]), features=["video"], draw=UniformWindow(2.0))
        assert len(FeatureDataset(tmp_path, make_clips([0]), features=["video"])[0]["video"]) == 4


class TestProcesses:
    def test_a_pickled_copy_reads_the_same_and_is_small(self, root, dataset) -> None:
        data = pickle.dumps(FeatureDataset(root, make_clips(list(range(30)) * 400), features=["video"]))
        assert len(data) < 12_000 * 45
        copy = pickle.loads(pickle.dumps(dataset))
        assert copy.digest == dataset.digest
        assert copy.store._index is None  # it has looked nothing up
        for i in range(NUM_VIDEOS):
            np.testing.assert_array_equal(copy[i]["video"], dataset[i]["video"])
        assert copy.store._index is None

    @pytest.mark.parametrize("start_method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
    def test_workers_started_afresh_read_the_same_batches(self, root, start_method) -> None:
        dataset = FeatureDataset(
            root, make_clips(names=["video", "audio"]), features=["video", "audio"], missing="empty"
        )
        dataset[0]  # a file is open here, and must not be theirs
        sampler = dataset.batches(batch_size=8, seed=9)
        here = list(FeatureLoader(dataset, sampler))
        there = list(FeatureLoader(dataset, sampler, num_workers=1, start_method=start_method))
        assert len(here) == len(there) == 4
        for one, other in zip(here, there, strict=True):
            assert one.keys() == other.keys() == {"video", "audio"}
            for name in one:
                assert one[name].values.equal(other[name].values)
                assert one[name].mask.equal(other[name].mask)
