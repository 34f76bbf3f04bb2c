"""Runs jobs on Dask workers, on this machine or behind a scheduler's address, or in this process alone.

Progress lives in the store and the ledger, never in Dask: tasks are idempotent, a batch of videos each, kept in a small
window of tasks under way, so that a lost worker costs its batch and a lost scheduler costs the batches under way.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from ..._vocabulary import ConfigError, FrameloomError

Job = TypeVar("Job")
Result = TypeVar("Result")

TASKS_PER_WORKER = 2
_TOPIC = "frameloom"

# Freed memory is kept by the worker: with glibc's defaults every large tensor is given back and page-faulted in again,
# which cost up to a third of the time of a backbone on CPU.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_TOP_PAD_": str(64 << 20),
    # Small pieces that a thread keeps for itself split what lies between them: at random a worker grew by a quarter.
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    # Threads that wait for one another sleep: spinning made a training three times slower next to one busy process.
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

_DASK_SETTINGS = {
    "distributed.scheduler.allowed-failures": 1,
    "distributed.scheduler.no-workers-timeout": "300s",
    "distributed.scheduler.worker-ttl": "120s",
    "distributed.comm.retry.count": 5,
    # Sampling profilers that nobody looks at took a tenth of a core in each process.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.daemon": False,
    "distributed.worker.multiprocessing-method": "spawn",
    "distributed.logging": {"distributed": "critical", "bokeh": "critical", "tornado": "critical"},
    "distributed.admin.log-format": "%(name)s %(message)s",
}


class WorkerLostError(FrameloomError):
    """The process that worked on a batch died. The batch was not committed."""


class Executor(Protocol):
    """Runs functions on jobs."""

    num_workers: int

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | Exception]]:
        """Every job with its result, or with WorkerLostError, in the order in which they end."""
        ...

    def run(self, function: Callable[[Job], Result], job: Job, on_event: Callable[[Any], None]) -> Result:
        """One long job. What it passes to `emit` reaches `on_event`."""
        ...


class LocalExecutor:
    """Works in this process, one job after the other."""

    num_workers = 1

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | Exception]]:
        for job in jobs:
            with _same_threads():
                result = function(job)
            yield job, result

    def run(self, function: Callable[[Job], Result], job: Job, on_event: Callable[[Any], None]) -> Result:
        global _inline_handler  # noqa: PLW0603 - one run at a time in one process
        _inline_handler = on_event
        try:
            with _same_threads():
                return function(job)
        finally:
            _inline_handler = None


@contextmanager
def _same_threads() -> Iterator[None]:
    """Leave torch with the number of threads that the caller gave it, whatever a task sets for itself."""
    import torch

    number = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != number:
            torch.set_num_threads(number)


class DaskExecutor:
    """Works on the workers of a Dask client. Raises ConfigError where none of them has the resources of a task."""

    def __init__(self, client: Any, *, resources: Mapping[str, float]) -> None:
        self.client = client
        workers = list(client.scheduler_info(n_workers=-1)["workers"].values())
        able = [w for w in workers if all(w["resources"].get(name, 0) >= much for name, much in resources.items())]
        if workers and not able:  # tasks would wait for ever
            wanted = " ".join(f"{name}={much:g}" for name, much in resources.items())
            raise ConfigError(
                f"run.resources: none of the {len(workers)} workers has {wanted}: start them with"
                f" `dask worker ADDRESS --resources {wanted}`, or leave run.resources out"
            )
        self.num_workers = max(1, len(able))
        self._resources = dict(resources) or None

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | Exception]]:
        """See Executor. A window of jobs is under way at a time, so that results never pile up."""
        from distributed import as_completed

        waiting = iter(jobs)
        under_way: dict[Any, Job] = {}
        completed = as_completed(loop=self.client.loop)

        def submit_next() -> None:
            for job in waiting:
                future = self.client.submit(function, job, pure=False, resources=self._resources)
                under_way[future] = job
                completed.add(future)
                return

        for _ in range(self.num_workers * TASKS_PER_WORKER):
            submit_next()
        while under_way:
            future = next(completed)
            job = under_way.pop(future)
            outcome = self._outcome(future)
            future.release()
            submit_next()
            yield job, outcome

    def run(self, function: Callable[[Job], Result], job: Job, on_event: Callable[[Any], None]) -> Result:
        self.client.subscribe_topic(_TOPIC, lambda event: on_event(event[1]))
        try:
            future = self.client.submit(function, job, pure=False, resources=self._resources)
            outcome: Result | Exception = self._outcome(future)
            future.release()
        finally:
            self.client.unsubscribe_topic(_TOPIC)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _outcome(self, future: Any) -> Any:
        """The result, or WorkerLostError. Any other exception is a fault of ours or of the machine: it is raised."""
        from concurrent.futures import CancelledError

        from distributed.scheduler import KilledWorker, NoWorkerError

        try:
            return future.result()
        except KilledWorker as error:
            return WorkerLostError(f"the worker process died: {error}")
        except (CancelledError, NoWorkerError) as error:
            raise FrameloomError(
                f"the Dask scheduler or all of its workers were lost ({type(error).__name__}):"
                " nothing committed is lost; run the command again to go on"
            ) from None


_inline_handler: Callable[[Any], None] | None = None


def emit(event: Any) -> None:
    """Report progress from inside a job to whoever called `Executor.run`; nobody listens to a job of `Executor.map`."""
    if _inline_handler is not None:
        _inline_handler(event)
    elif "distributed" in sys.modules:
        from distributed import get_worker

        try:
            worker = get_worker()
        except ValueError:  # a job of `Executor.map` in this process
            return
        worker.log_event(_TOPIC, event)


def in_batches(items: Iterable[Job], size: int) -> Iterator[tuple[Job, ...]]:
    iterator = iter(items)
    while batch := tuple(islice(iterator, size)):
        yield batch


def num_cores() -> int:
    """Processors that this process may use, also where a container's quota says fewer than it sees."""
    from dask.system import cpu_count

    return int(cpu_count())


