"""Everything at Once of any set of modalities: equation 3 written out a second time, its weights, its dropout."""

from __future__ import annotations

import json
from itertools import chain, combinations

import pytest
import torch
from frameloom import ConfigError, InputError
from frameloom.fuse import Tokens, combination_name, create_model, model_config
from frameloom.fuse.everything_at_once.combinations import compared_combinations, loss_terms, term_of
from frameloom.train import load_checkpoint, save_checkpoint
from torch.nn import functional

FOUR = ("text", "video", "audio", "speech")
SIX = {"ocr": 12, "speech": 12, "tags": 12}


def model_of(**config):
    return create_model("test_everything_at_once", **config).eval()


def subsets(names):
    return chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1))


def drawn_modalities(model, batch) -> set[str]:
    _, terms = model.loss(batch)
    return set("+".join(terms).replace("|", "+").split("+"))


class TestTerms:
    def test_of_three_modalities_are_those_of_equation_2_in_its_order(self) -> None:
        assert ["|".join(term) for term in loss_terms(FOUR[:3])] == [
            "text|video",
            "text|audio",
            "video|audio",
            "text|video+audio",
            "video|text+audio",
            "audio|text+video",
        ]
        assert compared_combinations(FOUR[:3]) == [
            "text",
            "video",
            "audio",
            "text+video",
            "text+audio",
            "video+audio",
        ]

    @pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
    def test_are_all_pairs_of_disjoint_subsets_each_once(self, size) -> None:
        names = ("text", "video", "audio", "ocr", "speech", "tags")[:size]
        expected = {frozenset([x, y]) for x in subsets(names) for y in subsets(names) if not set(x) & set(y)}
        found = [frozenset(tuple(side.split("+")) for side in term) for term in loss_terms(names)]
        assert len(found) == len(set(found)) == (3**size - 2 ** (size + 1) + 1) // 2
        assert set(found) == expected

    def test_of_four_modalities_need_combinations_up_to_triplets(self) -> None:
        needed = set(chain.from_iterable(loss_terms(FOUR)))
        assert needed == set(compared_combinations(FOUR))
        assert len(needed) == 14
        assert "text+video+audio" in needed
        assert "+".join(FOUR) not in needed

    @pytest.mark.parametrize(
        ("written", "term"),
        [
            ("text|video+speech", ("text", "video+speech")),
            ("speech+video|text", ("text", "video+speech")),
            ("speech|text", ("text", "speech")),
            ("video+speech|audio+text", ("text+audio", "video+speech")),
            ("speech+audio+text|video", ("video", "text+audio+speech")),
        ],
    )
    def test_may_be_written_in_any_order(self, written, term) -> None:
        assert term_of(written, order=FOUR, where="lambdas") == term
        assert term in loss_terms(FOUR)

    def test_names_of_combinations_follow_the_model(self) -> None:
        assert combination_name("speech+video", order=FOUR) == "video+speech"
        for wrong in ("video+video", "video+smell", "", "video|speech"):
            with pytest.raises(InputError, match=r"join different ones of text, video, audio, speech"):
                combination_name(wrong, order=FOUR)


