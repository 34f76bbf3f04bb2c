"""Run as a program: for each job, a root and a fail point, a child writes a store, all at once. Prints their ends.

The children are forked from one process that has loaded everything and started no thread, which makes a kill cheap. The
fail point ``none`` is none; with ``fork`` the child reads, forks, and reads in its own child what it has not yet read.
"""

from __future__ import annotations

import json
import os
import sys
from types import ModuleType

import frameloom.store
from frameloom._files import FAIL_POINT_VARIABLE


def main() -> None:
    import h5py  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import s3fs  # noqa: F401

    from helpers import stores as making

    children = [fork(making, root, point) for root, point in json.loads(sys.argv[1])]
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))


def fork(making: ModuleType, root: str, point: str) -> int:
    child = os.fork()
    if not child:
        end = 1
        try:
            end = work(making, root, point)
        finally:
            os._exit(end)
    return child


def work(making: ModuleType, root: str, point: str) -> int:
    os.environ["FRAMELOOM_CACHE"] = f"{os.environ['FRAMELOOM_CACHE']}-{os.getpid()}"
    if point == "fork":
        return read_and_fork(making, root)
    if point != "none":
        os.environ[FAIL_POINT_VARIABLE] = point
    making.write_all(root)
    return 0


def read_and_fork(making: ModuleType, root: str) -> int:
    store = frameloom.store.FeatureStore(root)
    first, second = making.BATCHES[0][0], making.BATCHES[1][0]
    assert store.read(first.fingerprint).values.shape == first.feature.values.shape
    child = os.fork()
    if not child:
        found = store.read(second.fingerprint).values.tobytes()
        os._exit(0 if found == second.feature.values.tobytes() else 2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
