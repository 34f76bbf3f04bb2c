"""What a store must do, wherever it lies and whatever the format of its shards. Its tests subclass this.

A subclass says how a store is made (`make_store`). Where a store's files are no files of this machine it also says how
they are listed and changed (`files`, `put`). Each test runs for every shard format.
"""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from frameloom._vocabulary import FeatureArray, FeatureSpec, InputError, IntegrityError, Modality, Status, ValueType
from frameloom.store import FeatureStore, Sample, ShardInfo
from frameloom.store import features as _features
from frameloom.store.formats import FORMATS
from frameloom.store.health import verify_features
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.stores import BATCHES, SPEC, make_sample, make_spec, tree

DOTTED = [
    "holiday.v1.final",
    "holiday.v2.final",
    "..",
    "../up",
    "a/b.c d",
    "",
    "\0",
    "\u540d\u524d.mp4",
    "\u00e9" * 600,
]
KEYS = st.one_of(st.sampled_from(DOTTED), st.text(st.characters(exclude_categories=["Cs"]), max_size=30))


def any_sample(name: str, num_rows: int, *, spec: FeatureSpec) -> Sample:
    """As `make_sample`, and whole numbers are any of their type, the least and the largest among them."""
    plain = make_sample(name, num_rows, spec=replace(spec, dtype="float32"))
    named = make_sample(name, 0, spec=spec)
    dtype = np.dtype(spec.dtype)
    values = plain.feature.values.astype(dtype) if dtype.kind == "f" else _whole_numbers(name, num_rows, spec)
    return replace(named, feature=replace(plain.feature, values=values))


def _whole_numbers(name: str, num_rows: int, spec: FeatureSpec) -> NDArray[Any]:
    limits = np.iinfo(spec.dtype)
    chance = np.random.default_rng(list(name.encode()))
    values = chance.integers(limits.min, limits.max, (num_rows, spec.dim), spec.dtype, endpoint=True)
    if num_rows:
        values[0, 0], values[-1, -1] = limits.max, limits.min
    return values


