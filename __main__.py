"""`python -m frameloom` is the command `frameloom`."""

from __future__ import annotations

from .workflows.cli import main

if __name__ == "__main__":
    main()
