"""TODO door of workflows/health."""

__all__ = []
