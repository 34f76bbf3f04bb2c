"""Clips as a model reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from frameloom import InputError
from frameloom.train.data import ClipDataset, collate
from frameloom.train.data.tokens import as_float32, frame_at, join_streams, resample_nearest, rows_of_span, unit_rows
from hypothesis import given
from hypothesis import strategies as st


def clip(num_rows: int = 3, num_frames: int = 9, num_captions: int = 1):
    return {
        "video": np.full((num_rows, 2), 5, np.float16),
        "audio": np.arange(num_frames * 4, dtype=np.float16).reshape(num_frames, 4),
        "text": [np.full((i + 1, 3), i, np.float32) for i in range(num_captions)],
    }


class TestPreparation:
    def test_every_modality_is_cut_to_its_limit(self) -> None:
        sample = clip(num_rows=30, num_frames=50, num_captions=1) | {"text": [np.ones((40, 3))]}
        prepared = ClipDataset([sample], max_video_tokens=12, max_audio_frames=16, max_words=20)[0]
        assert {name: len(rows) for name, rows in prepared.items()} == {"text": 20, "video": 12, "audio": 16}
        assert all(rows.dtype == np.float32 for rows in prepared.values())
        assert prepared["audio"].tolist() == sample["audio"][:16].tolist()

    def test_video_rows_have_length_one_and_words_and_frames_keep_theirs(self) -> None:
        prepared = ClipDataset([clip()])[0]
        np.testing.assert_allclose(np.linalg.norm(prepared["video"], axis=1), 1, rtol=1e-6)
        assert prepared["audio"].max() == 35

    def test_what_a_clip_lacks_stays_lacking(self) -> None:
        prepared = ClipDataset([{"video": None, "audio": None, "text": []}])[0]
        assert prepared == {"text": None, "video": None, "audio": None}

    def test_streams_are_joined_and_each_keeps_length_one(self) -> None:
        streams = [np.full((2, 3), 7, np.float16), np.arange(10, dtype=np.float32).reshape(5, 2) + 1]
        prepared = ClipDataset([clip() | {"video": streams}], max_video_tokens=4)[0]["video"]
        assert prepared.tolist() == join_streams(streams, max_tokens=4).tolist()
        np.testing.assert_allclose(np.linalg.norm(prepared[:, :3], axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(prepared[:, 3:], axis=1), 1, rtol=1e-6)
        assert ClipDataset([clip() | {"video": [streams[0], streams[1][:0]]}])[0]["video"].shape == (0, 5)

    def test_a_row_of_zeros_stays_finite(self) -> None:
        assert unit_rows(np.zeros((2, 3), np.float16)).tolist() == [[0, 0, 0], [0, 0, 0]]

    def test_every_half_becomes_the_same_float_in_any_layout(self) -> None:
        halves = np.arange(65_536, dtype=np.uint16).view(np.float16).reshape(256, 256)
        frozen = halves.copy()
        frozen.flags.writeable = False
        for rows in (halves, frozen, halves.T, halves[::-1], halves[:, 3:200:2], halves[:0]):
            made, wanted = as_float32(rows), rows.astype(np.float32)
            is_number = ~np.isnan(wanted)
            assert made.flags.c_contiguous
            assert not np.shares_memory(made, rows)
            assert (np.isnan(made) == ~is_number).all()
            assert made[is_number].tobytes() == wanted[is_number].tobytes()

    @pytest.mark.parametrize("shape", [(3, 40, 2048), (1, 1, 70_000), (2, 0, 5), (4, 3, 0), (700, 300)])
    def test_rows_are_normalised_to_the_same_bits_in_any_layout(self, shape) -> None:
        rows = np.random.default_rng(0).normal(size=shape).astype(np.float16)
        rows[:1] = 0
        whole = rows.astype(np.float32)
        wanted = whole / np.maximum(np.linalg.norm(whole, axis=-1, keepdims=True), 1e-12)
        for same in (rows, np.asfortranarray(rows), whole):
            assert unit_rows(same).tobytes() == wanted.tobytes()

    @pytest.mark.parametrize("name", ["video", "audio", "text", "speech"])
    @pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0,)])
    def test_what_is_no_table_of_rows_is_refused(self, name, shape) -> None:
        rows = np.zeros(shape, np.float32)
        changed = {"text": {"text": [rows]}, "speech": {"speech": rows}}.get(name, {name: rows})
        with pytest.raises(InputError, match=rf"{name} has shape .*\(rows, width\)"):
            ClipDataset([clip() | changed])[0]


class TestCaptions:
    def draws(self, dataset: ClipDataset, epoch: int) -> list[int]:
        dataset.set_epoch(epoch)
        return [len(dataset[i]["text"]) for i in range(len(dataset))]

    def test_training_draws_by_seed_epoch_and_clip_alone(self) -> None:
        samples = [clip(num_captions=5) for _ in range(30)]
        dataset = ClipDataset(samples, training=True, seed=3)
        first = self.draws(dataset, 0)
        assert len(set(first)) == 5
        assert self.draws(dataset, 1) != first
        assert self.draws(ClipDataset(samples, training=True, seed=4), 0) != first
        assert self.draws(ClipDataset(samples, training=True, seed=3), 0) == first
        dataset.set_epoch(0)
        assert [len(dataset[i]["text"]) for i in reversed(range(30))] == first[::-1]

    def test_otherwise_the_first_caption_is_taken(self) -> None:
        assert self.draws(ClipDataset([clip(num_captions=5)] * 4), 7) == [1, 1, 1, 1]


class TestCollate:
    def test_clips_are_padded_to_the_longest_with_masks(self) -> None:
        dataset = ClipDataset([clip(num_rows=2, num_frames=5), clip(num_rows=4, num_frames=3)])
        batch = collate([dataset[0], dataset[1]])
        assert batch["video"].values.shape == (2, 4, 2)
        assert batch["video"].mask.sum(dim=1).tolist() == [2, 4]
        assert batch["audio"].mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
        assert batch["audio"].values[1, 3:].eq(0).all()
        assert batch["text"].values.dtype == torch.float32

    def test_a_clip_without_a_modality_has_an_empty_mask(self) -> None:
        dataset = ClipDataset([clip(), clip() | {"audio": None}, clip() | {"text": []}])
        batch = collate([dataset[i] for i in range(3)])
        assert batch["audio"].mask.any(dim=1).tolist() == [True, False, True]
        assert batch["text"].mask.any(dim=1).tolist() == [True, True, False]

    def test_a_modality_that_no_clip_has_is_left_out(self) -> None:
        none = clip() | {"audio": None, "video": np.zeros((0, 2))}
        assert collate([ClipDataset([none])[0]]).keys() == {"text"}

    def test_widths_must_agree(self) -> None:
        dataset = ClipDataset([clip(), clip() | {"video": np.ones((2, 7))}])
        with pytest.raises(InputError, match=r"video features of different widths: \[2, 7\]"):
            collate([dataset[0], dataset[1]])


class TestTokens:
    @given(start=st.floats(0, 100), length=st.floats(0.01, 50), rate=st.sampled_from([1.0, 1.5, 24 / 16]))
    def test_accurate_rows_cover_the_span_and_no_more(self, start, length, rate) -> None:
        rows = rows_of_span(start, start + length, rate_hz=rate, rounding="accurate")
        assert rows.start <= start * rate < rows.start + 1
        assert rows.stop - 1 < (start + length) * rate <= rows.stop

    def test_inherited_rows_include_the_last(self) -> None:
        assert rows_of_span(2.3, 6.1, rate_hz=1.0) == slice(2, 7)

    def test_the_first_frame_is_never_before_the_sound(self) -> None:
        assert [frame_at(seconds) for seconds in (0.0, 0.0125, 0.0225, 8.0)] == [0, 0, 1, 798]

    @given(num_rows=st.integers(1, 40), wanted=st.integers(1, 40))
    def test_resampling_keeps_order_and_ends(self, num_rows, wanted) -> None:
        source = resample_nearest(np.arange(num_rows)[:, None], num_rows=wanted)[:, 0]
        assert source[0] == 0
        assert (np.diff(source) >= 0).all()
        assert source[-1] == (wanted - 1) * num_rows // wanted

    def test_one_stream_stays_one_stream(self) -> None:
        for how in ("clip", "nearest", "max_pool"):
            assert join_streams([np.ones((40, 6))], max_tokens=12, how=how).shape == (12, 6)
