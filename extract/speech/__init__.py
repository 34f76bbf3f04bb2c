"""What is said in a sound track: a family of backbones that transcribe, and transcripts as rows of the store."""

from . import whisper
from .transcripts import Segment, Word, is_transcript, rows_of, segments_of
from .whisper import check_library

__all__ = ["Segment", "Word", "check_library", "is_transcript", "rows_of", "segments_of", "whisper"]
