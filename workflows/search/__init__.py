"""Search: questions in any mixture of words, pictures and sound, answered from the table."""

from .session import Query, Result, SearchSession

__all__ = ["Query", "Result", "SearchSession"]
