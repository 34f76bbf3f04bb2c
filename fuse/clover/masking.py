"""What Clover hides of a text: words by their part of speech. Of videos it hides blocks: `miles/masks.py`.

Source: Clover (arXiv 2207.07885), section 3.2; LeeYN-43/Clover@fa05f2e, mmaction/datasets/pipelines/loading.py
(`scene_graph_parser_obj_verb`, `_whole_word_mask_with_scene_graph`). Where they differ, the defaults are the code's:
* Candidates are nouns and all words of verb phrases (VERB? ADV* AUX* VERB+), auxiliaries and adverbs among them, as
  often as there are overlapping matches; the repeats raise the 30 %. The paper masks verbs, nouns and adjectives, and
  no auxiliary: `phrases=False, adjectives=True`.

Tags are made where the captions are read, see `WordTag`. The functions draw from the generator that they are given.

Legend: B texts, L tokens.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from enum import IntEnum

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from ..._vocabulary import InputError

_PHRASE = re.compile("v?a*x*v+")


class WordTag(IntEnum):
    """The part of speech of the word that a token begins. Of a text's tags, one for each token."""

    NONE = 0
    """[CLS], [SEP], padding."""
    CONTINUED = 1
    """A further piece of the word before."""
    OTHER = 2
    NOUN = 3
    """Proper nouns too."""
    VERB = 4
    AUXILIARY = 5
    ADVERB = 6
    ADJECTIVE = 7

    @classmethod
    def of(cls, universal: str) -> WordTag:
        """The tag of a universal part of speech, such as "PROPN"."""
        return _UNIVERSAL.get(universal, cls.OTHER)


_UNIVERSAL = {
    "NOUN": WordTag.NOUN,
    "PROPN": WordTag.NOUN,
    "VERB": WordTag.VERB,
    "AUX": WordTag.AUXILIARY,
    "ADV": WordTag.ADVERB,
    "ADJ": WordTag.ADJECTIVE,
}
_LETTERS = {WordTag.VERB: "v", WordTag.ADVERB: "a", WordTag.AUXILIARY: "x"}


def mask_candidates(tags: Sequence[int], *, phrases: bool = True, adjectives: bool = False) -> list[tuple[int, ...]]:
    """The words that may be hidden, as the places of their pieces: nouns, adjectives if wanted, then verbs.

    Args:
        tags: a `WordTag` for each token.
        phrases: every word of every verb phrase, in the order of its end and then of its beginning, so that a word
            comes as often as phrases cover it; False: each verb, once.
        adjectives: whether adjectives may be hidden.
    """
    words: list[tuple[WordTag, tuple[int, ...]]] = []
    for place, tag in enumerate(tags):
        if tag == WordTag.CONTINUED and words:
            words[-1] = (words[-1][0], (*words[-1][1], place))
        elif tag > WordTag.CONTINUED:
            words.append((WordTag(tag), (place,)))
    kinds = (WordTag.NOUN, WordTag.ADJECTIVE) if adjectives else (WordTag.NOUN,)
    found = [places for kind in kinds for tag, places in words if tag == kind]
    if not phrases:
        return found + [places for tag, places in words if tag == WordTag.VERB]
    letters = "".join(_LETTERS.get(tag, " ") for tag, _ in words)
    ends = [place + 1 for place, letter in enumerate(letters) if letter == "v"]
    for end in ends:
        begin = letters.rfind(" ", 0, end) + 1
        matches = [start for start in range(begin, end) if _PHRASE.fullmatch(letters, start, end)]
        found += [words[index][1] for start in matches for index in range(start, end)]
    return found


def chosen_words(
    candidates: Iterable[tuple[int, ...]], *, share: float = 0.3, most: int = 512, draws: random.Random
) -> list[int]:
    """The places of the words to hide: a share of the candidates, rounded half to even, at least one of any."""
    shuffled = list(candidates)
    count = min(most, max(1, round(share * len(shuffled))))
    draws.shuffle(shuffled)
    distinct = list(dict.fromkeys(shuffled))  # a word drawn again is passed over
    return [place for word in distinct[:count] for place in word]


def words_by_tags(
    mask: Shaped[Tensor, "B L"],
    tags: Int[Tensor, "B L2"] | None,
    *,
    share: float = 0.3,
    phrases: bool = True,
    adjectives: bool = False,
    draws: random.Random,
) -> Bool[Tensor, "B L"]:
    """The tokens to hide of a batch of texts. Tags beyond the longest text, and of [CLS] and [SEP], do not matter.

    Raises:
        InputError: tags that are missing or do not fit the texts.
    """
    num_texts, length = mask.shape
    if tags is None:
        raise InputError(
            "word_masking='semantic' needs the parts of speech: put \"tags\" into the batch, a WordTag for each token "
            "(wordpiece gives them with the option tags: en_core_web_md), or set word_masking='random'"
        )
    if tags.dim() != 2 or len(tags) != num_texts or tags.shape[1] < length:
        raise InputError(f"tags have shape {tuple(tags.shape)}; texts of {(num_texts, length)} need as many")
    words, real = torch.zeros(num_texts, length, dtype=torch.bool), mask.bool().cpu()
    rows = torch.where(real, tags[:, :length].cpu(), 0)
    # A text that was cut has [SEP] where there was a word.
    rows[torch.arange(num_texts), (real * torch.arange(length)).argmax(dim=1)] = 0
    for row, of_text in zip(words, rows.tolist(), strict=True):
        row[
            chosen_words(mask_candidates(of_text, phrases=phrases, adjectives=adjectives), share=share, draws=draws)
        ] = True
    return words.to(mask.device)
