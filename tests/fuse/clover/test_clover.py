"""Clover: what the general tests of models do not see. That the numbers are the authors' is for the golden cases."""

from __future__ import annotations

import pytest
import torch
from frameloom import ConfigError, InputError
from frameloom.fuse import Clover, Tokens, create_model
from frameloom.fuse.clover.official import initialised_from

SIDE = 32


def clips(num: int, frames: int = 4, *, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 256, (num, frames, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return Tokens(video, torch.ones(num, frames, dtype=torch.bool))


def texts(*rows: list[int]) -> Tokens:
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return Tokens(ids, torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None])


def model_of(**options) -> Clover:
    torch.manual_seed(3)
    return create_model("test_clover", **options).eval()


PAIR = {"text": texts([101, 5, 6, 102], [101, 9, 102], [101, 8, 7, 6, 102]), "video": clips(3)}


class TestBatches:
    def test_bytes_are_what_the_authors_normalise_as_bgr(self) -> None:
        given = model_of().given({"video": PAIR["video"]})["video"].values
        bgr = PAIR["video"].values.flip(2).float()
        mean, std = ([103.53, 116.28, 123.675], [57.375, 57.12, 58.395])
        wanted = (bgr - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        torch.testing.assert_close(given, wanted)

    def test_views_are_averaged_before_they_are_read(self) -> None:
        model, video = model_of(num_views=2), PAIR["video"]
        both = model.grids(model.given({"video": video})["video"])[0]
        model.config = model.config.replaced(num_views=1)
        halves = [
            model.grids(model.given({"video": Tokens(video.values[:, part], video.mask[:, part])})["video"])[0].values
            for part in (slice(0, 2), slice(2, 4))
        ]
        torch.testing.assert_close(both.values, (halves[0] + halves[1]) / 2)
        assert both.mask.all()

    def test_views_of_which_one_has_no_frame_are_those_that_there_are(self) -> None:
        model, mask = model_of(num_views=2), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
        video = PAIR["video"].values[:2]
        both = model.grids(model.given({"video": Tokens(video, mask)})["video"])[0]
        model.config = model.config.replaced(num_views=1)
        first = model.grids(model.given({"video": Tokens(video[:1, :2], mask[:1, :2])})["video"])[0]
        assert both.mask.tolist() == [[True], [True]]
        # The view without a frame is one grey picture.
        grey = model.grids(Tokens(torch.zeros(1, 1, 3, SIDE, SIDE), torch.ones(1, 1)))[0]
        torch.testing.assert_close(both.values[:1], (first.values + grey.values) / 2)

    def test_frames_that_are_no_whole_views_are_refused(self) -> None:
        with pytest.raises(InputError, match="4 frames cannot be 3 equal parts"):
            model_of(num_views=3).encode(video=PAIR["video"])

    def test_a_long_clip_is_embedded_and_not_fused(self) -> None:
        model, video = model_of(), clips(3, 8)
        assert model.encode(video=video).shape == (3, 20)
        with pytest.raises(InputError, match=r"a clip of 4 times 16 patches does not fit .* tables of 3 and 16"):
            model.score(text=PAIR["text"], video=video)


class TestPretraining:
    def test_one_frame_is_enough(self) -> None:
        loss, terms = model_of().loss({"text": PAIR["text"], "video": clips(3, 1)})
        assert loss.isfinite()
        assert "align_video" in terms

    def test_a_pair_without_text_teaches_nothing(self) -> None:
        model = model_of()
        empty = Tokens(
            torch.cat([PAIR["text"].values, PAIR["text"].values[:1]]),
            torch.cat([PAIR["text"].mask, torch.zeros(1, 5).bool()]),
        )
        with_empty = {"text": empty, "video": clips(4)}
        given = model.given(with_empty)
        masks = model.drawn_masks(given)
        total, terms = model.pretraining_loss(given, masks)
        three = {name: Tokens(*(part[:3] for part in tokens)) for name, tokens in given.items()}
        masks_of_three = type(masks)(*(part[:3] for part in masks))
        alone, _ = model.pretraining_loss(three, masks_of_three)
        torch.testing.assert_close(total, alone, atol=1e-5, rtol=1e-5)
        assert "words" in terms

    def test_no_masked_word_leaves_the_words_out(self) -> None:
        model = model_of()
        given = model.given(PAIR)
        masks = model.drawn_masks(given)
        masks = masks._replace(words=torch.zeros_like(masks.words), ids=given["text"].values)
        total, terms = model.pretraining_loss(given, masks)
        total.backward()
        assert total.isfinite()
        assert "words" not in terms
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)

    def test_without_tri_modal_alignment_it_is_the_baseline(self) -> None:
        model = model_of(alignment="pair", ranking=False)
        assert not [name for name in model.state_dict() if "mlm_ssl" in name or name.endswith("mask_token")]
        loss, terms = model.train().loss(PAIR)
        loss.backward()
        assert terms.keys() <= {"text|video", "words"}
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        with pytest.raises(ConfigError, match="no score of a pair"):
            model.score(**PAIR)
        with pytest.raises(ConfigError, match="set ranking=False"):
            model_of(alignment="pair")

    def test_the_printed_loss_of_words_is_a_sum_over_samples(self) -> None:
        model, scores = model_of(word_loss="paper"), torch.randn(4, 128)
        words = torch.tensor([1, 2, 3, 4])
        p = scores.softmax(dim=1)[torch.arange(4), words]
        torch.testing.assert_close(model.word_loss(scores, words, num_samples=2), -((1 - p) ** 2 * p).sum() / 2)

    def test_masked_cells_change_the_masked_video_alone(self) -> None:
        model = model_of()
        given = model.given(PAIR)
        masks = model.drawn_masks(given)
        first = model.aligned(given, masks).vectors
        second = model.aligned(given, masks._replace(cells=1 - masks.cells)).vectors
        same = {name for name in first if torch.equal(first[name], second[name])}
        assert same == {"V_e", "T_e", "T_m", "M_Tmf"}


class TestScore:
    def test_it_reads_each_pair_for_itself(self) -> None:
        model = model_of()
        together = model.score(**PAIR)
        assert together.shape == (3,)
        for index in range(3):
            alone = {name: Tokens(*(part[index : index + 1] for part in tokens)) for name, tokens in PAIR.items()}
            torch.testing.assert_close(model.score(**alone)[0], together[index], atol=2e-5, rtol=1e-5)
        mixed = model.score(text=PAIR["text"], video=Tokens(PAIR["video"].values.roll(1, 0), PAIR["video"].mask))
        assert not torch.allclose(mixed, together)

    def test_states_of_one_side_serve_many_pairs(self) -> None:
        model = model_of()
        wanted = model.score(**PAIR)
        sides = {name: model.states(name, tokens) for name, tokens in PAIR.items()}
        torch.testing.assert_close(model.score(**sides), wanted)
        first = Tokens(*(part[:1] for part in sides["text"]))
        torch.testing.assert_close(model.score(text=first, video=sides["video"])[0], wanted[0], atol=2e-5, rtol=1e-5)
        with pytest.raises(InputError, match="as many texts as videos, or one of either; got 2 and 3"):
            model.score(text=Tokens(*(part[:2] for part in sides["text"])), video=sides["video"])

    def test_of_options_it_is_their_logit(self) -> None:
        model = model_of(task="multiple_choice")
        torch.testing.assert_close(model.score(**PAIR), model.answers(**PAIR)[:, 0])

    @pytest.mark.parametrize("task", ["retrieval", "open_answer", "fill_blank"])
    def test_other_tasks_have_none(self, task) -> None:
        with pytest.raises(ConfigError, match=f"Clover for {task} has no score"):
            model_of(task=task).score(**PAIR)


class TestAnswers:
    def test_options_share_their_clip(self) -> None:
        model, video = model_of(task="multiple_choice"), clips(2)
        options = texts([101, 5, 102], [101, 6, 102], [101, 7, 8, 102], [101, 9, 102])
        scores = model.answers(text=options, video=video)
        assert scores.shape == (2, 2)
        repeated = Tokens(*(part[[0, 0, 1, 1]] for part in video))
        torch.testing.assert_close(model.score(text=options, video=repeated).view(2, 2), scores, atol=2e-5, rtol=1e-5)

    def test_the_blank_is_read_wherever_it_is(self) -> None:
        model, video = model_of(task="fill_blank", num_answers=5), clips(2)
        text = texts([101, 103, 6, 102], [101, 6, 7, 103, 102])
        states = model.fused(model.states("video", video), model.text_states(text), text.mask).text
        wanted = model.qa_head(states[[0, 1], [1, 3]])
        torch.testing.assert_close(model.answers(text=text, video=video), wanted)
        with pytest.raises(InputError, match=r"text 1 of the batch .* no \[MASK\]"):
            model.answers(text=texts([101, 103, 102], [101, 6, 102]), video=video)

    def test_unknown_answers_take_no_part(self) -> None:
        model, labels = model_of(task="open_answer", num_answers=5), torch.tensor([[1], [4], [-1]])
        loss, terms = model.loss({**PAIR, "answer": Tokens(labels, labels >= 0)})
        scores = model.answers(**PAIR)
        torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(scores[:2], labels[:2, 0]))
        assert terms.keys() == {"answer"}
        nothing, terms = model.loss({**PAIR, "answer": Tokens(labels, torch.zeros(3, 1))})
        nothing.backward()
        assert (nothing.item(), terms) == (0.0, {})
        with pytest.raises(InputError, match="an answer is not from 0 to 4"):
            model.loss({**PAIR, "answer": Tokens(labels, torch.ones(3, 1))})

    def test_questions_may_have_different_numbers_of_options(self) -> None:
        model, video = model_of(task="multiple_choice"), clips(2)
        flat = texts([101, 5, 102], [101, 6, 102], [101, 7, 8, 102], [101, 9, 102], [101, 4, 102], [])
        options = Tokens(*(part.view(2, 3, -1) for part in flat))
        labels = torch.tensor([[2], [1]])
        loss, _ = model.loss({"options": options, "video": video, "answer": Tokens(labels, labels >= 0)})
        scores = model.question_scores({"options": options, "video": video})
        assert scores.isinf().tolist() == [[False, False, False], [False, False, True]]
        torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(scores, labels[:, 0]))
        # A right option without a word is no answer.
        nothing, terms = model.loss(
            {"options": options, "video": video, "answer": Tokens(torch.full((2, 1), 2), torch.tensor([[0], [1]]))}
        )
        assert (nothing.item(), terms) == (0.0, {})

    def test_with_projections_a_model_of_answers_embeds_and_does_not_train_them(self) -> None:
        model = model_of(task="open_answer", projections=True)
        assert not any(weight.requires_grad for weight in model.ssl_head.parameters())
        pretrained = model_of(task="pretraining")
        assert model.continue_from(pretrained.state_dict()) == ["qa_head"]
        torch.testing.assert_close(model.encode(video=PAIR["video"]), pretrained.eval().encode(video=PAIR["video"]))
        again = model_of().from_official(model.to_official())
        torch.testing.assert_close(again.encode(text=PAIR["text"]), model.encode(text=PAIR["text"]))

    def test_every_trained_weight_of_answers_is_reached(self) -> None:
        for task in ("open_answer", "multiple_choice"):
            model = model_of(task=task).train()
            label = torch.zeros(3, 1, dtype=torch.int64)
            loss, _ = model.loss({**PAIR, "answer": Tokens(label, label == 0)})
            loss.backward()
            without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
            # A model of answers compares no embeddings of its own.
            assert not without

    def test_a_model_of_answers_embeds_nothing_and_the_other_way_round(self) -> None:
        with pytest.raises(ConfigError, match="use task='retrieval' or 'pretraining'"):
            model_of(task="open_answer").encode(video=PAIR["video"])
        with pytest.raises(ConfigError, match="Clover for retrieval gives no answers"):
            model_of(task="retrieval").answers(**PAIR)
        with pytest.raises(InputError, match="2 texts for 3 clips"):
            model_of(task="open_answer").answers(text=texts([101, 102], [101, 102]), video=PAIR["video"])
        with pytest.raises(InputError, match='"answer"; one is missing'):
            model_of(task="open_answer").loss(PAIR)


