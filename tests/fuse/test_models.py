"""What every fusion model promises, whichever it is: the tests run on each registered `test_*` model."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
import torch
from frameloom import ConfigError, InputError, UnknownNameError
from frameloom.fuse import FusionModel, Tokens, create_model, list_models, load_weights, model_config, model_description

SUBSETS = [names for size in (1, 2, 3) for names in combinations(("text", "video", "audio"), size)]


@pytest.fixture(params=list_models("test_*"))
def model(request: pytest.FixtureRequest) -> FusionModel:
    return create_model(request.param).eval()


class TestEncode:
    @pytest.mark.parametrize("names", SUBSETS)
    def test_any_subset_gives_unit_vectors(self, model, make_batch, names) -> None:
        batch = make_batch()
        vectors = model.encode(**{name: batch[name] for name in names})
        assert vectors.shape == (4, model.dim)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))

    @pytest.mark.parametrize("names", SUBSETS)
    def test_padding_does_not_matter(self, model, make_batch, names) -> None:
        batch = make_batch()
        wider = {
            name: Tokens(
                torch.nn.functional.pad(values, (0, 0, 0, 9), value=3.0), torch.nn.functional.pad(mask, (0, 9))
            )
            for name, (values, mask) in batch.items()
        }
        given, padded = ({name: each[name] for name in names} for each in (batch, wider))
        torch.testing.assert_close(model.encode(**padded), model.encode(**given), atol=2e-6, rtol=1e-5)

    @pytest.mark.parametrize("names", SUBSETS)
    def test_samples_do_not_matter_to_each_other(self, model, make_batch, names) -> None:
        batch = make_batch()
        together = model.encode(**{name: batch[name] for name in names})
        for i in range(4):
            alone = {}
            for name in names:
                values, mask = batch[name]
                real = int(mask[i].sum())
                alone[name] = Tokens(values[i : i + 1, :real], mask[i : i + 1, :real])
            torch.testing.assert_close(model.encode(**alone)[0], together[i], atol=2e-6, rtol=1e-5)

    def test_an_empty_modality_is_stood_in_for(self, model, make_batch) -> None:
        batch = make_batch({"audio": (32, 0, 7, 0)})
        vectors = model.encode(video=batch["video"], audio=batch["audio"])
        assert vectors.isfinite().all()
        assert not torch.allclose(vectors, model.encode(video=batch["video"]))

    def test_none_is_the_same_as_not_given(self, model, make_batch) -> None:
        video = make_batch()["video"]
        assert torch.equal(model.encode(text=None, video=video), model.encode(video=video))

    def test_the_callers_tensors_stay_as_they_are(self, model, make_batch) -> None:
        batch = make_batch({"text": (0, 0, 0, 0)})
        before = {name: Tokens(values.clone(), mask.clone()) for name, (values, mask) in batch.items()}
        model.loss(batch)
        for name, (values, mask) in batch.items():
            assert torch.equal(values, before[name].values)
            assert torch.equal(mask, before[name].mask)

    def test_masks_may_be_numbers(self, model, make_batch) -> None:
        batch = make_batch()
        numbers = {name: Tokens(values, mask.float()) for name, (values, mask) in batch.items()}
        assert torch.equal(model.encode(**numbers), model.encode(**batch))

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda batch: {}, "no modality"),
            (lambda batch: {"video": Tokens(batch["video"].values[..., :7], batch["video"].mask)}, "24"),
            (lambda batch: {"video": Tokens(batch["video"].values, batch["video"].mask[:, :2])}, "mask of video"),
            (lambda batch: {"video": Tokens(batch["video"].values[0], batch["video"].mask[0])}, "video has shape"),
            (lambda batch: {**batch, "text": Tokens(*(part[:2] for part in batch["text"]))}, "same number of samples"),
        ],
    )
    def test_wrong_input_is_explained(self, model, make_batch, spoil, message) -> None:
        with pytest.raises(InputError, match=message):
            model.encode(**spoil(make_batch()))


class TestLoss:
    def test_it_is_finite_and_reaches_every_trained_weight(self, model, make_batch) -> None:
        loss, terms = model.train().loss(make_batch({"audio": (32, 0, 16, 9)}))
        loss.backward()
        assert loss.isfinite()
        assert terms
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    @pytest.mark.parametrize("missing", SUBSETS[:-1])
    @pytest.mark.parametrize("how", ["left out", "None", "masked", "no rows"])
    def test_a_modality_may_be_missing_wholly(self, model, make_batch, missing, how) -> None:
        batch = make_batch()
        for name in missing:
            values, mask = batch.pop(name)
            if how == "None":
                batch[name] = None
            elif how == "masked":
                batch[name] = Tokens(values, torch.zeros_like(mask))
            elif how == "no rows":
                batch[name] = Tokens(values[:, :0], mask[:, :0])
        loss, terms = model.loss(batch)
        loss.backward()
        assert loss.isfinite()
        assert len(terms) == (1 if len(missing) == 1 else 0)
        assert len(missing) == 1 or loss.item() == 0.0
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_forward_is_the_loss(self, model, make_batch) -> None:
        assert torch.equal(model(make_batch())[0], model.loss(make_batch())[0])

    def test_one_sample_is_enough(self, model, make_batch) -> None:
        one = {name: Tokens(values[:1], mask[:1]) for name, (values, mask) in make_batch().items()}
        assert model.loss(one)[0].item() == pytest.approx(0.0)


class TestWeights:
    def test_official_weights_go_round(self, model, make_batch) -> None:
        other = create_model(model.name).eval()
        batch = make_batch()
        assert not torch.allclose(other.encode(**batch), model.encode(**batch))
        prefixed = {f"module.{name}": value for name, value in model.state_dict().items()}
        loaded = other.from_official(prefixed)
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())

    @pytest.mark.parametrize("problem", ["missing", "unexpected", "wrong shape", "not finite"])
    def test_weights_that_do_not_fit_are_listed_and_change_nothing(self, model, problem) -> None:
        weights = {name: value + 1 for name, value in model.state_dict().items()}
        name = sorted(weights)[-1]
        if problem == "missing":
            del weights[name]
        elif problem == "unexpected":
            name = "a.stranger"
            weights[name] = torch.zeros(1)
        elif problem == "wrong shape":
            weights[name] = torch.zeros(3, 3, 3)
        else:
            weights[name] = torch.full_like(weights[name], torch.nan)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(InputError, match=f"{problem}: {name}"):
            load_weights(model, weights)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_only_the_first_five_are_listed(self, model) -> None:
        with pytest.raises(InputError, match=r"missing: ([^,;]+, ){4}[^,;]+ and \d+ more$"):
            load_weights(model, {})


class TestRegistry:
    def test_an_unknown_model_names_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean everything_at_once"):
            create_model("everything_at_onc")

    @pytest.mark.parametrize("name", list_models("test_*"))
    def test_an_unknown_option_names_the_nearest(self, name) -> None:
        with pytest.raises(ConfigError, match=r"'depht'.*did you mean depth"):
            create_model(name, depht=2)

    @pytest.mark.parametrize("name", list_models())
    def test_descriptions_are_json_ready_and_rebuild_the_configuration(self, name) -> None:
        description = json.loads(json.dumps(model_description(name)))
        assert description["name"] == name
        assert description["paper"]
        assert model_config(name, **description["config"]) == model_config(name)

    def test_the_model_knows_its_name(self, model) -> None:
        assert create_model(model.name).name == model.name
