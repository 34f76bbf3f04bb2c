"""What commands share: options that many have, how they answer, and how those that belong together are grouped."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol

import typer
import typer.core

DEFAULT_CONFIG = Path("frameloom.yaml")

ConfigPath = Annotated[Path, typer.Option("-c", "--config", help="The project's configuration.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on standard error.")]


class Answer(Protocol):
    """What a command found out."""

    @property
    def exit_code(self) -> int:
        """What the command returns to the shell."""
        ...

    def lines(self) -> Iterable[str]:
        """For a person."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        ...


def answer(found: Answer, *, as_json: bool) -> NoReturn:
    """Print what was found out and end the command."""
    if as_json:
        print(json.dumps(found.as_dict(), ensure_ascii=False, indent=1))
    else:
        for line in found.lines():
            print(line)
    raise typer.Exit(found.exit_code)


class ListsByDefault(typer.core.TyperGroup):
    """A group that has a command `list`, and gives it the words whose first is not the name of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the command line apart."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)
