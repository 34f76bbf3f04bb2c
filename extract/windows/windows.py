"""From frames as they come to the windows that a network looks at."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..types import DecodedFrames
from .sampling import Windows


@dataclass(frozen=True, slots=True)
class Window:
    """One row's pictures, N of (H, W, 3) uint8 of one size, and the seconds ``[start, end)`` that they were on display.

    Windows that overlap share their pictures. Where each of P frames has a row, times are (P, 2); those of frames that
    fill a gap, and are no rows, are empty.
    """

    pictures: tuple[NDArray[np.uint8], ...]
    times: tuple[float, float] | NDArray[np.float64]

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """(H, W, 3)."""
        return self.pictures[0].shape

    @property
    def num_bytes(self) -> int:
        return sum(picture.nbytes for picture in self.pictures)


def stacked(windows: Sequence[Window]) -> NDArray[np.uint8]:
    """Windows of one size as one array (B, N, H, W, 3)."""
    frames = np.empty((len(windows), len(windows[0].pictures), *windows[0].picture_shape), np.uint8)
    for row, window in zip(frames, windows, strict=True):
        np.stack(window.pictures, out=row)
    return frames


@dataclass(frozen=True, slots=True)
class _Cell:
    """One grid cell that has a picture."""

    index: int
    picture: NDArray[np.uint8]
    times: tuple[float, float]


class WindowCutter:
    """Cuts one file's frames into windows while they come. Holds at most one window of pictures.

    A window that lacks a picture in its middle, because it was damaged, or whose pictures differ in size, is left out:
    its row would describe something that was not on display.
    """

    def __init__(self, plan: Windows) -> None:
        self._plan = plan
        self._held: deque[_Cell] = deque()
        self._base: int | None = None
        self._last = _Cell(-1, np.empty(0, np.uint8), (0.0, 0.0))
        self._next = 0
        self._num_given = 0

    def push(self, item: DecodedFrames) -> Iterator[Window]:
        """Take the next frames, in order of time; give every window that they complete."""
        for position, index in enumerate(item.cell_indices()):
            is_first = self._base is None
            if self._base is None:
                self._base = index - self._plan.context_frames
            cell = int(index) - self._base
            start, end = item.times[position]
            picture = item.frames[position]
            if self._plan.context_frames:
                if is_first:
                    self._last = _Cell(-1, picture, (float(start), float(start)))
                yield from self._filled(cell)
                self._last = _Cell(cell, picture, (float(start), float(end)))
            if cell >= self._first:  # between the windows lies what no row is made of
                if self._plan.stride_frames > self._plan.num_frames:
                    picture = picture.copy()  # apart from its chunk, most of which is not kept
                self._held.append(_Cell(cell, picture, (float(start), float(end))))
            yield from self._completed(cell)

    def _filled(self, until: int) -> Iterator[Window]:
        """Repeat the last frame in the cells between it and another."""
        end = self._last.times[1]
        for index in range(self._last.index + 1, until):
            self._held.append(replace(self._last, index=index, times=(end, end)))
            yield from self._completed(index)

    def finish(self) -> Iterator[Window]:
        """Take the end of the content; give the last window, if the plan makes one of what is left."""
        if self._plan.context_frames and self._base is not None:
            num_rows = self._last.index + 1 - self._plan.context_frames
            num_windows = -(-num_rows // self._plan.stride_frames)
            yield from self._filled(num_windows * self._plan.stride_frames + 2 * self._plan.context_frames)
        cells = [cell for cell in self._held if cell.index >= self._first]
        self._held.clear()
        is_unwanted = self._plan.end == "drop" and self._num_given > 0
        is_whole = [cell.index for cell in cells] == list(range(self._first, self._first + len(cells)))
        if cells and is_whole and not is_unwanted and _one_size(cells):
            yield self._window(cells)

    @property
    def _first(self) -> int:
        """The first cell of the next window."""
        return self._next * self._plan.stride_frames

    def _completed(self, newest: int) -> Iterator[Window]:
        while newest >= self._first + self._plan.num_frames - 1:
            last = self._first + self._plan.num_frames
            cells = [cell for cell in self._held if self._first <= cell.index < last]
            if len(cells) == self._plan.num_frames and _one_size(cells):
                yield self._window(cells)
            self._next += 1
            while self._held and self._held[0].index < self._first:
                self._held.popleft()

    def _window(self, cells: list[_Cell]) -> Window:
        self._num_given += 1
        if context := self._plan.context_frames:
            times = np.array([cell.times for cell in cells[context : context + self._plan.stride_frames]])
            return Window(tuple(cell.picture for cell in cells), times)
        pictures = [cell.picture for cell in cells]
        filler = np.zeros_like(pictures[0]) if self._plan.end == "zeros" else pictures[-1]
        pictures += [filler] * (self._plan.num_frames - len(pictures))
        return Window(tuple(pictures), (cells[0].times[0], cells[-1].times[1]))


def _one_size(cells: list[_Cell]) -> bool:
    return all(cell.picture.shape == cells[0].picture.shape for cell in cells)
