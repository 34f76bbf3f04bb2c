"""The decoding child: bounded, replaceable, and never left behind."""

from __future__ import annotations

import io
import os
import re
import select
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from frameloom._vocabulary import MediaError, ProcessStartError, Status
from frameloom.extract import Decoder, Limits, create_backbone, extract_file, probe
from frameloom.extract.decode import AudioWanted, DecodeEnd, FramesWanted
from frameloom.extract.decode.wire import WireError, receive, send
from helpers.children import run_python
from helpers.media import steady, write_media
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

EVERY_FRAME = [FramesWanted(25.0, 224)]


def decode_all(decoder: Decoder, path: Path) -> DecodeEnd:
    *_, end = decoder.decode(path, frames=[FramesWanted(1.0, 64)], audio=AudioWanted(16_000))
    assert isinstance(end, DecodeEnd)
    return end


def test_one_child_serves_many_files(clip: Path, silent_clip: Path) -> None:
    with Decoder() as decoder:
        assert decode_all(decoder, clip).video_status is Status.OK
        pid = decoder.pid
        assert decode_all(decoder, silent_clip).audio_status is Status.NO_AUDIO
        assert decoder.probe(clip).audio_status is Status.OK
        assert decoder.pid == pid


def test_a_child_that_is_killed_costs_one_file(clip: Path) -> None:
    with Decoder() as decoder:
        with closing(decoder.decode(clip, frames=EVERY_FRAME)) as events:
            next(events)
            os.kill(decoder.pid, signal.SIGKILL)
            with pytest.raises(MediaError) as caught:
                list(events)
        assert caught.value.status is Status.DECODER_CRASH
        assert "SIGKILL" in caught.value.message
        assert decode_all(decoder, clip).video_status is Status.OK


def test_a_child_that_died_while_idle_costs_nothing(clip: Path) -> None:
    with Decoder() as decoder:
        decode_all(decoder, clip)
        os.kill(decoder.pid, signal.SIGKILL)
        assert decode_all(decoder, clip).video_status is Status.OK


def test_a_child_that_makes_no_headway_is_stopped_in_time(clip: Path) -> None:
    with Decoder() as decoder:
        with closing(decoder.decode(clip, frames=EVERY_FRAME)) as events:
            next(events)
            os.kill(decoder.pid, signal.SIGSTOP)
            decoder._seconds_left = 0.05  # as if the rest had been used up
            with pytest.raises(MediaError) as caught:
                list(events)
        assert caught.value.status is Status.DEADLINE
        assert decoder.pid is None


def test_the_limit_of_time_holds_from_the_first_answer(clip: Path) -> None:
    feature = extract_file(clip, [create_backbone("test_resnet")], limits=Limits(seconds=0.0))["test_resnet"]
    assert feature.status is Status.DEADLINE
    assert "0 s" in feature.message


def test_the_caller_s_own_time_does_not_count(clip: Path) -> None:
    with Decoder(limits=Limits(seconds=20.0)) as decoder:
        with closing(decoder.decode(clip, frames=EVERY_FRAME)) as events:
            next(events)
            left = decoder._seconds_left
            np.linalg.svd(np.random.default_rng(0).standard_normal((200, 200)))
            assert decoder._seconds_left == left
            list(events)


def test_a_file_that_needs_too_much_memory_is_refused(tmp_path: Path, clip: Path) -> None:
    big = write_media(
        tmp_path / "big.mp4",
        instants=steady(2, 25),
        paint=lambda _: np.zeros((4000, 6000, 3), np.uint8),
        codec_options={"preset": "ultrafast", "bf": "0"},
    )
    backbones = [create_backbone("test_resnet")]
    with Decoder() as decoder:
        usual = peak_after(decoder, clip)
    with Decoder(limits=Limits(memory_bytes=usual + 100 * 1024**2)) as decoder:
        feature = extract_file(big, backbones, decoder=decoder)["test_resnet"]
        assert feature.status is Status.OUT_OF_MEMORY, feature.message
        assert decode_all(decoder, clip).video_status is Status.OK
    with Decoder(limits=Limits(max_pixels=10_000_000)) as decoder:
        feature = extract_file(big, backbones, decoder=decoder)["test_resnet"]
        assert feature.status is Status.TOO_LARGE
        assert "max_pixels" in feature.message


def test_what_a_file_took_is_free_for_the_next_one(tmp_path: Path) -> None:
    large = write_media(
        tmp_path / "large.mp4",
        instants=steady(10, 25),
        paint=lambda _: np.zeros((1080, 1920, 3), np.uint8),
        codec_options={"preset": "ultrafast"},
    )
    with Decoder() as decoder:
        peaks = [peak_after(decoder, large) for _ in range(8)]
    assert peaks[-1] < peaks[1] + 30 * 1024**2


def peak_after(decoder: Decoder, path: Path) -> int:
    """The largest address space of the child once it has decoded a file."""
    decode_all(decoder, path)
    status = Path(f"/proc/{decoder.pid}/status").read_text()
    return 1024 * int(re.search(r"VmPeak:\s+(\d+) kB", status).group(1))


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (Limits(max_duration_seconds=2.0), Status.TOO_LARGE),
        (Limits(max_streams=1), Status.TOO_LARGE),
        (Limits(max_aspect=1.2), Status.BAD_DIMENSIONS),
    ],
)
def test_each_limit_is_a_status(clip: Path, limits: Limits, status: Status) -> None:
    feature = extract_file(clip, [create_backbone("test_resnet")], limits=limits)["test_resnet"]
    assert feature.status is status


