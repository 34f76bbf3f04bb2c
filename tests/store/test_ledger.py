from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from contextlib import closing
from types import SimpleNamespace

import pytest
from frameloom import _files
from frameloom._vocabulary import FrameloomError, InputError, OutOfSpaceError, Status
from frameloom.store import Ledger
from frameloom.store import ledger as _ledger


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "SETTLED_SECONDS", -1.0)  # files made a moment ago count as left alone
    with closing(Ledger(tmp_path / "store")) as ledger:
        yield ledger


def digest_of(ledger, path):
    return ledger.digests_of_files([path])[path]


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that were really read."""
    names = []
    original = _ledger.hash_file
    monkeypatch.setattr(_ledger, "hash_file", lambda path, **more: names.append(path.name) or original(path, **more))
    return names


def test_only_files_that_changed_are_read_again(ledger, hashed, tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.write_text(path.name)
    first = ledger.digests_of_files(paths)
    assert first == {path: hashlib.blake2b(path.name.encode(), digest_size=32).hexdigest() for path in paths}
    assert sorted(hashed) == ["a", "b", "c"]
    hashed.clear()
    assert Ledger(tmp_path / "store").digests_of_files(paths) == first
    assert hashed == []
    paths[1].write_text("other")
    assert ledger.digests_of_files(paths) == {**first, paths[1]: hashlib.blake2b(b"other", digest_size=32).hexdigest()}
    assert hashed == ["b"]


def test_a_rewrite_that_keeps_size_and_modification_time_is_seen(ledger, hashed, tmp_path):
    path = tmp_path / "video.mp4"
    path.write_text("one")
    before = digest_of(ledger, path)
    times = path.stat()
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert digest_of(ledger, path) != before


def test_a_file_that_changed_just_now_is_hashed_again_next_time(ledger, hashed, tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "SETTLED_SECONDS", 3600.0)
    path = tmp_path / "video.mp4"
    path.write_text("one")
    digest_of(ledger, path)
    digest_of(ledger, path)
    assert hashed == ["video.mp4"] * 2


def test_what_cannot_be_hashed_says_why(ledger, tmp_path):
    (tmp_path / "good").write_text("x")
    paths = [tmp_path / "good", tmp_path / "missing", tmp_path, tmp_path / "nul\0"]
    found = ledger.digests_of_files(paths)
    assert list(found) == paths
    assert isinstance(found[paths[0]], str)
    statuses = [found[path].status for path in paths[1:]]
    assert statuses == [Status.MISSING, Status.NOT_REGULAR_FILE, Status.MISSING]
    assert "does not exist" in found[paths[1]].message


def test_a_file_of_holes_is_not_read_and_a_signal_does_not_wait_for_a_large_one(tmp_path) -> None:
    path = tmp_path / "holes.mp4"
    with path.open("wb") as file:
        file.truncate(1 << 36)
    refused = Ledger(tmp_path / "ledger.sqlite").digests_of_files([path])[path]
    assert (refused.status, "nearly all holes" in refused.message) == (Status.TOO_LARGE, True)
    os.truncate(path, 0)
    os.truncate(path, 1 << 35)
    with path.open("rb") as file:
        assert not _ledger._has_data(file.fileno())
    path.write_bytes(b"a" * 10)
    with path.open("rb") as file:
        assert _ledger._has_data(file.fileno())
        assert file.read() == b"a" * 10
    assert _ledger.hash_file(path, is_stopped=lambda: True).status is Status.CHANGED
    assert len(_ledger.hash_file(path)[0]) == 64


def test_a_file_that_changes_while_it_is_read_is_told(ledger, tmp_path, monkeypatch):
    path = tmp_path / "growing.mp4"
    path.write_text("one")
    original = _ledger.open_regular_file

    class Growing:
        """A file that is longer once it was read."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def fileno(self):
            return self.file.fileno()

        def read(self, count):
            block = self.file.read(count)
            if not block:
                path.write_text("longer")
            return block

    monkeypatch.setattr(_ledger, "open_regular_file", lambda one: Growing(original(one)))
    assert ledger.digests_of_files([path])[path].status is Status.CHANGED


