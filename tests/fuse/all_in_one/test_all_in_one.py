"""All-in-one: ways in which frames meet, co-training, heads, checkpoints. The authors' numbers are in golden cases."""

from __future__ import annotations

import pytest
import torch
from frameloom import ConfigError, InputError
from frameloom.fuse import Tokens, create_model, model_config
from frameloom.fuse.all_in_one import AllInOne
from frameloom.fuse.all_in_one.model import matching_draws, order_labels
from frameloom.fuse.all_in_one.official import initialised_from

OFFICIAL = {
    "vit": "vit_base_patch8_32",
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_ratio": 4,
    "num_frames": 3,
    "vocab_size": 120,
    "max_text_len": 12,
    "shared_embedding_dim": 20,
    "max_image_len": -1,
    "loss_names": {"itm": 1, "mlm": 1},
}
EVERY_HEAD = {"rank_head": True, "num_answers": 5, "option_head": True, "frame_order_head": True, "pixel_head": True}


def all_in_one(**options: object) -> AllInOne:
    torch.manual_seed(0)
    model = create_model("test_all_in_one", **options)
    assert isinstance(model, AllInOne)
    for name, parameter in model.named_parameters():  # at their own, tiny scale all tokens look alike
        if parameter.dim() > 1 and "rank_output" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def batch(make_batch) -> dict[str, Tokens]:
    return make_batch(modalities=("text", "video"), pixels=True)


@pytest.fixture
def whole_clips(batch) -> dict[str, Tokens]:
    """Three frames each."""
    return {**batch, "video": Tokens(batch["video"].values[:, :3], torch.ones(4, 3).bool())}


class TestPass:
    @pytest.mark.parametrize("temporal", ["roll", "none", "flatten"])
    def test_padding_is_seen_by_nobody(self, batch, temporal) -> None:
        model = all_in_one(temporal=temporal).eval()
        together = model.score(**batch)
        for sample in range(4):
            words, frames = (int(batch[name].mask[sample].sum()) for name in ("text", "video"))
            alone = {
                "text": Tokens(*(part[sample : sample + 1, :words] for part in batch["text"])),
                "video": Tokens(*(part[sample : sample + 1, :frames] for part in batch["video"])),
            }
            torch.testing.assert_close(model.score(**alone)[0], together[sample], atol=2e-6, rtol=1e-5)

    def test_the_order_of_frames_matters_where_they_meet(self, whole_clips) -> None:
        video = whole_clips["video"]
        turned = {**whole_clips, "video": Tokens(video.values.flip(1), video.mask)}
        for temporal, meets in (("roll", True), ("flatten", False), ("none", False)):
            model = all_in_one(temporal=temporal).eval()  # temporal embeddings are not zero here
            with torch.no_grad():
                model.transformer.temporal_embed.zero_()
            same = torch.allclose(model.score(**turned), model.score(**whole_clips), atol=1e-5)
            assert same is not meets

    def test_with_one_frame_nothing_rolls(self, batch) -> None:
        alone = {**batch, "video": Tokens(*(part[:, :1] for part in batch["video"]))}
        assert torch.equal(all_in_one().score(**alone), all_in_one(temporal="none").score(**alone))

    def test_a_random_order_of_patches_changes_what_rolls_and_not_a_clip_alone(self, whole_clips) -> None:
        fixed, drawn = (all_in_one(patch_order=order).eval() for order in ("fixed", "random"))
        assert not torch.allclose(fixed.score(**whole_clips), drawn.score(**whole_clips))
        assert torch.equal(drawn.score(**whole_clips), drawn.score(**whole_clips))
        video = whole_clips["video"]
        torch.testing.assert_close(fixed.encode(video=video), drawn.encode(video=video))

    def test_more_frames_than_there_is_room_for(self, batch) -> None:
        long = Tokens(batch["video"].values.repeat(1, 2, 1, 1, 1), torch.ones(4, 8))
        with pytest.raises(InputError, match=r"8 frames .* ends at 6; sample fewer"):
            all_in_one().encode(video=long)

    def test_a_long_text_is_read_as_its_beginning_and_its_end(self, batch) -> None:
        model, ids = all_in_one().eval(), torch.randint(1, 40, (4, 20))
        cut = torch.cat([ids[:, :11], ids[:, -1:]], dim=1)
        long, short = (
            model.score(text=Tokens(each, torch.ones_like(each)), video=batch["video"]) for each in (ids, cut)
        )
        assert torch.equal(long, short)

    @pytest.mark.parametrize("name", ["all_in_one", "all_in_one_s", "all_in_one_ti"])
    def test_published_sizes(self, name) -> None:
        config = model_config(name)
        sizes = {"all_in_one": (768, 12, False), "all_in_one_s": (384, 6, True), "all_in_one_ti": (192, 3, False)}
        assert (config.width, config.heads, config.distilled) == sizes[name]
        assert (config.depth, config.num_frames, config.max_words, config.projection_dim) == (12, 3, 40, 512)

    def test_a_distilled_backbone_has_a_second_token_and_no_time(self, whole_clips) -> None:
        model = all_in_one(distilled=True, deit=True)
        tokens = model.transformer.visual_tokens(whole_clips["video"].values)
        assert tokens.shape[2] == 2 + 16
        with torch.no_grad():
            model.transformer.temporal_embed.add_(1.0)
        assert torch.equal(model.transformer.visual_tokens(whole_clips["video"].values), tokens)


