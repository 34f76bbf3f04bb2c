"""Heads of All-in-one's tasks: answers, options, captions, and what they do with what is not there."""

from __future__ import annotations

import pytest
import torch
from frameloom import ConfigError, InputError
from frameloom.fuse import Tokens, create_model
from frameloom.fuse.all_in_one import AllInOne

OFF = {"mlm_weight": 0.0, "vtm_weight": 0.0, "contrast_weight": 0.0}


def model_of(**options: object) -> AllInOne:
    torch.manual_seed(0)
    model = create_model("test_all_in_one", **options)
    assert isinstance(model, AllInOne)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def batch(make_batch) -> dict[str, Tokens]:
    return make_batch(modalities=("text", "video"), pixels=True)


def options_of(batch: dict[str, Tokens], num: int = 3) -> Tokens:
    """Each text turned round by 0, 1, 2 samples: different options of the same shape."""
    parts = [[part.roll(shift, 0) for shift in range(num)] for part in batch["text"]]
    return Tokens(*(torch.stack(each, dim=1) for each in parts))


def numbers(*answers: int) -> Tokens:
    given = torch.tensor(answers)[:, None]
    return Tokens(given.clamp(min=0), given >= 0)


class TestOptions:
    def test_an_option_is_scored_as_if_it_were_alone(self, batch) -> None:
        model = model_of(option_head=True).eval()
        options = options_of(batch)
        scores = model.question_scores({"options": options, "video": batch["video"]})
        one_by_one = [Tokens(options.values[:, number], options.mask[:, number]) for number in range(3)]
        torch.testing.assert_close(scores, model.choice_scores(one_by_one, batch["video"], head="option"))

    def test_without_training_the_matching_head_chooses(self, batch) -> None:
        model = model_of().eval()
        scores = model.question_scores({"options": options_of(batch), "video": batch["video"]})
        torch.testing.assert_close(scores[:, 0], model.score(**batch))

    def test_an_option_that_is_padding_is_never_chosen_and_changes_nothing(self, batch) -> None:
        model = model_of(option_head=True, **OFF)
        options = options_of(batch)
        wider = Tokens(*(torch.nn.functional.pad(part, (0, 0, 0, 1)) for part in options))
        asked = {"video": batch["video"], "answer": numbers(0, 2, 1, -1)}
        scores = model.eval().question_scores({**asked, "options": wider})
        assert scores[:, 3].isinf().all()
        losses = [model.loss({**asked, "options": each})[0].item() for each in (options, wider)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
        assert losses[0] > 0

    def test_unknown_answers_teach_nothing(self, batch) -> None:
        model = model_of(option_head=True, **OFF)
        asked = {"video": batch["video"], "options": options_of(batch), "answer": numbers(-1, -1, -1, -1)}
        loss, terms = model.train().loss(asked)
        loss.backward()
        assert loss.item() == terms["answer"].item() == 0.0
        assert int(model.num_steps) == 1
        assert all(one.grad is None or not one.grad.any() for one in model.parameters())

    def test_what_cannot_be_right_is_refused(self, batch) -> None:
        model = model_of(option_head=True, **OFF)
        asked = {"video": batch["video"], "options": options_of(batch)}
        with pytest.raises(InputError, match="answer 3 is not one of this model's 3"):
            model.loss({**asked, "answer": numbers(3, 0, 0, 0)})
        with pytest.raises(InputError, match="numbers of the right ones"):
            model.loss(asked)
        empty = asked["options"]._replace(mask=asked["options"].mask * torch.tensor([0, 1, 1])[None, :, None])
        with pytest.raises(InputError, match="holds no word"):
            model.loss({**asked, "options": empty, "answer": numbers(0, 1, 1, 1)})
        with pytest.raises(InputError, match=r"this model takes \(batch, options, tokens\)"):
            model.question_scores({**asked, "options": batch["text"]})


class TestAnswers:
    def test_answers_are_learned(self, batch) -> None:
        model = model_of(num_answers=4, **OFF).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        asked = {**batch, "answer": numbers(0, 1, 2, -1)}
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss, _ = model.loss(asked)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.3 * losses[0]
        assert model.eval().question_scores(batch).argmax(dim=1)[:3].tolist() == [0, 1, 2]

    def test_a_model_without_such_a_head_says_so(self, batch) -> None:
        with pytest.raises(ConfigError, match="built without answers: set num_answers"):
            model_of().question_scores(batch)
        with pytest.raises(ConfigError, match="answers no questions"):
            create_model("test_miles").question_scores(batch)


class TestCaptions:
    @pytest.mark.parametrize("temporal", ["roll", "none", "flatten"])
    def test_a_word_sees_none_after_it_and_the_clip_sees_none(self, batch, temporal) -> None:
        model = model_of(temporal=temporal).eval()
        text, video = model.given(batch).values()
        other = text.values.clone()
        other[:, 3] = (other[:, 3] + 1) % 100
        first = model.features(text=text, video=video, causal=True)
        second = model.features(text=text._replace(values=other), video=video, causal=True)
        torch.testing.assert_close(first.text[:, :3], second.text[:, :3])
        torch.testing.assert_close(first.video, second.video)
        assert not torch.allclose(first.text[:, 3:], second.text[:, 3:])
        both_ways = model.features(text=text._replace(values=other), video=video)
        assert not torch.allclose(model.features(text=text, video=video).text[:, 1], both_ways.text[:, 1])

    def test_captions_are_learned_and_end(self) -> None:
        model = model_of(**OFF, caption_weight=1.0).train()
        ids = torch.tensor([[101, 5, 6, 7, 102, 0], [101, 9, 8, 102, 0, 0]])
        text = Tokens(ids, ids > 0)
        values = torch.zeros(2, 2, 3, 32, 32, dtype=torch.uint8)
        values[0, :, 0] = 255
        video = Tokens(values, torch.ones(2, 2).bool())
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(80):
            optimizer.zero_grad()
            model.loss({"text": text, "video": video})[0].backward()
            optimizer.step()
        written = model.eval().captions(video)
        assert written.values.tolist() == [[101, 5, 6, 7, 102], [101, 9, 8, 102, 0]]
        assert written.mask.tolist() == [[True] * 5, [True] * 4 + [False]]

    def test_a_caption_ends_at_the_limit_and_holds_no_special_piece(self, batch) -> None:
        model = model_of(caption_weight=1.0).eval()
        written = model.captions(batch["video"])
        assert written.values.shape[1] <= model.config.max_words
        lengths = written.mask.sum(dim=1)
        assert (written.values[torch.arange(4), lengths - 1] == 102).all()
        inner = written.values[:, 1:][written.mask[:, 1:]]
        assert not {0, 100, 101, 103} & set(inner.tolist())

    def test_a_model_without_the_head_of_words_says_so(self, batch) -> None:
        with pytest.raises(ConfigError, match="without the head of words"):
            model_of(**OFF).captions(batch["video"])
