"""What commands share: options that many have, how they answer, how they fail, and how they are grouped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol

import typer
import typer.core

from ..._environment import broken_environment
from ..._vocabulary import ExitCode, FrameloomError

DEFAULT_CONFIG = Path("frameloom.yaml")

ConfigPath = Annotated[Path, typer.Option("-c", "--config", help="The project's configuration.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on standard error.")]


class Answer(Protocol):
    """What a command found out: a report whose `model_dump` (or `as_dict`) `--json` prints."""

    @property
    def exit_code(self) -> int:
        """What the command returns to the shell."""
        ...

    def lines(self) -> Iterable[str]:
        """The report as text."""
        ...


def print_json(value: Any) -> None:
    """Print a report, a list of them, or plain data as one JSON document."""

    def plain(one: Any) -> Any:
        if isinstance(one, list | tuple):
            return [plain(each) for each in one]
        if hasattr(one, "model_dump"):
            return one.model_dump(mode="json")
        return one.as_dict() if hasattr(one, "as_dict") else one

    print(json.dumps(plain(value), ensure_ascii=False, indent=1))


def show(value: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print a value as JSON, or these lines."""
    if as_json:
        print_json(value)
    else:
        for line in lines:
            print(line)


def answer(found: Answer, *, as_json: bool) -> NoReturn:
    """Print what was found out and end the command."""
    show(found, found.lines(), as_json=as_json)
    raise typer.Exit(found.exit_code)


class Commands(typer.core.TyperGroup):
    """The commands. Our errors are one line on standard error and an exit code; all else is a bug with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except FrameloomError as error:
            broken = broken_environment(error)  # a library may fail to load where a file is written
            print(f"frameloom: {broken or ' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(ExitCode.USAGE if broken else error.exit_code) from None
        except KeyboardInterrupt:
            print("frameloom: interrupted; the same command goes on from here", file=sys.stderr)
            raise typer.Exit(ExitCode.INTERRUPTED) from None


class ListsByDefault(typer.core.TyperGroup):
    """A group that has a command `list`, and gives it the words whose first is not the name of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the command line apart."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)
