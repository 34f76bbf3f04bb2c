"""The clips that ablations of models of pixels learn from: small frames of the laboratory, rendered into a store.

A clip shows one thing, and its caption names it, always in the same words: the direction of motion, the order of two
events, or the colour of the ground. The first two need time, the third can be seen in a single frame. Where a clip
showed all three, or a value had several words, tiny models learned the ground and nothing about time in a short
training. A model is judged by pairs of a true and a false caption of a clip: the one that fits better is chosen, and
half of the choices are right by chance. The false order is the same two events the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...._vocabulary import FeatureArray, FeatureSpec, Status, digest_of
from ....extract import Backbone, backbone_spec, create_backbone, learned_words
from ....store import FeatureStore, Sample, feature_fingerprint
from ....train.data import ClipFeatures
from ...laboratory import ATTRIBUTES, ClipAnswer, World, displacement, plan_clips, render_frames
from ...sync import in_batches

TIME, STILL = ("direction", "order"), ("background",)
SHARES: Mapping[str, int] = {"direction": 2, "order": 2, "background": 1}
"""How many clips show a thing, of five."""
CLIPS_PER_SHARD = 20
MOST_JUDGED = 20
"""Test clips on whose frames it is computed what one of them can tell."""
_REVISION, _PAIRING = 3, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelWorld:
    """How many clips there are, and of what size; the same values give the same clips.

    Of 4 frames of a second, the next shows objects a twelfth of the side further. In twice as many seconds that is a
    sixth, half the distance to the next object: as far to the left as to the right.
    """

    num_train: int = 1600
    num_test: int = 400
    num_pictures: int = 300
    seed: int = 0
    size: int = 32
    seconds: float = 1.0
    fps: int = 8
    vocabulary: int = 512

    @property
    def num_frames(self) -> int:
        """Of a clip."""
        return round(self.seconds * self.fps)

    def videos(self) -> tuple[list[ClipAnswer], list[ClipAnswer]]:
        """To learn from, and to judge by."""
        learned: list[ClipAnswer] = []
        testing: list[ClipAnswer] = []
        for about, share in SHARES.items():
            num_test, num_train = (
                math.ceil(number * share / sum(SHARES.values())) for number in (self.num_test, self.num_train)
            )
            # Names are hashes, so that the first ones are any.
            clips = plan_clips(self._clips(about, num_test + num_train, self.seconds))
            testing += clips[:num_test]
            learned += clips[num_test:]
        return learned, testing

    def pictures(self) -> tuple[ClipAnswer, ...]:
        """Stills of the ground."""
        return plan_clips(self._clips(*STILL, self.num_pictures, 1 / self.fps))

    def _clips(self, about: str, number: int, seconds: float) -> World:
        return World(
            num_train=number,
            num_val=0,
            num_test=0,
            seed=self.seed,
            attributes=(about,),
            named_heard=0,
            seconds=seconds,
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
        limits: what one frame can tell of each thing, see `one_frame_limits`.
        identity: what decides all of it.
    """

    store: Path
    spec: FeatureSpec
    num_pieces: int
    training: tuple[ClipFeatures, ...]
    pictures: tuple[ClipFeatures, ...]
    testing: tuple[ClipFeatures, ...]
    pairs: tuple[Pair, ...]
    limits: Mapping[str, tuple[float, float]]
    identity: str


def prepare_pixels(folder: Path, world: PixelWorld, *, on_progress: Callable[[int], None]) -> PixelClips:
    """Render what a folder lacks, and list it."""
    root = folder / "store"
    spec = backbone_spec("pixels", size=world.size, rate_hz=float(world.fps))
    (learned, testing), stills = world.videos(), world.pictures()
    text = _vocabulary(folder, [caption_of(clip.traits) for clip in (*learned, *stills)], world)
    store = FeatureStore(root)
    for clips, is_picture in (([*learned, *testing], False), (stills, True)):
        for some in in_batches(clips, CLIPS_PER_SHARD):
            _write(store, some, world, spec, text, is_picture=is_picture)
            on_progress(len(some))
    store.refresh()

    def listed(clips: Sequence[ClipAnswer], *, is_picture: bool = False) -> tuple[ClipFeatures, ...]:
        return tuple(
            ClipFeatures(
                clip=clip.video,
                features={"video": (_frames_name(clip, spec, is_picture),)},
                captions=(_text_name(caption_of(clip.traits), text),),
                is_picture=is_picture,
            )
            for clip in clips
        )

    return PixelClips(
        store=root,
        spec=spec,
        num_pieces=world.vocabulary,
        training=listed(learned),
        pictures=listed(stills, is_picture=True),
        testing=listed(testing),
        pairs=tuple(_pairs(testing, text, world)),
        limits=one_frame_limits(testing[:: math.ceil(len(testing) / MOST_JUDGED)], world),
        identity=digest_of([_REVISION, repr(world)]),
    )


def _vocabulary(folder: Path, captions: Sequence[str], world: PixelWorld) -> Backbone:
    """Word pieces that are learned from the captions of training, in a file of their own for each world."""
    learned = learned_words("wordpiece", vocabulary=world.vocabulary)
    assert learned is not None
    path = folder / f"pieces-{digest_of([captions, learned.options])[:12]}.txt"
    if not path.exists():
        learned.train(captions, path, seed=0, **learned.options)
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
    """A shard of captions and one of frames, of what is not there yet."""
    texts = dict.fromkeys(caption_of(clip.traits) for clip in clips)
    said = [
        Sample(key=each, source_digest=each, fingerprint=_text_name(each, text), feature=text.encode(each))
        for each in texts
        if _text_name(each, text) not in store
    ]
    frames = [
        Sample(
            key=clip.video,
            source_digest=clip.video,
            fingerprint=_frames_name(clip, spec, is_picture),
            feature=_frames(clip, world, is_picture=is_picture),
        )
        for clip in clips
        if _frames_name(clip, spec, is_picture) not in store
    ]
    for samples, of in ((said, text.spec), (frames, spec)):
        if samples:
            store.write_shard(of.name, samples, spec=of, format="webdataset")
    store.refresh()


