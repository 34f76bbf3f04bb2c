"""Captions by All-in-one: the head of words guesses one word after another, from the words before it and the clip.

The paper (arXiv 2203.07303, appendix) says that captions are written by a language model's head as SwinBERT's, and no
code was published. This follows SwinBERT (Lin et al., CVPR 2022, arXiv 2111.13196, section 3): words are masked at
random, a word sees those before it and all of the clip, and the clip sees no word; in evaluation [MASK] is put after
the words so far, and what it is guessed to be takes its place, until that is [SEP].

Deviations: the likeliest word is taken at each place, without a beam; the clip is computed anew for every word; words
are always replaced by [MASK], and [SEP] is masked as often as a word.

Legend: B batch, W tokens of a text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor

from ..base import Tokens
from ..objectives import CLS_ID, SEP_ID, UNKNOWN_ID, focal_loss

if TYPE_CHECKING:
    from .model import AllInOne

MASK_SHARE = 0.5
"""Of the words of a caption that are masked in training."""


def caption_loss(model: AllInOne, text: Tokens, video: Tokens, generator: torch.Generator) -> Float[Tensor, ""]:
    """Cross entropy of the masked words of captions, each guessed from the words before it and the clip."""
    real = text.mask.bool()
    places = (torch.rand(real.shape, generator=generator).to(real.device) < MASK_SHARE) & real
    places[:, :1] = False
    masked = text._replace(values=text.values.masked_fill(places, model.config.mask_id))
    words = model.features(text=masked, video=video, causal=True).text
    assert words is not None
    return focal_loss(model.mlm_score(words[places]), text.values[places], gamma=0.0)


def captions_of(model: AllInOne, video: Tokens) -> Tokens:
    """See `AllInOne.captions`; the clips are normalised already."""
    num, device = len(video.mask), video.mask.device
    mask_id = model.config.mask_id
    never = torch.tensor([0, UNKNOWN_ID, CLS_ID, mask_id], device=device)
    ids = torch.full((num, 1), CLS_ID, device=device)
    ended = torch.zeros(num, dtype=torch.bool, device=device)
    real = torch.ones(num, 1, dtype=torch.bool, device=device)
    while ids.shape[1] < model.config.max_words and not bool(ended.all()):
        guess = torch.cat([ids, ids.new_full((num, 1), mask_id)], dim=1)
        shown = torch.cat([real, ~ended[:, None]], dim=1)
        words = model.features(text=Tokens(guess, shown), video=video, causal=True).text
        assert words is not None
        scores = cast(Tensor, model.mlm_score(words[:, -1])).index_fill(1, never, -torch.inf)
        if ids.shape[1] == model.config.max_words - 1:
            word = torch.full_like(ended, SEP_ID, dtype=ids.dtype)
        else:
            word = scores.argmax(dim=1)
        ids, real = torch.cat([ids, word.where(~ended, 0)[:, None]], dim=1), shown
        ended = ended | (word == SEP_ID)
    return Tokens(ids, real)
