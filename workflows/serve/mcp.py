"""`frameloom mcp`: the tools `search` and `clip` for programs that speak the Model Context Protocol, over a pipe.

Read-only, and through the same projects as the server: ids, never paths. The official package `mcp` does the protocol.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from ..._files import cache_folder
from ..._vocabulary import FrameloomError, InputError
from ...extract.decode import Limits
from ..search import Query
from .media import SIDES, PictureCache, Pictures
from .projects import SENSES, ServedClip, ServedProject, named_projects, title_of
from .security import Refused

_CACHE_BYTES = 64 * 2**20
_READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)


def build_mcp(configs: Sequence[str]) -> MCPServer:
    """The tools over projects, given as `FILE` or `NAME=FILE`. Raises ConfigError for one that cannot be opened."""
    projects = named_projects(configs, Limits())
    pictures = Pictures(PictureCache(cache_folder("serve"), _CACHE_BYTES), Limits())
    turn = threading.Lock()  # sessions and the decoder are for one caller at a time
    first = next(iter(projects))
    server = MCPServer(
        "frameloom",
        instructions="Search in videos: `search` finds moments, `clip` shows one. Projects: " + ", ".join(projects),
    )

    def chosen(project: str | None) -> ServedProject:
        if (found := projects.get(project or first)) is None:
            raise ToolError(f"no project is called {project!r:.80}; there are {', '.join(projects)}")
        return found

    @server.tool(annotations=_READS)
    def search(
        question: str,
        project: str | None = None,
        sense: str = "all",
        filters: list[str] | None = None,
        merge: bool = False,
        top: int = 10,
    ) -> dict[str, Any]:
        """Find moments of videos by words. Scores order the answers and are no probabilities.

        Args:
            question: what is seen, heard or said in the moment.
            project: which collection; the first without it.
            sense: all, sight, sound, sight+sound or speech.
            filters: COLUMN:OPERATOR:VALUE each, with eq, ne, lt, le, gt, ge or has; all must hold.
            merge: join hits of one video that lie together.
            top: how many, from 1 to 50.
        """
        asked = chosen(project)
        if not 1 <= top <= 50 or (sense != "all" and sense not in SENSES):
            raise ToolError(f"top = {top}, sense = {sense!r:.40}: from 1 to 50, and one of all, {', '.join(SENSES)}")
        with turn, refusals():
            query = Query.ask(
                text=question,
                modalities=SENSES.get(sense),
                where=asked.condition(filters or [], None),
                merge=merge,
                top=top,
            )
            (found,) = asked.search([query])
        results = [
            {
                "clip": one.clip,
                "title": title_of(one.video),
                "start_seconds": one.start_seconds,
                "end_seconds": one.end_seconds,
                "captions": list(one.captions),
                "scores": {each.name: each.value for each in one.scores},
            }
            for one in found.results
        ]
        return {"project": asked.name, "version": found.version, "clips": found.pool, "results": results}

    @server.tool(annotations=_READS, structured_output=False)
    def clip(clip: str, project: str | None = None, seconds: float | None = None) -> list[Any]:
        """Show a clip that `search` found: what the collection says of it, and a picture.

        Args:
            clip: its id.
            project: which collection; the first without it.
            seconds: of which instant of the video the picture is; the clip's middle without it.
        """
        asked = chosen(project)
        with turn, refusals():
            found = asked.clip(clip)
            instant = round((found.start_seconds + found.end_seconds) / 2 if seconds is None else seconds, 1)
            key, kept = pictures.kept(found.path, "thumbnail", instant, SIDES[1])
            data = kept or pictures.make_thumbnail(key, found.path, instant, SIDES[1])
        return [described(found), Image(data=data, format="jpeg")]

    return server


def described(clip: ServedClip) -> dict[str, Any]:
    """What the collection says of a clip, without its path."""
    names = ("clip", "title", "start_seconds", "end_seconds", "split", "captions")
    return {**{name: getattr(clip, name) for name in names}, "metadata": dict(clip.metadata)}


@contextmanager
def refusals() -> Iterator[None]:
    """Our errors as the protocol's, without paths of this machine."""
    try:
        yield
    except Refused as error:
        raise ToolError(str(error.detail)) from None
    except InputError as error:
        raise ToolError(str(error)) from None
    except FrameloomError:
        raise ToolError("nothing can be asked: run `frameloom sync`, and see `frameloom status`") from None
