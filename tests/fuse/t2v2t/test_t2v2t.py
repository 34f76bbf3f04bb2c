"""T2V2T and VindLU: scores, states given again, open choices, what is missing, draws, published names, QA."""

from __future__ import annotations

import pytest
import torch
from frameloom import ConfigError, InputError
from frameloom.fuse import FusionModel, Tokens, create_model
from frameloom.fuse.layers import visible_keys
from frameloom.fuse.t2v2t import T2V2T, T2V2TConfig, VindLUQA
from frameloom.fuse.t2v2t.model import TINY, VINDLU, Negatives
from frameloom.fuse.t2v2t.official import initialised_from
from torch import nn

KINDS = ("bypass", "naive", "unidirectional")
PIXELS = TINY["image_size"]


def model_of(**options: object) -> T2V2T:
    """With what begins at 0 set at random, so that it matters."""
    torch.manual_seed(0)
    model = create_model("test_t2v2t", **options)
    assert isinstance(model, T2V2T)
    for name, weight in model.named_parameters():
        if "temporal_position" in name or name.endswith(("scale", "bias_table")):
            nn.init.normal_(weight)
        elif weight.dim() > 1:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return model.eval()


def batch_of(lengths: tuple[int, ...] = (5, 3, 4), frames: tuple[int, ...] = (3, 1, 2)) -> dict[str, Tokens]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 100, (len(lengths), max(lengths)), generator=generator)
    pixels = torch.randn(len(frames), max(frames), 3, PIXELS, PIXELS, generator=generator)
    masks = [torch.arange(max(each)) < torch.tensor(each)[:, None] for each in (lengths, frames)]
    return {"text": Tokens(ids, masks[0]), "video": Tokens(pixels, masks[1])}


class TestScore:
    @pytest.mark.parametrize("fusion", KINDS)
    def test_neither_padding_nor_the_batch_matter(self, fusion) -> None:
        model, batch = model_of(fusion=fusion), batch_of()
        together = model.score(**batch)
        for row, (length, count) in enumerate([(5, 3), (3, 1), (4, 2)]):
            alone = {
                "text": Tokens(*(each[row : row + 1, :length] for each in batch["text"])),
                "video": Tokens(*(each[row : row + 1, :count] for each in batch["video"])),
            }
            torch.testing.assert_close(model.score(**alone)[0], together[row], atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("fusion", KINDS)
    def test_frames_are_encoded_once_for_many_texts_and_texts_for_many_videos(self, fusion, monkeypatch) -> None:
        model, batch = model_of(fusion=fusion), batch_of()
        every = model.score(**batch)
        states = {name: model.states(name, tokens) for name, tokens in batch.items()}
        monkeypatch.setattr(model, "vision_encoder", None)
        torch.testing.assert_close(model.score(**states), every)
        one = {name: Tokens(*(part[:1] for part in each)) for name, each in states.items()}
        of_one_video = model.score(text=states["text"], video=one["video"])
        of_one_text = model.score(text=one["text"], video=states["video"])
        assert of_one_video.shape == of_one_text.shape == (3,)
        torch.testing.assert_close(of_one_video[0], every[0])
        torch.testing.assert_close(of_one_text[0], every[0])
        assert not torch.allclose(of_one_text, of_one_video)

    def test_the_video_matters_to_the_text_and_the_other_way_round(self) -> None:
        for fusion in KINDS:
            model, batch = model_of(fusion=fusion), batch_of()
            turned = {**batch, "video": Tokens(*(each.flip(0) for each in batch["video"]))}
            assert not torch.allclose(model.score(**turned), model.score(**batch))

    def test_other_numbers_of_texts_and_videos_are_refused(self) -> None:
        batch = batch_of()
        with pytest.raises(InputError, match="as many texts as videos, or one of either; got 3 and 2"):
            model_of().score(text=batch["text"], video=Tokens(*(each[:2] for each in batch["video"])))

    def test_a_model_without_a_joint_head_names_those_that_have_one(self) -> None:
        batch = batch_of()
        model = create_model("test_miles")
        assert not model.scores
        with pytest.raises(ConfigError, match=r"test_miles has no joint head; models that re-rank: .*t2v2t.*vindlu"):
            model.score(**batch)
        with pytest.raises(ConfigError, match="fusion='none' has no joint encoder"):
            model_of(fusion="none").score(**batch)

    def test_nothing_to_score_is_explained(self) -> None:
        nothing = Tokens(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0))
        with pytest.raises(InputError, match="no modality"):
            model_of().states("text", nothing)


