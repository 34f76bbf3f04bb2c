from __future__ import annotations

import dataclasses
import os
import socket

import pytest
from frameloom._vocabulary import Status
from frameloom.store import Ledger, embedding_fingerprint, feature_fingerprint
from helpers.stores import SPEC


def test_a_feature_is_named_by_all_that_decides_its_numbers_and_by_nothing_else():
    name = feature_fingerprint("source", SPEC, "weights")
    assert len(name) == 32
    assert int(name, 16) >= 0
    assert feature_fingerprint("source", dataclasses.replace(SPEC, paper="another"), "weights") == name
    others = {
        feature_fingerprint("source2", SPEC, "weights"),
        feature_fingerprint("source", SPEC, "weights2"),
        *(
            feature_fingerprint("source", dataclasses.replace(SPEC, **change), "weights")
            for change in ({"rate_hz": 2.0}, {"dtype": "float32"}, {"revision": 2}, {"preprocessing": {}})
        ),
    }
    assert len(others) == 6
    assert name not in others


def test_an_embedding_is_named_by_its_features_its_model_and_how():
    features = {"video": "f1", "audio": "f2"}
    name = embedding_fingerprint(features, "model", start_seconds=0.0)
    assert name == embedding_fingerprint(dict(reversed(features.items())), "model", start_seconds=0.0)
    others = {
        embedding_fingerprint({"video": "f2", "audio": "f1"}, "model", start_seconds=0.0),
        embedding_fingerprint(features, "model2", start_seconds=0.0),
        embedding_fingerprint(features, "model", start_seconds=1.0),
    }
    assert len({name, *others}) == 4


def test_a_file_is_named_by_its_bytes(tmp_path):
    for name, content in [("a", b"x" * 3_000_000), ("b", b"x" * 3_000_000), ("c", b"x" * 2_999_999 + b"y")]:
        (tmp_path / name).write_bytes(content)
    digests = list(Ledger(tmp_path).digests_of_files(tmp_path / name for name in "abc").values())
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 64


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("missing", Status.MISSING),
        ("below a file", Status.MISSING),
        ("folder", Status.NOT_REGULAR_FILE),
        ("pipe", Status.NOT_REGULAR_FILE),
        ("socket", Status.NOT_REGULAR_FILE),
        ("device", Status.NOT_REGULAR_FILE),
        ("loop", Status.UNREADABLE),
    ],
)
def test_what_is_not_a_file_has_a_status_and_is_never_waited_for(tmp_path, monkeypatch, kind, status):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "thing.mp4"
    if kind == "below a file":
        path.write_text("")
        path /= "below"
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "loop":
        path.symlink_to(path)
    (found,) = Ledger(tmp_path, read_only=True).digests_of_files([path]).values()
    assert found.status is status
