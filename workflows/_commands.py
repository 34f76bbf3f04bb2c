"""How the command line groups commands that belong together."""

from __future__ import annotations

from typing import Any

import typer.core


class ListsByDefault(typer.core.TyperGroup):
    """A group that has a command `list`, and gives it the words whose first is not the name of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the command line apart."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)