def test_a_name_need_not_be_unicode(ledger, hashed, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9 \xff'\".mp4")
    path.write_text("x")
    assert digest_of(ledger, path) == digest_of(ledger, path)
    assert len(hashed) == 1


def test_many_files_are_kept_in_few_commits(ledger, hashed, tmp_path):
    paths = [tmp_path / f"{number}.mp4" for number in range(130)]
    for path in paths:
        path.write_text(path.name)
    first = ledger.digests_of_files(paths)
    assert len(hashed) == 130
    assert Ledger(tmp_path / "store").digests_of_files(reversed(paths)) == first
    assert len(hashed) == 130


def test_progress_is_told_for_files_that_are_read(ledger, tmp_path):
    paths = [tmp_path / str(number) for number in range(4)]
    for path in paths:
        path.write_text("x")
    told = []
    ledger.digests_of_files(paths[:1])
    ledger.digests_of_files(paths, on_hashed=told.append)
    assert sorted(told) == paths[1:]


def test_deaths_are_counted_and_a_killed_driver_blames_nobody(ledger, tmp_path):
    ledger.finish_attempt("poison", died=True)
    ledger.finish_attempt("done")
    ledger.close()  # the driver is killed here
    again = Ledger(tmp_path / "store")
    assert (again.attempts("poison"), again.attempts("innocent"), again.attempts("done")) == (1, 0, 0)
    again.finish_attempt("poison", died=True)
    assert again.attempts("poison") == 2
    again.finish_attempt("poison")
    assert again.attempts("poison") == 0


def test_table_versions_and_states(ledger):
    assert ledger.table_version("table") is None
    ledger.set_table_version("table", 3, state="digest")
    assert (ledger.table_version("table"), ledger.table_state("table")) == (3, "digest")
    ledger.set_table_version("table", 4)
    assert (ledger.table_version("table"), ledger.table_state("table")) == (4, "")


def test_rates_follow_recent_runs(ledger):
    assert ledger.rate("extract") is None
    ledger.record_rate("extract", 10, 5)
    assert ledger.rate("extract") == 2
    ledger.record_rate("extract", 100, 10)
    assert 2 < ledger.rate("extract") < 10
    assert ledger.rate("extract") == pytest.approx((5 + 100) / (2.5 + 10))
    with pytest.raises(InputError, match="at least 0"):
        ledger.record_rate("extract", 1, -1)


def test_asking_makes_no_file(tmp_path):
    ledger = Ledger(tmp_path / "store")
    assert (ledger.table_version("x"), ledger.rate("x"), ledger.attempts("x")) == (None, None, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_ledger_knows_and_keeps_nothing(ledger, hashed, tmp_path):
    (tmp_path / "a").write_text("x")
    digest_of(ledger, tmp_path / "a")
    (tmp_path / "b").write_text("y")
    with closing(Ledger(tmp_path / "store", read_only=True)) as copy:
        copy.digests_of_files([tmp_path / "a", tmp_path / "b"])
        copy.set_table_version("x", 1)
        assert copy.table_version("x") == 1
    assert hashed == ["a", "b"]
    assert ledger.table_version("x") is None
    with closing(Ledger(tmp_path / "nowhere", read_only=True)) as empty:
        empty.record_rate("x", 1, 1)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("damage", ["garbage", "cut", "flipped"])
def test_a_damaged_ledger_is_kept_aside_and_begun_anew(tmp_path, caplog, damage):
    with closing(Ledger(tmp_path)) as ledger:
        for number in range(300):
            ledger.set_table_version(f"table-{number}", number)
    path = tmp_path / _ledger.LEDGER_NAME
    whole = path.read_bytes()
    broken = {
        "garbage": b"no database at all" * 99,
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:4096] + b"\xff" * 8192,
    }
    path.write_bytes(broken[damage])
    with caplog.at_level(logging.WARNING), closing(Ledger(tmp_path)) as ledger:
        assert ledger.table_version("table-1") is None
        ledger.set_table_version("table-1", 7)
        assert ledger.table_version("table-1") == 7
    assert "the ledger was damaged" in caplog.text
    assert path.with_name(f"{path.name}.damaged").exists()


def test_a_read_only_copy_of_a_damaged_ledger_knows_nothing(tmp_path, caplog):
    with closing(Ledger(tmp_path)) as ledger:
        for number in range(300):
            ledger.set_table_version(f"table-{number}", number)
    path = tmp_path / _ledger.LEDGER_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * 4096 + whole[12288:])
    with caplog.at_level(logging.WARNING), closing(Ledger(tmp_path, read_only=True)) as copy:
        assert copy.table_version("table-1") is None
    assert "cannot be read" in caplog.text


def test_a_flipped_bit_in_a_row_makes_it_absent_and_no_other_answer(ledger, hashed, tmp_path):
    (tmp_path / "a").write_text("x")
    digest = digest_of(ledger, tmp_path / "a")
    ledger.finish_attempt("poison", died=True)
    ledger.set_table_version("table", 5, state="a state of the table")
    ledger.close()
    path = tmp_path / "store" / _ledger.LEDGER_NAME
    whole = path.read_bytes()
    for old, bit in ((digest.encode(), 1), (b"a state of the table", 128), (b"poison", 1)):
        place = whole.index(old) + 3
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        for is_copy in (True, False):
            with closing(Ledger(tmp_path / "store", read_only=is_copy)) as again:
                assert digest_of(again, tmp_path / "a") == digest
                assert again.table_state("table") in ("", "a state of the table")
                assert again.table_version("table") in (None, 5)
                assert again.attempts("poison") in (0, 1)
        assert len(hashed) in (1, 3)


def test_a_ledger_of_another_format_is_begun_anew(tmp_path):
    with closing(Ledger(tmp_path)) as ledger:
        ledger.set_table_version("x", 1)
        ledger._connection.execute("PRAGMA user_version = 99")
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger.table_version("x") is None


def test_commits_are_synced(tmp_path):
    with closing(Ledger(tmp_path)) as ledger:
        ledger.set_table_version("x", 1)
        assert ledger._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert ledger._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR | (19 << 8)])
def test_a_ledger_that_cannot_be_opened_on_a_full_disk_says_so(tmp_path, monkeypatch, code):
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code

    def fail(path):
        raise error

    monkeypatch.setattr(_ledger, "_connect", fail)
    monkeypatch.setattr(_ledger.shutil, "disk_usage", lambda path: SimpleNamespace(free=4096))
    with pytest.raises(OutOfSpaceError, match="no space left"):
        Ledger(tmp_path).record_rate("train", 1, 1)
    if code != sqlite3.SQLITE_FULL:
        monkeypatch.setattr(_ledger.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 30))
        with pytest.raises(FrameloomError, match=r"ledger\.sqlite .*I/O") as caught:
            Ledger(tmp_path).record_rate("train", 1, 1)
        assert not isinstance(caught.value, OutOfSpaceError)