def test_an_iterator_that_is_given_up_leaves_a_decoder_that_works(clip: Path) -> None:
    with Decoder() as decoder:
        with closing(decoder.decode(clip, frames=EVERY_FRAME)) as events:
            next(events)
        assert decode_all(decoder, clip).video_status is Status.OK


def test_two_files_at_once_are_refused(clip: Path) -> None:
    with Decoder() as decoder:
        with closing(decoder.decode(clip, frames=EVERY_FRAME)) as events:
            next(events)
            with pytest.raises(RuntimeError, match="one file at a time"):
                decoder.probe(clip)


def test_the_child_outlives_the_thread_that_asked_for_it(clip: Path) -> None:
    with Decoder() as decoder:
        thread = threading.Thread(target=decode_all, args=(decoder, clip))
        thread.start()
        thread.join()
        pid = decoder.pid
        assert decode_all(decoder, clip).video_status is Status.OK
        assert decoder.pid == pid


OWNER = """
import os, sys
from pathlib import Path
from frameloom.extract import Decoder
from frameloom.extract.decode import FramesWanted
decoder = Decoder()
events = decoder.decode(Path(sys.argv[1]), frames=[FramesWanted(25.0, 224)])
next(events)
print(decoder.pid, flush=True)
sys.stdin.read()
"""


def test_the_child_ends_when_its_owner_is_killed(clip: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(clip)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        child = os.pidfd_open(int(owner.stdout.readline()))
        try:
            os.kill(owner.pid, signal.SIGKILL)
            assert select.select([child], [], [], 20)[0], "the decoding child still runs 20 s after its owner's death"
        finally:
            os.close(child)


DAEMON = """
import multiprocessing, sys
from pathlib import Path
from frameloom.extract import probe
def work(path, answers):
    assert multiprocessing.current_process().daemon
    answers.put(probe(Path(path)).status.value)
context = multiprocessing.get_context("fork")
answers = context.Queue()
worker = context.Process(target=work, args=(sys.argv[1], answers), daemon=True)
worker.start()
print(answers.get(timeout=600))
worker.join()
"""


def test_a_daemonic_process_may_decode(clip: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DAEMON, str(clip)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ok"


def test_modules_in_the_working_folder_are_not_run(tmp_path: Path, clip: Path) -> None:
    for name in ("numpy", "av", "frameloom", "json"):
        (tmp_path / f"{name}.py").write_text("open('canary', 'w').close()\nraise SystemExit(1)\n")
    code = (
        "import sys; sys.path = [p for p in sys.path if p]\n"
        "from pathlib import Path\nfrom frameloom.extract import probe\n"
        f"print(probe(Path({str(clip)!r})).status.value)"
    )
    assert run_python(code, cwd=tmp_path).strip() == "ok"
    assert not (tmp_path / "canary").exists()


def test_a_relative_path_is_the_caller_s(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Decoder() as decoder:
        decoder.probe(clip)  # the child starts here, in another folder
        monkeypatch.chdir(clip.parent)
        info = probe(Path(clip.name), decoder=decoder)
        assert (info.status, info.path) == (Status.OK, clip.name)


ARRAYS = npst.arrays(
    st.sampled_from(["uint8", "float32", "float64"]), npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
)


def reader(content: bytes):
    stream = io.BytesIO(content)

    def read_into(view: memoryview) -> None:
        if stream.readinto(view) != len(view):
            raise EOFError

    return read_into


@settings(max_examples=40)
@given(
    arrays=st.dictionaries(st.text(max_size=5), ARRAYS, max_size=3),
    number=st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_message_comes_out_as_it_went_in(arrays: dict[str, np.ndarray], number: float) -> None:
    stream = io.BytesIO()
    send(stream, {"kind": "x", "number": number}, arrays)
    header, found = receive(reader(stream.getvalue()), max_array_bytes=1 << 20)
    assert header == {"kind": "x", "number": number}
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array, equal_nan=True)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused(content: bytes) -> None:
    framed = len(content).to_bytes(4, "little") + content
    try:
        header, _ = receive(reader(framed), max_array_bytes=1000)
    except (WireError, EOFError):
        return
    assert isinstance(header, dict)


@pytest.mark.parametrize(
    "arrays",
    [
        "3",
        '{"a": 1}',
        '["a"]',
        '[["a"]]',
        '[["a", "object", [1]]]',
        '[["a", "uint8", [-1]]]',
        '[["a", "uint8", [9999]]]',
        '[["a", [], [1]]]',
    ],
)
def test_a_hostile_child_s_arrays_are_refused(arrays: str) -> None:
    text = f'{{"kind": "frames", "arrays": {arrays}}}'.encode()
    with pytest.raises(WireError):
        receive(reader(len(text).to_bytes(4, "little") + text), max_array_bytes=1000)


def test_no_folder_for_temporary_files_is_one_sentence(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", nowhere)
    with Decoder() as decoder, pytest.raises(ProcessStartError, match="set TMPDIR"):
        decode_all(decoder, clip)
