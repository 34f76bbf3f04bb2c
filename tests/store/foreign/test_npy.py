"""Arrays of other programs: bounded before memory is asked for, and never unpickled."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from frameloom._vocabulary import InputError
from frameloom.store.foreign import npy_bytes, npz_names, read_npy, read_npz
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def header(shape: str, descr: str = "'<f4'", *, fortran: bool = False, version: int = 1) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".ljust(117) + "\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode()


@settings(max_examples=60, deadline=None)
@given(
    array=hnp.arrays(st.sampled_from(["f2", "f4", ">f8", "u1", ">i8", "?"]), hnp.array_shapes(max_dims=4, min_side=0)),
    fortran=st.booleans(),
)
def test_any_array_comes_back(array: np.ndarray, fortran: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("npy")
    stored = np.asfortranarray(array) if fortran else array
    np.save(folder / "a.npy", stored)
    np.savez_compressed(folder / "a.npz", features=stored)
    for found in (read_npy(folder / "a.npy"), read_npz(folder / "a.npz"), read_npz(folder / "a.npz", "features")):
        assert found.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found, array)


def test_what_is_written_is_what_numpy_reads() -> None:
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    np.testing.assert_array_equal(np.load(io.BytesIO(npy_bytes(array)), allow_pickle=False), array)


def bad_npy() -> dict[str, tuple[bytes, str]]:
    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}], object), allow_pickle=True)
    return {
        "objects": (objects.getvalue(), "Python objects"),
        "terabytes": (header("(1000000000, 1000)"), "declares shape"),
        "more than there is": (header("(100,)") + bytes(396), "400 bytes, and holds 396"),
        "less than there is": (header("(100,)") + bytes(404), "400 bytes, and holds 404"),
        "overflow": (header("(4294967296, 4294967296, 4)"), "declares shape"),
        "negative": (header("(-1,)") + bytes(4), "shape"),
        "texts": (header("(1,)", "'<U4'") + bytes(16), "not numbers"),
        "records": (header("(1,)", "[('a', '<f4')]") + bytes(4), "not numbers"),
        "dates": (header("(1,)", "'<M8[s]'") + bytes(8), "not numbers"),
        "code in the header": (header("__import__('os').system('true')"), "its header says"),
        "deep header": (header("(" * 60), r"a\.npy"),
        "many digits": (header("(" + "1" * 5000 + "x)"), "its header says"),
        "long header": (
            b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b"{" * 100,
            "header has 1,073,741,824 bytes",
        ),
        "version 3": (b"\x93NUMPY\x03\x00" + header("(1,)", version=2)[8:] + bytes(4), "format is 3.0"),
        "pickle": (b"\x80\x04cos\nsystem\n(S'true'\ntR.", r"a\.npy"),
        "empty": (b"", r"a\.npy"),
    }


@pytest.mark.parametrize("name", sorted(bad_npy()))
def test_a_bad_npy_is_refused_before_memory_is_asked_for(name: str, tmp_path: Path) -> None:
    data, message = bad_npy()[name]
    (tmp_path / "a.npy").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as caught:
            read_npy(tmp_path / "a.npy")
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert "a.npy" in str(caught.value)


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    write_zip(path, {"a.npy": header("(50000000,)", "'|u1'") + bytes(50_000_000)})
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(InputError, match="at most 1,000,000"):
        read_npz(path, max_bytes=1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 3_000_000
    tracemalloc.stop()


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_zip(path, {"a.npy": npy_bytes(np.zeros(1000, np.uint8))})
    data = path.read_bytes()
    size = struct.pack("<I", len(npy_bytes(np.zeros(1000, np.uint8))))
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, struct.pack("<I", 500)))
    with pytest.raises(InputError, match=r"a\.npz"):
        read_npz(path)


def test_which_array_of_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.ones(2), extra=np.zeros(3))
    assert sorted(npz_names(tmp_path / "a.npz")) == ["extra", "features"]
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz", "extra"), np.zeros(3))
    with pytest.raises(InputError, match=r"2 arrays .*--array"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(InputError, match="no array 'x', but 'extra', 'features'"):
        read_npz(tmp_path / "a.npz", "x")


def test_an_npz_without_arrays_or_with_too_many_is_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "none.npz", {"readme.txt": b"hello"})
    with pytest.raises(InputError, match="holds no array"):
        read_npz(tmp_path / "none.npz")
    write_zip(tmp_path / "many.npz", {f"{number}.npy": b"" for number in range(10_001)})
    with pytest.raises(InputError, match="at most 10,000"):
        npz_names(tmp_path / "many.npz")


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_damage_gives_numbers_or_is_refused(ending: str, tmp_path: Path) -> None:
    """An .npz has checksums, so what it gives is what was written; an .npy has none."""
    rng = random.Random(0)
    path = tmp_path / f"a.{ending}"
    original, num_refused = np.arange(40, dtype="f4").reshape(10, 4), 0
    with path.open("wb") as file:
        (np.save if ending == "npy" else np.savez_compressed)(file, original)
    whole = path.read_bytes()
    for _ in range(250):
        data = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.2 else whole)
        for _ in range(rng.randrange(3)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(bytes(data))
        try:
            found = read_npy(path) if ending == "npy" else read_npz(path)
        except InputError:
            num_refused += 1
            continue
        assert found.nbytes == original.nbytes
        assert found.dtype.kind in "biufc"
        if ending == "npz" or bytes(data) == whole:
            np.testing.assert_array_equal(found, original)
    assert 80 < num_refused < 250


@settings(max_examples=40, deadline=None)
@given(
    array=hnp.arrays(st.sampled_from(["f2", ">f8", "?"]), hnp.array_shapes(max_dims=4, min_side=0)),
    fortran=st.booleans(),
)
def test_the_shape_alone_is_that_of_the_array(
    array: np.ndarray, fortran: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("npy")
    stored = np.asfortranarray(array) if fortran else array
    np.save(folder / "a.npy", stored)
    np.savez(folder / "a.npz", features=stored)
    for found in (read_npy(folder / "a.npy", only_shape=True), read_npz(folder / "a.npz", only_shape=True)):
        assert found.dtype == array.dtype.newbyteorder("=")
        assert found.shape == array.shape


def test_the_shape_alone_needs_neither_memory_nor_what_follows_the_header(tmp_path: Path) -> None:
    packed, plain = tmp_path / "a.npz", tmp_path / "a.npy"
    write_zip(packed, {"a.npy": header("(50000000,)", "'|u1'") + bytes(50_000_000)})
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 0xFF
    packed.write_bytes(data)
    with plain.open("wb") as file:
        file.write(header("(1000000000,)", "'|u1'"))
        file.truncate(file.tell() + 1_000_000_000)
    tracemalloc.start()
    try:
        assert read_npz(packed, only_shape=True).shape == (50_000_000,)
        assert read_npy(plain, only_shape=True).shape == (1_000_000_000,)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    with pytest.raises(InputError, match=r"a\.npz"):
        read_npz(packed)


@pytest.mark.parametrize("name", sorted(bad_npy()))
def test_a_bad_npy_has_no_shape_either(name: str, tmp_path: Path) -> None:
    data, message = bad_npy()[name]
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_npy(tmp_path / "a.npy", only_shape=True)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.npy"):
        read_npy(tmp_path / "gone.npy")
