"""The laboratory: what its clips show and sound like can be told, and nothing but that gives an answer away."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from frameloom._vocabulary import ConfigError, Modality, Status
from frameloom.extract import Backbone, Decoder, create_backbone, extract_file, file_status, tokenize
from frameloom.workflows.laboratory import world as laboratory
from frameloom.workflows.laboratory.attributes import ATTRIBUTES, STATIC_ATTRIBUTES
from frameloom.workflows.laboratory.draw import matches
from frameloom.workflows.laboratory.pictures import render_frames
from frameloom.workflows.laboratory.world import ClipAnswer, Collection, World, make_collection, plan_clips
from helpers.stores import tree
from hypothesis import given, settings
from hypothesis import strategies as st

SEEN = tuple(name for name in STATIC_ATTRIBUTES if ATTRIBUTES[name].sense == "seen")
HEARD = tuple(name for name in STATIC_ATTRIBUTES if ATTRIBUTES[name].sense == "heard")
TINY = World(num_train=6, num_val=2, num_test=3, seconds=0.5, size=32)
# Where frames can be told apart by a network, and beats by ear, in as few files as a probe can learn from.
PROBED = World(num_train=280, num_val=0, num_test=80, seconds=2.0, fps=4)
PROBE_FLOOR = 0.8


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return make_collection(tmp_path_factory.mktemp("tiny"), TINY)


def fitting(clips: Sequence[ClipAnswer], clip: ClipAnswer, names: Sequence[str]) -> int:
    """How many clips have this clip's values of the named attributes."""
    return sum(all(other.traits[name] == clip.traits[name] for name in names) for other in clips)


# --- files -----------------------------------------------------------------------------------------------------------


