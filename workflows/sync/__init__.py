"""TODO door of workflows/sync."""

from .executor import Crew, in_batches
from .report import FileReport, Report, file_lines
from .stages import lacks_word_vectors, training_set
from .survey import (
    ClipState,
    Survey,
    clip_states,
    embedding_identity,
    fingerprint_of,
    fullest_combination,
    row_digest,
    row_id,
    stale_ids,
    survey,
)
from .sync import Plan, extract_only, make_plan, status_of, sync, unreadable, working
from .tasks import EmbedJob, TrainJob, embed_clips, loaded_model, text_digest, train_model

__all__ = [
    "ClipState",
    "Crew",
    "EmbedJob",
    "FileReport",
    "Plan",
    "Report",
    "Survey",
    "TrainJob",
    "clip_states",
    "embed_clips",
    "embedding_identity",
    "extract_only",
    "file_lines",
    "fingerprint_of",
    "fullest_combination",
    "in_batches",
    "lacks_word_vectors",
    "loaded_model",
    "make_plan",
    "row_digest",
    "row_id",
    "stale_ids",
    "status_of",
    "survey",
    "sync",
    "text_digest",
    "train_model",
    "training_set",
    "unreadable",
    "working",
]
