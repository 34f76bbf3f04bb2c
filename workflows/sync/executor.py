"""Runs jobs on Dask workers, on this machine or behind a scheduler's address, or in this process alone.

Progress lives in the store and the ledger, never in Dask: tasks are idempotent, a batch of videos each, kept in a small
window of tasks under way, so that a lost worker costs its batch and a lost scheduler costs the batches under way.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from ..._vocabulary import ConfigError, ExitCode, FrameloomError
from .cluster import local_cluster, open_client

Job = TypeVar("Job")
Result = TypeVar("Result")

TASKS_PER_WORKER = 2
TRIES_OF_A_RUN = 2
STALL_SECONDS = 180.0
ANSWER_SECONDS = 120.0
ASK_SECONDS = 10.0
LOOK_SECONDS = 1.0
RESTART_SECONDS = 60.0
SIGN_SECONDS = 5.0
LEAST_SECONDS = 1e-3
"""Of the processor, in `SIGN_SECONDS`: less does not count as work."""
LEAST_CHILD_SECONDS = 0.015  # which the system counts in hundredths
_LOST = (
    "the Dask scheduler or all of its workers were lost ({}): nothing committed is lost; run the command again to go on"
)
_TOPIC = "frameloom"
_SIGN = "a sign of work"


class WorkerLostError(FrameloomError):
    """The process that worked on a batch died. The batch was not committed."""


class SchedulerLostError(FrameloomError):
    """The Dask scheduler, or all of its workers, are gone. What was committed is intact."""

    exit_code = ExitCode.FAILURES


class TaskFailedError(FrameloomError):
    """A task raised what is neither a user's mistake nor a fault of the machine. Its batch was not committed."""


class Executor(Protocol):
    """Runs functions on jobs."""

    num_workers: int

    def map(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], *, is_alone: bool = False
    ) -> Iterator[tuple[Job, Result | Exception]]:
        """Every job with its result, or with WorkerLostError or TaskFailedError, in the order in which they end.

        With `is_alone` a worker has one job at a time, so that no other is lost with it.
        """
        ...

    def run(self, function: Callable[[Job], Result], job: Job, on_event: Callable[[Any], None]) -> Result:
        """One long job. What it passes to `emit` reaches `on_event`."""
        ...


class LocalExecutor:
    """Works in this process, one job after the other."""

    num_workers = 1

    def map(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], *, is_alone: bool = False
    ) -> Iterator[tuple[Job, Result | Exception]]:
        del is_alone  # as every job here
        for job in jobs:
            outcome: Result | Exception
            try:
                with _same_threads():
                    outcome = function(job)
            except Exception as error:  # noqa: BLE001 - data, as for a worker; the caller decides
                outcome = _failure(error)
            yield job, outcome

    def run(self, function: Callable[[Job], Result], job: Job, on_event: Callable[[Any], None]) -> Result:
        global _inline_handler  # noqa: PLW0603 - one run at a time in one process
        _inline_handler = on_event
        try:
            with _same_threads():
                return function(job)
        finally:
            _inline_handler = None