def test_clips_are_h264_and_aac_files_of_one_length(tiny: Collection) -> None:
    shapes = set()
    for clip in tiny.clips:
        with av.open(str(tiny.folder / clip.video)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            num_frames = sum(1 for _ in container.decode(video))
            shapes.add((num_frames, video.average_rate, video.width, video.height, container.duration, audio.duration))
    assert len(shapes) == 1
    assert next(iter(shapes))[:4] == (4, 8, 32, 32)


def test_the_same_world_gives_the_same_bytes_however_many_work(tiny: Collection, tmp_path: Path) -> None:
    again = make_collection(tmp_path, TINY, num_workers=1)
    assert tree(again.folder / "videos") == tree(tiny.folder / "videos")
    assert (again.folder / "captions.jsonl").read_bytes() == (tiny.folder / "captions.jsonl").read_bytes()


def test_another_seed_gives_other_names_and_other_clips(tiny: Collection) -> None:
    other = plan_clips(World(num_train=6, num_val=2, num_test=3, seconds=0.5, size=32, seed=1))
    assert not {clip.video for clip in other} & {clip.video for clip in tiny.clips}
    assert Counter(str(clip.traits) for clip in other) != Counter(str(clip.traits) for clip in tiny.clips)


def test_a_second_run_renders_only_what_is_missing(tiny: Collection, tmp_path: Path) -> None:
    first = make_collection(tmp_path, TINY)
    before = tree(first.folder / "videos")
    lost = [first.folder / clip.video for clip in first.clips[::4]]
    kept = {path: path.stat().st_mtime_ns for path in (first.folder / "videos").iterdir() if path not in lost}
    for path in lost:
        path.unlink()
        path.with_name(f".{path.name}.tmp").write_bytes(b"half a clip")
    assert make_collection(tmp_path, TINY).num_rendered == len(lost)
    assert tree(first.folder / "videos") == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert make_collection(tmp_path, TINY).num_rendered == 0


def test_an_interrupted_run_leaves_only_whole_clips(
    tiny: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_path: Path, *_: Any, **__: Any) -> None:
        _path.write_bytes(b"half a clip")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(laboratory, "encode_clip", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_collection(tmp_path, TINY, num_workers=1)
    assert not list((tmp_path / "videos").glob("*.mp4"))
    assert tree(make_collection(tmp_path, TINY).folder / "videos") == tree(tiny.folder / "videos")


def test_progress_counts_every_clip_once(tmp_path: Path) -> None:
    counts: list[int] = []
    make_collection(tmp_path, TINY, on_progress=counts.append)
    assert sum(counts) == TINY.num_clips
    again: list[int] = []
    make_collection(tmp_path, TINY, on_progress=again.append)
    assert sum(again) == TINY.num_clips


# --- nothing leaks ---------------------------------------------------------------------------------------------------


def test_files_carry_no_clock_and_no_text(tiny: Collection) -> None:
    standard = {"major_brand", "minor_version", "compatible_brands", "language", "handler_name", "vendor_id"}
    values = set()
    for clip in tiny.clips:
        with av.open(str(tiny.folder / clip.video)) as container:
            tags = [container.metadata, *(stream.metadata for stream in container.streams)]
        assert {key for each in tags for key in each} <= standard
        values.add(json.dumps([dict(each) for each in tags]))
    assert len(values) == 1


def test_the_manifest_says_nothing_but_captions_and_split(tiny: Collection) -> None:
    rows = [json.loads(line) for line in (tiny.folder / "captions.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{"video", "captions", "split"}] * TINY.num_clips
    assert [row["video"] for row in rows] == sorted(row["video"] for row in rows)
    assert {path.name for path in tiny.folder.iterdir()} == {"videos", "captions.jsonl"}
    assert [row["captions"] for row in rows] == [[caption.text for caption in clip.captions] for clip in tiny.clips]


def test_answers_are_written_only_when_asked_for(tmp_path: Path) -> None:
    collection = make_collection(tmp_path, TINY, write_answers=True)
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert [answer["traits"] for answer in answers] == [dict(clip.traits) for clip in collection.clips]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_neither_name_nor_order_tells_split_or_content(seed: int) -> None:
    clips = plan_clips(World(seed=seed))
    places = np.arange(len(clips)) / len(clips)
    first_digits = np.array([int(Path(clip.video).stem[-1], 16) for clip in clips]) / 16
    for told in ([clip.split for clip in clips], *([clip.traits[name] for clip in clips] for name in (*SEEN, *HEARD))):
        for value in set(told):
            chosen = np.array([each == value for each in told])
            # Four standard errors of the mean of a uniform draw.
            allowed = 4 * 0.289 / np.sqrt(chosen.sum())
            assert abs(places[chosen].mean() - 0.5) < allowed
            assert abs(first_digits[chosen].mean() - 0.469) < allowed


# --- questions and answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
class TestDefaultWorld:
    def test_held_out_captions_fit_exactly_one_clip(self, seed: int) -> None:
        clips = plan_clips(World(seed=seed))
        for split in ("val", "test"):
            gallery = [clip for clip in clips if clip.split == split]
            fits = {fitting(gallery, clip, caption.named) for clip in gallery for caption in clip.captions}
            assert fits == {1}

    def test_neither_eye_nor_ear_alone_can_answer(self, seed: int) -> None:
        gallery = [clip for clip in plan_clips(World(seed=seed)) if clip.split == "test"]
        for sense in (SEEN, HEARD):
            # What a searcher who knows everything about one sense, and must guess the other, gets right.
            right = [
                1 / fitting(gallery, clip, [name for name in clip.captions[0].named if name in sense])
                for clip in gallery
            ]
            assert np.mean(right) < 0.45

    def test_held_out_combinations_never_occur_elsewhere(self, seed: int) -> None:
        clips = plan_clips(World(seed=seed))
        seen = {split: {tuple(clip.traits.values()) for clip in clips if clip.split == split} for split in _SPLITS}
        assert not any(seen[one] & seen[other] for one, other in (("train", "val"), ("train", "test"), ("val", "test")))

    def test_what_is_seen_and_what_is_heard_are_drawn_independently(self, seed: int) -> None:
        clips = [clip for clip in plan_clips(World(seed=seed)) if clip.split == "train"]
        for eye, ear in product(SEEN, HEARD):
            together = Counter((clip.traits[eye], clip.traits[ear]) for clip in clips)
            expected = 1 / (len(ATTRIBUTES[eye].values) * len(ATTRIBUTES[ear].values))
            shares = [together[pair] / len(clips) for pair in product(ATTRIBUTES[eye].values, ATTRIBUTES[ear].values)]
            assert max(abs(share - expected) for share in shares) < 5 * np.sqrt(expected / len(clips))

    def test_every_value_occurs_equally_often_in_training(self, seed: int) -> None:
        clips = [clip for clip in plan_clips(World(seed=seed)) if clip.split == "train"]
        for name in (*SEEN, *HEARD):
            counts = Counter(clip.traits[name] for clip in clips)
            assert set(counts) == set(ATTRIBUTES[name].values)
            assert max(counts.values()) - min(counts.values()) <= 1


_SPLITS = ("train", "val", "test")


def test_captions_name_what_they_say_they_name_and_nothing_else() -> None:
    meaning = {
        word: (name, value)
        for name in STATIC_ATTRIBUTES
        for value, phrases in ATTRIBUTES[name].words.items()
        for phrase in phrases
        for word in tokenize(phrase)
        if word not in ("a", "of")
    }
    for clip in plan_clips(World(num_train=60, num_val=20, num_test=40)):
        for caption in clip.captions:
            told = {meaning[word] for word in tokenize(caption.text) if word in meaning}
            assert told == {(name, clip.traits[name]) for name in caption.named}
            assert any(name in SEEN for name in caption.named)
            assert any(name in HEARD for name in caption.named)


def test_no_word_stands_for_two_values() -> None:
    words = [
        word
        for name in STATIC_ATTRIBUTES
        for phrases in ATTRIBUTES[name].words.values()
        for word in {word for phrase in phrases for word in tokenize(phrase)} - {"a", "of"}
    ]
    assert not [word for word, count in Counter(words).items() if count > 1]


def test_wording_varies() -> None:
    clips = plan_clips(World(num_train=100, num_val=0, num_test=0))
    assert all(len({caption.text for caption in clip.captions}) == len(clip.captions) for clip in clips)
    openings = Counter(" ".join(caption.text.split()[:2]) for clip in clips for caption in clip.captions)
    assert len(openings) > 30
    reds = {word for clip in clips for caption in clip.captions for word in tokenize(caption.text)}
    assert set(ATTRIBUTES["colour"].words["red"]) <= reds


@settings(max_examples=25, deadline=None)
@given(
    num_train=st.integers(0, 40),
    num_test=st.integers(0, 40),
    seed=st.integers(0, 2**32),
    named=st.tuples(st.integers(3, 6), st.integers(2, 4)),
)
def test_any_world_that_can_be_drawn_keeps_its_promises(
    num_train: int, num_test: int, seed: int, named: tuple[int, int]
) -> None:
    world = World(
        num_train=num_train, num_val=5, num_test=num_test, seed=seed, named_seen=named[0], named_heard=named[1]
    )
    clips = plan_clips(world)
    assert Counter(clip.split for clip in clips) == Counter({"train": num_train, "val": 5, "test": num_test})
    gallery = [clip for clip in clips if clip.split == "test"]
    assert all(fitting(gallery, clip, caption.named) == 1 for clip in gallery for caption in clip.captions)


def test_matches_counts_equal_rows() -> None:
    codes = np.array([[0, 1, 2], [0, 1, 3], [1, 1, 2], [0, 1, 2]])
    assert matches(codes, (0, 1)).tolist() == [3, 3, 1, 3]
    assert matches(codes, (0, 1, 2)).tolist() == [2, 1, 1, 2]


# --- what can be told from the content -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Collection, dict[Modality, np.ndarray]]:
    """A reduced world, and for each clip one row of what a frozen random network sees and of what its sound is."""
    collection = make_collection(tmp_path_factory.mktemp("probed"), PROBED)
    backbones: list[Backbone] = [
        create_backbone("resnet18", short_side=PROBED.size, rate_hz=0.5),
        create_backbone("logmel_avlnet"),
    ]
    rows: dict[Modality, list[np.ndarray]] = {Modality.VIDEO: [], Modality.AUDIO: []}
    with Decoder() as decoder:
        for clip in collection.clips:
            features = extract_file(collection.folder / clip.video, backbones, decoder=decoder)
            rows[Modality.VIDEO].append(features["resnet18"].values.astype(np.float64).mean(axis=0))
            rows[Modality.AUDIO].append(sound_statistics(features["logmel_avlnet"].values.astype(np.float64)))
    return collection, {modality: np.stack(values) for modality, values in rows.items()}


def sound_statistics(mel: np.ndarray) -> np.ndarray:
    """How loud each band is, how much that varies, and how fast: (6 x bands,) from (T, bands)."""
    changes = [np.abs(mel[lag:] - mel[:-lag]).mean(axis=0) for lag in (1, 4, 12, 24)]
    return np.concatenate([mel.mean(axis=0), mel.std(axis=0), *changes])


def linear_probe(rows: np.ndarray, labels: np.ndarray, training: np.ndarray) -> float:
    """Share of the other rows that a ridge regression on the training rows puts into the right class."""
    spread = rows[training].std(axis=0)
    scaled = (rows - rows[training].mean(axis=0)) / np.maximum(spread, 1e-3 * spread.mean())
    classes = np.eye(labels.max() + 1)[labels]
    share = classes[training].mean(axis=0)
    gram = scaled[training].T @ scaled[training] + 100 * np.eye(rows.shape[1])
    weights = np.linalg.solve(gram, scaled[training].T @ (classes[training] - share))
    guessed = (scaled[~training] @ weights + share).argmax(axis=1)
    return float((guessed == labels[~training]).mean())


def labels_of(clips: Sequence[ClipAnswer], name: str) -> np.ndarray:
    return np.array([ATTRIBUTES[name].values.index(clip.traits[name]) for clip in clips])


@pytest.mark.parametrize("name", STATIC_ATTRIBUTES)
def test_a_linear_probe_tells_each_attribute(probed: tuple[Collection, dict[Modality, np.ndarray]], name: str) -> None:
    collection, rows = probed
    training = np.array([clip.split == "train" for clip in collection.clips])
    own, other = (Modality.VIDEO, Modality.AUDIO) if name in SEEN else (Modality.AUDIO, Modality.VIDEO)
    labels = labels_of(collection.clips, name)
    assert linear_probe(rows[own], labels, training) > PROBE_FLOOR
    # By the other sense it is a guess: four standard errors above chance at most.
    chance = 1 / len(ATTRIBUTES[name].values)
    assert linear_probe(rows[other], labels, training) < chance + 4 * np.sqrt(chance * (1 - chance) / (~training).sum())


# --- damage ----------------------------------------------------------------------------------------------------------


def test_corruption_gives_files_of_the_right_status(tmp_path: Path) -> None:
    world = World(
        num_train=12,
        num_val=0,
        num_test=4,
        seconds=2.0,
        size=64,
        corruption={"no_audio": 0.25, "truncated": 0.25, "damaged": 0.25},
    )
    collection = make_collection(tmp_path, world)
    assert Counter(clip.corruption for clip in collection.clips) == {"": 4, "no_audio": 4, "truncated": 4, "damaged": 4}
    backbones = [create_backbone("test_resnet"), create_backbone("logmel_avlnet")]
    expected = {"": Status.OK, "no_audio": Status.OK, "truncated": Status.TRUNCATED, "damaged": Status.DAMAGED}
    with Decoder() as decoder:
        for clip in collection.clips:
            features = extract_file(collection.folder / clip.video, backbones, decoder=decoder)
            assert file_status(features)[0] is expected[clip.corruption], clip
            assert (features["logmel_avlnet"].status is Status.NO_AUDIO) == (clip.corruption == "no_audio")


@pytest.mark.parametrize("num_clips", [1, 3, 10])
def test_corruption_never_asks_for_more_clips_than_there_are(num_clips: int) -> None:
    world = World(
        num_train=num_clips,
        num_val=0,
        num_test=0,
        corruption={"no_audio": 0.35, "truncated": 0.35, "damaged": 0.3},
    )
    assert all(clip.corruption for clip in plan_clips(world))


# --- time and selection ----------------------------------------------------------------------------------------------


def picture_of(**traits: str) -> np.ndarray:
    """The frames (N, size, size, 3) of a clip that rests in everything else."""
    resting = {name: attribute.resting for name, attribute in ATTRIBUTES.items()}
    frames = render_frames(
        {**resting, "background": "night", **traits}, size=96, num_frames=24, fps=8, rng=np.random.default_rng(0)
    )
    return np.stack(list(frames)).astype(int)


def covered(frames: np.ndarray) -> np.ndarray:
    """Where each frame shows an object, (N, size, size)."""
    return frames.max(axis=3) > 140


@pytest.mark.parametrize(
    ("direction", "axis", "step"), [("left", 2, -1), ("right", 2, 1), ("up", 1, -1), ("down", 1, 1)]
)
def test_objects_move_in_their_direction(direction: str, axis: int, step: int) -> None:
    seen = covered(picture_of(direction=direction))[:2]
    # The shift, over an eighth of a second, under which the two frames agree best.
    agreement = {shift: (np.roll(seen[0], shift, axis=axis - 1) & seen[1]).sum() for shift in range(-10, 11)}
    assert max(agreement, key=lambda shift: int(agreement[shift])) * step > 0


@pytest.mark.parametrize("direction", ["left", "right", "up", "down"])
def test_one_frame_shows_nothing_of_the_direction(direction: str) -> None:
    """Where the grid of objects is in a frame of a known instant: anywhere, whatever the direction."""
    traits = {name: attribute.resting for name, attribute in ATTRIBUTES.items()} | {"direction": direction}
    shifts = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        frame = next(render_frames(traits, size=48, num_frames=1, fps=8, rng=rng)).astype(float)
        # Of a sum of objects on a grid of three cells, the third harmonic has the phase of the grid.
        profile = np.fft.fft2(frame[..., 0])
        shifts.append([profile[0, 3] / abs(profile[0, 3]), profile[3, 0] / abs(profile[3, 0])])
    # The mean of 150 unit vectors of any direction is seldom longer than 3 / sqrt(150); on a fixed grid it is near 1.
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.3


@pytest.mark.parametrize(
    ("order", "first", "second"),
    [
        ("flash-shrink", "white", "small"),
        ("shrink-flash", "small", "white"),
        ("flash-hide", "white", "gone"),
        ("hide-flash", "gone", "white"),
    ],
)
def test_events_happen_in_their_order(order: str, first: str, second: str) -> None:
    frames = picture_of(order=order, colour="blue")
    area = covered(frames).sum(axis=(1, 2))
    red = frames[..., 0].max(axis=(1, 2))
    is_so: dict[str, Callable[[int], bool]] = {
        "white": lambda frame: red[frame] > 180,
        "small": lambda frame: 0 < area[frame] < 0.4 * area[0],
        "gone": lambda frame: area[frame] == 0,
    }
    assert is_so[first](8)
    assert is_so[second](15)
    assert not is_so[second](8)
    assert not is_so[first](15)


def test_shapes_differ_and_cover_about_as_much() -> None:
    seen = {shape: covered(picture_of(shape=shape))[0] for shape in ATTRIBUTES["shape"].values}
    areas = [each.sum() for each in seen.values()]
    assert max(areas) < 1.5 * min(areas)
    for one, other in product(seen, seen):
        assert one == other or (seen[one] ^ seen[other]).sum() > 0.15 * max(areas)


def test_time_is_a_switch() -> None:
    still, moving = (plan_clips(World(num_train=60, num_val=0, num_test=20, temporal=on)) for on in (False, True))
    for name in ("shape", "direction", "order"):
        assert {clip.traits[name] for clip in still} == {ATTRIBUTES[name].resting}
        assert {clip.traits[name] for clip in moving} == set(ATTRIBUTES[name].values)
    named = {name for clip in moving for caption in clip.captions for name in caption.named}
    assert named == set(ATTRIBUTES)


def test_only_selected_attributes_vary_and_are_named() -> None:
    clips = plan_clips(World(num_train=20, num_val=0, num_test=0, attributes=("colour", "pitch")))
    assert {name for clip in clips for caption in clip.captions for name in caption.named} == {"colour", "pitch"}
    assert {clip.traits["texture"] for clip in clips} == {"plain"}


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_train": -1}, "num_train is -1; it must be 0 or more"),
        ({"size": 97}, "an even number from 32 to 4096"),
        ({"fps": 0}, "fps is 0"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"seconds": 0.01}, "with a frame"),
        ({"num_captions": 0}, "num_captions is 0"),
        ({"named_seen": 0, "named_heard": 0}, "named_seen"),
        ({"attributes": ("color",)}, "did you mean colour"),
        ({"corruption": {"truncate": 0.1}}, "did you mean truncated"),
        ({"corruption": {"truncated": 0.7, "damaged": 0.7}}, "sum to at most 1"),
    ],
)
def test_a_world_that_cannot_be_says_what_is_allowed(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("(", r"\(")):
        World(**options)


def test_too_many_clips_for_unambiguous_questions_is_told() -> None:
    with pytest.raises(ConfigError, match="raise named_seen or named_heard"):
        plan_clips(World(num_train=0, num_val=0, num_test=150, named_seen=1, named_heard=1))
    with pytest.raises(ConfigError, match="take fewer clips or more attributes"):
        plan_clips(World(attributes=("colour", "pitch")))


def test_videos_of_another_world_are_not_mixed_in(tiny: Collection, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"not of this data set \(such as holiday\.mp4\)"):
        make_collection(tmp_path, TINY)
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["holiday.mp4"]


def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "videos").write_text("no folder")
    with pytest.raises(ConfigError, match="is not a folder"):
        make_collection(tmp_path, TINY)
