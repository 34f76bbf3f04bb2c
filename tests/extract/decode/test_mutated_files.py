"""Damaged files by the dozen: each gets a status and a sentence in its time, and nobody else notices.

`--clips-dir DIR` gives the slow test real files to damage; without it, it damages files that the tests make.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from frameloom._vocabulary import FeatureArray, Outcome, Status
from frameloom.extract import DecodedFrames, Decoder, Limits, create_backbone, extract_file, file_status
from frameloom.extract.decode import AudioWanted, DecodeEnd, FramesChunk, FramesWanted, SamplesChunk
from helpers.media import steady, write_media
from helpers.mutations import MUTATORS, Mutant, mutants
from helpers.numbered_media import PAIRS, read_numbers

NAMES = ("h264_b.mp4", "h264_fragments.mp4", "h264_open_gop.mkv", "h264_b.ts", "mpeg4.avi", "h264_b.flv", "vp8.webm")
SEQUENTIAL = ("h264_b.mp4", "h264_open_gop.mkv", "h264_b.ts", "mpeg4.avi", "h264_b.flv", "vp8.webm")
LIMITS = Limits(seconds=10.0, max_duration_seconds=600.0)
NUM_QUICK, NUM_SLOW = 40, 300
ENDING_SECONDS = 4.0  # to end a child that is out of time, and to start another
PICTURES_IN_HAND = 5  # of a decoder that puts pictures in order of display


@dataclass(frozen=True)
class Record:
    """What became of one damaged file."""

    mutant: Mutant
    status: Status
    message: str
    seconds: float
    has_new_child: bool

    def __str__(self) -> str:
        return (
            f"{self.mutant.kind} of {self.mutant.source.name} ({self.mutant.path.name}): "
            f"{self.status} in {self.seconds:.1f} s: {self.message}"
        )


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return {pair.name: pair.write(folder) for pair in PAIRS if pair.name in NAMES + SEQUENTIAL}


@pytest.fixture(scope="module")
def backbones() -> list[Any]:
    return [create_backbone("test_resnet"), create_backbone("logmel_avlnet")]


def check_features(features: dict[str, FeatureArray], backbones: list[Any]) -> None:
    """What holds for any file."""
    assert list(features) == [backbone.spec.name for backbone in backbones]
    for backbone in backbones:
        feature = features[backbone.spec.name]
        assert isinstance(feature.status, Status)
        assert feature.status is Status.OK or feature.message
        assert feature.values.shape == (len(feature.times), backbone.spec.dim)
        assert np.isfinite(feature.values).all()
        assert np.isfinite(feature.times).all()
        assert (feature.times[:, 0] < feature.times[:, 1]).all()
        assert (np.diff(feature.times[:, 0]) >= 0).all()
        assert len(feature.values) == 0 or feature.status.outcome in (Outcome.INDEXED, Outcome.PARTIAL)


def run_campaign(
    sources: Sequence[Path], neighbour: Path, folder: Path, backbones: list[Any], *, count: int, seed: int
) -> Iterator[Record]:
    """Extract damaged files and, between them, a whole one, with one decoder. A record for each damaged file."""
    clean = extract_file(neighbour, backbones, limits=LIMITS)
    with Decoder(limits=LIMITS) as decoder:
        for mutant in mutants(sources, folder, count=count, seed=seed):
            before, begun = decoder.pid, time.monotonic()
            features = extract_file(mutant.path, backbones, decoder=decoder)
            seconds = time.monotonic() - begun
            check_features(features, backbones)
            assert_same(extract_file(neighbour, backbones, decoder=decoder), clean)
            has_new_child = before is not None and decoder.pid != before
            yield Record(mutant, *file_status(features), seconds, has_new_child)


def assert_same(found: dict[str, FeatureArray], wanted: dict[str, FeatureArray]) -> None:
    for name, feature in wanted.items():
        assert (found[name].status, found[name].message) == (feature.status, feature.message)
        assert found[name].values.tobytes() == feature.values.tobytes()
        assert np.array_equal(found[name].times, feature.times)


def assert_in_time(records: Sequence[Record]) -> None:
    late = [str(record) for record in records if record.seconds > LIMITS.seconds + ENDING_SECONDS]
    assert not late


def summary(records: Sequence[Record]) -> str:
    counts = ", ".join(f"{status} {count}" for status, count in Counter(r.status.value for r in records).most_common())
    slowest = max(records, key=lambda record: record.seconds)
    stopped = [str(record) for record in records if record.status.outcome is Outcome.QUARANTINED]
    new_children = sum(record.has_new_child for record in records)
    lines = [f"{len(records)} damaged files: {counts}", f"{new_children} new children", f"slowest: {slowest}", *stopped]
    return "\n".join(lines)


def test_damaged_files_get_a_status_and_their_neighbours_are_untouched(
    tmp_path: Path, whole_files: dict[str, Path], backbones: list[Any]
) -> None:
    sources = [whole_files[name] for name in NAMES]
    records = list(run_campaign(sources, sources[0], tmp_path, backbones, count=NUM_QUICK, seed=0))
    assert len(records) == NUM_QUICK
    assert_in_time(records)
    assert {record.mutant.kind for record in records} == set(MUTATORS)
    assert len({record.status for record in records}) >= 4, summary(records)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_many_damaged_files(
    request: pytest.FixtureRequest, tmp_path: Path, whole_files: dict[str, Path], backbones: list[Any]
) -> None:
    clips_dir = request.config.getoption("--clips-dir")
    files = sorted(whole_files.values()) if clips_dir is None else sorted(filter(Path.is_file, clips_dir.iterdir()))
    neighbour = min(files, key=lambda path: path.stat().st_size)
    records = []
    for record in run_campaign(files, neighbour, tmp_path, backbones, count=NUM_SLOW, seed=1):
        records.append(record)
        print(record, flush=True)
    print(summary(records))
    assert len(records) == NUM_SLOW
    assert_in_time(records)


def test_the_same_seed_damages_the_same_bytes(tmp_path: Path, whole_files: dict[str, Path]) -> None:
    files = [whole_files[name] for name in NAMES]

    def contents(seed: int) -> list[bytes]:
        return [mutant.path.read_bytes() for mutant in mutants(files, tmp_path, count=13, seed=seed)]

    assert contents(3) == contents(3) != contents(4)
    assert not list(tmp_path.iterdir())


class OneAtATime:
    """A backbone whose rows do not depend on what else is in a batch."""

    def __init__(self, backbone: Any) -> None:
        self.spec, self.weights_digest, self.windows = backbone.spec, backbone.weights_digest, backbone.windows
        self.encode, self.encode_windows = backbone.encode, backbone.encode_windows

    def batch_windows(self, picture: tuple[int, ...]) -> int:
        return 1


def every_frame(decoder: Decoder, path: Path) -> tuple[DecodedFrames, DecodeEnd]:
    """Each picture of a file, and how it went."""
    chunks = []
    for event in decoder.decode(path, frames=[FramesWanted(100.0, 32)]):
        if isinstance(event, FramesChunk):
            chunks.append(event.frames)
    assert isinstance(event, DecodeEnd)
    frames, times = (np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("frames", "times"))
    firsts = np.flatnonzero(np.diff(times[:, 0], prepend=-1.0))
    return DecodedFrames(frames[firsts], times[firsts]), event


def frames_before(path: Path, offset: int) -> int:
    """How many frames from the start lie wholly before a byte of a whole file, in order of display."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    rank = {packet.pts: number for number, packet in enumerate(sorted(packets, key=lambda packet: packet.pts))}
    touched = [rank[packet.pts] for packet in packets if packet.pos + packet.size > offset]
    return min(touched, default=len(packets))


