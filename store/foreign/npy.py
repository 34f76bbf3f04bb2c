"""Arrays from files that other programs wrote: NumPy's .npy and .npz, read with bounds and never with pickle.

A header is read before any memory is asked for, and what it declares must be there in the file. An .npz is a ZIP file,
whose members may declare any size and be packed a thousand to one: each is bounded by itself, and read no further than
its header says.
"""

from __future__ import annotations

import io
import math
import re
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
_MAGIC = b"\x93NUMPY"
_LENGTHS = {(1, 0): "<H", (2, 0): "<I"}
_DESCR = re.compile(r"""['"]descr['"]\s*:\s*['"]([^'"]{1,20})['"]""")
_ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([\d\sL,]*)\)""")
# What zipfile, zlib and NumPy raise at damaged input.
_DAMAGED = (
    ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError,
    struct.error, TypeError, KeyError, MemoryError, OverflowError,
)  # fmt: skip


def read_npy(path: Path, *, max_bytes: int = MAX_ARRAY_BYTES, only_shape: bool = False) -> NDArray[Any]:
    """The array of a .npy file, in this machine's byte order.

    With `only_shape` nothing is read after the header: the array has the shape and the type that it declares, and zeros
    that take no memory.

    Raises InputError, which names the file, when it cannot be read, is not a .npy file, holds Python objects, or
    declares more bytes than it has or than `max_bytes`.
    """
    with _explained(path), open_regular_file(path) as file:
        size = path.stat().st_size
        return _read(file, size, max_bytes, only_shape=only_shape)


def read_npz(
    path: Path, name: str | None = None, *, max_bytes: int = MAX_ARRAY_BYTES, only_shape: bool = False
) -> NDArray[Any]:
    """One array of an .npz file: the one called `name`, or the only one. `only_shape` is as `read_npy` has it.

    Raises InputError as `read_npy` does, and when there is no such array or `name` is needed to tell which.
    """
    with _explained(path), open_regular_file(path) as file, zipfile.ZipFile(file) as archive:
        members = _members(archive)
        chosen = _chosen(list(members), name)
        member = members[chosen]
        with archive.open(member) as stream:
            return _read(stream, member.file_size, max_bytes, only_shape=only_shape)


def npz_names(path: Path) -> list[str]:
    """The names of the arrays in an .npz file. Raises InputError."""
    with _explained(path), open_regular_file(path) as file, zipfile.ZipFile(file) as archive:
        return list(_members(archive))


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as the bytes of a .npy file."""
    sink = io.BytesIO()
    npy.write_array(sink, array, allow_pickle=False)
    return sink.getvalue()


def read_npy_stream(stream: IO[bytes], *, num_bytes: int, max_bytes: int = MAX_ARRAY_BYTES) -> NDArray[Any]:
    """The array of a stream that holds `num_bytes` of a .npy file. Raises ValueError, EOFError or OSError."""
    return _read(stream, num_bytes, max_bytes)


def _read(stream: IO[bytes], num_bytes: int, max_bytes: int, *, only_shape: bool = False) -> NDArray[Any]:
    counted = _Counted(stream)
    shape, fortran, dtype = _header(counted)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded: save it again as an array of numbers")
    if dtype.kind not in "biufc":
        raise ValueError(f"it holds {dtype}, not numbers")
    need = math.prod(shape) * dtype.itemsize
    if need > max_bytes:
        raise ValueError(f"it declares shape {shape} of {dtype}, {need:,} bytes; at most {max_bytes:,} are read")
    held = num_bytes - counted.position
    if need != held:
        raise ValueError(f"it declares shape {shape} of {dtype}, {need:,} bytes, and holds {held:,}")
    if only_shape:
        return np.broadcast_to(np.zeros((), dtype.newbyteorder("=")), shape)
    flat = np.frombuffer(_exactly(counted, need), dtype=dtype)
    if stream.read(1):  # also makes zipfile compare the checksum
        raise ValueError(f"it goes on after the {need:,} bytes that it declares")
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


class _Counted:
    """A stream that knows how much was read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.position = 0

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        self.position += len(data)
        return data


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type. NumPy's own reader trusts the header's length, and parses the rest as Python."""
    magic = stream.read(len(_MAGIC) + 2)
    if len(magic) != len(_MAGIC) + 2 or not magic.startswith(_MAGIC):
        raise ValueError("it is not a .npy file")
    version = (magic[-2], magic[-1])
    if version not in _LENGTHS:
        raise ValueError(f"its format is {version[0]}.{version[1]}; 1.0 and 2.0 are read")
    (length,) = struct.unpack(_LENGTHS[version], stream.read(struct.calcsize(_LENGTHS[version])))
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes; at most {_MAX_HEADER_BYTES:,} are read")
    text = stream.read(length).decode("latin-1")
    descr, order, shape = (pattern.search(text) for pattern in (_DESCR, _ORDER, _SHAPE))
    if descr is None:
        raise ValueError("it holds records or something else that is not numbers")
    if order is None or shape is None:
        raise ValueError(f"its header says {text.strip()!r:.80}")
    sizes = tuple(int(one) for one in re.findall(r"\d+", shape[1]))
    if len(sizes) > _MAX_DIMENSIONS:
        raise ValueError(f"it declares the shape {shape[1]:.60}, of more than {_MAX_DIMENSIONS} dimensions")
    return sizes, order[1] == "True", np.dtype(descr[1])


def _exactly(stream: _Counted, count: int) -> bytearray:
    """`count` bytes, asked for block by block, so that memory grows no faster than data comes."""
    data = bytearray()
    while len(data) < count:
        block = stream.read(min(_BLOCK, count - len(data)))
        if not block:
            raise EOFError(f"it ends after {len(data):,} of {count:,} bytes")
        data += block
    return data


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise ValueError(f"it holds {len(infos):,} members; at most {MAX_MEMBERS:,} are read")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if info.filename.endswith(".npy"):
            name = info.filename.removesuffix(".npy")
            if name in members:
                raise ValueError(f"it holds {name!r} twice")
            members[name] = info
    if not members:
        raise ValueError("it holds no array")
    return members


def _chosen(names: list[str], wanted: str | None) -> str:
    listed = ", ".join(repr(name) for name in sorted(names)[:10])
    if wanted is not None:
        if wanted not in names:
            raise ValueError(f"it holds no array {wanted!r}, but {listed}")
        return wanted
    if len(names) > 1:
        raise ValueError(f"it holds {len(names)} arrays ({listed}): say which with --array")
    return names[0]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file's content is told of that file."""
    try:
        yield
    except MediaError as error:
        raise InputError(f"{path}: {error.message}") from error
    except _DAMAGED as error:
        raise InputError(f"{path}: {str(error) or type(error).__name__}") from error