class TestOpenChoices:
    @pytest.mark.parametrize(
        "choice",
        [
            {"fusion_order": "self_cross"}, {"fusion_norm": "pre"}, {"fusion_mlp": "single"},
            {"fusion_keys": "separate"}, {"carry_frames": False}, {"shared_rounds": True},
            {"frame_class_tokens": True}, {"text_padding": "seen"}, {"temporal": "last"},
        ],
        ids=str,
    )  # fmt: skip
    def test_each_is_another_model_and_trains(self, choice) -> None:
        default, other, batch = model_of(), model_of(**choice), batch_of()
        shared = {
            name: weight
            for name, weight in default.state_dict().items()
            if name in other.state_dict() and other.state_dict()[name].shape == weight.shape
        }
        other.load_state_dict(shared, strict=False)
        assert not torch.allclose(other.score(**batch), default.score(**batch))
        loss, _ = other.train().loss(batch)
        loss.backward()
        without = [name for name, p in other.named_parameters() if p.requires_grad and p.grad is None]
        assert not without

    def test_shared_rounds_have_the_weights_of_one(self) -> None:
        model = model_of(shared_rounds=True)
        assert len(model.rounds) == 2
        assert model.rounds[0] is model.rounds[1]

    def test_without_a_joint_encoder_there_is_contrast_alone(self) -> None:
        _, terms = model_of(fusion="none").loss(batch_of())
        assert terms.keys() == {"text|video"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"first_fusion": 3}, "leaves no round"),
            ({"video_width": 32, "temporal_heads": 2}, "frames as wide as texts"),
            ({"max_words": 99}, "text_positions has room for 16"),
            ({"text_heads": 3}, "3 heads"),
            ({"fusion": "both"}, "fusion"),
        ],
    )
    def test_what_cannot_be_is_refused(self, options, message) -> None:
        with pytest.raises(ConfigError, match=message):
            create_model("test_t2v2t", **options)


class TestLoss:
    def test_empty_texts_and_videos_take_no_part(self) -> None:
        model, batch = model_of(), batch_of((5, 3, 4, 2), (3, 1, 2, 2))
        batch["text"].mask[1], batch["video"].mask[3] = False, False
        kept = {name: Tokens(*(each[[0, 2]] for each in tokens)) for name, tokens in batch.items()}
        own = torch.tensor([[0, 2], [2, 0]])
        masked = batch["text"].values, torch.zeros_like(batch["text"].mask)
        total, terms = model.loss(batch, negatives=Negatives(own, own), masked=masked)
        turned = Negatives(*[torch.tensor([[0, 1], [1, 0]])] * 2)
        expected, _ = model.loss(kept, negatives=turned, masked=tuple(each[[0, 2]] for each in masked))
        torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-4)
        assert terms["mlm"] == 0

    def test_captions_of_one_video_are_no_negatives(self) -> None:
        model, batch = model_of(mlm_weight=0.0), batch_of()
        _, alike = model.loss(batch, ids=torch.tensor([4, 4, 4]))
        _, apart = model.loss(batch)
        assert alike["vtm"] != apart["vtm"]
        weights = model.negative_weights(model.embeddings(batch).vectors, torch.tensor([4, 4, 4]))
        assert not any(each.any() for each in weights)

    def test_negatives_may_be_drawn_alike(self) -> None:
        model, batch = model_of(hard_negatives=False), batch_of()
        for weights in model.negative_weights(model.embeddings(batch).vectors, torch.arange(3)):
            assert torch.equal(weights, 1 - torch.eye(3))

    def test_draws_follow_the_step_and_not_the_global_generator(self) -> None:
        batch = batch_of((12,) * 6, (2,) * 6)
        model, other = model_of().train(), model_of().train()
        curve = [model.loss(batch)[0].item() for _ in range(4)]
        torch.manual_seed(99)
        first = [other.loss(batch)[0].item() for _ in range(2)]
        resumed = model_of().train()
        resumed.load_state_dict(other.state_dict())
        torch.manual_seed(7)
        assert first + [resumed.loss(batch)[0].item() for _ in range(2)] == curve
        assert len(set(curve)) == 4
        evaluated = [model.eval().loss(batch)[0].item() for _ in range(2)]
        assert evaluated[0] == evaluated[1]

    def test_the_temperature_stays_between_its_limits(self) -> None:
        model = model_of()
        for value, kept in {3.0: 0.5, -1.0: 0.001}.items():
            nn.init.constant_(model.temp, value)
            model.loss(batch_of())
            assert model.temp.item() == pytest.approx(kept)

    def test_the_classifying_token_is_never_masked(self) -> None:
        model, batch = model_of(mask_probability=1.0), batch_of()
        batch["text"].values[:, 0] = 101
        hidden, chosen = model._masked_words(batch["text"], torch.Generator().manual_seed(0))
        assert torch.equal(chosen, batch["text"].mask & (batch["text"].values != 101))
        assert torch.equal(hidden[~chosen], batch["text"].values[~chosen])
        assert (hidden[chosen] == 103).float().mean() > 0.5

    @pytest.mark.parametrize("fusion", KINDS)
    def test_training_lowers_it(self, fusion) -> None:
        model, batch = model_of(fusion=fusion).train(), batch_of((6,) * 4, (2,) * 4)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        losses = []
        for _ in range(30):
            loss, _ = model.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


