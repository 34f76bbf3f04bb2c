from __future__ import annotations

import os
import subprocess
import sys

import pytest
from frameloom._vocabulary import LockedError
from frameloom.store import writer_lock

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
