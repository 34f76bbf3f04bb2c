"""The clips that ablations of models of pixels learn from: small frames of the laboratory, rendered into a store.

A caption names three things. One can be seen in a single frame, the colour of the ground, and two need time: the
direction of motion, and the order of two events. A model is judged by pairs of a true and a false caption of a clip,
which differ in the value of one thing: the one that fits better is chosen, and half of the choices are right by chance.
The false order is the same two events the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...._vocabulary import FeatureArray, FeatureSpec, Status, digest_of
from ....extract import Backbone, backbone_spec, create_backbone, learned_words
from ....store import FeatureStore, Sample, feature_fingerprint
from ....train.data import ClipFeatures
from ...laboratory import ATTRIBUTES, ClipAnswer, World, plan_clips, render_frames, write_caption
from ...sync import in_batches

Kind = str
TIME, STILL = ("direction", "order"), ("background",)
CLIPS_PER_SHARD = 20
_REVISION, _PAIRING = 1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelWorld:
    """How many clips there are, and of what size; the same values give the same clips."""

    num_train: int = 800
    num_test: int = 100
    num_pictures: int = 300
    seed: int = 0
    size: int = 48
    seconds: float = 2.0
    fps: int = 4
    vocabulary: int = 512

    def clips(self, *, pictures: bool = False) -> World:
        """The data set of videos, or of still pictures, whose captions name what one frame shows."""
        names = STILL if pictures else (*STILL, *TIME)
        return World(
            num_train=self.num_pictures if pictures else self.num_train + self.num_test,
            num_val=0,
            num_test=0,
            seed=self.seed,
            attributes=names,
            named_seen=len(names),
            named_heard=0,
            seconds=1 / self.fps if pictures else self.seconds,
            fps=self.fps,
            size=self.size,
        )


class Pair(NamedTuple):
    """A true and a false caption of a test clip, which differ in one thing.

    Attributes:
        clip: its place among the test clips.
        about: the thing.
        captions: word pieces of the true one, and of the false one.
    """

    clip: int
    about: str
    captions: tuple[NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelClips:
    """The clips in a store.

    Attributes:
        store: its folder.
        spec: of the frames.
        num_pieces: of the vocabulary.
        training: videos.
        pictures: stills, for co-training.
        testing: videos that pairs are about.
        pairs: those of the test clips.
        identity: what decides all of it.
    """

    store: Path
    spec: FeatureSpec
    num_pieces: int
    training: tuple[ClipFeatures, ...]
    pictures: tuple[ClipFeatures, ...]
    testing: tuple[ClipFeatures, ...]
    pairs: tuple[Pair, ...]
    identity: str


def prepare_pixels(folder: Path, world: PixelWorld, *, on_progress: Callable[[int], None]) -> PixelClips:
    """Render what a folder lacks, and list it."""
    root = folder / "store"
    spec = backbone_spec("pixels", size=world.size, rate_hz=float(world.fps))
    videos, stills = plan_clips(world.clips()), plan_clips(world.clips(pictures=True))
    text = _vocabulary(folder, [one for clip in (*videos, *stills) for one in clip.captions], world)
    store = FeatureStore(root)
    for clips, is_picture in ((videos, False), (stills, True)):
        for some in in_batches(clips, CLIPS_PER_SHARD):
            _write(store, some, world, spec, text, is_picture=is_picture)
            on_progress(len(some))
    store.refresh()

    def listed(clips: Sequence[ClipAnswer], *, is_picture: bool = False) -> tuple[ClipFeatures, ...]:
        return tuple(
            ClipFeatures(
                clip=clip.video,
                features={"video": (_frames_name(clip, spec, is_picture),)},
                captions=tuple(_text_name(one.text, text) for one in clip.captions),
                is_picture=is_picture,
            )
            for clip in clips
        )

    # Names are hashes, so that the first ones are any.
    testing, learned = videos[: world.num_test], videos[world.num_test :]
    return PixelClips(
        store=root,
        spec=spec,
        num_pieces=world.vocabulary,
        training=listed(learned),
        pictures=listed(stills, is_picture=True),
        testing=listed(testing),
        pairs=tuple(_pairs(testing, text, seed=world.seed)),
        identity=digest_of([_REVISION, repr(world)]),
    )


def _vocabulary(folder: Path, captions: Sequence[Any], world: PixelWorld) -> Backbone:
    """Word pieces that are learned from the captions of training."""
    learned = learned_words("wordpiece", vocabulary=world.vocabulary)
    assert learned is not None
    path = folder / "pieces.txt"
    if not path.exists():
        learned.train([one.text for one in captions], path, seed=0, **learned.options)
    return create_backbone("wordpiece", weights=str(path), vocabulary=world.vocabulary)


def _write(
    store: FeatureStore,
    clips: Sequence[ClipAnswer],
    world: PixelWorld,
    spec: FeatureSpec,
    text: Backbone,
    *,
    is_picture: bool,
) -> None:
    """A shard of frames and one of captions, where they are not there yet."""
    if all(_frames_name(clip, spec, is_picture) in store for clip in clips):
        return
    frames = [
        Sample(
            key=clip.video,
            source_digest=clip.video,
            fingerprint=_frames_name(clip, spec, is_picture),
            feature=_frames(clip, world, is_picture=is_picture),
        )
        for clip in clips
    ]
    texts = dict.fromkeys(one.text for clip in clips for one in clip.captions)
    said = [
        Sample(key=each, source_digest=each, fingerprint=_text_name(each, text), feature=text.encode(each))
        for each in texts
        if _text_name(each, text) not in store
    ]
    if said:
        store.write_shard(text.spec.name, said, spec=text.spec, format="webdataset")
    store.write_shard(spec.name, frames, spec=spec, format="webdataset")
    store.refresh()


def _frames(clip: ClipAnswer, world: PixelWorld, *, is_picture: bool) -> FeatureArray:
    num_frames = 1 if is_picture else round(world.seconds * world.fps)
    rng = np.random.default_rng([world.seed, int(Path(clip.video).stem, 16)])
    drawn = render_frames(clip.traits, size=world.size, num_frames=num_frames, fps=world.fps, rng=rng)
    values = np.stack([frame.reshape(-1) for frame in drawn])
    times = np.arange(num_frames)[:, None] / world.fps + [[0.0, 1 / world.fps]]
    return FeatureArray(values, times, Status.OK, "", (0.0, num_frames / world.fps))


def _frames_name(clip: ClipAnswer, spec: FeatureSpec, is_picture: bool) -> str:
    return feature_fingerprint(f"{clip.video} {is_picture}", spec, "laboratory")


def _text_name(text: str, backbone: Backbone) -> str:
    return feature_fingerprint(text, backbone.spec, backbone.weights_digest)


def _pairs(clips: Sequence[ClipAnswer], text: Backbone, *, seed: int) -> Iterator[Pair]:
    """For each test clip and each of its things a true caption, and one in which that is false."""
    for place, clip in enumerate(clips):
        rng = np.random.default_rng([seed, _PAIRING, int(Path(clip.video).stem, 16)])
        for about in (*TIME, *STILL):
            named = (*TIME, *STILL)
            false = dict(clip.traits) | {about: _another(about, clip.traits[about], rng)}
            draw = int(rng.integers(2**32))
            # The same draws choose the same wording.
            both = (write_caption(traits, named, np.random.default_rng(draw)) for traits in (clip.traits, false))
            true, other = (text.encode(each).values.astype(np.int32) for each in both)
            yield Pair(place, about, (true, other))


def _another(about: str, value: str, rng: np.random.Generator) -> str:
    if about == "order":
        return "-".join(reversed(value.split("-")))
    others = [one for one in ATTRIBUTES[about].values if one != value]
    return others[int(rng.integers(len(others)))]