class TestOfficial:
    def test_what_it_writes_builds_it_again(self) -> None:
        model = model_of(task="fill_blank", text_cls=False, num_answers=7, match_head=True)
        checkpoint = model.to_official()
        again = create_model("test_clover").from_official(checkpoint)
        assert again.config == model.config
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
        integers = [name for name, value in checkpoint["state_dict"].items() if not value.is_floating_point()]
        assert {name.rpartition(".")[2] for name in integers} == {"position_ids", "relative_position_index"}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"colour": 1}, "CloverPretrain has no key 'colour'"),
            ({"backbone": {"stripes": 2}}, "backbone has no key 'stripes'"),
            ({"backbone": {"qkv_bias": False}}, "backbone.qkv_bias"),
            ({"mm_backbone": {"use_prompt": True}}, "mm_backbone.use_prompt is True"),
            ({"mm_backbone": {"img_in_size": 5}}, "mm_backbone.img_in_size"),
            ({"mm_backbone": {"spacial_tokens": 5}}, "mm_backbone.spacial_tokens"),
            ({"ssl_head": {"ln": False}}, "ssl_head.ln is False"),
            ({"symmetry_rank": False}, "symmetry_rank and use_Cmask must be True"),
            ({"task": "captions", "mlm_head": None}, "CloverFinetune has no key 'mlm_head'"),
            ({"task": "captions"}, "task is 'captions'"),
            ({"from_scratch": True}, "from_scratch"),
        ],
    )
    def test_what_no_model_here_has_is_refused(self, change, message) -> None:
        config = {
            "backbone": {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]},
            "mm_backbone": {"img_in_size": 32, "hidden_size": 64, "use_text_cls": True, "num_hidden_layers": 1},
            "text_backbone": {"num_hidden_layers": 1},
            "text_vocab_size": 128,
            "BertConfig": {
                "vocab_size": 128,
                "hidden_size": 64,
                "num_attention_heads": 4,
                "intermediate_size": 8,
                "max_position_embeddings": 40,
            },
            "ssl_head": {"img_hidden_dim": 8, "vts_embed_dim": 8},
            "ssl_loss": {"type": "ExclusiveNCEwithRankingLoss", "use_rank": True},
            "mlm_ssl_head": {"V": {"hidden_dim": 8}, "T": {"cross_in_channels": 64}},
        }
        if "task" in change:
            config = {name: value for name, value in config.items() if not name.startswith(("mlm", "ssl_loss"))}
        else:
            config["symmetry_rank"] = True
        merged = dict(config)
        for name, value in change.items():
            merged[name] = {**config[name], **value} if isinstance(config.get(name), dict) else value
        with pytest.raises(ConfigError, match=message):
            model_of().from_official({}, merged)

    def test_published_weights_of_its_parts_start_it(self) -> None:
        model, other = model_of(), create_model("test_clover", seed=1)
        bert = {f"bert.{name}": value + 1 for name, value in other.text_backbone["bert"].state_dict().items()}
        bert["bert.embeddings.LayerNorm.gamma"] = bert.pop("bert.embeddings.LayerNorm.weight")  # as of old
        bert["cls.predictions.bias"] = torch.ones(128)
        video = {name: value + 1 for name, value in other.backbone.state_dict().items() if name != "mask_token"}
        before = {name: value.clone() for name, value in model.state_dict().items()}
        names = initialised_from(model, text=bert, video=video)
        after = model.state_dict()
        assert torch.equal(after["multimodal_backbone.bert_encoder.layer.1.output.dense.weight"],
                           bert["bert.encoder.layer.1.output.dense.weight"])  # fmt: skip
        assert torch.equal(after["mlm_head.predictions.decoder.weight"], bert["bert.embeddings.word_embeddings.weight"])
        assert torch.equal(after["mlm_head.predictions.decoder.bias"], torch.ones(128))
        assert torch.equal(after["backbone.norm.bias"], video["norm.bias"])
        untouched = {name for name, value in after.items() if torch.equal(value, before[name])}
        assert untouched == after.keys() - set(names)
        assert all(
            name.startswith(("ssl", "mlm_ssl", "mlm_head.predictions.transform", "multimodal", "backbone.mask"))
            for name in untouched
        )
        with pytest.raises(InputError, match="do not fit the model"):
            initialised_from(model, video={"norm.bias": torch.ones(3)})
