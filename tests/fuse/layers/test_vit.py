"""Blocks on patches: the golden cases have the authors' numbers, these what no case says."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from frameloom import InputError
from frameloom.fuse.layers import PatchEmbedding, SpaceTimeTransformer, ViTBlock, inflated_frames, patches_of
from frameloom.fuse.layers.vit import DropPath

SIZES = {"image_size": 16, "patch_size": 8, "dim": 12, "depth": 2, "heads": 2, "num_frames": 4}


@pytest.fixture
def encoder() -> SpaceTimeTransformer:
    torch.manual_seed(0)
    made = SpaceTimeTransformer(**SIZES, mask_token=True).eval()
    for parameter in made.parameters():  # at their own, tiny scale all tokens look alike
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture
def video() -> torch.Tensor:
    return torch.randn(3, 4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


ALL = torch.ones(3, 4, dtype=torch.bool)


def test_patches_are_projected_as_by_timms_convolution(video) -> None:
    embedding = PatchEmbedding(5, patch_size=8)
    expected = embedding.proj(video.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, (3, 4))
    torch.testing.assert_close(embedding(video), expected)
    seen = torch.rand(3, 4, 4) < 0.5
    torch.testing.assert_close(embedding(video, seen=seen), expected * seen[..., None])


def test_patches_are_in_the_order_of_reading() -> None:
    picture = torch.arange(3 * 4 * 6.0).reshape(3, 4, 6)
    patches = patches_of(picture, patch_size=2)
    assert patches.shape == (6, 12)
    assert torch.equal(patches[4].reshape(3, 2, 2), picture[:, 2:4, 2:4])


def test_a_block_of_timm_has_the_same_names_and_numbers() -> None:
    timm = pytest.importorskip("timm.models.vision_transformer")
    theirs = timm.Block(12, 2, qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)).eval()
    ours = ViTBlock(12, heads=2).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(x), theirs(x))


def test_tokens_that_nobody_sees_change_nothing() -> None:
    block, x = ViTBlock(12, heads=2).eval(), torch.randn(2, 7, 12)
    visible = torch.arange(7) < torch.tensor([[7], [4]])
    changed = torch.where(visible[..., None], x, 9.0)
    torch.testing.assert_close(block(x, visible)[visible], block(changed, visible)[visible])
    torch.testing.assert_close(block(x, visible)[1, :4], block(x[1:, :4])[0])


class TestSpaceTimeTransformer:
    def test_rows_are_what_the_whole_gives(self, encoder, video) -> None:
        whole = encoder(video, ALL)
        rows = torch.tensor([0, 5, 16, 17, 40, 50])
        torch.testing.assert_close(encoder(video, ALL, rows=rows), whole.flatten(0, 1)[rows])

    def test_padding_is_as_if_it_were_not_there(self, encoder, video) -> None:
        frames = torch.arange(4) < torch.tensor([[4], [2], [1]])
        padded = encoder(video, frames)
        for sample, num_real in enumerate(frames.sum(dim=1).tolist()):
            alone = encoder(video[sample : sample + 1, :num_real], ALL[:1, :num_real])
            torch.testing.assert_close(padded[sample, : 1 + 4 * num_real], alone[0])

    def test_no_frame_at_all_is_finite(self, encoder, video) -> None:
        assert encoder(video, torch.zeros_like(ALL)).isfinite().all()

    def test_masked_patches_are_not_looked_at(self, encoder, video) -> None:
        masked = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(2)) < 0.5
        blanked = video.clone()
        patches = blanked.unfold(3, 8, 8).unfold(4, 8, 8)  # a view: (B, T, 3, h, w, 8, 8)
        patches.permute(0, 1, 3, 4, 2, 5, 6).masked_fill_(masked.view(3, 4, 2, 2, 1, 1, 1), 7.0)
        assert not torch.equal(blanked, video)
        torch.testing.assert_close(encoder(blanked, ALL, masked=masked), encoder(video, ALL, masked=masked))
        assert not torch.allclose(encoder(blanked, ALL), encoder(video, ALL))

    def test_more_frames_than_it_has_room_for(self, encoder, video) -> None:
        with pytest.raises(InputError, match=r"8 frames .* ends at 4; sample fewer frames, or set num_frames"):
            encoder(torch.cat([video, video], dim=1), torch.cat([ALL, ALL], dim=1))

    def test_masks_need_a_mask_token(self, video) -> None:
        with pytest.raises(InputError, match="no mask token"):
            SpaceTimeTransformer(**SIZES)(video, ALL, masked=torch.ones(3, 4, 4, dtype=torch.bool))

    @pytest.mark.parametrize(("num_frames", "zeros"), [(4, True), (1, False)])
    def test_attention_over_time_begins_with_zeros(self, num_frames, zeros) -> None:
        block = SpaceTimeTransformer(**{**SIZES, "num_frames": num_frames}, time_init="zeros").blocks[0]
        assert bool((block.timeattn.qkv.weight == 0).all()) is zeros
        assert bool((block.timeattn.proj.weight == 1).all()) is zeros
        assert block.attn.qkv.weight.any()


def test_stochastic_depth_leaves_out_whole_samples_in_training_alone() -> None:
    drop, x = DropPath(0.25), torch.ones(400, 2, 3)
    assert torch.equal(drop.eval()(x), x)
    torch.manual_seed(0)
    dropped = drop.train()(x)
    kept = dropped[:, 0, 0] > 0
    assert torch.equal(dropped, kept[:, None, None] * x / 0.75)
    assert 0.65 < kept.float().mean() < 0.85


def test_a_shorter_table_is_cut() -> None:
    table = torch.randn(1, 4, 3)
    assert torch.equal(inflated_frames(table, 2, how="bilinear"), table[:, :2])
