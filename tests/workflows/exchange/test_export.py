"""Export: other programs read it, nothing is left out or merged, nothing is written over."""

from __future__ import annotations

import json
import shutil
import tarfile
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from frameloom._files import FailPointError
from frameloom._vocabulary import ConfigError, ExitCode, IntegrityError, OutOfSpaceError
from frameloom.workflows.cli.app import app
from frameloom.workflows.exchange import exporting
from frameloom.workflows.exchange.exporting import FORMATS, export
from frameloom.workflows.exchange.records import MANIFEST, file_names, read_manifest
from frameloom.workflows.project.project import Project
from helpers.exchanging import (
    MISSING,
    NAMES,
    PENDING,
    QUIET,
    SILENT,
    configure,
    contents,
    feature_of,
    files_below,
    fill,
    make_files,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

# The reader of others leaves its files open.
LEAVES_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
EVERY = [pytest.param(one, id=one) for one in FORMATS]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose store holds features; nothing may be changed in it."""
    folder = tmp_path_factory.mktemp("export") / "project"
    folder.mkdir()
    make_files(folder)
    fill(Project.open(configure(folder)))
    return folder


@pytest.fixture
def project(filled: Path) -> Project:
    return Project.open(filled, read_only=True)


def expected(project: Project, name: str) -> dict[str, Any]:
    return {str(want.modality): feature_of(name, want.spec) for want in project.media}


@pytest.mark.parametrize("format", EVERY)
def test_the_manifest_lists_every_video_and_feature_with_its_status(
    format: str, project: Project, tmp_path: Path
) -> None:
    report = export(project, tmp_path / "out", format=format, console=QUIET)
    _, records = read_manifest(tmp_path / "out" / MANIFEST)
    of_videos = [(one.feature, one.video) for one in records if one.video]
    assert sorted(of_videos) == sorted((kind, name) for kind in ("video", "audio") for name in (*NAMES, MISSING))
    statuses = {(one.feature, one.key): one.status for one in records}
    assert statuses["audio", SILENT] == "no_audio"
    assert statuses["video", PENDING] == statuses["audio", PENDING] == "pending"
    assert statuses["video", MISSING] == "missing"
    assert {one.caption for one in records if one.caption} == set(project.collection.texts())
    assert report.exit_code == ExitCode.FAILURES
    assert report.statuses["video"] == {"ok": len(NAMES) - 2, "truncated": 1, "pending": 1, "missing": 1}


def test_npy_files_are_one_for_each_video_and_plain(project: Project, tmp_path: Path) -> None:
    export(project, tmp_path / "out", format="npy", console=QUIET)
    _, records = read_manifest(tmp_path / "out" / MANIFEST)
    held = [one for one in records if one.num_rows]
    assert len({one.file for one in held}) == len(held)
    for one in held:
        values = np.load(tmp_path / "out" / str(one.file), allow_pickle=False)
        if one.video is None:
            continue
        feature = expected(project, one.video)[one.feature]
        np.testing.assert_array_equal(values, feature.values)
        assert values.dtype == feature.values.dtype
        times = np.load(tmp_path / "out" / str(one.file).replace(".npy", ".times.npy"), allow_pickle=False)
        np.testing.assert_array_equal(times, feature.times)
    files = {one.video: one.file for one in held if one.feature == "video"}
    assert files["videos/fünf — 五 🎬.mp4"] == "video/videos/fünf — 五 🎬.mp4.npy"
    assert PENDING not in files
    assert len({str(files[name]).casefold() for name in files}) == len(files)  # also where case counts for nothing
    assert not [one for one in records if one.file and not one.num_rows]


def test_parquet_is_read_by_others(project: Project, tmp_path: Path) -> None:
    export(project, tmp_path / "out", format="parquet", shard_mb=1, console=QUIET)
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    tables = [pq.read_table(part) for part in parts]
    header = json.loads(tables[0].schema.metadata[b"frameloom"])
    assert header["features"]["video"]["spec"]["name"] == "test_resnet"
    assert str(tables[0].schema.field("values").type) == "list<element: float>"
    rows = [row for table in tables for row in table.to_pylist()]
    for name in NAMES:
        for kind, feature in expected(project, name).items():
            mine = [row for row in rows if row["video"] == name and row["feature"] == kind]
            if name == PENDING or not len(feature.values):
                assert not mine
                continue
            assert [row["index"] for row in mine] == list(range(len(feature.values)))
            np.testing.assert_array_equal([row["values"] for row in mine], feature.values.reshape(len(mine), -1))
            assert [[row["start_seconds"], row["end_seconds"]] for row in mine] == feature.times.tolist()


def test_captions_have_no_times_in_parquet(project: Project, tmp_path: Path) -> None:
    export(project, tmp_path / "out", format="parquet", features=["text"], console=QUIET)
    rows = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert {row["caption"] for row in rows} == set(project.collection.texts())
    assert {row["start_seconds"] for row in rows} == {None}


def read_webdataset(folder: Path) -> list[dict[str, Any]]:
    import webdataset

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    return list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())


@LEAVES_OPEN
def test_webdataset_reads_one_sample_for_each_video(project: Project, tmp_path: Path) -> None:
    export(project, tmp_path / "out", format="webdataset", console=QUIET)
    samples = read_webdataset(tmp_path / "out")
    assert sorted(sample["json"]["video"] for sample in samples) == sorted(set(NAMES) - {PENDING})
    for sample in samples:
        int(sample["__key__"], 16)  # no name of a file, no dots
        name = sample["json"]["video"]
        for kind, feature in expected(project, name).items():
            assert sample["json"]["features"][kind]["status"] == feature.status.value
            if len(feature.values):
                np.testing.assert_array_equal(sample[f"{kind}.npy"], feature.values)
                np.testing.assert_array_equal(sample[f"{kind}.times.npy"], feature.times)
            else:
                assert f"{kind}.npy" not in sample
        assert sample["json"]["captions"] == [f"say {NAMES.index(name)}", "all say"]
        assert sample["text.0.npy"].shape[1] == sample["text.1.npy"].shape[1] == 4
        assert sample["json"]["spans"][0]["split"] in ("train", "test")


@LEAVES_OPEN
def test_shards_are_cut_by_size_and_lose_no_sample(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(project, tmp_path / "one", format="webdataset", console=QUIET)
    monkeypatch.setattr(exporting, "BYTES_A_MB", 12_000 / 128)
    export(project, tmp_path / "many", format="webdataset", console=QUIET)
    assert len(list((tmp_path / "many").glob("*.tar"))) > 3
    keys = [[sample["__key__"] for sample in read_webdataset(tmp_path / one)] for one in ("one", "many")]
    assert keys[0] == keys[1]
    listed = [json.loads(line) for line in (tmp_path / "many" / "samples.jsonl").read_text().splitlines()]
    for line in listed:
        with tarfile.open(tmp_path / "many" / line["shard"]) as tar:
            assert f"{line['key']}.json" in tar.getnames()


@LEAVES_OPEN
def test_clips_hold_their_span_of_every_feature(filled: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(filled, tmp_path / "project", symlinks=True))
    text = configure(folder).read_text(encoding="utf-8")
    (folder / "frameloom.yaml").write_text(
        text.replace("collection:\n", "collection:\n  clip_seconds: 2\n"), encoding="utf-8"
    )
    project = Project.open(folder, read_only=True)
    export(project, tmp_path / "out", format="webdataset", unit="clip", split="train", console=QUIET)
    samples = read_webdataset(tmp_path / "out")
    assert samples
    seen: dict[tuple[str, str], int] = {}
    for sample in samples:
        said = sample["json"]
        assert said["split"] == "train"
        assert "." not in sample["__key__"]
        for kind, feature in expected(project, said["video"]).items():
            middles = feature.times.mean(axis=1) if len(feature.times) else np.zeros(0)
            inside = (middles >= said["start_seconds"]) & (middles < said["end_seconds"])
            held = sample.get(f"{kind}.npy", feature.values[:0])
            np.testing.assert_array_equal(held, feature.values[inside])
            seen[kind, said["video"]] = seen.get((kind, said["video"]), 0) + len(held)
    name = NAMES[0]
    assert seen["video", name] == len(expected(project, name)["video"].values)  # clips lose no row between them


def test_a_split_is_exported_alone(project: Project, tmp_path: Path) -> None:
    export(project, tmp_path / "out", format="npy", split="test", console=QUIET)
    _, records = read_manifest(tmp_path / "out" / MANIFEST)
    assert {one.video for one in records if one.video} == {NAMES[number] for number in range(1, len(NAMES), 2)}
    assert {one.caption for one in records if one.caption} == {
        "all say",
        *(f"say {n}" for n in range(1, len(NAMES), 2)),
    }
    with pytest.raises(ConfigError, match="no video of the collection is in the split 'val'"):
        export(project, tmp_path / "val", format="npy", split="val", console=QUIET)


def test_features_are_chosen_by_their_name_or_that_of_their_backbone(project: Project, tmp_path: Path) -> None:
    for number, name in enumerate(("audio", "logmel_avlnet")):
        report = export(project, tmp_path / str(number), format="npy", features=[name], console=QUIET)
        assert list(report.statuses) == ["audio"]
    with pytest.raises(ConfigError, match=r"no feature 'audoi'.*audio"):
        export(project, tmp_path / "none", format="npy", features=["audoi"], console=QUIET)


# What is there is left alone


@pytest.mark.parametrize("format", EVERY)
def test_a_second_export_finds_everything_done(format: str, project: Project, tmp_path: Path) -> None:
    assert export(project, tmp_path / "out", format=format, console=QUIET).new
    before = files_below(tmp_path / "out")
    assert not export(project, tmp_path / "out", format=format, console=QUIET).new
    assert files_below(tmp_path / "out") == before


def test_other_files_are_not_written_over(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        export(project, out, format="npy", console=QUIET)
    assert files_below(out) == {"mine.txt": b"mine"}


def test_another_export_is_not_written_over(project: Project, tmp_path: Path) -> None:
    export(project, tmp_path / "out", format="npy", features=["audio"], console=QUIET)
    before = files_below(tmp_path / "out")
    with pytest.raises(ConfigError, match="holds another export"):
        export(project, tmp_path / "out", format="npy", features=["video"], console=QUIET)
    assert files_below(tmp_path / "out") == before


def test_the_store_is_not_changed(filled: Path, tmp_path: Path) -> None:
    before = contents(Project.open(filled, read_only=True))
    files = {name for name in files_below(filled / ".frameloom") if ".readers" not in name}
    export(Project.open(filled, read_only=True), tmp_path / "out", format="npy", console=QUIET)
    assert contents(Project.open(filled, read_only=True)) == before
    assert {name for name in files_below(filled / ".frameloom") if ".readers" not in name} == files


@pytest.mark.parametrize("format", EVERY)
@pytest.mark.parametrize("step", ["begun", "half", "synced", "renamed"])
def test_an_export_that_was_stopped_goes_on_to_the_same_files(
    format: str, step: str, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import frameloom._files as commit

    export(project, tmp_path / "clean", format=format, console=QUIET)
    commit._passes.clear()
    nth = 7 if format == "npy" else 1
    monkeypatch.setenv("FRAMELOOM_FAILPOINT", f"rows.{step}:raise:{nth}")
    with pytest.raises(FailPointError):
        export(project, tmp_path / "out", format=format, console=QUIET)
    assert not (tmp_path / "out" / MANIFEST).exists()
    (tmp_path / "out" / ".left.none.1-1.tmp").write_bytes(b"of a process that was killed")
    monkeypatch.delenv("FRAMELOOM_FAILPOINT")
    export(project, tmp_path / "out", format=format, console=QUIET)
    assert files_below(tmp_path / "out") == files_below(tmp_path / "clean")


def test_a_full_disk_is_told_and_gone_on_from(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import frameloom._files as commit

    commit._passes.clear()
    monkeypatch.setenv("FRAMELOOM_FAILPOINT", "rows.half:full:3")
    with pytest.raises(OutOfSpaceError, match="bytes were needed"):
        export(project, tmp_path / "out", format="npy", console=QUIET)
    monkeypatch.delenv("FRAMELOOM_FAILPOINT")
    assert export(project, tmp_path / "out", format="npy", console=QUIET).new


def test_damage_is_never_exported(filled: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(filled, tmp_path / "project", symlinks=True))
    (shard,) = (folder / ".frameloom" / "test_resnet").glob("*.h5")
    (spec,) = [one.spec for one in Project.open(folder, read_only=True).media if one.name == "test_resnet"]
    data = bytearray(shard.read_bytes())
    data[data.index(feature_of(NAMES[0], spec).values.tobytes())] ^= 1
    shard.write_bytes(data)
    with pytest.raises(IntegrityError):
        export(Project.open(folder, read_only=True), tmp_path / "out", format="parquet", console=QUIET)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_an_empty_store_is_told(tmp_path: Path) -> None:
    make_files(tmp_path)
    with pytest.raises(ConfigError, match="run `frameloom extract` first"):
        export(Project.open(configure(tmp_path), read_only=True), tmp_path / "out", format="npy", console=QUIET)
    assert not (tmp_path / "out").exists()


# Names of files

KEYS = st.lists(
    st.one_of(
        st.text(st.sampled_from("aAäÄ.~/ é\u0301"), min_size=1, max_size=8),
        st.sampled_from(["a", "a.npy", "a.npy/b", "a.times", "../x", "/etc/passwd", "..", ".", "a//b", "x" * 300]),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(keys=KEYS)
def test_names_are_safe_and_no_two_are_alike(keys: list[str]) -> None:
    names = file_names(keys)
    assert set(names) == set(keys)
    files = [name + ending for name in names.values() for ending in (".npy", ".times.npy")]
    folded = [unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()) for name in files]
    assert len(set(folded)) == len(folded)
    folders = {str(folder) for name in folded for folder in PurePosixPath(name).parents}
    assert not folders & set(folded)
    for name in files:
        path = PurePosixPath(name)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert all(len(part.encode()) <= 200 for part in path.parts)


def test_ordinary_names_are_kept() -> None:
    names = ["videos/a.mp4", "videos/sub/ü 五.v1.mkv", "b.webm"]
    assert file_names(names) == {name: name for name in names}


# The command


def test_the_command_answers_in_json(filled: Path, tmp_path: Path) -> None:
    arguments = ["export", str(tmp_path / "out"), "--format", "parquet", "-c", str(filled), "--json", "-q"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == ExitCode.FAILURES
    found = json.loads(result.stdout)
    assert found["statuses"]["audio"]["no_audio"] == 1
    assert found["files"] == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--format", "nyp"], "choose npy, parquet or webdataset"),
        (["--per", "clip"], "--per clip goes with --format webdataset"),
        (["--format", "webdataset", "--per", "frame"], "choose video or clip"),
    ],
)
def test_a_wrong_option_is_told(arguments: list[str], told: str, filled: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(tmp_path / "out"), "-c", str(filled), *arguments])
    assert result.exit_code == ExitCode.USAGE
    assert told in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["export", "import"])
def test_help_teaches_by_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"frameloom {command}" in result.stdout.partition("Example")[2]
