"""Messages between the decoder subprocess and its parent: a length, a JSON header, the bytes of the arrays it names.

No pickle crosses the pipe: a subprocess that a hostile file has taken over can send numbers and text, and no more.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..buffers import lasting_array

_LENGTH = struct.Struct("<I")
_MAX_HEADER_BYTES = 1 << 20
_DTYPES = frozenset({"uint8", "int64", "float32", "float64"})

Arrays = dict[str, NDArray[Any]]
ReadInto = Callable[[memoryview], None]


class WireError(Exception):
    """Bytes from the pipe are not a message."""


def send(stream: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
    """Write one message and flush it. Arrays are made contiguous first."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    described = [[name, str(array.dtype), list(array.shape)] for name, array in contiguous.items()]
    text = json.dumps({**header, "arrays": described}, allow_nan=False).encode("ascii")
    stream.write(_LENGTH.pack(len(text)) + text)
    for array in contiguous.values():
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(read_into: ReadInto, *, max_array_bytes: int) -> tuple[dict[str, Any], Arrays]:
    """Read one message.

    Args:
        read_into: fills the whole of a buffer, or raises.
        max_array_bytes: the largest array that is believed.

    Raises:
        WireError: the message is malformed or larger than allowed.
    """
    (length,) = _LENGTH.unpack(_read_bytes(read_into, _LENGTH.size))
    if length > _MAX_HEADER_BYTES:
        raise WireError(f"a header of {length} bytes; at most {_MAX_HEADER_BYTES} are allowed")
    try:
        header = json.loads(_read_bytes(read_into, length))
    except ValueError as error:
        raise WireError(f"a header that is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise WireError("a header that is not a JSON object")
    arrays = {}
    for described in _listed(header.pop("arrays", [])):
        name, dtype, shape = (*_listed(described), None, None, None)[:3]
        arrays[str(name)] = _read_array(read_into, dtype, _listed(shape), max_array_bytes)
    return header, arrays


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise WireError(f"a description of arrays that is not a list: {value!r}")
    return value


def _read_bytes(read_into: ReadInto, count: int) -> bytes:
    buffer = bytearray(count)
    read_into(memoryview(buffer))
    return bytes(buffer)


def _read_array(read_into: ReadInto, dtype: Any, shape: list[Any], max_bytes: int) -> NDArray[Any]:
    if (
        not isinstance(dtype, str)
        or dtype not in _DTYPES
        or not all(isinstance(size, int) and size >= 0 for size in shape)
    ):
        raise WireError(f"an array of type {dtype!r} and shape {shape!r}")
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if num_bytes > max_bytes:
        raise WireError(f"an array of {num_bytes} bytes; at most {max_bytes} are allowed")
    array = lasting_array(shape, dtype)
    if num_bytes:
        read_into(array.reshape(-1).view(np.uint8).data)
    return array
