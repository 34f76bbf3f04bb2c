"""A disk that is really full: told with the space that was needed, nothing lost, and on it goes when there is room."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from frameloom._vocabulary import OutOfSpaceError
from frameloom.store import FeatureStore, Ledger
from helpers import oracle, skip_or_fail
from helpers.stores import make_sample, make_spec

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 300 kB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        skip_or_fail("there is no mount command here")
    if mounted.returncode:
        skip_or_fail(f"a file system of its own may not be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)  # a store that failed may have a shard open


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    root = tmp_path_factory.mktemp("clean")
    oracle.write(root)
    written = oracle.tree(root)
    oracle.compact(root)
    return written, oracle.tree(root)


def test_writing_on_a_full_disk_is_a_pause(disk, clean):
    root = disk / "store"
    with pytest.raises(OutOfSpaceError, match=r"[\d,]+ bytes were needed and [\d,]+ are free") as told:
        oracle.write(root)
    assert told.value.exit_code == 5
    needed, free = (
        int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:bytes were|are)", str(told.value))
    )
    assert needed > free
    assert free < 300_000
    assert list(root.rglob("*.tmp")) == []
    num_before = len(list(root.rglob("*.parquet")))
    assert 0 < num_before < oracle.NUM_SAMPLES // oracle.PER_SHARD
    oracle.check(root, complete=False)
    with pytest.raises(OutOfSpaceError):  # again, and again nothing is lost
        oracle.write(root)
    assert len(list(root.rglob("*.parquet"))) == num_before
    resize(disk, "10m")
    oracle.write(root)
    oracle.check(root, complete=True)
    assert oracle.tree(root) == clean[0]


@pytest.mark.parametrize("shard_format", ["hdf5", "webdataset"])
@pytest.mark.parametrize("room", [0, 4096, 12_288, 20_480, 28_672, 36_864])
def test_what_is_needed_is_more_than_what_is_free(disk, shard_format, room):
    spec = make_spec(dim=64)
    sample = make_sample("a.mp4", 225, spec=spec)  # 28,800 bytes of values
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
    (disk / "ballast").write_bytes(bytes(free - room))
    store = FeatureStore(disk / "store")
    with pytest.raises(OutOfSpaceError) as told:
        store.write_shard("f", [sample], spec=spec, format=shard_format)
    found = re.search(r"([\d,]+) bytes were needed and ([\d,]+) are free;", str(told.value))
    assert found, told.value
    needed, free = (int(number.replace(",", "")) for number in found.groups())
    assert needed > free
    assert free <= room
    assert list((disk / "store").rglob("*.tmp")) == []
    resize(disk, "1m")
    store.write_shard("f", [sample], spec=spec, format=shard_format)
    np.testing.assert_array_equal(store.read(sample.fingerprint).values, sample.feature.values)


@pytest.mark.parametrize("room", [0, 8_000, 40_000, 60_000])
def test_compacting_on_a_full_disk_is_a_pause(disk, clean, room):
    root = disk / "store"
    resize(disk, "10m")
    oracle.write(root)
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
    (disk / "ballast").write_bytes(bytes(max(0, free - room)))
    with pytest.raises(OutOfSpaceError):
        oracle.compact(root)
    oracle.check(root, complete=True)
    (disk / "ballast").unlink()
    oracle.compact(root)
    oracle.check(root, complete=True)
    assert oracle.tree(root) == clean[1]


def test_a_ledger_is_not_opened_on_a_full_disk(disk):
    with contextlib.closing(Ledger(disk)) as ledger:
        ledger.set_table_version("clips", 3)
    with (disk / "rest").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    with pytest.raises(OutOfSpaceError):
        Ledger(disk).set_table_version("clips", 4)
    (disk / "rest").unlink()
    assert Ledger(disk).table_version("clips") == 3
