"""The commands `serve` and `mcp`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..._vocabulary import ConfigError
from .options import DEFAULT_CONFIG

TOKEN_VARIABLE = "FRAMELOOM_TOKEN"  # noqa: S105 - the name of a variable
Configs = Annotated[
    list[str] | None,
    typer.Option(
        "-c", "--config", metavar="[NAME=]FILE", help="A project's configuration. Repeatable. [default: frameloom.yaml]"
    ),
]


def serve(
    config: Configs = None,
    host: Annotated[str, typer.Option(help="An address of this machine; others than loopback demand a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8420,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file with the token. [default: the variable FRAMELOOM_TOKEN; else one is made if needed]"),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name of this server. Repeatable.")
    ] = None,
    upload_mb: Annotated[int, typer.Option(min=1, max=10_000, help="Largest file of a question.")] = 64,
    upload_seconds: Annotated[float, typer.Option(min=1, help="Longest file of a question.")] = 120.0,
    cache_mb: Annotated[int, typer.Option(min=0, help="Of pictures on disk.")] = 512,
    queue: Annotated[int, typer.Option(min=1, help="Questions that wait, before others are refused.")] = 256,
) -> None:
    """Answer questions in a browser and over HTTP: a page, and an API under /api/v1. Nothing of a project is written.

    Only this machine can ask, unless --host names another address; then a token is demanded, which is printed.

    Example: frameloom serve -c films/frameloom.yaml -c talks=other/frameloom.yaml
    """
    try:
        from ..serve import ServeSettings
        from ..serve import serve as run
    except ModuleNotFoundError as error:
        raise ConfigError(f"`frameloom serve` needs {error.name}. Type: pip install 'frameloom[serve]'") from None
    token = os.environ.get(TOKEN_VARIABLE)
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the token of {token_file} cannot be read: {error}") from None
    settings = ServeSettings(
        host=host,
        port=port,
        token=token,
        allowed_hosts=tuple(allow_host or ()),
        upload_bytes=upload_mb * 2**20,
        upload_seconds=upload_seconds,
        cache_bytes=cache_mb * 2**20,
        queue=queue,
    )
    run(config or [str(DEFAULT_CONFIG)], settings, say=lambda line: print(line, flush=True))


def mcp(config: Configs = None) -> None:
    """Answer programs that speak the Model Context Protocol on standard input and output, with two tools.

    `search` finds moments by words, `clip` shows one. Nothing of a project is written.

    Example: frameloom mcp -c films/frameloom.yaml
    """
    try:
        from ..serve.mcp import build_mcp
    except ModuleNotFoundError as error:
        raise ConfigError(f"`frameloom mcp` needs {error.name}. Type: pip install 'frameloom[serve,mcp]'") from None
    build_mcp(config or [str(DEFAULT_CONFIG)]).run("stdio")
