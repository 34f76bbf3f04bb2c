"""A sound track of any length in bounded memory: long ones wait in a temporary file that has no name."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import IO

import numpy as np
from numpy.typing import NDArray

from .._vocabulary import OutOfSpaceError
from .buffers import lasting_array

MAX_MEMORY_BYTES = 4 * 1024**2
_ITEM_BYTES = 4


class SampleSpool:
    """(N,) float32 samples that are appended and then read by slices. The file goes with the object."""

    def __init__(self, *, max_memory_bytes: int = MAX_MEMORY_BYTES) -> None:
        self._memory = lasting_array((max_memory_bytes // _ITEM_BYTES,), np.float32)
        self._file: IO[bytes] | None = None
        self._num_samples = 0

    def append(self, samples: NDArray[np.float32]) -> None:
        """Add (M,) samples to the end.

        Raises:
            OutOfSpaceError: the folder for temporary files is full.
        """
        end = self._num_samples + len(samples)
        if self._file is None and end <= len(self._memory):
            self._memory[self._num_samples : end] = samples
        else:
            self._write(samples)
        self._num_samples = end

    def _write(self, samples: NDArray[np.float32]) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
                self._file.write(self._memory[: self._num_samples].data)
                self._memory = np.zeros(0, np.float32)
            self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(samples, np.float32).data)
            self._file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            folder = tempfile.gettempdir()
            raise OutOfSpaceError(
                f"no space left for temporary files in {folder}; free some, or name another folder in TMPDIR"
            ) from error

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, where: slice) -> NDArray[np.float32]:
        start, stop, step = where.indices(self._num_samples)
        if step != 1:
            raise ValueError(f"samples are read by plain slices, not with a step of {step}")
        if self._file is None:
            return self._memory[start : max(start, stop)].copy()
        self._file.seek(start * _ITEM_BYTES)
        return np.frombuffer(self._file.read(max(0, stop - start) * _ITEM_BYTES), np.float32)

    def close(self) -> None:
        """Free the memory and the file."""
        self._memory = np.zeros(0, np.float32)
        if self._file is not None:
            self._file.close()
