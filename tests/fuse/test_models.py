"""What every fusion model promises, whichever it is: the tests run on each registered `test_*` model."""

from __future__ import annotations

import json
import math
import pickle
from itertools import combinations

import pytest
import torch
from frameloom import ConfigError, InputError, UnknownNameError
from frameloom.fuse import (
    FusionModel,
    NonFiniteError,
    Tokens,
    create_model,
    list_models,
    load_weights,
    model_config,
    model_description,
)

ENCODERS = list_models("test_*")
NAMES = [name for name in ENCODERS if model_description(name)["trains"]]


def subsets(name: str, *, smallest: int = 1, all_of_them: bool = True) -> list[tuple[str, ...]]:
    """The sets of a model's modalities."""
    modalities = create_model(name).modalities
    sizes = range(smallest, len(modalities) + all_of_them)
    return [names for size in sizes for names in combinations(modalities, size)]


ABSENCES = ("left out", "None", "masked", "no rows")
EVERY_SUBSET = [(name, names) for name in ENCODERS for names in subsets(name)]
PROPER_SUBSETS = [(name, names) for name in NAMES for names in subsets(name, all_of_them=False)]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str) -> FusionModel:
    return create_model(name).eval()


@pytest.fixture
def batch(model: FusionModel, make_batch) -> dict[str, Tokens]:
    return make_batch(modalities=model.modalities, pixels=model.takes_pixels)


def with_value(tokens: Tokens, value: float, *, at: tuple[int, int]) -> Tokens:
    """A copy in which one number of one row is another."""
    values = tokens.values.clone()
    values[at].view(-1)[3] = value
    return Tokens(values, tokens.mask)


def padded(tokens: Tokens, num_rows: int, *, value: float) -> Tokens:
    """So many rows of `value` more, which no mask shows."""
    rows = torch.full_like(tokens.values[:, :1], value).expand(-1, num_rows, *tokens.values.shape[2:])
    return Tokens(torch.cat([tokens.values, rows], dim=1), torch.nn.functional.pad(tokens.mask, (0, num_rows)))


def of_rows(tokens: Tokens, numbers: torch.Tensor) -> torch.Tensor:
    """(B, N) with as many further dimensions as the values have."""
    return numbers.view(*numbers.shape, *[1] * (tokens.values.dim() - 2))


