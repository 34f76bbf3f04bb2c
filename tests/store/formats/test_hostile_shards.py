"""Files that somebody made to do harm, or that merely are no shards: refused with a clear error, and nothing is done.

A store never shows a parser a file whose hash is not the committed one. Here that protection is off.
"""

from __future__ import annotations

import io
import json
import tarfile

import h5py
import numpy as np
import pytest
from frameloom._vocabulary import InputError, IntegrityError, canonical_json
from frameloom.store.formats import webdataset
from frameloom.store.formats.base import FORMATS, ShardReader, format_of
from helpers.stores import SPEC, make_sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SAMPLES = [make_sample("a.mp4", 3), make_sample("b.mp4", 0), make_sample("c.mp4", 70)]
NUM_ROWS = 73


def refusal(path):
    """What a reader says that checks no hash. Rows that nobody could have written are asked for too."""
    reader = ShardReader(lambda path: None)
    with pytest.raises(IntegrityError) as caught:
        reader.read(path, first=0, last=2)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def shard(tmp_path):
    def write(name):
        path = tmp_path / f"good{FORMATS[name].suffix}"
        with path.open("wb+", buffering=0) as target:
            FORMATS[name].write(target, SAMPLES, spec=SPEC)
        return path

    return write


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_good_shard_is_read_without_a_store(shard, name):
    opened = FORMATS[name].open(shard(name))
    values, times = opened.read(0, NUM_ROWS)
    np.testing.assert_array_equal(values, np.concatenate([sample.feature.values for sample in SAMPLES]))
    np.testing.assert_array_equal(times, np.concatenate([sample.feature.times for sample in SAMPLES]))
    np.testing.assert_array_equal(opened.read_times(70, 71), SAMPLES[2].feature.times[67:68])
    opened.close()


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("rows", [(-1, 1), (5, 4), (0, NUM_ROWS + 1), (10**15, 10**15 + 1), (0, 10**18)])
@pytest.mark.parametrize("verify", [False, True])
def test_rows_that_are_not_there_are_refused_before_memory_is_taken(shard, name, rows, verify):
    opened = FORMATS[name].open(shard(name))
    with pytest.raises(ValueError, match="were asked for"):
        opened.read(*rows, verify=verify)
    with pytest.raises(ValueError, match="were asked for"):
        opened.read_times(*rows)


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 512, b"\0" * 4096, b"\x89HDF\r\n\x1a\n" + b"\xff" * 900, b"PK\3\4" * 300]
)
def test_a_file_that_is_something_else_is_refused(tmp_path, name, content):
    path = tmp_path / f"other{FORMATS[name].suffix}"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_shard_cut_anywhere_is_refused(shard, name):
    path = shard(name)
    whole = path.read_bytes()
    for size in range(0, len(whole), 487):
        path.write_bytes(whole[:size])
        with pytest.raises((OSError, KeyError, ValueError)):
            FORMATS[name].open(path).read(0, NUM_ROWS)


def test_a_name_of_no_format_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.h5, \.tar"):
        format_of(tmp_path / "x.npy")


# HDF5


def damaged_hdf5(path, change):
    """A shard in which ``change`` has put something else in the place of `values`."""
    rows = np.zeros((NUM_ROWS, SPEC.dim), np.float16)
    with h5py.File(path, "w") as file:
        file.attrs["frameloom_format"] = 1
        file.attrs["spec"] = canonical_json(SPEC.identity())
        file["offsets"] = np.array([0, 3, 3, NUM_ROWS])
        file["keys"] = np.array([sample.key.encode() for sample in SAMPLES])
        file["fingerprints"] = np.array([sample.fingerprint.encode() for sample in SAMPLES])
        file["statuses"] = np.array([sample.feature.status.value.encode() for sample in SAMPLES])
        file.create_dataset("times", data=np.zeros((NUM_ROWS, 2)), chunks=(NUM_ROWS, 2), fletcher32=True)
        change(file, rows)
    return path


def with_rows(**settings):
    def change(file, rows):
        file.create_dataset("values", **{"data": rows, "chunks": (10, SPEC.dim), "fletcher32": True, **settings})

    return change


