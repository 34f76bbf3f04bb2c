"""What the tests of `extract` share: one decoder, and a few real H.264/AAC files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from frameloom.extract import Decoder
from helpers.media import click_track, steady, write_media


@pytest.fixture(scope="session")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of files that several tests only read."""
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="session")
def clip(media: Path) -> Path:
    """4 s of numbered pictures at 25 a second, with a stereo click each second: H.264 and AAC, index first."""
    sound = click_track(4.0, 44_100, at=[0.5, 1.5, 2.5, 3.5], channels=2)
    return write_media(
        media / "clip.mp4",
        instants=steady(100, 25),
        sound=sound,
        sound_rate=44_100,
        container_options={"movflags": "faststart"},
    )


@pytest.fixture(scope="session")
def silent_clip(media: Path) -> Path:
    """2 s of numbered pictures without a sound track."""
    return write_media(media / "silent_clip.mp4", instants=steady(50, 25))


@pytest.fixture(scope="session")
def sound_only(media: Path) -> Path:
    """2 s of clicks and no picture."""
    return write_media(media / "sound_only.m4a", sound=click_track(2.0, 16_000, at=[1.0]), container="mp4")