class TestPublishedNames:
    @pytest.mark.parametrize("name", ["test_t2v2t", "test_vindlu"])
    @pytest.mark.parametrize("mlm_weight", [1.0, 0.0])
    def test_a_checkpoint_goes_round(self, name, mlm_weight) -> None:
        model = create_model(name, mlm_weight=mlm_weight).eval()
        checkpoint = model.to_official()
        heads = [key for key in checkpoint["model"] if key.startswith("text_encoder.cls.")]
        assert bool(heads) is bool(mlm_weight)
        prefix = "text_encoder.bert." if mlm_weight else "text_encoder."
        assert f"{prefix}embeddings.word_embeddings.weight" in checkpoint["model"]
        back = create_model("test_vindlu").from_official(checkpoint).eval()
        assert back.to_official()["model"].keys() == checkpoint["model"].keys()
        assert torch.equal(back.score(**batch_of()), model.score(**batch_of()))
        assert back.config.replaced(max_words=12, seed=0) == model.config

    def test_frames_other_than_the_checkpoints(self) -> None:
        weights = model_of(num_frames=3).to_official()["model"]
        key = "vision_encoder.embeddings.temporal_position_embeddings"
        longer = model_of(num_frames=5).from_official(weights).state_dict()[key]
        assert torch.equal(longer[:, :3], weights[key])
        assert not longer[:, 3:].any()
        shorter = model_of(num_frames=2).from_official(weights)
        assert torch.equal(shorter.state_dict()[key], weights[key][:, :2])
        assert shorter.score(**batch_of()).isfinite().all()  # three frames: positions between those two

    def test_pretrained_weights_start_fine_tuning(self) -> None:
        pretrained, batch = model_of(), batch_of()
        tuned = model_of(mlm_weight=0.0).from_official(pretrained.to_official()["model"]).eval()
        assert torch.equal(tuned.score(**batch), pretrained.score(**batch))

    def test_two_values_for_one_weight_are_refused(self) -> None:
        weights = dict(model_of().to_official()["model"])
        weights["text_encoder.cls.predictions.decoder.bias"] = weights["text_encoder.cls.predictions.bias"] + 1
        with pytest.raises(InputError, match="one weight, and this checkpoint has two values"):
            model_of().from_official(weights)

    @pytest.mark.parametrize(
        ("section", "key", "value", "message"),
        [
            ("BeitConfig", "use_mask_token", True, "use_mask_token is True; this model takes False"),
            ("BeitConfig", "temporal_model_block", "st_adapter", "'timesformer' or 'none'"),
            ("BeitConfig", "temporal_model_position", "middle", "temporal is 'middle'"),
            ("BeitConfig", "num_towers", 2, "BeitConfig has no key 'num_towers'"),
            ("BeitConfig", "temporal_model_config", {"input_dim": 4}, "input_dim must be"),
            ("BertConfig", "cross_module", "ta", "cross_module is 'ta'"),
            ("BertConfig", "encoder_width", 99, "encoder_width must be"),
            ("loss_weight", "mvm", 1.0, "mvm is not 0"),
        ],
    )
    def test_what_this_model_cannot_be_is_refused(self, section, key, value, message) -> None:
        checkpoint = create_model("test_vindlu").to_official()
        config = {**checkpoint["config"], section: {**checkpoint["config"][section], key: value}}
        with pytest.raises(ConfigError, match=message):
            create_model("test_vindlu").from_official(checkpoint["model"], config)

    def test_a_configuration_without_an_encoder_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="needs BertConfig"):
            create_model("test_vindlu").from_official({}, {"BeitConfig": {"hidden_size": 16}})


