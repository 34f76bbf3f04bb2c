"""The command `frameloom`, also as `python -m frameloom`: nothing is imported before it can be said what is broken."""

from __future__ import annotations

import sys

from ._environment import broken_environment


def main() -> None:
    """Run the command line. A library that is missing or does not load is one line and exit code 2."""
    try:
        from .workflows.cli.app import main as command

        command()
    except Exception as error:
        if (line := broken_environment(error)) is None:
            raise
        print(f"frameloom: {line}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