def _failure(error: Exception) -> TaskFailedError:
    """What a task raised, as an outcome of its job. What the user or the machine must mend is raised again."""
    if isinstance(error, FrameloomError | OSError):
        raise error
    failure = TaskFailedError(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason was given'}")
    failure.__cause__ = error
    return failure


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

    def __init__(self, client: Any, *, resources: Mapping[str, float], stall_seconds: float = STALL_SECONDS) -> None:
        self.client = client
        self._stall_seconds = stall_seconds
        self._last_sign = 0.0
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

    def map(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], *, is_alone: bool = False
    ) -> Iterator[tuple[Job, Result | Exception]]:
        """See Executor. A window of jobs is under way at a time, so that results never pile up."""
        with self._listening(lambda _event: None):
            yield from self._map(function, iter(jobs), window=self.num_workers * (1 if is_alone else TASKS_PER_WORKER))

    @contextmanager
    def _listening(self, on_event: Callable[[Any], None]) -> Iterator[None]:
        """Take what tasks emit: signs of work, and events."""
        from distributed.comm import CommClosedError

        def on_message(message: Any) -> None:
            self._note_sign()
            if message[1] != _SIGN:
                on_event(message[1])

        try:
            self.client.subscribe_topic(_TOPIC, on_message)
            yield
        except CommClosedError as error:
            raise SchedulerLostError(_LOST.format(type(error).__name__)) from None
        finally:
            with suppress(CommClosedError):
                self.client.unsubscribe_topic(_TOPIC)

    def _note_sign(self) -> None:
        self._last_sign = time.monotonic()

    def _map(
        self, function: Callable[[Job], Result], waiting: Iterator[Job], *, window: int
    ) -> Iterator[tuple[Job, Result | Exception]]:
        from distributed import as_completed

        under_way: dict[Any, Job] = {}
        completed = as_completed(loop=self.client.loop)

        def submit_next() -> None:
            for job in waiting:
                future = self.client.submit(_watched, function, job, pure=False, resources=self._resources)
                under_way[future] = job
                completed.add(future)
                return

        for _ in range(window):
            submit_next()
        while under_way:
            if not self._wait(completed):
                lost = list(under_way)
                self._replace_workers(lost)
                error = WorkerLostError(f"no sign of work for {self._stall_seconds:g} s")
                jobs = [under_way.pop(future) for future in lost]
                completed = as_completed(loop=self.client.loop)
                for _ in jobs:
                    submit_next()
                yield from ((job, error) for job in jobs)
                continue
            future = next(completed)
            self._note_sign()
            job = under_way.pop(future)
            outcome = self._outcome(future)
            future.release()
            submit_next()
            yield job, outcome

    def _wait(self, completed: Any) -> bool:
        """Wait for the next future. False when no task gives a sign of work for longer than any of them may be silent.

        Raises SchedulerLostError where the scheduler does not answer, or has no worker, for `ANSWER_SECONDS`.
        """
        self._note_sign()
        answered = asked = time.monotonic()
        while True:
            with completed.thread_condition:
                if completed.thread_condition.wait_for(completed.has_ready, timeout=LOOK_SECONDS):
                    return True
            now = time.monotonic()
            if now - self._last_sign > self._stall_seconds:
                return False
            if now - asked >= ASK_SECONDS:
                asked = now
                if self._workers():
                    answered = time.monotonic()
            if time.monotonic() - answered > ANSWER_SECONDS:
                raise SchedulerLostError(
                    f"the Dask scheduler at {self.client.scheduler.address} does not answer, or has no worker, since"
                    f" {ANSWER_SECONDS:g} s: nothing committed is lost; see to it, and run the command again to go on"
                )

    def _workers(self) -> list[str]:
        """The addresses of the workers, as the scheduler says within `ASK_SECONDS`; none where it does not answer."""
        try:
            found = self.client.sync(self.client.scheduler.identity, n_workers=-1, callback_timeout=ASK_SECONDS)
            return list(found["workers"])
        except (TimeoutError, OSError):
            return []

    def _replace_workers(self, futures: Sequence[Any]) -> None:
        """End the workers that these tasks are with; their nannies start others. Raises SchedulerLostError."""
        keys = {future.key for future in futures}
        try:
            tasks = self.client.sync(self.client.scheduler.processing, callback_timeout=ASK_SECONDS)
            stuck = [address for address, names in tasks.items() if keys & set(names)]
            for future in futures:
                future.cancel(force=True)
            self.client.restart_workers(stuck, timeout=RESTART_SECONDS, raise_for_error=False)
        except (TimeoutError, OSError, ValueError) as error:
            raise SchedulerLostError(
                f"workers give no sign of work for {self._stall_seconds:g} s and cannot be replaced ({error}): nothing"
                " committed is lost; end them, and run the command again to go on"
            ) from None

    def run(self, function: Callable[[Job], Result], job: Job, on_event: Callable[[Any], None]) -> Result:
        outcome: Result | Exception
        with self._listening(on_event):
            for _ in range(TRIES_OF_A_RUN):
                [(_, outcome)] = self._map(function, iter([job]), window=1)
                if not isinstance(outcome, WorkerLostError):  # which a training goes on from
                    break
        if isinstance(outcome, Exception):
            raise outcome.__cause__ or outcome
        return outcome

    def _outcome(self, future: Any) -> Any:
        """The result, or WorkerLostError or TaskFailedError. What the user or the machine must mend is raised."""
        from concurrent.futures import CancelledError

        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker, NoWorkerError

        try:
            return future.result()
        except KilledWorker as error:
            return WorkerLostError(f"the worker process died: {error}")
        except (CancelledError, NoWorkerError, CommClosedError) as error:
            raise SchedulerLostError(_LOST.format(type(error).__name__)) from None
        except Exception as error:  # noqa: BLE001 - data; the caller decides
            return _failure(error)