class TestQuestions:
    ANSWERS = Tokens(torch.tensor([[101, 5, 102, 0], [101, 6, 7, 102], [101, 8, 102, 0]]), torch.ones(3, 4))

    @pytest.fixture
    def qa(self) -> VindLUQA:
        return VindLUQA.of(model_of(**VINDLU)).eval()

    def test_answers_are_ranked(self, qa) -> None:
        batch = batch_of()
        ranked = qa.answer(batch["text"], batch["video"], self.ANSWERS)
        assert ranked.indices.sort(dim=1).values.tolist() == [[0, 1, 2]] * 3
        torch.testing.assert_close(ranked.probabilities.sum(dim=1), torch.ones(3))
        assert (ranked.probabilities.diff(dim=1) <= 0).all()
        assert qa.answer(batch["text"], batch["video"], self.ANSWERS, num_candidates=2).indices.shape == (3, 2)

    def test_the_first_word_counts_twice_as_published(self, qa) -> None:
        batch = batch_of()
        question = qa.question_states(batch["text"], batch["video"])
        start = Tokens(torch.full((3, 1), 101), torch.ones(3, 1))
        of_first = qa.text_decoder(start, question)[:, 0].log_softmax(dim=1)[:, self.ANSWERS.values[:, 1]]
        rows = [Tokens(*(each[i : i + 1].expand(3, *each.shape[1:]) for each in question)) for i in range(3)]
        once = -torch.stack([qa.text_decoder.losses(self.ANSWERS, row) for row in rows])
        for how, total in {"once": once, "twice": once + of_first}.items():
            ranked = qa.text_decoder.ranked(question, self.ANSWERS, first_word=how)
            assert torch.equal(ranked.indices, total.argsort(dim=1, descending=True))

    def test_a_decoder_starts_as_the_rounds_and_trains(self, qa) -> None:
        trained = model_of(**VINDLU)
        for name, weight in qa.text_decoder.bert.encoder.layer[1].state_dict().items():
            assert torch.equal(weight, trained.rounds[1].state_dict()[name])
        batch = {**batch_of(), "answer": self.ANSWERS}
        optimizer = torch.optim.Adam([p for p in qa.parameters() if p.requires_grad], lr=3e-3)
        losses = []
        for _ in range(20):
            loss, _ = qa.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]
        ranked = qa.answer(batch["text"], batch["video"], self.ANSWERS)
        assert ranked.indices[:, 0].tolist() == [0, 1, 2]

    def test_several_answers_of_a_question_have_weights(self, qa) -> None:
        batch = {**batch_of((4, 3), (2, 1)), "answer": self.ANSWERS}
        counts, weights = torch.tensor([2, 1]), torch.tensor([0.5, 0.5, 1.0])
        loss, _ = qa.loss(batch, num_answers=counts, weights=weights)
        states = qa.question_states(batch["text"], batch["video"])
        rows = Tokens(*(each[[0, 0, 1]] for each in states))
        torch.testing.assert_close(loss, (weights * qa.text_decoder.losses(self.ANSWERS, rows)).sum() / 2)
        with pytest.raises(InputError, match="2 answers in all, and the batch 3"):
            qa.loss(batch)

    def test_it_goes_round_under_published_names(self, qa) -> None:
        checkpoint = qa.to_official()
        other = VindLUQA(T2V2TConfig(**{**TINY, **VINDLU})).from_official(checkpoint)
        assert other.to_official()["model"].keys() == checkpoint["model"].keys()
        assert all(torch.equal(value, qa.state_dict()[name]) for name, value in other.state_dict().items())

    def test_no_answers_and_no_question_are_explained(self, qa) -> None:
        batch = batch_of()
        with pytest.raises(InputError, match="give one or more"):
            qa.answer(batch["text"], batch["video"], Tokens(*(each[:0] for each in self.ANSWERS)))
        with pytest.raises(InputError, match="needs text, video and answer"):
            qa.loss(batch)
        with pytest.raises(ConfigError, match="no joint encoder"):
            VindLUQA(T2V2TConfig(**{**TINY, "fusion": "none"}))


