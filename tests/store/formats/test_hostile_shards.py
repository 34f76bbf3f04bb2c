"""Files that somebody made to do harm, or that merely are no shards: refused with a clear error, and nothing is done.

Readers take the places of rows from the sidecar and parse no shard. A repair parses shards whose hash is the committed
one, so that what is refused here would have to be written on purpose.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import h5py
import numpy as np
import pytest
from frameloom._vocabulary import InputError, IntegrityError, canonical_json
from frameloom.store.formats import FORMATS, encode_sidecar, format_of, one_line, read_sidecar
from frameloom.store.formats.checksums import block_checksums
from frameloom.store.formats.records import record_of
from helpers.stores import SPEC, make_sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SAMPLES = [make_sample("a.mp4", 3), make_sample("b.mp4", 0), make_sample("c.mp4", 70)]
NUM_ROWS = 73


def contents(path):
    with path.open("rb") as file:
        return format_of(path).contents(file)


def sidecar_of(path):
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    data = encode_sidecar(contents(path), num_bytes=path.stat().st_size, sha256=sha256)
    return read_sidecar("made anew", shard_path=path.with_stem(sha256[:32]), data=data)


def refusal(path):
    """What a repair says of a file that is no shard: its format refuses it, or the sidecar that it would have."""
    with pytest.raises((ValueError, IntegrityError)) as caught:
        sidecar_of(path)
    return one_line(caught.value)


@pytest.fixture
def shard(tmp_path):
    def write(name):
        path = tmp_path / f"good{FORMATS[name].suffix}"
        with path.open("wb+", buffering=0) as target:
            written = FORMATS[name].write(target, SAMPLES, spec=SPEC)
        assert written == contents(path)
        return path

    return write


def numbers(path, found):
    """The rows that the contents of a shard point to."""
    data = path.read_bytes()
    for offset, times_offset, sample in zip(found.values_offsets, found.times_offsets, found.samples, strict=True):
        size = sample.num_rows * SPEC.dim * 2
        values, times = data[offset : offset + size], data[times_offset : times_offset + sample.num_rows * 16]
        yield np.frombuffer(values, "f2").reshape(-1, SPEC.dim), np.frombuffer(times, "f8").reshape(-1, 2)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_good_shard_says_everything(shard, name):
    path = shard(name)
    found = contents(path)
    assert found.spec == canonical_json(SPEC.identity())
    for record, sample, (values, times) in zip(found.samples, SAMPLES, numbers(path, found), strict=True):
        assert (record.key, record.source_digest, record.fingerprint) == (
            sample.key,
            sample.source_digest,
            sample.fingerprint,
        )
        assert record.blocks == block_checksums(sample.feature.values, sample.feature.times).hex()
        np.testing.assert_array_equal(values, sample.feature.values)
        np.testing.assert_array_equal(times, sample.feature.times)


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
    for size in range(0, len(whole.rstrip(b"\0")) - 1, 487):  # what is behind the last member says nothing
        path.write_bytes(whole[:size])
        refusal(path)


def test_a_name_of_no_format_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.h5, \.tar"):
        format_of(tmp_path / "x.npy")


# HDF5


RECORDS = [record_of(sample).model_dump(mode="json") for sample in SAMPLES]


def damaged_hdf5(path, change):
    """A shard in which ``change`` has put something else in the place of `values`."""
    rows = np.zeros((NUM_ROWS, SPEC.dim), np.float16)
    with h5py.File(path, "w") as file:
        file.attrs["frameloom_format"] = 2
        file.attrs["spec"] = canonical_json(SPEC.identity())
        file["offsets"] = np.array([0, 3, 3, NUM_ROWS])
        file["keys"] = np.array([sample.key.encode() for sample in SAMPLES])
        file["samples"] = np.bytes_(canonical_json(RECORDS).encode())
        file.create_dataset("times", data=np.zeros((NUM_ROWS, 2)))
        change(file, rows)
    return path


def with_rows(**settings):
    def change(file, rows):
        file.create_dataset("values", **{"data": rows, **settings})

    return change


def with_records(*changes, **fields):
    """A shard that is good but for a field of the records of one sample, or for all of them."""

    def change(file, rows):
        with_rows()(file, rows)
        del file["samples"]
        said = [{**record} for record in RECORDS]
        said[2].update(fields)
        text = changes[0] if changes else canonical_json(said)
        file["samples"] = np.bytes_(text.encode())

    return change


def gigantic(file, rows):
    file.create_dataset("values", shape=(10**15, SPEC.dim), dtype="f2")
    del file["times"]
    file.create_dataset("times", shape=(10**15, 2), dtype="f8")


def never_written(file, rows):
    file.create_dataset("values", shape=rows.shape, dtype="f2")


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
    "records that are elsewhere": said_by(
        "samples", lambda file, name: file.__setitem__(name, h5py.ExternalLink("/etc/passwd", "/x"))
    ),
    "records of two gigabytes that were never written": said_by(
        "samples", lambda file, name: file.create_dataset(name, shape=(), dtype="S2147483647")
    ),
    "records that are a link": said_by("samples", lambda file, name: file.__setitem__(name, h5py.SoftLink("/keys"))),
    "records without end": said_by(
        "samples", lambda file, name: file.create_dataset(name, shape=(10**12,), dtype="S32", chunks=(10,))
    ),
    "records of any length": said_by(
        "samples", lambda file, name: file.create_dataset(name, shape=(), dtype=h5py.string_dtype())
    ),
    "records that are a list": said_by("samples", lambda file, name: file.__setitem__(name, np.array([b"[]"]))),
    "records that are a group": said_by("samples", lambda file, name: file.create_group(name)),
    "no records": said_by("samples", lambda file, name: None),
    "no samples": with_records("[]"),
    "records that are no JSON": with_records("'"),
    "records that are deep": with_records("[" * 100_000),
    "more rows than there are": with_records(num_rows=71),
    "fewer rows than there are": with_records(num_rows=69),
    "rows below nothing": with_records(num_rows=-1),
    "rows that overflow": with_records(num_rows=2**63),
    "a number of rows that is text": with_records(num_rows="70"),
    "a sample twice": with_records(fingerprint=SAMPLES[0].fingerprint),
    "a fingerprint that is not ASCII": with_records(fingerprint="\u00e9"),
    "no fingerprint": with_records(fingerprint=""),
    "an unknown status": with_records(status="perfect"),
    "a span that ends before it begins": with_records(extent=[2, 1]),
    "a span of one number": with_records(extent=[2]),
    "no checksums": with_records(blocks=""),
    "too many checksums": with_records(blocks="0" * 48),
    "checksums that are no digits": with_records(blocks="x" * 32),
    "an unknown field": with_records(more=1),
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
    "chunks": with_rows(chunks=(10, SPEC.dim)),
    "compact": compact,
    "compressed": with_rows(compression="gzip"),
    "a gigantic shape": gigantic,
    "rows that were never written": never_written,
    "one dimension": with_rows(data=np.zeros(NUM_ROWS, "f2")),
    "three dimensions": with_rows(data=np.zeros((NUM_ROWS, 2, 2), "f2")),
    "no width": with_rows(data=None, shape=(NUM_ROWS, 0), dtype="f2"),
    "float64": with_rows(dtype="f8"),
    "truths": with_rows(data=np.zeros((NUM_ROWS, 8), bool)),
    "the other byte order": with_rows(dtype=">f2"),
    "compound": with_rows(data=np.zeros((NUM_ROWS, 8), [("a", "f2"), ("b", "i4")])),
    "text": with_rows(data=np.full((NUM_ROWS, 8), b"x", "S2")),
    "text of any length": with_rows(data=None, shape=(NUM_ROWS, 8), dtype=h5py.string_dtype()),
    "arrays of any length": with_rows(
        data=None, shape=(NUM_ROWS, 8), dtype=h5py.vlen_dtype(np.float16), fletcher32=False
    ),
    "references": with_rows(data=None, shape=(NUM_ROWS, 8), dtype=h5py.ref_dtype),
    "an enumeration": with_rows(data=None, shape=(NUM_ROWS, 8), dtype=h5py.enum_dtype({"a": 1})),
    "fewer rows than times": with_rows(data=np.zeros((5, 8), "f2")),
    "a format that is a list": lambda file, rows: (
        with_rows()(file, rows),
        file.attrs.create("frameloom_format", [2, 2]),
    ),
    "a format that is text": lambda file, rows: (with_rows()(file, rows), file.attrs.create("frameloom_format", "2")),
    "no format": lambda file, rows: (with_rows()(file, rows), file.attrs.__delitem__("frameloom_format")),
}


@pytest.mark.parametrize("kind", HOSTILE_HDF5)
def test_an_hdf5_file_that_is_no_shard_is_refused(tmp_path, kind):
    refusal(damaged_hdf5(tmp_path / "x.h5", HOSTILE_HDF5[kind]))


def test_the_same_file_with_nothing_wrong_is_read(tmp_path):
    assert len(contents(damaged_hdf5(tmp_path / "x.h5", with_rows())).samples) == len(SAMPLES)


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
            setattr(members[9][0], name, value)

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
    "a device": edited(type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "a block device": edited(type=tarfile.BLKTYPE),
    "a pipe": edited(type=tarfile.FIFOTYPE),
    "a folder": edited(type=tarfile.DIRTYPE),
    "a sparse file": edited(type=tarfile.GNUTYPE_SPARSE),
    "a sample twice": lambda members: members.extend(members[1:4]),
    "a member twice": lambda members: members.insert(9, members[9]),
    "a member less": lambda members: members.pop(),
    "no values": lambda members: members.pop(3),
    "another order": lambda members: members.insert(8, members.pop(9)),
    "members of two samples": lambda members: members.insert(2, members.pop(9)),
    "a sample less": lambda members: members.__delitem__(slice(4, 7)),
    "no specification": lambda members: members.pop(0),
    "the specification last": lambda members: members.append(members.pop(0)),
    "the specification twice": lambda members: members.append(members[0]),
    "a specification that is a list": data_of(0, b"[]"),
    "a specification that is no JSON": data_of(0, b"{'frameloom_format': 2}"),
    "a specification that is deep": data_of(0, b"[" * 100_000),
    "another width": data_of(0, lambda data: data.replace(b'"dim":8', b'"dim":4')),
    "no width": data_of(0, lambda data: data.replace(b'"dim":8', b'"dim":0')),
    "a width that is text": data_of(0, lambda data: data.replace(b'"dim":8', b'"dim":"8"')),
    "a gigantic width": data_of(0, lambda data: data.replace(b'"dim":8', b'"dim":1' + b"0" * 99)),
    "objects": data_of(0, lambda data: data.replace(b'"float16"', b'"O"')),
    "a type that is none": data_of(0, lambda data: data.replace(b'"float16"', b'"f2,f2,(9999,9999)f8"')),
    "an array of objects": data_of(9, npy(np.array([[{}] * 8] * 70, object), allow_pickle=True)),
    "an array of another type": data_of(9, npy(VALUES.astype("f4"))),
    "the other byte order": data_of(9, npy(VALUES.astype(">f2"))),
    "columns first": data_of(9, npy(np.asfortranarray(VALUES))),
    "one dimension": data_of(9, npy(VALUES.reshape(-1))),
    "three dimensions": data_of(9, npy(VALUES.reshape(70, 4, 2))),
    "another width of an array": data_of(9, npy(VALUES.reshape(140, 4))),
    "fewer rows than times": data_of(9, npy(VALUES[:-1])),
    "another version of NumPy's format": data_of(9, npy(VALUES, version=(2, 0))),
    "a gigantic shape": data_of(9, header_of((10**15, 8), data=VALUES.tobytes())),
    "a shape that overflows": data_of(9, header_of((2**61, 8))),
    "a shape of a thousand digits": data_of(9, header_of("1" * 1000 + ", 8")),
    "a negative shape": data_of(9, header_of((-70, 8), data=VALUES.tobytes())),
    "a shape that is code": data_of(9, header_of("(__import__('os').abort(), 8)")),
    "a shape of many signs": data_of(9, header_of("-" * 3500 + "1")),
    "a key that is a number": data_of(9, header_of("(70, 8), 5: 1")),
    "a key that is a list": data_of(9, header_of("(70, 8), []: 1")),
    "bytes after the array": data_of(9, lambda data: data + b"\0"),
    "an array that is cut": data_of(9, lambda data: data[:-1]),
    "an empty array file": data_of(9, b""),
    "a header that lies about its length": data_of(9, lambda data: data[:8] + b"\xff\xff" + data[10:]),
    "an npz": data_of(9, b"PK\3\4" + bytes(500)),
}


@pytest.mark.parametrize("kind", HOSTILE_TARS)
def test_a_tar_that_is_no_shard_is_refused(tmp_path, shard, kind):
    members = members_of(shard("webdataset"))
    HOSTILE_TARS[kind](members)
    before = set(tmp_path.iterdir())
    refusal(tar_of(tmp_path / "x.tar", members))
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "x.tar"}


def test_the_same_tar_with_nothing_wrong_is_read(tmp_path, shard):
    path = tar_of(tmp_path / "x.tar", members_of(shard("webdataset")))
    *_, (values, times) = numbers(path, contents(path))
    np.testing.assert_array_equal(values, VALUES)
    np.testing.assert_array_equal(times, SAMPLES[2].feature.times)


HOSTILE_FACTS = {
    "no checksums": facts_of(blocks=None),
    "too many checksums": facts_of(blocks="0" * 48),
    "checksums that are numbers": facts_of(blocks=[1, 2]),
    "another number of rows": facts_of(num_rows=69),
    "another name": facts_of(fingerprint="f"),
    "an unknown status": facts_of(status="perfect"),
    "no object": data_of(7, b'"x"'),
    "no JSON": data_of(7, b"\xff\xfe"),
    "deep JSON": data_of(7, b'{"a":' * 100_000),
}


@pytest.mark.parametrize("kind", HOSTILE_FACTS)
def test_a_record_that_cannot_be_is_refused(tmp_path, shard, kind):
    members = members_of(shard("webdataset"))
    HOSTILE_FACTS[kind](members)
    refusal(tar_of(tmp_path / "x.tar", members))


def test_json_without_end_is_not_read(tmp_path, shard, monkeypatch):
    path = shard("webdataset")
    monkeypatch.setattr("frameloom.store.formats.webdataset.MAX_JSON_BYTES", 100)
    assert "JSON" in refusal(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (slice(124, 136), b"\x80" + b"\xff" * 11),
        (slice(124, 136), b"77777777777\0"),
        (slice(124, 136), b"-0000001000\0"),
        (slice(124, 136), b"0x000001000\0"),
        (slice(124, 136), b"\0" * 12),
        (slice(148, 156), b"000000\0 "),
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
    members[9][0].name = "a" * 200 + ".values.npy"
    refusal(tar_of(tmp_path / "x.tar", members, format=format))


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
    try:
        found = contents(path)
    except ValueError:
        return
    for record, sample, rows in zip(found.samples, SAMPLES, numbers(path, found), strict=True):
        if block_checksums(*rows).hex() == record.blocks:  # as a reader asks of them
            np.testing.assert_array_equal(rows[0], sample.feature.values)
            np.testing.assert_array_equal(rows[1], sample.feature.times)
