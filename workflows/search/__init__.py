"""Search: questions in any mixture of words, pictures and sound, and a question over the time of one video."""

from .alignment import Alignment, question_alignment
from .before import stamp_of
from .explain import explained
from .kept import KeptSession
from .results import Candidate, Reranking, Result, Results, reranking_of
from .session import Query, SearchSession
from .timeline import Timeline, embed_windows, question_timeline, trained, windows_of

__all__ = [
    "Alignment",
    "Candidate",
    "KeptSession",
    "Query",
    "Reranking",
    "Result",
    "Results",
    "SearchSession",
    "Timeline",
    "embed_windows",
    "explained",
    "question_alignment",
    "question_timeline",
    "reranking_of",
    "stamp_of",
    "trained",
    "windows_of",
]
