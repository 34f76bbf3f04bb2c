"""Who does the work: tasks go to the workers that have what they need."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from distributed import Client, Scheduler, SpecCluster, Worker, get_worker
from frameloom import ConfigError
from frameloom.workflows.sync.executor import DaskExecutor, num_cores, num_threads, open_executor


def where(job: int) -> tuple[int, str]:
    return job, str(get_worker().name)


@pytest.fixture
def client() -> Iterator[Any]:
    """Two workers in this process, of which one has a GPU, or says so."""
    worker = {"cls": Worker, "options": {"nthreads": 1, "dashboard": False}}
    with_gpu = {"cls": Worker, "options": {"nthreads": 1, "dashboard": False, "resources": {"GPU": 1}}}
    options = {"protocol": "inproc", "dashboard": False, "dashboard_address": "127.0.0.1:0"}  # it always has a server
    scheduler = {"cls": Scheduler, "options": options}
    with (
        SpecCluster({"plain": worker, "gpu": with_gpu}, scheduler=scheduler) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_tasks_go_to_the_workers_that_have_what_they_take(client: Any) -> None:
    executor = DaskExecutor(client, resources={"GPU": 1})
    assert executor.num_workers == 1
    found = [outcome for _, outcome in executor.map(where, range(6))]
    assert sorted(job for job, _ in found) == list(range(6))
    assert {worker for _, worker in found} == {"gpu"}


def test_a_resource_that_no_worker_has_is_refused_and_not_waited_for(client: Any) -> None:
    with pytest.raises(ConfigError, match="none of the 2 workers has TPU=1"):
        DaskExecutor(client, resources={"TPU": 1})


def test_workers_of_this_machine_are_given_what_tasks_take() -> None:
    with open_executor(workers=1, scheduler=None, resources={"GPU": 1}) as executor:
        assert [outcome[0] for _, outcome in executor.map(where, [7])] == [7]


def test_a_daemonic_process_starts_no_workers_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"run\.workers to 0"), open_executor(workers=1, scheduler=None):
        pass


def test_work_in_this_process_leaves_it_with_its_threads() -> None:
    before = torch.get_num_threads()
    with open_executor(workers=0, scheduler=None) as executor:
        torch.set_num_threads(before + 1)
        assert [found for _, found in executor.map(one_thread, [0])] == [1]
        assert torch.get_num_threads() == before + 1
        assert executor.run(one_thread, 0, lambda _: None) == 1
        assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


@pytest.mark.parametrize(("said", "number"), [("3", 3), ("3,2", 3), ("0", None), ("many", None), (None, None)])
def test_training_takes_the_threads_that_the_environment_says(
    said: str | None, number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert num_threads() == (num_cores() if number is None else number)


def one_thread(_: int) -> int:
    torch.set_num_threads(1)
    return torch.get_num_threads()
