"""Still pictures, each a video of one frame, where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from frameloom._vocabulary import MediaError, Status
from frameloom.extract import Decoder, create_backbone, extract_file
from frameloom.extract.decode import FramesChunk
from frameloom.extract.types import FramesWanted
from numpy.typing import NDArray
from PIL import Image


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as made:
        yield made


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A smooth picture, 96 x 64, no two sides of which are alike."""
    small = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((96, 64), Image.Resampling.BICUBIC)


def decoded(decoder: Decoder, path: Path, short_side: int = 64) -> NDArray[np.uint8]:
    *chunks, end = decoder.decode(path, frames=[FramesWanted(1.0, short_side)], is_picture=True)
    assert end.video_status is Status.OK, end
    (chunk,) = chunks
    assert isinstance(chunk, FramesChunk)
    (pixels,) = chunk.frames.frames
    return pixels


@pytest.mark.parametrize(
    ("suffix", "how", "off"),
    [
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("webp", {"quality": 95}, 3),
        ("jpg", {"quality": 98, "subsampling": 0}, 1),
        ("jpg", {"quality": 98, "progressive": True}, 1.5),
    ],
)
def test_pixels_are_those_of_the_file(
    decoder: Decoder, picture: Image.Image, tmp_path: Path, suffix: str, how: dict[str, object], off: float
) -> None:
    path = tmp_path / f"name_says_nothing.{suffix}.mp4"
    picture.save(path, format={"jpg": "JPEG"}.get(suffix, suffix.upper()), **how)
    assert np.abs(decoded(decoder, path).astype(int) - np.asarray(picture)).mean() <= off


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA"])
def test_any_kind_of_png(decoder: Decoder, picture: Image.Image, tmp_path: Path, mode: str) -> None:
    picture.convert(mode).save(tmp_path / "a.png")
    expected = np.asarray(picture.convert(mode).convert("RGB"))
    assert np.abs(decoded(decoder, tmp_path / "a.png").astype(int) - expected).mean() <= 1


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_photograph_is_turned_upright(
    decoder: Decoder, picture: Image.Image, tmp_path: Path, orientation: int, turns: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.jpg", quality=98, subsampling=0, exif=exif)
    expected = np.rot90(np.asarray(picture), turns)
    assert np.abs(decoded(decoder, tmp_path / "a.jpg").astype(int) - expected).mean() <= 1


def test_is_one_row_of_a_backbone_and_one_window_that_is_filled_up(picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "a.png")
    backbones = [create_backbone("test_resnet"), create_backbone("test_resnet3d")]
    found = extract_file(tmp_path / "a.png", backbones, is_picture=True)
    assert {name: (one.status, len(one.values)) for name, one in found.items()} == {
        backbone.spec.name: (Status.OK, 1) for backbone in backbones
    }


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x89PNG", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP", b"#EXTM3U\n/etc/passwd"],
)
def test_what_is_no_picture_is_a_status(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    backbone = create_backbone("test_resnet")
    (found,) = extract_file(tmp_path / "a.png", [backbone], is_picture=True).values()
    assert len(found.values) == 0
    assert found.status is not Status.OK
    assert "\n" not in found.message
    assert found.message


def test_a_cut_png_and_a_huge_one_are_refused(decoder: Decoder, picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *_, end = decoder.decode(path, frames=[FramesWanted(1.0, 64)], is_picture=True)
    assert end.video_status is Status.UNDECODABLE
    Image.new("1", (7000, 7000)).save(path)
    with pytest.raises(MediaError, match="a picture of 7000 x 7000 pixels"):
        list(decoder.decode(path, frames=[FramesWanted(1.0, 64)], is_picture=True))


def test_a_picture_is_no_video_where_none_is_asked_for(decoder: Decoder, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="this is a PNG picture"):
        list(decoder.decode(tmp_path / "a.png", frames=[FramesWanted(1.0, 64)]))
