"""The S3D family: what holds for it beyond the promises of every backbone. Golden cases compare the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameloom._vocabulary import ConfigError, InputError, Status
from frameloom.extract import DecodedFrames, backbone_spec, create_backbone
from frameloom.extract.backbones.s3d import _KINETICS_BRANCHES, _KINETICS_STAGES
from frameloom.extract.networks.s3d import SamePool, SelfGating, SentenceTower, space_to_depth
from torch.nn import functional

VIDEO = ["test_s3d", "test_s3d_kinetics"]
WORDS = ["open", "door", "cut", "don't", "the", "Door"]


def some_frames(count: int, *, rate_hz: float, size: int = 32, seed: int = 0) -> DecodedFrames:
    starts = np.arange(count) / rate_hz
    pictures = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return DecodedFrames(pictures, np.stack([starts, starts + 1 / rate_hz], axis=1))


class TestProtocol:
    def test_the_defaults_are_one_row_a_second_of_two_seconds(self) -> None:
        spec = backbone_spec("s3d_howto100m")
        assert (spec.dim, spec.rate_hz) == (1024, 1.0)
        assert (spec.sampling["frame_rate_hz"], spec.sampling["num_frames"]) == (16.0, 32)
        assert (spec.preprocessing["short_side"], spec.preprocessing["crop"]) == (224, 224)

    def test_the_output_decides_the_width(self) -> None:
        assert backbone_spec("s3d_howto100m", output="joint").dim == 512
        assert backbone_spec("s3d_howto100m", output="joint", joint_dim=64).dim == 64
        assert backbone_spec("s3d_howto100m", joint_dim=64) == backbone_spec("s3d_howto100m")
        assert backbone_spec("s3d_kinetics").dim == 1024

    @pytest.mark.parametrize(("name", "low", "high"), [("test_s3d", 0.0, 1.0), ("test_s3d_kinetics", -1.0, 1.0)])
    def test_pixels_reach_the_range_that_the_network_was_trained_with(self, name: str, low: float, high: float) -> None:
        frames = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None, None].expand(2, 4, 32, 32, 3)
        inputs = create_backbone(name).prepare(frames)
        assert inputs.shape == (2, 3, 4, 32, 32)
        assert inputs.is_contiguous(memory_format=torch.channels_last_3d)
        assert inputs.flatten(1).mean(1).tolist() == pytest.approx([low, high], abs=1e-6)

    @pytest.mark.parametrize("name", VIDEO)
    def test_each_window_counts_for_itself(self, name: str) -> None:
        backbone = create_backbone(name, dtype="float32")
        plan = backbone.windows
        frames = some_frames(2 * plan.num_frames, rate_hz=plan.frame_rate_hz)
        together = backbone.encode(frames)
        assert together.values.shape == (2, backbone.spec.dim)
        half = slice(plan.num_frames, None)
        alone = backbone.encode(DecodedFrames(frames.frames[half], frames.times[half]))
        np.testing.assert_allclose(together.values[1:], alone.values, rtol=1e-4, atol=1e-5)
        seconds = plan.num_frames / plan.frame_rate_hz
        assert together.times.tolist() == [[0, seconds], [seconds, 2 * seconds]]

    @pytest.mark.parametrize(
        ("name", "options", "words"),
        [
            ("s3d_howto100m", {"size": 225}, "size .* must be even"),
            ("s3d_howto100m", {"num_frames": 15}, "num_frames .* must be even"),
            ("s3d_howto100m", {"output": "fc"}, "mixed_5c, joint"),
            ("s3d_howto100m", {"stem": "separable"}, "space_to_depth, whole"),
            ("s3d_howto100m", {"size": 16}, "from 32 to 512"),
            ("s3d_kinetics", {"num_frames": 12}, "from 13 to 512"),
            ("s3d_kinetics", {"end": "wrap"}, "drop, zeros, repeat"),
            ("s3d_howto100m_text", {"lower_case": "yes"}, "true or false"),
            ("s3d_howto100m_text", {"max_words": 0}, "from 1 to"),
            ("s3d_howto100m_text", {"vocabulary": "nowhere.npy"}, "nowhere.npy does not exist"),
        ],
    )
    def test_what_cannot_be_is_refused(self, name: str, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            backbone_spec(name, **options)

    @pytest.mark.parametrize("num_frames", [13, 16, 17, 24])
    def test_every_allowed_number_of_frames_gives_finite_rows(self, num_frames: int) -> None:
        for name in VIDEO:
            even = num_frames + num_frames % 2 if name == "test_s3d" else num_frames
            backbone = create_backbone(name, num_frames=even)
            frames = some_frames(even, rate_hz=backbone.windows.frame_rate_hz)
            assert backbone.encode(frames).status is Status.OK


class TestNetwork:
    @pytest.mark.parametrize("size", range(1, 9))
    @pytest.mark.parametrize("kernel", [2, 3])
    def test_pools_as_tensorflow_pads(self, kernel: int, size: int) -> None:
        maps = torch.rand(2, 5, size, size, size + 1)
        total = kernel - 2
        padded = functional.pad(maps, (total // 2, total - total // 2) * 3)
        expected = functional.max_pool3d(padded, kernel, 2, ceil_mode=True)
        assert torch.equal(SamePool((kernel,) * 3, (2,) * 3)(maps), expected)

    def test_space_to_depth_orders_time_then_rows_then_columns_then_colours(self) -> None:
        video = torch.arange(3 * 4 * 6 * 8.0).view(1, 3, 4, 6, 8)
        depth = space_to_depth(video)
        assert depth.shape == (1, 24, 2, 3, 4)
        for t, h, w, colour in np.ndindex(2, 2, 2, 3):
            channel = ((t * 2 + h) * 2 + w) * 3 + colour
            assert torch.equal(depth[0, channel], video[0, colour, t::2, h::2, w::2])

    def test_space_to_depth_refuses_odd_sizes(self) -> None:
        with pytest.raises(InputError, match="even"):
            create_backbone("test_s3d").encode(some_frames(4, rate_hz=4, size=33))

    def test_the_opening_is_the_official_one_without_its_first_planes(self) -> None:
        network = create_backbone("test_s3d").network
        video = torch.rand(2, 3, 4, 32, 32)
        expected = network.conv1(space_to_depth(video))[:, :, 1:, 1:, 1:]
        torch.testing.assert_close(network.first_maps(video), expected, rtol=1e-5, atol=1e-5)

    def test_folded_normalisation_is_the_module_s_own(self) -> None:
        network = create_backbone("test_s3d").network
        conv = network.mixed_3b.conv_b1_b
        generator = torch.Generator().manual_seed(2)
        for norm in (conv.bn1, conv.bn2):
            norm.running_mean.copy_(torch.rand(norm.num_features, generator=generator))
            norm.running_var.copy_(0.5 + torch.rand(norm.num_features, generator=generator))
        maps = torch.rand(2, conv.conv1.in_channels, 3, 5, 7, generator=generator)
        expected = conv.bn2(conv.conv2(conv.bn1(conv.conv1(maps)).relu())).relu()
        torch.testing.assert_close(conv(maps), expected, rtol=1e-5, atol=1e-5)

    def test_a_gate_writes_where_it_is_told(self) -> None:
        gate, maps, place = SelfGating(3).requires_grad_(False), torch.rand(2, 3, 2, 4, 4), torch.zeros(2, 5, 2, 4, 4)
        expected = maps * torch.sigmoid(gate.fc(maps.mean((2, 3, 4))))[:, :, None, None, None]
        gate(maps, out=place[:, 1:4])
        torch.testing.assert_close(place[:, 1:4], expected)
        assert not place[:, [0, 4]].any()

    @pytest.mark.parametrize("name", ["s3d_howto100m", "s3d_kinetics"])
    def test_random_weights_tell_pictures_apart_and_stay_in_range(self, name: str) -> None:
        backbone = create_backbone(name, num_frames=16, size=32)
        frames = torch.zeros(2, 16, 32, 32, 3, dtype=torch.uint8)
        frames[0, ..., 0], frames[1, ..., 2] = 255, 255
        features = backbone.forward(frames)
        assert 0.01 < features.std() < 100
        assert functional.cosine_similarity(features[0], features[1], dim=0) < 0.999

    def test_lower_precision_is_near(self) -> None:
        frames = some_frames(4, rate_hz=4)
        exact, rough = (create_backbone("test_s3d", precision=p).encode(frames) for p in ("float32", "bfloat16"))
        np.testing.assert_allclose(rough.values, exact.values, rtol=0.1, atol=0.05)
        assert not np.array_equal(rough.values, exact.values)


class TestOfficialWeights:
    def test_kinetics_weights_go_by_their_official_names(self) -> None:
        trained, frames = create_backbone("test_s3d_kinetics", seed=4), some_frames(16, rate_hz=8)
        official = {f"module.{key}": value for key, value in _in_kinetics_names(trained.network.state_dict()).items()}
        assert "module.base.12.branch2.1.conv_t.weight" in official
        loaded = create_backbone("test_s3d_kinetics").from_official(official)
        assert np.array_equal(loaded.encode(frames).values, trained.encode(frames).values)
        official["module.base.4.conv.weight"] = torch.ones(1)
        with pytest.raises(InputError, match=r"base\.4\.conv\.weight is not expected"):
            loaded.from_official(official)

    def test_a_classifier_of_other_classes_is_taken(self) -> None:
        backbone = create_backbone("test_s3d_kinetics")
        weights = {**backbone.network.state_dict(), "fc.weight": torch.ones(7, 128), "fc.bias": torch.zeros(7)}
        assert backbone.from_official(weights).classify(torch.ones(2, 128)).tolist() == [[128.0] * 7] * 2

    def test_a_classifier_of_another_rank_is_named(self) -> None:
        for name in VIDEO:
            backbone = create_backbone(name)
            for wrong in (torch.ones(()), torch.ones(7)):
                with pytest.raises(InputError, match=r"fc.weight is \("):
                    backbone.from_official({**backbone.network.state_dict(), "fc.weight": wrong})

    def test_video_and_text_share_a_file_of_weights(self, tmp_path: Path) -> None:
        video = create_backbone("test_s3d", seed=1, output="joint")
        text = create_backbone("test_s3d_text", seed=1, vocabulary=write_words(tmp_path / "words.txt"))
        weights = {f"module.{key}": value for key, value in video.network.state_dict().items()}
        weights |= {f"module.text_module.{key}": value for key, value in text.network.state_dict().items()}
        path = tmp_path / "both.pth"
        torch.save(weights, path)
        frames = some_frames(4, rate_hz=4)
        loaded = create_backbone("test_s3d", weights=path, output="joint")
        assert np.array_equal(loaded.encode(frames).values, video.encode(frames).values)
        loaded = create_backbone("test_s3d_text", weights=path, vocabulary=tmp_path / "words.txt")
        assert np.array_equal(loaded.encode("open the door").values, text.encode("open the door").values)

    def test_a_joint_embedding_of_another_width_is_refused_with_advice(self) -> None:
        weights = create_backbone("test_s3d", output="joint", joint_dim=9).network.state_dict()
        with pytest.raises(InputError, match="joint_dim: 9"):
            create_backbone("test_s3d", output="joint").from_official(weights)
        assert create_backbone("test_s3d").from_official(weights).network.fc.out_features == 9

    def test_a_text_embedding_of_another_width_is_refused_with_advice(self, tmp_path: Path) -> None:
        weights = create_backbone("test_s3d_text", dim=9).network.state_dict()
        with pytest.raises(InputError, match="dim: 9"):
            create_backbone("test_s3d_text").from_official(weights)

    def test_a_larger_table_of_words_is_taken_with_its_vocabulary(self, tmp_path: Path) -> None:
        large = SentenceTower(num_rows=701, word_dim=12, hidden_dim=32, dim=64)
        torch.save(large.state_dict(), tmp_path / "large.pt")
        words = write_words(tmp_path / "many.txt", [f"w{i}" for i in range(700)])
        loaded = create_backbone("test_s3d_text", weights=tmp_path / "large.pt", vocabulary=words, max_words=1)
        assert loaded.token_ids(["w699"]).tolist() == [[700]]
        assert loaded.encode("w699").status is Status.OK

    def test_a_table_without_room_for_the_vocabulary_changes_nothing(self, tmp_path: Path) -> None:
        text = create_backbone("test_s3d_text", vocabulary=write_words(tmp_path / "w.txt"))
        small = SentenceTower(num_rows=3, word_dim=12, hidden_dim=32, dim=64).state_dict()
        expected = text.encode("open the door").values
        with pytest.raises(InputError, match="room for 2"):
            text.from_official(small)
        assert text.weights_digest == "seeded:0"
        assert np.array_equal(text.encode("open the door").values, expected)

    def test_weights_of_something_else_are_refused(self) -> None:
        weights = create_backbone("test_resnet").network.state_dict()
        for name in (*VIDEO, "test_s3d_text"):
            with pytest.raises(InputError, match="missing"):
                create_backbone(name).from_official(weights)


def _in_kinetics_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names turned into kylemin's, by the tables the other way round."""
    official = {}
    for key, value in weights.items():
        stage, *rest = key.split(".")
        if stage == "fc":
            official[f"fc.0.{rest[0]}"] = value.reshape(*value.shape, 1, 1, 1) if value.ndim == 2 else value
            continue
        branch = {ours: f"{theirs}." for theirs, ours in _KINETICS_BRANCHES.items()}.get(rest[0], "")
        layer, leaf = rest[-2:]
        is_whole = stage == "conv_2b" or branch.endswith((".0.", "branch3.1."))
        suffix = "" if is_whole else {"1": "_s", "2": "_t"}[layer[-1]]
        index = next(index for index, name in _KINETICS_STAGES.items() if name == stage)
        official[f"base.{index}.{branch}{layer[:-1]}{suffix}.{leaf}"] = value
    return official


