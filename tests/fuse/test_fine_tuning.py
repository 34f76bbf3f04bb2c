"""A training that begins with a trained model: what is taken, what is new, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from frameloom import InputError
from frameloom.fuse import FusionModel, create_model


def model_of(name: str, **options: Any) -> FusionModel:
    """With random numbers in what begins at 0, so that it matters whether it is taken."""
    model = create_model(name, **options)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))
    return model


@pytest.mark.parametrize(
    ("name", "trained", "tuned", "new"),
    [
        ("test_t2v2t", {}, {"mlm_weight": 0.0}, []),
        ("test_t2v2t", {"mlm_weight": 0.0}, {}, ["text_encoder.cls"]),
        ("test_t2v2t", {"num_frames": 2}, {"num_frames": 5}, []),
        ("test_clover", {}, {"task": "retrieval", "num_frames": 12}, []),
        ("test_clover", {"alignment": "pair", "ranking": False}, {}, ["mlm_ssl_T_head", "mlm_ssl_V_head"]),
        ("test_clover", {}, {"task": "open_answer"}, ["qa_head"]),
        ("test_clover", {"task": "open_answer"}, {"task": "open_answer", "num_answers": 7}, ["qa_head"]),
        ("test_clover", {"task": "open_answer"}, {"task": "multiple_choice"}, ["qa_head"]),
        ("test_all_in_one", {"num_answers": 3}, {"num_answers": 4}, ["vqa_classifier"]),
        ("test_miles", {"num_frames": 2}, {"num_frames": 4}, []),
    ],
)
def test_what_both_have_is_taken_and_the_rest_is_named(
    name: str, trained: dict[str, Any], tuned: dict[str, Any], new: list[str]
) -> None:
    source, model = model_of(name, **trained), model_of(name, **tuned)
    assert model.continue_from(source.state_dict()) == new
    theirs, heads = source.state_dict(), tuple(f"{one}." for one in new)
    for key, value in model.state_dict().items():
        if not value.is_floating_point() or key.startswith(heads) or key.endswith("mask_token"):
            continue
        both = tuple(slice(min(sizes)) for sizes in zip(value.shape, theirs[key].shape, strict=True))
        assert torch.equal(value[both], theirs[key][both]), key


def test_a_matching_head_of_cotraining_is_that_of_ranking() -> None:
    source = model_of("test_all_in_one", cotraining=True)
    model = model_of("test_all_in_one", rank_head=True)
    assert model.continue_from(source.state_dict()) == ["rank_output"]
    wanted = source.state_dict()["vtm_score.fc.weight"]
    assert torch.equal(model.state_dict()["itm_score.fc.weight"], wanted)
    assert torch.equal(model.state_dict()["rank_output.weight"], wanted[1:])


def test_another_picture_size_is_refused() -> None:
    model = model_of("test_miles")
    with pytest.raises(InputError, match=r"pos_embed is .* here and .* in the weights to begin with"):
        model.continue_from(model_of("test_miles", image_size=64).state_dict())
