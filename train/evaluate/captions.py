"""How much a written caption agrees with what people wrote: BLEU-4, METEOR and CIDEr, from their published formulas.

Sources: Papineni et al., "BLEU" (ACL 2002), sections 2.2 and 2.3, over all captions together; Banerjee and Lavie,
"METEOR" (2005), equations 1 to 4, with exact matches alone; Vedantam et al., "CIDEr" (CVPR 2015), CIDEr-D of section 6,
times 10 as published. They are here since no package that is kept has them without Java or a download: pycocoevalcap
(last release 2020) runs Java for words and METEOR, NLTK's METEOR downloads WordNet, sacrebleu has BLEU alone.

Words are runs of letters and digits, without capitals. Legend: C captions, R references of each.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ..._vocabulary import InputError

Words = tuple[str, ...]
_LONGEST = 4
_SIGMA = 6.0  # of the penalty for another length in CIDEr-D, in words


def words_of(caption: str) -> Words:
    """The words of a caption."""
    return tuple(re.findall(r"\w+", caption.lower()))


def bleu4(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU of up to four words in a row over all captions, from 0 to 1, without smoothing.

    Raises:
        InputError: no captions, other numbers of references, or a caption without any.
    """
    right, total = np.zeros(_LONGEST), np.zeros(_LONGEST)
    length = closest = 0
    for caption, several in _pairs(captions, references):
        length += len(caption)
        closest += min((abs(len(one) - len(caption)), len(one)) for one in several)[1]
        for n in range(1, _LONGEST + 1):
            found, allowed = _grams(caption, n), Counter[Words]()
            for one in several:
                allowed |= _grams(one, n)
            right[n - 1] += (found & allowed).total()
            total[n - 1] += found.total()
    if not right.all():
        return 0.0
    penalty = min(0.0, 1.0 - closest / length)
    return math.exp(penalty + float(np.log(right / total).mean()))


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, " C"]:
    """METEOR of each caption with the reference that fits best, from 0 to 1; stems and synonyms do not match.

    Raises:
        InputError: see `bleu4`.
    """
    return np.array(
        [max(_meteor(caption, one) for one in several) for caption, several in _pairs(captions, references)]
    )


def _meteor(caption: Words, reference: Words) -> float:
    """A word goes to the place after that of the word before it where that fits, else to the first that is free."""
    free: dict[str, list[int]] = {}
    for place, word in enumerate(reference):
        free.setdefault(word, []).append(place)
    matches = chunks = 0
    last: int | None = None
    for word in caption:
        places = free.get(word, [])
        if not places:
            last = None
            continue
        follows = last is not None and last + 1 in places
        here = last + 1 if follows and last is not None else places[0]
        places.remove(here)
        matches, chunks, last = matches + 1, chunks + (not follows), here
    if not matches:
        return 0.0
    precision, recall = matches / len(caption), matches / len(reference)
    mean = 10 * precision * recall / (recall + 9 * precision)
    return mean * (1 - 0.5 * (chunks / matches) ** 3)


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, " C"]:
    """CIDEr-D of each caption: 0 to 10; papers print a hundred times the mean. Words are weighed by all references.

    Raises:
        InputError: see `bleu4`; a single caption, for which no word says more than another.
    """
    pairs = _pairs(captions, references)
    if len(pairs) < 2:
        raise InputError("CIDEr weighs words by how many clips they are said of: give two captions or more")
    in_clips: Counter[Words] = Counter()
    for _, several in pairs:
        in_clips.update({gram for one in several for n in range(1, _LONGEST + 1) for gram in _grams(one, n)})

    def weighed(words: Words, n: int) -> dict[Words, float]:
        counts = _grams(words, n)
        return {gram: count * math.log(len(pairs) / max(1, in_clips[gram])) for gram, count in counts.items()}

    def alike(caption: Words, reference: Words) -> float:
        total = 0.0
        for n in range(1, _LONGEST + 1):
            ours, theirs = weighed(caption, n), weighed(reference, n)
            norm = math.sqrt(sum(x * x for x in ours.values()) * sum(x * x for x in theirs.values()))
            dot = sum(min(x, theirs[gram]) * theirs[gram] for gram, x in ours.items() if gram in theirs)
            total += dot / norm if norm else 0.0
        apart = len(caption) - len(reference)
        return total / _LONGEST * math.exp(-apart * apart / (2 * _SIGMA**2))

    means: list[float] = [10 * float(np.mean([alike(words, one) for one in several])) for words, several in pairs]
    found: NDArray[np.float64] = np.array(means)
    return found


def _grams(words: Words, n: int) -> Counter[Words]:
    return Counter(words[place : place + n] for place in range(len(words) - n + 1))


def _pairs(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[tuple[Words, list[Words]]]:
    if not captions or len(captions) != len(references) or not all(references):
        raise InputError(f"{len(captions)} captions and references of {len(references)}: each needs one at least")
    pairs = [
        (words_of(one), [words_of(each) for each in several]) for one, several in zip(captions, references, strict=True)
    ]
    if not all(map(len, (one for _, several in pairs for one in several))):
        raise InputError("a reference holds no word: leave it out")
    return pairs
