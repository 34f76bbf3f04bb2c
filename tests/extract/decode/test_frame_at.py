"""One picture at one instant is the one that a player shows then, in every container, also after a seek."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom import InputError, MediaError, Status
from frameloom.extract.decode import Decoder, FramesChunk, FramesWanted, Limits, frame_at, walk
from helpers.media import read_barcode, steady, write_media, write_wav
from helpers.numbered_media import PAIRS, Pair


@pytest.fixture(scope="module")
def decoder() -> Any:
    with Decoder(limits=Limits(seconds=60)) as one:
        yield one


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_the_picture_is_the_one_on_display(pair: Pair, tmp_path: Path, decoder: Decoder) -> None:
    path = pair.write(tmp_path)
    starts = pair.starts
    last = len(starts) - 2
    rng = np.random.default_rng(len(pair.name))
    for number in {0, 1, last - 1, *rng.integers(2, last - 1, 4).tolist()}:
        inside = starts[number] + rng.uniform(0.1, 0.9) * (starts[number + 1] - starts[number])
        found = frame_at(path, float(inside), short_side=48, decoder=decoder)
        assert found.frames.shape[0] == 1
        assert read_barcode(found.frames[0]) == number
        half = (starts[number + 1] - starts[number]) / 2
        assert np.abs(found.times[0] - starts[number : number + 2]).max() <= max(half / 10, 2 * pair.tick_seconds)


class Taken:
    """A sink that counts."""

    def __init__(self) -> None:
        self.shown: list[int] = []

    def frames(self, index: int, frames: Any) -> None:
        self.shown += [read_barcode(one) for one in frames.frames]

    def samples(self, samples: Any, start_seconds: float) -> None:
        raise AssertionError("no sound was asked for")


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".ts"])
def test_a_late_picture_costs_what_its_surroundings_cost(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers with an index are entered at a keyframe; one without is read from its beginning, and no further."""
    path = write_media(
        tmp_path / f"long{ending}",
        instants=steady(1000, 25),
        codec_options={"bf": "3", "g": "25"},
        frame_rate=25,
    )
    decoded: list[float] = []
    original = walk.VideoPass.push

    def push(self: Any, frame: Any, start: float | None, duration: float | None) -> None:
        decoded.append(start or 0.0)
        original(self, frame, start, duration)

    monkeypatch.setattr(walk.VideoPass, "push", push)
    for number, most in ((900, 80), (20, 60)):
        decoded.clear()
        taken = Taken()
        wanted = FramesWanted(1.0, 48, at_seconds=((number + 0.5) / 25,))
        walk.decode_frame(path, wanted=wanted, limits=Limits(), sink=taken)
        assert taken.shown == [number]
        assert max(decoded) < number / 25 + 1.5
        assert len(decoded) <= (most if ending != ".ts" else number + 40)


def test_a_seek_that_lands_too_late_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a damaged index: the file is then decoded from its beginning."""
    path = write_media(tmp_path / "a.mp4", instants=steady(250, 25), codec_options={"g": "25"}, frame_rate=25)
    original = walk.open_media
    opened: list[bool] = []

    class Wrong:
        """A container whose seeks go to the end."""

        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def seek(self, ticks: int, **how: Any) -> None:
            self._container.seek(int(8 / how["stream"].time_base), **how)

    def open_wrongly(*args: Any, **how: Any) -> Any:
        from contextlib import contextmanager
        from dataclasses import replace

        @contextmanager
        def opening() -> Any:
            opened.append(True)
            with original(*args, **how) as media:
                yield replace(media, container=Wrong(media.container))

        return opening()

    monkeypatch.setattr(walk, "open_media", open_wrongly)
    taken = Taken()
    walk.decode_frame(path, wanted=FramesWanted(1.0, 48, at_seconds=(4.02,)), limits=Limits(), sink=taken)
    assert (taken.shown, len(opened)) == ([100], 2)


def test_what_cannot_be_shown_says_why(tmp_path: Path, decoder: Decoder) -> None:
    path = write_media(tmp_path / "a.mp4", instants=steady(50, 25), frame_rate=25)
    late = write_media(
        tmp_path / "late.mp4", instants=steady(25, 25, start=1.0), sound=np.zeros((1, 32_000), np.float32)
    )
    (tmp_path / "empty.mp4").write_bytes(b"")
    sound = write_wav(tmp_path / "sound.wav", np.zeros((16_000, 1), np.int16), 16_000)
    for file, seconds, status, words in (
        (path, 2.5, Status.TOO_SHORT, "no picture is on display at 2.500 s: they go from 0.000 to 2.000 s"),
        (late, 0.5, Status.TOO_SHORT, "from 1.0"),
        (tmp_path / "none.mp4", 1.0, Status.MISSING, "no such file"),
        (tmp_path / "empty.mp4", 1.0, Status.EMPTY_FILE, "empty"),
        (tmp_path, 1.0, Status.NOT_REGULAR_FILE, "not a regular file"),
        (sound, 0.5, Status.NO_VIDEO, "no moving picture"),
    ):
        with pytest.raises(MediaError, match=words) as caught:
            frame_at(file, seconds, decoder=decoder)
        assert caught.value.status is status
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="at 0 s or later"):
            frame_at(path, wrong, decoder=decoder)
    with pytest.raises(InputError, match="4096 pixels"):
        frame_at(path, 1.0, short_side=10_000, decoder=decoder)
    assert read_barcode(frame_at(path, 1.01, decoder=decoder).frames[0]) == 25  # the decoder is still good


def test_a_limit_ends_it(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", instants=steady(50, 25), frame_rate=25)
    with pytest.raises(MediaError) as caught:
        frame_at(path, 1.0, limits=Limits(max_pixels=100))
    assert caught.value.status is Status.TOO_LARGE


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_of_a_damaged_file_it_is_what_a_whole_pass_gives(ending: str, tmp_path: Path, decoder: Decoder) -> None:
    """A picture that a pass over the whole file leaves out as damaged is refused, also after a seek."""
    path = write_media(
        tmp_path / f"a{ending}",
        instants=steady(100, 25),
        codec_options={"g": "50", "bf": "0"},
        container_options={"movflags": "faststart"} if ending == ".mp4" else {},
        frame_rate=25,
    )
    data = bytearray(path.read_bytes())
    middle = len(data) * 7 // 10
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    instants = tuple((number + 0.5) / 25 for number in range(100))
    whole: dict[float, int] = {}
    for chunk in decoder.decode(path, frames=[FramesWanted(1.0, 48, at_seconds=instants)]):
        if isinstance(chunk, FramesChunk):
            pictures = zip(chunk.frames.cell_indices(), chunk.frames.frames, strict=True)
            whole |= {instants[cell]: read_barcode(picture) for cell, picture in pictures}
    assert 40 < len(whole) < (100 if ending == ".mp4" else 101)  # of Matroska, the picture before the loss stays longer
    for instant in instants:
        if instant in whole:
            found = frame_at(path, instant, short_side=48, decoder=decoder)
            assert read_barcode(found.frames[0]) == whole[instant]
        else:
            with pytest.raises(MediaError) as caught:
                frame_at(path, instant, short_side=48, decoder=decoder)
            assert caught.value.status in (Status.DAMAGED, Status.TRUNCATED, Status.TOO_SHORT)
