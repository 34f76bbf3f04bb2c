"""Whatever a file is, it ends with one status of the closed list and a sentence, and nothing else is touched."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from frameloom._vocabulary import FeatureArray, Outcome, Status
from frameloom.extract import Decoder, create_backbone, extract_file, file_status, probe
from frameloom.extract.decode import FramesChunk, FramesWanted
from frameloom.extract.decode.ends import is_cut
from helpers.media import click_track, read_barcodes, steady, write_media
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def backbones() -> list:
    return [create_backbone("test_resnet"), create_backbone("logmel_avlnet")]


@pytest.fixture
def status_of(backbones: list, decoder: Decoder) -> Callable[[Path], tuple[Status, str]]:
    """Extract a file, check what must hold for any, and give its status."""

    def run(path: Path) -> tuple[Status, str]:
        features = extract_file(path, backbones, decoder=decoder)
        check_features(features, backbones)
        info = probe(path, decoder=decoder)
        assert info.as_dict()["path"] == str(path)
        return file_status(features)

    return run


def check_features(features: dict[str, FeatureArray], backbones: list) -> None:
    assert list(features) == [backbone.spec.name for backbone in backbones]
    for backbone in backbones:
        feature = features[backbone.spec.name]
        assert feature.values.shape == (len(feature.times), backbone.spec.dim)
        assert feature.values.dtype == backbone.spec.dtype
        assert np.isfinite(feature.values).all()
        assert np.isfinite(feature.times).all()
        assert (feature.status is Status.OK) or feature.message
        if feature.status.outcome not in (Outcome.INDEXED, Outcome.PARTIAL):
            assert len(feature.values) == 0


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("empty.mp4", b"", Status.EMPTY_FILE),
        ("text.mp4", b"this is not a video\n" * 50, Status.NOT_MEDIA),
        ("page.mp4", b"<!DOCTYPE html><html><body>404</body></html>", Status.NOT_MEDIA),
        (
            "subtitles.mp4",
            b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n2\n00:00:03,000 --> 00:00:04,000\nyou\n",
            Status.NOT_MEDIA,
        ),
        ("zeros.mp4", bytes(100_000), Status.NOT_MEDIA),
        ("noise.mp4", np.random.default_rng(0).bytes(50_000), Status.NOT_MEDIA),
        ("playlist.mp4", PLAYLIST.format(target="http://127.0.0.1:9/a.ts").encode(), Status.CONTAINER_NOT_ALLOWED),
        ("list.mp4", b"ffconcat version 1.0\nfile other.mp4\n", Status.CONTAINER_NOT_ALLOWED),
        ("still.mp4", b"\x89PNG\r\n\x1a\n" + bytes(100), Status.CONTAINER_NOT_ALLOWED),
        ("short.mp4", b"\x00\x00\x00\x18ftypisom", Status.NO_INDEX),
        ("header.mkv", b"\x1a\x45\xdf\xa3" + bytes(1000), Status.UNDECODABLE),
    ],
)
def test_what_is_no_video(
    tmp_path: Path, status_of: Callable[[Path], tuple[Status, str]], name: str, content: bytes, status: Status
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found, message = status_of(path)
    assert found is status, message
    assert message


def test_what_is_no_regular_file(tmp_path: Path, status_of: Callable[[Path], tuple[Status, str]]) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    assert status_of(tmp_path / "pipe.mp4")[0] is Status.NOT_REGULAR_FILE
    assert status_of(tmp_path / "folder.mp4")[0] is Status.NOT_REGULAR_FILE
    assert status_of(tmp_path / "loop.mp4")[0] is Status.UNREADABLE
    assert status_of(tmp_path / "nothing.mp4")[0] is Status.MISSING
    assert status_of(tmp_path / "a\0b.mp4")[0] is Status.MISSING


def test_no_file_makes_the_decoder_open_a_connection(
    tmp_path: Path, status_of: Callable[[Path], tuple[Status, str]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        for name, text in (
            ("a.mp4", PLAYLIST.format(target=address)),
            ("b.mp4", f"ffconcat version 1.0\nfile {address}\n"),
        ):
            (tmp_path / name).write_text(text)
            assert status_of(tmp_path / name)[0] is Status.CONTAINER_NOT_ALLOWED
        # A picture sequence and an address as names of files that do exist, or do not.
        (tmp_path / "%d.mp4").write_bytes(b"no video, either")
        assert status_of(tmp_path / "%d.mp4")[0] is Status.NOT_MEDIA
        assert status_of(Path(address))[0] is Status.MISSING
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "name",
    ["-i.mp4", "a b & 'c' \"d\".mp4", "new\nline.mp4", "%d %s.mp4", "concat:x|y.mp4", "\u202egpj.mp4", "b\udcff.mp4"],
)
def test_any_name_will_do(
    tmp_path: Path, clip: Path, status_of: Callable[[Path], tuple[Status, str]], name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(clip.read_bytes())
    assert status_of(path) == (Status.OK, "")


@pytest.fixture(scope="module")
def containers(media: Path, clip: Path) -> dict[str, Path]:
    """The same 4 s in several containers."""
    sound = click_track(4.0, 16_000, at=[1.0, 3.0])
    made = {"mp4": clip}
    for suffix, codec, audio in (("mkv", "libx264", "aac"), ("ts", "libx264", "aac"), ("avi", "mpeg4", "libmp3lame")):
        made[suffix] = write_media(
            media / f"whole.{suffix}",
            instants=steady(100, 25),
            codec=codec,
            codec_options={"g": "12"},
            frame_rate=25,
            sound=sound,
            sound_codec=audio,
        )
    return made


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_whole_files_are_ok(
    containers: dict[str, Path], status_of: Callable[[Path], tuple[Status, str]], suffix: str
) -> None:
    assert status_of(containers[suffix])[0] is Status.OK
    assert is_cut(containers[suffix]) in (False, None)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_files_are_partial_and_keep_what_is_there(
    tmp_path: Path, containers: dict[str, Path], backbones: list, decoder: Decoder, suffix: str, share: float
) -> None:
    content = containers[suffix].read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content[: int(len(content) * share) | 1])
    features = extract_file(path, backbones, decoder=decoder)
    check_features(features, backbones)
    status, message = file_status(features)
    is_whole = (suffix, share) == ("avi", 0.9)  # what is cut is the index, behind all pictures
    assert status is (Status.OK if is_whole else Status.TRUNCATED), message
    assert 1 <= len(features["test_resnet"].values) <= 4


def test_an_mp4_without_its_index_says_how_to_mend_it(
    tmp_path: Path, status_of: Callable[[Path], tuple[Status, str]]
) -> None:
    whole = write_media(tmp_path / "plain.mp4", instants=steady(50, 25))
    content = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    status, message = status_of(tmp_path / "cut.mp4")
    assert status is Status.NO_INDEX
    assert "moov" in message


def test_a_codec_without_a_decoder_is_named_and_the_sound_still_used(
    tmp_path: Path, clip: Path, backbones: list, decoder: Decoder
) -> None:
    path = tmp_path / "foreign.mp4"
    path.write_bytes(clip.read_bytes().replace(b"avc1", b"zzz1"))
    features = extract_file(path, backbones, decoder=decoder)
    assert features["test_resnet"].status is Status.CODEC_MISSING
    assert "zzz1" in features["test_resnet"].message
    assert features["logmel_avlnet"].status is Status.OK
    assert probe(path, decoder=decoder).video_status is Status.CODEC_MISSING


def test_a_stream_without_frames_says_so(
    tmp_path: Path, containers: dict[str, Path], status_of: Callable[[Path], tuple[Status, str]]
) -> None:
    content = containers["mkv"].read_bytes()
    path = tmp_path / "head.mkv"
    path.write_bytes(content[: content.index(b"\x1f\x43\xb6\x75")])  # up to the first cluster
    assert status_of(path)[0] is Status.NO_FRAMES


def test_the_largest_of_equal_streams_is_used(tmp_path: Path, decoder: Decoder) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as output:
        streams = []
        for height in (48, 96, 64):
            stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 160, height, "yuv420p"
            streams.append(stream)
        for stream in streams:
            for number in range(25):
                picture = av.VideoFrame.from_ndarray(np.full((stream.height, 160, 3), 10 * stream.index, np.uint8))
                picture.pts = number
                output.mux(stream.encode(picture))
            output.mux(stream.encode(None))
    info = probe(path, decoder=decoder)
    assert info.num_streams == 3
    assert info.video is not None
    assert (info.video.stream_index, info.video.height) == (1, 96)


def test_a_duration_that_a_whole_file_only_claims_is_no_loss(
    tmp_path: Path, clip: Path, status_of: Callable[[Path], tuple[Status, str]]
) -> None:
    content = bytearray(clip.read_bytes())
    field = content.index(b"mvhd") + 20  # version 0: duration after the times and the time scale
    content[field : field + 4] = (10 * 3600 * 1000).to_bytes(4, "big")
    path = tmp_path / "claims.mp4"
    path.write_bytes(content)
    assert status_of(path)[0] is Status.OK


def test_damage_in_the_middle_leaves_out_everything_up_to_the_next_keyframe(
    tmp_path: Path, backbones: list, decoder: Decoder
) -> None:
    options = {"g": "25", "bf": "0", "sc_threshold": "0"}
    whole = write_media(tmp_path / "whole.mp4", instants=steady(100, 25), codec_options=options)
    content = bytearray(whole.read_bytes())
    with av.open(str(whole)) as opened:
        positions = [packet.pos for packet in opened.demux(video=0) if packet.size]
    for number in range(30, 33):  # of the second group of 25; the grid asks for frames 12, 37, 62 and 87
        content[positions[number] : positions[number] + 4] = b"\xff\xff\xff\xff"
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    features = extract_file(path, backbones[:1], decoder=decoder)
    status, message = file_status(features)
    assert status is Status.DAMAGED, message
    events = decoder.decode(path, frames=[FramesWanted(1.0, 64)])
    found = [
        number for event in events if isinstance(event, FramesChunk) for number in read_barcodes(event.frames.frames)
    ]
    assert found == [12, 62, 87]
    assert np.allclose(features["test_resnet"].times[:, 0], [0.48, 2.48, 3.48])


def test_sound_alone_is_used(sound_only: Path, backbones: list, decoder: Decoder) -> None:
    features = extract_file(sound_only, backbones, decoder=decoder)
    assert features["test_resnet"].status is Status.NO_VIDEO
    assert features["logmel_avlnet"].status is Status.OK
    assert file_status(features) == (Status.OK, "")
    info = probe(sound_only, decoder=decoder)
    assert (info.status, info.video_status, info.audio_status) == (Status.NO_VIDEO, Status.NO_VIDEO, Status.OK)


def test_pictures_alone_are_used(silent_clip: Path, backbones: list, decoder: Decoder) -> None:
    features = extract_file(silent_clip, backbones, decoder=decoder)
    assert features["logmel_avlnet"].status is Status.NO_AUDIO
    assert file_status(features) == (Status.OK, "")


def test_a_cover_picture_is_no_video(tmp_path: Path, backbones: list, decoder: Decoder) -> None:
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as output:
        sound = output.add_stream("libmp3lame", rate=16_000, layout="mono")
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(click_track(1.0, 16_000, at=[0.5]), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24").reformat(
            format="yuvj420p"
        )
        output.mux([*cover.encode(picture), *cover.encode(None), *sound.encode(frame), *sound.encode(None)])
    features = extract_file(path, backbones, decoder=decoder)
    assert features["test_resnet"].status is Status.NO_VIDEO
    assert features["logmel_avlnet"].status is Status.OK


def test_a_file_that_changes_while_it_is_read_is_left_for_the_next_run(
    tmp_path: Path, clip: Path, backbones: list, decoder: Decoder
) -> None:
    path = tmp_path / "growing.mp4"
    path.write_bytes(clip.read_bytes())

    class Slow(Decoder):
        def decode(self, *args: Any, **asked: Any) -> Any:
            for event in super().decode(*args, **asked):
                with path.open("ab") as stream:
                    stream.write(b"more")
                yield event

    with Slow() as slow:
        features = extract_file(path, backbones[:1], decoder=slow)
    status, _ = file_status(features)
    assert status is Status.CHANGED
    assert status.outcome is Outcome.PENDING


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_never_raise_and_never_hang(
    tmp_path: Path, clip: Path, backbones: list, decoder: Decoder, data: st.DataObject
) -> None:
    content = bytearray(clip.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(1, len(content)))
    path = tmp_path / "flipped.mp4"
    path.write_bytes(content[:length])
    check_features(extract_file(path, backbones[:1], decoder=decoder), backbones[:1])