@contextmanager
def open_executor(
    *, workers: int | None, scheduler: str | None, resources: Mapping[str, float] = MappingProxyType({})
) -> Iterator[Executor]:
    """An executor for the length of a block. Raises ConfigError when the scheduler cannot be reached."""
    if scheduler is None and workers == 0:
        yield LocalExecutor()
    elif scheduler is not None:
        with _client(scheduler) as client:
            yield DaskExecutor(client, resources=resources)
    else:
        with _local_cluster(workers or num_cores(), resources) as cluster, _client(cluster) as client:
            yield DaskExecutor(client, resources=resources)


@contextmanager
def _client(address: Any) -> Iterator[Any]:
    from dask import config
    from distributed import Client

    with config.set(_DASK_SETTINGS):
        try:
            client = Client(address, timeout="30s", set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {address} ({error}): start one with `dask scheduler`, or leave"
                " run.scheduler out"
            ) from None
        with client:
            yield client


@contextmanager
def _local_cluster(num_workers: int, resources: Mapping[str, float]) -> Iterator[Any]:
    from dask import config
    from distributed import LocalCluster

    settings = {**_DASK_SETTINGS, "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}
    with config.set(settings), _hidden_main():
        # Workers ignore Ctrl-C, which a terminal sends to all of a group: the process that leads ends them.
        in_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
        try:
            cluster = LocalCluster(
                n_workers=num_workers,
                resources=dict(resources),
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        finally:
            if in_main:
                signal.signal(signal.SIGINT, before)
        with cluster:
            yield cluster


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep worker processes from running the caller's script again.

    A spawned process imports the parent's main script first, so a script that calls `index.sync()` outside of
    `if __name__ == "__main__":` would start itself over and over. Tasks live in modules of ours: none needs it.
    """
    main = sys.modules["__main__"]
    names = [name for name in ("__file__", "__spec__") if name in main.__dict__]
    hidden: dict[str, Any] = {name: main.__dict__.pop(name) for name in names}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(hidden)
