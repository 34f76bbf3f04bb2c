"""Child that loads one pickle from standard input and writes it again as plain values. Started by `pickles.py`.

Run as a script, with the standard library alone, so that it starts in a few hundredths of a second. A pickle can name
functions, and is given builders of our own in their place, from a list: they keep what they are called with and do
nothing else. What it can still do is ask for memory and time, which are limited here for the whole process.

Written are ``+`` and a pickle whose only name is `Array`; or ``!`` and why the file is more than data; or ``?`` and why
it is damaged.
"""

from __future__ import annotations

import io
import pickle
import re
import resource
import sys
from collections.abc import Callable
from typing import IO, Any

MAX_DEPTH = 32
_DTYPE = re.compile(r"[|<>=]?([biufc][0-9]{1,2}|[SU][0-9]{1,6})")
_LEAVES = (str, bytes, bytearray, int, float, bool, type(None))
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1", "BoolStorage": "|b1",
}  # fmt: skip


class NotDataError(ValueError):
    """The pickle does something other than make data."""


class Inert:
    """What a name in a pickle stands for: nothing can be set on it, and only some can be called."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[..., Any] | None = None) -> None:
        self.name, self.build = name, build

    def __call__(self, *given: Any) -> Any:
        if self.build is None:
            raise NotDataError(f"it calls {self.name!r:.80}")
        return self.build(*given)

    def __setstate__(self, state: Any) -> None:
        raise NotDataError("it changes the state of something")


class DType:
    """A type of numbers: kind and size, then its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, text: Any, *_flags: Any) -> None:
        text = str(text)
        if not _DTYPE.fullmatch(text):
            what = "Python objects" if text.lstrip("|<>=").startswith("O") else f"the type {text!r:.40}"
            raise NotDataError(f"it holds an array of {what}")
        self.code = text.lstrip("|<>=")
        self.order = text[0] if text[0] in "|<>=" else "="

    def __setstate__(self, state: Any) -> None:
        _version, order, *rest = state
        if order not in ("|", "<", ">", "=") or any(one not in (None, -1, 0, 1, 2, 4, 8, 16) for one in rest[:3]):
            raise NotDataError("it holds an array of a type of its own")
        self.order = order

    def __str__(self) -> str:
        return f"{self.order}{self.code}"


class Array:
    """An array as its bytes, and how they are read: by order, or by the strides and the offset of a tensor."""

    __slots__ = ("facts",)

    def __init__(self, *_: Any) -> None:
        self.facts: tuple[Any, ...] | None = None

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, data = state[-4:]
        if isinstance(data, list):
            raise NotDataError("it holds an array of Python objects")
        self.fill(data, dtype, shape, "fortran" if fortran else "c")

    def fill(self, data: Any, dtype: Any, shape: Any, layout: str, *further: Any) -> Array:
        if not isinstance(dtype, DType):
            raise NotDataError("it holds an array without a type")
        data = data.encode("latin-1") if isinstance(data, str) else data  # Python 2 knew no bytes
        if not isinstance(data, bytes | bytearray):
            raise ValueError("an array holds no bytes")
        self.facts = (data, str(dtype), shape, layout, *further)
        return self

    def __reduce__(self) -> Any:
        if self.facts is None:
            raise ValueError("an array has no content")
        return Array, self.facts


def _storage(data: Any) -> tuple[DType, bytes]:
    """The numbers of a tensor: five small pickles, then how many there are, then their bytes."""
    stream = io.BytesIO(data)
    parts = [Loader(stream, is_torch=True).load() for _ in range(5)]
    if parts[0] != _TORCH_MAGIC or not isinstance(parts[3], tuple) or not isinstance(parts[3][1], Inert):
        raise NotDataError("it holds a tensor in a form that is not read")
    code = _TORCH_TYPES.get(parts[3][1].name.removeprefix("torch."))
    if code is None:
        raise NotDataError(f"it holds a tensor of {parts[3][1].name}")
    stream.read(8)  # how many numbers: as many as there are bytes for
    return DType(code), stream.read()


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Array:
    dtype, data = storage
    return Array().fill(data, dtype, shape, "strided", offset, strides)


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise NotDataError("it encodes text in a way that data is not")
    return text.encode("latin-1")