def _watched(function: Callable[[Job], Result], job: Job) -> Result:
    """Run a task, giving a sign for as long as anything computes for it: threads of this process, or its children.

    A task that holds Python's lock for ever, or waits for ever, gives none: the thread below has no turn, or sees none.
    """
    import contextvars

    import psutil

    ended, process = threading.Event(), psutil.Process()
    main = threading.main_thread()  # of Dask, whose loop runs there
    of_dask = None if main is threading.current_thread() else time.pthread_getcpuclockid(main.ident or 0)

    def spent() -> tuple[float, float]:
        own = time.process_time() - time.thread_time() - (time.clock_gettime(of_dask) if of_dask is not None else 0.0)
        of_children = 0.0
        for child in process.children(recursive=True):
            with suppress(psutil.Error):
                of_children += sum(child.cpu_times()[:2])
        return own, of_children

    def watch() -> None:
        before = spent()
        while not ended.wait(SIGN_SECONDS):
            now = spent()
            if now[0] - before[0] > LEAST_SECONDS or abs(now[1] - before[1]) > LEAST_CHILD_SECONDS:
                emit(_SIGN)
            before = now

    thread = threading.Thread(target=contextvars.copy_context().run, args=(watch,), daemon=True)
    thread.start()
    try:
        return function(job)
    finally:
        ended.set()
        thread.join()


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


def outcomes(
    executor: Callable[[], Executor], function: Callable[[Job], Result], jobs: list[Job]
) -> Iterator[tuple[Job, Result]]:
    """Each job with its result. One whose worker died is tried once more, alone."""
    lost: list[Job] = []
    for given, is_alone in ((jobs, False), (lost, True)):
        for job, outcome in executor().map(function, given, is_alone=is_alone) if given else ():
            if isinstance(outcome, WorkerLostError) and not is_alone:
                lost.append(job)
            elif isinstance(outcome, Exception):
                raise outcome.__cause__ or outcome
            else:
                yield job, outcome


def in_batches(items: Iterable[Job], size: int) -> Iterator[tuple[Job, ...]]:
    iterator = iter(items)
    while batch := tuple(islice(iterator, size)):
        yield batch


def num_cores() -> int:
    """Processors that this process may use, also where a container's quota says fewer than it sees."""
    from dask.system import cpu_count

    return int(cpu_count())


def num_threads() -> int:
    """Threads of one long job: as many as OMP_NUM_THREADS says, or else all cores.

    On a machine that does other work fewer are much faster: threads wait for each other after every product.
    """
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(said) if said.isdigit() and int(said) else num_cores()


@contextmanager
def open_executor(
    *,
    workers: int | None,
    scheduler: str | None,
    resources: Mapping[str, float] = MappingProxyType({}),
    stall_seconds: float = STALL_SECONDS,
) -> Iterator[Executor]:
    """An executor for the length of a block. Raises ConfigError when the scheduler cannot be reached."""
    if scheduler is None and workers == 0:
        yield LocalExecutor()
    elif scheduler is not None:
        with open_client(scheduler) as client:
            yield DaskExecutor(client, resources=resources, stall_seconds=stall_seconds)
    else:
        with local_cluster(workers or num_cores(), resources) as cluster, open_client(cluster) as client:
            yield DaskExecutor(client, resources=resources, stall_seconds=stall_seconds)
