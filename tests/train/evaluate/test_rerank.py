"""Two stages: which candidates are scored, how often anything is encoded, frames by themselves, metrics both ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from frameloom import ConfigError, InputError
from frameloom.fuse import Tokens, create_model
from frameloom.train.evaluate.rerank import NOT_SCORED, candidates, pair_scorer, reordered, reranked, two_way_metrics


@pytest.fixture
def states():
    torch.manual_seed(0)
    model = create_model("test_vindlu").eval()
    ids = torch.randint(1, 100, (4, 5))
    pixels = torch.randn(3, 2, 3, 32, 32)
    mask = torch.tensor([[1, 1], [1, 0], [1, 1]])
    with torch.no_grad():
        text = model.states("text", Tokens(ids, torch.ones(4, 5)))
        video = model.states("video", Tokens(pixels, mask))
    return model, text, video


def test_candidates_are_the_most_similar_and_equal_ones_keep_their_order() -> None:
    similarity = np.array([[0.1, 0.9, 0.9, 0.3]])
    assert candidates(similarity, num_candidates=3).tolist() == [[1, 2, 3]]
    assert candidates(similarity, num_candidates=9).tolist() == [[1, 2, 3, 0]]
    with pytest.raises(InputError, match="num_candidates is 0"):
        candidates(similarity, num_candidates=0)


def test_only_candidates_are_scored_and_come_before_all_others() -> None:
    asked = []

    def score(queries, items):
        asked.append((queries.tolist(), items.tolist()))
        return -np.asarray(items, float)

    scores = reranked(np.array([[0.1, 0.9, 0.5], [0.7, 0.1, 0.9]]), score, num_candidates=2)
    assert asked == [([0, 0], [1, 2]), ([1, 1], [2, 0])]
    assert scores.tolist() == [[NOT_SCORED, -1.0, -2.0], [0.0, NOT_SCORED, -2.0]]


@pytest.mark.parametrize("batch_pairs", [1, 2, 64])
def test_pairs_are_scored_as_the_model_scores_them(states, batch_pairs) -> None:
    model, text, video = states
    texts, videos = np.array([3, 0, 1, 1, 2]), np.array([0, 2, 1, 1, 0])
    with torch.no_grad():
        every = model.score(text=Tokens(*(e[texts] for e in text)), video=Tokens(*(e[videos] for e in video))).numpy()
    by_text = pair_scorer(model, text=text, video=video, batch_pairs=batch_pairs)
    by_video = pair_scorer(model, text=text, video=video, queries="video", batch_pairs=batch_pairs)
    np.testing.assert_allclose(by_text(texts, videos), every, atol=1e-5)
    np.testing.assert_allclose(by_video(videos, texts), every, atol=1e-5)
    assert by_text(texts[:0], videos[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("ensemble", "combine"),
    [("mean", np.mean), ("max", np.max), ("lse", lambda each: np.log(np.exp(each).sum()))],
)
def test_frames_may_be_scored_by_themselves(states, ensemble, combine) -> None:
    model, text, video = states
    scorer = pair_scorer(model, text=text, video=video, ensemble=ensemble)
    numbers = np.arange(3)
    found = scorer(numbers, numbers)
    for row, num_frames in enumerate([2, 1, 2]):
        with torch.no_grad():
            frames = [
                model.score(
                    text=Tokens(*(each[row : row + 1] for each in text)),
                    video=Tokens(video.values[row : row + 1, t : t + 1], torch.ones(1, 1)),
                ).item()
                for t in range(num_frames)
            ]
        assert found[row] == pytest.approx(combine(frames), abs=1e-5)


@pytest.mark.parametrize(
    ("group_frames", "groups"), [(2, [[0, 3], [1, 4], [2]]), (3, [[0, 2, 4], [1, 3]]), (9, [[0, 1, 2, 3, 4]])]
)
def test_frames_of_a_group_are_scored_together_and_lie_apart(group_frames, groups) -> None:
    torch.manual_seed(0)
    model = create_model("test_vindlu").eval()
    with torch.no_grad():
        text = model.states("text", Tokens(torch.randint(1, 100, (1, 5)), torch.ones(1, 5)))
        video = model.states("video", Tokens(torch.randn(1, 5, 3, 32, 32), torch.ones(1, 5)))
        expected = np.mean(
            [model.score(text=text, video=Tokens(*(e[:, frames] for e in video))).item() for frames in groups]
        )
    scorer = pair_scorer(model, text=text, video=video, ensemble="mean", group_frames=group_frames)
    assert scorer(np.zeros(1, int), np.zeros(1, int))[0] == pytest.approx(expected, abs=1e-5)


def test_what_was_not_scored_comes_behind_in_its_order() -> None:
    assert reordered(np.array([np.nan, 0.1, np.nan, 0.3, 0.1])).tolist() == [3, 1, 4, 0, 2]
    assert reordered(np.full(3, np.nan)).tolist() == [0, 1, 2]


def test_what_cannot_re_rank_says_so(states) -> None:
    _, text, video = states
    with pytest.raises(ConfigError, match="no joint head"):
        pair_scorer(create_model("test_miles"), text=text, video=video)
    with pytest.raises(ConfigError, match="group_frames is 0"):
        pair_scorer(states[0], text=text, video=video, ensemble="mean", group_frames=0)
    with pytest.raises(ConfigError, match="ensemble is 'median'"):
        pair_scorer(states[0], text=text, video=video, ensemble="median")


def test_a_video_takes_the_best_of_its_texts() -> None:
    text_to_video = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    of_texts, of_videos = two_way_metrics(text_to_video, text_to_video.T, targets=np.array([0, 1, 1]))
    assert of_texts.r1 == pytest.approx(200 / 3)
    assert of_videos.r1 == 100.0
