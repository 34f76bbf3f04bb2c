"""Output for users while work is done: sentences and progress bars on standard error, never on standard output.

On a terminal a bar shows counts, rate and time left. Elsewhere (a log, a pipe) a line is printed every few seconds.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

LINE_EVERY_SECONDS = 5.0

Advance = Callable[[int], None]

# Of terminals, but for line ends and tabs: controls, and marks that turn the direction of text or hide it.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text of others, such as captions and names of files, with what a terminal would obey spelled out."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Console:
    """Sentences and bars for one run. A quiet one prints nothing."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.quiet = quiet or self.stream is None  # standard error may be closed

    def say(self, text: str) -> None:
        if not self.quiet:
            with suppress(OSError):  # nobody stops for a log on a full disk
                print(printable(text), file=self.stream, flush=True)

    @contextmanager
    def progress(self, what: str, total: int, unit: str) -> Iterator[Advance]:
        """A bar for `total` units of work; the block gets a function that advances it."""
        if self.quiet or total == 0:
            yield lambda _count: None
            return
        if self.stream.isatty():
            from rich import progress
            from rich.console import Console as RichConsole

            columns: list[Any] = [progress.TextColumn("{task.description}"), progress.BarColumn()]
            columns += [progress.MofNCompleteColumn(), progress.TextColumn(unit), progress.TimeElapsedColumn()]
            with progress.Progress(
                *columns, progress.TimeRemainingColumn(), console=RichConsole(file=self.stream)
            ) as bar:
                task = bar.add_task(what, total=total)
                yield lambda count: bar.advance(task, count)
            return
        begun = shown = time.monotonic()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, shown
            done += count
            now = time.monotonic()
            if now - shown >= LINE_EVERY_SECONDS and done:
                shown = now
                left = (now - begun) / done * (total - done)
                self.say(f"{what}: {done} of {total} {unit}, about {readable_seconds(left)} left")

        yield advance
        if done:
            self.say(f"{what}: {done} of {total} {unit} in {readable_seconds(time.monotonic() - begun)}")

    @contextmanager
    def training(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Lines for a training; the block gets a function that takes its events."""
        shown = time.monotonic()

        def on_event(event: dict[str, Any]) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown >= LINE_EVERY_SECONDS:
                shown = now
                self.say(
                    f"train: epoch {event['epoch']} of {event['epochs']}, step {event['step']} of {event['steps']},"
                    f" loss {event['loss']:.3f}, about {readable_seconds(event['seconds_left'])} left"
                )

        yield on_event


def readable_seconds(seconds: float) -> str:
    """A duration as text: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def readable_bytes(count: float) -> str:
    """A size as text, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def count_of(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
