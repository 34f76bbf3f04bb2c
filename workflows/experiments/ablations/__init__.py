"""The ablations of papers, run on the laboratory: studies as data, trainings that go on, tables with verdicts."""

from .data import Worlds
from .studies import STUDIES
from .study import StudyResult, run_study

__all__ = ["STUDIES", "StudyResult", "Worlds", "run_study"]