class TestLoss:
    def test_of_four_modalities_is_equation_3_written_out(self, make_batch) -> None:
        """Each term from the raw features, by loops over samples; each combination is a pass of its own."""
        lambdas = {"text|video+speech": 1.0, "audio+text|video+speech": 0.0, "speech|video": 0.7}
        model = model_of(extra_dims={"speech": 12}, lambdas=lambdas, lambda_tv=0.9, lambda_extra=0.2)
        present = {"text": (3, 2, 0, 4), "video": (1, 2, 3, 4), "audio": (32, 5, 9, 0), "speech": (0, 4, 4, 2)}
        batch = make_batch(present, modalities=FOUR)
        loss, terms = model.loss(batch)
        total = used = 0.0
        for x, y in loss_terms(FOUR):
            published = x in ("text", "video", "audio") and "speech" not in y
            weight = {("text", "video"): 0.9}.get((x, y), 0.1) if published else 0.2
            weight = {
                ("text", "video+speech"): 1.0,
                ("text+audio", "video+speech"): 0.0,
                ("video", "speech"): 0.7,
            }.get((x, y), weight)
            names = f"{x}+{y}".split("+")
            rows = [i for i in range(4) if all(present[name][i] for name in names)]
            if not weight:
                assert f"{x}|{y}" not in terms
                continue
            sides = [model.encode(**{name: batch[name] for name in side.split("+")})[rows] for side in (x, y)]
            scores = (sides[0] @ sides[1].T).double() / 0.05
            plain = sum(
                -(matrix[i, i] - matrix[i].exp().sum().log()) for matrix in (scores, scores.T) for i in range(len(rows))
            ) / len(rows)
            assert terms[f"{x}|{y}"].item() == pytest.approx(plain.item(), abs=1e-4)
            total, used = total + weight * plain.item(), used + weight
        assert len(terms) == 24
        assert loss.item() == pytest.approx(total / used, abs=1e-4)

    def test_an_absent_further_modality_leaves_the_published_loss(self, make_batch) -> None:
        three, four = model_of(), model_of(extra_dims={"speech": 12})
        four.load_state_dict(three.state_dict(), strict=False)
        batch = make_batch()
        alone, terms = three.loss(batch)
        together, same_terms = four.loss(batch)
        assert torch.equal(alone, together)
        assert terms.keys() == same_terms.keys()

    def test_a_sample_without_it_leaves_its_terms_and_has_the_masking_token(self, make_batch) -> None:
        model = model_of(extra_dims={"speech": 12})
        batch = make_batch({"speech": (3, 0, 2, 0)}, modalities=FOUR)
        other = make_batch({"speech": (3, 0, 2, 0)}, modalities=FOUR)
        for name in FOUR[:3]:  # what the two without speech show elsewhere
            other[name].values[[1, 3]] += 1.0
        _, terms = model.loss(batch)
        _, others = model.loss(other)
        with_speech = [name for name in terms if "speech" in name]
        assert len(with_speech) == 19
        for name in terms:
            assert torch.allclose(terms[name], others[name], atol=1e-6) is ("speech" in name)
        nonempty = model.embeddings({"speech": batch["speech"]}).nonempty
        assert nonempty["speech"].tolist() == [True, False, True, False]
        stood_in = model.encode(speech=batch["speech"])
        torch.testing.assert_close(stood_in[1], stood_in[3])

    def test_terms_of_weight_0_cost_no_pass(self, make_batch) -> None:
        published = dict.fromkeys(
            ("lambda_tv", "lambda_ta", "lambda_va", "lambda_t_va", "lambda_v_ta", "lambda_a_tv"), 0.0
        )
        model = model_of(extra_dims={"speech": 12}, lambda_extra=0.0, lambdas={"text|video+speech": 1.0}, **published)
        passes = []
        embeddings = model.embeddings

        def kept(*args, **kwargs):
            found = embeddings(*args, **kwargs)
            passes.extend(found.vectors)
            return found

        model.embeddings = kept
        _, terms = model.loss(make_batch(modalities=FOUR))
        assert terms.keys() == {"text|video+speech"}
        assert passes == [*FOUR, "video+speech"]

    def test_without_fused_pairs_singles_alone_are_compared(self, make_batch) -> None:
        model = model_of(extra_dims={"speech": 12}, fused_pairs=False, transformer="per_modality")
        loss, terms = model.loss(make_batch(modalities=FOUR))
        loss.backward()
        assert terms.keys() == {"|".join(pair) for pair in combinations(FOUR, 2)}
        assert model.fusion_speech is not model.fusion_audio
        assert all(p.grad is not None for p in model.fusion_speech.blocks.parameters())


