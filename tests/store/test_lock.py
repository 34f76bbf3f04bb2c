from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys

import pytest
from frameloom._files import file_lock
from frameloom._vocabulary import ConfigError, LockedError
from frameloom.store import exclusive_lock, reader_lock, writer_lock

HOLDER = """
import sys, pathlib
from frameloom.store import writer_lock
with writer_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_told_who_holds_the_lock(tmp_path):
    with writer_lock(tmp_path / "store"):
        with pytest.raises(LockedError, match=f"process {os.getpid()} on .* is writing to .*store") as told:
            with writer_lock(tmp_path / "store"):
                pytest.fail("two writers")
        assert told.value.exit_code == 6
    with writer_lock(tmp_path / "store"):
        pass


def test_an_error_inside_releases_it(tmp_path):
    with pytest.raises(RuntimeError, match="inside"):
        with writer_lock(tmp_path):
            raise RuntimeError("inside")
    with writer_lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_folder_without_locks_is_named(tmp_path, monkeypatch, number):
    def refuse(*_given):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for lock in (writer_lock(tmp_path), exclusive_lock(tmp_path), file_lock(tmp_path / "x.lock")):
        with pytest.raises(ConfigError, match=f"{tmp_path}: its file system has no locks"), lock:
            pass
    with reader_lock(tmp_path):  # nobody compacts there either
        pass


def test_a_killed_holder_leaves_no_lock(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {holder.pid} on"):
            with writer_lock(tmp_path):
                pytest.fail("two writers")
        holder.kill()
        holder.wait()
        with writer_lock(tmp_path):
            pass
