"""Parts of backbones: frozen networks over pictures and texts, and files of word vectors and word pieces."""

from . import dual
from .frozen import FrozenNetwork, OfficialWeights, Transform, checked_rows, seeded_network
from .texts import TextNetwork, read_tokenizer, text_spec
from .visual import ClipVariant, StillNetwork, VisualNetwork, clip_spec, still_windows, visual_spec
from .word_pieces import train_word_pieces
from .word_vectors import WordVectors, read_word_vectors, tokenize, train_word_vectors

__all__ = [
    "ClipVariant",
    "FrozenNetwork",
    "OfficialWeights",
    "StillNetwork",
    "TextNetwork",
    "Transform",
    "VisualNetwork",
    "WordVectors",
    "checked_rows",
    "clip_spec",
    "dual",
    "read_tokenizer",
    "read_word_vectors",
    "seeded_network",
    "still_windows",
    "text_spec",
    "tokenize",
    "train_word_pieces",
    "train_word_vectors",
    "visual_spec",
]
