"""TODO door of extract/networks."""

from .frozen import Dtype, FrozenNetwork, Precision, check_choice, checked_rows, normalised, seeded_network, visual_spec
from .stills import StillNetwork, still_spec
from .texts import TextNetwork, read_tokenizer, text_spec
from .word_vectors import WordVectors, read_word_vectors, tokenize, train_word_vectors

__all__ = [
    "Dtype",
    "FrozenNetwork",
    "Precision",
    "StillNetwork",
    "TextNetwork",
    "WordVectors",
    "check_choice",
    "checked_rows",
    "normalised",
    "read_tokenizer",
    "read_word_vectors",
    "seeded_network",
    "still_spec",
    "text_spec",
    "tokenize",
    "train_word_vectors",
    "visual_spec",
]
