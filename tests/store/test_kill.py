"""Promises 2, 4 and 10: kill the writer at every step, fill the disk at every step, then run again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import helpers.children
import numpy as np
import pytest
from frameloom._files import PUBLISH_STEPS, FailPointError, is_temporary, make_folder, publish, publish_by_content
from frameloom._vocabulary import ConfigError, ExitCode, FrameloomError, InputError, OutOfSpaceError
from frameloom.store import FeatureStore
from frameloom.store.health import verify_features
from helpers.stores import BATCHES, SPEC, tree, write_all

STEPS = [f"{kind}.{step}" for kind in ("shard", "sidecar") for step in PUBLISH_STEPS]
# The first and the second shard: with nothing and with something committed before.
KILLS = [f"{step}:kill:{nth}" for step in STEPS for nth in (1, 2)]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    root = tmp_path_factory.mktemp("clean")
    write_all(root)
    return tree(root)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    base = tmp_path_factory.mktemp("killed")
    program = [sys.executable, str(Path(helpers.children.__file__).with_name("killed_writers.py")), str(base), *KILLS]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout).values()) == {-signal.SIGKILL}
    return base


@pytest.mark.parametrize("point", KILLS)
def test_after_a_kill_nothing_looks_complete_that_is_not_and_a_rerun_gives_the_same_bytes(killed, clean, point):
    root = killed / point
    store = FeatureStore(root)
    num_committed = int(point[-1]) - 1 + (point.startswith(("sidecar.renamed", "sidecar.durable")))
    committed = [sample for batch in BATCHES[:num_committed] for sample in batch]
    assert {entry.fingerprint for entry in store.entries()} == {sample.fingerprint for sample in committed}
    for sample in committed:
        np.testing.assert_array_equal(store.read(sample.fingerprint).values, sample.feature.values)
    assert not any(finding.is_damage for finding in verify_features(store))
    store.sweep()
    is_lone = point.startswith(("shard.renamed", "shard.durable", "sidecar.")) and num_committed < int(point[-1])
    assert len(tree(root)) == 2 * num_committed + is_lone  # a whole shard, which a repair could commit
    write_all(root)
    assert tree(root) == clean


@pytest.mark.parametrize("step", STEPS)
def test_an_error_at_any_step_leaves_a_store_that_finishes(tmp_path, monkeypatch, clean, step):
    monkeypatch.setenv("FRAMELOOM_FAILPOINT", f"{step}:raise")
    with pytest.raises(FailPointError):
        write_all(tmp_path)
    monkeypatch.delenv("FRAMELOOM_FAILPOINT")
    assert not [path for path in tree(tmp_path) if is_temporary(Path(path).name)]
    write_all(tmp_path)
    assert tree(tmp_path) == clean


@pytest.mark.parametrize("step", ["shard.begun", "shard.half", "shard.written", "sidecar.half"])
def test_a_full_disk_is_a_pause(tmp_path, monkeypatch, clean, step):
    store = FeatureStore(tmp_path)
    store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    monkeypatch.setenv("FRAMELOOM_FAILPOINT", f"{step}:full")
    with pytest.raises(OutOfSpaceError) as told:
        store.write_shard(SPEC.name, BATCHES[1], spec=SPEC)
    assert told.value.exit_code == 5
    # The disk is not really full, so that the sentence about needed and free bytes would contradict itself.
    assert re.search(r"[\d,]+ bytes were needed, and [\d,]+ are free but refused \(No space", str(told.value))
    monkeypatch.delenv("FRAMELOOM_FAILPOINT")
    assert not [path for path in tree(tmp_path) if is_temporary(Path(path).name)]
    np.testing.assert_array_equal(store.read(BATCHES[0][0].fingerprint).values, BATCHES[0][0].feature.values)
    write_all(tmp_path)
    assert tree(tmp_path) == clean


def test_bytes_are_durable_before_their_name_and_the_shard_before_its_sidecar(tmp_path, monkeypatch):
    """A power cut keeps what was synced and may drop the rest, so the order of syncs is what is promised."""
    events = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor):
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("sync", path.suffixes[0] if path.is_file() else "folder", os.fstat(descriptor).st_size))

    def watched_replace(self, target):
        events.append(("rename", target.suffix, self.stat().st_size))
        return replace(self, target)

    root = tmp_path / "store"
    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    info = FeatureStore(root).write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    size, sidecar = info.num_bytes, info.path.with_suffix(".parquet").stat().st_size
    assert [(what, of) for what, of, _ in events[:2]] == [("sync", "folder")] * 2  # the store's folder, the feature's
    assert [event for event in events[2:] if event[1] != "folder"] == [
        ("sync", f".{info.path.name}"[-3:], size),
        ("rename", ".h5", size),
        ("sync", ".parquet", sidecar),
        ("rename", ".parquet", sidecar),
    ]
    assert [event[1] for event in events[2:]].index("folder") == 2
    assert events[-1][1] == "folder"


@pytest.mark.parametrize("nth", range(1, 7))
def test_a_disk_that_is_full_at_any_sync_is_told_as_such(tmp_path, monkeypatch, clean, nth):
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutOfSpaceError):
        FeatureStore(tmp_path / "store").write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    monkeypatch.undo()
    write_all(tmp_path / "store")
    assert tree(tmp_path / "store") == clean


@pytest.mark.parametrize("shard_format", ["hdf5", "webdataset"])
def test_the_bytes_that_were_needed_are_those_of_the_whole_file(tmp_path, monkeypatch, shard_format):
    clean = FeatureStore(tmp_path / "clean").write_shard(SPEC.name, BATCHES[0], spec=SPEC, format=shard_format)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))
    monkeypatch.setenv("FRAMELOOM_FAILPOINT", "shard.half:full")
    with pytest.raises(OutOfSpaceError, match=f"{clean.num_bytes:,} bytes were needed and [0-9,]+ are free;"):
        FeatureStore(tmp_path / "full").write_shard(SPEC.name, BATCHES[0], spec=SPEC, format=shard_format)


CALLS = [("fsync", nth) for nth in range(1, 7)] + [("rename", 1), ("rename", 2)]


@pytest.mark.parametrize(("call", "nth"), CALLS)
def test_a_disk_that_fails_is_told_in_a_sentence_with_the_file(tmp_path, monkeypatch, clean, call, nth):
    calls = []

    def fail(do):
        def failing(*given):
            calls.append(given)
            if len(calls) == nth:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return do(*given)

        return failing

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", fail(os.fsync))
    else:
        monkeypatch.setattr(Path, "replace", fail(Path.replace))
    with pytest.raises(FrameloomError) as told:
        FeatureStore(tmp_path / "store").write_shard(SPEC.name, BATCHES[0], spec=SPEC)
    monkeypatch.undo()
    assert re.match(rf"cannot write {tmp_path}\S*: Input/output error; ", str(told.value))
    assert told.value.exit_code == ExitCode.USAGE
    assert not [path for path in tree(tmp_path) if is_temporary(Path(path).name)]
    write_all(tmp_path / "store")
    assert tree(tmp_path / "store") == clean


def test_a_disk_that_fails_while_a_shard_is_removed_is_told_in_a_sentence(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path)
    info = store.write_shard(SPEC.name, BATCHES[0], spec=SPEC)

    def fail(path, **_):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(FrameloomError, match=f"cannot write {info.path.with_suffix('.parquet')}: Input/output error"):
        store.discard(info)


def test_a_sweep_removes_litter_and_nothing_else(tmp_path, clean):
    write_all(tmp_path)
    folder = tmp_path / SPEC.name
    names = [f".{'2' * 32}.h5.token.1-1.tmp", f"{'0' * 32}.h5"]
    for name in names:
        (folder / name).write_bytes(b"?")
    lone = {f"{SPEC.name}/{'1' * 32}.parquet": b"?", f"{SPEC.name}/{hashlib.sha256(b'!').hexdigest()[:32]}.tar": b"!"}
    others = {**lone, f"{SPEC.name}/notes.txt": b"kept", "vectors/.clips.rows": b"kept", "vectors/x.h5": b"kept"}
    (tmp_path / "vectors").mkdir()
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    told = FeatureStore(tmp_path).sweep()
    assert len(told) == 2
    assert all(any(name in line for line in told) for name in names)
    assert tree(tmp_path) == {**clean, **others}


def test_two_writers_of_the_same_shard_do_not_meet(tmp_path, clean):
    stores = [FeatureStore(tmp_path) for _ in range(2)]
    for batch in BATCHES:
        assert (
            len({store.write_shard(SPEC.name, batch, spec=SPEC, token=f"t{n}").name for n, store in enumerate(stores)})
            == 1
        )
    assert tree(tmp_path) == clean


def test_a_folder_whose_name_is_too_long_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot write .*name too long"):
        make_folder(tmp_path / ("x" * 300) / "store")


def test_a_token_cannot_leave_the_folder(tmp_path):
    with pytest.raises(InputError, match="token"):
        publish(tmp_path / "x", b"1", kind="text", token="../../etc")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_needed_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="folder"):
            make_folder(path)


def test_a_full_disk_is_told_whatever_the_writer_makes_of_it(tmp_path, monkeypatch):
    """A library that reads back what was not written may fail in its own way; the cause is what counts."""

    def write(target):
        target.write(b"x" * 1000)
        raise ValueError("bad object header")

    monkeypatch.setenv("FRAMELOOM_FAILPOINT", "shard.half:full")
    with pytest.raises(OutOfSpaceError, match="1,000 bytes were needed"):
        publish_by_content(tmp_path, ".h5", write, num_bytes=1000, kind="shard")
    monkeypatch.delenv("FRAMELOOM_FAILPOINT")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="bad object header"):
        publish_by_content(tmp_path, ".h5", write, num_bytes=1000, kind="shard")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where a shell started the tests in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_a_library_writes_comes_when_it_is_done(tmp_path):
    steps = []

    def write(target):
        target.write(b"first")
        signal.raise_signal(signal.SIGINT)
        steps.append("went on")
        target.write(b"second")

    with pytest.raises(KeyboardInterrupt):
        publish_by_content(tmp_path, ".h5", write, num_bytes=11, kind="shard")
    assert steps == ["went on"]
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_fail_point_that_does_not_exist_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMELOOM_FAILPOINT", "text.begun:explode")
    with pytest.raises(ConfigError, match="explode"):
        publish(tmp_path / "x", b"1", kind="text")
