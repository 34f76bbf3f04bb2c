"""The ablations of papers, run on the laboratory: studies as data, trainings that go on, tables with verdicts."""

from .data import Worlds
from .studies import STUDIES
from .study import run_study

__all__ = ["STUDIES", "Worlds", "run_study"]
