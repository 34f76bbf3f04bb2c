"""`frameloom mcp`, asked by the official client over a pipe."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from frameloom.workflows.index import Index
from PIL import Image


def asked(project: Path, *calls: tuple[str, dict[str, Any]], cache: Path) -> tuple[Any, list[Any]]:
    """The tools of a server of this project, and what these calls of them give."""
    from mcp import ClientSession, StdioServerParameters, stdio_client

    async def talk() -> tuple[Any, list[Any]]:
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-m", "frameloom", "mcp", "-c", str(project)],
            env={**os.environ, "FRAMELOOM_CACHE": str(cache)},
        )
        async with stdio_client(parameters) as (reading, writing), ClientSession(reading, writing) as session:
            await session.initialize()
            tools = await session.list_tools()
            return tools, [await session.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(talk())


@pytest.mark.slow
def test_the_official_client_searches_and_sees(synced_once: Path, tmp_path: Path) -> None:
    (first,) = Index(synced_once).search("a red picture", top=1)
    tools, (found, clip, filtered, *wrong) = asked(
        synced_once,
        ("search", {"question": "a red picture", "top": 3}),
        ("clip", {"clip": first.clip}),
        ("search", {"question": "red", "filters": ["split:eq:test"]}),
        ("search", {"question": "xylophone"}),
        ("search", {"question": "red", "filters": ["path:has:/"]}),
        ("search", {"question": "red", "top": 0}),
        ("search", {"question": "red", "project": "other"}),
        ("clip", {"clip": "' OR true --"}),
        cache=tmp_path,
    )
    assert {one.name for one in tools.tools} == {"search", "clip"}
    assert all(one.annotations.read_only_hint for one in tools.tools)
    answers = json.loads(found.content[0].text)
    assert answers["results"][0]["clip"] == first.clip
    assert len(answers["results"]) == 3
    assert len(json.loads(filtered.content[0].text)["results"]) == 2
    described, picture = clip.content
    assert json.loads(described.text)["clip"] == first.clip
    assert min(Image.open(io.BytesIO(base64.b64decode(picture.data))).size) == 240
    assert all(one.is_error for one in wrong)
    said = "".join(one.model_dump_json() for one in (found, clip, filtered, *wrong))
    assert str(synced_once) not in said
    assert ".mp4" not in said