def gigantic(file, rows):
    file.create_dataset("values", shape=(10**15, SPEC.dim), dtype="f2", chunks=(10, SPEC.dim), fletcher32=True)
    del file["times"]
    file.create_dataset("times", shape=(10**15, 2), dtype="f8", chunks=(10, 2), fletcher32=True)


def with_a_hole(file, rows):
    data = file.create_dataset("values", shape=rows.shape, dtype="f2", chunks=(10, SPEC.dim), fletcher32=True)
    data[:40] = 1
    data[50:] = 1


def without_checksum_in_one_chunk(file, rows):
    data = file.create_dataset("values", shape=rows.shape, dtype="f2", chunks=(73, SPEC.dim), fletcher32=True)
    data.id.write_direct_chunk((0, 0), rows.tobytes(), filter_mask=1)


def external_storage(file, rows):
    file.create_dataset("values", shape=rows.shape, dtype="f2", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def virtual(file, rows):
    layout = h5py.VirtualLayout(shape=rows.shape, dtype="f2")
    layout[:] = h5py.VirtualSource("other.h5", "values", shape=rows.shape)
    file.create_virtual_dataset("values", layout)


def compact(file, rows):
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file.id, b"values", h5py.h5t.IEEE_F16LE, h5py.h5s.create_simple(rows.shape), settings)


def linked(link):
    def change(file, rows):
        with_rows()(file, rows)
        file.move("values", "elsewhere")
        file["values"] = link

    return change


def said_by(name, put):
    """A shard that is good but for one data set that says something of its samples."""

    def change(file, rows):
        with_rows()(file, rows)
        del file[name]
        put(file, name)

    return change


HOSTILE_HDF5 = {
    "fingerprints that are elsewhere": said_by(
        "fingerprints", lambda file, name: file.__setitem__(name, h5py.ExternalLink("/etc/passwd", "/x"))
    ),
    "fingerprints that are a link": said_by(
        "fingerprints", lambda file, name: file.__setitem__(name, h5py.SoftLink("/keys"))
    ),
    "fingerprints without end": said_by(
        "fingerprints", lambda file, name: file.create_dataset(name, shape=(10**12,), dtype="S32", chunks=(10,))
    ),
    "fingerprints of any length": said_by(
        "fingerprints", lambda file, name: file.create_dataset(name, shape=(3,), dtype=h5py.string_dtype())
    ),
    "fingerprints that are a group": said_by("fingerprints", lambda file, name: file.create_group(name)),
    "no fingerprints": said_by("fingerprints", lambda file, name: None),
    "offsets that go back": said_by(
        "offsets", lambda file, name: file.__setitem__(name, np.array([0, 9, 3, NUM_ROWS]))
    ),
    "offsets beyond the rows": said_by(
        "offsets", lambda file, name: file.__setitem__(name, np.array([0, 3, 3, NUM_ROWS + 1]))
    ),
    "offsets of fewer samples": said_by("offsets", lambda file, name: file.__setitem__(name, np.array([0, NUM_ROWS]))),
    "offsets that are fractions": said_by("offsets", lambda file, name: file.__setitem__(name, np.zeros(4))),
    "offsets that are one number": said_by("offsets", lambda file, name: file.create_dataset(name, data=0)),
    "a specification that is a number": lambda file, rows: (with_rows()(file, rows), file.attrs.create("spec", 7)),
    "an external link": linked(h5py.ExternalLink("/etc/passwd", "/values")),
    "an external link to a device": linked(h5py.ExternalLink("/dev/zero", "/values")),
    "a soft link": linked(h5py.SoftLink("/elsewhere")),
    "a soft link to nowhere": linked(h5py.SoftLink("/values")),
    "external storage": external_storage,
    "a virtual data set": virtual,
    "a group": lambda file, rows: file.create_group("values"),
    "nothing": lambda file, rows: None,
    "a named type": lambda file, rows: file.__setitem__("values", np.dtype("f2")),
    "contiguous": with_rows(chunks=None, fletcher32=False),
    "compact": compact,
    "no checksum": with_rows(fletcher32=False),
    "no checksum in one chunk": without_checksum_in_one_chunk,
    "compressed": with_rows(compression="gzip"),
    "shuffled": with_rows(shuffle=True),
    "a gigantic shape": gigantic,
    "a hole": with_a_hole,
    "narrow chunks": with_rows(chunks=(10, 3)),
    "one dimension": with_rows(data=np.zeros(NUM_ROWS, "f2"), chunks=(10,)),
    "three dimensions": with_rows(data=np.zeros((NUM_ROWS, 2, 2), "f2"), chunks=(10, 2, 2)),
    "no width": with_rows(data=None, shape=(NUM_ROWS, 0), dtype="f2", chunks=None, fletcher32=False),
    "float64": with_rows(dtype="f8"),
    "truths": with_rows(data=np.zeros((NUM_ROWS, 8), bool)),
    "the other byte order": with_rows(dtype=">f2"),
    "compound": with_rows(data=np.zeros((NUM_ROWS, 8), [("a", "f2"), ("b", "i4")])),
    "text": with_rows(data=np.full((NUM_ROWS, 8), b"x", "S2")),
    "text of any length": with_rows(data=None, shape=(NUM_ROWS, 8), dtype=h5py.string_dtype(), fletcher32=False),
    "arrays of any length": with_rows(
        data=None, shape=(NUM_ROWS, 8), dtype=h5py.vlen_dtype(np.float16), fletcher32=False
    ),
    "references": with_rows(data=None, shape=(NUM_ROWS, 8), dtype=h5py.ref_dtype),
    "an enumeration": with_rows(data=None, shape=(NUM_ROWS, 8), dtype=h5py.enum_dtype({"a": 1})),
    "fewer rows than times": with_rows(data=np.zeros((5, 8), "f2"), chunks=(5, 8)),
    "a newer format": lambda file, rows: (with_rows()(file, rows), file.attrs.modify("frameloom_format", 99)),
    "a format that is a list": lambda file, rows: (
        with_rows()(file, rows),
        file.attrs.create("frameloom_format", [1, 1]),
    ),
    "a format that is text": lambda file, rows: (with_rows()(file, rows), file.attrs.create("frameloom_format", "1")),
    "no format": lambda file, rows: (with_rows()(file, rows), file.attrs.__delitem__("frameloom_format")),
}


