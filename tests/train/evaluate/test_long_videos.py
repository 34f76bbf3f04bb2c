"""Long test clips: what each strategy gives the model, how parts are averaged, and the table of retrieval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from frameloom import InputError
from frameloom.fuse import create_model
from frameloom.train.data import collate
from frameloom.train.data.tokens import join_streams, unit_rows
from frameloom.train.evaluate import (
    COMPLETE_TEST_SETS,
    LongVideos,
    embed_batch,
    embed_test_clips,
    retrieval_metrics,
    retrieval_table,
)
from hypothesis import given
from hypothesis import strategies as st

RNG = np.random.default_rng(0)


def plan(strategy: str, **options: Any) -> LongVideos:
    return LongVideos(
        **{"strategy": strategy, "num_clips": 3, "clip_video_tokens": 4, "clip_audio_frames": 64} | options
    )


def prepared(strategy: str, *, rows: int = 12, frames: int = 192) -> list[dict]:
    text, video, audio = RNG.standard_normal((30, 12)), RNG.standard_normal((rows, 24)), np.ones((frames, 40))
    return plan(strategy).prepare(text=text, video=video, audio=audio)


def lengths(clips: list[dict]) -> list[tuple[int, int, int]]:
    return [(len(clip["text"]), len(clip["video"]), len(clip["audio"])) for clip in clips]


@pytest.mark.parametrize(
    ("strategy", "rows", "frames", "found"),
    [
        ("at_once", 50, 999, [(20, 12, 192)]),
        ("max_pool", 50, 999, [(20, 4, 192)]),  # the model pools the sound
        ("nearest", 50, 999, [(20, 4, 192)]),
        ("nearest", 3, 60, [(20, 3, 60)]),
        ("clips", 50, 999, [(20, 4, 64)] * 3),
        ("clips", 9, 64 + 45, [(20, 4, 64), (20, 4, 45)]),  # 45 of 64 frames are more than 70 %
        ("clips", 9, 64 + 44, [(20, 4, 64)]),
        ("clips", 5, 192, [(20, 4, 64), (20, 1, 64), (20, 0, 64)]),
        ("clips", 3, 10, [(20, 3, 10)]),
    ],
)
def test_each_strategy_cuts_in_its_own_way(strategy: str, rows: int, frames: int, found: list) -> None:
    assert lengths(prepared(strategy, rows=rows, frames=frames)) == found


@given(rows=st.integers(0, 20), frames=st.integers(1, 250))
def test_parts_joined_are_the_clip_at_once_as_far_as_they_count(rows: int, frames: int) -> None:
    video, audio = RNG.standard_normal((rows, 3)), RNG.standard_normal((frames, 2))
    (whole,) = plan("at_once").prepare(text=None, video=video, audio=audio)
    parts = plan("clips").prepare(text=None, video=video, audio=audio)
    for name in ("video", "audio"):
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, whole[name][: len(joined)])
    assert len(parts) == 1 + sum(frames - 64 * part > 0.7 * 64 for part in (1, 2))


def test_rows_are_pooled_and_sampled_as_the_streams_are_joined() -> None:
    streams = [RNG.standard_normal((9, 2)), RNG.standard_normal((13, 3))]
    for how in ("nearest", "max_pool"):
        (clip,) = plan(how).prepare(text=None, video=streams, audio=None)
        np.testing.assert_array_equal(clip["video"], join_streams(streams, max_tokens=4, how=how))


def test_a_clip_without_sound_is_cut_by_its_rows() -> None:
    parts = plan("clips").prepare(text=None, video=np.ones((7, 2)), audio=None)
    assert [len(part["video"]) for part in parts] == [4, 3]
    (nothing,) = plan("clips").prepare(text=None, video=None, audio=None)
    assert nothing == {"text": None, "video": None, "audio": None}


def test_the_options_of_the_published_evaluations() -> None:
    for strategy, reduction, frames in (
        ("at_once", "none", 4608), ("clips", "none", 768), ("max_pool", "max_pool", 4608), ("nearest", "nearest", 4608),
    ):  # fmt: skip
        options = LongVideos(strategy=strategy, num_clips=6).model_options()
        assert options == {"audio_reduction": reduction, "max_audio_frames": 768, "pad_audio_to": frames}


@pytest.mark.parametrize(
    ("options", "message"), [({"strategy": "all"}, "allowed are at_once"), ({"num_clips": 0}, "at least 1")]
)
def test_a_plan_that_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(**{"strategy": "clips", **options})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("test_everything_at_once", audio_padding="published").eval()


@pytest.fixture
def samples(make_samples: Callable[..., list[dict]]) -> list[dict]:
    made = make_samples(9)
    for each in made:
        each["audio"] = np.tile(each["audio"], (9, 1))
    return made


class TestEmbedding:
    def test_at_once_gives_what_the_model_gives(self, model, samples: list[dict]) -> None:
        found = embed_test_clips(model, samples, plan=plan("at_once", num_clips=9), batch_size=4)
        batch = collate(
            [{"text": s["text"][0].astype(np.float32), "video": unit_rows(s["video"]), "audio": None} for s in samples]
        )
        for name, rows in embed_batch(model, batch, ["text", "video"]).items():
            np.testing.assert_allclose(found.vectors[name], rows, atol=1e-5)
        assert all(np.linalg.norm(rows, axis=1) == pytest.approx(1) for rows in found.vectors.values())
        assert all(flags.all() for flags in found.present.values())

    @pytest.mark.parametrize("strategy", ["at_once", "clips", "max_pool", "nearest"])
    def test_the_batch_does_not_matter(self, model, samples: list[dict], strategy: str) -> None:
        one, many = (
            embed_test_clips(model, samples, plan=plan(strategy), combinations=["video+audio"], batch_size=size)
            for size in (1, 9)
        )
        np.testing.assert_allclose(one.vectors["video+audio"], many.vectors["video+audio"], atol=1e-4)

    def test_strategies_differ_for_long_clips_and_not_for_short_ones(self, samples: list[dict]) -> None:
        model = create_model("test_everything_at_once", audio_padding="silenced").eval()
        short = [{**each, "audio": each["audio"][:64], "video": each["video"][:4]} for each in samples]
        for clips, differ in ((samples, True), (short, False)):
            found = [
                embed_test_clips(model, clips, plan=plan(strategy), combinations=["audio"]).vectors["audio"]
                for strategy in ("clips", "max_pool", "nearest")
            ]
            assert [np.allclose(found[0], other, atol=1e-4) for other in found[1:]] == [not differ] * 2

    def test_parts_are_averaged_before_they_are_normalised(self, model, samples: list[dict]) -> None:
        sample = {**samples[0], "video": RNG.standard_normal((12, 24)), "audio": np.ones((192, 40), np.float32)}
        parts = plan("clips").prepare(text=None, video=sample["video"], audio=sample["audio"])
        with torch.inference_mode():
            raw = model.embeddings(collate([{"video": part["video"]} for part in parts])).vectors["video"].numpy()
        found = embed_test_clips(model, [sample], plan=plan("clips"), combinations=["video"]).vectors["video"]
        np.testing.assert_allclose(found, unit_rows(raw.mean(axis=0, keepdims=True)), atol=1e-5)
        assert not np.allclose(found, unit_rows(unit_rows(raw).mean(axis=0, keepdims=True)), atol=1e-5)

    def test_late_and_joint_pairs_differ_and_late_is_the_mean_of_two(self, model, samples: list[dict]) -> None:
        names = ["video", "audio", "video+audio", "video,audio"]
        found = embed_test_clips(model, samples, plan=plan("at_once"), combinations=names).vectors
        np.testing.assert_allclose(found["video,audio"], unit_rows(found["video"] + found["audio"]), atol=1e-5)
        assert not np.allclose(found["video,audio"], found["video+audio"], atol=1e-3)

    def test_what_clips_lack_is_told(self, model, samples: list[dict]) -> None:
        samples[2]["audio"] = None
        samples[3]["text"] = []
        found = embed_test_clips(model, samples, plan=plan("clips"), batch_size=1)
        assert np.flatnonzero(~found.present["audio"]).tolist() == [2]
        assert np.flatnonzero(~found.present["text"]).tolist() == [3]
        assert not found.vectors["audio"][2].any()
        assert found.vectors["video"][2].any()

    def test_the_model_is_left_as_it_was(self, model, samples: list[dict]) -> None:
        before = model.config
        embed_test_clips(model, samples[:2], plan=plan("max_pool"))
        assert model.config is before

    def test_what_cannot_be_embedded_is_explained(self, model, samples: list[dict]) -> None:
        with pytest.raises(InputError, match="there is no clip"):
            embed_test_clips(model, [], plan=plan("clips"))
        with pytest.raises(InputError, match="the model takes text, video, audio"):
            embed_test_clips(model, samples, plan=plan("clips"), combinations=["video+smell"])


class TestTable:
    def vectors(self, num_clips: int = 12) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(2)
        shown = rng.standard_normal((num_clips, 6))
        names = ("text", "video", "video+audio")
        return {name: 3 * shown + 2 * rng.standard_normal((num_clips, 6)) for name in names}

    def test_every_direction_is_that_of_the_cosines(self) -> None:
        vectors = self.vectors()
        table = retrieval_table(vectors)
        assert set(table) == {(x, y) for x in vectors for y in vectors if x != y and "text" in (x, y)}
        similarity = unit_rows(vectors["text"]) @ unit_rows(vectors["video+audio"]).T
        assert table["text", "video+audio"] == retrieval_metrics(similarity)
        assert table["video+audio", "text"] == retrieval_metrics(similarity.T)

    def test_lengths_of_embeddings_do_not_matter(self) -> None:
        vectors = self.vectors()
        longer = {name: rows * np.arange(1, 13)[:, None] for name, rows in vectors.items()}
        assert retrieval_table(longer) == retrieval_table(vectors)

    def test_missing_clips_are_misses_and_stand_in_no_gallery(self) -> None:
        vectors, has_sound = self.vectors(), np.arange(12) % 3 > 0
        table = retrieval_table(vectors, present={"audio": has_sound}, num_queries=12)
        kept = {name: rows[has_sound] for name, rows in vectors.items()}
        only = retrieval_table(kept)
        for name in ("medr", "meanr"):
            assert getattr(table["text", "video+audio"], name) == getattr(only["text", "video+audio"], name)
        assert table["text", "video+audio"].r5 == pytest.approx(only["text", "video+audio"].r5 * 8 / 12)
        assert table["text", "video"] == retrieval_table(vectors)["text", "video"]

    def test_complete_test_sets_are_known_by_name(self) -> None:
        assert COMPLETE_TEST_SETS == {"msrvtt": 1000, "youcook2": 3350}
        perfect = retrieval_table({"text": np.eye(968), "video": np.eye(968)}, num_queries="msrvtt")
        assert (perfect["text", "video"].r1, perfect["text", "video"].medr) == (pytest.approx(96.8), 1.0)
        assert retrieval_metrics(np.eye(67), num_queries="youcook2").r1 == pytest.approx(2.0)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"directions": [("text", "audio")]}, "no embeddings of 'audio'; there are text"),
            ({"present": {"text": np.zeros(12, bool)}}, "nothing to retrieve"),
            ({"present": {"text": np.ones(11, bool)}}, "has 11 clips, and there are 12"),
            ({"num_queries": "msvd"}, "allowed are msrvtt, youcook2"),
            ({"num_queries": 11}, "fewer than the 12"),
        ],
    )
    def test_what_cannot_be_compared_is_explained(self, options: dict, message: str) -> None:
        with pytest.raises(InputError, match=message):
            retrieval_table(self.vectors(), **options)

    def test_embeddings_of_other_clips_are_refused(self) -> None:
        with pytest.raises(InputError, match="of the same clips"):
            retrieval_table({"text": np.eye(3), "video": np.eye(4)})