class TestEmbeddings:
    def test_every_combination_is_its_own_pass(self, make_batch) -> None:
        model, batch = model_of(extra_dims={"speech": 12}), make_batch({"speech": (0, 2, 1, 5)}, modalities=FOUR)
        everything = ["+".join(names) for names in subsets(FOUR)]
        vectors, _ = model.embeddings(batch, combinations=everything)
        assert list(vectors) == everything
        for name, vector in vectors.items():
            encoded = model.encode(**{part: batch[part] for part in name.split("+")})
            torch.testing.assert_close(encoded, functional.normalize(vector), atol=1e-6, rtol=1e-5)
        assert list(model.embeddings(batch).vectors) == everything[:-1]

    def test_combinations_are_chosen_by_name(self, make_batch) -> None:
        model, batch = model_of(extra_dims={"speech": 12}), make_batch(modalities=FOUR)
        del batch["text"]
        vectors, _ = model.embeddings(
            batch, combinations=["speech+video", "audio", "video+speech", "text", "text+audio"]
        )
        assert list(vectors) == ["video+speech", "audio"]
        with pytest.raises(InputError, match="'smell\\+video'"):
            model.embeddings(batch, combinations=["smell+video"])

    def test_a_further_modality_changes_what_the_others_contribute(self, make_batch) -> None:
        model, batch, other = (
            model_of(extra_dims={"speech": 12}),
            make_batch(modalities=FOUR),
            make_batch(seed=9, modalities=FOUR),
        )
        one, two = (
            model.encode(video=batch["video"], audio=batch["audio"], speech=each["speech"]) for each in (batch, other)
        )
        assert not torch.allclose(one, two, atol=1e-3)

    def test_positions_have_a_limit_of_their_own(self, make_batch) -> None:
        model = model_of(extra_dims={"speech": 12}, positional=True, max_extra_tokens=7)
        batch = make_batch(modalities=FOUR)
        model.encode(speech=batch["speech"])
        longer = Tokens(*(torch.cat([part, part], dim=1) for part in batch["speech"]))
        with pytest.raises(InputError, match=r"speech has 14 tokens.*ends at 7"):
            model.encode(speech=longer)


class TestDropout:
    @pytest.fixture
    def six(self):
        return model_of(extra_dims=SIX)

    @pytest.fixture
    def batch(self, six, make_batch):
        return make_batch(modalities=six.modalities)

    def test_a_training_step_sees_a_random_four(self, six, batch) -> None:
        drawn = [drawn_modalities(six, batch) for _ in range(20)]
        assert {len(names) for names in drawn} == {4}
        assert len({frozenset(names) for names in drawn}) > 5
        assert set().union(*drawn) == set(six.modalities)

    @pytest.mark.parametrize("frozen_batch_norm", [False, True])
    def test_the_draw_is_torchs_so_that_a_resumed_training_repeats_it(self, six, batch, frozen_batch_norm) -> None:
        six.train(not frozen_batch_norm)
        state = torch.get_rng_state()
        first = [drawn_modalities(six, batch) for _ in range(4)]
        torch.set_rng_state(state)
        assert [drawn_modalities(six, batch) for _ in range(4)] == first
        assert any(names != first[0] for names in first)

    def test_no_more_than_four_draw_nothing(self, make_batch) -> None:
        model, batch = model_of(extra_dims={"speech": 12}), make_batch(modalities=FOUR)
        state = torch.get_rng_state()
        assert len(model.loss(batch)[1]) == 25
        assert torch.equal(torch.get_rng_state(), state)

    def test_what_the_batch_lacks_takes_no_place(self, six, batch) -> None:
        del batch["ocr"], batch["text"]
        for _ in range(8):
            assert drawn_modalities(six, batch) == {"video", "audio", "speech", "tags"}

    def test_the_limit_is_an_option(self, make_batch) -> None:
        model = model_of(extra_dims=SIX, max_modalities_per_step=2)
        for _ in range(4):
            assert len(model.loss(make_batch(modalities=model.modalities))[1]) == 1

    def test_without_gradients_nothing_is_left_out(self, six, batch) -> None:
        with torch.no_grad():
            _, terms = six.loss(batch)
        assert len(terms) == 301

    def test_six_learn(self, six, batch) -> None:
        """Every weight is reached in the course of a few steps."""
        for _ in range(8):
            six.loss(batch)[0].backward()
        assert not [name for name, p in six.named_parameters() if p.requires_grad and p.grad is None]


