"""A stub backbone whose right answer is known in advance, and the programs that are killed while they store it.

The rows of a sample follow from a hash of its key alone, so the whole table can be written down without running
anything. Run as a program, `oracle.py ROOT STEP...` does the steps ``publish``, ``write`` and ``compact`` in turn, and
`oracle.py ROOT sweep NUM SEED` kills NUM children at random instants of ``write`` and ``compact``, and checks what they
leave. The children are forked from a process that has loaded everything and started no thread, which makes kills cheap.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from frameloom._vocabulary import FeatureArray, FeatureSpec, Modality, Status, digest_of
from frameloom.store import FeatureStore, Sample, exclusive_lock, feature_fingerprint, writer_lock
from frameloom.store.health import compact_features, verify_features

from helpers import stores

NUM_SAMPLES = 60
PER_SHARD = 4
SHARD_BYTES = 70_000  # several new shards come of one compaction
SPEC = FeatureSpec(
    name="oracle", modality=Modality.VIDEO, dim=96, rate_hz=1.0, sampling={"rule": "hash"}, preprocessing={}
)
KEYS = [f"clips/é {number:03d}.mp4" for number in range(NUM_SAMPLES)]


def answer(key: str) -> FeatureArray:
    """What the stub computes for one key: values (T, 96), T from 0 to 22, from SHAKE-256 of the key."""
    num_rows = hashlib.sha256(key.encode()).digest()[0] % 23
    if num_rows < 2:
        return FeatureArray.empty(SPEC, Status.UNDECODABLE, f"no answer for {key}")
    numbers = np.frombuffer(hashlib.shake_256(key.encode()).digest(num_rows * SPEC.dim), np.uint8)
    values = (numbers.reshape(num_rows, SPEC.dim).astype(np.float16) - 128) / 64
    starts = np.arange(num_rows, dtype=np.float64)
    return FeatureArray(values, np.stack([starts, starts + 1], axis=1), extent=(0.0, num_rows + 0.5))


def sample(key: str) -> Sample:
    source = digest_of(["oracle", key])
    return Sample(
        key=key, source_digest=source, fingerprint=feature_fingerprint(source, SPEC, "none"), feature=answer(key)
    )


def write(root: Path) -> None:
    """Store what is not there yet, in batches that are always cut in the same way."""
    with writer_lock(root):
        store = FeatureStore(root)
        store.sweep()
        for start in range(0, NUM_SAMPLES, PER_SHARD):
            batch = [sample(key) for key in KEYS[start : start + PER_SHARD]]
            if not all(one.fingerprint in store for one in batch):
                store.write_shard(SPEC.name, batch, spec=SPEC)


def compact(root: Path) -> None:
    with writer_lock(root), exclusive_lock(root):
        compact_features(FeatureStore(root), shard_bytes=SHARD_BYTES)


def check(root: Path, *, complete: bool) -> None:
    """Compare the whole table with the answers: nothing wrong, twice or damaged, and nothing missing if complete."""
    store = FeatureStore(root)
    entries = {entry.key: entry for entry in store.entries()}
    assert len(entries) == len(store)
    assert set(entries) == set(KEYS) if complete else set(entries) <= set(KEYS)
    for key, entry in entries.items():
        wanted, found = answer(key), store.read(entry.fingerprint)
        np.testing.assert_array_equal(found.values, wanted.values)
        np.testing.assert_array_equal(found.times, wanted.times)
        assert (found.status, found.message) == (wanted.status, wanted.message)
        assert entry.fingerprint == sample(key).fingerprint
        assert entry.end_seconds == (wanted.extent[1] if wanted.extent else None)
    assert [finding.message for finding in verify_features(store) if finding.is_damage] == []
    store.close()


def tree(root: Path) -> dict[str, bytes]:
    """Every file but the locks', which say who held them."""
    return stores.tree(root, without=(".lock", ".readers"))


def publish(root: Path) -> None:
    """One shard and its sidecar."""
    FeatureStore(root).write_shard(SPEC.name, [sample(key) for key in KEYS[:PER_SHARD]], spec=SPEC)


STEPS = {"publish": publish, "write": write, "compact": compact}


def forked(work: Callable[..., None], *given: Path, kill_after: float | None = None, **named: bool) -> int:
    """Do something in a child, killed after so many seconds. Returns how it ended."""
    child = os.fork()
    if not child:
        try:
            work(*given, **named)
        except BaseException:  # noqa: BLE001 - told by its exit status
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        watched = os.pidfd_open(child)
        select.select([watched], [], [], kill_after)  # or until it has ended by itself
        os.close(watched)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_and_compact(root: Path) -> None:
    write(root)
    compact(root)


def sweep(base: Path, num_kills: int, seed: int) -> None:
    """Raises AssertionError when a kill leaves anything but a store that is sound and ends with the same bytes."""
    chance = random.Random(seed)
    seconds: dict[Callable[[Path], None], float] = {}
    for name in ("first", "clean"):  # the second run is timed
        for work in (write, compact):
            begun = time.monotonic()
            assert forked(work, base / name) == 0
            seconds[work] = time.monotonic() - begun
    clean, killed, left = tree(base / "clean"), 0, Counter[str]()
    while killed < num_kills:
        root = base / "killed"
        for _ in range(chance.randint(1, 3)):
            work = write if killed % 2 else compact  # each is killed as often, however fast the machine is
            if work is compact:
                assert forked(write, root) == 0
            ended = forked(work, root, kill_after=chance.uniform(0, seconds[work]))
            assert ended in (0, -signal.SIGKILL), ended
            if ended:
                killed += 1
                left["compacting" if (root / ".compact.json").exists() else "writing"] += 1
            assert forked(check, root, complete=False) == 0
            if not ended:
                break
        assert forked(write_and_compact, root) == 0
        assert forked(check, root, complete=True) == 0
        found = tree(root)
        other = sorted(name for name in found.keys() | clean.keys() if found.get(name) != clean.get(name))
        assert not other, f"other bytes after {killed} kills (seed {seed}): {other}"
        assert forked(write_and_compact, root) == 0
        assert tree(root) == clean
        shutil.rmtree(root)
    print(json.dumps({"killed": killed, "left": left}))


def main() -> None:
    import h5py  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    root, *steps = sys.argv[1:]
    if steps[0] == "sweep":
        sweep(Path(root), *map(int, steps[1:]))
        return
    for step in steps:
        STEPS[step](Path(root))


if __name__ == "__main__":
    main()
