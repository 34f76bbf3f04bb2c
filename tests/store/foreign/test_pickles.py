"""Pickles of other programs: data comes out as it went in, and nothing in a file is ever run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import random
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom._vocabulary import InputError
from frameloom.store.foreign import pickles, read_pickle
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
CANARY = "canary"


def written(folder: Path, data: bytes) -> Path:
    path = folder / "features.pkl"
    path.write_bytes(data)
    return path


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        native = expected.astype(expected.dtype.newbyteorder("="))
        return found.dtype == native.dtype and np.array_equal(found, native, equal_nan=native.dtype.kind in "fc")
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        pairs = zip(found, expected, strict=True)
        return type(found) is type(expected) and all(same(*pair) for pair in pairs)
    return bool(found == expected) and isinstance(found, type(expected))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_data_comes_back(protocol: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    item = {
        "id": "vidéo 一.v1",
        "2d": rng.random((5, 8)).astype(np.float16),
        "fortran": np.asfortranarray(rng.random((3, 4))),
        "big_endian": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 4), np.float32),
        "scalar_shape": np.array(2.5),
        "bool": np.array([True, False]),
        "text": np.array(["ab", "c"]),
        "bytes": b"\xff\x00",
        "tuple": (1, -(10**30), 1.5, True, None),
        "list": [[], {}, ()],
        "nothing": set(),
    }
    found = read_pickle(written(tmp_path, pickle.dumps([item, item], protocol)))
    assert same(found, [item, item])
    assert found[0] is found[1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numbers_of_numpy_ordered_and_default_dicts_become_plain(protocol: int, tmp_path: Path) -> None:
    ordered = collections.OrderedDict(b=1, a=np.float32(2.5))
    default = collections.defaultdict(list, {"c": [np.int64(3)]})
    found = read_pickle(written(tmp_path, pickle.dumps({"x": ordered, "y": default, "z": {4, 5}}, protocol)))
    assert found == {"x": {"b": 1, "a": 2.5}, "y": {"c": [3]}, "z": {4, 5}}
    assert type(found["x"]["a"]) is float


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_become_arrays(protocol: int, tmp_path: Path) -> None:
    import torch

    tensors = {
        "audio": torch.arange(6.0).reshape(2, 3).half(),
        "turned": torch.arange(6).reshape(2, 3).t(),
        "part": torch.arange(10.0)[3:7],
        "empty": torch.zeros(0, 4),
    }
    found = read_pickle(written(tmp_path, pickle.dumps(tensors, protocol)))
    assert same(found, {name: tensor.numpy() for name, tensor in tensors.items()})


@settings(max_examples=60, deadline=None)
@given(
    array=hnp.arrays(st.sampled_from(["f2", "f4", ">f8", "u1", "<i8", "?"]), hnp.array_shapes(max_dims=4, min_side=0)),
    protocol=st.sampled_from(PROTOCOLS),
)
def test_any_array_comes_back(array: np.ndarray, protocol: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(tmp_path_factory.mktemp("pickle"), pickle.dumps({"a": array, "again": [array]}, protocol))
    assert same(read_pickle(path), {"a": array, "again": [array]})


# What must not be


class _Reduced:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _object_array() -> np.ndarray:
    array = np.empty(1, object)
    array[0] = {"a": 1}
    return array


def hostile(folder: Path) -> dict[str, bytes]:
    """Pickles that call, ask for, or build what data does not. Those that can would leave a file called CANARY."""
    canary = str(folder / CANARY)
    command = f"touch {canary}"
    inst = f"(S'{command}'\nios\nsystem\n.".encode()
    obj = f"(cos\nsystem\nS'{command}'\no.".encode()
    return {
        "system": pickle.dumps(_Reduced(os.system, command)),
        "system, protocol 0": pickle.dumps(_Reduced(os.system, command), 0),
        "eval": pickle.dumps(_Reduced(eval, f"open({canary!r}, 'w')")),
        "open": pickle.dumps({"a": _Reduced(open, canary, "w")}),
        "getattr": b"c__builtin__\ngetattr\n(cos\nS'x'\ntR.",
        "INST": inst,
        "OBJ": obj,
        "NEWOBJ": b"\x80\x02cbuiltins\nset\n)\x81.",
        "a name alone": b"cnumpy\nndarray\n.",
        "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0bcore.os.sys\x93.",
        "codecs to anything": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
        "persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "extension": b"\x80\x02\x82\x01.",
        "state of a dict": b"\x80\x02}}b.",
        "state of a name": b"\x80\x02cnumpy\nndarray\nN}X\x01\x00\x00\x00a\x88s\x86b.",
        "array of objects": pickle.dumps(_object_array()),
        "array of records": pickle.dumps(np.zeros(2, [("a", "f4"), ("b", "O")])),
        "array of dates": pickle.dumps(np.zeros(2, "M8[s]")),
        "a class": pickle.dumps(Path("x")),
        "holds itself": b"\x80\x02]q\x00h\x00a.",
        "deep": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    }


HOSTILE = sorted(hostile(Path("x")))


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_data_is_refused_and_never_run(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, hostile(tmp_path)[name])
    with pytest.raises(InputError, match=r"features\.pkl"):
        read_pickle(path)
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize("name", ["system", "system, protocol 0", "INST", "OBJ"])
def test_these_files_would_do_harm(name: str, tmp_path: Path) -> None:
    """The test above can fail: Python's own reader runs them."""
    pickle.loads(hostile(tmp_path)[name])
    assert (tmp_path / CANARY).exists()


