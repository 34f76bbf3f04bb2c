"""Shared parts of commands: common options, answers, failures, and groups."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol

import typer
import typer.core

from ..._environment import broken_environment
from ..._files import system_error
from ..._vocabulary import ExitCode, FrameloomError
from ..console import printable

if TYPE_CHECKING:
    from ..project import Project

DEFAULT_CONFIG = Path("frameloom.yaml")

ConfigPath = Annotated[Path, typer.Option("-c", "--config", help="The project's configuration.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else there.")]
Pattern = Annotated[str, typer.Argument(help="A shell pattern, such as 'resnet*'.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on standard error.")]


# JSON spells out other controls itself.
_UNSAFE = re.compile(r"[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


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


def without_tests(names: Iterable[str], pattern: str) -> list[str]:
    """Names to list: those made for tests only where they are asked for."""
    return [name for name in names if pattern.startswith("test") or not name.startswith("test_")]


def show(found: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print a report, a list of them, or plain data as one JSON document; or these lines."""
    if as_json:
        document = json.dumps(found, default=lambda report: report.as_dict(), ensure_ascii=False, indent=1)
        lines = [_UNSAFE.sub(lambda each: f"\\u{ord(each[0]):04x}", document)]
    for line in lines:
        tell(line)


def answer(found: Answer, *, as_json: bool) -> NoReturn:
    show(found, found.lines(), as_json=as_json)
    raise typer.Exit(found.exit_code)


class _OutputError(Exception):
    """An answer that reached nobody, with the reason; none where nobody reads any more, such as `head`."""


def tell(line: str) -> None:
    """One line on standard output."""
    if sys.stdout is None:
        raise _OutputError("it is closed")
    _write(f"{printable(line)}\n")


def _write(text: str) -> None:
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        if not text:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes once more when it ends
        raise _OutputError("" if error.errno == errno.EPIPE else error.strerror) from None


def say(line: str) -> None:
    """One line of ours on standard error, where there is one that can be written to."""
    with suppress(OSError, ValueError, RuntimeError):  # full or closed, or a signal in the middle of another line
        if sys.stderr is not None:
            print(printable(f"frameloom: {line}"), file=sys.stderr, flush=True)


class Commands(typer.core.TyperGroup):
    """The commands. Our errors are one line on standard error and an exit code; all else is a bug with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                _write("")  # what waits, of help as well
        except _OutputError as error:
            if str(error):
                say(f"standard output cannot be written to: {error}")
            raise typer.Exit(1) from None
        except FrameloomError as error:
            broken = broken_environment(error)  # a library may fail to load where a file is written
            say(broken or " ".join(str(error).split()))
            raise typer.Exit(ExitCode.USAGE if broken else error.exit_code) from None
        except OSError as error:
            if (explained := system_error(error)) is None:
                raise
            say(str(explained))
            raise typer.Exit(explained.exit_code) from None
        except KeyboardInterrupt:
            say("interrupted; the same command goes on from here")
            raise typer.Exit(ExitCode.INTERRUPTED) from None


class ListsByDefault(typer.core.TyperGroup):
    """A group that has a command `list`, and gives it the words whose first is not the name of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)