def _frames(clip: ClipAnswer, world: PixelWorld, *, is_picture: bool) -> FeatureArray:
    num_frames = 1 if is_picture else world.num_frames
    drawn = render_frames(
        clip.traits, size=world.size, num_frames=num_frames, fps=world.fps, rng=own_draws(clip, world)
    )
    values = np.stack([frame.reshape(-1) for frame in drawn])
    times = np.arange(num_frames)[:, None] / world.fps + [[0.0, 1 / world.fps]]
    return FeatureArray(values, times, Status.OK, "", (0.0, num_frames / world.fps))


def own_draws(clip: ClipAnswer, world: PixelWorld, *more: int) -> np.random.Generator:
    """Random numbers of a clip's own: of its frames, or of something more."""
    return np.random.default_rng([world.seed, *more, int(Path(clip.video).stem, 16)])


def _frames_name(clip: ClipAnswer, spec: FeatureSpec, is_picture: bool) -> str:
    return feature_fingerprint(f"{clip.video} {is_picture}", spec, "laboratory")


def _text_name(text: str, backbone: Backbone) -> str:
    return feature_fingerprint(text, backbone.spec, backbone.weights_digest)


def _pairs(clips: Sequence[ClipAnswer], text: Backbone, world: PixelWorld) -> Iterator[Pair]:
    """For each test clip its caption, and a false one."""
    for place, clip in enumerate(clips):
        both = (clip.traits, false_traits(clip.traits, own_draws(clip, world, _PAIRING)))
        true, other = (text.encode(caption_of(traits)).values.astype(np.int32) for traits in both)
        yield Pair(place, thing_of(clip.traits), (true, other))


def thing_of(traits: Mapping[str, str]) -> str:
    """The one thing that a clip of these values shows."""
    return next((about for about in TIME if traits[about] != ATTRIBUTES[about].resting), *STILL)


def caption_of(traits: Mapping[str, str]) -> str:
    """What is said of a clip of these values."""
    about = thing_of(traits)
    words = ATTRIBUTES[about].words[traits[about]][0]
    return f"shapes on a {words} ground" if about in STILL else f"shapes {words}"


def false_traits(traits: Mapping[str, str], rng: np.random.Generator) -> dict[str, str]:
    """The values but for the one thing, which has another; of an order, the same events the other way round."""
    about = thing_of(traits)
    if about == "order":
        return {**traits, about: "-".join(reversed(traits[about].split("-")))}
    others = [one for one in ATTRIBUTES[about].values if one != traits[about]]
    return {**traits, about: others[int(rng.integers(len(others)))]}


def one_frame_limits(clips: Sequence[ClipAnswer], world: PixelWorld) -> dict[str, tuple[float, float]]:
    """What the best judge reaches who sees one frame of a clip, by what the captions of a pair differ in, in percent:
    of a frame drawn as the control's are in training, and of the middle frame, whose instant is known.

    A frame says nothing where a clip of the false caption shows the same, to one level of a pixel, and is drawn with
    the same probability: objects that move begin anywhere and wander by any phase, so a clip that begins elsewhere, or
    whose objects have moved some frames more, is as probable. Of frames that say nothing half of the choices are right.
    """
    found: dict[str, list[tuple[float, float]]] = {about: [] for about in (*TIME, *STILL)}
    for clip in clips:
        rng = own_draws(clip, world, _PAIRING, 1)
        start = rng.uniform(0, 1, 2)
        false = false_traits(clip.traits, rng)
        found[thing_of(clip.traits)].append(_one_frame_limit(clip, false, world, start))
    return {
        about: (fmean(drawn for drawn, _ in several), fmean(middle for _, middle in several))
        for about, several in found.items()
    }


def _one_frame_limit(
    clip: ClipAnswer, false: Mapping[str, str], world: PixelWorld, start: NDArray[np.float64]
) -> tuple[float, float]:
    """That of one pair."""
    true = _shown(clip, world, clip.traits, start)

    def is_shown(one: int, at: int) -> bool:
        """Whether a false clip may show at `at` what the true one shows at `one`."""
        seconds = (one + 0.5) / world.fps
        way, false_way = (displacement(traits["direction"], seconds) for traits in (clip.traits, false))
        other = _shown(clip, world, false, start + way - false_way, frames_before=one - at)[at]
        return bool(np.abs(true[one].astype(int) - other).max() <= 1)

    drawn = range(max(world.num_frames - 1, 1))  # the rule does not draw a segment's last frame
    left = list(drawn)
    for one in drawn:
        nearest_first = sorted(left, key=lambda at, one=one: abs(at - one))  # type: ignore[misc]
        same = next((at for at in nearest_first if is_shown(one, at)), None)
        if same is not None:
            left.remove(same)
    middle = (world.num_frames - 1) // 2
    return 50 + 50 * len(left) / len(drawn), 50.0 if is_shown(middle, middle) else 100.0


def _shown(
    clip: ClipAnswer,
    world: PixelWorld,
    traits: Mapping[str, str],
    start: NDArray[np.float64],
    *,
    frames_before: int = 0,
) -> list[NDArray[np.uint8]]:
    """The frames of a clip that begins as is said."""
    how: dict[str, Any] = {"size": world.size, "num_frames": world.num_frames, "fps": world.fps}
    rng = own_draws(clip, world)
    return list(render_frames(traits, rng=rng, start=start.tolist(), frames_before=frames_before, **how))
