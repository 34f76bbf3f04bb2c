"""BEiT over frames: padded frames, one frame, more frames than positions, where attention over time is."""

from __future__ import annotations

import pytest
import torch
from frameloom import ConfigError
from frameloom.fuse.layers import BeitSpec, VideoBeit
from frameloom.fuse.layers.beit import interpolated_positions, relative_position_index

SPEC = BeitSpec(
    width=16, depth=2, heads=2, hidden=24, image_size=16, patch_size=8, num_frames=4, temporal_heads=2,
    drop_path=0.0, temporal_drop_path=0.0,
)  # fmt: skip


def encoder(**options: object) -> VideoBeit:
    """With what begins at 0 set at random, so that it matters."""
    torch.manual_seed(0)
    model = VideoBeit(SPEC.replaced(**options)).eval()
    for name, weight in model.named_parameters():
        if "temporal_position" in name or name.endswith(("scale", "bias_table")):
            torch.nn.init.normal_(weight)
    return model


@pytest.mark.parametrize("temporal", ["first", "last"])
@pytest.mark.parametrize("num_padded", [1, 3])
def test_padded_frames_do_not_matter(temporal, num_padded) -> None:
    model, pixels = encoder(temporal=temporal), torch.randn(2, 4 + num_padded, 3, 16, 16)
    counts = torch.tensor([[1], [3]])
    mask = torch.arange(pixels.shape[1]) < counts
    hidden, pooled = model(pixels, mask)
    for row, count in enumerate(counts.flatten().tolist()):
        alone = model(pixels[row : row + 1, :count], mask[row : row + 1, :count])
        torch.testing.assert_close(hidden[row, :count], alone[0][0])
        torch.testing.assert_close(pooled[row, :count], alone[1][0])


def test_one_frame_goes_past_attention_over_time() -> None:
    model, pixels = encoder(), torch.randn(1, 1, 3, 16, 16)
    before = model(pixels, torch.ones(1, 1))[0]
    torch.nn.init.normal_(model.encoder.layer[0].temp_model.temporal_attn.in_proj_weight)
    assert torch.equal(model(pixels, torch.ones(1, 1))[0], before)


def test_frames_see_each_other_unless_there_is_no_attention_over_time() -> None:
    pixels = torch.randn(1, 3, 3, 16, 16)
    changed = pixels.clone()
    changed[:, 2] += 1.0
    for temporal, sees in {"first": True, "last": True, "none": False}.items():
        first, second = (encoder(temporal=temporal)(each, torch.ones(1, 3))[0][:, 0] for each in (pixels, changed))
        assert torch.equal(first, second) is not sees


def test_more_frames_than_positions_are_interpolated_for_each_sample() -> None:
    model, pixels = encoder(temporal="none"), torch.zeros(2, 6, 3, 16, 16)
    hidden, _ = model(pixels, torch.tensor([[1] * 6, [1] * 3 + [0] * 3]))
    table = model.embeddings.temporal_position_embeddings[0, :, 0]
    longer, _ = encoder(temporal="none", num_frames=6), None
    weights = model.state_dict()
    weights["embeddings.temporal_position_embeddings"] = interpolated_positions(table, 6)[None, :, None]
    longer.load_state_dict(weights)
    torch.testing.assert_close(hidden[:1], longer(pixels[:1], torch.ones(1, 6))[0])
    torch.testing.assert_close(hidden[1:, :3], model(pixels[:1, :3], torch.ones(1, 3))[0])


def test_a_video_without_a_frame_is_finite() -> None:
    hidden, pooled = encoder()(torch.randn(1, 2, 3, 16, 16), torch.zeros(1, 2))
    assert hidden.isfinite().all()
    assert pooled.isfinite().all()


def test_offsets_of_patches_have_a_row_each() -> None:
    index = relative_position_index(2)
    assert index[1:, 1:].unique().numel() == 9
    assert index[1, 4] != index[4, 1]
    assert index[1, 2] == index[3, 4]
    assert (index[0, 1:].unique().tolist(), index[1:, 0].unique().tolist(), int(index[0, 0])) == ([9], [10], 11)


def test_what_is_never_applied_does_not_train() -> None:
    model = encoder()
    hidden, _ = model(torch.randn(1, 2, 3, 16, 16), torch.ones(1, 2))
    hidden.sum().backward()
    untrained = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert untrained == {
        f"encoder.layer.{i}.temp_model.linear.{leaf}" for i in range(2) for leaf in ("weight", "bias")
    } | {f"pooler.layernorm.{leaf}" for leaf in ("weight", "bias")}
    assert not model.encoder.layer[0].temp_model.linear.weight.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "3 heads"),
        ({"temporal_heads": 5}, "5 temporal_heads"),
        ({"image_size": 20}, "must be a multiple of"),
    ],
)
def test_shapes_that_cannot_be_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        SPEC.replaced(**options)