class TestEncode:
    @pytest.fixture(params=ENCODERS)
    def name(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.mark.parametrize(("name", "names"), EVERY_SUBSET)
    def test_any_subset_gives_unit_vectors(self, model, batch, names) -> None:
        vectors = model.encode(**{name: batch[name] for name in names})
        assert vectors.shape == (4, model.dim)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))

    @pytest.mark.parametrize(("name", "names"), EVERY_SUBSET)
    def test_padding_does_not_matter(self, model, batch, names) -> None:
        given = {name: batch[name] for name in names}
        wider = {name: padded(tokens, 9, value=3.0) for name, tokens in given.items()}
        torch.testing.assert_close(model.encode(**wider), model.encode(**given), atol=2e-6, rtol=1e-5)

    @pytest.mark.parametrize(("name", "names"), EVERY_SUBSET)
    def test_samples_do_not_matter_to_each_other(self, model, batch, names) -> None:
        together = model.encode(**{name: batch[name] for name in names})
        for i in range(4):
            alone = {}
            for name in names:
                values, mask = batch[name]
                real = int(mask[i].sum())
                alone[name] = Tokens(values[i : i + 1, :real], mask[i : i + 1, :real])
            torch.testing.assert_close(model.encode(**alone)[0], together[i], atol=2e-6, rtol=1e-5)

    def test_an_empty_modality_is_stood_in_for(self, model, make_batch) -> None:
        kept, emptied = model.modalities[0], model.modalities[-1]
        lengths = (3, 0, 2, 0) if model.takes_pixels else (32, 0, 7, 0)
        batch = make_batch({emptied: lengths}, modalities=(kept, emptied), pixels=model.takes_pixels)
        vectors = model.encode(**batch)
        assert vectors.isfinite().all()
        assert not torch.allclose(vectors, model.encode(**{kept: batch[kept]}))

    def test_none_is_the_same_as_not_given(self, model, batch) -> None:
        video = batch["video"]
        absent = dict.fromkeys(set(model.modalities) - {"video"})
        assert torch.equal(model.encode(**absent, video=video), model.encode(video=video))

    def test_the_order_of_arguments_does_not_matter(self, model, batch) -> None:
        assert torch.equal(model.encode(**dict(reversed(batch.items()))), model.encode(**batch))

    def test_the_callers_tensors_stay_as_they_are(self, model, make_batch) -> None:
        absent = {model.modalities[0]: (0, 0, 0, 0)}
        batch = make_batch(absent, modalities=model.modalities, pixels=model.takes_pixels)
        before = {name: Tokens(values.clone(), mask.clone()) for name, (values, mask) in batch.items()}
        model.loss(batch) if model.trains else model.encode(**batch)
        for name, (values, mask) in batch.items():
            assert torch.equal(values, before[name].values)
            assert torch.equal(mask, before[name].mask)

    def test_masks_may_be_numbers(self, model, batch) -> None:
        numbers = {name: Tokens(values, mask.float()) for name, (values, mask) in batch.items()}
        assert torch.equal(model.encode(**numbers), model.encode(**batch))

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda batch: {}, "no modality"),
            (lambda batch: {name: Tokens(*(part[:, :0] for part in batch[name])) for name in batch}, "no modality"),
            (lambda batch: {"video": Tokens(batch["video"].values[..., :7], batch["video"].mask)}, "24|32, 32"),
            (lambda batch: {"video": Tokens(batch["video"].values, batch["video"].mask[:, :2])}, "mask of video"),
            (lambda batch: {"video": Tokens(batch["video"].values[0], batch["video"].mask[0])}, "video has shape"),
            (lambda batch: {"video": Tokens(batch["video"].values[0, 0], batch["video"].mask[0])}, "video has shape"),
            (lambda batch: {"video": Tokens(batch["video"].values.sum(), batch["video"].mask)}, "video has shape"),
            (lambda batch: {**batch, "video": Tokens(*(part[:2] for part in batch["video"]))}, "same number of sam"),
            (lambda batch: {"video": Tokens(batch["video"].values.long(), batch["video"].mask)}, "floating-point"),
            (lambda batch: {"text": Tokens(batch["text"].values.int(), batch["text"].mask)}, "floating|int64"),
        ],
    )
    def test_wrong_input_is_explained(self, model, batch, spoil, message) -> None:
        with pytest.raises(InputError, match=message):
            model.encode(**spoil(batch))
        if "shape" in message:
            with pytest.raises(InputError, match=message):
                model.loss({**batch, **spoil(batch)})

    def test_an_unknown_modality_is_answered_with_the_models_own(self, model, batch) -> None:
        known = ", ".join(model.modalities)
        with pytest.raises(InputError, match=f"'smell'; this model takes {known}$"):
            model.encode(**batch, smell=batch["video"])
        with pytest.raises(InputError, match=f"'smell'; this model takes {known}$"):
            model.loss({**batch, "smell": batch["video"]})


class TestNumbersThatAreNotFinite:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_in_a_real_row_they_are_named(self, model, batch, value) -> None:
        for name in (name for name in model.modalities if batch[name].values.is_floating_point()):
            spoilt = {**batch, name: with_value(batch[name], value, at=(1, 1))}
            for call in (lambda given=spoilt: model.encode(**given), lambda given=spoilt: model.loss(given)):
                with pytest.raises(NonFiniteError, match=f"{name} holds .* in sample 1 of the batch") as caught:
                    call()
                assert (caught.value.modality, caught.value.samples) == (name, (1,))

    def test_in_padding_they_do_not_matter(self, model, batch) -> None:
        spoilt, zeroed = {}, {}
        for name, tokens in batch.items():
            padding = of_rows(tokens, ~tokens.mask)
            noise = math.nan if tokens.values.is_floating_point() else -9
            spoilt[name] = tokens._replace(values=tokens.values.masked_fill(padding, noise))
            zeroed[name] = tokens._replace(values=tokens.values.masked_fill(padding, 0))
        assert torch.equal(model.encode(**spoilt), model.encode(**zeroed))
        loss, _ = model.loss(spoilt)
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_numbers_too_large_to_add_up_are_no_error(self, model, batch) -> None:
        huge = torch.finfo(torch.float32).max
        batch["video"].values[:, 0] = huge
        with pytest.raises(NonFiniteError):
            model.encode(video=with_value(batch["video"], math.nan, at=(2, 0)))
        model.encode(video=batch["video"])  # whatever it is: not refused

    def test_the_error_travels_between_processes(self) -> None:
        error = pickle.loads(pickle.dumps(NonFiniteError("audio", range(7))))
        assert (error.modality, error.samples) == ("audio", (0, 1, 2, 3, 4, 5, 6))
        assert "in sample 0, 1, 2, 3, 4 and 2 more of the batch" in str(error)


