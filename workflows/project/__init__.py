"""Projects: the configuration, the collection that it names, and the features that it asks for."""

from .collection import Video, dropped_spans, file_of, in_split, native_name, readable_path, text_of
from .config import SPEECH
from .imported import ALLOWED_SECONDS, PREFIX, ImportRecord, imported_weights
from .kept import keep_project, read_json
from .project import CHECKPOINT_POINTER, CONFIG_NAME, Project
from .questions import Question, question_texts
from .requests import BackboneRequest, CheckpointRef, FeatureRequest, Resolved

__all__ = [
    "ALLOWED_SECONDS",
    "CHECKPOINT_POINTER",
    "CONFIG_NAME",
    "PREFIX",
    "SPEECH",
    "BackboneRequest",
    "CheckpointRef",
    "FeatureRequest",
    "ImportRecord",
    "Project",
    "Question",
    "Resolved",
    "Video",
    "dropped_spans",
    "file_of",
    "imported_weights",
    "in_split",
    "keep_project",
    "native_name",
    "question_texts",
    "read_json",
    "readable_path",
    "text_of",
]
