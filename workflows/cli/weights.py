"""The commands `weights list` and `weights fetch`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..console import Console
from .options import AsJson, ListsByDefault, Pattern, Quiet, show

weights_app = typer.Typer(cls=ListsByDefault, rich_markup_mode=None)


@weights_app.callback()
def _weights() -> None:
    """Published weights of the backbones: where they come from, under which terms, and which are on this machine.

    `frameloom weights` lists them all, `frameloom weights 'resnet*'` some. Example of the rest of the way:
    `frameloom weights fetch resnet152`, then `weights: imagenet1k_v1` under features.video in frameloom.yaml.
    """


@weights_app.command("list")
def list_weights(pattern: Pattern = "*", as_json: AsJson = False) -> None:
    """List the published weights of every backbone, or of those that match. The default when no command is given.

    Example: frameloom weights list 'resnet*' --json
    """
    from ..sync import weights as published

    found = published.list_weights(pattern)
    show(found, published.weights_lines(found), as_json=as_json)


@weights_app.command("fetch")
def fetch_weights(
    backbone: Annotated[str, typer.Argument(help="A name that `frameloom backbones` lists.")],
    tag: Annotated[
        str | None,
        typer.Argument(
            help="Which of its weights, or a whole model: hf://OWNER/NAME@REVISION. [default: the first listed]"
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fetch published weights into this machine's cache and check their hash. A cut download begins anew.

    The cache is the folder that FRAMELOOM_CACHE names, or frameloom in the user's cache folder.

    Example: frameloom weights fetch resnet152 imagenet1k_v1
    """
    from ..sync import weights as published

    found = published.fetch(backbone, tag, Console(quiet=quiet))
    lines = (
        f"{found.path}: {found.backbone} {found.tag}, sha256 {found.file_sha256}",
        f"use it with `weights: {found.tag}` in frameloom.yaml; licence: {found.licence}",
    )
    show(found, lines, as_json=as_json)
