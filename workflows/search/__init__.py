"""Search: questions in any mixture of words, pictures and sound, and a question over the time of one video."""

from .explain import explained
from .results import Candidate, Reranking, Result, Results, reranking_of
from .session import Query, SearchSession, stamp_of
from .timeline import Timeline, question_timeline, trained

__all__ = [
    "Candidate",
    "Query",
    "Reranking",
    "Result",
    "Results",
    "SearchSession",
    "Timeline",
    "explained",
    "question_timeline",
    "reranking_of",
    "stamp_of",
    "trained",
]
