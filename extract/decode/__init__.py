"""TODO door of extract/decode."""

from .decoder import DecodeEnd, Decoder, FramesChunk, SamplesChunk
from .prefetch import reading_ahead

__all__ = ["DecodeEnd", "Decoder", "FramesChunk", "SamplesChunk", "reading_ahead"]
