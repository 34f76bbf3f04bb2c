"""Shared parts of commands: common options, answers, failures, and groups."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol

import typer
import typer.core

from ..._environment import broken_environment
from ..._vocabulary import ExitCode, FrameloomError

if TYPE_CHECKING:
    from ..project import Project

DEFAULT_CONFIG = Path("frameloom.yaml")

ConfigPath = Annotated[Path, typer.Option("-c", "--config", help="The project's configuration.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on standard error.")]


class Answer(Protocol):
    """The result of a command: a report whose `as_dict` `--json` prints."""

    @property
    def exit_code(self) -> int: ...

    def lines(self) -> Iterable[str]: ...


def open_project(
    path: Path, *, recipe: str | None = None, scheduler: str | None = None, read_only: bool = False
) -> Project:
    """The project of a configuration, where options of the command line take the place of some of its keys."""
    from ..project import Project

    project = Project.open(path, read_only=read_only)
    config = project.config
    if recipe is not None:
        config = config.model_copy(update={"training": config.training.model_copy(update={"recipe": recipe})})
    if scheduler is not None:
        config = config.model_copy(update={"run": config.run.model_copy(update={"scheduler": scheduler})})
    return project if config is project.config else Project(config, project.base, read_only=read_only)


def show(found: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print a report, a list of them, or plain data as one JSON document; or these lines."""
    for line in (
        [json.dumps(found, default=lambda report: report.as_dict(), ensure_ascii=False, indent=1)] if as_json else lines
    ):
        print(line)


def answer(found: Answer, *, as_json: bool) -> NoReturn:
    show(found, found.lines(), as_json=as_json)
    raise typer.Exit(found.exit_code)


class Commands(typer.core.TyperGroup):
    """The commands. Our errors are one line on standard error and an exit code; all else is a bug with a traceback."""

    def invoke(self, ctx: Any) -> Any:
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
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)
