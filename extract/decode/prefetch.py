"""Working ahead: a source runs in a thread of its own, as far before its reader as a limit of memory allows."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item")
_STOP_SECONDS = 0.1


@contextmanager
def reading_ahead(
    source: Generator[Item, None, None],
    *,
    max_bytes: int,
    num_bytes: Callable[[Item], int],
    interrupt: Callable[[], None],
) -> Iterator[Iterator[Item]]:
    """A source's items, made in a thread while the last ones are used.

    The source is closed, in its own thread, when the block ends; what it raises is raised to the reader.

    Args:
        source: a generator, which nobody else uses.
        max_bytes: it stops while this much is waiting; one item may be larger.
        num_bytes: what an item weighs.
        interrupt: makes the source end what it is waiting for; called when the block ends before the source does.

    Raises:
        MemoryError: there is no room for a thread.
    """
    queue = _Queue[Item](max_bytes=max_bytes, num_bytes=num_bytes)
    thread = threading.Thread(target=queue.fill, args=(source,), name="frameloom-reading-ahead", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise MemoryError(f"a thread cannot be started: {error}") from error
    try:
        yield queue.items()
    finally:
        queue.stop()
        while thread.is_alive():  # again and again: it may have begun to wait for something else meanwhile
            if not queue.is_finished:
                interrupt()
            thread.join(_STOP_SECONDS)


class _Queue(Generic[Item]):
    def __init__(self, *, max_bytes: int, num_bytes: Callable[[Item], int]) -> None:
        self._max_bytes, self._num_bytes = max_bytes, num_bytes
        self._changed = threading.Condition()
        self._waiting: deque[Item] = deque()
        self._waiting_bytes = 0
        self._is_stopped = False
        self.is_finished = False
        self._error: BaseException | None = None

    def fill(self, source: Generator[Item, None, None]) -> None:
        """Take the source's items until it ends or `stop` is called. Runs in the thread."""
        try:
            for item in source:
                with self._changed:
                    self._waiting.append(item)
                    self._waiting_bytes += self._num_bytes(item)
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._is_stopped or self._waiting_bytes < self._max_bytes)
                    if self._is_stopped:
                        break
        except BaseException as error:  # noqa: BLE001 - it is the reader's to handle, in the reader's thread
            self._error = error
        finally:
            source.close()
            with self._changed:
                self.is_finished = True
                self._changed.notify_all()

    def items(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self.is_finished)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._waiting_bytes -= self._num_bytes(item)
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
