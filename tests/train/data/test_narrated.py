"""Pre-training on narrated videos: which rows, frames and words a clip has, what draws follow from, training."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameloom import InputError
from frameloom._vocabulary import FeatureArray, FeatureSpec, LockedError, Modality, Status
from frameloom.fuse import create_model
from frameloom.store import FeatureStore, Sample, exclusive_lock
from frameloom.store.health import compact_features
from frameloom.train import fit, get_recipe
from frameloom.train.data import NarratedDataset, NarratedVideo
from frameloom.train.data.tokens import join_streams, rows_of_span
from torch.utils.data import DataLoader

SECONDS = [40, 25, 31, 6]
SPEC = {"flat": (Modality.VIDEO, 16, 1.0), "moving": (Modality.VIDEO, 8, 1.5), "mel": (Modality.AUDIO, 40, 100.0)}
SENTENCES = ("cut the onion", "stir", "now wait a little", "eat it")
STARTS, ENDS = (2.0, 6.5, 12.0, 15.5), (5.0, 9.0, 15.5, 19.0)


def spec_of(name: str) -> FeatureSpec:
    modality, dim, rate = SPEC.get(name, (Modality.TEXT, 12, None))
    return FeatureSpec(name=name, modality=modality, dim=dim, rate_hz=rate, sampling={}, preprocessing={})


def feature_of(name: str, number: int) -> FeatureArray:
    """Rows on the published grid: row k lasts from k / rate to (k + 1) / rate. Each video shows a number of its own."""
    _, dim, rate = SPEC[name]
    num_rows = int(SECONDS[number] * rate)
    edges = np.arange(num_rows + 1) / rate
    rng = np.random.default_rng((number, dim))
    values = np.random.default_rng(number).standard_normal(dim) + 0.3 * rng.standard_normal((num_rows, dim))
    return FeatureArray(values.astype(np.float32), np.stack([edges[:-1], edges[1:]], axis=1), Status.OK)


def words_of(sentence: str) -> np.ndarray:
    rng = np.random.default_rng(len(sentence))
    return rng.standard_normal((len(sentence.split()), 12)).astype(np.float32)


def text_of(sentence: str) -> FeatureArray:
    words = words_of(sentence)
    return FeatureArray(words, np.full((len(words), 2), np.nan), Status.OK)


def no_rows(dim: int) -> FeatureArray:
    return FeatureArray(np.zeros((0, dim), np.float32), np.zeros((0, 2)), Status.NO_AUDIO)


def fingerprint_of(sentence: str) -> str:
    return f"text-{sentence}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = FeatureStore(tmp_path_factory.mktemp("features"))
    for name in SPEC:
        features = {f"{name}-{number}": feature_of(name, number) for number in range(len(SECONDS))}
        features[f"{name}-none"] = no_rows(SPEC[name][1])
        write(store, name, features)
    texts = {fingerprint_of(one): text_of(one) for one in SENTENCES}
    write(store, "words", texts)
    return store.root


def write(store: FeatureStore, name: str, features: dict[str, FeatureArray]) -> None:
    samples = [Sample(key=key, source_digest="0", fingerprint=key, feature=each) for key, each in features.items()]
    store.write_shard(name, samples, spec=replace(spec_of(name), dtype="float32"))


def video_of(number: int, **changed: Any) -> NarratedVideo:
    said = {"starts": STARTS, "ends": ENDS, "sentences": SENTENCES} if number != 3 else dict.fromkeys(
        ("starts", "ends", "sentences"), ()
    )  # fmt: skip
    features = {"video": (f"flat-{number}", f"moving-{number}"), "audio": (f"mel-{number}",)}
    known = {"features": features | changed.pop("features", {}), **said, **changed}
    captions = tuple(fingerprint_of(one) for one in known["sentences"])
    return NarratedVideo(key=f"v{number}", **{"captions": captions, **known})


@pytest.fixture(scope="module")
def make(root: Path) -> Callable[..., NarratedDataset]:
    videos = [video_of(number) for number in range(len(SECONDS))]

    def make_dataset(given: list[NarratedVideo] = videos, **options: Any) -> NarratedDataset:
        return NarratedDataset(root, given, **options)

    return make_dataset


def same(one: list[dict], other: list[dict]) -> bool:
    pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a]
    return all((a is None and b is None) or np.array_equal(a, b) for a, b in pairs)


class TestClips:
    def test_rows_frames_and_words_are_those_of_the_published_slices(self, make) -> None:
        dataset = make(clips_per_video=40)
        seen = 0
        for index in range(len(dataset)):
            values = {name: feature_of(name, index).values for name in SPEC}
            for clip, found in zip(dataset.clips(index), dataset[index], strict=True):
                span = (clip.start_seconds, clip.end_seconds)
                streams = [values[name][rows_of_span(*span, rate_hz=SPEC[name][2])] for name in ("flat", "moving")]
                np.testing.assert_array_equal(found["video"], join_streams(streams, max_tokens=12))
                later = 4.0 if clip.sentences else 0.0
                first = int((clip.start_seconds + later) * 16_000 - 200) // 160
                np.testing.assert_array_equal(found["audio"], values["mel"][max(0, first) :][: len(found["audio"])])
                assert len(found["audio"]) == min(768, max(0, len(values["mel"]) - max(0, first)))
                if clip.sentences:
                    said = np.concatenate([words_of(SENTENCES[number]) for number in clip.sentences])
                    np.testing.assert_array_equal(found["text"], said)
                    seen += 1
                else:
                    assert found["text"] is None
        assert 20 < seen < 160

    def test_words_come_in_the_order_in_which_a_clip_grew(self, make) -> None:
        grown = [clip.sentences for clip in make(clips_per_video=60).clips(0)]
        assert any(list(sentences) != sorted(sentences) for sentences in grown)
        assert {()} < set(grown)

    def test_limits_are_kept(self, make) -> None:
        dataset = make(max_video_tokens=3, max_audio_frames=50, max_words=2)
        for clip in dataset[0]:
            assert len(clip["video"]) <= 3
            assert len(clip["audio"]) <= 50
            assert clip["text"] is None or len(clip["text"]) <= 2

    def test_the_shift_moves_the_sound_of_clips_with_words_only(self, make) -> None:
        none, later, random = (make(audio_shift=how, clips_per_video=30) for how in ("none", "later", "random"))
        assert none.clips(0) == later.clips(0) == random.clips(0)
        frames = [[frames.start for _, frames in each._drawn(0)] for each in (none, later, random)]
        moved = {(bool(clip.sentences), b - a) for clip, a, b in zip(none.clips(0), *frames[:2], strict=True)}
        assert moved == {(True, 400), (False, 0)}
        assert {b - a for a, b in zip(frames[0], frames[2], strict=True)} > {400, 0}
        assert min(frames[2]) < min(frames[1])

    def test_a_video_shorter_than_a_clip_gives_all_of_it(self, make) -> None:
        assert {(clip.start_seconds, clip.end_seconds) for clip in make().clips(3)} == {(0.0, 8.0)}
        assert {len(clip["video"]) for clip in make()[3]} == {9}


@pytest.mark.parametrize("is_planned", [False, True])
def test_shards_that_were_merged_meanwhile_are_found_again(root, make, tmp_path, is_planned: bool) -> None:
    store = FeatureStore(shutil.copytree(root, tmp_path / "features"))
    for number in range(2):
        write(store, "flat", {f"more-{number}": feature_of("flat", number)})
    assert len(store) > 0
    videos = [video_of(number) for number in range(len(SECONDS))]
    dataset = NarratedDataset(store, videos) if is_planned else None
    if dataset is not None:
        dataset = pickle.loads(pickle.dumps(dataset))
        with pytest.raises(LockedError, match="is reading"), exclusive_lock(store.root):
            pass
    compact_features(FeatureStore(store.root))  # as another machine may, which locks do not reach
    late = dataset or NarratedDataset(store, videos)
    assert all(same(late[number], make()[number]) for number in range(len(videos)))


class TestEpochs:
    def test_clips_follow_from_seed_and_epoch(self, make) -> None:
        one, two, other = make(seed=1), make(seed=1), make(seed=2)
        first = one[0]
        one.set_epoch(1)
        assert not same(one[0], first)
        two[2], two.set_epoch(1)
        assert same(two[0], one[0])
        one.set_epoch(0)
        assert same(one[0], first)
        assert not same(other[0], first)

    def test_workers_give_the_same_clips(self, make) -> None:
        dataset = make()
        loader = DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=list)
        for batch, indices in zip(loader, ((0, 1), (2, 3)), strict=True):
            assert all(same(found, dataset[index]) for found, index in zip(batch, indices, strict=True))

    def test_it_can_be_pickled(self, make) -> None:
        dataset = make(words=zeros)
        copy = pickle.loads(pickle.dumps(dataset))
        assert same(copy[1], dataset[1])

    def test_indices_end(self, make) -> None:
        assert len(make()) == 4
        assert same(make()[-1], make()[3])
        with pytest.raises(IndexError):
            make()[4]


def zeros(sentences: Any) -> np.ndarray:
    return np.zeros((len(sentences), 12), np.float32)


class TestMissing:
    def test_a_video_that_lacks_a_feature_is_refused_left_out_or_empty(self, make) -> None:
        videos = [video_of(0), video_of(1, features={"audio": ()})]
        videos.append(video_of(2, features={"video": ("flat-none", "moving-2")}))
        with pytest.raises(InputError, match=r"1 of 3 videos lack video 1 \(no_audio 1\), the first is 'v2'"):
            make(videos)
        skipped = make(videos, missing="skip")
        assert (len(skipped), skipped.num_given, skipped.num_skipped) == (1, 3, 2)
        assert {name: dict(counts) for name, counts in skipped.missing_counts.items()} == {
            "video 1": {"no_audio": 1}, "video 2": {}, "audio": {"not_given": 1},
        }  # fmt: skip
        empty = make(videos, missing="empty")
        assert all(len(clip["audio"]) == 0 and len(clip["video"]) for clip in empty[1])
        assert all(len(clip["audio"]) and len(clip["video"]) == 0 for clip in empty[2])
        assert [empty.key(index) for index in range(3)] == ["v0", "v1", "v2"]
        assert max(clip.end_seconds for clip in empty.clips(1)) <= SECONDS[1]

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"ends": ENDS[:3]}, "4 starts, 3 ends and 4 sentences"),
            ({"starts": (9.0, 6.5, 12.0, 15.5)}, "ends before it starts"),
            ({"starts": (np.nan, 6.5, 12.0, 15.5)}, "at no instant"),
            ({"starts": (2.0, 1.0, 12.0, 15.5)}, "not in the order of their starts"),
            ({"captions": ("text-stir",)}, "4 sentences, and 1 captions"),
            ({"features": {"audio": ("mel-0", "mel-1")}}, "has more audio than is read"),
            ({"features": {"speech": ("s",), "text": ("t",), "ocr": ()}}, "has more speech, text than is read"),
        ],
    )
    def test_a_narration_that_cannot_be_is_refused(self, changed: dict, message: str) -> None:
        with pytest.raises(InputError, match=f"'v0'.*{message}"):
            video_of(0, **changed)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"audio_shift": "earlier"}, "allowed are none, later, random"),
            ({"missing": "drop"}, "allowed are error, skip, empty"),
            ({"clips_per_video": 0}, "above 0"),
            ({"given": [video_of(0, captions=())]}, "no stored word vectors"),
            ({"min_seconds": float("inf")}, "above 0"),
            ({"given": [video_of(0), video_of(1, features={"video": ("flat-1",)})]}, r"name \[1, 2\] video features"),
        ],
    )
    def test_options_that_cannot_be_are_refused(self, make, options: dict, message: str) -> None:
        with pytest.raises(InputError, match=message):
            make(**options)

    def test_a_sentence_that_is_not_stored_is_named(self, make) -> None:
        with pytest.raises(InputError, match="text-fry"):
            make([video_of(0, sentences=("fry",) * 4)], clips_per_video=30)[0]


class TestTraining:
    def test_a_batch_holds_all_clips_of_its_videos(self, make) -> None:
        dataset = make(clips_per_video=5)
        batch = dataset.collate([dataset[0], dataset[3]])
        assert set(batch) == {"text", "video", "audio"}
        assert {tuple(tokens.mask.shape[:1]) for tokens in batch.values()} == {(10,)}
        assert not batch["text"].mask[5:].any()

    def test_a_model_is_trained_on_it_and_goes_on_where_it_stopped(self, make, tmp_path: Path) -> None:
        recipe = get_recipe(
            "everything_at_once_tiny", epochs=2, batch_size=2, min_steps=0, checkpoint_steps=1, warmup_steps=0
        )

        def trained(folder: str, *, stop_after: int | None = None) -> Any:
            torch.manual_seed(0)
            model = create_model("test_everything_at_once")
            steps = []

            def tell(progress: Any) -> None:
                steps.append(progress)
                if len(steps) == stop_after:
                    raise KeyboardInterrupt

            dataset = make(clips_per_video=2, max_audio_frames=96)
            return fit(model, dataset, recipe=recipe, folder=tmp_path / folder, on_progress=tell), steps

        whole, steps = trained("whole")
        assert whole.steps == 4
        assert {"text|video", "text|audio", "video|audio"} <= set(steps[0].terms)
        with pytest.raises(KeyboardInterrupt):
            trained("parts", stop_after=3)
        resumed, _ = trained("parts")
        assert resumed.resumed_at > 0
        assert resumed.epoch_losses == pytest.approx(whole.epoch_losses, rel=1e-5)

    def test_recipes_of_narrated_videos_name_options_that_it_has(self, make) -> None:
        recipe = get_recipe("everything_at_once_howto100m_aligned")
        dataset = make(**recipe.narration.model_dump())
        assert (dataset.clips_per_video, dataset.audio_shift, len(dataset[0])) == (10, "none", 10)
