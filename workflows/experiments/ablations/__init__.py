"""The ablations of papers, run on the laboratory: studies as data, trainings that go on, tables with verdicts."""

from .data import Worlds
from .joint_studies import JOINT_STUDIES, run_joint_study
from .pixel_studies import PIXEL_STUDIES
from .pixel_study import run_pixel_study
from .pixel_world import PixelWorld
from .studies import STUDIES
from .study import run_study

__all__ = [
    "JOINT_STUDIES",
    "PIXEL_STUDIES",
    "STUDIES",
    "PixelWorld",
    "Worlds",
    "run_joint_study",
    "run_pixel_study",
    "run_study",
]
