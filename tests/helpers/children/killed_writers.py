"""Run as a program: for each fail point, a child writes a store and is killed there. Prints one JSON object.

The children are forked from one process that has loaded everything and started no thread, which makes a kill cheap.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import frameloom.store  # noqa: F401 - loaded before the forks
from frameloom._files import FAIL_POINT_VARIABLE


def main() -> None:
    import h5py  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    from helpers import stores as making

    base, points = Path(sys.argv[1]), sys.argv[2:]
    signals = {}
    for point in points:
        child = os.fork()
        if not child:
            os.environ[FAIL_POINT_VARIABLE] = point
            making.write_all(base / point)
            os._exit(0)
        signals[point] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(signals))


if __name__ == "__main__":
    main()
