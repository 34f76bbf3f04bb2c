from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys, pathlib
from frameloom.store import ClipTable, FeatureStore, Ledger
loaded = lambda: sorted({"h5py", "lancedb", "pyarrow", "torch", "av"} & set(sys.modules))
steps = [loaded()]
root = pathlib.Path(sys.argv[1])
table = ClipTable(root / "vectors")
table.exists(), table.version(), table.recover(None), FeatureStore(root), Ledger(root).table_version("x")
steps.append(loaded())
len(FeatureStore(root))
steps.append(loaded())
print(json.dumps(steps))
"""


def test_nothing_heavy_is_loaded_before_it_is_needed(tmp_path):
    from helpers.stores import write_all

    write_all(tmp_path)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], [], ["pyarrow"]]
