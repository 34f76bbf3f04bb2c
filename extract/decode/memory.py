"""How much of its memory limit the decoder subprocess has used. Runs in it only."""

from __future__ import annotations

import re
from pathlib import Path

from ..types import Limits

_PEAK = re.compile(r"^VmPeak:\s+(\d+) kB$", re.MULTILINE)
_MUCH = 0.75


def peak_bytes() -> int:
    """The largest address space that this process has had; 0 where the system does not say (it is not Linux)."""
    status = Path("/proc/self/status")
    found = _PEAK.search(status.read_text(encoding="ascii", errors="replace")) if status.exists() else None
    return 1024 * int(found.group(1)) if found else 0


def raise_if_memory_was_short(limits: Limits, *, spare_bytes: int) -> None:
    """Raise MemoryError when less than this was left of the limit at some time."""
    if peak_bytes() > limits.memory_bytes - spare_bytes:
        raise MemoryError


def needs_restart(limits: Limits) -> bool:
    """Whether so much has been used that a fresh process should read the next file."""
    return peak_bytes() > _MUCH * limits.memory_bytes
