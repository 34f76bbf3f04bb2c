"""How fast the whole path is, by the wall clock, on a small world of the laboratory. Run with `make bench`.

Prints clips a second for rendering, extraction, training and embedding, and the seconds that a sync takes which has
nothing to do, each as a process of its own. Absolute figures depend on the machine: results are kept beside this file
with the machine and the date.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from frameloom.workflows.experiments.demo import write_demo_config
from frameloom.workflows.laboratory.world import World, make_collection

WORLD = World(num_train=160, num_val=0, num_test=40, seed=3)
NOTHING_TO_DO_SECONDS = 5.0


def run(folder: Path, *arguments: str) -> tuple[float, dict[str, object]]:
    """Wall-clock seconds and the JSON answer of one command."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "frameloom.workflows.cli", *arguments, "--json", "-q"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return time.monotonic() - begun, json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_whole_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    make_collection(tmp_path, WORLD)
    rendered = time.monotonic() - begun
    write_demo_config(tmp_path, seed=WORLD.seed)
    extracted, report = run(tmp_path, "extract")
    trained, _ = run(tmp_path, "train")
    embedded, table = run(tmp_path, "embed")
    idle, nothing = run(tmp_path, "sync")
    with capsys.disabled():
        print(f"\n{WORLD.num_clips} clips of {WORLD.seconds:g} s, {WORLD.size} pixels, set-up of processes included")
        for name, seconds in (("render", rendered), ("extract", extracted), ("embed", embedded)):
            print(f"  {name:9} {seconds:6.1f} s  {WORLD.num_clips / seconds:6.1f} clips/s")
        print(f"  train     {trained:6.1f} s\n  sync with nothing to do {idle:.2f} s")
    assert report["indexed"] == WORLD.num_clips
    assert table["done"]["embedded"] == WORLD.num_clips  # type: ignore[index]
    assert not any(nothing["done"].values())  # type: ignore[attr-defined]
    assert idle < NOTHING_TO_DO_SECONDS
