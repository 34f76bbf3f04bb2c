"""Stores behind an address: the same promises as in a folder, against an S3 server that the tests start themselves."""

from __future__ import annotations

import itertools
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import helpers.children
import numpy as np
import pytest
from frameloom._vocabulary import ConfigError, FrameloomError, IntegrityError, LockedError, Modality, OutOfSpaceError
from frameloom.store import FeatureStore, exclusive_lock, reader_lock
from frameloom.store.health import quarantine_bytes, repair_features, verify_features
from frameloom.store.places import bucket as _bucket
from frameloom.store.places import copies as _copies
from frameloom.store.places import remote as _remote
from helpers.shard_store_contract import ShardStoreContract
from helpers.stores import BATCHES, SPEC, make_sample, tree, write_all

SAMPLES = [sample for batch in BATCHES for sample in batch]
SECRET = "not-for-anybodys-eyes"
# Where the uploads begin and end. The steps of writing a file aside are those of a folder.
STEPS = ["shard.synced", "shard.renamed", "shard.durable", "sidecar.begun", "sidecar.renamed", "sidecar.durable"]
PROGRAM = Path(helpers.children.__file__).with_name("remote_writers.py")


@pytest.fixture(scope="session")
def endpoint():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what moto imports
        from moto.server import ThreadedMotoServer
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class S3:
    """One bucket, seen past the store."""

    numbers = itertools.count()

    def __init__(self) -> None:
        import s3fs

        self.bucket = f"bucket-{os.getpid()}-{next(self.numbers)}"
        self.files = s3fs.S3FileSystem(use_listings_cache=False)
        self.files.mkdir(self.bucket)
        self.root = f"s3://{self.bucket}/some/features"

    def objects(self, root: str | None = None) -> dict[str, bytes]:
        prefix = (root or self.root).removeprefix("s3://")
        paths = self.files.find(prefix)
        return {path[len(prefix) + 1 :]: data for path, data in (self.files.cat(paths) if paths else {}).items()}

    def put(self, name: str, data: bytes) -> None:
        self.files.pipe_file(f"{self.root}/{name}", data)


@pytest.fixture(scope="module")
def service(endpoint, tmp_path_factory):
    """The service's own variables, for as long as this module's tests run."""
    none = str(tmp_path_factory.mktemp("home") / "none")
    values = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": none,
        "AWS_SHARED_CREDENTIALS_FILE": none,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def s3(service, monkeypatch, tmp_path):
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_bucket, "_pause", lambda seconds: None)
    return S3()


