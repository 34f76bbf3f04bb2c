"""Programs that tests start in a process of their own, to be killed there or to meet another one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any


def run_python(code: str, *arguments: str, **options: Any) -> str:
    """What some lines of Python print, run by an interpreter of their own."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout
