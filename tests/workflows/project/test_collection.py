"""Which videos a collection has, what is said of them, and how they are cut into clips."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from frameloom import ConfigError
from frameloom.workflows.project.collection import Span, Video, clips_of, discover, dropped_spans, readable_path
from frameloom.workflows.project.units import windows_of
from hypothesis import given, settings
from hypothesis import strategies as st


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def names(found: Any) -> list[str]:
    return [video.video for video in found.videos]


def test_folder_finds_videos_in_subfolders_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path / "v", "b.mp4", "a/c & d.MKV", "notes.txt", ".hidden/x.mp4", "-i.mp4")
    found = discover(["v"], captions=None, base=tmp_path)
    assert names(found) == ["v/-i.mp4", "v/a/c & d.MKV", "v/b.mp4"]


def test_glob_and_single_file(tmp_path: Path) -> None:
    touch(tmp_path / "v", "b.mp4", "a/c.mp4")
    assert names(discover(["v/**/c.mp4"], captions=None, base=tmp_path)) == ["v/a/c.mp4"]
    assert names(discover(["v/b.mp4"], captions=None, base=tmp_path)) == ["v/b.mp4"]


def test_captions_join_by_path_relative_to_the_manifest(tmp_path: Path) -> None:
    touch(tmp_path / "data" / "v", "a.mp4", "b.mp4")
    rows = [
        {"video": "v/a.mp4", "captions": ["one", "two"], "split": "train", "views": 3},
        {"video": "v/a.mp4", "captions": "three", "split": "train"},
        {"video": "v/gone.mp4", "captions": []},
    ]
    manifest = jsonl(tmp_path / "data" / "captions.jsonl", rows)
    found = discover(["data/v"], captions=manifest, base=tmp_path)
    assert found.unmatched == ("v/gone.mp4",)
    assert found.texts() == ["one", "two", "three"]
    assert found.texts(split="test") == []
    assert found.metadata_types == {"views": "int64"}
    (clip,) = clips_of(found.videos[0], 5.0, units=windows_of(5.0, length=8))
    assert (clip.captions, clip.split, clip.metadata) == (("one", "two", "three"), "train", {"views": 3})


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_manifest_is_a_collection(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"video": "a.mp4", "caption": "one", "start_seconds": 1.0, "end_seconds": 2.5, "split": "test"},
        {"video": "a.mp4", "caption": "two", "start_seconds": 4.0, "end_seconds": 6.0, "split": "test"},
    ]
    path = tmp_path / f"m{suffix}"
    if suffix == ".csv":
        lines = [",".join(rows[0])] + [",".join(map(str, row.values())) for row in rows]
        path.write_text("\n".join(lines))
    elif suffix == ".jsonl":
        jsonl(path, rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    found = discover([str(path)], captions=None, base=tmp_path)
    assert names(found) == ["a.mp4"]
    clips = clips_of(found.videos[0], 5.0, units=windows_of(5.0, length=8))
    assert [(clip.start_seconds, clip.end_seconds, clip.captions) for clip in clips] == [
        (1.0, 2.5, ("one",)),
        (4.0, 5.0, ("two",)),
    ]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"video": "v/a.mp4"}], ["row 1", "captions", "found video"]),
        ([{"captions": ["x"]}], ["row 1", "no column `video`"]),
        ([{"video": 3, "captions": []}], ["row 1", "must be a path"]),
        ([{"video": "v/a.mp4", "captions": [1]}], ["row 1", "list of sentences"]),
        ([{"video": "v/a.mp4", "captions": [], "split": "dev"}], ["row 1", "'dev'", "train, val, test"]),
        ([{"video": "v/a.mp4", "captions": [], "start_seconds": "x"}], ["row 1", "start_seconds", "'x'"]),
        ([{"video": "v/a.mp4", "captions": [], "start_seconds": 5, "end_seconds": 4}], ["row 1", "not after"]),
        ([{"video": "a.mp4", "captions": ["x"]}], ["none of its 1 rows", "relative to the manifest", "v/a.mp4"]),
        (
            [{"video": "v/a.mp4", "captions": ["x"], "split": s} for s in ("train", "test")],
            ["more than one split"],
        ),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[dict[str, Any]], words: list[str]) -> None:
    touch(tmp_path / "v", "a.mp4")
    manifest = jsonl(tmp_path / "captions.jsonl", rows)
    with pytest.raises(ConfigError) as caught:
        discover(["v"], captions=manifest, base=tmp_path)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["nowhere"], ["nowhere", "does not exist"]),
        (["empty"], ["no videos found", ".mp4"]),
        (["v", "v/in"], ["overlap"]),
        (["v", "w/v"], ["one name"]),
        (["v/*.mkv"], ["no videos found"]),
    ],
)
def test_bad_sources_are_named(tmp_path: Path, sources: list[str], words: list[str]) -> None:
    touch(tmp_path, "v/a.mp4", "v/in/b.mp4", "w/v/c.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        discover(sources, captions=None, base=tmp_path)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("content", [b'{"video": ', b"\xff\xfe\x00", b"[1]"])
def test_broken_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    touch(tmp_path / "v", "a.mp4")
    (tmp_path / "c.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.jsonl"):
        discover(["v"], captions="c.jsonl", base=tmp_path)


@settings(deadline=None)
@given(
    duration=st.floats(0.01, 10_000, allow_nan=False),
    clip_seconds=st.one_of(st.none(), st.floats(0.5, 600, allow_nan=False)),
)
def test_windows_cover_the_video_once(duration: float, clip_seconds: float | None) -> None:
    clips = clips_of(Video(video="a", path=Path("a")), duration, units=windows_of(duration, length=clip_seconds))
    assert clips[0].start_seconds == 0
    assert clips[-1].end_seconds == duration
    assert all(one.end_seconds == two.start_seconds for one, two in pairwise(clips))
    assert all(clip.start_seconds < clip.end_seconds for clip in clips)
    if clip_seconds is not None and len(clips) > 1:
        longest = max(clip.end_seconds - clip.start_seconds for clip in clips)
        assert longest <= 1.5 * clip_seconds * (1 + 1e-9)
    assert len({clip.clip_id for clip in clips}) == len(clips)


def test_spans_are_cut_at_the_end_and_joined_when_equal() -> None:
    spans = (
        Span(captions=("a",), start_seconds=0.0, end_seconds=4.0),
        Span(captions=("b",), start_seconds=0.0, end_seconds=4.0),
        Span(captions=("c",), start_seconds=8.0, end_seconds=20.0),
        Span(captions=("d",), start_seconds=30.0, end_seconds=31.0),
    )
    clips = clips_of(Video(video="a", path=Path("a"), spans=spans), 10.0, units=windows_of(10.0, length=2))
    assert [(clip.start_seconds, clip.end_seconds, clip.captions) for clip in clips] == [
        (0.0, 4.0, ("a", "b")),
        (8.0, 10.0, ("c",)),
    ]


@settings(deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=6).map(lambda raw: raw.translate(None, b"/\0.")), min_size=2, unique=True)
)
def test_readable_paths_are_as_many_as_paths(raw_names: list[bytes]) -> None:
    paths = {os.fsdecode(raw) for raw in raw_names}
    assert len({readable_path(path) for path in paths}) == len(paths)
    assert all(readable_path(path).encode() for path in paths if path)


def test_readable_path_spells_out_only_what_it_must(tmp_path: Path) -> None:
    assert readable_path("v/été & d.mp4") == "v/été & d.mp4"
    assert readable_path(Path(os.fsdecode(b"v/bad\xff.mp4"))) == r"v/bad\xff.mp4"
    touch(tmp_path / "v", r"bad\xff.mp4", os.fsdecode(b"bad\xff.mp4"), os.fsdecode(b"bad\xfe.mp4"))
    found = discover(["v"], captions=None, base=tmp_path)
    assert names(found) == [r"v/bad\\xff.mp4", r"v/bad\xfe.mp4", r"v/bad\xff.mp4"]
    assert all(video.path.exists() for video in found.videos)


def of(found: Any, name: str) -> Video:
    return next(video for video in found.videos if video.video == name)


def split_collection(folder: Path, videos: list[dict[str, Any]], captions: list[dict[str, Any]]) -> Any:
    """A collection of a videos manifest and a captions manifest, both of a.mp4."""
    manifest = jsonl(folder / "videos.jsonl", [{"video": "a.mp4", **row} for row in videos])
    said = jsonl(folder / "captions.jsonl", [{"video": "a.mp4", "captions": ["x"], **row} for row in captions])
    return discover([manifest], captions=said if captions else None, base=folder)


PART = {"start_seconds": 1, "end_seconds": 2}
SAME_PART = {"start_seconds": 1.0001, "end_seconds": 1.9999}
OTHER_PART = {"start_seconds": 3, "end_seconds": 4}
TRAIN, TEST = {"split": "train"}, {"split": "test"}


@pytest.mark.parametrize(
    ("videos", "captions"),
    [
        ([TRAIN, TEST], []),
        ([TRAIN], [TEST]),
        ([{}], [TRAIN, TEST]),
        ([PART | TRAIN, PART | TEST], []),
        ([PART | TRAIN, SAME_PART | TEST], []),
        ([PART | TRAIN], [PART | TEST]),
        ([TRAIN], [PART | TEST]),
        ([{}], [PART | TRAIN, OTHER_PART | TEST, {}]),
    ],
)
def test_no_video_and_no_span_is_in_two_splits(
    tmp_path: Path, videos: list[dict[str, Any]], captions: list[dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError, match=r"a\.mp4.*more than one split: test, train"):
        split_collection(tmp_path, videos, captions)


@pytest.mark.parametrize(
    ("videos", "captions", "splits"),
    [
        ([TEST], [{}], ["test"]),
        ([{}], [TEST], ["test"]),
        ([{}, TEST], [{}], ["test"]),
        ([TEST], [PART, OTHER_PART], ["test", "test"]),
        ([TEST], [PART | TEST, PART], ["test"]),
        ([{}], [PART, PART | TEST, OTHER_PART | TRAIN], ["test", "train"]),
        ([{}], [PART, OTHER_PART | TEST], [None, "test"]),
        ([{}], [{}, PART | TEST], ["test", "test"]),
    ],
)
def test_rows_without_a_split_go_along(
    tmp_path: Path, videos: list[dict[str, Any]], captions: list[dict[str, Any]], splits: list[str | None]
) -> None:
    found = split_collection(tmp_path, videos, captions)
    clips = clips_of(found.videos[0], 4.0, units=windows_of(4.0, length=8))
    assert [clip.split for clip in clips] == splits
    assert (found.texts(split="train") == []) is (set(splits) == {"test"})


def test_spans_that_the_end_makes_one_are_not_in_two_splits() -> None:
    spans = tuple(Span(start_seconds=8.0, end_seconds=end, split=split) for end, split in ((20, "train"), (30, "test")))
    video = Video(video="a", path=Path("a"), spans=spans)
    assert len(clips_of(video, 25.0, units=windows_of(25.0, length=8))) == 2
    with pytest.raises(ConfigError, match="'a' from 8 to 10 s is in more than one split"):
        clips_of(video, 10.0, units=windows_of(10.0, length=8))


def test_row_of_the_whole_video_tells_of_its_spans(tmp_path: Path) -> None:
    found = split_collection(tmp_path, [{"views": 3, "lang": "en"}], [PART | {"lang": "de"}, OTHER_PART])
    clips = clips_of(found.videos[0], 10.0, units=windows_of(10.0, length=8))
    assert [clip.start_seconds for clip in clips] == [1.0, 3.0]
    assert [clip.metadata for clip in clips] == [{"views": 3, "lang": "de"}, {"views": 3, "lang": "en"}]


def test_metadata_are_values_that_columns_hold(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(
        '{"video": "a.mp4", "nan": NaN, "inf": -Infinity, "ok": 1.5, "big": 9223372036854775808, "list": [1, "x"]}\n'
        '{"video": "b.mp4", "big": -9223372036854775808}'
    )
    found = discover(["m.jsonl"], captions=None, base=tmp_path)
    (row,) = found.videos[0].spans
    expected = {"nan": None, "inf": None, "ok": 1.5, "big": "9223372036854775808", "list": '[1, "x"]'}
    assert dict(row.metadata) == expected
    assert found.metadata_types == {"ok": "double", "big": "string", "list": "string"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (r'{"video": "a\ud800.mp4", "captions": []}', ["row 2", "video", "surrogate"]),
        (r'{"video": "v/a.mp4", "captions": ["x \udcff"]}', ["row 2", "captions", "surrogate"]),
        (r'{"video": "v/a.mp4", "caption": "x \udcff"}', ["row 2", "caption", "surrogate"]),
        (r'{"video": "v/a.mp4", "caption": "[\"\\ud800\"]"}', ["row 2", "caption", "surrogate"]),
        (r'{"video": "v/a.mp4", "caption": "x", "note": "\ud800"}', ["row 2", "note", "surrogate"]),
        ('{"video": "v/a.mp4", "caption": "x", "n": ' + "1" * 5000 + "}", ["row 2", "digits"]),
        ('{"video": "v/a.mp4", "caption": "[' + "1" * 5000 + ']"}', ["row 2", "digits"]),
        ('{"video": "v/a.mp4", "caption": "' + "[" * 100_000 + '"}', ["row 2", "nested"]),
        ('{"video": "v/a.mp4", "captions": ' + "[" * 100_000 + "}", ["row 2", "JSON"]),
        ('{"video": "v/a.mp4", "captions": {"x": "y"}}', ["row 2", "list of sentences", "{'x': 'y'}"]),
        ('{"video": "v/a.mp4", "captions": 3}', ["row 2", "list of sentences"]),
        ('{"video": "s3://bucket/a.mp4", "captions": []}', ["row 2", "s3://bucket/a.mp4", "only local"]),
        ('{"video": "v/a.mp4", "captions": [], "start_seconds": 1e308}', ["row 2", "start_seconds", "1e+308"]),
        (
            '{"video": "v/a.mp4", "captions": [], "start_seconds": 1.0, "end_seconds": 1.0001}',
            ["row 2", "shorter than a millisecond"],
        ),
    ],
)
def test_rows_that_cannot_be_kept_are_named(tmp_path: Path, row: str, words: list[str]) -> None:
    touch(tmp_path / "v", "a.mp4")
    (tmp_path / "c.jsonl").write_text('{"video": "v/a.mp4", "captions": []}\n' + row)
    with pytest.raises(ConfigError) as caught:
        discover(["v"], captions="c.jsonl", base=tmp_path)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert str(caught.value).encode()


@pytest.mark.parametrize(
    ("row", "captions"),
    [
        ({"captions": None, "caption": "x"}, ("x",)),
        ({"captions": "", "caption": "x"}, ("x",)),
        ({"captions": ["y"], "caption": "x"}, ("y",)),
        ({"captions": [], "caption": "x"}, ()),
        ({"captions": None}, ()),
        ({"caption": "[not a list"}, ("[not a list",)),
        ({"caption": '["x", "y"]'}, ("x", "y")),
    ],
)
def test_caption_stands_in_for_captions(tmp_path: Path, row: dict[str, Any], captions: tuple[str, ...]) -> None:
    touch(tmp_path / "v", "a.mp4")
    manifest = jsonl(tmp_path / "c.jsonl", [{"video": "v/a.mp4", **row}])
    (video,) = discover(["v"], captions=manifest, base=tmp_path).videos
    assert video.spans[0].captions == captions


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [
        (["1", "", "-20"], "int64", [1, None, -20]),
        (["1", "2.5", " "], "double", [1.0, 2.5, None]),
        (["1e-3", "nan", ".5"], "double", [0.001, None, 0.5]),
        (["true", "False", ""], "bool", [True, False, None]),
        (["true", "1", ""], "string", ["true", "1", None]),
        (["007", "8", ""], "string", ["007", "8", None]),
        (["+31612345678", "8", ""], "string", ["+31612345678", "8", None]),
        (["9223372036854775807", "0", ""], "int64", [2**63 - 1, 0, None]),
        (["9223372036854775808", "0", ""], "string", ["9223372036854775808", "0", None]),
        (["1" * 5000, "0", ""], "string", ["1" * 5000, "0", None]),
        (["1_000", "0", ""], "string", ["1_000", "0", None]),
        (["", " ", ""], None, [None, None, None]),
    ],
)
def test_csv_columns_have_types(tmp_path: Path, texts: list[str], kind: str | None, values: list[Any]) -> None:
    rows = [f"{number}.mp4,{text},2024" for number, text in enumerate(texts)]
    (tmp_path / "m.csv").write_text("\n".join(["video,value,caption", *rows]), encoding="utf-8")
    found = discover(["m.csv"], captions=None, base=tmp_path)
    assert found.metadata_types == ({} if kind is None else {"value": kind})
    got = [video.spans[0].metadata["value"] for video in found.videos]
    assert got == values
    assert [type(one) for one in got] == [type(one) for one in values]
    assert found.texts() == ["2024"]


def test_duplicate_columns_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "m.csv").write_text("video,split,split\na.mp4,train,test\n")
    pq.write_table(
        pa.table([["a.mp4"], ["train"], ["test"]], names=["video", "split", "split"]), tmp_path / "m.parquet"
    )
    for name in ("m.csv", "m.parquet"):
        with pytest.raises(ConfigError, match=rf"{name}.*duplicate column 'split'"):
            discover([name], captions=None, base=tmp_path)


def test_spans_are_one_when_they_are_in_milliseconds() -> None:
    spans = tuple(
        Span(captions=(name,), start_seconds=start, end_seconds=end)
        for name, start, end in (("b", 1.0004, 2.0), ("a", 1.0, 1.9996), ("c", 1.001, 2.0))
    )
    clips = clips_of(Video(video="a", path=Path("a"), spans=spans), 10.0, units=windows_of(10.0, length=2))
    assert [(clip.start_seconds, clip.end_seconds, clip.captions) for clip in clips] == [
        (1.0, 2.0, ("b", "a")),
        (1.001, 2.0, ("c",)),
    ]
    assert clips == clips_of(
        Video(video="a", path=Path("a"), spans=(*spans, spans[1])), 10.0, units=windows_of(10.0, length=2)
    )


@settings(deadline=None)
@given(
    bounds=st.lists(st.tuples(st.floats(0, 12), st.one_of(st.none(), st.floats(0, 12))), min_size=1),
    duration=st.floats(0.01, 12),
)
def test_clips_of_spans_have_names_of_their_own(bounds: list[tuple[float, float | None]], duration: float) -> None:
    spans = tuple(
        Span(start_seconds=start, end_seconds=None if length is None else start + 0.002 + length)
        for start, length in bounds
    )
    video = Video(video="a", path=Path("a"), spans=spans)
    clips = clips_of(video, duration, units=windows_of(duration, length=8))
    assert len({clip.clip_id for clip in clips}) == len(clips)
    assert all(0 <= clip.start_seconds < clip.end_seconds <= duration for clip in clips)
    assert bool(clips) or dropped_spans(video, duration) > 0


def test_spans_beyond_the_end_are_counted() -> None:
    bounds = ((0.0, 4.0), (9.0, None), (10.0, None), (12.0, 13.0), (12.0001, 13.0), (9.9996, 11.0))
    spans = tuple(Span(captions=("x",), start_seconds=start, end_seconds=end) for start, end in bounds)
    video = Video(video="a", path=Path("a"), spans=(*spans, Span(captions=("whole",))))
    assert dropped_spans(video, 10.0) == 3
    assert dropped_spans(video, 20.0) == 0
    assert dropped_spans(Video(video="a", path=Path("a")), 1.0) == 0
    assert len(clips_of(video, 10.0, units=windows_of(10.0, length=8))) == 3


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "v/real/a.mp4", "v/real/sub/b.mp4", "outside/c.mp4", "outside/in/d.mp4")
    for link, target in (
        ("v/again", "real"),
        ("v/real/up", ".."),
        ("v/out", "../outside"),
        ("outside/in/v", "../../v"),
    ):
        (tmp_path / link).symlink_to(target)
    (tmp_path / "v" / "link.mp4").symlink_to("nowhere.mp4")
    expected = ["v/link.mp4", "v/out/c.mp4", "v/out/in/d.mp4", "v/real/a.mp4", "v/real/sub/b.mp4"]
    assert names(discover(["v"], captions=None, base=tmp_path)) == expected
    assert names(discover(["v/**/*.mp4"], captions=None, base=tmp_path)) == expected
    assert names(discover(["v/again/*.mp4"], captions=None, base=tmp_path)) == ["again/a.mp4"]
    with pytest.raises(ConfigError, match="overlaps a folder named before it"):
        discover(["v", "outside"], captions=None, base=tmp_path)
    manifest = jsonl(tmp_path / "c.jsonl", [{"video": "v/again/a.mp4", "captions": ["x"]}])
    found = discover(["v"], captions=manifest, base=tmp_path)
    assert found.unmatched == ()
    assert of(found, "v/real/a.mp4").spans[0].captions == ("x",)


@pytest.mark.parametrize("source", ["v", "v/**/*.mp4", "v/*/*.mp4"])
def test_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    touch(tmp_path, "v/a/x.mp4", "v/b/x.mp4", "v/.hidden/x.mp4")
    original = os.scandir

    def guarded(path: Any) -> Any:
        if Path(path).name in ("b", ".hidden"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(ConfigError, match=r"v/b cannot be read: Permission denied"):
        discover([source], captions=None, base=tmp_path)
    assert names(discover(["v/a*/*.mp4"], captions=None, base=tmp_path)) == ["v/a/x.mp4"]


def test_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "v/a.mp4")
    (tmp_path / "v" / "disk").symlink_to("/no/such/folder")
    with pytest.raises(ConfigError, match=r"v/disk leads nowhere"):
        discover(["v"], captions=None, base=tmp_path)
    assert names(discover(["v/*.mp4"], captions=None, base=tmp_path)) == ["v/a.mp4"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("v/*.mp4", ["v/a.mp4"]),
        ("v/**/*.mp4", ["v/a.mp4", "v/in/b.mp4", "v/in/deep/c.mp4"]),
        ("v/**", ["v/a.mp4", "v/in/b.mp4", "v/in/deep/c.mp4", "v/in/n.txt"]),
        ("v/*/[bc].mp4", ["v/in/b.mp4"]),
        ("v/i?/**/deep/*.mp4", ["v/in/deep/c.mp4"]),
        ("v/**/.h*/*.mp4", ["v/.hid/x.mp4"]),
    ],
)
def test_patterns_mean_what_they_mean_in_a_shell(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touch(tmp_path, "v/a.mp4", "v/in/b.mp4", "v/in/n.txt", "v/in/deep/c.mp4", "v/.hid/x.mp4", "v/.h.mp4")
    assert names(discover([pattern], captions=None, base=tmp_path)) == expected


def test_one_file_of_a_manifest_is_one_video(tmp_path: Path) -> None:
    inside, outside = tmp_path / "m", tmp_path / "other"
    spellings = ["a.mp4", "./a.mp4", "x/../a.mp4", str(inside / "a.mp4")]
    rows = [{"video": name, "caption": name} for name in [*spellings, str(outside / "b.mp4"), "../n/c.mp4"]]
    inside.mkdir()
    for order in (rows, rows[::-1]):
        found = discover([jsonl(inside / "m.jsonl", order)], captions=None, base=tmp_path)
        assert names(found) == ["../n/c.mp4", str(outside / "b.mp4"), "a.mp4"]
        assert sorted(found.texts()) == sorted(row["caption"] for row in rows)
        assert len(of(found, "a.mp4").spans) == 4


def test_two_sources_never_give_one_video_two_names(tmp_path: Path) -> None:
    touch(tmp_path, "v/in/a.mp4", "w/a.mp4")
    manifest = jsonl(tmp_path / "m.jsonl", [{"video": "v/in/a.mp4"}])
    with pytest.raises(ConfigError, match=r"twice.*'in/a\.mp4', 'v/in/a\.mp4'"):
        discover(["v/in", manifest], captions=None, base=tmp_path)
    manifests = [jsonl(tmp_path / name / "m.jsonl", [{"video": "a.mp4"}]) for name in ("v", "w")]
    with pytest.raises(ConfigError, match=r"have one name, 'a\.mp4'"):
        discover(manifests, captions=None, base=tmp_path)


@pytest.mark.parametrize("source", ["https://example.org/a.mp4", "s3://bucket/*.mp4"])
def test_addresses_are_refused(tmp_path: Path, source: str) -> None:
    touch(tmp_path, "v/a.mp4")
    with pytest.raises(ConfigError, match=r"collection\.videos.*only local files"):
        discover(["v", source], captions=None, base=tmp_path)
    with pytest.raises(ConfigError, match=r"collection\.captions.*only local files"):
        discover(["v"], captions="https://example.org/c.csv", base=tmp_path)