class TestConfiguration:
    def test_order_of_names_does_not_matter(self) -> None:
        one = model_config("test_everything_at_once", extra_dims={"speech": 12, "ocr": 7})
        other = model_config("test_everything_at_once", extra_dims={"ocr": 7, "speech": 12})
        assert one == other
        assert hash(one) == hash(other)
        assert list(one.extra_dims) == ["ocr", "speech"]
        assert create_model("test_everything_at_once", extra_dims={"speech": 1, "ocr": 7}).modalities == (
            "text",
            "video",
            "audio",
            "ocr",
            "speech",
        )

    def test_mappings_survive_json_and_checkpoints(self, tmp_path) -> None:
        model = model_of(extra_dims={"speech": 12, "ocr": 7}, lambdas={"speech|video+ocr": 1, "text|ocr": 0.5})
        assert model.config.lambdas == {"speech|video+ocr": 1.0, "text|ocr": 0.5}
        document = json.loads(json.dumps(model.config.model_dump(), sort_keys=True))
        assert model_config("test_everything_at_once", **document) == model.config
        meta = save_checkpoint(model, tmp_path)
        loaded, read = load_checkpoint(tmp_path, expected_digest=meta.digest)
        assert loaded.config == model.config
        assert loaded.modalities == model.modalities
        assert read.config["extra_dims"] == {"ocr": 7, "speech": 12}
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())

    def test_another_weight_is_another_digest(self, tmp_path) -> None:
        digests = set()
        for weight in (0.5, 1.0):
            torch.manual_seed(0)
            model = model_of(extra_dims={"speech": 12}, lambdas={"text|speech": weight})
            digests.add(save_checkpoint(model, tmp_path / str(weight)).digest)
        assert len(digests) == 2

    def test_a_model_may_have_fewer_of_the_published_ones(self, make_batch) -> None:
        model = model_of(modalities=["video"], extra_dims={"speech": 12})
        assert model.modalities == ("video", "speech")
        _, terms = model.loss(make_batch(modalities=model.modalities))
        assert terms.keys() == {"video|speech"}
        with pytest.raises(InputError, match=r"this model takes video, speech$"):
            model.encode(**make_batch(modalities=("text",)))

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"extra_dims": {"speech": "wide"}}, r"extra_dims\.speech is 'wide'; it must be of type int"),
            ({"extra_dims": {"speech": 0}}, r"extra_dims\.speech is 0"),
            ({"extra_dims": 300}, "extra_dims is 300; it must be of type Mapping"),
            ({"extra_dims": {"text": 300}}, "'text' cannot name a modality"),
            ({"extra_dims": {"a+b": 300}}, r"'a\+b' cannot name a modality"),
            ({"extra_dims": {"video_token": 300}}, "do not end with _token"),
            ({"extra_dims": {"fusion": 300}}, "'fusion' cannot name"),
            ({"modalities": ["video", "speech"], "extra_dims": {"speech": 3}}, "name further ones in extra_dims"),
            ({"modalities": ["video", "video"]}, "must be of text, video, audio"),
            ({"extra_dims": {"speech": 12}, "token_projection": "none"}, "token_projection='none'"),
            ({"max_modalities_per_step": 1}, "max_modalities_per_step is 1; it must be 2 or more"),
            ({"lambdas": {"text|spech": 1.0}, "extra_dims": {"speech": 12}}, r"'spech': did you mean speech"),
            ({"lambdas": {"text|speech": 1.0}}, "no modality 'speech': known: audio, text, video"),
            (
                {"lambdas": {"text+video|video+speech": 1.0}, "extra_dims": {"speech": 12}},
                r"without a common modality: did you mean (text\|video\+speech|text\+video\|audio\+speech)",
            ),
            ({"lambdas": {"text": 1.0}}, "must compare two sets"),
            ({"lambdas": {"video|text": 1.0}}, "is a term of equation 2; set its own lambda_"),
            (
                {"lambdas": {"text|speech": 1.0, "speech|text": 2.0}, "extra_dims": {"speech": 12}},
                "there twice, in two spellings",
            ),
            (
                {"lambdas": {"text|speech": -1.0}, "extra_dims": {"speech": 12}},
                r"lambdas.text\|speech is -1.0; .*0.0 or more",
            ),
            ({"lambdas": {"text|speech": True}, "extra_dims": {"speech": 12}}, "must be of type float"),
            ({"lambda_extra": float("nan")}, "lambda_extra is nan; it must be a finite number"),
        ],
    )
    def test_impossible_options_are_explained(self, config, message) -> None:
        with pytest.raises(ConfigError, match=message):
            model_config("test_everything_at_once", **config)
