"""Vocabularies of word pieces (WordPiece, as BERT reads text): from files, or learned from captions.

Schuster and Nakajima, "Japanese and Korean Voice Search" (ICASSP 2012); BERT's rules for cutting a text into words. The
`tokenizers` library does the work; transformers reads a model's folder.

A vocabulary is a file of one piece a line. The five special pieces are at BERT's places ([PAD] 0, [UNK] 100, [CLS] 101,
[SEP] 102, [MASK] 103), in learned vocabularies too, so that a model may move from one to the other and needs to know
nothing but how many pieces there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..._files import make_folder, publish
from ..._vocabulary import InputError
from .texts import read_tokenizer

SPECIAL_PIECES = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
_FIRST_PIECES = ("[PAD]", *(f"[unused{number}]" for number in range(99)), *list(SPECIAL_PIECES)[1:])
_FILES = (("tokenizer.json",), ("vocab.txt",))


def train_word_pieces(
    captions: Sequence[str], path: Path, *, vocabulary: int = 30_522, lower_case: bool = True, seed: int = 0
) -> None:
    """Learn word pieces from captions and write them, a line each. Pieces that occur once are not merged.

    The same captions give the same bytes. The library numbers letters in the order of a hash table, and the numbers
    decide between merges of the same count; so all letters are given to it, sorted. The rarest are left out where there
    are more than a vocabulary has room for.

    Args:
        captions: the texts.
        path: the file.
        vocabulary: most pieces, special ones included.
        lower_case: whether capitals and accents are taken off.
        seed: not used: nothing is drawn.

    Raises:
        InputError: the captions hold no word.
    """
    del seed
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(lowercase=lower_case)
    counts: Counter[str] = Counter()
    for caption in captions:
        text = tokenizer.normalizer.normalize_str(caption.encode("utf-8", "replace").decode())
        counts.update("".join(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)))
    if not counts:
        raise InputError(f"none of the {len(captions)} captions holds a word; word pieces need at least one")
    room = max(1, (vocabulary - len(_FIRST_PIECES)) // 2)  # each at the beginning of a word, and inside it
    letters = sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:room])
    tokenizer.train_from_iterator(
        (caption.encode("utf-8", "replace").decode() for caption in captions),
        vocab_size=vocabulary,
        min_frequency=2,
        limit_alphabet=len(letters),
        initial_alphabet=letters,
        special_tokens=[*_FIRST_PIECES, *letters, *(f"##{letter}" for letter in letters)],
        show_progress=False,
    )
    found: dict[str, int] = tokenizer.get_vocab()
    make_folder(path.parent)
    publish(path, "".join(f"{piece}\n" for piece in sorted(found, key=found.__getitem__)).encode())


def read_word_pieces(path: Path, *, lower_case: bool, num_pieces: int) -> Any:
    """The tokenizer of a vocabulary's file, or of a folder as transformers saves a model.

    Args:
        path: the file or folder; a folder's own rules for capitals count.
        lower_case: whether capitals and accents are taken off, for a file.
        num_pieces: most pieces that are allowed.

    Raises:
        ConfigError: a folder without a vocabulary.
        InputError: damaged, more pieces than allowed, or special pieces at other places than BERT's.
    """
    if path.is_dir():
        from transformers import BertTokenizer

        tokenizer = read_tokenizer(BertTokenizer, path, needs=_FILES, num_embeddings=num_pieces).backend_tokenizer
    else:
        from tokenizers import BertWordPieceTokenizer

        try:
            pieces = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"the vocabulary {path} is not a text of one piece a line: {error}") from error
        numbers = {piece: number for number, piece in enumerate(pieces)}
        if len(numbers) > num_pieces:
            raise InputError(
                f"the vocabulary {path} has {len(numbers)} pieces, not {num_pieces} at most; give the backbone the"
                f" option vocabulary: {len(numbers)}"
            )
        _check_places(numbers.get, path)
        tokenizer = BertWordPieceTokenizer(vocab=numbers, lowercase=lower_case)
    _check_places(tokenizer.token_to_id, path)
    return tokenizer


def _check_places(number_of: Any, path: Path) -> None:
    wrong = [piece for piece, number in SPECIAL_PIECES.items() if number_of(piece) != number]
    if wrong:
        raise InputError(
            f"the vocabulary {path} has {wrong[0]} at {number_of(wrong[0])}, not at BERT's place"
            f" {SPECIAL_PIECES[wrong[0]]}: give the vocabulary of a BERT"
        )
