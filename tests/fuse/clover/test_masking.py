"""What Clover hides: candidates by their part of speech against all spans, shares, blocks, and draws that repeat."""

from __future__ import annotations

import random
import re

import pytest
import torch
from frameloom import InputError
from frameloom.fuse import Tokens, WordTag, create_model
from frameloom.fuse.clover.masking import chosen_words, mask_candidates
from hypothesis import given
from hypothesis import strategies as st

LETTERS = {WordTag.VERB: "v", WordTag.ADVERB: "a", WordTag.AUXILIARY: "x"}
TAGS = st.lists(st.sampled_from(list(WordTag)), max_size=14)
SWAN = [0, 2, 7, 3, 4, 2, 2, 7, 3, 0]  # [CLS] a black swan swimming in a calm lake [SEP]


def words_of(tags: list[WordTag]) -> list[tuple[WordTag, tuple[int, ...]]]:
    """Every word's tag and places; a piece without a word before it belongs to none."""
    words: list[tuple[WordTag, list[int]]] = []
    for place, tag in enumerate(tags):
        if tag == WordTag.CONTINUED:
            if words:
                words[-1][1].append(place)
        elif tag != WordTag.NONE:
            words.append((tag, [place]))
    return [(tag, tuple(places)) for tag, places in words]


@given(TAGS)
def test_phrases_are_all_spans_that_the_pattern_matches(tags: list[WordTag]) -> None:
    words = words_of(tags)
    letters = "".join(LETTERS.get(tag, "-") for tag, _ in words)
    spans = [(end, start) for start in range(len(words)) for end in range(start + 1, len(words) + 1)]
    matches = [(start, end) for end, start in sorted(spans) if re.fullmatch("v?a*x*v+", letters[start:end])]
    wanted = [places for tag, places in words if tag == WordTag.NOUN]
    wanted += [words[index][1] for start, end in matches for index in range(start, end)]
    assert mask_candidates(tags) == wanted


def test_the_paper_masks_verbs_nouns_and_adjectives_once() -> None:
    #       he          quickly         has                been               seen          red                swans
    tags = [WordTag.OTHER, WordTag.ADVERB, WordTag.AUXILIARY, WordTag.AUXILIARY, WordTag.VERB, WordTag.ADJECTIVE, 3]
    assert mask_candidates(tags, phrases=False, adjectives=True) == [(6,), (5,), (4,)]
    assert mask_candidates(tags, phrases=False) == [(6,), (4,)]
    assert len(mask_candidates(tags)) == 1 + 4 + 3 + 2 + 1


def test_tags_of_universal_parts_of_speech() -> None:
    parts = ("NOUN", "PROPN", "VERB", "AUX", "ADV", "ADJ", "DET", "PUNCT")
    assert [WordTag.of(part) for part in parts] == [3, 3, 4, 5, 6, 7, 2, 2]


@given(TAGS, st.integers(0, 5))
def test_whole_words_are_chosen_and_at_least_one(tags: list[WordTag], seed: int) -> None:
    candidates = mask_candidates(tags)
    chosen = chosen_words(candidates, draws=random.Random(seed))
    covered = [word for word in set(candidates) if set(word) <= set(chosen)]
    assert sorted(chosen) == sorted(place for word in covered for place in word)
    assert len(covered) <= max(1, round(0.3 * len(candidates)))
    assert bool(chosen) == bool(candidates)


class TestDraws:
    """Of a model: by part of speech, from the seed and the batch alone."""

    def model(self, **options):
        return create_model("test_clover", word_masking="semantic", image_size=56, **options).eval()

    def batch(self, rows: list[list[int]], tags: list[list[int]]) -> dict[str, Tokens]:
        ids = torch.tensor(rows)
        generator = torch.Generator().manual_seed(1)
        video = torch.randint(0, 256, (len(rows), 4, 3, 56, 56), dtype=torch.uint8, generator=generator)
        return {
            "text": Tokens(ids, ids > 0),
            "video": Tokens(video, torch.ones(len(rows), 4)),
            "tags": Tokens(torch.tensor(tags), ids > 0),
        }

    def masks(self, model, batch):
        given = model.given({name: batch[name] for name in ("text", "video")})
        return model.drawn_masks(given, batch.get("tags"))

    def test_they_hide_nouns_and_verbs_alone(self) -> None:
        batch = self.batch(
            [list(range(101, 111)), [101, 9, 8, 102, 0, 0, 0, 0, 0, 0]], [SWAN, [0, 3, 1, 0, 0] + [0] * 5]
        )
        places = {
            tuple(place)
            for seed in range(9)
            for place in self.masks(self.model(seed=seed), batch).words.nonzero().tolist()
        }
        assert places == {(0, 3), (0, 4), (0, 8), (1, 1), (1, 2)}

    def test_adjectives_as_an_option(self) -> None:
        batch = self.batch([list(range(101, 111))], [SWAN])
        models = [self.model(seed=seed, mask_adjectives=True) for seed in range(30)]
        hidden = {place for model in models for place in self.masks(model, batch).words[0].nonzero().flatten().tolist()}
        assert hidden == {2, 3, 4, 7, 8}

    def test_the_same_batch_has_the_same_masks_whatever_else_was_drawn(self) -> None:
        batch = self.batch([list(range(101, 111))], [SWAN])
        model = self.model()
        first = self.masks(model, batch)
        before = torch.get_rng_state()
        random.random()
        second = self.masks(model.train(), batch)
        assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
        assert torch.equal(torch.get_rng_state(), before)

    def test_another_batch_and_another_seed_have_others(self) -> None:
        rows = [[101, *range(word, word + 8), 102] for word in range(20)]
        cells = [self.masks(self.model(), self.batch([row], [SWAN])).cells for row in rows]
        assert len({tuple(each.flatten().tolist()) for each in cells}) > 5
        seeds = [self.masks(self.model(seed=seed), self.batch(rows[:1], [SWAN])).cells for seed in range(20)]
        assert len({tuple(each.flatten().tolist()) for each in seeds}) > 5

    def test_a_text_without_verbs_and_nouns_has_no_mask_and_a_loss(self) -> None:
        model, batch = self.model(), self.batch([[101, 9, 8, 102], [101, 7, 6, 102]], [[0, 2, 6, 0], [0, 7, 5, 0]])
        masks = self.masks(model, batch)
        assert not masks.words.any()
        assert torch.equal(masks.ids, batch["text"].values)
        loss, terms = model.train().loss(batch)
        loss.backward()
        assert loss.isfinite()
        assert terms.keys() == {"align_video", "align_text", "rank_video", "rank_text"}
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)

    def test_tags_that_are_missing_or_do_not_fit_are_refused(self) -> None:
        model, batch = self.model(), self.batch([[101, 9, 8, 102]], [[0, 2, 6, 0]])
        with pytest.raises(InputError, match=r"put \"tags\" into the batch, .*or set word_masking='random'"):
            model.loss({name: batch[name] for name in ("text", "video")})
        with pytest.raises(InputError, match=r"tags have shape \(1, 2\)"):
            model.loss({**batch, "tags": Tokens(torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2))})

    def test_a_text_that_is_cut_keeps_its_end(self) -> None:
        length = 20
        batch = self.batch([[101, *range(1, length - 1), 102]], [[0, *[WordTag.NOUN] * (length - 2), 0]])
        model = self.model(mask_share=1.0, mask_replacement="mask")
        masks = self.masks(model, batch)
        assert masks.words[0].tolist() == [False, *[True] * 10, False]
        assert masks.ids[0, -1] == 102
        assert (masks.ids[0, 1:-1] == 103).all()
