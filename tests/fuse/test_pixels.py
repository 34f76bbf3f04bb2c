"""The check of batches of pictures and token ids, and what models of pixels share."""

from __future__ import annotations

import math

import pytest
import torch
from frameloom import InputError
from frameloom.fuse import NonFiniteError, Tokens, create_model
from frameloom.fuse.base import given_pixels
from frameloom.fuse.pixels import normalised_pixels

MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


def video(dtype: torch.dtype = torch.float32, side: int = 8) -> Tokens:
    return Tokens(torch.zeros(2, 3, 3, side, side, dtype=dtype), MASK)


def text(ids: list[list[int]], mask: torch.Tensor = MASK) -> Tokens:
    return Tokens(torch.tensor(ids), mask)


def check(**batch: Tokens) -> dict[str, Tokens]:
    return given_pixels(batch, size=8, vocabulary=20, max_words=5)


class TestGivenPixels:
    def test_columns_of_padding_alone_are_cut_off(self) -> None:
        given = check(video=video(torch.uint8), text=text([[2, 3, 99], [2, 99, 99]]))
        assert given["video"].values.shape == (2, 2, 3, 8, 8)
        assert given["text"].values.tolist() == [[2, 3], [2, 0]]

    def test_a_sample_may_have_nothing(self) -> None:
        assert check(text=text([[1, 1, 1]] * 2, MASK * 0))["text"].mask.shape == (2, 1)

    def test_a_long_text_keeps_its_last_token(self) -> None:
        ids = torch.arange(1, 15).reshape(2, 7)
        mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
        ids_of, mask_of = check(text=Tokens(ids, mask))["text"]
        assert ids_of.tolist() == [[1, 2, 3, 4, 7], [8, 9, 10, 11, 0]]
        assert mask_of.tolist() == [[True] * 5, [True] * 4 + [False]]

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            ({"video": video(side=16)}, r"shape \(2, 3, 3, 16, 16\); .* \(batch, frames, 3, 8, 8\)"),
            ({"video": Tokens(torch.zeros(2, 3, 8), MASK)}, "frames, 3, 8, 8"),
            ({"video": video(torch.int32)}, "int32.*bytes"),
            ({"text": Tokens(torch.zeros(2, 3, dtype=torch.int32), MASK)}, "int64"),
            ({"text": Tokens(torch.zeros(2, 3, 4), MASK)}, r"\(batch, tokens\)"),
            ({"text": text([[2, 20, 3], [1, 1, 1]])}, "token id 20; .* 0 to 19"),
            ({"text": text([[2, -1, 3], [1, 1, 1]])}, "token id -1"),
            ({"text": Tokens(torch.zeros(2, 4, dtype=torch.int64), MASK)}, "mask of text"),
            ({"audio": video()}, "'audio'; this model takes text, video"),
            ({}, "no modality"),
            ({"video": video(), "text": Tokens(torch.ones(3, 3).long(), torch.ones(3, 3))}, "same number of samples"),
        ],
    )
    def test_what_a_model_cannot_read_is_said(self, batch, message) -> None:
        with pytest.raises(InputError, match=message):
            check(**batch)

    def test_frames_that_are_not_finite_are_named_and_padding_is_not(self) -> None:
        values = video().values.clone()
        values[1, 1] = math.nan
        assert check(video=Tokens(values, MASK))["video"].values.isfinite().all()
        values[1, 0, 2, 3, 4] = math.inf
        with pytest.raises(NonFiniteError, match=r"video holds .* in sample 1"):
            check(video=Tokens(values, MASK))


def test_bytes_are_normalised_and_numbers_are_not() -> None:
    pictures = torch.full((1, 1, 3, 2, 2), 255, dtype=torch.uint8)
    made = normalised_pixels(pictures, mean=(0.5, 0.0, 1.0), std=(0.5, 2.0, 1.0))
    assert made[0, 0, :, 0, 0].tolist() == [1.0, 0.5, 0.0]
    assert normalised_pixels(made, mean=(9.0,) * 3, std=(9.0,) * 3) is made


def test_a_model_embeds_bytes_as_their_normalised_numbers() -> None:
    model = create_model("test_miles").eval()
    pictures = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    numbers = normalised_pixels(pictures, mean=model.config.image_mean, std=model.config.image_std)
    mask = torch.ones(2, 3)
    of_bytes, of_numbers = (model.encode(video=Tokens(each, mask)) for each in (pictures, numbers))
    torch.testing.assert_close(of_bytes, of_numbers)