@pytest.mark.parametrize("kind", HOSTILE_HDF5)
def test_an_hdf5_file_that_is_no_shard_is_refused(tmp_path, kind):
    refusal(damaged_hdf5(tmp_path / "x.h5", HOSTILE_HDF5[kind]))


def test_the_same_file_with_nothing_wrong_is_read(tmp_path):
    opened = FORMATS["hdf5"].open(damaged_hdf5(tmp_path / "x.h5", with_rows()))
    assert opened.read(0, NUM_ROWS)[0].shape == (NUM_ROWS, SPEC.dim)


# Tar


def members_of(path):
    with tarfile.open(path, "r:") as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]


def tar_of(path, members, *, format=tarfile.USTAR_FORMAT, end=1024):
    with path.open("wb") as file:
        for member, data in members:
            member.size = len(data) if member.isreg() else 0
            file.write(member.tobuf(format))
            file.write(data.ljust(-(-len(data) // 512) * 512, b"\0"))
        file.write(bytes(end))
    return path


def edited(**changes):
    """A change that gives the third sample's values, an ordinary member, other properties."""

    def change(members):
        for name, value in changes.items():
            setattr(members[8][0], name, value)

    return change


def data_of(number, data):
    def change(members):
        members[number] = (members[number][0], data(members[number][1]) if callable(data) else data)

    return change


def facts_of(**changes):
    return data_of(7, lambda data: canonical_json({**json.loads(data), **changes}).encode())


def npy(array, **how):
    target = io.BytesIO()
    np.lib.format.write_array(target, array, **how)
    return target.getvalue()


def header_of(shape, *, descr="<f2", data=b""):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


VALUES = SAMPLES[2].feature.values
HOSTILE_TARS = {
    "a name that climbs": edited(name="../../evil.values.npy"),
    "a name that climbs later": edited(name="a/../../evil.values.npy"),
    "an absolute name": edited(name="/etc/cron.d/evil"),
    "an absolute name in the prefix": edited(name="/" + "a" * 90 + "/" + SAMPLES[2].fingerprint + ".values.npy"),
    "another name": edited(name="holiday.v1.final.npy"),
    "a name with a line end": edited(name=SAMPLES[2].fingerprint + ".values.npy\n"),
    "a name in capitals": edited(name=SAMPLES[2].fingerprint.upper() + ".values.npy"),
    "a name that is not ASCII": edited(name="\u00e9" * 32 + ".values.npy"),
    "a pickle": edited(name=SAMPLES[2].fingerprint + ".pyd"),
    "a symbolic link": edited(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a link": edited(type=tarfile.LNKTYPE, linkname=SAMPLES[0].fingerprint + ".json"),
    "a link name in a file": edited(linkname="/etc/passwd"),
    "a device": edited(type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "a block device": edited(type=tarfile.BLKTYPE),
    "a pipe": edited(type=tarfile.FIFOTYPE),
    "a folder": edited(type=tarfile.DIRTYPE),
    "a sparse file": edited(type=tarfile.GNUTYPE_SPARSE),
    "a contiguous file": edited(type=tarfile.CONTTYPE),
    "an old file": edited(type=tarfile.AREGTYPE),
    "an unknown type": edited(type=b"Z"),
    "a sample twice": lambda members: members.extend(members[1:4]),
    "a member twice": lambda members: members.insert(8, members[8]),
    "a member less": lambda members: members.pop(),
    "no values": lambda members: members.pop(2),
    "another order": lambda members: members.insert(7, members.pop(8)),
    "members of two samples": lambda members: members.insert(2, members.pop(8)),
    "a sample less": lambda members: members.__delitem__(slice(4, 7)),
    "no specification": lambda members: members.pop(0),
    "the specification last": lambda members: members.append(members.pop(0)),
    "the specification twice": lambda members: members.append(members[0]),
    "a specification that is a list": data_of(0, b"[]"),
    "a specification that is no JSON": data_of(0, b"{'frameloom_format': 1}"),
    "a specification that is deep": data_of(0, b"[" * 100_000),
    "a newer format": data_of(0, lambda data: data.replace(b'format":1', b'format":2')),
    "another width": data_of(0, lambda data: data.replace(b'"dim":8', b'"dim":4')),
    "no width": data_of(0, lambda data: data.replace(b'"dim":8', b'"dim":0')),
    "a width that is text": data_of(0, lambda data: data.replace(b'"dim":8', b'"dim":"8"')),
    "a gigantic width": data_of(0, lambda data: data.replace(b'"dim":8', b'"dim":1' + b"0" * 99)),
    "objects": data_of(0, lambda data: data.replace(b'"float16"', b'"O"')),
    "a type that is none": data_of(0, lambda data: data.replace(b'"float16"', b'"f2,f2,(9999,9999)f8"')),
    "an array of objects": data_of(8, npy(np.array([[{}] * 8] * 70, object), allow_pickle=True)),
    "an array of another type": data_of(8, npy(VALUES.astype("f4"))),
    "the other byte order": data_of(8, npy(VALUES.astype(">f2"))),
    "columns first": data_of(8, npy(np.asfortranarray(VALUES))),
    "one dimension": data_of(8, npy(VALUES.reshape(-1))),
    "three dimensions": data_of(8, npy(VALUES.reshape(70, 4, 2))),
    "another width of an array": data_of(8, npy(VALUES.reshape(140, 4))),
    "fewer rows than times": data_of(8, npy(VALUES[:-1])),
    "another version of NumPy's format": data_of(8, npy(VALUES, version=(2, 0))),
    "a gigantic shape": data_of(8, header_of((10**15, 8), data=VALUES.tobytes())),
    "a shape that overflows": data_of(8, header_of((2**61, 8))),
    "a shape of a thousand digits": data_of(8, header_of("1" * 1000 + ", 8")),
    "a negative shape": data_of(8, header_of((-70, 8), data=VALUES.tobytes())),
    "a shape that is code": data_of(8, header_of("(__import__('os').abort(), 8)")),
    "bytes after the array": data_of(8, lambda data: data + b"\0"),
    "an array that is cut": data_of(8, lambda data: data[:-1]),
    "an empty array file": data_of(8, b""),
    "a header that lies about its length": data_of(8, lambda data: data[:8] + b"\xff\xff" + data[10:]),
    "an npz": data_of(8, b"PK\3\4" + bytes(500)),
}


@pytest.mark.parametrize("kind", HOSTILE_TARS)
def test_a_tar_that_is_no_shard_is_refused(tmp_path, shard, kind):
    members = members_of(shard("webdataset"))
    HOSTILE_TARS[kind](members)
    before = set(tmp_path.iterdir())
    refusal(tar_of(tmp_path / "x.tar", members))
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "x.tar"}


def test_the_same_tar_with_nothing_wrong_is_read(tmp_path, shard):
    opened = FORMATS["webdataset"].open(tar_of(tmp_path / "x.tar", members_of(shard("webdataset"))))
    np.testing.assert_array_equal(opened.read(3, NUM_ROWS)[0], VALUES)


HOSTILE_FACTS = {
    "no checksums": facts_of(values_crc32=None),
    "too many checksums": facts_of(values_crc32=[1, 2]),
    "checksums that are text": facts_of(values_crc32=["1"]),
    "checksums that are too large": facts_of(values_crc32=[2**32]),
    "checksums below nothing": facts_of(values_crc32=[-1]),
    "another checksum": facts_of(values_crc32=[1]),
    "another checksum of times": facts_of(times_crc32=[1]),
    "other blocks": facts_of(block_bytes=1),
    "no object": data_of(7, b'"x"'),
    "no JSON": data_of(7, b"\xff\xfe"),
    "deep JSON": data_of(7, b'{"a":' * 100_000),
}


@pytest.mark.parametrize("kind", HOSTILE_FACTS)
def test_a_sample_that_lies_about_its_checksums_is_refused(tmp_path, shard, kind):
    members = members_of(shard("webdataset"))
    HOSTILE_FACTS[kind](members)
    path = tar_of(tmp_path / "x.tar", members)
    with pytest.raises(IntegrityError, match="cannot be read"):
        ShardReader(lambda path: None).read(path, first=3, last=5)


def test_json_without_end_is_not_read(tmp_path, shard, monkeypatch):
    monkeypatch.setattr("frameloom.store.formats.webdataset.MAX_JSON_BYTES", 100)
    assert "JSON" in refusal(shard("webdataset"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (slice(124, 136), b"\x80" + b"\xff" * 11),
        (slice(124, 136), b"77777777777\0"),
        (slice(124, 136), b"-0000001000\0"),
        (slice(124, 136), b"0x000001000\0"),
        (slice(124, 136), b"\0" * 12),
        (slice(257, 265), b"ustar  \0"),
        (slice(148, 156), b"000000\0 "),
        (slice(345, 346), b"/"),
    ],
)
def test_a_header_that_lies_is_refused(shard, field, value):
    path = shard("webdataset")
    data = bytearray(path.read_bytes())
    start = data.index(f"{SAMPLES[2].fingerprint}.values.npy".encode())
    header = data[start : start + 512]
    header[field] = value
    if field.start != 148:
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
    data[start : start + 512] = header
    path.write_bytes(data)
    refusal(path)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_extended_headers_are_refused(tmp_path, shard, format):
    members = members_of(shard("webdataset"))
    members[8][0].name = "a" * 200 + ".values.npy"
    refusal(tar_of(tmp_path / "x.tar", members, format=format))


@pytest.mark.parametrize("end", [0, 512])
def test_a_tar_without_its_end_mark_is_refused(tmp_path, shard, end):
    refusal(tar_of(tmp_path / "x.tar", members_of(shard("webdataset")), end=end))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_tar_with_any_bytes_changed_is_refused_or_gives_the_same_numbers(shard, data):
    path = shard("webdataset")
    changed = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=12))
        changed[place : place + len(piece)] = piece
    path.write_bytes(changed)
    webdataset._layout.cache_clear()  # the file before this one may have been written at the same tick of the clock
    try:
        opened = FORMATS["webdataset"].open(path)
        values, times = opened.read(0, NUM_ROWS)
    except (OSError, KeyError, ValueError):
        return
    np.testing.assert_array_equal(values, np.concatenate([sample.feature.values for sample in SAMPLES]))
    np.testing.assert_array_equal(times, np.concatenate([sample.feature.times for sample in SAMPLES]))
