"""Video Swin: windows, shifts, relative positions, masks. That the numbers are the authors' is for the golden cases."""

from __future__ import annotations

import pytest
import torch
from frameloom import InputError
from frameloom.fuse.layers.swin import (
    VideoSwin,
    from_windows,
    mask_of_patches,
    relative_index,
    shifted_regions,
    stochastic_depth,
    to_windows,
)

WINDOW = (4, 3, 3)


def network(**options) -> VideoSwin:
    torch.manual_seed(0)
    sizes = {"width": 8, "depths": (2, 2), "heads": (2, 2), "window": WINDOW, "drop_path": 0.0}
    return VideoSwin(**{**sizes, **options}).eval()


def test_windows_go_there_and_back() -> None:
    x = torch.randn(2, 4, 6, 9, 5)
    windows = to_windows(x, (2, 3, 3))
    assert windows.shape == (2 * 2 * 2 * 3, 18, 5)
    assert torch.equal(windows[0].view(2, 3, 3, 5), x[0, :2, :3, :3])
    assert torch.equal(from_windows(windows, (2, 3, 3), (4, 6, 9)), x)


def test_a_relative_position_is_the_same_row_wherever_the_pair_is() -> None:
    index = relative_index(WINDOW, WINDOW).view(*WINDOW, *WINDOW)
    assert index[1, 2, 1, 0, 1, 2] == index[2, 1, 0, 1, 0, 1]
    assert len(index.unique()) == 7 * 5 * 5


@pytest.mark.parametrize(("used", "same"), [((2, 3, 3), True), ((4, 2, 3), False), ((4, 3, 2), False), (WINDOW, True)])
def test_a_small_grid_is_read_as_published_or_right(used: tuple[int, int, int], *, same: bool) -> None:
    published, right = (relative_index(WINDOW, used, small_grid=how) for how in ("published", "geometric"))
    assert torch.equal(published, right) == same
    # What is right is the same pair's row in the whole window.
    t, h, w = used
    whole = relative_index(WINDOW, WINDOW).view(*WINDOW, *WINDOW)[:t, :h, :w, :t, :h, :w]
    assert torch.equal(right, whole.reshape(right.shape))


def test_both_readings_are_one_network_where_the_grid_is_as_large_as_the_window() -> None:
    video = torch.randn(1, 3, 4, 24, 24)
    networks = [network(small_grid=how) for how in ("published", "geometric")]
    assert torch.equal(*(each(video) for each in networks))
    small = [each(video[..., :16, :16]) for each in networks]
    assert not torch.allclose(*small)


def test_shifted_windows_see_their_neighbours_alone() -> None:
    regions = shifted_regions((4, 6, 6), WINDOW, (0, 1, 1))
    visible = (regions == 0).sum(dim=2)
    # The first window lies within the picture; the last one is joined of four corners.
    assert (visible[0] == 36).all()
    assert sorted(set(visible[-1].tolist())) == [4, 8, 16]


def test_a_mask_hides_the_same_cells_at_all_times() -> None:
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    cells = mask_of_patches(mask, (3, 4, 6))
    assert cells.shape == (1, 3, 4, 6, 1)
    assert torch.equal(cells.sum(dim=(2, 3)).flatten(), torch.full((3,), 6.0))
    hidden = network(mask_token=True)
    video = torch.randn(1, 3, 4, 24, 24)
    other = video.clone()
    other[..., :12, :12] = torch.randn(1, 3, 4, 12, 12)
    torch.testing.assert_close(hidden(video, mask), hidden(other, mask))
    assert not torch.allclose(hidden(video), hidden(other))


def test_masks_that_cannot_be_are_refused() -> None:
    video = torch.randn(1, 3, 4, 24, 24)
    with pytest.raises(InputError, match="mask_token=True"):
        network()(video, torch.zeros(1, 1, 2, 2))
    with pytest.raises(InputError, match="5 x 2 cells does not divide 6 x 6"):
        network(mask_token=True)(video, torch.zeros(1, 1, 5, 2))


@pytest.mark.parametrize("frames", [1, 2, 3, 9])
def test_any_number_of_frames_and_any_size(frames: int) -> None:
    grid = network()(torch.randn(2, 3, frames, 21, 30))
    assert grid.shape == (2, -(-frames // 2), 3, 4, 16)
    assert grid.isfinite().all()


def test_stochastic_depth_keeps_the_mean_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    branch = torch.ones(4000, 1, 2, 2, 3)
    dropped = stochastic_depth(branch, 0.25, training=True)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(dropped.amin(dim=(1, 2, 3, 4)), dropped.amax(dim=(1, 2, 3, 4)))
    assert abs(dropped.mean().item() - 1) < 0.05
    assert stochastic_depth(branch, 0.25, training=False) is branch


def test_what_is_kept_between_calls_serves_trainings_too() -> None:
    """Clips that are embedded first, in the same process."""
    relative_index.cache_clear()
    shifted_regions.cache_clear()
    model, clip = network().train(), torch.randn(1, 3, 8, 32, 32)
    with torch.inference_mode():
        model(clip)
    model(clip).sum().backward()
    assert all(each.grad is not None for each in model.parameters() if each.requires_grad)
