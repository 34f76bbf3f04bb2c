"""Dual encoders: a clip is the mean of its frames, a picture the mean of its likeliest classes' names."""

from __future__ import annotations

import pytest
import torch
from frameloom import ConfigError, InputError
from frameloom.fuse import Tokens, create_model


def tokens(*samples: list[list[float]]) -> Tokens:
    """A batch of samples of rows, padded with ones."""
    num_rows = max(map(len, samples))
    values = torch.ones(len(samples), num_rows, len(samples[0][0]))
    mask = torch.zeros(len(samples), num_rows)
    for sample, rows in enumerate(samples):
        values[sample, : len(rows)] = torch.tensor(rows)
        mask[sample, : len(rows)] = 1
    return Tokens(values, mask)


class TestMeanOfFrames:
    def test_each_frame_counts_the_same_however_long_its_row(self) -> None:
        model = create_model("dual_encoder", text_dim=2, video_dim=2)
        vectors = model.encode(video=tokens([[100.0, 0.0], [0.0, 0.1]], [[3.0, 4.0]]))
        torch.testing.assert_close(vectors, torch.tensor([[0.5**0.5, 0.5**0.5], [0.6, 0.8]]))

    def test_a_mixed_question_ranks_by_the_sum_of_similarities(self) -> None:
        torch.manual_seed(0)
        model = create_model("dual_encoder", text_dim=8, video_dim=8)
        text, video, clips = (torch.nn.functional.normalize(torch.randn(n, 8), dim=-1) for n in (1, 1, 50))
        mixed = model.encode(text=tokens(text.tolist()), video=tokens(video.tolist()))[0]
        assert torch.equal((clips @ mixed).argsort(), (clips @ text[0] + clips @ video[0]).argsort())

    def test_towers_of_two_spaces_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="text rows are 512 wide and video rows 768"):
            create_model("dual_encoder", video_dim=768)

    def test_there_is_nothing_to_train(self) -> None:
        model = create_model("dual_encoder", text_dim=2, video_dim=2)
        with pytest.raises(ConfigError, match="dual_encoder has nothing to train"):
            model.loss({"video": tokens([[1.0, 0.0]])})


class TestImagenetLabels:
    @pytest.fixture
    def model(self):
        model = create_model("imagenet_labels", text_dim=3, video_dim=4, top=2)
        return model.set_labels(torch.tensor([[2.0, 0, 0], [0, 5, 0], [0, 0, 1], [1, 1, 1]]))

    def test_a_picture_is_the_weighted_mean_of_its_likeliest_classes(self, model) -> None:
        (vector,) = model.encode(video=tokens([[0.6, 0.3, 0.06, 0.04]]))
        expected = torch.tensor([0.6, 0.3, 0.0]) / 0.9
        torch.testing.assert_close(vector, expected / expected.norm())

    def test_scaled_probabilities_give_the_same(self, model) -> None:
        rows = [[0.6, 0.3, 0.06, 0.04], [0.0, 0.1, 0.2, 0.7]]
        scaled = [[7 * one for one in rows[0]], rows[1]]
        torch.testing.assert_close(model.encode(video=tokens(scaled)), model.encode(video=tokens(rows)))

    def test_a_text_is_its_sentence(self, model) -> None:
        torch.testing.assert_close(model.encode(text=tokens([[0.0, 3.0, 4.0]])), torch.tensor([[0.0, 0.6, 0.8]]))

    @pytest.mark.parametrize("vectors", [torch.ones(3, 3), torch.ones(4, 2), torch.full((4, 3), torch.nan)])
    def test_class_names_must_fit(self, model, vectors) -> None:
        before = model.label_vectors.clone()
        with pytest.raises(InputError, match="classes, text_dim"):
            model.set_labels(vectors)
        assert torch.equal(model.label_vectors, before)

    def test_more_classes_than_there_are_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="top 10 is more than the 4 classes"):
            create_model("imagenet_labels", text_dim=3, video_dim=4)
