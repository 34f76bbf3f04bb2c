"""TODO door of workflows/search."""

from .query import Query, Result, embed_sample, search, serving_checkpoint, words_of

__all__ = ["Query", "Result", "embed_sample", "search", "serving_checkpoint", "words_of"]
