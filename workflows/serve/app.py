"""The application: API, page and problems put together, and the server that runs it."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.resources import files
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from ..._files import cache_folder
from ..._version import __version__
from ..._vocabulary import ConfigError, FrameloomError, InputError, IntegrityError, LockedError, MediaError
from ...extract.decode import Limits
from .answers import Health, Problem
from .api import PROBLEMS, Service, router
from .media import PictureCache, Pictures
from .projects import named_projects
from .security import Guard, ImpatientProtocol, ServeSettings, problem

log = logging.getLogger("frameloom.serve")
PAGE_TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
_DRAWING_LIMITS = Limits(seconds=60.0)


def build_app(configs: Sequence[str], settings: ServeSettings) -> Guard:
    """The whole application over projects, given as `FILE` or `NAME=FILE`.

    Raises ConfigError for a project that cannot be opened.
    """
    limits = Limits(
        seconds=settings.decode_seconds,
        max_pixels=settings.upload_pixels,
        max_duration_seconds=settings.upload_seconds,
        max_streams=16,
    )
    projects = named_projects(configs, limits)
    cache = PictureCache(cache_folder("serve"), settings.cache_bytes)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = Service(projects, Pictures(cache, _DRAWING_LIMITS), Pictures(cache, _DRAWING_LIMITS), settings)
        app.state.service = service
        service.warm()
        try:
            yield
        finally:
            service.close()

    app = FastAPI(
        title="frameloom",
        version=__version__,
        description="Search in collections of videos. Times are seconds, intervals half-open; nothing is written.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # their pages load scripts of other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    app.include_router(router)

    @app.get("/healthz", summary="Whether the server runs.", responses={400: PROBLEMS[400], 421: PROBLEMS[421]})
    async def healthz() -> Health:
        return Health(status="ok")

    _add_page(app)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(FrameloomError, _failed)
    app.add_exception_handler(Exception, _broken)
    app.openapi = lambda: _openapi(app, FastAPI.openapi)  # type: ignore[method-assign]
    return Guard(app, settings)


def _add_page(app: FastAPI) -> None:
    """The page's few files, held in memory: no address is ever a path of this machine."""
    for file in files(__package__).joinpath("page").iterdir():
        name = file.name
        kind = PAGE_TYPES.get("." + name.rpartition(".")[2])
        if kind is None:
            continue
        data = file.read_bytes()

        async def asset(data: bytes = data, kind: str = kind) -> Response:
            return Response(data, media_type=kind, headers={"cache-control": "no-cache"})

        app.add_api_route("/" if name == "index.html" else f"/page/{name}", asset, include_in_schema=False)


def _openapi(app: FastAPI, made: Callable[[FastAPI], dict[str, Any]]) -> dict[str, Any]:
    """FastAPI's document with our problems in place of its validation errors."""
    found = made(app)
    schemas = found["components"]["schemas"]
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    schemas["Problem"] = Problem.model_json_schema()
    return found


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), error.headers)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [{"where": ".".join(map(str, one["loc"])), "message": str(one["msg"])} for one in error.errors()]
    detail = "; ".join(f"{one['where']}: {one['message']}" for one in found)
    return problem(422, detail[:1000], errors=found[:20])


async def _failed(_request: Request, error: Exception) -> JSONResponse:
    """Our errors. What they say of files of this machine is for its log and not for clients."""
    match error:
        case MediaError():
            return problem(415, f"the file cannot be a question: {error.status.value}")
        case InputError():
            return problem(422, str(error)[:1000])
        case LockedError():
            return problem(503, "the store is locked: ask again", {"retry-after": "1"})
        case IntegrityError() | ConfigError():
            log.error("%s", error)
            return problem(
                500, "the project cannot be read: its owner finds the reason in the log of `frameloom serve`"
            )
    log.warning("%s", error)
    return problem(409, "nothing can be asked yet: run `frameloom sync`, and see the log of `frameloom serve`")


async def _broken(_request: Request, error: Exception) -> JSONResponse:
    log.error("a fault", exc_info=error)
    return problem(500, "a fault of the server: its owner finds it in the log")


def bound_socket(settings: ServeSettings) -> socket.socket:
    """A listening address. Raises ConfigError where it is not of this machine, or taken."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, number)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise ConfigError(f"cannot listen on {where}: {error.strerror or error}: give --host or --port") from None
    return found


def serve(configs: Sequence[str], settings: ServeSettings, *, say: Callable[[str], None]) -> None:
    """Answer until the process is ended.

    Args:
        configs: of the projects, each `FILE` or `NAME=FILE`.
        settings: where and how much. A token is made where one is needed and none is given.
        say: prints the address, and the token where one is needed.

    Raises:
        ConfigError: a project cannot be opened, or the address cannot be listened on.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a few words are slower by several threads than by one
    if settings.token is None and not settings.is_local:
        settings = settings.replaced(token=secrets.token_urlsafe(32))
    app = build_app(configs, settings)
    held = bound_socket(settings)
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    secret = f"/#token={settings.token}" if settings.token is not None else "/"
    say(f"http://{name}:{held.getsockname()[1]}{secret}")
    make_server(app, settings).run(sockets=[held])


def make_server(app: Guard, settings: ServeSettings) -> uvicorn.Server:
    """A server for the application, which trusts no header of a proxy and waits for nobody."""
    protocol = type("Protocol", (ImpatientProtocol,), {"patience_seconds": settings.patience_seconds})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=32 * 1024,
    )
    return uvicorn.Server(config)