class ShardStoreContract:
    """Subclasses give `make_store`."""

    def make_store(self, root: Path) -> FeatureStore:
        """A new store, or another reader of the one that was made for this path before."""
        raise NotImplementedError

    def files(self, root: Path) -> dict[str, bytes]:
        """Every file of the store of this path, by its name below the store's root."""
        return tree(root)

    def put(self, root: Path, name: str, data: bytes) -> None:
        """Give a file of the store another content, behind the store's back."""
        (root / name).write_bytes(data)

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path / "store"

    @pytest.fixture
    def store(self, root: Path) -> FeatureStore:
        return self.make_store(root)

    @pytest.fixture(params=sorted(FORMATS))
    def write(self, request) -> Callable[..., ShardInfo]:
        """`write_shard` in one of the formats."""

        def write(store, samples, *, name=SPEC.name, spec=SPEC, **more):
            return store.write_shard(name, samples, spec=spec, format=request.param, **more)

        return write

    def test_a_store_that_is_not_there_is_empty_and_stays_away(self, tmp_path):
        store = self.make_store(tmp_path / "nowhere")
        assert list(store.entries()) == []
        assert store.shards() == []
        assert store.num_bytes() == 0
        assert "0" * 32 not in store
        assert store.sweep() == []
        assert self.files(tmp_path / "nowhere") == {}

    def test_what_was_written_is_read(self, store, root, write):
        for batch in BATCHES:
            write(store, batch)
        reader = self.make_store(root)
        for sample in (sample for batch in BATCHES for sample in batch):
            found = reader.read(sample.fingerprint)
            np.testing.assert_array_equal(found.values, sample.feature.values)
            np.testing.assert_array_equal(found.times, sample.feature.times)
            assert found.values.dtype == np.float16
            assert (found.status, found.message) == (sample.feature.status, sample.feature.message)

    def test_entries_tell_everything_without_opening_a_shard(self, store, root, write):
        write(store, BATCHES[0])
        for name, data in self.files(root).items():
            if not name.endswith(".parquet"):
                self.put(root, name, bytes(len(data)))
        entries = {entry.key: entry for entry in self.make_store(root).entries(SPEC.name)}
        assert set(entries) == {"a.mp4", "b.mp4", "c.mp4"}
        assert (entries["c.mp4"].num_rows, entries["c.mp4"].first_row) == (70, 3)
        assert (entries["c.mp4"].start_seconds, entries["c.mp4"].end_seconds) == (0.0, 70.0)
        assert entries["b.mp4"].status is Status.NO_FRAMES
        assert entries["b.mp4"].message == "no frame could be decoded"
        assert entries["b.mp4"].start_seconds is None
        assert entries["a.mp4"].source_digest == BATCHES[0][0].source_digest
        assert list(self.make_store(root).entries("another")) == []

    def test_a_second_reader_sees_new_shards_after_refresh(self, store, root, write):
        reader = self.make_store(root)
        assert BATCHES[0][0].fingerprint not in reader
        write(store, BATCHES[0])
        assert BATCHES[0][0].fingerprint not in reader
        reader.refresh()
        assert BATCHES[0][0].fingerprint in reader

    def test_the_writer_sees_its_own_shard_at_once(self, store, write):
        assert BATCHES[1][0].fingerprint not in store
        write(store, BATCHES[1])
        assert BATCHES[1][0].fingerprint in store

    def test_the_same_samples_in_the_same_order_give_the_same_bytes(self, tmp_path, write):
        for name in ("one", "two"):
            store = self.make_store(tmp_path / name)
            for batch in BATCHES:
                write(store, batch)
        assert self.files(tmp_path / "one") == self.files(tmp_path / "two")

    def test_writing_again_changes_nothing(self, store, root, write):
        first = write(store, BATCHES[0])
        before = self.files(root)
        assert write(store, BATCHES[0]) == first
        assert self.files(root) == before

    def test_a_damaged_shard_is_written_anew(self, store, root, write):
        write(store, BATCHES[0])
        before = self.files(root)
        for name, data in before.items():
            self.put(root, name, data[:-1] + b"?")
        write(store, BATCHES[0])
        assert self.files(root) == before

    def test_a_shard_that_was_replaced_is_never_returned_as_data(self, store, root, write):
        write(store, BATCHES[0])
        for name, data in self.files(root).items():
            if not name.endswith(".parquet"):
                place = data.index(BATCHES[0][2].feature.values.tobytes()[:64])
                self.put(root, name, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(IntegrityError):
            self.make_store(root).read(BATCHES[0][2].fingerprint)

    def test_formats_stand_side_by_side(self, store, root):
        for batch, name in zip(BATCHES, itertools.cycle(sorted(FORMATS))):
            store.write_shard(SPEC.name, batch, spec=SPEC, format=name)
        reader = self.make_store(root)
        assert len({shard.path.suffix for shard in reader.shards()}) == len(FORMATS)
        for sample in (sample for batch in BATCHES for sample in batch):
            np.testing.assert_array_equal(reader.read(sample.fingerprint).values, sample.feature.values)
        assert self.make_store(root).sweep() == []

    def test_of_a_fingerprint_that_is_there_twice_the_better_outcome_counts(self, store, root, write):
        failed = make_sample("a.mp4", 0, status=Status.DEADLINE, message="too slow")
        worked = make_sample("a.mp4", 4)
        assert failed.fingerprint == worked.fingerprint
        for samples in ([failed], [worked], [failed, make_sample("z.mp4", 1)]):
            write(store, samples)
        for reader in (store, self.make_store(root)):
            assert reader.read(worked.fingerprint).status is Status.OK

    def test_a_reader_goes_on_when_shards_were_merged_meanwhile(self, store, root, write):
        first = write(store, BATCHES[0])
        reader = self.make_store(root)
        assert BATCHES[0][0].fingerprint in reader
        write(store, [*BATCHES[0], *BATCHES[1]])
        store.discard(first)
        found = reader.read(BATCHES[0][0].fingerprint)
        np.testing.assert_array_equal(found.values, BATCHES[0][0].feature.values)
        assert reader.read_span(BATCHES[0][2].fingerprint, 0, 2).values.shape == (2, SPEC.dim)

    def test_a_discarded_shard_is_gone(self, store, root, write):
        kept = write(store, BATCHES[0])
        store.discard(write(store, BATCHES[1]))
        assert [shard.name for shard in store.shards()] == [kept.name]
        assert BATCHES[1][0].fingerprint not in store
        assert len(self.files(root)) == 2

    def test_spans_are_half_open_and_go_by_the_middle(self, store, write):
        sample = make_sample("a.mp4", 10)
        write(store, [make_sample("before.mp4", 3), sample])
        for start, end, rows in [(0, 10, range(10)), (2.5, 4.5, range(2, 4)), (9.5, 99, [9]), (-5, 0.6, [0])]:
            found = store.read_span(sample.fingerprint, start, end)
            np.testing.assert_array_equal(found.values, sample.feature.values[list(rows)])
            np.testing.assert_array_equal(found.times, sample.feature.times[list(rows)])

    def test_a_span_without_rows_says_so(self, store, write):
        write(store, BATCHES[0])
        missed = store.read_span(BATCHES[0][0].fingerprint, 0.6, 1.4)
        assert missed.values.shape == (0, SPEC.dim)
        assert missed.status is Status.TOO_SHORT
        assert "[0.600, 1.400)" in missed.message
        rejected = store.read_span(BATCHES[0][1].fingerprint, 0, 9)
        assert rejected.status is Status.NO_FRAMES

    def test_many_threads_and_a_copy_in_another_process_read_the_same(self, store, monkeypatch, write):
        for batch in BATCHES:
            write(store, batch)
        copy = pickle.loads(pickle.dumps(store))
        add = _features.Index.add
        # Learning what there is takes long, so that some threads ask in the middle of it.
        monkeypatch.setattr(_features.Index, "add", lambda *known: (time.sleep(0.05), add(*known)))
        samples = [sample for batch in BATCHES for sample in batch] * 5
        with ThreadPoolExecutor(max_workers=len(samples)) as threads:
            found = list(threads.map(lambda sample: copy.read(sample.fingerprint).values, samples))
        for sample, values in zip(samples, found, strict=True):
            np.testing.assert_array_equal(values, sample.feature.values)

    @pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a b", "x" * 200])
    def test_a_feature_name_cannot_leave_the_store(self, store, name, write):
        with pytest.raises(InputError, match="feature name"):
            write(store, BATCHES[1], name=name)

    def test_an_unknown_fingerprint_is_a_clear_error(self, store):
        with pytest.raises(InputError, match="no feature abc"):
            store.read("abc")

    @pytest.mark.parametrize(
        ("samples", "complaint"),
        [
            ([], "at least one sample"),
            ([make_sample("a", 1), make_sample("a", 2)], "twice in one shard"),
            ([make_sample("a", 1, spec=make_spec(dim=5))], r"\(T, 5\)"),
            ([make_sample("a", 1, spec=make_spec(dtype="float32"))], "float32"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, store, samples, complaint, root, write):
        with pytest.raises(InputError, match=complaint):
            write(store, samples)
        assert self.files(root) == {}

    @pytest.mark.parametrize(
        ("values", "times", "complaint"),
        [
            ([[np.nan] * 8], [[0, 1]], "NaN or infinity"),
            ([[np.inf] * 8], [[0, 1]], "NaN or infinity"),
            ([[1.0] * 8], [[np.nan, 1]], "times must be finite"),
            ([[1.0] * 8], [[2, 1]], "before it starts"),
        ],
    )
    def test_numbers_that_mean_nothing_are_refused(self, store, values, times, complaint, write):
        feature = FeatureArray(np.array(values, "float16"), np.array(times, "float64"))
        sample = Sample(key="k", source_digest="s", fingerprint="f" * 32, feature=feature)
        with pytest.raises(InputError, match=complaint):
            write(store, [sample])

    def test_a_key_that_is_not_unicode_is_refused(self, store, write):
        sample = make_sample("a", 1)
        broken = Sample(key="a\udcff", source_digest="s", fingerprint="f" * 32, feature=sample.feature)
        with pytest.raises(InputError, match="surrogate"):
            write(store, [broken])

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        items=st.lists(st.tuples(KEYS, st.integers(0, 40)), min_size=1, max_size=8),
        dim=st.integers(1, 9),
        dtype=st.sampled_from(get_args(ValueType)),
        modality=st.sampled_from([Modality.VIDEO, Modality.TEXT]),
    )
    def test_any_keys_and_lengths_survive(self, tmp_path_factory, write, items, dim, dtype, modality):
        spec = make_spec(dim=dim, dtype=dtype, modality=modality)
        samples = [
            self._renamed(any_sample(f"{place}", rows, spec=spec), key) for place, (key, rows) in enumerate(items)
        ]
        root = tmp_path_factory.mktemp("any")
        write(self.make_store(root), samples, name="some.feature-1", spec=spec)
        reader = self.make_store(root)
        assert [entry.key for entry in reader.entries()] == [key for key, _ in items]
        for sample in samples:
            found = reader.read(sample.fingerprint)
            assert found.values.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(found.values, sample.feature.values)
            np.testing.assert_array_equal(found.times, sample.feature.times)
            if len(found.values) and modality is not Modality.TEXT:
                part = reader.read_span(sample.fingerprint, 1.0, 3.0)
                np.testing.assert_array_equal(part.values, sample.feature.values[1:3])
        assert list(verify_features(reader)) == []
        reader.close()

    @pytest.mark.parametrize("dtype", get_args(ValueType))
    def test_every_type_of_values_is_little_endian_in_the_file_and_read_as_it_was(self, store, root, dtype, write):
        spec = make_spec(dim=3, dtype=dtype)
        sample = any_sample("a", 50, spec=spec)
        write(
            store,
            [self._given(sample, values=sample.feature.values.astype(np.dtype(dtype).newbyteorder(">")))],
            spec=spec,
        )
        reader = self.make_store(root)
        found = reader.read(sample.fingerprint).values
        assert found.dtype == np.dtype(dtype)
        assert found.dtype.isnative
        np.testing.assert_array_equal(found, sample.feature.values)
        (shard,) = (data for name, data in self.files(root).items() if not name.endswith(".parquet"))
        assert sample.feature.values.astype(np.dtype(dtype).newbyteorder("<")).tobytes() in shard
        assert [finding.message for finding in verify_features(reader)] == []

    @pytest.mark.parametrize("dtype", ["bool", "float64", "complex64", "object", "S4", "datetime64[s]", "half", None])
    def test_other_types_of_values_are_refused_before_anything_is_written(self, store, root, dtype, write):
        sample = self._given(make_sample("a", 2), values=np.zeros((2, SPEC.dim), dtype))
        with pytest.raises(InputError, match="cannot be stored; allowed: float16, float32, int8"):
            write(store, [sample], spec=make_spec(dtype=dtype))
        if dtype != "half":
            with pytest.raises(InputError, match="the specification says float16"):
                write(store, [sample])
        assert self.files(root) == {}

    @pytest.mark.parametrize("dim", [0, -1, 8.0, True, np.int64(8), 1 << 30])
    def test_a_width_that_is_none_is_refused(self, store, root, dim, write):
        values = np.zeros((2, max(0, min(int(dim), 9))), "float16")
        with pytest.raises(InputError, match="is no whole number from 1"):
            write(store, [self._given(make_sample("a", 2), values=values)], spec=make_spec(dim=dim))
        assert self.files(root) == {}

    def test_a_specification_that_is_no_plain_data_is_refused(self, store, root, write):
        spec = replace(SPEC, sampling={"step": np.float32(1)})
        with pytest.raises(InputError, match="not plain data"):
            write(store, [make_sample("a", 2)], spec=spec)
        assert self.files(root) == {}

    @pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", ">f8", "int64", ">i2", "uint8"])
    def test_times_of_any_numbers_are_stored_as_float64(self, store, root, dtype, write):
        sample = make_sample("a", 9)
        write(store, [self._given(sample, times=sample.feature.times.astype(dtype))])
        found = self.make_store(root).read(sample.fingerprint).times
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, sample.feature.times)
        assert list(verify_features(self.make_store(root))) == []

    @pytest.mark.parametrize("dtype", ["bool", "complex128", "object", "S8", "timedelta64[s]"])
    def test_times_that_are_no_numbers_are_refused(self, store, root, dtype, write):
        times = make_sample("a", 9).feature.times.astype("int64").astype(dtype)
        with pytest.raises(InputError, match="must be numbers of seconds"):
            write(store, [self._given(make_sample("a", 9), times=times)])
        assert self.files(root) == {}

    @pytest.mark.parametrize("extent", [(0, 5), [np.float32(0), np.int16(5)], np.array([0.0, 5.0])])
    def test_an_extent_of_any_numbers_is_stored_as_floats(self, store, root, extent, write):
        write(store, [self._given(make_sample("a", 2), extent=extent)])
        (entry,) = self.make_store(root).entries()
        assert (entry.start_seconds, entry.end_seconds) == (0.0, 5.0)
        assert list(verify_features(self.make_store(root))) == []

    @pytest.mark.parametrize("extent", [(0, np.nan), (-np.inf, 0), (2, 1), (1,), (1, 2, 3), ("a", "b"), 5, (None, 1)])
    def test_an_extent_that_is_none_is_refused(self, store, root, extent, write):
        with pytest.raises(InputError, match="extent"):
            write(store, [self._given(make_sample("a", 2), extent=extent)])
        assert self.files(root) == {}

    @pytest.mark.parametrize("change", [{"key": 5}, {"source_digest": b"x"}, {"fingerprint": None}])
    def test_what_is_no_text_is_refused(self, store, root, change, write):
        with pytest.raises(InputError, match="must be text"):
            write(store, [replace(make_sample("a", 2), **change)])
        assert self.files(root) == {}

    @staticmethod
    def _given(sample: Sample, **change: Any) -> Sample:
        return replace(sample, feature=replace(sample.feature, **change))

    @staticmethod
    def _renamed(sample: Sample, key: str) -> Sample:
        return Sample(
            key=key, source_digest=sample.source_digest, fingerprint=sample.fingerprint, feature=sample.feature
        )

    def test_verify_finds_nothing_in_a_good_store(self, store, write):
        for batch in BATCHES:
            write(store, batch)
        assert list(verify_features(store)) == []
