"""Memory is bounded by configuration: two hours take what two minutes take, and the features that they give."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from frameloom._vocabulary import OutOfSpaceError
from frameloom.extract.buffers import SampleSpool
from frameloom.workflows.sync.cluster import WORKER_ENVIRONMENT
from helpers.media import barcode

MAX_WORKER_BYTES = 1.5e9
MAX_GROWTH = 1.10
SIZE = (1280, 720)
RATE = 10
LOOP_SECONDS = 60
GAP_SECONDS = 1  # between loops: sound is coded in blocks that do not end with the minute
SAMPLE_RATE = 16_000

# What a worker does with a batch of one file; prints its peak and its decoder's, in bytes.
WORKER = """
import json, sys
from pathlib import Path
from frameloom._vocabulary import Modality
from frameloom.workflows.project import BackboneRequest
from frameloom.workflows.sync.tasks import ExtractItem, ExtractJob, extract_batch
names = sys.argv[3].split(",")
requests = tuple(BackboneRequest(name=n, weights=None, seed=0, options=(), device="cpu") for n in names)
item = ExtractItem(video="v", path=sys.argv[1], digest="d", fingerprints={n: f"f-{n}" for n in names})
result = extract_batch(ExtractJob(
    store=sys.argv[2], items=(item,), backbones=requests, decode_seconds=3000.0,
    decode_memory_bytes=2_000_000_000, threads=1, token="t"))
from frameloom.workflows import _tasks
def peak(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
decoder = _tasks._decoder(3000.0, 2_000_000_000)
print(json.dumps({
    "worker": peak("self"), "decoder": peak(decoder.pid),
    "statuses": {n: s[0].value for n, s in result.statuses["v"].items()}}))
"""


def write_long(path: Path, *, loops: int) -> Path:
    """A file of so many minutes: one minute is encoded, and its packets are written again and again."""
    minute = path.with_name("minute.mp4")
    if not minute.exists():
        _write_minute(minute)
    with av.open(str(minute)) as source, av.open(str(path), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        packets = [packet for packet in source.demux() if packet.size]
        for loop in range(loops):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                shift = round(loop * (LOOP_SECONDS + GAP_SECONDS) / packet.time_base)
                copy.pts, copy.dts = packet.pts + shift, packet.dts + shift
                copy.duration, copy.time_base = packet.duration, packet.time_base
                copy.is_keyframe = packet.is_keyframe
                copy.stream = streams[packet.stream.index]
                target.mux(copy)
    return path


def _write_minute(path: Path) -> None:
    with av.open(str(path), "w") as output:
        pictures = output.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "g": "50"})
        pictures.width, pictures.height, pictures.pix_fmt = *SIZE, "yuv420p"
        sound = output.add_stream("aac", rate=SAMPLE_RATE)
        sound.layout = "mono"
        rng = np.random.default_rng(0)
        for index in range(RATE * LOOP_SECONDS):
            frame = av.VideoFrame.from_ndarray(barcode(index, width=SIZE[0], height=SIZE[1]), format="rgb24")
            output.mux(pictures.encode(frame))
        output.mux(pictures.encode(None))
        for index in range(LOOP_SECONDS):
            noise = (0.1 * rng.standard_normal((1, SAMPLE_RATE))).astype(np.float32)
            block = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE, index * SAMPLE_RATE
            output.mux(sound.encode(block))
        output.mux(sound.encode(None))


def extract_in_worker(path: Path, store: Path, names: str) -> dict[str, object]:
    command = [sys.executable, "-c", WORKER, str(path), str(store), names]
    environment = {**os.environ, **WORKER_ENVIRONMENT}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_hours_take_what_two_minutes_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a network whose batches two minutes fill. The sound's own feature is 29 MB for each hour."""
    found = {}
    for minutes in (2, 120):
        path = write_long(tmp_path / f"{minutes}.mp4", loops=minutes)
        found[minutes] = extract_in_worker(path, tmp_path / f"store{minutes}", "resnet18,logmel_avlnet")
    with capsys.disabled():
        print(json.dumps(found, indent=1))
    short, long = (found[minutes]["worker"] + found[minutes]["decoder"] for minutes in (2, 120))
    assert long < MAX_WORKER_BYTES
    assert long < MAX_GROWTH * short
    assert set(found[120]["statuses"].values()) == {"ok"}


def test_a_spool_reads_as_the_array_that_was_appended() -> None:
    rng = np.random.default_rng(1)
    for limit in (1 << 20, 100):  # in memory, in a file
        spool = SampleSpool(max_memory_bytes=limit)
        whole = rng.standard_normal(1000).astype(np.float32)
        for part in np.split(whole, [10, 10, 700]):
            spool.append(part)
        assert len(spool) == 1000
        for where in (slice(0, 0), slice(3, 9), slice(-5, None), slice(990, 2000), slice(None)):
            np.testing.assert_array_equal(spool[where], whole[where])
        with pytest.raises(ValueError, match="step"):
            spool[::2]
        spool.close()


def test_a_full_folder_for_temporary_files_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = SampleSpool(max_memory_bytes=10)
    spool.append(np.zeros(100, np.float32))

    class Full:
        def seek(self, *_: int) -> None: ...
        def write(self, _: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(spool, "_file", Full())
        with pytest.raises(OutOfSpaceError, match="TMPDIR"):
            spool.append(np.zeros(100, np.float32))
    spool.close()
