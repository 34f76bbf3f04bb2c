"""Sync: bring features, model and table up to date with the collection, doing only what changed."""

from .examples import training_set
from .executor import Executor, in_batches
from .questions import Asked, ask
from .report import FileReport, Plan, Report, file_lines
from .rows import embed_job, row_columns
from .stages import lacks_word_vectors
from .state import ClipState, State, take_state
from .survey import Survey, fingerprint_of, stream_of, survey
from .sync import extract_only, make_plan, status_of, sync, train_only, working
from .tasks import TrainJob, embed_clips, loaded_model, text_digest, train_model

__all__ = [
    "Asked",
    "ClipState",
    "Executor",
    "FileReport",
    "Plan",
    "Report",
    "State",
    "Survey",
    "TrainJob",
    "ask",
    "embed_clips",
    "embed_job",
    "extract_only",
    "file_lines",
    "fingerprint_of",
    "in_batches",
    "lacks_word_vectors",
    "loaded_model",
    "make_plan",
    "row_columns",
    "status_of",
    "stream_of",
    "survey",
    "sync",
    "take_state",
    "text_digest",
    "train_model",
    "train_only",
    "training_set",
    "working",
]
