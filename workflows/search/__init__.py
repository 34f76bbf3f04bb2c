"""Search: questions in any mixture of words, pictures and sound, and a question over the time of one video."""

from .session import Query, Result, SearchSession, stamp_of
from .timeline import Timeline, question_timeline, trained

__all__ = ["Query", "Result", "SearchSession", "Timeline", "question_timeline", "stamp_of", "trained"]
