"""Clips as pictures: the order, the position, the shares, the pictures, and shards that are not what was written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameloom import ConfigError, InputError, IntegrityError
from frameloom._vocabulary import FeatureArray, Status
from frameloom.extract import backbone_spec
from frameloom.store import FeatureStore, Sample
from frameloom.train.data import FrameBatch, FrameClip, FrameLoader, FrameOptions
from frameloom.train.data.frame_indices import Draws, frozen_in_time_indices
from frameloom.train.data.frame_shards import random_crop
from helpers.children import killed_frames
from helpers.frames import SHARDS, SIDE, num_frames_of, picture, video_sample, write_frames
from numpy.typing import NDArray

# More workers than cores are slow, and give the same.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
PLAIN = FrameOptions(size=SIDE)
TRAINING = FrameOptions(size=16, training=True, num_frames=3)
NUM_CLIPS = sum(SHARDS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[FrameClip]]:
    root = tmp_path_factory.mktemp("frames")
    return root, write_frames(root)


def loader_of(world: tuple[Path, list[FrameClip]], options: FrameOptions = PLAIN, **more: Any) -> FrameLoader:
    root, clips = world
    return FrameLoader(root, clips, options=options, **{"batch_size": 4, "seed": 3, "lanes": 3, **more})


def same(one: FrameBatch, other: FrameBatch) -> bool:
    tensors = all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("frames", "num_frames", "places"))
    return tensors and (one.clips, one.captions) == (other.clips, other.captions)


def all_same(some: list[FrameBatch], others: list[FrameBatch]) -> bool:
    return len(some) == len(others) and all(map(same, some, others))


def plain_order(shard_of: list[int], *, seed: int, epoch: int, window: int, share: tuple[int, int], lanes: int) -> list:
    """The order of an epoch, written a second time: one clip after the other."""
    numbers = np.random.PCG64((seed, epoch))
    shard_draws = [int(numbers.random_raw()) for _ in range(max(shard_of) + 1)]
    draws = [int(numbers.random_raw()) for _ in shard_of]
    by_shard = sorted(range(len(shard_of)), key=lambda clip: (shard_draws[shard_of[clip]], draws[clip]))
    own = by_shard[slice(*share)]
    met = list(dict.fromkeys(shard_of[clip] for clip in own))
    mixed = sorted(own, key=lambda clip: (met.index(shard_of[clip]) // window, draws[clip]))
    parts, begin = [], 0
    for lane in range(lanes):
        size = len(mixed) // lanes + (lane < len(mixed) % lanes)
        parts.append(mixed[begin : begin + size])
        begin += size
    return [part[turn] for turn in range(len(parts[0])) for part in parts if turn < len(part)]


class TestOrder:
    @pytest.mark.parametrize("window", [1, 3])
    @pytest.mark.parametrize("rank", [0, 1])
    def test_it_is_that_of_a_plain_implementation(self, world, window, rank) -> None:
        loader = loader_of(world, window_shards=window, rank=rank, world_size=2, remainder="keep")
        paths = [str(loader.store.entry(clip.frames).shard.path) for clip in world[1]]
        shard_of = [sorted(set(paths)).index(path) for path in paths]
        share = (rank * NUM_CLIPS // 2, (rank + 1) * NUM_CLIPS // 2)
        for epoch in range(3):
            found = [index for batch in loader for index in batch.places.tolist()]
            assert found == plain_order(shard_of, seed=3, epoch=epoch, window=window, share=share, lanes=3)

    @pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
    def test_workers_do_not_change_it(self, world, num_workers) -> None:
        expected = list(loader_of(world, TRAINING))
        assert all_same(list(loader_of(world, TRAINING, num_workers=num_workers)), expected)
        assert [len(batch.clips) for batch in expected] == [4] * 7 + [1]

    def test_spawned_workers_do_not_either(self, world) -> None:
        spawned = loader_of(world, num_workers=2, multiprocessing_context="spawn")
        assert all_same(list(spawned), list(loader_of(world)))

    def test_epochs_differ_and_come_again(self, world) -> None:
        loader = loader_of(world)
        first, second = ([clip for batch in loader for clip in batch.clips] for _ in range(2))
        assert first != second
        assert Counter(first) == Counter(second) == Counter(clip.clip for clip in world[1])
        loader.set_epoch(0)
        assert [clip for batch in loader for clip in batch.clips] == first
        other = loader_of(world, seed=4)
        assert [clip for batch in other for clip in batch.clips] != first

    def test_the_incomplete_batch_may_be_left_out(self, world) -> None:
        loader = loader_of(world, drop_last=True)
        assert [len(batch.clips) for batch in loader] == [4] * 7
        assert len(loader) == 7

    def test_torchs_generator_stays_as_it_was(self, world) -> None:
        before = torch.get_rng_state()
        list(loader_of(world, TRAINING))
        assert torch.equal(torch.get_rng_state(), before)


class TestPosition:
    @pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 2), (2, 0), (3, 2), (2, 5)])
    @pytest.mark.parametrize("num_given", [1, 4, 7])
    def test_the_rest_comes_whatever_the_workers(self, world, before, after, num_given) -> None:
        expected = list(loader_of(world, TRAINING))
        stopped = loader_of(world, TRAINING, num_workers=before)
        batches = iter(stopped)
        given = [next(batches) for _ in range(num_given)]
        state = json.loads(json.dumps(stopped.state_dict()))
        batches.close()
        resumed = loader_of(world, TRAINING, num_workers=after)
        resumed.load_state_dict(state)
        assert all_same([*given, *resumed], expected)
        assert resumed.epoch == 1

    @pytest.mark.parametrize("changes", [{"seed": 4}, {"lanes": 2}, {"window_shards": 2}, {"batch_size": 5}])
    def test_one_of_another_order_is_refused(self, world, changes) -> None:
        with pytest.raises(ConfigError, match="another order"):
            loader_of(world, **changes).load_state_dict(loader_of(world).state_dict())

    @pytest.mark.slow
    def test_after_a_kill_the_rest_comes(self, tmp_path) -> None:
        """Killed in the second epoch with two workers, killed again with none, and finished with three."""
        clips = write_frames(tmp_path / "store")
        options = FrameOptions(size=16, training=True)
        expected = FrameLoader(tmp_path / "store", clips, options=options, batch_size=3, seed=5)
        batches = [*expected, *expected]
        noted = [[batch.clips, batch.captions, int(batch.frames.long().sum())] for batch in batches]
        for part, (num_workers, last) in enumerate([(2, 13), (0, 3), (3, 99)]):
            notes = tmp_path / f"notes {part}"
            command = [sys.executable, killed_frames.__file__, str(tmp_path / "store"), str(notes), str(num_workers)]
            previous = str(tmp_path / f"notes {part - 1}") if part else "-"
            subprocess.run([*command, str(last), previous], check=False, capture_output=True)
        lines = [line for part in range(3) for line in (tmp_path / f"notes {part}").read_text().splitlines()]
        assert [json.loads(line)[:3] for line in lines] == noted


class TestShares:
    @pytest.mark.parametrize("remainder", ["keep", "drop", "pad"])
    @pytest.mark.parametrize("num_nodes", [2, 3])
    def test_nodes_get_equal_shares_of_uneven_shards(self, world, num_nodes, remainder) -> None:
        shares = []
        for rank in range(num_nodes):
            loader = loader_of(world, rank=rank, world_size=num_nodes, remainder=remainder, num_workers=2)
            shares.append([clip for batch in loader for clip in batch.clips])
        every = Counter(clip for share in shares for clip in share)
        sizes = {len(share) for share in shares}
        rest = NUM_CLIPS % num_nodes
        if remainder == "keep":
            assert set(every.values()) == {1}
            assert (len(every), max(sizes) - min(sizes) <= 1) == (NUM_CLIPS, True)
        else:
            assert len(sizes) == 1
            assert sum(every.values()) == NUM_CLIPS - rest + (num_nodes if remainder == "pad" and rest else 0)
            assert max(every.values()) <= 1 + (remainder == "pad")

    def test_more_nodes_than_clips(self, world) -> None:
        root, clips = world
        shares = [loader_of((root, clips[:2]), rank=rank, world_size=5) for rank in range(5)]
        assert [[len(batch.clips) for batch in share] for share in shares] == [[1]] * 5


class TestPictures:
    def test_they_are_those_that_were_stored(self, world) -> None:
        for batch in loader_of(world):
            for place, index in enumerate(batch.places.tolist()):
                count = num_frames_of(index)
                rows = frozen_in_time_indices(count, num_frames=4)
                expected = np.stack([picture(index, row) for row in rows]).transpose(0, 3, 1, 2)
                assert int(batch.num_frames[place]) == len(rows)
                np.testing.assert_array_equal(batch.frames[place, : len(rows)], expected)
                assert not batch.frames[place, len(rows) :].any()
                assert (batch.clips[place], batch.captions[place]) == (f"clip {index}", f"video {index}")
        assert batch.frames.dtype == torch.uint8

    def test_floats_are_normalised_by_channel(self, world) -> None:
        batch = next(iter(loader_of(world)))
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
        found = batch.normalised(mean, std)
        for channel in range(3):
            expected = (batch.frames[:, :, channel].float() / 255 - mean[channel]) / std[channel]
            torch.testing.assert_close(found[:, :, channel], expected)

    @pytest.mark.parametrize("rule", ["frozen_in_time", "vindlu", "clover"])
    @pytest.mark.parametrize("num_frames", [1, 3, 4, 8])
    def test_every_rule_and_count(self, world, rule, num_frames) -> None:
        options = FrameOptions(size=16, rule=rule, num_frames=num_frames, training=True)
        for batch in loader_of(world, options):
            assert batch.frames.shape[1:] == (num_frames, 3, 16, 16)
            if rule != "frozen_in_time":
                assert batch.num_frames.tolist() == [num_frames] * len(batch.clips)

    def test_draws_follow_from_seed_epoch_and_clip_alone(self, world) -> None:
        def by_clip(loader: FrameLoader) -> dict[str, tuple[str, bytes]]:
            return {
                clip: (caption, frames.numpy().tobytes())
                for batch in loader
                for clip, caption, frames in zip(batch.clips, batch.captions, batch.frames, strict=True)
            }

        loader = loader_of(world, TRAINING)
        first, second = by_clip(loader), by_clip(loader)
        assert by_clip(loader_of(world, TRAINING, lanes=5, batch_size=7, window_shards=1, num_workers=2)) == first
        assert sum(first[clip] == second[clip] for clip in first) < 8
        assert {caption.split()[0] for caption, _ in first.values()} == {"video", "number"}

    def test_a_crop_and_a_mirror_are_one_for_all_frames(self, world) -> None:
        """Whole pictures, mirrored always: the stored ones from right to left."""
        options = FrameOptions(size=SIDE, training=True, min_area=1, max_aspect=1, flip=1)
        for batch in loader_of(world, options):
            for place, index in enumerate(batch.places.tolist()):
                draw = np.random.default_rng((3, 0, index))
                draw.integers(2)
                rows = frozen_in_time_indices(
                    num_frames_of(index), num_frames=4, at="random", draws=Draws(int(draw.integers(2**32)))
                )
                expected = np.stack([picture(index, row)[:, ::-1] for row in rows]).transpose(0, 3, 1, 2)
                np.testing.assert_array_equal(batch.frames[place, : len(rows)], expected)

    def test_crops_keep_to_area_and_aspect(self) -> None:
        draw = np.random.default_rng(0)
        crops = np.array([random_crop(draw, 100, 0.5, 4 / 3) for _ in range(500)])
        top, left, height, width = crops.T
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (top + height <= 100).all()
        assert (left + width <= 100).all()
        area, aspect = height * width / 1e4, width / height
        assert 0.48 < area.min() < 0.55 < 0.9 < area.max() <= 1
        assert 0.73 < aspect.min() < 0.8 < 1.25 < aspect.max() < 1.36

    def test_jpeg_frames_are_nearly_the_same(self, tmp_path) -> None:
        clips = write_frames(tmp_path / "jpeg", frames="jpeg", quality=95)
        raw = write_frames(tmp_path / "raw")
        for batch, exact in zip(
            loader_of((tmp_path / "jpeg", clips), shuffle=False, lanes=1),
            loader_of((tmp_path / "raw", raw), shuffle=False, lanes=1),
            strict=True,
        ):
            by_clip = dict(zip(exact.clips, exact.frames, strict=True))
            for clip, frames in zip(batch.clips, batch.frames, strict=True):
                if clip in by_clip:
                    assert (frames.float() - by_clip[clip].float()).abs().mean() < 6

    def test_a_span_has_its_frames_and_a_span_without_any_the_nearest(self, world) -> None:
        root, clips = world
        video = max(range(NUM_CLIPS), key=num_frames_of)
        spans = [(1.0, 2.0), (0.6, 0.7), (1.0, 99.0)]
        cut = [
            replace(clips[video], clip=str(number), start_seconds=start, end_seconds=end)
            for number, (start, end) in enumerate(spans)
        ]
        batch = next(iter(loader_of((root, cut), FrameOptions(size=SIDE, num_frames=20), shuffle=False, lanes=1)))
        found = {clip: int(count) for clip, count in zip(batch.clips, batch.num_frames, strict=True)}
        assert found == {"0": 2, "1": 1, "2": num_frames_of(video) - 2}
        np.testing.assert_array_equal(batch.frames[batch.clips.index("1"), 0], picture(video, 1).transpose(2, 0, 1))


class TestMissing:
    def test_a_clip_without_frames_is_an_error_or_left_out(self, world) -> None:
        root, clips = world
        bad = [
            replace(clips[0], clip="nowhere", frames="0" * 32),
            replace(clips[0], clip="outside", start_seconds=900.0, end_seconds=901.0),
        ]
        for each in bad:
            with pytest.raises(InputError, match=each.clip):
                loader_of((root, [*clips, each]))
        loader = loader_of((root, [*bad, *clips]), missing="skip")
        assert (loader.num_skipped, len(loader.reader.clips)) == (2, NUM_CLIPS)
        assert sorted(clip for batch in loader for clip in batch.clips) == sorted(clip.clip for clip in clips)

    def test_an_unknown_policy_is_refused(self, world) -> None:
        with pytest.raises(InputError, match="missing 'skipp': allowed are error, skip"):
            loader_of(world, missing="skipp")

    def test_a_video_without_rows_says_its_status(self, tmp_path) -> None:
        spec = backbone_spec("test_pixels", size=SIDE)
        nothing = FeatureArray.empty(spec, Status.UNDECODABLE, "no picture could be decoded")
        sample = Sample(key="a", source_digest="a", fingerprint="a" * 32, feature=nothing)
        FeatureStore(tmp_path).write_shard("test_pixels", [sample], spec=spec, format="webdataset")
        with pytest.raises(InputError, match="undecodable"):
            loader_of((tmp_path, [FrameClip(clip="a", frames="a" * 32)]))

    def test_frames_in_hdf5_are_refused(self, tmp_path) -> None:
        clips = write_frames(tmp_path, format="hdf5")
        with pytest.raises(InputError, match="write them with format webdataset"):
            loader_of((tmp_path, clips))

    def test_another_feature_is_refused(self, tmp_path) -> None:
        spec = backbone_spec("test_pixel_tokens", size=SIDE, patch=16)
        feature = FeatureArray(np.zeros((4, spec.dim), np.uint8), np.tile([[0.0, 1.0]], (4, 1)))
        sample = Sample(key="a", source_digest="a", fingerprint="a" * 32, feature=feature)
        FeatureStore(tmp_path).write_shard("test_pixel_tokens", [sample], spec=spec, format="webdataset")
        with pytest.raises(InputError, match="not made of whole frames"):
            loader_of((tmp_path, [FrameClip(clip="a", frames="a" * 32)]))


def test_any_fingerprint_that_can_be_stored_is_read(tmp_path) -> None:
    spec = backbone_spec("test_pixels", size=SIDE, rate_hz=2.0)
    names = ["Of.Mine", "f" * 48, "b" * 32]
    samples = [replace(video_sample(number, spec), fingerprint=name) for number, name in enumerate(names)]
    FeatureStore(tmp_path).write_shard("test_pixels", samples, spec=spec, format="webdataset")
    clips = [FrameClip(clip=name, frames=name) for name in names]
    (batch,) = loader_of((tmp_path, clips), FrameOptions(size=SIDE, num_frames=12), shuffle=False)
    assert sorted(batch.clips) == sorted(names)
    for name, frames in zip(batch.clips, batch.frames, strict=True):
        np.testing.assert_array_equal(frames[0], picture(names.index(name), 0).transpose(2, 0, 1))


class TestDamage:
    """What a shard gives is what was written, or an error."""

    @pytest.fixture
    def copied(self, world, tmp_path) -> tuple[Path, list[FrameClip]]:
        shutil.copytree(world[0], tmp_path / "store")
        return tmp_path / "store", world[1]

    def read(self, world: tuple[Path, list[FrameClip]]) -> dict[str, NDArray[np.uint8]]:
        return {
            clip: frames.numpy()
            for batch in loader_of(world, FrameOptions(size=SIDE, num_frames=12))
            for clip, frames in zip(batch.clips, batch.frames, strict=True)
        }

    def test_no_flipped_bit_is_read(self, copied) -> None:
        """Whatever is returned is compared with the original; damage outside of what is read may pass."""
        original = self.read(copied)
        rng, refused = np.random.default_rng(0), 0
        shard = max(copied[0].rglob("*.tar"), key=lambda path: path.stat().st_size)
        data = bytearray(shard.read_bytes())
        for bit in rng.integers(len(data) * 8, size=120).tolist():
            data[bit // 8] ^= 1 << bit % 8
            shard.write_bytes(data)
            try:
                found = self.read(copied)
            except IntegrityError:
                refused += 1
            else:
                assert found.keys() == original.keys()
                assert all(np.array_equal(frames, original[clip]) for clip, frames in found.items())
            data[bit // 8] ^= 1 << bit % 8
        assert refused > 100

    @pytest.mark.parametrize("how", ["cut", "empty", "gzip", "sparse", "huge", "link", "renamed"])
    def test_a_hostile_tar_is_refused_within_bounds(self, copied, how) -> None:
        shard = max(copied[0].rglob("*.tar"), key=lambda path: path.stat().st_size)
        data = shard.read_bytes()
        place = data.index(b".values.npy") // 512 * 512
        header = bytearray(data[place : place + 512])
        if how == "sparse":
            header[156:157] = b"S"
        elif how == "link":
            header[156:157] = b"1"
        elif how == "huge":
            header[124:136] = b"77777777777\0"
        elif how == "renamed":
            header[0:4] = b"zzzz"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        changed = {"cut": data[: place + 600], "empty": b"", "gzip": b"\x1f\x8b" + data[2:]}
        size = len(data)
        hostile = changed.get(how, data[:place] + header + data[place + 512 :])
        shard.write_bytes(hostile + b"\0" * (size - len(hostile)))  # of the size that the sidecar has
        with pytest.raises(IntegrityError, match=r"damaged|missing"):
            self.read(copied)


def test_jpeg_bytes_do_not_change(tmp_path) -> None:
    """The same frames are the same shard, and the quality is another one."""
    names = []
    for number, quality in enumerate((90, 90, 80)):
        write_frames(tmp_path / str(number), frames="jpeg", quality=quality)
        names.append(sorted(path.name for path in (tmp_path / str(number)).rglob("*.tar")))
    assert names[0] == names[1]
    assert not set(names[0]) & set(names[2])
