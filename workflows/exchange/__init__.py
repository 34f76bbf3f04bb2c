"""TODO door of workflows/exchange."""

from .ingest import NOTHING

__all__ = ["NOTHING"]
