"""Working ahead: a source in a thread, bounded, and ended at once when its reader is done with it."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

import pytest
from frameloom.extract.decode.prefetch import reading_ahead


def counting(made: list[int], count: int = 100) -> Generator[int, None, None]:
    for number in range(count):
        made.append(number)
        yield number


def no_interrupt() -> None:
    raise AssertionError("nothing was waiting")


def test_items_arrive_in_order_and_few_are_made_ahead() -> None:
    made: list[int] = []
    with reading_ahead(counting(made), max_bytes=10, num_bytes=lambda _: 1, interrupt=no_interrupt) as items:
        for position, item in enumerate(items):
            assert item == position
            assert len(made) <= position + 12
    assert len(made) == 100


def test_one_item_may_be_larger_than_the_limit() -> None:
    with reading_ahead(counting([], 3), max_bytes=1, num_bytes=lambda _: 50, interrupt=no_interrupt) as items:
        assert list(items) == [0, 1, 2]


def test_what_the_source_raises_comes_after_its_items() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with reading_ahead(failing(), max_bytes=10, num_bytes=lambda _: 1, interrupt=no_interrupt) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="broken"):
            next(items)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_source_that_waits_is_interrupted_when_its_reader_fails(error: BaseException) -> None:
    woken = threading.Event()
    closed: list[str] = []

    def waiting() -> Iterator[int]:
        try:
            yield 1
            woken.wait()
            yield 2
        finally:
            closed.append(threading.current_thread().name)

    def fail() -> None:
        with reading_ahead(waiting(), max_bytes=10, num_bytes=lambda _: 1, interrupt=woken.set) as items:
            next(items)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert closed == ["frameloom-reading-ahead"]
    assert "frameloom-reading-ahead" not in {thread.name for thread in threading.enumerate()}


def test_a_source_that_is_far_ahead_stops_when_its_reader_leaves() -> None:
    made: list[int] = []
    with reading_ahead(counting(made, 10**6), max_bytes=10, num_bytes=lambda _: 1, interrupt=lambda: None) as items:
        assert next(items) == 0
    assert len(made) < 100


def test_no_room_for_a_thread_is_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_room)
    reading = reading_ahead(counting([]), max_bytes=10, num_bytes=lambda _: 1, interrupt=no_interrupt)
    with pytest.raises(MemoryError, match="can't start new thread"), reading:
        pass
