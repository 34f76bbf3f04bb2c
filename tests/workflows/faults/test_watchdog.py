"""Workers that hang, die or go, and schedulers that do not answer: the run ends, and says who."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from frameloom.workflows.sync import executor as _executor
from frameloom.workflows.sync.executor import DaskExecutor, SchedulerLostError, WorkerLostError, open_executor


def wait_for_ever(job: str) -> str:
    if job == "hangs":
        time.sleep(10_000)
    return job


def hold_the_lock_for_ever(job: str) -> str:
    if job == "hangs":
        ctypes.PyDLL(None).pause()  # PyDLL keeps Python's lock
    return job


def die(job: str) -> str:
    if job == "hangs":
        os.kill(os.getpid(), signal.SIGKILL)
    return job


@pytest.mark.parametrize("hang", [wait_for_ever, hold_the_lock_for_ever, die])
def test_a_worker_that_hangs_is_replaced_and_only_its_job_is_lost(hang: Any) -> None:
    with open_executor(workers=1, scheduler=None) as executor:
        assert dict(executor.map(hang, ["a"])) == {"a": "a"}  # the worker has loaded what it needs
        executor._stall_seconds = 7.0  # type: ignore[attr-defined]
        found = dict(executor.map(hang, ["hangs"], is_alone=True))
        assert isinstance(found["hangs"], WorkerLostError)
        executor._stall_seconds = 900.0  # type: ignore[attr-defined]
        assert dict(executor.map(hang, ["b", "c"], is_alone=True)) == {"b": "b", "c": "c"}


@pytest.mark.parametrize("num_losses", [0, 1, 2])
def test_a_training_that_hangs_is_tried_once_more(monkeypatch: pytest.MonkeyPatch, num_losses: int) -> None:
    from contextlib import nullcontext

    executor = object.__new__(DaskExecutor)
    lost = WorkerLostError("no sign of work for 180 s")
    outcomes: list[Any] = [*[lost] * num_losses, "a checkpoint"]
    monkeypatch.setattr(executor, "_listening", lambda _on_event: nullcontext())
    monkeypatch.setattr(executor, "_map", lambda _function, jobs, window: iter([(next(jobs), outcomes.pop(0))]))
    if num_losses < 2:
        assert executor.run(str, "a", lambda _event: None) == "a checkpoint"
    else:
        with pytest.raises(WorkerLostError, match="no sign of work"):
            executor.run(str, "a", lambda _event: None)


def test_a_thread_that_computes_gives_signs_and_one_that_waits_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    signs: list[Any] = []
    monkeypatch.setattr(_executor, "SIGN_SECONDS", 0.02)
    monkeypatch.setattr(_executor, "LEAST_SECONDS", 0.01)  # threads of other tests may be ending
    monkeypatch.setattr(_executor, "_inline_handler", signs.append)

    def compute(job: str) -> str:
        while len(signs) < 3:
            pass
        return job

    def wait(job: str) -> str:
        time.sleep(0.3)
        return job

    assert _executor._watched(compute, "a") == "a"
    signs.clear()
    assert _executor._watched(wait, "b") == "b"
    assert signs == []


@pytest.mark.parametrize("is_silent", [False, True], ids=["no worker", "no answer"])
def test_a_scheduler_without_workers_or_answer_ends_the_run(monkeypatch: pytest.MonkeyPatch, is_silent: bool) -> None:
    from distributed import Client, LocalCluster

    monkeypatch.setattr(_executor, "ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(_executor, "ASK_SECONDS", 0.5)
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        executor, ended = DaskExecutor(client, resources={}), threading.Event()
        if is_silent:
            monkeypatch.setattr(executor, "_workers", list)
            jobs = ["hangs"]
        else:
            cluster.scale(0)
            client.sync(cluster._correct_state)
            jobs = ["a"]
        _running.append(ended)
        with pytest.raises(
            SchedulerLostError, match=r"does not answer, or has no worker.*nothing committed is lost"
        ) as caught:
            list(executor.map(_wait_for_the_end, jobs))
        ended.set()
        assert caught.value.exit_code == 3


_running: list[threading.Event] = []


def _wait_for_the_end(job: str) -> str:
    _running[-1].wait()  # in a thread of this process
    return job


def test_workers_that_come_back_in_time_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    monkeypatch.setattr(_executor, "ASK_SECONDS", 0.2)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        executor = DaskExecutor(client, resources={})
        looks: list[float] = []
        original = executor._workers

        def workers() -> list[str]:
            looks.append(time.monotonic())
            if len(looks) == 2:
                cluster.scale(1)
            return original()

        monkeypatch.setattr(executor, "_workers", workers)
        assert dict(executor.map(str.upper, ["a"])) == {"a": "A"}
        assert len(looks) >= 2
