"""What every shard format must do. A format's tests subclass this and say how its store is made."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from frameloom._vocabulary import FeatureArray, InputError, Modality, Status
from frameloom.store import FeatureStore, Sample, _features
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .making import BATCHES, SPEC, make_sample, make_spec, tree, write_all

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


class ShardStoreContract:
    """Subclasses give `make_store`."""

    def make_store(self, root: Path) -> FeatureStore:
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> FeatureStore:
        return self.make_store(tmp_path / "store")

    def test_a_store_that_is_not_there_is_empty_and_stays_away(self, tmp_path):
        store = self.make_store(tmp_path / "nowhere")
        assert list(store.entries()) == []
        assert store.shards() == []
        assert store.num_bytes() == 0
        assert "0" * 32 not in store
        assert store.sweep() == []
        assert list(tmp_path.iterdir()) == []

    def test_what_was_written_is_read(self, store):
        for batch in BATCHES:
            store.write_shard(SPEC.name, batch, spec=SPEC)
        reader = self.make_store(store.root)
        for sample in (sample for batch in BATCHES for sample in batch):
            found = reader.read(sample.fingerprint)
            np.testing.assert_array_equal(found.values, sample.feature.values)
            np.testing.assert_array_equal(found.times, sample.feature.times)
            assert found.values.dtype == np.float16
            assert (found.status, found.message) == (sample.feature.status, sample.feature.message)

    def test_entries_tell_everything_without_opening_a_shard(self, store):
        store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
        for shard in store.root.rglob("*.h5"):
            shard.write_bytes(bytes(shard.stat().st_size))
        entries = {entry.key: entry for entry in self.make_store(store.root).entries(SPEC.name)}
        assert set(entries) == {"a.mp4", "b.mp4", "c.mp4"}
        assert (entries["c.mp4"].num_rows, entries["c.mp4"].first_row) == (70, 3)
        assert (entries["c.mp4"].start_seconds, entries["c.mp4"].end_seconds) == (0.0, 70.0)
        assert entries["b.mp4"].status is Status.NO_FRAMES
        assert entries["b.mp4"].message == "no frame could be decoded"
        assert entries["b.mp4"].start_seconds is None
        assert entries["a.mp4"].source_digest == BATCHES[0][0].source_digest
        assert list(self.make_store(store.root).entries("another")) == []

    def test_a_second_reader_sees_new_shards_after_refresh(self, store):
        reader = self.make_store(store.root)
        assert BATCHES[0][0].fingerprint not in reader
        store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
        assert BATCHES[0][0].fingerprint not in reader
        reader.refresh()
        assert BATCHES[0][0].fingerprint in reader

    def test_the_writer_sees_its_own_shard_at_once(self, store):
        assert BATCHES[1][0].fingerprint not in store
        store.write_shard(SPEC.name, BATCHES[1], spec=SPEC)
        assert BATCHES[1][0].fingerprint in store

    def test_the_same_samples_in_the_same_order_give_the_same_bytes(self, tmp_path):
        for name in ("one", "two"):
            store = self.make_store(tmp_path / name)
            for batch in BATCHES:
                store.write_shard(SPEC.name, batch, spec=SPEC)
        assert tree(tmp_path / "one") == tree(tmp_path / "two")

    def test_writing_again_changes_nothing(self, store):
        first = store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
        before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*") if path.is_file()}
        assert store.write_shard(SPEC.name, BATCHES[0], spec=SPEC) == first
        assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*") if path.is_file()} == before

    def test_a_damaged_shard_is_written_anew(self, store):
        info = store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
        whole = info.path.read_bytes()
        info.path.write_bytes(whole[:-1] + b"?")
        store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
        assert info.path.read_bytes() == whole

    def test_of_a_fingerprint_that_is_there_twice_the_better_outcome_counts(self, store):
        failed = make_sample("a.mp4", 0, status=Status.DEADLINE, message="too slow")
        worked = make_sample("a.mp4", 4)
        assert failed.fingerprint == worked.fingerprint
        for samples in ([failed], [worked], [failed, make_sample("z.mp4", 1)]):
            store.write_shard(SPEC.name, samples, spec=SPEC)
        for reader in (store, self.make_store(store.root)):
            assert reader.read(worked.fingerprint).status is Status.OK

    def test_a_discarded_shard_is_gone(self, store):
        kept = store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
        store.discard(store.write_shard(SPEC.name, BATCHES[1], spec=SPEC))
        assert [shard.name for shard in store.shards()] == [kept.name]
        assert BATCHES[1][0].fingerprint not in store
        assert len(tree(store.root)) == 2

    def test_spans_are_half_open_and_go_by_the_middle(self, store):
        sample = make_sample("a.mp4", 10)
        store.write_shard(SPEC.name, [make_sample("before.mp4", 3), sample], spec=SPEC)
        for start, end, rows in [(0, 10, range(10)), (2.5, 4.5, range(2, 4)), (9.5, 99, [9]), (-5, 0.6, [0])]:
            found = store.read_span(sample.fingerprint, start, end)
            np.testing.assert_array_equal(found.values, sample.feature.values[list(rows)])
            np.testing.assert_array_equal(found.times, sample.feature.times[list(rows)])

    def test_a_span_without_rows_says_so(self, store):
        store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
        missed = store.read_span(BATCHES[0][0].fingerprint, 0.6, 1.4)
        assert missed.values.shape == (0, SPEC.dim)
        assert missed.status is Status.TOO_SHORT
        assert "[0.600, 1.400)" in missed.message
        rejected = store.read_span(BATCHES[0][1].fingerprint, 0, 9)
        assert rejected.status is Status.NO_FRAMES

    def test_many_threads_and_a_copy_in_another_process_read_the_same(self, store, monkeypatch):
        for batch in BATCHES:
            store.write_shard(SPEC.name, batch, spec=SPEC)
        copy = pickle.loads(pickle.dumps(store))
        keep_best = _features._keep_best
        # Learning what there is takes long, so that some threads ask in the middle of it.
        monkeypatch.setattr(_features, "_keep_best", lambda *known: (time.sleep(0.05), keep_best(*known)))
        samples = [sample for batch in BATCHES for sample in batch] * 5
        with ThreadPoolExecutor(max_workers=len(samples)) as threads:
            found = list(threads.map(lambda sample: copy.read(sample.fingerprint).values, samples))
        for sample, values in zip(samples, found, strict=True):
            np.testing.assert_array_equal(values, sample.feature.values)

    @pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a b", "x" * 200])
    def test_a_feature_name_cannot_leave_the_store(self, store, name):
        with pytest.raises(InputError, match="feature name"):
            store.write_shard(name, BATCHES[1], spec=SPEC)

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
    def test_what_does_not_fit_is_refused(self, store, samples, complaint):
        with pytest.raises(InputError, match=complaint):
            store.write_shard(SPEC.name, samples, spec=SPEC)
        assert not store.root.exists()

    @pytest.mark.parametrize(
        ("values", "times", "complaint"),
        [
            ([[np.nan] * 8], [[0, 1]], "NaN or infinity"),
            ([[np.inf] * 8], [[0, 1]], "NaN or infinity"),
            ([[1.0] * 8], [[np.nan, 1]], "times must be finite"),
            ([[1.0] * 8], [[2, 1]], "before it starts"),
        ],
    )
    def test_numbers_that_mean_nothing_are_refused(self, store, values, times, complaint):
        feature = FeatureArray(np.array(values, "float16"), np.array(times, "float64"))
        sample = Sample(key="k", source_digest="s", fingerprint="f" * 32, feature=feature)
        with pytest.raises(InputError, match=complaint):
            store.write_shard(SPEC.name, [sample], spec=SPEC)

    def test_a_key_that_is_not_unicode_is_refused(self, store):
        sample = make_sample("a", 1)
        broken = Sample(key="a\udcff", source_digest="s", fingerprint="f" * 32, feature=sample.feature)
        with pytest.raises(InputError, match="surrogate"):
            store.write_shard(SPEC.name, [broken], spec=SPEC)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        items=st.lists(st.tuples(KEYS, st.integers(0, 40)), min_size=1, max_size=8),
        dim=st.integers(1, 9),
        dtype=st.sampled_from(["float16", "float32"]),
        modality=st.sampled_from([Modality.VIDEO, Modality.TEXT]),
    )
    def test_any_keys_and_lengths_survive(self, tmp_path_factory, items, dim, dtype, modality):
        spec = make_spec(dim=dim, dtype=dtype, modality=modality)
        samples = [
            self._renamed(make_sample(f"{place}", rows, spec=spec), key) for place, (key, rows) in enumerate(items)
        ]
        store = self.make_store(tmp_path_factory.mktemp("any"))
        store.write_shard("some.feature-1", samples, spec=spec)
        reader = self.make_store(store.root)
        assert [entry.key for entry in reader.entries()] == [key for key, _ in items]
        for sample in samples:
            found = reader.read(sample.fingerprint)
            assert found.values.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(found.values, sample.feature.values)
            np.testing.assert_array_equal(found.times, sample.feature.times)
        assert list(reader.verify()) == []
        reader.close()

    @staticmethod
    def _renamed(sample: Sample, key: str) -> Sample:
        return Sample(
            key=key, source_digest=sample.source_digest, fingerprint=sample.fingerprint, feature=sample.feature
        )

    def test_verify_finds_nothing_in_a_good_store(self, store):
        write_all(store.root)
        assert list(store.verify()) == []
