"""TODO door of workflows/project."""

from .collection import Video, clips_of, dropped_spans, in_split, readable_path, text_of
from .config import combination_fault
from .imported import PREFIX, imported_weights, refuse_imported
from .project import CONFIG_NAME, VECTORS_POINTER, CheckpointRef, Project, Want, read_json
from .requests import BackboneRequest

__all__ = [
    "CONFIG_NAME",
    "PREFIX",
    "VECTORS_POINTER",
    "BackboneRequest",
    "CheckpointRef",
    "Project",
    "Video",
    "Want",
    "clips_of",
    "combination_fault",
    "dropped_spans",
    "imported_weights",
    "in_split",
    "read_json",
    "readable_path",
    "refuse_imported",
    "text_of",
]
