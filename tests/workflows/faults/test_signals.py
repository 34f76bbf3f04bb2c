"""Signals and streams: a run that is stopped says so in one line, at any moment, and nothing else is printed."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from frameloom.workflows.console import Console
from frameloom.workflows.sync import cluster
from frameloom.workflows.sync.cluster import silence_dask
from frameloom.workflows.sync.executor import open_executor
from helpers.projects import make_clip, write_config

COMMAND = "import sys; from frameloom.workflows.cli.app import main; sys.argv = ['frameloom', *sys.argv[1:]]; "


def start(folder: Path, *arguments: str, before: str = "", **streams: Any) -> subprocess.Popen[str]:
    """The command, after some code that changes its process. Tests may run under nohup, which a child would inherit."""
    plain = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    plain += "; signal.signal(signal.SIGINT, signal.default_int_handler)"  # which shells ignore in the background
    return subprocess.Popen(
        [sys.executable, "-c", f"{plain}\n{COMMAND}\n{before}\nmain()", *arguments],
        cwd=folder, start_new_session=True, text=True, **{"stderr": subprocess.PIPE, **streams},
    )  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    make_clip(tmp_path / "videos" / "a.mp4", colour="red", pitch="low", seconds=1)
    write_config(tmp_path, collection={"captions": None}, run={"workers": 1})
    return tmp_path


class FakeCluster:
    """Takes the place of Dask's: a signal comes while it starts."""

    is_closed = False
    mask = ""

    def __init__(self, **_: Any) -> None:
        code = "import signal; print(*sorted(each.name for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
        FakeCluster.mask = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.strip()
        signal.raise_signal(signal.SIGINT)

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(self, *_: object) -> None:
        FakeCluster.is_closed = True


def test_ctrl_c_while_workers_start_is_deferred_and_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distributed.LocalCluster", FakeCluster)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), cluster.local_cluster(1, {}):
        pytest.fail("the block began")
    assert FakeCluster.is_closed
    assert FakeCluster.mask == "SIGHUP SIGINT"  # of processes that begin meanwhile: the one that leads ends them
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGHUP}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


ENDS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated"), signal.SIGHUP: (129, "hung up")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_while_workers_start_ends_the_run(small: Path, number: signal.Signals) -> None:
    before = f"""
import os, distributed
class Cluster(distributed.LocalCluster):
    def __init__(self, **options):
        os.kill(os.getpid(), {number.value})
        super().__init__(**options)
distributed.LocalCluster = Cluster
"""
    process = start(small, "extract", "-q", before=before)
    _, errors = process.communicate(timeout=600)
    code, word = ENDS[number]
    assert (process.returncode, errors) == (code, f"frameloom: {word}; the same command goes on from here\n")
    assert not list((small / ".frameloom").glob("*/*.parquet"))


def test_a_hang_up_under_nohup_does_not_end_the_run(small: Path) -> None:
    before = "import os, signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\nos.kill(os.getpid(), signal.SIGHUP)"
    process = start(small, "status", before=before, stdout=subprocess.DEVNULL)
    process.communicate(timeout=600)
    assert process.returncode == 0


# What Dask prints


def levels(_job: str) -> dict[str, int]:
    names = (*cluster.DASK_LOGGERS, *cluster.SHARED_LOGGERS, "distributed.worker", "distributed.nanny")
    return {name: logging.getLogger(name).getEffectiveLevel() for name in names}


def test_workers_print_nothing_of_their_own_affairs_and_answer_this_run_alone() -> None:
    from distributed.comm import connect

    with open_executor(workers=1, scheduler=None) as executor:
        ((_, found),) = executor.map(levels, ["a"])
        scheme, _, place = executor.client.scheduler.address.partition("://")  # type: ignore[attr-defined]
        assert scheme == "tls"
        with pytest.raises(OSError):
            asyncio.run(connect(f"tcp://{place}", timeout=5))  # of another process, without this run's certificate
    assert set(found.values()) == {logging.CRITICAL}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["tornado.application", "asyncio"])
def test_only_what_dask_causes_is_not_reported(name: str, caplog: pytest.LogCaptureFixture) -> None:
    from distributed.utils import parse_ports

    silence_dask()
    logger = logging.getLogger(name)
    logger.addHandler(caplog.handler)
    try:
        for fail in (lambda: parse_ports("x:y"), lambda: _raise(ValueError("of a user's own callback"))):
            try:
                fail()
            except ValueError:
                logger.exception("Exception in callback")
        logger.error("Task was destroyed but it is pending! coro=<f() running at %s>", parse_ports.__code__.co_filename)
    finally:
        logger.removeHandler(caplog.handler)
    assert {record.exc_info[1].args[0] for record in caplog.records} == {"of a user's own callback"}  # type: ignore


def _raise(error: Exception) -> NoReturn:
    raise error


# Streams


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full of Linux")
@pytest.mark.parametrize("arguments", [["backbones"], ["models", "--json"]])
def test_a_full_standard_output_is_one_line(tmp_path: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        process = start(tmp_path, *arguments, stdout=full)
        _, errors = process.communicate(timeout=600)
    reason = os.strerror(28)
    assert (process.returncode, errors) == (1, f"frameloom: standard output cannot be written to: {reason}\n")


def test_a_reader_that_goes_is_no_fault(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = start(tmp_path, "backbones", "--json", stdout=write)
    os.close(write)
    _, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (1, "")


@pytest.mark.parametrize("closed", ["2", pytest.param("1 2", marks=pytest.mark.slow)])
def test_closed_streams_are_no_reason_to_stop(small: Path, closed: str) -> None:
    write_config(small, collection={"captions": None})
    before = f"import os\nfor one in {[int(each) for each in closed.split()]}: os.close(one)"
    code = f"import subprocess, sys\n{before}\nsys.exit(subprocess.run(sys.argv[1:], close_fds=False).returncode)"
    command = [sys.executable, "-c", code, sys.executable, "-m", "frameloom", "extract"]
    done = subprocess.run(command, check=False, cwd=small, capture_output=True, text=True, timeout=600)
    assert list((small / ".frameloom").glob("*/*.parquet"))
    if closed == "2":
        assert done.returncode == 0
        assert "1 discovered = 1 indexed" in done.stdout
    else:
        assert done.returncode == 1  # the answer reached nobody


def test_a_log_that_is_full_is_no_reason_to_stop() -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    Console(stream=Full()).say("a line")
