"""`python -m frameloom` is the command `frameloom`."""

from __future__ import annotations

from .workflows.cli.app import main

if __name__ == "__main__":
    main()
