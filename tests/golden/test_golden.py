"""Every golden case in a folder, against our component: `pytest tests/golden --golden-dir DIR`.

A case's adapter is chosen by its "class or function" among the ADAPTERS of all modules in adapters/: the longest key
that this text begins with. A case that no adapter knows fails.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from golden.golden_case import Case
from numpy.typing import NDArray

Adapter = Callable[[Case], dict[str, NDArray[Any]]]


@cache
def adapters() -> dict[str, Adapter]:
    """The ADAPTERS of every module in adapters/, merged. A key that two modules claim is an error."""
    merged: dict[str, Adapter] = {}
    for path in sorted((Path(__file__).parent / "adapters").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"golden_adapters_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for key, adapter in module.ADAPTERS.items():
            if key in merged:
                raise ValueError(f"two golden adapters are called {key!r} (one of them in {path.name})")
            merged[key] = adapter
    return merged


def find_adapter(component: str) -> Adapter | None:
    """The adapter with the longest key that begins `component` and ends there at the end of a word."""

    def fits(key: str) -> bool:
        following = component[len(key) : len(key) + 1]
        return component.startswith(key) and not (following.isalnum() or following == "_")

    return max(((key, adapter) for key, adapter in adapters().items() if fits(key)), default=("", None),
               key=lambda pair: len(pair[0]))[1]  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" not in metafunc.fixturenames:
        return
    folder = metafunc.config.getoption("--golden-dir")
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise pytest.UsageError(f"no golden case (NAME.json beside NAME.npz) in {folder}")
    metafunc.parametrize("golden_case", [pytest.param(Case(path), id=path.stem) for path in paths])


def test_golden(golden_case: Case) -> None:
    adapter = find_adapter(golden_case.component)
    if adapter is None:
        pytest.fail(f"no adapter in tests/golden/adapters knows {golden_case.component!r}")
    differences = golden_case.differences(adapter(golden_case))
    assert not differences, "\n".join(differences)