def test_both_are_registered_with_their_differences() -> None:
    paper, base = (create_model(f"test_{name}") for name in ("t2v2t", "vindlu"))
    assert isinstance(paper, FusionModel)
    assert (paper.config.fusion, paper.config.temporal, paper.config.frame_class_tokens) == ("bypass", "first", False)
    assert (base.config.fusion, base.config.temporal, base.config.frame_class_tokens) == (
        "unidirectional",
        "last",
        True,
    )
    assert paper.scores
    assert base.scores


class TestStartingWeights:
    """Of networks that transformers builds: what those compute is what the parts of this model compute."""

    def test_bert_becomes_the_text_encoder_the_rounds_and_the_head(self) -> None:
        from transformers import BertConfig, BertForMaskedLM

        torch.manual_seed(3)
        config = BertConfig(
            vocab_size=120, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        theirs, model = BertForMaskedLM(config).eval(), model_of()
        initialised_from(model, text=theirs.state_dict())
        text = batch_of()["text"]
        with torch.no_grad():
            states = theirs.bert(text.values, text.mask, output_hidden_states=True).hidden_states
            torch.testing.assert_close(model.text_states(text)[0], states[1][0], atol=1e-5, rtol=1e-4)
            hidden = model.bert.encoder(model.text_states(text), visible=visible_keys(text.mask), first=1)
            logits = model.text_encoder["cls"]["predictions"](hidden)
            expected = theirs(text.values, text.mask).logits
        torch.testing.assert_close(logits[text.mask], expected[text.mask], atol=1e-5, rtol=1e-4)

    def test_the_oldest_names_of_norms_are_known(self) -> None:
        model, encoder = model_of(), "text_encoder.bert."
        old = {}
        for name, value in model.state_dict().items():
            if name.startswith(encoder) and "crossattention" not in name and "bypass" not in name:
                named = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
                old[named.replace(encoder, "bert.")] = value + 1
        initialised_from(model, text=old)
        norm = model.bert.encoder.layer[2].output.LayerNorm
        assert torch.equal(norm.weight, old["bert.encoder.layer.2.output.LayerNorm.gamma"])
        assert torch.equal(norm.bias, old["bert.encoder.layer.2.output.LayerNorm.beta"])

    def test_beit_becomes_the_video_encoder(self) -> None:
        from transformers import BeitConfig, BeitModel

        torch.manual_seed(4)
        config = BeitConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=PIXELS,
            patch_size=8, use_relative_position_bias=True, use_mean_pooling=True, use_mask_token=False,
            drop_path_rate=0.0,
        )  # fmt: skip
        theirs, model = BeitModel(config).eval(), model_of(temporal_positions=False)
        for name, weight in theirs.named_parameters():
            if name.endswith("bias_table"):
                nn.init.normal_(weight)
        initialised_from(model, video=theirs.state_dict())
        pixels = torch.randn(2, 1, 3, PIXELS, PIXELS)
        with torch.no_grad():
            hidden, pooled = model.vision_encoder(pixels, torch.ones(2, 1))
            expected = theirs(pixels[:, 0])
        torch.testing.assert_close(hidden[:, 0], expected.last_hidden_state, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(pooled[:, 0], expected.pooler_output, atol=1e-5, rtol=1e-4)

    def test_weights_of_another_shape_or_network_change_nothing(self) -> None:
        model, encoder = model_of(), "text_encoder.bert."
        before = {name: value.clone() for name, value in model.state_dict().items()}
        whole = {name.removeprefix(encoder): 2 * value for name, value in before.items() if name.startswith(encoder)}
        with pytest.raises(InputError, match=r"\(120, 16\) here and \(7, 16\)"):
            initialised_from(model, text={**whole, "embeddings.word_embeddings.weight": torch.zeros(7, 16)})
        del whole["encoder.layer.2.output.dense.bias"]
        with pytest.raises(
            InputError, match=r"lack text_encoder\.bert\.encoder\.layer\.2\.output\.dense\.bias, 1 in all"
        ):
            initialised_from(model, text=whole)
        with pytest.raises(InputError, match=r"lack vision_encoder\.embeddings\.cls_token"):
            initialised_from(model, video={"fc.weight": torch.zeros(2, 2)})
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
