"""Arrays from files that other programs wrote: NumPy's .npy and .npz, read with bounds and never with pickle.

A header is read before any memory is asked for, and what it declares must be there in the file. An .npz is a ZIP file,
whose members may declare any size and be packed a thousand to one: each is bounded by itself, and read no further than
its header says.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..._vocabulary import InputError, MediaError
from ..fingerprints import open_regular_file

MAX_ARRAY_BYTES = 4_000_000_000
MAX_MEMBERS = 10_000
_MAX_DIMENSIONS = 8
_MAX_HEADER_BYTES = 10_000
_BLOCK = 1 << 20
_LENGTHS = {(1, 0): "<H", (2, 0): "<I"}
# What zipfile, zlib and NumPy raise at damaged input.
_DAMAGED = (
    ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError,
    struct.error, TypeError, KeyError, MemoryError, OverflowError,
)  # fmt: skip


def read_npy(path: Path, *, max_bytes: int = MAX_ARRAY_BYTES, only_shape: bool = False) -> NDArray[Any]:
    """The array of a .npy file, in this machine's byte order.

    With `only_shape` nothing is read after the header: the array has the shape and the type that it declares, and zeros
    that take no memory.

    Raises InputError, which names the file, when it cannot be read, is not a .npy file, holds Python objects, or
    declares more bytes than it has or than `max_bytes`.
    """
    with explained(path), open_regular_file(path) as file:
        return _read(file, path.stat().st_size, max_bytes, only_shape=only_shape)


def read_npz(
    path: Path, name: str | None = None, *, max_bytes: int = MAX_ARRAY_BYTES, only_shape: bool = False
) -> NDArray[Any]:
    """One array of an .npz file: the one called `name`, or the only one. `only_shape` is as `read_npy` has it.

    Raises InputError as `read_npy` does, and when there is no such array or `name` is needed to tell which.
    """
    with explained(path), open_regular_file(path) as file, zipfile.ZipFile(file) as archive:
        members = _members(archive)
        listed = ", ".join(repr(one) for one in sorted(members)[:10])
        if name is not None and name not in members:
            raise ValueError(f"it holds no array {name!r}, but {listed}")
        if name is None and len(members) > 1:
            raise ValueError(f"it holds {len(members)} arrays ({listed}): say which with --array")
        member = members[next(iter(members)) if name is None else name]
        with archive.open(member) as stream:
            return _read(stream, member.file_size, max_bytes, only_shape=only_shape)


def npz_names(path: Path) -> list[str]:
    """The names of the arrays in an .npz file. Raises InputError."""
    with explained(path), open_regular_file(path) as file, zipfile.ZipFile(file) as archive:
        return list(_members(archive))


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as the bytes of a .npy file."""
    sink = io.BytesIO()
    npy.write_array(sink, array, allow_pickle=False)
    return sink.getvalue()


def _read(stream: IO[bytes], num_bytes: int, max_bytes: int, *, only_shape: bool) -> NDArray[Any]:
    shape, fortran, dtype = _header(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded: save it again as an array of numbers")
    if dtype.kind not in "biufc":
        raise ValueError(f"it holds {dtype}, not numbers")
    need = math.prod(shape) * dtype.itemsize
    if need > max_bytes:
        raise ValueError(f"it declares shape {shape} of {dtype}, {need:,} bytes; at most {max_bytes:,} are read")
    held = num_bytes - stream.tell()
    if need != held:
        raise ValueError(f"it declares shape {shape} of {dtype}, {need:,} bytes, and holds {held:,}")
    if only_shape:
        return np.broadcast_to(np.zeros((), dtype.newbyteorder("=")), shape)
    data = bytearray()
    while len(data) < need:  # block by block, so that memory grows no faster than data comes
        block = stream.read(min(_BLOCK, need - len(data)))
        if not block:
            raise EOFError(f"it ends after {len(data):,} of {need:,} bytes")
        data += block
    flat = np.frombuffer(data, dtype=dtype)
    if stream.read(1):  # also makes zipfile compare the checksum
        raise ValueError(f"it goes on after the {need:,} bytes that it declares")
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type, as NumPy reads them; what a header may declare is checked before it is read."""
    magic = stream.read(len(npy.MAGIC_PREFIX) + 2)
    if len(magic) != len(npy.MAGIC_PREFIX) + 2 or not magic.startswith(npy.MAGIC_PREFIX):
        raise ValueError("it is not a .npy file")
    version = (magic[-2], magic[-1])
    if version not in _LENGTHS:
        raise ValueError(f"its format is {version[0]}.{version[1]}; 1.0 and 2.0 are read")
    prefix = stream.read(struct.calcsize(_LENGTHS[version]))
    (length,) = struct.unpack(_LENGTHS[version], prefix)
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes; at most {_MAX_HEADER_BYTES:,} are read")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    text = stream.read(length)
    try:
        shape, fortran, dtype = read(io.BytesIO(prefix + text), max_header_size=_MAX_HEADER_BYTES)
    except Exception as error:  # of NumPy's parser, which is Python's own and fails in many ways
        raise ValueError(f"its header says {text.decode('latin-1').strip()!r:.80}") from error
    if len(shape) > _MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise ValueError(f"it declares the shape {shape!s:.60}; at most {_MAX_DIMENSIONS} sizes, 0 or more, are read")
    return shape, fortran, dtype


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise ValueError(f"it holds {len(infos):,} members; at most {MAX_MEMBERS:,} are read")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if info.filename.endswith(".npy"):
            name = info.filename.removesuffix(".npy")
            if name in members:
                raise ValueError(f"it holds the array {name!r} more than once")
            members[name] = info
    if not members:
        raise ValueError("it holds no array")
    return members


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file's content is told of that file."""
    try:
        yield
    except MediaError as error:
        raise InputError(f"{path}: {error.message}") from error
    except OSError as error:
        raise InputError(f"{path}: it cannot be read: {error.strerror or error}") from error
    except _DAMAGED as error:
        raise InputError(f"{path}: {str(error) or type(error).__name__}") from error
