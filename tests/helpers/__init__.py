"""What tests share: media, stores, projects, and programs that are killed. `from helpers.media import ...`."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test on a developer's machine. Fail where CI=true: a promise that CI does not test is not kept."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{reason}; under CI=true this test may not be skipped")
    pytest.skip(reason)
