"""Rolling of tokens between frames. The golden cases hold the authors' numbers for clips without padding."""

from __future__ import annotations

import pytest
import torch
from frameloom.fuse.all_in_one.rolling import neighbours, rolled


def numbered(num_frames: int, num_tokens: int, batch: int = 1) -> torch.Tensor:
    """Each token says which frame it is of."""
    frames = torch.arange(num_frames, dtype=torch.float32)[None, :, None, None]
    return frames.expand(batch, -1, num_tokens, 1)


def test_an_eighth_comes_from_each_side_and_the_class_token_stays() -> None:
    moved = rolled(numbered(3, 17))[0, :, :, 0]
    assert moved[0].tolist() == [0, 2, 2, *[0] * 12, 1, 1]
    assert moved[2].tolist() == [2, 1, 1, *[2] * 12, 0, 0]


def test_at_the_published_size_24_patches_go_each_way() -> None:
    moved = rolled(numbered(3, 197))[0, 1, :, 0]
    assert [int((moved == frame).sum()) for frame in range(3)] == [24, 149, 24]


def test_after_as_many_layers_as_frames_all_are_back() -> None:
    x = torch.randn(2, 3, 17, 4)
    moved = x
    for _ in range(3):
        moved = rolled(moved)
    assert torch.equal(moved, x)


@pytest.mark.parametrize("how", ["tokens", "layers", "shift"])
def test_padding_is_rolled_over_and_stays_where_it_is(how) -> None:
    x = torch.randn(3, 4, 17, 5)
    frames = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0]]).bool()
    moved = rolled(x, frames, how=how, layer=2)
    for sample, real in enumerate(frames):
        torch.testing.assert_close(moved[sample, real], rolled(x[sample : sample + 1, real], how=how, layer=2)[0])
    if how != "layers":
        assert torch.equal(moved[~frames], x[~frames])


def test_fewer_than_8_tokens_all_roll_as_in_the_code() -> None:
    assert rolled(numbered(3, 5))[0, :, 0, 0].tolist() == [1, 2, 0]


def test_no_real_frame_has_no_neighbour() -> None:
    assert neighbours(torch.zeros(2, 3).bool(), by=1).tolist() == [[0, 1, 2]] * 2
