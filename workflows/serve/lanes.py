"""Threads that do work in turn: each has a bounded queue, and says that it is busy rather than letting it grow."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .security import busy

Found = TypeVar("Found")


@dataclass(slots=True)
class Job:
    """What is asked, and where its answer goes."""

    asked: Any
    answer: Future[Any] = field(default_factory=Future)

    def settle(self, work: Callable[[], Any]) -> None:
        """Do the work, and give its result or its error to whoever waits."""
        try:
            self.answer.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self.answer.set_exception(error)


class Lane:
    """One thread. Jobs are callables, done one after another, or what `answer` takes, several at a time.

    Args:
        name: of the thread.
        capacity: jobs that may wait. One more is refused with 503.
        answer: settles jobs that are no callables, all that wait together.
        most: jobs taken at a time.
    """

    def __init__(
        self, name: str, *, capacity: int, answer: Callable[[Sequence[Job]], None] | None = None, most: int = 64
    ) -> None:
        self._queue: queue.Queue[Job | None] = queue.Queue(capacity)
        self._answer, self._most = answer, most
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[], Found]) -> Found:
        """The result of a callable, done in this lane's thread."""
        found: Found = await self.ask(work)
        return found

    async def ask(self, asked: Any) -> Any:
        """The answer to a job. Raises Refused (503) where too many wait. One that is given up is not done any more."""
        return await asyncio.wrap_future(self.begin(asked))

    def begin(self, asked: Any) -> Future[Any]:
        """A job's answer as it will come. Raises Refused (503) where too many wait."""
        job = Job(asked)
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            raise busy() from None
        return job.answer

    def close(self) -> None:
        """End the thread after what it is doing; what waits is refused."""
        with suppress(queue.Empty):
            while (job := self._queue.get_nowait()) is not None:
                if job.answer.set_running_or_notify_cancel():
                    job.settle(_refuse)
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            jobs: list[Job] = [first]
            is_last = False
            with suppress(queue.Empty):
                while len(jobs) < self._most and not is_last:
                    job = self._queue.get_nowait()
                    is_last = job is None
                    jobs += [] if job is None else [job]
            asked = []
            for job in jobs:
                if not job.answer.set_running_or_notify_cancel():
                    continue  # whoever asked has given up: the time goes to those who came later
                if callable(job.asked):
                    job.settle(job.asked)
                else:
                    asked.append(job)
            if asked and self._answer is not None:
                try:
                    self._answer(asked)
                except BaseException as error:  # noqa: BLE001 - raised where it is waited for; this thread goes on
                    for job in asked:
                        if not job.answer.done():
                            job.answer.set_exception(error)
            if is_last:
                return


def _refuse() -> None:
    raise busy()
