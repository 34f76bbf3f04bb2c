"""Run as a program: in copies of a project, children import or export and are killed at fail points. Prints JSON.

The children are forked from one process that has loaded everything and started no thread, which makes a kill cheap.

    killed_exchanges.py import PROJECT GIVEN BASE FAIL_POINT ...
    killed_exchanges.py npy|parquet|webdataset PROJECT GIVEN BASE FAIL_POINT ...
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import frameloom.store  # noqa: F401 - loaded before the forks
from frameloom._files import FAIL_POINT_VARIABLE
from frameloom.workflows.console import Console
from frameloom.workflows.exchange import ingest
from frameloom.workflows.exchange.exporting import export
from frameloom.workflows.exchange.importing import ImportRequest, import_into
from frameloom.workflows.exchange.lengths import Lengths
from frameloom.workflows.project.project import Project

QUIET = Console(quiet=True)


def prepare(patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Shards of two, and no child that looks into files of a few bytes."""
    patch(ingest, "SHARD_SAMPLES", 2)
    patch(Lengths, "_measured", lambda *_: None)


def take(folder: Path, given: Path) -> None:
    """Import, and record the rest as absent."""
    import_into(Project.open(folder), ImportRequest(path=given, layout="npy", feature="video", absent=True), QUIET)


def write(folder: Path, out: Path, format: str) -> None:
    """Export."""
    export(Project.open(folder, read_only=True), out, format=format, console=QUIET)


def main() -> None:
    import h5py  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    prepare()
    command, project, given, base = sys.argv[1], *map(Path, sys.argv[2:5])
    signals = {}
    for point in sys.argv[5:]:
        place = base / point
        if command == "import":
            shutil.copytree(project, place, symlinks=True)
        child = os.fork()
        if not child:
            os.environ[FAIL_POINT_VARIABLE] = point
            take(place, given) if command == "import" else write(project, place, command)
            os._exit(0)
        signals[point] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(signals))


if __name__ == "__main__":
    main()
