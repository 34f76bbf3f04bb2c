"""The authors' pickles of MSR-VTT and YouCook2, as their code reads them: keys, orders, clips that lack something."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameloom import InputError
from frameloom.train.data import ClipDataset
from frameloom.train.protocols import VIDEO_KEYS, PublishedClip, PublishedClips, read_published_clips

RNG = np.random.default_rng(0)


def pickled(path: Path, value: Any) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=4))
    return path


def rows(count: int, width: int) -> np.ndarray:
    return RNG.standard_normal((count, width)).astype(np.float32)


def msrvtt(number: int, **changed: Any) -> dict[str, Any]:
    record = {"id": f"video{number}", "2d": rows(10, 4), "3d": rows(15, 3), "audio": rows(40, 1000).astype(np.float16)}
    return record | {"caption": ["a dog", "the dog runs"], "eval_caption": "a dog runs"} | changed


def words(caption: str) -> np.ndarray:
    return np.full((len(caption.split()), 2), len(caption), np.float32)


def test_msrvtt(tmp_path: Path) -> None:
    records = [msrvtt(0), msrvtt(1)]
    del records[0]["eval_caption"]
    clips, left_out = read_published_clips(pickled(tmp_path / "a.pkl", records), video=VIDEO_KEYS["msrvtt"])
    assert left_out == 0
    assert [clip.id for clip in clips] == ["video0", "video1"]
    assert [clip.captions for clip in clips] == [("a dog", "the dog runs"), ("a dog runs",)]
    np.testing.assert_array_equal(clips[0].video[1], records[0]["3d"])
    np.testing.assert_array_equal(clips[0].audio, records[0]["audio"].T)


def test_youcook2_leaves_out_clips_without_rows(tmp_path: Path) -> None:
    full = {"2d_full": rows(5, 4), "3d_full": rows(7, 3)}
    pooled = {"id": 3, "2d": rows(1, 4)[0], "3d": rows(1, 3)[0], "audio": torch.zeros(40, 9), "caption": "cut it"}
    path = pickled(tmp_path / "a.pkl", [pooled | full, pooled, pooled | full])
    clips, left_out = read_published_clips(path, video=VIDEO_KEYS["youcook2"])
    assert (len(clips), left_out) == (2, 1)
    assert (clips[0].id, clips[0].captions, clips[0].audio.shape) == ("3", ("cut it",), (9, 40))


def test_stronger_backbones_come_from_a_pickle_of_their_own(tmp_path: Path) -> None:
    first = pickled(tmp_path / "resnet.pkl", [msrvtt(0), {"id": "video1", "audio": rows(40, 9), "caption": "x"}])
    features = [{"id": "video0", "s3d": rows(10, 6)}, {"id": "video1", "s3d": rows(11, 6)}]
    second = pickled(tmp_path / "s3d.pkl", features)
    clips, left_out = read_published_clips(first, video=VIDEO_KEYS["s3d"], video_path=second)
    assert ([clip.id for clip in clips], left_out) == (["video0"], 1)  # the authors' filter is that of ResNet
    assert clips[0].video[0].shape == (10, 6)
    pickled(second, features[::-1])
    with pytest.raises(InputError, match=r"clip 0 is 'video0' and .*s3d.pkl has 'video1' in its place"):
        read_published_clips(first, video=("s3d",), video_path=second)
    pickled(second, features[:1])
    with pytest.raises(InputError, match=r"s3d.pkl lists 1 clips and .*resnet.pkl lists 2"):
        read_published_clips(first, video=("s3d",), video_path=second)


def test_clips_are_samples_for_a_model(tmp_path: Path) -> None:
    clips, _ = read_published_clips(pickled(tmp_path / "a.pkl", [msrvtt(0)]), video=("2d", "3d"))
    samples = PublishedClips(clips, words=words)
    prepared = ClipDataset(samples, max_video_tokens=48, max_audio_frames=768)[0]
    assert {name: each.shape for name, each in prepared.items()} == {
        "video": (15, 7),
        "audio": (768, 40),
        "text": (3, 2),
    }
    silent = PublishedClip(id="x", video=(rows(2, 3),), audio=None, captions=())
    assert ClipDataset(PublishedClips([silent], words=words))[0]["text"] is None


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"id": 1}, "a list of dicts"),
        ([1], "a list of dicts"),
        ([{"2d": rows(1, 2), "3d": rows(1, 2)}], "clip 0: it has no `id`"),
        ([msrvtt(0), msrvtt(1, **{"2d": [1, 2]})], r"clip 1: 2d must be an array .* found list"),
        ([msrvtt(0, audio=rows(1, 5)[0])], r"clip 0: audio must be .* found \(5,\)"),
        ([msrvtt(0, eval_caption=3)], "clip 0: its caption must be"),
        ([{"id": "a", "audio": 1}], "no clip has all of 2d, 3d; there are 'id', 'audio'"),
        ([], "no clip has all of 2d, 3d; there are no clip"),
    ],
)
def test_what_is_wrong_is_named_with_its_clip(tmp_path: Path, records: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"a.pkl.*{message}"):
        read_published_clips(pickled(tmp_path / "a.pkl", records), video=("2d", "3d"))


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    with pytest.raises(InputError, match=r"mkdir.*nothing in a pickle is ever run"):
        read_published_clips(pickled(tmp_path / "a.pkl", [Evil()]), video=("2d",))
    assert not (tmp_path / "made").exists()
