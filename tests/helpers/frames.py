"""A store of small frames in uneven tar shards, whose pixels say which video and which frame they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from frameloom._vocabulary import FeatureArray, FeatureSpec, Status
from frameloom.extract import backbone_spec
from frameloom.extract.backbones.pixels import jpeg_rows
from frameloom.store import FeatureStore, Sample, feature_fingerprint
from frameloom.train.data import ClipFeatures, FrameClip
from numpy.typing import NDArray

SIDE = 32
VOCABULARY = 256
SHARDS = (5, 1, 7, 3, 2, 6, 4, 1)
"""Videos in each shard."""


def picture(video: int, frame: int) -> NDArray[np.uint8]:
    """One frame: a square that moves over a ground, in colours of its video and its place."""
    made = np.full((SIDE, SIDE, 3), (video * 7 % 256, frame * 11 % 256, 128), np.uint8)
    made[frame % 24 : frame % 24 + 8, video % 24 : video % 24 + 8] = 255 - made[0, 0]
    return made


def num_frames_of(video: int) -> int:
    return 2 + video * 5 % 11


def video_sample(video: int, spec: FeatureSpec) -> Sample:
    """The feature `pixels` of a video, a frame each half second."""
    count = num_frames_of(video)
    frames = [picture(video, frame) for frame in range(count)]
    times = np.arange(count)[:, None] / 2 + [[0.0, 0.5]]
    if "quality" in spec.preprocessing:
        blocks = [jpeg_rows(frame, quality=spec.preprocessing["quality"]) for frame in frames]
        values, times = np.concatenate(blocks), np.repeat(times, [len(block) for block in blocks], axis=0)
    else:
        values = np.stack([frame.reshape(-1) for frame in frames])
    name = f"video {video}"
    feature = FeatureArray(values, times, Status.OK, "", (0.0, count / 2))
    fingerprint = feature_fingerprint(name, spec, "none")
    return Sample(key=name, source_digest=name, fingerprint=fingerprint, feature=feature)


def write_frames(root: Path, *, format: str = "webdataset", **options: object) -> list[FrameClip]:
    """Write the store; returns one clip for each video."""
    spec = backbone_spec("test_pixels", size=SIDE, rate_hz=2.0, **options)
    store, clips, video = FeatureStore(root), list[FrameClip](), 0
    for num_videos in SHARDS:
        samples = [video_sample(each, spec) for each in range(video, video + num_videos)]
        store.write_shard("test_pixels", samples, spec=spec, format=format)
        for number, sample in enumerate(samples, start=video):
            captions = (f"video {number}", f"number {number}")
            clips.append(FrameClip(clip=f"clip {number}", frames=sample.fingerprint, captions=captions))
        video += num_videos
    return clips


def write_pixel_clips(root: Path, *, num_pictures: int = 0, tags: bool = False) -> list[ClipFeatures]:
    """The same store with captions of word pieces, two for each clip; the last clips are called pictures.

    With tags the pieces between [CLS] and [SEP] are a noun, a verb and a noun.
    """
    clips = write_frames(root)
    spec, store = backbone_spec("wordpiece", vocabulary=VOCABULARY, tags=tags), FeatureStore(root)
    samples, captions = [], dict[str, tuple[str, ...]]()
    for number, clip in enumerate(clips):
        texts = [[101, 110 + number, 102], [101, 110 + number, 160, 161 + number % 5, 162, 102]]
        for place, pieces in enumerate(texts):
            name = f"caption {number} {place}"
            columns = [pieces, [0, *[3, 4, 3, 3][: len(pieces) - 2], 0]] if tags else [pieces]
            feature = FeatureArray(np.array(columns, np.int32).T.copy(), np.full((len(pieces), 2), np.nan))
            fingerprint = feature_fingerprint(name, spec, "none")
            samples.append(Sample(key=name, source_digest=name, fingerprint=fingerprint, feature=feature))
            captions[clip.clip] = (*captions.get(clip.clip, ()), fingerprint)
    store.write_shard("wordpiece", samples, spec=spec, format="webdataset")
    return [
        ClipFeatures(
            clip=clip.clip,
            features={"video": (clip.frames,)},
            captions=captions[clip.clip],
            is_picture=number >= len(clips) - num_pictures,
        )
        for number, clip in enumerate(clips)
    ]