def _empty_bytes(*given: Any) -> bytes:
    if given:
        raise NotDataError("it makes bytes out of something else")
    return b""


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    return Array().fill(data, dtype, shape, "fortran" if order == "F" else "c")


_BUILDERS: dict[str, Callable[..., Any] | None] = {
    "numpy.core.multiarray._reconstruct": Array,
    "numpy.core.multiarray.scalar": lambda dtype, data=b"": Array().fill(data, dtype, (), "scalar"),
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.dtype": DType,
    "_codecs.encode": _encode,
    "collections.OrderedDict": lambda items=(): dict(items),
    "collections.defaultdict": lambda *_: {},
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.bytes": _empty_bytes,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": _storage,
    # Names that stand as arguments and are never called.
    **dict.fromkeys(["numpy.ndarray", "builtins.list", "builtins.dict", "builtins.int", "builtins.float"]),
    **dict.fromkeys(f"torch.{name}" for name in (*_TORCH_TYPES, "BFloat16Storage")),
}


class Loader(pickle.Unpickler):
    """Loads a pickle whose names are those of the list. `is_torch` lets it name what torch keeps outside of it."""

    def __init__(self, stream: IO[bytes], *, is_torch: bool = False) -> None:
        super().__init__(stream)
        self._is_torch = is_torch

    def find_class(self, module: str, name: str) -> Any:
        text = re.sub(r"^__builtin__\.", "builtins.", f"{module}.{name}")
        known = re.sub(r"^numpy\._core\.", "numpy.core.", text)  # as NumPy 1 called it
        if known not in _BUILDERS:
            raise NotDataError(f"it wants {text!r:.80}")
        return Inert(text, _BUILDERS[known])

    def persistent_load(self, name: Any) -> Any:
        if not self._is_torch:
            raise NotDataError("it refers to something outside of itself")
        return name


def plain(value: Any, known: dict[int, Any], depth: int = 1) -> Any:
    """The value, if it is data and not nested too deeply; types become their names. `known` keeps what is shared."""
    if isinstance(value, DType):
        return str(value)
    if type(value) is Array or type(value) in _LEAVES:
        return value
    if type(value) not in (list, tuple, dict, set, frozenset):
        raise NotDataError("it holds the name of something instead of data")
    if depth > MAX_DEPTH:
        raise NotDataError(f"it is nested more than {MAX_DEPTH} deep, or holds itself")
    if id(value) not in known:
        if isinstance(value, dict):
            made: Any = {plain(key, known, depth + 1): plain(one, known, depth + 1) for key, one in value.items()}
        else:
            made = type(value)(plain(one, known, depth + 1) for one in value)
        known[id(value)] = made
    return known[id(value)]


def main() -> None:
    memory, seconds = int(sys.argv[1]), int(sys.argv[2])
    for which, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(which, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes to a pipe and to no file
    try:
        value = plain(Loader(sys.stdin.buffer).load(), {})
    except NotDataError as error:
        sys.stdout.buffer.write(f"!{error}".encode(errors="backslashreplace"))
    except MemoryError:
        sys.stdout.buffer.write(f"?it takes more than {memory:,} bytes".encode())
    except Exception as error:  # noqa: BLE001  # whatever a reader makes of damage is told to the parent
        sys.stdout.buffer.write(f"?{str(error) or type(error).__name__}".encode(errors="backslashreplace"))
    else:
        sys.stdout.buffer.write(b"+")
        pickle.Pickler(sys.stdout.buffer, 5).dump(value)


if __name__ == "__main__":
    main()