def test_a_message_says_what_was_wanted_and_what_to_do(tmp_path: Path) -> None:
    path = written(tmp_path, pickle.dumps(_Reduced(os.system, "true")))
    with pytest.raises(InputError, match=r"'posix\.system'.*nothing in a pickle is ever run.*\.npy"):
        read_pickle(path)


GIGANTIC = {
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"a.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 50) + b"a.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"a.",
    "number": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
    "memo": b"\x80\x02N" + b"r" + struct.pack("<I", 2**32 - 1) + b".",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "shape": pickle.dumps(np.zeros(4, "u1"), 2).replace(b"K\x04\x85", b"J" + struct.pack("<i", 2**31 - 1) + b"\x85"),
    "digits": b"L" + b"9" * 100_000 + b"L\n.",
}


@pytest.mark.parametrize("name", sorted(GIGANTIC))
def test_what_a_file_declares_costs_no_memory(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, GIGANTIC[name])
    tracemalloc.start()
    with suppress(InputError):  # a large place in the memo, or a frame, is no fault as long as it costs nothing
        read_pickle(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


ENDLESS = {
    "lists in nothing": b"]",
    "marks": b"(",
    "tuples in tuples": b"N" + b"\x85" * 40,
    "lists in lists": b"]" * 40 + b"a" * 39,
    "dicts in dicts": b"}" + b"N}" * 40 + b"s" * 40,
}


@pytest.mark.parametrize("end", [b"", b"."])
@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_what_never_ends_costs_this_process_nothing(name: str, end: bytes, tmp_path: Path) -> None:
    begun = ENDLESS[name]
    path = written(tmp_path, b"\x80\x02" + begun * (2_000_000 // len(begun)) + end)
    tracemalloc.start()
    with suppress(InputError) if name.startswith("lists in") and end else pytest.raises(InputError):
        assert read_pickle(path) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize("depth", [33, 5000, 1_000_000])
@pytest.mark.parametrize(("open_", "close"), [(b"]", b"a"), (b"", b"\x85")], ids=["lists", "tuples"])
def test_what_is_nested_too_deeply_is_refused(open_: bytes, close: bytes, depth: int, tmp_path: Path) -> None:
    data = b"\x80\x02" + open_ * depth + (b"" if open_ else b"N") + close * (depth - bool(open_)) + b"."
    with pytest.raises(InputError, match="nested more than 32 deep"):
        read_pickle(written(tmp_path, data))


def test_what_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_SECONDS", 0)
    monkeypatch.setattr(pickles, "_BYTES_A_SECOND", 1 << 40)
    with pytest.raises(InputError, match=r"more than .* bytes or 0 seconds"):
        read_pickle(written(tmp_path, pickle.dumps(list(range(3_000_000)))))  # it is ended long before that is read


def test_what_takes_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MEMORY_BYTES", 100_000_000)
    monkeypatch.setattr(pickles, "_MEMORY_FACTOR", 1)
    path = written(tmp_path, b"\x80\x02(" + b"]" * 3_000_000 + b"l.")
    with pytest.raises(InputError, match=r"more than .* bytes"):
        read_pickle(path)


def test_a_reader_knows_a_single_name() -> None:
    with pytest.raises(ValueError, match=r"it names posix\.system"):
        pickles._Reader(io.BytesIO(pickle.dumps(_Reduced(os.system, "true")))).load()


def test_what_is_as_deep_as_may_be_or_long_comes_back(tmp_path: Path) -> None:
    deep: Any = 1.5
    for number in range(30):
        deep = [(deep,), {"a": deep}][number % 2]
    for value in (deep, [deep] * 3, tuple(range(200_000)), [(one,) for one in range(50_000)]):
        assert read_pickle(written(tmp_path, pickle.dumps(value))) == value


def test_lists_that_share_lists_take_no_longer_than_their_length(tmp_path: Path) -> None:
    value: list[Any] = []
    for _ in range(25):
        value = [value] * 10
    assert len(read_pickle(written(tmp_path, pickle.dumps(value)))) == 10


def is_data(value: Any) -> bool:
    if isinstance(value, dict):
        return all(is_data(key) and is_data(one) for key, one in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_data, value))
    is_array = isinstance(value, np.ndarray) and value.dtype.kind in "biufcSU"
    return is_array or type(value) in (str, bytes, bytearray, int, float, bool, complex, type(None))


def test_damage_gives_data_or_is_refused(tmp_path: Path) -> None:
    rng = random.Random(0)
    value = [{"id": "a", "2d": np.arange(12, dtype="f2").reshape(3, 4), "n": 5} for _ in range(3)]
    whole = pickle.dumps(value, 4)
    num_refused = 0
    for _ in range(200):
        cut = rng.random() < 0.2
        data = bytearray(whole[: rng.randrange(1, len(whole))] if cut else whole)
        changed = [rng.randrange(len(data)) for _ in range(rng.randrange(1, 4))] if not cut else []
        for place in changed:
            data[place] ^= rng.randrange(1, 256)
        try:
            found = read_pickle(written(tmp_path, bytes(data)))
        except InputError:
            num_refused += 1
            continue
        assert not cut  # the end is missing
        assert is_data(found)
    assert num_refused > 80


@pytest.mark.parametrize("data", [b"", b".", b"not a pickle", b"\x80\x04", b"PK\x03\x04abc"])
def test_what_is_no_pickle_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a pickle"):
        read_pickle(written(tmp_path, data))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pkl")
    with pytest.raises(InputError, match="not a regular file"):
        read_pickle(tmp_path / "pipe.pkl")
