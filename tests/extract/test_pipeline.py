"""One call, one file, several backbones: every one gets its answer, the same as if it had been alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from frameloom._vocabulary import ConfigError, FeatureArray, InputError, Modality, Status
from frameloom.extract import Decoder, create_backbone, extract_file, extract_files, file_status, probe
from frameloom.extract.buffers import RowTable, lasting_array
from frameloom.extract.decode import MediaInfo, frame_at
from frameloom.extract.networks.word_vectors import WordVectors, read_word_vectors, write_word_vectors
from numpy.testing import assert_allclose


def test_one_pass_gives_each_backbone_what_it_would_get_alone(clip: Path, decoder: Decoder) -> None:
    makers = [
        ("test_resnet", {}),
        ("resnet18", {"short_side": 32, "rate_hz": 2.0}),
        ("logmel_avlnet", {}),
    ]
    backbones = [create_backbone(name, **options) for name, options in makers]
    together = extract_file(clip, backbones, decoder=decoder)
    assert list(together) == [name for name, _ in makers]
    for backbone in backbones:
        name = backbone.spec.name
        alone = extract_file(clip, [backbone], decoder=decoder)[name]
        assert (together[name].status, together[name].message) == (Status.OK, "")
        assert alone.values.tobytes() == together[name].values.tobytes()
        assert np.array_equal(alone.times, together[name].times)
    assert_allclose(together["test_resnet"].times[:, 0], [0.48, 1.48, 2.48, 3.48])
    assert len(together["resnet18"].values) == 8
    assert abs(len(together["logmel_avlnet"].values) - 401) <= 3


def test_features_are_the_same_from_a_fresh_decoder(clip: Path, decoder: Decoder) -> None:
    backbones = [create_backbone("test_resnet"), create_backbone("logmel_avlnet")]
    first, second = extract_file(clip, backbones, decoder=decoder), extract_file(clip, backbones)
    for name, feature in first.items():
        assert feature.values.tobytes() == second[name].values.tobytes()


def test_frames_beyond_one_chunk_are_encoded_in_order(clip: Path, decoder: Decoder) -> None:
    fast = create_backbone("test_resnet", rate_hz=25.0)
    slow = create_backbone("test_resnet", rate_hz=1.0)
    all_frames = extract_file(clip, [fast], decoder=decoder)["test_resnet"]
    few = extract_file(clip, [slow], decoder=decoder)["test_resnet"]
    assert len(all_frames.values) == 100
    assert_allclose(all_frames.times[[12, 37, 62, 87]], few.times)
    assert_allclose(all_frames.values[[12, 37, 62, 87]], few.values, rtol=2e-3, atol=1e-3)


def test_text_has_no_place_in_a_media_file(clip: Path, tmp_path: Path, decoder: Decoder) -> None:
    path = tmp_path / "vectors.bin"
    write_word_vectors(WordVectors(["a"], np.ones((1, 4), np.float32)), path)
    backbones = [create_backbone("word2vec", weights=path, dim=4), create_backbone("logmel_avlnet")]
    features = extract_file(clip, backbones, decoder=decoder)
    assert features["word2vec"].status is Status.NO_TEXT
    assert features["logmel_avlnet"].status is Status.OK
    assert extract_file(tmp_path / "none.mp4", backbones, decoder=decoder)["word2vec"].status is Status.NO_TEXT


def test_no_backbones_ask_for_nothing(clip: Path, decoder: Decoder) -> None:
    assert extract_file(clip, [], decoder=decoder) == {}


def test_the_same_backbone_twice_is_a_mistake(clip: Path) -> None:
    with pytest.raises(ConfigError, match="test_resnet"):
        extract_file(clip, [create_backbone("test_resnet"), create_backbone("test_resnet", seed=1)])


def test_a_failure_of_the_model_is_not_hidden_and_leaves_the_decoder_usable(clip: Path, decoder: Decoder) -> None:
    backbone = create_backbone("test_resnet")

    class Broken:
        spec, weights_digest, windows = backbone.spec, backbone.weights_digest, backbone.windows
        encode = batch_windows = backbone.batch_windows

        def encode_windows(self, windows: object) -> None:
            raise RuntimeError("out of GPU memory")

    with pytest.raises(RuntimeError, match="GPU"):
        extract_file(clip, [Broken()], decoder=decoder)
    assert extract_file(clip, [backbone], decoder=decoder)["test_resnet"].status is Status.OK


def of(status: Status, *, message: str = "why") -> FeatureArray:
    return FeatureArray(np.zeros((0, 1)), np.zeros((0, 2)), status, "" if status is Status.OK else message)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((Status.OK, Status.OK), Status.OK),
        ((Status.OK, Status.NO_AUDIO), Status.OK),
        ((Status.NO_VIDEO, Status.OK), Status.OK),
        ((Status.NO_AUDIO, Status.NO_VIDEO), Status.NO_VIDEO),
        ((Status.OK, Status.DAMAGED), Status.DAMAGED),
        ((Status.TRUNCATED, Status.DAMAGED), Status.TRUNCATED),
        ((Status.TRUNCATED, Status.NON_FINITE), Status.NON_FINITE),
        ((Status.DEADLINE, Status.DEADLINE), Status.DEADLINE),
        ((Status.NO_TEXT, Status.DAMAGED, Status.NO_AUDIO), Status.DAMAGED),
    ],
)
def test_a_file_is_as_bad_as_its_worst_feature(statuses: tuple[Status, ...], expected: Status) -> None:
    features = {str(index): of(status) for index, status in enumerate(statuses)}
    status, message = file_status(features)
    assert status is expected
    assert message == ("" if expected is Status.OK else "why")
    assert file_status(dict(reversed(features.items())))[0] is expected


def test_a_status_needs_a_feature() -> None:
    with pytest.raises(InputError):
        file_status({})


class TestProbe:
    def test_says_what_is_in_a_file(self, clip: Path, decoder: Decoder) -> None:
        info = probe(clip, decoder=decoder)
        assert (info.status, info.message) == (Status.OK, "")
        assert info.size_bytes == clip.stat().st_size
        assert info.duration_seconds == pytest.approx(4.0, abs=0.1)
        assert info.video is not None
        assert info.audio is not None
        assert (info.video.codec, info.video.width, info.video.height) == ("h264", 160, 96)
        assert info.video.frame_rate_hz == pytest.approx(25.0)
        assert (info.audio.codec, info.audio.sample_rate_hz, info.audio.num_channels) == ("aac", 44_100, 2)

    def test_survives_json(self, clip: Path, silent_clip: Path, tmp_path: Path, decoder: Decoder) -> None:
        for path in (clip, silent_clip, tmp_path / "missing.mp4"):
            info = probe(path, decoder=decoder)
            assert MediaInfo.from_dict(json.loads(json.dumps(info.as_dict()))) == info

    def test_needs_no_decoder_of_the_caller(self, silent_clip: Path) -> None:
        info = probe(silent_clip)
        assert (info.status, info.audio, info.audio_status) == (Status.OK, None, Status.NO_AUDIO)


def test_modalities_are_told_apart(sound_only: Path, decoder: Decoder) -> None:
    features = extract_file(sound_only, [create_backbone("test_resnet")], decoder=decoder)
    assert create_backbone("test_resnet").spec.modality is Modality.VIDEO
    assert file_status(features)[0] is Status.NO_VIDEO


@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_rows_come_back_in_their_places_whatever_the_order(shape: tuple[int, ...]) -> None:
    table = RowTable()
    wanted = np.random.default_rng(0).standard_normal((40_000 // shape[-1], *shape)).astype(np.float16)
    places = [table.reserve() for _ in wanted]
    assert places == list(range(len(table)))
    for place in np.random.default_rng(1).permutation(len(wanted)):
        table.put(int(place), wanted[place])
    np.testing.assert_array_equal(table.rows(), wanted)
    assert table.rows().dtype == np.float16


def test_a_process_that_is_forked_has_rows_of_its_own() -> None:
    rows = lasting_array((1 << 16,), np.float32)
    child = os.fork()
    if not child:
        rows[0] = 7
        os._exit(0)
    os.waitpid(child, 0)
    assert rows[0] == 0


def test_a_path_may_be_text(clip: Path, decoder: Decoder, tmp_path: Path) -> None:
    backbones = [create_backbone("test_resnet")]
    wanted = extract_file(clip, backbones, decoder=decoder)["test_resnet"].values.tobytes()
    assert extract_file(str(clip), backbones, decoder=decoder)["test_resnet"].values.tobytes() == wanted
    (found,) = extract_files([str(clip)], backbones, decoder=decoder)
    assert found["test_resnet"].values.tobytes() == wanted
    assert probe(str(clip), decoder=decoder) == probe(clip, decoder=decoder)
    assert frame_at(str(clip), 1.0, decoder=decoder).frames.shape[0] == 1
    write_word_vectors(WordVectors(["a"], np.ones((1, 4), np.float32)), str(tmp_path / "vectors.bin"))
    assert read_word_vectors(str(tmp_path / "vectors.bin")).words == ["a"]