@pytest.fixture
def new_connections():
    """Connections that see the variables as they are now, and that no later test is given."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    root = tmp_path_factory.mktemp("clean")
    write_all(root)
    return tree(root)


def copies(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".h5", ".tar", ".tmp"))


def empty_cache(tmp_path: Path) -> None:
    for path in copies(tmp_path):
        path.unlink()


def check_all(store: FeatureStore) -> None:
    for sample in SAMPLES:
        np.testing.assert_array_equal(store.read(sample.fingerprint).values, sample.feature.values)


def run_writers(jobs: list[tuple[str, str]]) -> list[int]:
    """Exit codes of one process for each root and fail point, all at once."""
    done = subprocess.run([sys.executable, str(PROGRAM), json.dumps(jobs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestS3Stores(ShardStoreContract):
    @pytest.fixture(autouse=True)
    def _service(self, s3, tmp_path):
        self.s3, self.tmp_path = s3, tmp_path

    def make_store(self, root):
        return FeatureStore(self.address(root))

    def address(self, root):
        return f"s3://{self.s3.bucket}{root.as_posix()}"

    def files(self, root):
        return self.s3.objects(self.address(root))

    def put(self, root, name, data):
        self.s3.files.pipe_file(f"{self.address(root)}/{name}", data)
        empty_cache(self.tmp_path)  # what others see; a copy of before stays what was written

    def test_any_keys_and_lengths_survive(self, tmp_path_factory, write):
        """What a property test has found in folders is not searched for again through many requests."""
        check = ShardStoreContract.test_any_keys_and_lengths_survive.hypothesis.inner_test
        for dtype, modality in (("float16", Modality.VIDEO), ("uint8", Modality.TEXT), ("float32", Modality.AUDIO)):
            items = [("../up", 0), ("\0", 1), ("\u540d.v1.mp4", 40), ("", 7)]
            check(self, tmp_path_factory, write, items=items, dim=5, dtype=dtype, modality=modality)


def test_a_remote_store_holds_the_same_bytes_as_a_folder(s3, clean, tmp_path):
    write_all(s3.root)
    assert s3.objects() == clean
    empty_cache(tmp_path)
    reader = FeatureStore(s3.root)
    check_all(reader)
    assert list(verify_features(reader)) == []
    assert reader.num_bytes() == sum(map(len, clean.values()))
    assert {path.name for path in copies(tmp_path)} == {Path(name).name for name in clean if name.endswith(".h5")}


def test_after_a_kill_nothing_looks_complete_that_is_not_and_a_rerun_ends_with_the_same_objects(s3, clean):
    roots = {step: f"{s3.root}/{step}" for step in STEPS}
    codes = run_writers([(root, f"{step}:kill:2") for step, root in roots.items()])
    assert codes == [-signal.SIGKILL] * len(STEPS)
    for step, root in roots.items():
        store = FeatureStore(root)
        num_committed = 2 if step in ("sidecar.renamed", "sidecar.durable") else 1
        committed = [sample for batch in BATCHES[:num_committed] for sample in batch]
        assert {entry.fingerprint for entry in store.entries()} == {sample.fingerprint for sample in committed}
        assert not any(finding.is_damage for finding in verify_features(store))
        left = len(s3.objects(root))
        assert left == 2 * num_committed + (step in ("shard.renamed", "shard.durable", "sidecar.begun"))
        assert store.sweep() == []  # too young to be surely a dead writer's
        assert store.sweep(older_than_seconds=0) == []  # a whole shard, which a repair could commit
        write_all(root)
        assert s3.objects(root) == clean


def test_damage_is_named_where_people_find_it_and_what_is_set_aside_is_counted(s3):
    write_all(s3.root)
    store = FeatureStore(s3.root)
    shard = store.shards()[0]
    name = f"{shard.feature}/{shard.path.name}"
    held = s3.objects()[name]
    s3.files.pipe_file(f"{s3.root}/{name}", held[: len(held) // 2])
    findings = list(verify_features(store))
    assert {str(finding.path) for finding in findings} == {f"{s3.root}/{name}"}
    (repaired,) = repair_features(store)
    assert repaired.as_dict()["path"] == f"{s3.root}/{name}"
    assert repaired.kept == f"{s3.root}/.quarantine/{shard.feature}"
    aside = {name: data for name, data in s3.objects().items() if name.startswith(".quarantine/")}
    assert len(aside) == 2
    assert quarantine_bytes(store) == sum(map(len, aside.values()))


def test_many_writers_at_once_do_not_meet(s3, clean):
    assert run_writers([(s3.root, "none")] * 3) == [0] * 3
    assert s3.objects() == clean


def test_a_process_that_was_forked_reads_for_itself(s3):
    write_all(s3.root)
    assert run_writers([(s3.root, "fork")]) == [0]


def test_a_shard_whose_writer_is_late_is_not_swept_and_one_that_is_dead_is(s3, monkeypatch):
    write_all(s3.root)
    store = FeatureStore(s3.root)
    whole = s3.objects()
    sidecar = store.shards()[0].path.with_suffix(".parquet").name
    s3.files.rm_file(f"{s3.root}/{SPEC.name}/{sidecar}")
    assert store.sweep() == []
    write_all(s3.root)  # the late writer's sidecar finds its shard
    assert s3.objects() == whole
    s3.files.rm_file(f"{s3.root}/{SPEC.name}/{sidecar}")
    later = time.time() + 25 * 3600
    monkeypatch.setattr(_remote, "time", SimpleNamespace(time=lambda: later))
    assert store.sweep() == []  # it is whole, and a repair could commit it
    s3.put(f"{SPEC.name}/{Path(sidecar).stem}.h5", b"half of it")
    (told,) = store.sweep()
    assert f"{s3.root}/{SPEC.name}/{Path(sidecar).stem}.h5" in told


def test_a_shard_that_is_there_is_sent_again_so_that_no_sweep_takes_it_for_old(s3, monkeypatch):
    store = FeatureStore(s3.root)
    sent = []
    put = _bucket.Bucket._put
    monkeypatch.setattr(_bucket.Bucket, "_put", lambda self, *given: sent.append(given) or put(self, *given))
    for _ in range(2):
        store.write_shard(SPEC.name, BATCHES[1], spec=SPEC)
    assert len(sent) == 2


def test_a_sweep_gives_up_unfinished_uploads_of_ours_and_no_others(s3, monkeypatch):
    ours = f"some/features/{SPEC.name}/{'0' * 32}.h5"
    others = ["elsewhere/x.h5", f"some/features/{SPEC.name}/notes.txt", f"some/features-2/f/{'0' * 32}.h5"]
    for key in (ours, *others):
        s3.files.call_s3("create_multipart_upload", Bucket=s3.bucket, Key=key)
    begun = s3.files.list_multipart_uploads(s3.bucket)[0]["Initiated"].timestamp()
    monkeypatch.setattr(_bucket, "time", SimpleNamespace(time=lambda: begun + 23 * 3600))
    assert FeatureStore(s3.root).sweep() == []
    monkeypatch.setattr(_bucket, "time", SimpleNamespace(time=lambda: begun + 25 * 3600))
    (told,) = FeatureStore(s3.root).sweep()
    assert ours in told
    assert sorted(upload["Key"] for upload in s3.files.list_multipart_uploads(s3.bucket)) == sorted(others)


def test_a_sweep_leaves_what_is_not_ours(s3):
    write_all(s3.root)
    others = {f"{SPEC.name}/notes.txt": b"kept", f"{SPEC.name}/deep/{'0' * 32}.h5": b"kept", f"{'0' * 32}.h5": b"kept"}
    for name, data in others.items():
        s3.put(name, data)
    s3.put(f"{SPEC.name}/{'0' * 32}.h5", b"litter")
    before = s3.objects()
    assert len(FeatureStore(s3.root).sweep(older_than_seconds=0)) == 1
    assert s3.objects() == {name: data for name, data in before.items() if data != b"litter"}


@pytest.mark.parametrize("place", [0, 700, 6000, -1])
def test_an_object_with_a_flipped_bit_is_refused_and_named(s3, tmp_path, place):
    info = FeatureStore(s3.root).write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    name = f"{SPEC.name}/{info.path.name}"
    damaged = bytearray(s3.objects()[name])
    damaged[place] ^= 4
    s3.put(name, bytes(damaged))
    empty_cache(tmp_path)
    store = FeatureStore(s3.root)
    with pytest.raises(IntegrityError, match=f"{s3.root}/{name} is not what was written"):
        store.read(BATCHES[0][2].fingerprint)
    assert copies(tmp_path) == []
    findings = list(verify_features(store))
    assert all(finding.is_damage for finding in findings)
    assert any(f"{s3.root}/{name}" in finding.message for finding in findings)
    store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    assert list(verify_features(store)) == []


def test_an_object_that_was_cut_does_not_count_as_there(s3):
    info = FeatureStore(s3.root).write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    whole = s3.objects()
    for name, size in ((f"{SPEC.name}/{info.path.name}", 600), (f"{SPEC.name}/{info.name}.parquet", 300)):
        for kept in (size, 0):
            s3.put(name, whole[name][:kept])
            store = FeatureStore(s3.root)
            assert len(store) == 0
            assert f"{s3.root}/{SPEC.name}/{info.name}" in store.problems[0].message
        store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
        assert s3.objects() == whole


def test_an_object_that_goes_away_is_named(s3, tmp_path):
    store = FeatureStore(s3.root)
    info = store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    store.refresh()
    s3.files.rm_file(f"{s3.root}/{SPEC.name}/{info.path.name}")
    empty_cache(tmp_path)
    with pytest.raises(IntegrityError, match=f"{s3.root}/{SPEC.name}/{info.path.name} is gone"):
        store.read(BATCHES[0][0].fingerprint)


def test_a_discarded_shard_is_gone_with_its_copy(s3, tmp_path):
    store = FeatureStore(s3.root)
    store.discard(store.write_shard(SPEC.name, BATCHES[0], spec=SPEC))
    assert s3.objects() == {}
    assert copies(tmp_path) == []
    assert len(store) == 0


def test_a_damaged_copy_is_fetched_anew(s3, tmp_path):
    write_all(s3.root)
    whole = {path: path.read_bytes() for path in copies(tmp_path)}
    for path, data in whole.items():
        path.write_bytes(data[:-9] + b"?" + data[-8:])
    check_all(FeatureStore(s3.root))
    assert {path: path.read_bytes() for path in copies(tmp_path)} == whole


def test_a_copy_that_is_damaged_while_it_is_open_is_fetched_anew(s3, tmp_path):
    sample = BATCHES[0][2]
    store = FeatureStore(s3.root)
    store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    store.read(BATCHES[0][0].fingerprint)
    (copy,) = copies(tmp_path)
    with copy.open("r+b") as file:
        file.seek(copy.read_bytes().index(sample.feature.values.tobytes()[:64]))
        file.write(b"\xff\xff")
    np.testing.assert_array_equal(store.read(sample.fingerprint).values, sample.feature.values)
    np.testing.assert_array_equal(store.read_span(sample.fingerprint, 0, 9).values, sample.feature.values[:9])


def test_a_copy_that_goes_away_while_it_is_open_is_fetched_anew(s3, tmp_path):
    store = FeatureStore(s3.root)
    write_all(s3.root)
    check_all(store)
    empty_cache(tmp_path)
    check_all(store)


def test_copies_take_no_more_than_their_limit(s3, tmp_path, monkeypatch):
    store, samples = FeatureStore(s3.root), [make_sample(f"{number}", 2) for number in range(5)]
    names = [store.write_shard(SPEC.name, [sample], spec=SPEC).name for sample in samples]
    limit = int(2.5 * store.shards()[0].num_bytes)
    monkeypatch.setenv("FRAMELOOM_CACHE_GB", str(limit / 1e9))
    empty_cache(tmp_path)
    for number in [0, 1, 2, 3, 4, 0, 3]:
        store.read(samples[number].fingerprint)
        assert sum(path.stat().st_size for path in copies(tmp_path)) <= limit
    kept = {path.stem for path in copies(tmp_path)}
    assert kept == {names[0], names[3]}
    monkeypatch.setenv("FRAMELOOM_CACHE_GB", "0")
    assert store.read(samples[1].fingerprint).values.shape == (2, 8)
    assert len(copies(tmp_path)) == 1  # the one that is being read


def test_the_lock_that_a_reader_holds_stays_when_copies_are_trimmed(s3, monkeypatch):
    write_all(s3.root)
    store = FeatureStore(s3.root)
    monkeypatch.setenv("FRAMELOOM_CACHE_GB", "0")
    with reader_lock(store.place.folder):
        check_all(store)
        with pytest.raises(LockedError), exclusive_lock(store.place.folder):
            pass


@pytest.mark.parametrize("given", ["many", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_a_clear_error(monkeypatch, given):
    monkeypatch.setenv("FRAMELOOM_CACHE_GB", given)
    with pytest.raises(ConfigError, match="FRAMELOOM_CACHE_GB"):
        _copies.copies_limit()


def test_what_a_killed_reader_left_is_removed_once_it_is_old(s3, tmp_path):
    store = FeatureStore(s3.root)
    copy = store.write_shard(SPEC.name, BATCHES[0], spec=SPEC).path
    young, old = (copy.with_name(f".{copy.name}.fetch.{n}-0.tmp") for n in (1, 2))
    for path in (young, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    copy.unlink()
    store.read(BATCHES[0][0].fingerprint)
    assert copies(tmp_path) == sorted([young, copy])


def test_many_readers_fetch_a_shard_once(s3, tmp_path, monkeypatch):
    write_all(s3.root)
    empty_cache(tmp_path)
    fetched = []
    download = _bucket.Bucket.download
    monkeypatch.setattr(
        _bucket.Bucket, "download", lambda self, *given: fetched.append(given) or download(self, *given)
    )
    stores = [FeatureStore(s3.root) for _ in range(8)]
    with ThreadPoolExecutor(len(stores)) as threads:
        list(threads.map(check_all, stores))
    assert len(fetched) == len(BATCHES)


def test_a_full_disk_while_fetching_is_told_and_leaves_nothing(s3, tmp_path, monkeypatch):
    store = FeatureStore(s3.root)
    store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    empty_cache(tmp_path)

    def full(self, name, target):
        target.write_bytes(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_bucket.Bucket, "download", full)
    with pytest.raises(OutOfSpaceError, match="FRAMELOOM_CACHE"):
        store.read(BATCHES[0][0].fingerprint)
    assert copies(tmp_path) == []


def test_a_cache_that_cannot_be_a_folder_is_a_clear_error(s3, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="FRAMELOOM_CACHE"):
        write_all(s3.root)


def test_what_fails_and_passes_is_tried_again(s3, clean, monkeypatch):
    failures = iter([OSError(16, "SlowDown"), ConnectionResetError("reset"), TimeoutError("late")])
    put = _bucket.Bucket._put

    def put_later(self, *given):
        for error in failures:
            raise error
        put(self, *given)

    paused = []
    monkeypatch.setattr(_bucket, "_pause", paused.append)
    monkeypatch.setattr(_bucket.Bucket, "_put", put_later)
    write_all(s3.root)
    assert s3.objects() == clean
    assert paused == [0.25, 0.5, 1.0]


def test_what_keeps_failing_is_told_and_commits_nothing(s3, monkeypatch):
    tries = []

    def fail(self, *given):
        tries.append(given)
        raise OSError(16, f"SlowDown {SECRET} AKIAIOSFODNN7EXAMPLE Signature=abc123")

    monkeypatch.setattr(_bucket.Bucket, "_put", fail)
    with pytest.raises(FrameloomError, match="tried 4 times") as told:
        write_all(s3.root)
    assert len(tries) == 4
    assert not any(secret in str(told.value) for secret in (SECRET, "AKIA", "abc123"))
    assert s3.objects() == {}


def test_an_upload_that_arrives_otherwise_is_never_committed(s3, clean, monkeypatch):
    put = _bucket.Bucket._put

    def damage(self, source, key):
        self._files().pipe_file(key, source.read_bytes()[:-1] + b"?")

    monkeypatch.setattr(_bucket.Bucket, "_put", damage)
    with pytest.raises(FrameloomError, match="is not what was sent"):
        write_all(s3.root)
    assert [Path(name).suffix for name in s3.objects()] == [".h5"]
    assert len(FeatureStore(s3.root)) == 0
    monkeypatch.setattr(_bucket.Bucket, "_put", put)
    write_all(s3.root)
    assert s3.objects() == clean


def test_a_service_that_tells_no_md5_is_read_back(s3, clean, monkeypatch):
    of = _bucket.Info.of
    monkeypatch.setattr(_bucket.Info, "of", lambda raw: of({**raw, "ETag": '"0123-2"'}))
    write_all(s3.root)
    assert s3.objects() == clean


def test_secrets_are_in_no_text_of_a_store(s3):
    store = FeatureStore(s3.root)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.root == s3.root
    assert repr(copy) == f"FeatureStore('{s3.root}')"
    assert SECRET.encode() not in pickle.dumps(store)
    write_all(s3.root)
    check_all(copy)


def test_no_credentials_is_a_clear_error(s3, monkeypatch, new_connections):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match="no credentials were found"):
        len(FeatureStore(s3.root))


def test_refused_access_is_a_clear_error(s3, monkeypatch):
    def refuse(self):
        raise PermissionError(f"Access Denied for {SECRET}")

    monkeypatch.setattr(_bucket.Bucket, "_files", refuse)
    with pytest.raises(ConfigError, match=r"access is refused .*Access Denied for \*\*\*"):
        len(FeatureStore(s3.root))


def test_a_bucket_that_is_not_there_is_a_clear_error(s3):
    for use in (len, FeatureStore.sweep, lambda store: store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)):
        with pytest.raises(ConfigError, match="there is no bucket 'nowhere'"):
            use(FeatureStore("s3://nowhere/features"))


def test_an_endpoint_that_nobody_listens_at_is_a_clear_error(s3, monkeypatch, new_connections):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(FrameloomError, match=r"tried 4 times .*; check the network and the endpoint"):
        len(FeatureStore(s3.root))


@pytest.mark.parametrize(
    ("root", "complaint"),
    [
        ("s3://user:hush@bucket/x", "has a password"),
        ("s3://bucket/x?signature=hush", "a query"),
        ("s3://", "names no bucket"),
        ("https://host/x", "cannot hold a store"),
        ("simplecache::s3://bucket/x", "begins with the name of one protocol"),
        ("file://folder", "three slashes"),
        (Path("s3://bucket/x"), "give addresses as s3://bucket/prefix"),
    ],
)
def test_an_address_that_can_be_no_stores_is_refused(root, complaint):
    with pytest.raises(ConfigError, match=complaint) as told:
        FeatureStore(root)
    assert "hush" not in str(told.value)


def test_a_protocol_that_nobody_knows_and_one_without_its_package(monkeypatch):
    with pytest.raises(ConfigError, match="fsspec knows no nonsense"):
        len(FeatureStore("nonsense://bucket/x"))
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError, match="needs the package gcsfs"):
        len(FeatureStore("gs://bucket/x"))


def test_the_other_ways_to_write_a_place(tmp_path, clean, monkeypatch):
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "cache"))
    write_all((tmp_path / "a folder").as_uri().replace("%20", " "))
    assert tree(tmp_path / "a folder") == clean
    write_all(str(tmp_path / "another"))
    assert tree(tmp_path / "another") == clean
    memory = f"memory://{tmp_path.name}/x"
    write_all(memory)
    empty_cache(tmp_path)
    check_all(FeatureStore(memory))
