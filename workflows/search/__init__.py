"""Search: questions in any mixture of words, pictures and sound, and a question over the time of one video."""

from .explain import explained
from .results import Result, Results
from .session import Query, SearchSession, stamp_of
from .timeline import Timeline, question_timeline, trained

__all__ = [
    "Query",
    "Result",
    "Results",
    "SearchSession",
    "Timeline",
    "explained",
    "question_timeline",
    "stamp_of",
    "trained",
]
