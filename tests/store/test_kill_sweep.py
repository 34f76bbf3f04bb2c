"""Killed at random instants, and failed or killed at every single write, sync and rename: nothing is lost or wrong."""

from __future__ import annotations

import errno
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import oracle, skip_or_fail

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PROGRAM = [sys.executable, str(Path(oracle.__file__))]
CALLS = ("write", "fsync", "rename", "ftruncate", "mkdir")
MODES = {"EIO": "error=EIO", "ENOSPC": "error=ENOSPC", "kill": "signal=KILL"}


def test_a_hundred_kills_at_random_instants_end_with_the_same_bytes(tmp_path):
    done = subprocess.run([*PROGRAM, str(tmp_path), "sweep", "100", "5"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] >= 100
    assert all(found["left"][name] >= 5 for name in ("writing", "compacting")), found  # spread over both


@pytest.fixture(scope="module")
def strace() -> str:
    path = shutil.which("strace")
    if path is None:
        skip_or_fail("strace is not installed: it makes single system calls fail")
    probe = subprocess.run([path, "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        skip_or_fail(f"strace may not trace here: {probe.stderr.strip()[-200:]}")
    return path


def traced(strace, options, root, log, step="publish"):
    command = [strace, "-f", "-o", str(log), *options, *PROGRAM, str(root), step]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def calls_of_store(log: Path, root: Path) -> list[tuple[str, int]]:
    """The calls on files of the store, each as its name and its number among the calls of that name."""
    lines = log.read_text().splitlines()
    main = next(line for line in lines if str(root.parent) in line).split(maxsplit=1)[0]
    counts = dict.fromkeys(CALLS, 0)
    found: list[tuple[str, int]] = []
    for line in lines:
        match = re.match(rf"{main}\s+(\w+)\(", line)
        if match is None or match[1] not in CALLS:
            continue
        counts[match[1]] += 1
        if str(root.parent) in line:  # the folder that it is made in is synced too
            found.append((match[1], counts[match[1]]))
    return found


def sweep_calls(strace, tmp_path, prepare, step, finish):
    """Fail and kill every call of one step in turn; returns how many there were."""
    log = tmp_path / "log"
    root = tmp_path / "counted"
    prepare(root)
    # With -y strace writes the path of each descriptor.
    counted = traced(strace, ["-y", "-e", f"trace={','.join(CALLS)}"], root, log, step)
    assert counted.returncode == 0, counted.stderr
    calls = calls_of_store(log, root)
    finish(root)
    clean = oracle.tree(root)
    for name, number in calls:
        for mode, action in MODES.items():
            root = tmp_path / "failed"
            prepare(root)
            options = ["-e", f"trace={name}", "-e", f"inject={name}:{action}:when={number}"]
            done = traced(strace, options, root, log, step)
            told = f"{name} number {number}, {mode}: {done.returncode} {done.stderr[-500:]}"
            if mode == "kill":
                assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), told
            else:
                assert done.returncode == 1, told
                assert f"Errno {getattr(errno, mode)}" in done.stderr, told
                last = done.stderr.strip().splitlines()[-1]
                assert last.startswith(f"frameloom._vocabulary.{'OutOfSpace' if mode == 'ENOSPC' else 'Frameloom'}"), (
                    told
                )
            oracle.check(root, complete=False)
            finish(root)
            assert oracle.tree(root) == clean, told
            shutil.rmtree(root)
    return calls


def test_every_call_of_one_publish_failed_and_killed_in_turn(strace, tmp_path):
    def finish(root):
        oracle.FeatureStore(root).sweep()
        oracle.publish(root)

    calls = sweep_calls(strace, tmp_path, lambda root: None, "publish", finish)
    names = [name for name, _ in calls]
    assert names.count("rename") == 2
    assert names.count("fsync") == 6
    assert names.count("write") >= 10
