"""Pickles that hold data and nothing else: arrays, tensors, plain containers, texts and numbers.

A pickle is a program. It is run by `pickle_child.py`, in a process of its own under limits of memory and time, where no
name stands for anything but a builder that keeps what it is given. What comes back is read here by a reader that knows
a single name, that of an array.
"""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ..fingerprints import open_regular_file
from .npy import explained

_CHILD = Path(__file__).with_name("pickle_child.py")
# What loading may take: small values grow the most, such as texts of two letters, sixteenfold.
_MEMORY_BYTES, _MEMORY_FACTOR = 256_000_000, 20
_SECONDS, _BYTES_A_SECOND = 60, 2_000_000
_MAX_DIMENSIONS = 8


def read_pickle(path: Path) -> Any:
    """What a pickle holds, as dicts, lists, tuples, sets, texts, bytes, numbers, None and NumPy arrays of numbers.

    Tensors of torch that were pickled become arrays. Nothing that the file names is imported or called.

    Raises InputError, which names the file, when it is damaged or holds anything else.
    """
    with explained(path), open_regular_file(path) as file:
        size = path.stat().st_size
        memory, seconds = _MEMORY_BYTES + _MEMORY_FACTOR * size, _SECONDS + size // _BYTES_A_SECOND
        command = [sys.executable, "-I", "-S", str(_CHILD), str(memory), str(seconds)]
        with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}) as child:
            watchdog = threading.Timer(2.0 * seconds, child.kill)
            watchdog.start()
            try:
                return _received(child, f"it takes more than {memory:,} bytes or {seconds} seconds")
            finally:
                child.kill()
                watchdog.cancel()


def _received(child: subprocess.Popen[bytes], too_much: str) -> Any:
    assert child.stdout is not None
    verdict = child.stdout.read(1)
    try:
        if verdict == b"+":
            return _Reader(child.stdout).load()
        reason = child.stdout.read(500).decode(errors="replace") if verdict else too_much
    except (pickle.UnpicklingError, ValueError, TypeError, EOFError, MemoryError, OverflowError) as error:
        reason = str(error) or type(error).__name__
    if verdict == b"!":
        raise ValueError(
            f"{reason}: only arrays, tensors, plain containers, texts and numbers are read, and nothing in a pickle is"
            " ever run; write them again as .npy files if you trust it"
        )
    raise ValueError(f"not a pickle, or a damaged one: {reason}")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != ("__main__", "Array"):
            raise ValueError(f"it names {module}.{name}")
        return _array


def _array(data: bytes, code: str, shape: Any, layout: str, offset: Any = 0, strides: Any = ()) -> Any:
    """An array of a pickle; a number where it was a number of NumPy."""
    for sizes in (shape, strides):
        if (
            not isinstance(sizes, tuple)
            or len(sizes) > _MAX_DIMENSIONS
            or not all(type(one) is int and 0 <= one < 1 << 62 for one in sizes)
        ):
            raise ValueError(f"{sizes!s:.60} is no shape")
    dtype = np.dtype(code)
    if layout != "strided" and math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} has {len(data):,} bytes")
    flat = np.frombuffer(data, dtype) if data else np.zeros(0, dtype)
    if layout == "strided":
        # Of the storage of a tensor, a copy of the part that is the tensor.
        if type(offset) is not int or offset < 0 or len(shape) != len(strides):
            raise ValueError("a tensor is described in a form that is not read")
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        last = offset + sum((count - 1) * step for count, step in zip(shape, strides, strict=True))
        if math.prod(shape) > len(flat) or last >= len(flat):
            raise ValueError("a tensor reaches beyond its numbers")
        steps = [step * dtype.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps).copy()
    array = flat.reshape(shape[::-1]).T if layout == "fortran" else flat.reshape(shape)
    array = array.astype(dtype.newbyteorder("="), copy=False)
    return array.item() if layout == "scalar" else array