def write_words(path: Path, words: list[str] = WORDS) -> Path:
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


class TestText:
    def test_words_are_numbered_as_officially(self, tmp_path: Path) -> None:
        backbone = create_backbone("test_s3d_text", vocabulary=write_words(tmp_path / "w.txt"), max_words=4)
        texts = ["Open the DOOR", "cut, don't cut it!", "nothing known", "the " * 9, "unknown words first: cut cut"]
        expected = [[1, 5, 2, 0], [3, 4, 3, 0], [0, 0, 0, 0], [5, 5, 5, 5], [3, 3, 0, 0]]
        assert backbone.token_ids(texts).tolist() == expected

    def test_case_is_kept_where_it_is_asked_for(self, tmp_path: Path) -> None:
        path = write_words(tmp_path / "w.txt")
        backbone = create_backbone("test_s3d_text", vocabulary=path, lower_case=False, max_words=3)
        assert backbone.token_ids(["Open the Door"]).tolist() == [[5, 6, 0]]

    def test_of_a_word_that_occurs_twice_the_last_number_counts(self, tmp_path: Path) -> None:
        path = write_words(tmp_path / "w.txt", ["cut", "door", "cut"])
        assert create_backbone("test_s3d_text", vocabulary=path, max_words=1).token_ids(["cut"]).tolist() == [[3]]

    def test_places_that_are_not_filled_take_part_in_the_maximum(self) -> None:
        backbone = create_backbone("test_s3d_text")
        network = backbone.network
        ids = torch.tensor([[7, 0, 0]])
        hidden = torch.stack([network.fc1(network.word_embd.weight[row]).relu() for row in (7, 0)]).amax(0)
        torch.testing.assert_close(backbone.forward(ids)[0], network.fc2(hidden))

    def test_gives_one_row_and_a_status_where_no_word_is_known(self, tmp_path: Path) -> None:
        backbone = create_backbone("test_s3d_text", vocabulary=write_words(tmp_path / "w.txt"))
        assert backbone.encode("open the door. cut the door.").values.shape == (1, 64)
        unknown = backbone.encode("nobody knows")
        assert (unknown.status, unknown.values.shape) == (Status.NO_TEXT, (0, 64))
        assert "nobody" in unknown.message
        assert backbone.encode("?!").status is Status.NO_TEXT

    def test_the_words_count_and_not_the_file(self, tmp_path: Path) -> None:
        np.save(tmp_path / "words.npy", np.array(WORDS))
        paths = [tmp_path / "words.npy", write_words(tmp_path / "w.txt"), str(write_words(tmp_path / "again.txt"))]
        specs = [backbone_spec("test_s3d_text", vocabulary=path) for path in paths]
        assert specs[0] == specs[1] == specs[2]
        assert specs[0].identity() == specs[1].identity()
        assert "vocabulary_path" not in specs[0].identity()
        other = backbone_spec("test_s3d_text", vocabulary=write_words(tmp_path / "o.txt", WORDS[::-1]))
        assert other.identity() != specs[0].identity()

    def test_a_published_array_of_strings_is_read(self, tmp_path: Path) -> None:
        np.save(tmp_path / "dict.npy", np.array(["été", "don't", "日本"]))
        backbone = create_backbone("test_s3d_text", vocabulary=tmp_path / "dict.npy", max_words=3)
        assert backbone.token_ids(["日本 Été"]).tolist() == [[3, 1, 0]]

    def test_without_a_vocabulary_every_word_has_a_place(self) -> None:
        backbone = create_backbone("test_s3d_text")
        ids = backbone.token_ids(["a dog and a cat"])[0]
        assert ids[0] == ids[3] != ids[1]
        assert ((ids[:5] > 0) & (ids[:5] < 500)).all()

    def test_a_vocabulary_that_is_no_path_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="must be a path, not 5"):
            backbone_spec("test_s3d_text", vocabulary=5)

    def test_weights_need_their_vocabulary_and_its_room(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pt"
        torch.save(create_backbone("test_s3d_text").network.state_dict(), path)
        with pytest.raises(ConfigError, match="option vocabulary"):
            create_backbone("test_s3d_text", weights=path)
        words = write_words(tmp_path / "many.txt", [f"w{i}" for i in range(500)])
        with pytest.raises(InputError, match="room for 499"):
            create_backbone("test_s3d_text", weights=path, vocabulary=words)

    def test_an_array_of_objects_is_refused_and_runs_nothing(self, tmp_path: Path) -> None:
        canary, path = tmp_path / "canary", tmp_path / "dict.npy"
        np.save(path, np.array([Payload(str(canary))], dtype=object), allow_pickle=True)
        with pytest.raises(InputError, match=r"can run code .*astype\(str\)"):
            backbone_spec("test_s3d_text", vocabulary=path)
        assert not canary.exists()

    @pytest.mark.parametrize("content", ["cut", "numbers", "square", "surrogate", "empty", "nothing", "bytes.txt"])
    def test_damaged_vocabularies_are_refused_in_one_line(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / ("v.txt" if content == "bytes.txt" else "v.npy")
        arrays = {"numbers": np.arange(3), "square": np.array([["a"]]), "surrogate": np.array(["a\ud800"])}
        np.save(tmp_path / "v.npy", arrays.get(content, np.array(WORDS)))
        if content == "cut":
            path.write_bytes(path.read_bytes()[:-9])
        elif content in ("empty", "nothing"):
            np.save(path, np.array([], dtype="U5")) if content == "empty" else path.write_bytes(b"")
        elif content == "bytes.txt":
            path.write_bytes(b"\xff\xfe")
        with pytest.raises(InputError, match=r"v\.(npy|txt)") as caught:
            backbone_spec("test_s3d_text", vocabulary=path)
        assert "\n" not in str(caught.value)


class Payload:
    """What would make a file if it were unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))
