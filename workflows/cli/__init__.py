"""The command line: one file for each group of commands."""

from .app import app, main

__all__ = ["app", "main"]
