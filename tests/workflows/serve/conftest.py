"""One server for all tests of a file that ask and change nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.children.serving import Running, served


@pytest.fixture(scope="module")
def answering(synced_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server over a synced project of eight clips, called `project`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMELOOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        with served([synced_once], upload_bytes=2 * 2**20, upload_seconds=10.0, upload_pixels=640 * 480) as running:
            yield running


@pytest.fixture
def client(answering: Running) -> Iterator[httpx.Client]:
    with answering.client() as found:
        yield found


@pytest.fixture(scope="module")
def clips(answering: Running) -> list[dict[str, Any]]:
    """All clips, as answers to a question."""
    with answering.client() as client:
        found = client.get("/api/v1/projects/project/search", params={"q": "a red picture", "top": 20})
    assert found.status_code == 200, found.text
    return json.loads(found.text)["results"]
