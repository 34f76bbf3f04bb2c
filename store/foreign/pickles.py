"""Pickles that hold data and nothing else: arrays, tensors, plain containers, texts and numbers.

A pickle is a program. Python's own machine for it can be told which names it may call, and still lets a file of twenty
bytes ask for gigabytes or change attributes of what it found. So the program is run here, by a machine that knows the
instructions that make data and no others: no name is ever looked up, and what a file may "call" are the functions
below, which build arrays out of bytes that the file itself holds.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import InputError, MediaError
from ..fingerprints import open_regular_file

_MAX_DEPTH = 32
_MAX_WAITING = 250_000  # values that wait for the container that holds them; of lists and dicts at most 2000 do
_MAX_DIMENSIONS = 8
_TOO_DEEP = f"it is nested more than {_MAX_DEPTH} deep, or holds itself"
_CONTAINERS = (list, tuple, dict, set, frozenset)
_MARK = object()
_DTYPE = re.compile(r"[|<>=]?([biufc])([0-9]{1,2})|[|<>=]?([SU])([0-9]{1,6})")
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
_BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OSError, MemoryError, OverflowError)


class _NotDataError(ValueError):
    """The pickle does something other than make data."""


def read_pickle(path: Path) -> Any:
    """What a pickle holds, as dicts, lists, tuples, sets, texts, bytes, numbers, None and NumPy arrays of numbers.

    Tensors of torch that were pickled become arrays. Nothing that the file names is imported or called.

    Raises InputError, which names the file, when it is damaged or holds anything else.
    """
    try:
        with open_regular_file(path) as file:
            return _resolved(_Machine(_Bounded(file, path.stat().st_size)).run())
    except MediaError as error:
        raise InputError(f"{path}: {error.message}") from error
    except _NotDataError as error:
        raise InputError(
            f"{path}: {error}: only arrays, tensors, plain containers, texts and numbers are read, and nothing in a"
            " pickle is ever run; write them again as .npy files if you trust it"
        ) from error
    except _BROKEN as error:
        raise InputError(f"{path}: not a pickle, or a damaged one: {str(error) or type(error).__name__}") from error


class _Bounded:
    """A stream that refuses to be asked for more than it has left, before memory is made for it."""

    def __init__(self, stream: Any, size: int) -> None:
        self._stream, self._left = stream, size

    def read(self, count: int) -> bytes:
        if count > self._left:
            raise EOFError(f"it asks for {count:,} bytes and has {self._left:,} left")
        return self._took(self._stream.read(count))

    def readline(self) -> bytes:
        return self._took(self._stream.readline())

    def _took(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


class _Name:
    """A name that the pickle mentions. It stands for one of `_CALLS` or for nothing."""

    def __init__(self, text: str) -> None:
        self.text = text


class _DType:
    """A dtype on its way: its kind and size, then its byte order."""

    def __init__(self, text: str) -> None:
        found = _DTYPE.fullmatch(text)
        if found is None:
            what = "Python objects" if text.lstrip("|<>=").startswith("O") else f"the type {text!r:.40}"
            raise _NotDataError(f"it holds an array of {what}")
        self.code = text.lstrip("|<>=")
        self.order = text[0] if text[0] in "|<>=" else "="

    def build(self, state: Any) -> None:
        _version, order, *rest = state
        if order not in ("|", "<", ">", "=") or any(one not in (None, -1, 0, 1, 2, 4, 8, 16) for one in rest[:3]):
            raise _NotDataError("it holds an array of a type of its own")
        self.order = order

    def made(self) -> np.dtype[Any]:
        return np.dtype(f"{self.order}{self.code}")


class _Array:
    """An array on its way: empty until its state comes."""

    def __init__(self, made: NDArray[Any] | None = None) -> None:
        self.made = made

    def build(self, state: Any) -> None:
        shape, dtype, fortran, data = state[-4:]
        if isinstance(data, list):
            raise _NotDataError("it holds an array of Python objects")
        self.made = _array_of(data, dtype, shape, fortran=bool(fortran))


def _array_of(data: Any, dtype: Any, shape: Any, *, fortran: bool) -> NDArray[Any]:
    if not isinstance(dtype, _DType):
        raise _NotDataError("it holds an array without a type")
    data = data.encode("latin-1") if isinstance(data, str) else data  # Python 2 knew no bytes
    made, shape = dtype.made(), _shape(shape)
    need = math.prod(shape) * made.itemsize
    if not isinstance(data, bytes | bytearray) or len(data) != need:
        raise ValueError(f"an array of shape {shape} needs {need:,} bytes, and others are there")
    flat = np.frombuffer(data, dtype=made) if need else np.zeros(math.prod(shape), dtype=made)
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return array.astype(made.newbyteorder("="), copy=False)


def _shape(value: Any) -> tuple[int, ...]:
    if (
        not isinstance(value, tuple)
        or len(value) > _MAX_DIMENSIONS
        or not all(type(one) is int and 0 <= one < 1 << 62 for one in value)
    ):
        raise ValueError(f"{value!s:.60} is no shape")
    return value


# What a pickle may call


def _reconstruct(_kind: Any, _shape: Any, _code: Any) -> _Array:
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_array_of(data, dtype, shape, fortran=order == "F"))


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _array_of(data, dtype, (), fortran=False).item()


def _dtype(code: Any, *_flags: Any) -> _DType:
    return _DType(str(code))


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise _NotDataError("it encodes text in a way that data is not")
    return text.encode("latin-1")


def _no_bytes(*args: Any) -> bytes:
    if args:
        raise _NotDataError("it makes bytes in a way that data is not")
    return b""


def _dict(*pairs: Any) -> dict[Any, Any]:
    return dict(pairs[0]) if pairs and isinstance(pairs[0], list | dict) else {}


def _storage(data: Any) -> NDArray[Any]:
    """The numbers of a tensor: five small pickles, then how many there are, then their bytes."""
    stream = io.BytesIO(data)
    parts = [_Machine(_Bounded(stream, len(data) - stream.tell()), is_torch=True).run() for _ in range(5)]
    if parts[0] != _TORCH_MAGIC or not isinstance(parts[3], tuple) or not isinstance(parts[3][1], _Name):
        raise _NotDataError("it holds a tensor in a form that is not read")
    code = _TORCH_DTYPES.get(parts[3][1].text.removeprefix("torch."))
    if code is None:
        raise _NotDataError(f"it holds a tensor of {parts[3][1].text}")
    count = int.from_bytes(stream.read(8), "little")
    body = stream.read()
    if len(body) != count * np.dtype(code).itemsize:
        raise ValueError("a tensor is not as long as it says")
    return np.frombuffer(body, dtype=code)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> _Array:
    size, stride = _shape(size), _shape(stride)
    if not isinstance(storage, np.ndarray) or type(offset) is not int or offset < 0 or len(size) != len(stride):
        raise _NotDataError("it holds a tensor in a form that is not read")
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if math.prod(size) > len(storage) or (math.prod(size) and last >= len(storage)):
        raise ValueError("a tensor reaches beyond its numbers")
    if not math.prod(size):
        return _Array(np.zeros(size, storage.dtype))
    steps = [step * storage.itemsize for step in stride]
    return _Array(np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy())


_CALLS: Mapping[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda *_: {},
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.bytes": _no_bytes,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": _storage,
}
# Names that stand as arguments and are never called.
_MENTIONED = frozenset(
    {"numpy.ndarray", "builtins.list", "builtins.dict", "builtins.int", "builtins.float"}
    | {f"torch.{name}" for name in (*_TORCH_DTYPES, "BFloat16Storage")}
)


class _Machine:
    """Runs one pickle. `is_torch` allows the one further instruction by which torch describes a tensor's numbers."""

    def __init__(self, stream: Any, *, is_torch: bool = False) -> None:
        self._stream, self._is_torch = stream, is_torch
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._nested: dict[int, tuple[Any, int]] = {}  # containers that hold others, by id, with how deep they go

    def run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self._stream):
            if opcode.name == "STOP":
                break
            if opcode.name in _CONSTANTS:
                self._stack.append(argument)
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            else:
                raise _NotDataError(f"it uses the instruction {opcode.name}")
            if len(self._stack) > _MAX_WAITING:
                raise _NotDataError(f"more than {_MAX_WAITING:,} of its values stand side by side, in no list or dict")
        if len(self._stack) != 1:
            raise ValueError(f"it ends with {len(self._stack):,} values where there must be one")
        return self.pop()

    def holding(self, container: Any, values: Iterable[Any]) -> Any:
        """The container, of which it is known now how deep it goes."""
        inner = (self._nested.get(id(one), (one, 1))[1] for one in values if isinstance(one, _CONTAINERS))
        depth = 1 + max(inner, default=0)
        if depth > _MAX_DEPTH:
            raise _NotDataError(_TOO_DEEP)
        if depth > self._nested.get(id(container), (container, 1))[1]:
            self._nested[id(container)] = container, depth
        return container

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark stands where a value must be")
        return value

    def top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise _NotDataError(f"it treats something as a {kind.__name__} that is none")
        return self._stack[-1]

    def since_mark(self) -> list[Any]:
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("a mark is missing")
        values = self._stack[place + 1 :]
        del self._stack[place:]
        return values

    def last(self, count: int) -> tuple[Any, ...]:
        values = [self.pop() for _ in range(count)]
        return tuple(values[::-1])

    def make_tuple(self, values: Iterable[Any]) -> None:
        made = tuple(values)
        self._stack.append(self.holding(made, made))

    def make_list(self, values: list[Any]) -> None:
        self._stack.append(self.holding(values, values))

    def remember(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def recall(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def name(self, text: str) -> None:
        text = re.sub(r"^__builtin__\.", "builtins.", text)
        if text not in _CALLS and text not in _MENTIONED:
            raise _NotDataError(f"it wants {text!r:.80}")
        self._stack.append(_Name(text))

    def name_from_stack(self) -> None:
        module, name = self.last(2)
        self.name(f"{module}.{name}")

    def call(self) -> None:
        function, arguments = self.last(2)
        if not isinstance(function, _Name) or function.text not in _CALLS or not isinstance(arguments, tuple):
            raise _NotDataError("it calls something")
        self._stack.append(_CALLS[function.text](*arguments))

    def build(self) -> None:
        state = self.pop()
        target = self._stack[-1]
        if not isinstance(target, _Array | _DType) or not isinstance(state, tuple):
            raise _NotDataError("it changes the state of something")
        target.build(state)

    def append(self, values: list[Any]) -> None:
        self.holding(self.top(list), values).extend(values)

    def set_items(self, values: list[Any]) -> None:
        self.holding(self.top(dict), values).update(zip(values[::2], values[1::2], strict=True))

    def add(self, values: list[Any]) -> None:
        self.holding(self.top(set), values).update(values)

    def drop(self) -> None:
        self._stack.pop()

    def persistent(self) -> None:
        if not self._is_torch:
            raise _NotDataError("it refers to something outside of itself")


_CONSTANTS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda _machine, _: None,
    "FRAME": lambda _machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.push(_MARK),
    "POP": lambda machine, _: machine.drop(),
    "POP_MARK": lambda machine, _: machine.since_mark().clear(),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "LIST": lambda machine, _: machine.make_list(machine.since_mark()),
    "TUPLE": lambda machine, _: machine.make_tuple(machine.since_mark()),
    "TUPLE1": lambda machine, _: machine.make_tuple(machine.last(1)),
    "TUPLE2": lambda machine, _: machine.make_tuple(machine.last(2)),
    "TUPLE3": lambda machine, _: machine.make_tuple(machine.last(3)),
    "FROZENSET": lambda machine, _: machine.push(frozenset(machine.since_mark())),
    "DICT": lambda machine, _: machine.push(_dict_of(machine.since_mark())),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(list(machine.last(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine.since_mark()),
    "PUT": lambda machine, place: machine.remember(int(place)),
    "BINPUT": lambda machine, place: machine.remember(place),
    "LONG_BINPUT": lambda machine, place: machine.remember(place),
    "MEMOIZE": lambda machine, _: machine.memoize(),
    "GET": lambda machine, place: machine.recall(int(place)),
    "BINGET": lambda machine, place: machine.recall(place),
    "LONG_BINGET": lambda machine, place: machine.recall(place),
    "GLOBAL": lambda machine, text: machine.name(text.replace(" ", ".")),
    "STACK_GLOBAL": lambda machine, _: machine.name_from_stack(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(),
}


def _dict_of(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))


def _resolved(value: Any) -> Any:
    """The value with arrays in place of what stood for them."""
    return _resolve(value, {}, 0)


def _resolve(value: Any, known: dict[int, Any], depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise _NotDataError(_TOO_DEEP)
    if isinstance(value, _Array):
        if value.made is None:
            raise ValueError("an array has no content")
        return value.made
    if isinstance(value, _DType):
        return str(value.made())
    if isinstance(value, _Name) or value is _MARK:
        raise _NotDataError("it holds the name of something instead of data")
    if not isinstance(value, list | tuple | dict | set | frozenset):
        return value
    if id(value) not in known:
        known[id(value)] = _container(value, known, depth + 1)
    return known[id(value)]


def _container(value: Any, known: dict[int, Any], depth: int) -> Any:
    if isinstance(value, dict):
        return {_resolve(key, known, depth): _resolve(one, known, depth) for key, one in value.items()}
    parts = [_resolve(one, known, depth) for one in value]
    return parts if isinstance(value, list) else type(value)(parts)