class TestLoss:
    def test_weights_turn_objectives_on_and_off(self, whole_clips) -> None:
        def terms(**options: object) -> set[str]:
            return set(all_in_one(**options).loss(whole_clips)[1])

        assert terms() == {"text|video", "mlm", "vtm", "transport"}
        assert terms(mlm_weight=0.0) == {"text|video", "vtm", "transport"}
        assert terms(vtm_weight=0.0) == {"text|video", "mlm"}
        assert terms(transport_weight=0.0, contrast_weight=0.0) == {"mlm", "vtm"}
        assert terms(order_weight=1.0, frame_order_head=True) == {"text|video", "mlm", "vtm", "transport", "order"}

    def test_a_clips_text_is_ranked_among_others_of_the_batch(self, batch) -> None:
        model = all_in_one(rank_head=True, rank_weight=2.0, num_false_texts=2).train()
        drawn = model.drawn(batch["text"], batch["video"])
        assert drawn.ranked[:, 0].tolist() == [0, 1, 2, 3]
        assert all(len(set(row)) == 3 for row in drawn.ranked.tolist())
        scores = torch.stack([
            model.choice_scores([Tokens(*(part[[text]] for part in batch["text"])) for text in row],
                                Tokens(*(part[[clip]] for part in batch["video"])))[0]
            for clip, row in enumerate(drawn.ranked.tolist())
        ])  # fmt: skip
        expected = 2.0 * torch.nn.functional.cross_entropy(scores, torch.zeros(4).long())
        torch.testing.assert_close(model.loss(batch)[1]["rank"], expected.detach())
        alone = {name: Tokens(*(part[:1] for part in tokens)) for name, tokens in batch.items()}
        assert "rank" not in model.loss(alone)[1]

    def test_answers_are_learned_and_unknown_ones_are_not(self, batch) -> None:
        weights = {"mlm_weight": 0.0, "vtm_weight": 0.0, "contrast_weight": 0.0, "answer_weight": 3.0}
        model = all_in_one(num_answers=5, **weights).eval()
        answer = Tokens(torch.tensor([[4], [0], [2], [9]]), torch.tensor([[1], [1], [1], [0]]))
        total, terms = model.loss({**batch, "answer": answer})
        scores = model.answer_scores(**batch)[:3]
        expected = 3.0 * torch.nn.functional.cross_entropy(scores, torch.tensor([4, 0, 2]))
        assert set(terms) == {"answer"}
        torch.testing.assert_close(total, expected)
        assert not model.loss(batch)[1]
        assert "answer" not in all_in_one().loss({**batch, "answer": answer})[1]
        wrong = answer._replace(mask=torch.ones(4, 1))
        with pytest.raises(InputError, match=r"answer 9 is not one of this model's 5"):
            model.loss({**batch, "answer": wrong})
        with pytest.raises(InputError, match=r"answer has shape \(4, 2\); this batch takes \(4, 1\)"):
            model.loss({**batch, "answer": Tokens(answer.values.repeat(1, 2), answer.mask)})

    def test_the_total_is_the_sum(self, batch) -> None:
        total, terms = all_in_one().loss(batch)
        torch.testing.assert_close(total.detach(), torch.stack(list(terms.values())).sum())

    def test_draws_follow_from_the_step_and_the_state_dict_keeps_it(self, batch) -> None:
        model, other, resumed = (all_in_one().train() for _ in range(3))
        curve = [model.loss(batch)[0].item() for _ in range(3)]
        assert len(set(curve)) == 3
        other.loss(batch)
        resumed.load_state_dict(other.state_dict())
        assert [resumed.loss(batch)[0].item() for _ in range(2)] == curve[1:]

    def test_co_training_adds_clips_and_pictures(self, batch) -> None:
        lengths = torch.tensor([3, 1, 3, 1])
        mixed = {
            "text": Tokens(batch["text"].values, torch.ones(4, 6)),
            "video": Tokens(batch["video"].values, torch.arange(4) < lengths[:, None]),
        }
        model = all_in_one(cotraining=True).eval()
        total, terms = model.loss(mixed)
        names = {"text|video", "mlm", "vtm", "transport"}
        assert set(terms) == names | {f"picture {name}" for name in names}
        apart = [{name: Tokens(*(part[i::2] for part in tokens)) for name, tokens in mixed.items()} for i in (0, 1)]
        torch.testing.assert_close(total, model.loss(apart[0])[0] + model.loss(apart[1])[0])

    def test_a_picture_has_no_time_in_co_training(self, batch) -> None:
        picture = batch["video"].values[:, :1]
        for cotraining in (False, True):
            model = all_in_one(cotraining=cotraining)
            tokens = model.transformer.visual_tokens(picture)
            with torch.no_grad():
                model.transformer.temporal_embed.add_(1.0)
            assert torch.equal(model.transformer.visual_tokens(picture), tokens) is cotraining

    @pytest.mark.parametrize("num_samples", [1, 2, 5, 8])
    def test_half_of_the_texts_keep_their_clip_and_the_others_get_another(self, num_samples) -> None:
        matches, false = matching_draws(num_samples, generator=torch.Generator().manual_seed(num_samples))
        assert int(matches.sum()) == (1 if num_samples == 1 else num_samples // 2)
        assert num_samples == 1 or bool((false != torch.arange(num_samples)).all())

    def test_orders_are_numbered_as_permutations(self) -> None:
        assert order_labels(torch.tensor([[0, 1, 2], [0, 2, 1], [2, 1, 0]])).tolist() == [0, 1, 5]


class TestHeads:
    def test_the_ranking_head_begins_as_the_match_of_the_matching_head(self, batch) -> None:
        model = all_in_one(rank_head=True).eval()
        model.begin_ranking()
        ranked = model.score(**batch)
        model.config = model.config.replaced(rank_head=False)
        torch.testing.assert_close(model.score(**batch), ranked)

    def test_the_score_of_an_option_is_that_of_its_text(self, batch) -> None:
        model = all_in_one(rank_head=True).eval()
        other = Tokens(batch["text"].values.flip(0), batch["text"].mask.flip(0))
        scores = model.choice_scores([batch["text"], other], batch["video"])
        assert torch.equal(scores[:, 0], model.score(**batch))
        assert torch.equal(scores[:, 1], model.score(text=other, video=batch["video"]))

    def test_a_probe_trains_the_head_the_pooler_and_the_projections(self, batch) -> None:
        model = all_in_one(num_answers=3)
        trained = model.train_probe()
        assert {name.split(".")[0] for name in trained} == {"pooler", "txt_proj", "vid_proj", "vqa_classifier"}
        assert {name for name, p in model.named_parameters() if p.requires_grad} == set(trained)

    def test_what_a_model_was_built_without(self, batch) -> None:
        with pytest.raises(ConfigError, match="without answers: set num_answers"):
            all_in_one().answer_scores(**batch)
        with pytest.raises(ConfigError, match="without a matching head: set vtm_weight"):
            all_in_one(vtm_weight=0.0).score(**batch)


class TestOfficial:
    @pytest.mark.parametrize("options", [{}, {"distilled": True, "deit": True}, {"cotraining": True}, EVERY_HEAD])
    def test_a_checkpoint_goes_round(self, batch, options) -> None:
        model = all_in_one(**options)
        model.train().loss(batch)
        checkpoint = model.to_official()
        again = all_in_one().from_official(checkpoint)
        assert again.config == model.config
        assert again.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
        assert ("vtm_score.fc.weight" in checkpoint["state_dict"]) is ("cotraining" in options)

    def test_heads_follow_from_the_weights(self) -> None:
        weights = all_in_one(num_frames=3, **EVERY_HEAD, contrast_weight=0.0).to_official()["state_dict"]
        weights["text_embeddings.position_ids"] = torch.arange(12)[None]  # in published checkpoints
        model = all_in_one().from_official({"state_dict": weights}, OFFICIAL)
        assert {name: getattr(model.config, name) for name in EVERY_HEAD} == EVERY_HEAD
        assert (model.config.contrast_weight, model.config.mlm_weight, model.dim) == (0.0, 1.0, 24)

    @pytest.mark.parametrize("num_frames", [2, 8])
    def test_another_number_of_frames_is_cut_or_filled_with_zeros(self, num_frames) -> None:
        weights = all_in_one(num_frames=3).to_official()["state_dict"]
        table = weights["transformer.temporal_embed"].normal_()
        model = all_in_one().from_official(weights, {**OFFICIAL, "num_frames": num_frames})
        loaded = model.transformer.temporal_embed
        assert torch.equal(loaded[:, :3], table[:, :num_frames])
        assert not loaded[:, 3:].any()

    @pytest.mark.parametrize("max_text_len", [8, 16])
    def test_texts_of_another_length_keep_the_positions_that_both_have(self, max_text_len) -> None:
        weights = all_in_one(num_frames=3).to_official()["state_dict"]
        model = all_in_one().from_official(weights, {**OFFICIAL, "max_text_len": max_text_len})
        table = model.text_embeddings.position_embeddings.weight
        assert len(table) == max_text_len
        kept = min(max_text_len, 12)
        assert torch.equal(table[:kept], weights["text_embeddings.position_embeddings.weight"][:kept])

    def test_a_checkpoint_of_another_size_is_refused_and_changes_nothing(self) -> None:
        model = all_in_one()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(InputError, match=r"wrong shape: .* and \d+ more"):
            model.from_official(all_in_one(width=48).to_official()["state_dict"])
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [({"max_image_len": 50}, "max_image_len is 50"), ({"patches": 3}, "no key 'patches'; known: .*patch_size")],
    )
    def test_what_the_authors_or_this_model_do_not_have(self, changes, message) -> None:
        weights = all_in_one(num_frames=3).to_official()["state_dict"]
        with pytest.raises(ConfigError, match=message):
            all_in_one().from_official(weights, {**OFFICIAL, **changes})


