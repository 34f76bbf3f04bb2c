"""What every test shares: the options, the shape checks on tensors, and a clean random state."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from hypothesis import settings

# One thread for each process: tests share few cores, and waiting threads burn what the others need.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Programs that tests start find the package compiled: hundreds would compile it anew where Python may keep nothing.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Programs that tests start import `helpers` as the tests do.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))

# The shapes in these modules' signatures are checked while tests run, and only then.
SHAPE_CHECKED = [
    "frameloom._davenet",
    "frameloom.fuse",
    "frameloom.train.evaluate.metrics",
    "frameloom.train.evaluate.parts",
    "frameloom.train.data.tokens",
]
jaxtyping.install_import_hook(SHAPE_CHECKED, "beartype.beartype")


# A loaded machine is slow, and that is no fault of the code.
settings.register_profile("frameloom", deadline=None)
settings.load_profile("frameloom")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=Path(__file__).parent / "golden" / "cases",
        help="folder of golden cases (NAME.json beside NAME.npz); one test is made of each",
    )
    parser.addoption(
        "--clips-dir",
        type=Path,
        help="folder of real videos for the slow test that damages files; without it, it makes its own",
    )


@pytest.fixture(autouse=True, scope="module")
def _no_wait_for_the_disk(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nobody pulls the plug: a synced descriptor has to be open, and its disk is waited for in `store/` and benchmarks.

    Programs that tests start and kill sync as they always do.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name not in ("store", "benchmarks"):
            patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    """Every test starts from the same seeds and leaves the generators as it found them."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    with _torch_random_state():
        yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)


@contextmanager
def _torch_random_state() -> Iterator[None]:
    """The same for torch, where a test's module has imported it: tests that do without it stay fast."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
