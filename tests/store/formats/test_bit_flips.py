"""Two hundred single flipped bits: each that changes data is found and named, and nothing but what it hit is lost."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest
from frameloom.store import FeatureStore, Kind, repair_features, verify_features
from frameloom.store.formats.sidecar import read_sidecar
from helpers import oracle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NUM_FLIPS = 200


@pytest.fixture(scope="module", params=["as it was written", "compacted"])
def whole(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    oracle.write(root)
    if request.param == "compacted":
        oracle.compact(root)
    return root


def keys_hit(shard, data, place):
    """The samples whose numbers one byte of a shard belongs to, found by looking for their bytes."""
    entries = read_sidecar(shard.with_suffix(".parquet"), shard_path=shard)
    answers = [oracle.answer(entry.key) for entry in entries]
    hit = set()
    for part in ("values", "times"):
        rows = np.concatenate([getattr(answer, part) for answer in answers])
        begin = data.index(rows.tobytes())  # all in one chunk
        row = (place - begin) // rows[0].nbytes
        if 0 <= place - begin < rows.nbytes:
            hit |= {e.key for e in entries if e.first_row <= row < e.first_row + e.num_rows}
    return hit


def flips(root, seed):
    """Paths, places and bits: evenly over shards and sidecars, and within a file anywhere."""
    chance = random.Random(seed)
    files = sorted(path for path in root.rglob("*") if path.suffix in (".h5", ".parquet"))
    for _ in range(NUM_FLIPS // 2):
        path = chance.choice(files)
        yield path, chance.randrange(path.stat().st_size), 1 << chance.randrange(8)


def test_every_flip_that_changes_data_is_found_named_and_mended(whole, tmp_path):
    outcomes = dict.fromkeys(("rows", "shard metadata", "sidecar rebuilt", "sidecar lost", "harmless"), 0)
    for path, place, bit in flips(whole, seed=len(list(whole.rglob("*.h5")))):
        root = shutil.copytree(whole, tmp_path / "store")
        target = root / path.relative_to(whole)
        data = bytearray(target.read_bytes())
        data[place] ^= bit
        target.write_bytes(data)
        told = f"{path.name}, byte {place}, bit {bit}"
        store = FeatureStore(root)
        findings = list(verify_features(store))
        named = {finding.key for finding in findings if finding.kind is Kind.SAMPLE}
        lost = {key for repaired in repair_features(store) for key, _ in repaired.lost}
        if path.suffix == ".h5":
            expected = keys_hit(path, path.read_bytes(), place)
            assert named == lost == expected, told
            assert [finding.kind for finding in findings][:1] == [Kind.SHARD if expected else Kind.SHARD_METADATA], told
            outcomes["rows" if expected else "shard metadata"] += 1
        elif not findings:
            good = read_sidecar(path, shard_path=path.with_suffix(".h5"))
            assert read_sidecar(target, shard_path=target.with_suffix(".h5"))._columns == good._columns, told
            outcomes["harmless"] += 1
        else:
            keys = {entry.key for entry in read_sidecar(path, shard_path=path.with_suffix(".h5"))}
            assert named == keys, told
            assert lost in (set(), keys), told
            outcomes["sidecar lost" if lost else "sidecar rebuilt"] += 1
        assert list(verify_features(store)) == [], told
        assert set(oracle.KEYS) - {entry.key for entry in FeatureStore(root).entries()} == lost, told
        oracle.write(root)
        oracle.check(root, complete=True)
        shutil.rmtree(root)
    print(outcomes)
    assert outcomes["rows"] > 5
    assert outcomes["shard metadata"] > 5
    assert outcomes["sidecar lost"] + outcomes["sidecar rebuilt"] > 10