class TestFineTuning:
    def test_what_both_have_is_taken_and_the_rest_is_named(self) -> None:
        trained = all_in_one(max_words=16, num_frames=2)
        trained.num_steps += 7
        model = all_in_one(max_words=12, num_frames=3, num_answers=5, rank_head=True, mlm_weight=0.0)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert model.continue_from(trained.state_dict()) == ["rank_output", "vqa_classifier"]
        own, theirs = model.state_dict(), trained.state_dict()
        tables = ("text_embeddings.position_embeddings.weight", "transformer.temporal_embed")
        shared = own.keys() & theirs.keys() - {*tables, "num_steps"}
        assert all(torch.equal(own[name], theirs[name]) for name in shared)
        assert int(model.num_steps) == 0
        assert torch.equal(own[tables[0]], theirs[tables[0]][:12])
        assert torch.equal(own[tables[1]][:, :2], theirs[tables[1]])
        assert torch.equal(own[tables[1]][:, 2:], before[tables[1]][:, 2:])
        # As published, the head that ranks begins as the matching head that was trained.
        assert torch.equal(own["rank_output.weight"], theirs["itm_score.fc.weight"][1:])
        answers = [name for name in own if name.startswith("vqa_classifier.")]
        assert all(torch.equal(own[name], before[name]) for name in answers)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"depth": 3}, r"they have besides transformer.blocks.2.attn.proj.bias, .* \(12 in all\)"),
            ({"depth": 1}, r"they lack transformer.blocks.1.attn.proj.bias, .* \(12 in all\)"),
            ({"vocab_size": 130}, r"mlm_score.bias is \(120,\) here and \(130,\)"),
        ],
    )
    def test_weights_of_another_model_are_refused_and_change_nothing(self, options, message) -> None:
        model = all_in_one()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(InputError, match=message):
            model.continue_from(all_in_one(**options).state_dict())
        with pytest.raises(InputError, match="they share no part"):
            model.continue_from({"conv1.weight": torch.zeros(2)})
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_starting_weights_of_timm_and_transformers(batch) -> None:
    timm, transformers = pytest.importorskip("timm"), pytest.importorskip("transformers")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 7}
    vit = timm.models.VisionTransformer(**sizes).eval()
    bert = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=120, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
        )
    )
    model = all_in_one().eval()
    initialised_from(model, video=vit.state_dict(), text=bert.state_dict())
    words = bert.state_dict()
    for name in ("word_embeddings", "LayerNorm", "token_type_embeddings"):
        own = model.text_embeddings.state_dict()[f"{name}.weight"]
        assert torch.equal(own, words[f"bert.embeddings.{name}.weight"])
    assert torch.equal(model.mlm_score.decoder.weight, words["cls.predictions.decoder.weight"])
    with torch.no_grad():
        for weights in (model.transformer.temporal_embed, model.token_type_embeddings.weight):
            weights.zero_()
    picture = Tokens(batch["video"].values[:, :1], torch.ones(4, 1))
    torch.testing.assert_close(
        model.features(video=picture).first, vit.forward_features(picture.values[:, 0])[:, 0], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "image_size 30 must be a multiple of patch_size 8"),
        ({"heads": 5}, "width 24 cannot be shared by 5 heads"),
        ({"mask_id": 120}, "mask_id 120 must be below vocab_size 120"),
        ({"order_weight": 1.0}, "order_weight needs frame_order_head"),
        ({"rank_weight": 1.0}, "rank_weight needs rank_head"),
    ],
)
def test_options_that_cannot_be(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        all_in_one(**options)