class TestLoss:
    def test_it_is_finite_and_reaches_every_trained_weight(self, model, make_batch) -> None:
        batch = make_batch({"audio": (32, 0, 16, 9)}, modalities=model.modalities, pixels=model.takes_pixels)
        loss, terms = model.train().loss(batch)
        loss.backward()
        assert loss.isfinite()
        assert terms
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    @pytest.mark.parametrize(
        ("name", "missing", "how"),
        [(*case, how) for case in PROPER_SUBSETS for how in ABSENCES if how == "masked" or len(case[1]) == 1],
    )
    def test_a_modality_may_be_missing_wholly(self, model, batch, missing, how) -> None:
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
        assert not any(name in term.replace("|", "+").split("+") for term in terms for name in missing)
        num_left = len(model.modalities) - len(missing)
        # A model of pixels may learn from a clip alone, or a text alone, what is masked of it.
        assert num_left > 1 or model.takes_pixels or not terms
        assert terms or loss.item() == 0.0
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_forward_is_the_loss(self, model, batch) -> None:
        assert torch.equal(model(batch)[0], model.loss(batch)[0])

    def test_one_sample_is_enough(self, model, batch) -> None:
        loss, _ = model.loss({name: Tokens(values[:1], mask[:1]) for name, (values, mask) in batch.items()})
        assert loss.isfinite()

    def test_no_sample_at_all_is_a_loss_of_zero(self, model, batch) -> None:
        nobody = {name: Tokens(tokens.values[:0], tokens.mask[:0]) for name, tokens in batch.items()}
        loss, terms = model.train().loss(nobody)
        loss.backward()
        assert (loss.item(), terms) == (0.0, {})
        assert all(weight.isfinite().all() for weight in model.state_dict().values())
        assert model.eval().encode(**nobody).shape == (0, model.dim)


class TestWeights:
    def test_official_weights_go_round(self, model, batch) -> None:
        other = create_model(model.name).eval()
        assert not torch.allclose(other.encode(**batch), model.encode(**batch))
        prefixed = {f"module.{name}": value for name, value in model.state_dict().items()}
        loaded = other.from_official(prefixed)
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())

    @pytest.mark.parametrize("problem", ["missing", "unexpected", "wrong shape", "not finite", "sparse or complex"])
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
        elif problem == "sparse or complex":
            weights[name] = weights[name] * 1j
        else:
            weights[name] = torch.full_like(weights[name], torch.nan)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(InputError, match=f"{problem}: {name}"):
            load_weights(model, weights)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_what_is_no_tensor_is_named(self, model) -> None:
        with pytest.raises(InputError, match="'epoch' is int"):
            load_weights(model, {**model.state_dict(), "epoch": 3})

    def test_names_may_be_anything(self, model) -> None:
        with pytest.raises(InputError, match="unexpected: 7"):
            model.from_official({**model.state_dict(), 7: torch.zeros(1)})

    def test_only_the_first_five_are_listed(self, model) -> None:
        with pytest.raises(InputError, match=r"missing: ([^,;]+, ){4}[^,;]+ and \d+ more$"):
            load_weights(model, {})


class TestRegistry:
    def test_an_unknown_model_names_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean everything_at_once"):
            create_model("everything_at_onc")

    def test_an_unknown_option_names_the_nearest(self, name, model) -> None:
        wrong, right = ("image_szie", "image_size") if model.takes_pixels else ("vidoe_dim", "video_dim")
        with pytest.raises(ConfigError, match=f"'{wrong}'.*did you mean {right}"):
            create_model(name, **{wrong: 2})

    def test_a_number_that_nothing_can_have_is_refused(self, name) -> None:
        for option, value in model_config(name):
            wrong = {float: [math.nan, math.inf, -1.0], int: [-1]}.get(type(value), [])
            for number in wrong:
                with pytest.raises(ConfigError, match=f"{option} is {number}"):
                    model_config(name, **{option: number})

    @pytest.mark.parametrize("name", list_models())
    def test_descriptions_are_json_ready_and_rebuild_the_configuration(self, name) -> None:
        description = json.loads(json.dumps(model_description(name)))
        assert description["name"] == name
        assert description["paper"]
        assert model_config(name, **description["config"]) == model_config(name)

    def test_the_model_knows_its_name(self, model) -> None:
        assert create_model(model.name).name == model.name
