"""One golden case: what the official implementation was given, and what came out of it.

An adapter takes a `Case`, builds our component with the case's configuration and weights, runs it on the case's inputs
and returns ``{output name: array}``. The case then compares, output by output. See README.md of the golden cases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from golden.golden_rule import fill_input, fill_weight
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

OUTPUT_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-5
_SLICE = re.compile(r"flattened \(C order\) ?\[::(\d+)\]")
_SENTENCE = re.compile(r"shape (\[[\d, ]*\])\. Stored as '([^']+)' = (.+?) and '([^']+)'")
_LOSS_WORDS = re.compile(r"\bloss\b|\bloss_info\b|\bgradient\b|\bd loss\b", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """A golden case, read from NAME.json and NAME.npz."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The whole JSON document."""
        return json.loads(self.path.read_text())

    @property
    def component(self) -> str:
        """The official class or function that was run: what adapters are chosen by."""
        return self.facts["class or function"]

    @property
    def config(self) -> dict[str, Any]:
        return self.facts["config"]

    @property
    def state_dict_spec(self) -> list[tuple[str, tuple[int, ...], str]]:
        """The official state dict as (key, shape, dtype)."""
        return [(key, tuple(shape), dtype) for key, shape, dtype in self.facts["state_dict"]]

    @cached_property
    def outputs(self) -> dict[str, NDArray[Any]]:
        """What the official implementation gave (a slice of it, where the case says so)."""
        with np.load(self.path.with_suffix(".npz"), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    def make_state_dict(self) -> dict[str, Tensor]:
        """The official weights under the official keys: floating-point entries by the rule, counters zero."""
        import torch

        weights = {}
        for key, shape, dtype in self.state_dict_spec:
            filled = self._weight(key, shape) if dtype.startswith("float") else np.zeros(shape, dtype)
            weights[key] = torch.from_numpy(np.array(filled))
        return weights

    def _weight(self, key: str, shape: tuple[int, ...]) -> NDArray[Any]:
        value = _filled(key, shape)
        for exception in self.facts.get("fill_exceptions", []):
            if re.search(exception["keys"], key):
                value = value * np.float32(exception["multiply"])
        return value

    def make_inputs(self) -> dict[str, NDArray[Any]]:
        """The inputs by name, as NumPy arrays."""
        return {name: _make_input(name, spec) for name, spec in self.facts["inputs"].items()}

    def differences(self, results: Mapping[str, NDArray[Any]]) -> list[str]:
        """One line for every output that is missing, misshapen or too far off; empty where all agree."""
        wanted = self.facts["outputs"].items()
        return [line for name, about in wanted for line in self._compare(name, self._about(name, about), results)]

    def _about(self, name: str, about: dict[str, Any] | str) -> dict[str, Any]:
        """What is told of an output; some cases tell it in one sentence."""
        if not isinstance(about, str):
            return about
        if told := _SENTENCE.search(about):
            shape, values, stored, stats = told.groups()
            return {"what": about, "shape": json.loads(shape), "stored": stored, "values": values, "stats": stats}
        return {"what": about, "shape": list(self.outputs[name].shape)}

    def _compare(self, name: str, about: dict[str, Any], results: Mapping[str, NDArray[Any]]) -> list[str]:
        if name not in results:
            return [f"{name}: the adapter gave no such output"]
        result = np.asarray(results[name])
        if list(result.shape) != about["shape"]:
            return [f"{name}: shape {list(result.shape)}, expected {about['shape']}"]
        tolerance = LOSS_TOLERANCE if _LOSS_WORDS.search(f"{name} {about.get('what', '')}") else OUTPUT_TOLERANCE
        lines = []
        if sliced := _SLICE.match(about.get("stored", "")):
            stats = [result.mean(dtype=np.float64), result.std(dtype=np.float64), np.abs(result).sum(dtype=np.float64)]
            told = self.outputs[about.get("stats", f"{name}__stats")]
            lines += _distance(f"{name} (statistics)", np.array(stats), told, tolerance)
            result = result.reshape(-1)[:: int(sliced[1])]
        return lines + _distance(name, result, self.outputs[about.get("values", name)], tolerance)


def _distance(name: str, result: NDArray[Any], expected: NDArray[Any], tolerance: float) -> list[str]:
    """Compare within `tolerance`, absolute or relative, whichever is wider at each element."""
    result, expected = np.asarray(result, np.float64), np.asarray(expected, np.float64)
    both_nan = np.isnan(result) & np.isnan(expected)
    off = np.where(both_nan, 0.0, np.abs(result - expected) / np.maximum(1.0, np.abs(expected)))
    if off.size == 0 or (off <= tolerance).all():
        return []
    worst = np.unravel_index(np.nanargmax(np.nan_to_num(off, nan=np.inf)), off.shape)
    where = tuple(int(i) for i in worst)
    return [f"{name}: {result[worst]:.8g} at {where}, expected {expected[worst]:.8g} (tolerance {tolerance:g})"]


@cache
def _filled(key: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """`fill_weight`, once for the many cases that share a part."""
    return fill_weight(key, shape)


def _make_input(name: str, spec: dict[str, Any]) -> NDArray[Any]:
    shape, kind = tuple(spec["shape"]), spec["kind"]
    if kind == "lengths":
        return (np.arange(shape[-1]) < np.array(spec["lengths"])[:, None]).astype(np.float32)
    if kind in ("given", "values"):
        value = np.asarray(spec["value"] if kind == "given" else spec["values"])
        dtype = spec.get("dtype", "float32" if value.dtype == np.float64 else value.dtype)
        return value.reshape(shape).astype(dtype)
    value = fill_input(name, shape, kind, spec.get("high") or 0)
    if "scale" in spec:
        value = (value * np.float32(spec["scale"])).astype(np.float32)
    return (value + np.float32(spec["shift"])).astype(np.float32) if "shift" in spec else value
