"""Raw pixels: the bytes that the decoder gave, all of them, through extraction and the store."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from frameloom._vocabulary import ConfigError, FeatureArray, InputError, Status
from frameloom.extract import DecodedFrames, Decoder, backbone_spec, create_backbone, extract_file
from frameloom.extract.decode import FramesChunk, FramesWanted
from frameloom.extract.windows import VisualBackbone
from frameloom.store import FeatureStore, Sample, feature_fingerprint
from frameloom.store.health import verify_features
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

KINDS = ["pixels", "pixel_tokens"]
OPTIONS = {"pixels": {"size": 48, "rate_hz": 2.0}, "pixel_tokens": {"size": 48, "rate_hz": 2.0, "patch": 12}}


def decoded(path: Path, decoder: Decoder, *, rate_hz: float, size: int) -> tuple[NDArray, NDArray]:
    """The frames themselves, without a backbone."""
    wanted = FramesWanted(rate_hz, size, crop=size)
    chunks = [event.frames for event in decoder.decode(path, frames=[wanted]) if isinstance(event, FramesChunk)]
    return np.concatenate([chunk.frames for chunk in chunks]), np.concatenate([chunk.times for chunk in chunks])


def frames_again(feature: FeatureArray, name: str, *, size: int, patch: int = 12) -> NDArray:
    """Rows to pictures (T, S, S, 3), one byte after another as the specification's layout says it."""
    if name == "pixels":
        return feature.values.reshape(-1, size, size, 3)
    side = size // patch
    pictures = np.zeros((len(feature.values) // side**2, size, size, 3), feature.values.dtype)
    for number, row in enumerate(feature.values):
        frame, place = divmod(number, side**2)
        top, left = (place // side) * patch, (place % side) * patch
        pictures[frame, top : top + patch, left : left + patch] = row.reshape(patch, patch, 3)
    return pictures


@pytest.mark.parametrize("name", KINDS)
def test_gives_the_decoder_s_pixels_at_its_times(name: str, clip: Path, decoder: Decoder) -> None:
    backbone = create_backbone(name, **OPTIONS[name])
    assert isinstance(backbone, VisualBackbone)
    feature = extract_file(clip, [backbone], decoder=decoder)[name]
    pictures, times = decoded(clip, decoder, rate_hz=2.0, size=48)
    assert (feature.status, feature.message, feature.values.dtype) == (Status.OK, "", np.uint8)
    assert feature.extent == pytest.approx((0.0, 4.0), abs=0.05)
    assert len(pictures) == 8
    assert len({picture.tobytes() for picture in pictures}) == 8
    np.testing.assert_array_equal(frames_again(feature, name, size=48), pictures)
    np.testing.assert_array_equal(feature.times, np.repeat(times, backbone.spec.sampling["rows_per_window"], axis=0))


@pytest.mark.parametrize("name", KINDS)
def test_survives_the_store_bit_for_bit(name: str, clip: Path, tmp_path: Path, decoder: Decoder) -> None:
    backbone = create_backbone(name, **OPTIONS[name])
    feature = extract_file(clip, [backbone], decoder=decoder)[name]
    missing = extract_file(tmp_path / "none.mp4", [backbone], decoder=decoder)[name]
    samples = [
        Sample(key=key, source_digest=key, fingerprint=feature_fingerprint(key, backbone.spec, "none"), feature=made)
        for key, made in {"clip.mp4": feature, "none.mp4": missing}.items()
    ]
    store = FeatureStore(tmp_path / "store")
    info = store.write_shard(name, samples, spec=backbone.spec)
    reader = FeatureStore(tmp_path / "store")
    found = reader.read(samples[0].fingerprint)
    assert found.values.dtype == np.uint8
    assert found.values.tobytes() == feature.values.tobytes()
    np.testing.assert_array_equal(found.times, feature.times)
    nothing = reader.read(samples[1].fingerprint)
    assert (nothing.status, nothing.values.dtype, nothing.values.shape) == (
        Status.MISSING,
        np.uint8,
        missing.values.shape,
    )
    assert list(verify_features(reader)) == []
    with h5py.File(info.path, locking=False) as file:
        assert file["values"].dtype == np.uint8
    second = reader.read_span(samples[0].fingerprint, 0.5, 1.0)
    per_frame = backbone.spec.sampling["rows_per_window"]
    np.testing.assert_array_equal(second.values, feature.values[per_frame : 2 * per_frame])


def jpegs_of(feature: FeatureArray) -> list[bytes]:
    """The JPEG of each frame: rows of one time belong together."""
    first_rows = np.flatnonzero(np.r_[True, (np.diff(feature.times, axis=0) != 0).any(axis=1)])
    return [rows.tobytes() for rows in np.split(feature.values, first_rows[1:])]


def test_jpeg_frames_are_nearly_the_decoder_s(clip: Path, tmp_path: Path, decoder: Decoder) -> None:
    backbone = create_backbone("pixels", size=48, rate_hz=2.0, frames="jpeg", quality=95)
    feature = extract_file(clip, [backbone], decoder=decoder)["pixels"]
    pictures, times = decoded(clip, decoder, rate_hz=2.0, size=48)
    files = jpegs_of(feature)
    assert (feature.status, feature.values.shape[1], len(files)) == (Status.OK, 1024, len(pictures))
    np.testing.assert_array_equal(np.unique(feature.times, axis=0), times)
    for file, picture in zip(files, pictures, strict=True):
        found = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        assert np.abs(found.astype(int) - picture).mean() < 6
    again = extract_file(clip, [backbone], decoder=decoder)["pixels"]
    assert again.values.tobytes() == feature.values.tobytes()
    sample = Sample(key="clip.mp4", source_digest="clip", fingerprint="a" * 32, feature=feature)
    for format in ("hdf5", "webdataset"):
        FeatureStore(tmp_path / format).write_shard("pixels", [sample], spec=backbone.spec, format=format)
        found = FeatureStore(tmp_path / format).read("a" * 32)
        assert found.values.tobytes() == feature.values.tobytes()
        second = FeatureStore(tmp_path / format).read_span("a" * 32, 0.5, 1.0)
        assert jpegs_of(second) == files[1:2]


def test_a_pillow_without_libjpeg_turbo_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.version", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs libjpeg-turbo.*install pillow"):
        backbone_spec("pixels", frames="jpeg")


def test_the_encoder_and_the_quality_are_part_of_the_fingerprint() -> None:
    specs = [
        backbone_spec("pixels", **options) for options in ({}, {"frames": "jpeg"}, {"frames": "jpeg", "quality": 80})
    ]
    assert len({feature_fingerprint("a", spec, "none") for spec in specs}) == 3
    assert specs[1].preprocessing["quality"] == 90
    assert str(specs[1].preprocessing["encoder"]).startswith("libjpeg-turbo ")
    assert "encoder" not in specs[0].preprocessing
    assert feature_fingerprint("a", specs[0], "none") == feature_fingerprint(
        "a", backbone_spec("pixels", frames="raw"), "none"
    )


def test_values_of_another_type_are_not_stored_as_pixels(tmp_path: Path) -> None:
    spec = backbone_spec("test_pixels")
    feature = FeatureArray(np.zeros((1, spec.dim), np.float32), np.array([[0.0, 1.0]]))
    sample = Sample(key="a", source_digest="a", fingerprint="f", feature=feature)
    with pytest.raises(InputError, match="values are float32"):
        FeatureStore(tmp_path).write_shard("test_pixels", [sample], spec=spec)


@given(side=st.integers(1, 4), patch=st.sampled_from([16, 20, 32]), extra=st.integers(0, 9), is_wide=st.booleans())
def test_tokens_are_patches_in_raster_order(side: int, patch: int, extra: int, is_wide: bool) -> None:
    size = side * patch
    if size < 32:
        return
    height, width = (size, size + extra) if is_wide else (size + extra, size)
    frames = np.random.default_rng(extra).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    item = DecodedFrames(frames, np.array([[0.0, 0.5], [0.5, 1.0]]))
    tokens = create_backbone("pixel_tokens", size=size, patch=patch).encode(item)
    whole = create_backbone("pixels", size=size).encode(item)
    assert tokens.values.shape == (2 * side**2, patch * patch * 3)
    square = frames[:, (height - size) // 2 :, (width - size) // 2 :][:, :size, :size]
    np.testing.assert_array_equal(frames_again(whole, "pixels", size=size), square)
    np.testing.assert_array_equal(frames_again(tokens, "pixel_tokens", size=size, patch=patch), square)
    np.testing.assert_array_equal(tokens.times, np.repeat(item.times, side**2, axis=0))


def test_specifications_say_the_layout() -> None:
    pixels, tokens = backbone_spec("pixels"), backbone_spec("pixel_tokens", rate_hz=2)
    assert (pixels.dim, pixels.rate_hz, pixels.dtype) == (224 * 224 * 3, 1.0, "uint8")
    assert (tokens.dim, tokens.rate_hz, tokens.sampling["rows_per_window"]) == (768, 2 * 196.0, 196)
    assert tokens.preprocessing["layout"] == "patches in raster order; in each rows, columns, channels"
    assert pixels.preprocessing["layout"] == "rows, columns, channels"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pixels", {"frames": "png"}),
        ("pixels", {"frames": "jpeg", "quality": 99}),
        ("pixels", {"quality": 80}),
        ("pixels", {"size": 16}),
        ("pixels", {"size": 40.5}),
        ("pixels", {"rate_hz": 0}),
        ("pixel_tokens", {"patch": 15}),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict) -> None:
    with pytest.raises(ConfigError, match=name):
        backbone_spec(name, **options)


def test_frames_of_another_size_are_refused() -> None:
    item = DecodedFrames(np.zeros((1, 64, 80, 3), np.uint8), np.array([[0.0, 1.0]]))
    with pytest.raises(InputError, match="short side is 48 pixels, not 80 x 64"):
        create_backbone("pixels", size=48).encode(item)


def test_no_frames_are_a_status() -> None:
    nothing = DecodedFrames(np.zeros((0, 64, 64, 3), np.uint8), np.zeros((0, 2)))
    assert create_backbone("test_pixels").encode(nothing).status is Status.NO_FRAMES


def test_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from frameloom.extract import create_backbone, DecodedFrames\n"
        "item = DecodedFrames(np.zeros((1, 64, 64, 3), np.uint8), np.array([[0.0, 1.0]]))\n"
        "print(create_backbone('test_pixel_tokens').encode(item).values.shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(16, 768) False"
