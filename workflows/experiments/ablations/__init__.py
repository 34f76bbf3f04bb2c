"""TODO door of workflows/experiments/ablations."""

__all__ = []