def overwritten(content: bytes, start: int, end: int) -> bytes:
    return content[:start] + np.random.default_rng(0).bytes(end - start) + content[end:]


def damage(content: bytes, offset: int, kind: str) -> bytes:
    if kind == "truncated":
        return content[:offset]
    return overwritten(content, offset, len(content) if kind == "lost tail" else offset + min(3000, len(content) // 8))


# Where a stretch is lost, Matroska, FLV and transport streams go on with what comes next as if nothing had been there.
ALWAYS_FLAGGED = {"truncated": SEQUENTIAL, "lost tail": SEQUENTIAL, "overwritten": ("h264_b.mp4", "mpeg4.avi")}


@pytest.mark.parametrize("kind", list(ALWAYS_FLAGGED))
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_what_lies_before_the_damage_is_kept_to_the_bit(
    tmp_path: Path, whole_files: dict[str, Path], decoder: Decoder, name: str, kind: str
) -> None:
    whole, path = whole_files[name], tmp_path / name
    backbone = OneAtATime(create_backbone("test_resnet", rate_hz=5.0))
    clean, _ = every_frame(decoder, whole)
    clean_rows = extract_file(whole, [backbone], decoder=decoder)["test_resnet"]
    for share in (0.45, 0.6, 0.75):
        offset = int(whole.stat().st_size * share)
        path.write_bytes(damage(whole.read_bytes(), offset, kind))
        found, end = every_frame(decoder, path)
        sure = frames_before(whole, offset) - PICTURES_IN_HAND
        assert sure > 20
        assert np.array_equal(found.frames[:sure], clean.frames[:sure])
        assert np.array_equal(found.times[:sure], clean.times[:sure])
        rows = extract_file(path, [backbone], decoder=decoder)["test_resnet"]
        num_rows = int((clean_rows.times[:, 1] <= clean.times[sure, 0]).sum())
        assert num_rows > 3
        assert rows.values[:num_rows].tobytes() == clean_rows.values[:num_rows].tobytes()
        assert rows.status is end.video_status
        if name in ALWAYS_FLAGGED[kind]:
            assert end.video_status in (Status.TRUNCATED, Status.DAMAGED), end.video_message


def everything(decoder: Decoder, path: Path) -> tuple[list[int], float, DecodeEnd]:
    """The numbers of a file's frames, the seconds of its sound, and how it went."""
    numbers: list[int] = []
    num_samples = 0
    for event in decoder.decode(path, frames=[FramesWanted(25.0, 32)], audio=AudioWanted(16_000)):
        if isinstance(event, FramesChunk):
            numbers += read_numbers(event.frames.frames).tolist()
        elif isinstance(event, SamplesChunk):
            num_samples += len(event.samples)
    assert isinstance(event, DecodeEnd)
    return numbers, num_samples / 16_000, event


def test_a_wild_timestamp_is_no_hours_of_silence(
    tmp_path: Path, whole_files: dict[str, Path], decoder: Decoder
) -> None:
    content = bytearray(whole_files["h264_b.ts"].read_bytes())
    starts = [place for place in range(0, len(content), 188) if b"\x00\x00\x01\xc0" in content[place : place + 188]]
    place = content.index(b"\x00\x00\x01\xc0", starts[len(starts) // 2])
    assert content[place + 7] >> 6 in (2, 3)  # it has a presentation timestamp
    content[place + 9] |= 0x08  # bit 32 of it: 13 hours later
    content[place + 10] |= 0x80
    path = tmp_path / "wild.ts"
    path.write_bytes(content)
    numbers, seconds, end = everything(decoder, path)
    assert numbers == list(range(125))
    assert seconds == pytest.approx(5.0, abs=0.2)
    assert end.audio_status is Status.DAMAGED
    assert "timestamp" in end.audio_message


def text_tag(milliseconds: int) -> bytes:
    """An FLV tag of a stream that nothing before it has announced."""
    body = b"\x02\x00\x0aonTextData" + b"\x08\x00\x00\x00\x01\x00\x04text\x02\x00\x02hi\x00\x00\x09"
    head = b"\x12" + len(body).to_bytes(3, "big") + milliseconds.to_bytes(3, "big") + bytes(4)
    return head + body + (len(head) + len(body)).to_bytes(4, "big")


def test_a_stream_that_comes_up_midway_costs_nothing(
    tmp_path: Path, whole_files: dict[str, Path], decoder: Decoder
) -> None:
    content = whole_files["h264_b.flv"].read_bytes()
    place = 13
    while place < 0.8 * len(content):
        place += 11 + int.from_bytes(content[place + 1 : place + 4], "big") + 4
    path = tmp_path / "midway.flv"
    path.write_bytes(content[:place] + text_tag(4000) * 8 + content[place:])
    pid = decoder.pid
    clean = everything(decoder, whole_files["h264_b.flv"])
    assert everything(decoder, path) == clean
    assert pid in (None, decoder.pid)


def test_an_empty_packet_is_not_the_end(tmp_path: Path, decoder: Decoder) -> None:
    path = write_media(
        tmp_path / "empty.mov", instants=steady(50, 25), codec="mjpeg", pixel_format="yuvj420p", frame_rate=25
    )
    content = bytearray(path.read_bytes())
    entry = content.index(b"stsz") + 16 + 4 * 20
    sizes = [int.from_bytes(content[place : place + 4], "big") for place in (entry - 4, entry)]
    content[entry - 4 : entry + 4] = sum(sizes).to_bytes(4, "big") + bytes(4)
    path.write_bytes(content)
    numbers, _, end = everything(decoder, path)
    assert numbers == [*range(20), 19, *range(21, 50)]
    assert end.video_status is Status.OK
    assert decoder.probe(path).status is Status.OK
