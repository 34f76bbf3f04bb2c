"""Rows are held against the length of their video before they are read, and what is stored against what is given."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom._vocabulary import ExitCode
from frameloom.store.foreign import npy_bytes
from frameloom.workflows.exchange.importing import ImportReport, ImportRequest, import_into
from frameloom.workflows.project.project import Project
from helpers.exchanging import QUIET, contents, files_below
from helpers.projects import make_clip, write_config

DIM = 96  # of test_resnet, whose rows are 1 s apart
SECONDS = 2.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of picture without sound, which the container says as well."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    make_clip(path, colour="red", pitch=None, seconds=SECONDS)
    return path


@pytest.fixture
def given(tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    return folder


@pytest.fixture
def project(tmp_path: Path, clip: Path) -> Project:
    return made(tmp_path / "project", {"v.mp4": clip.read_bytes(), "other.mp4": clip.read_bytes() + b"\0" * 16})


def made(folder: Path, videos: dict[str, bytes], weights: str = "imported:x", **options: Any) -> Project:
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    for name, data in videos.items():
        (folder / "videos" / name).write_bytes(data)
    rows = [{"video": f"videos/{name}", "captions": ["a picture"]} for name in videos]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    video = {"backbone": "test_resnet", "weights": weights, "options": options}
    audio = {"backbone": "logmel_avlnet", "weights": weights}
    write_config(folder, features={"video": video, "audio": audio})
    return Project.open(folder)


def take(project: Project, path: Path, layout: str = "npy", feature: str = "video", **how: Any) -> ImportReport:
    return import_into(project, ImportRequest(path=path, layout=layout, feature=feature, **how), QUIET)


def rows(count: int, *, dim: int = DIM, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float16)


def only_reason(report: ImportReport) -> str:
    ((_, reason),) = report.refused
    assert "\n" not in reason
    assert report.exit_code == ExitCode.FAILURES
    assert not report.imported
    return reason


# Too many rows


def test_more_rows_than_a_video_can_have_are_refused_with_what_would_fit(project: Project, given: Path) -> None:
    np.save(given / "v.npy", rows(100))
    report = take(project, given)
    assert report.refused[0][0] == "v.npy"
    reason = only_reason(report)
    assert "its 100 rows, at 1 a second, end at 100.0 s, and its video at 2.0 s (limit 62.0 s: --allow-length" in reason
    assert "about 50 rows a second would fit" in reason
    assert "rate_hz" in reason
    assert not list(project.store.entries())
    fitting = made_again(project, rate_hz=50.0)
    assert take(fitting, given, rate_hz=50.0).imported == ("videos/v.mp4",)


def made_again(project: Project, **options: Any) -> Project:
    files = {path.name: path.read_bytes() for path in (project.base / "videos").iterdir()}
    return made(project.base, files, **options)


@pytest.mark.parametrize(("count", "is_taken"), [(1, True), (4, True), (5, True), (62, True), (63, False)])
def test_rows_that_overhang_are_taken_up_to_a_minute(count: int, is_taken: bool, project: Project, given: Path) -> None:
    np.save(given / "v.npy", rows(count))
    report = take(project, given)
    assert bool(report.imported) is is_taken
    assert bool(report.refused) is not is_taken
    assert bool(report.unfit) is (count in (5, 62))


def test_an_import_may_allow_more_or_less(project: Project, given: Path) -> None:
    np.save(given / "v.npy", rows(100))
    assert "(limit 12.0 s: " in only_reason(take(project, given, allow_length=10.0))
    assert take(project, given, allow_length=98.0).imported == ("videos/v.mp4",)
    again = take(project, given, allow_length=98.0)
    assert (again.already, again.exit_code) == (1, ExitCode.OK)
    assert again.unfit
    assert "its 100 rows" in only_reason(take(project, given))


def in_npz(folder: Path) -> dict[str, Any]:
    np.savez_compressed(folder / "v.npz", features=rows(500), other=rows(2))
    return {"path": folder}


def in_npz_by_name(folder: Path) -> dict[str, Any]:
    np.savez_compressed(folder / "v.npz", mine=rows(500), features=rows(2))
    return {"path": folder, "array": "mine"}


def in_pickle(folder: Path) -> dict[str, Any]:
    (folder / "all.pkl").write_bytes(pickle.dumps({"v": rows(500)}))
    return {"path": folder / "all.pkl", "layout": "pickle"}


def in_video_features(folder: Path) -> dict[str, Any]:
    np.save(folder / "v_resnet.npy", rows(500))
    np.save(folder / "v_timestamps_ms.npy", np.arange(500) * 1000.0)
    return {"path": folder, "layout": "video_features"}


def by_a_name_that_is_no_utf8(folder: Path) -> dict[str, Any]:
    (folder / "mapping.csv").write_text("file,video\nn\\\\\\xff.npy,videos/v.mp4\n", encoding="utf-8")
    np.save(Path(os.fsdecode(os.fsencode(folder) + b"/n\\\xff.npy")), rows(500))
    return {"path": folder, "mapping": folder / "mapping.csv"}


@pytest.mark.parametrize("make", [in_npz, in_npz_by_name, in_pickle, in_video_features, by_a_name_that_is_no_utf8])
def test_in_every_layout(make: Any, project: Project, given: Path) -> None:
    assert "its 500 rows, at 1 a second, end at 500.0 s" in only_reason(take(project, **make(given)))


def test_spectrograms_are_counted_along_their_time(project: Project, given: Path) -> None:
    np.savez(given / "v.npz", rows(90 * 100, dim=40).T)
    np.savez(given / "other.npz", rows(2 * 100 + 30, dim=40).T)
    report = take(project, given, feature="audio", transposed=True)
    assert report.imported == ("videos/other.mp4",)
    assert "its 9,000 rows, at 100 a second, end at 90.0 s" in report.refused[0][1]


def test_times_that_a_layout_brings_are_held_against_the_video_as_they_are(project: Project, given: Path) -> None:
    np.save(given / "v_resnet.npy", rows(4))
    np.save(given / "v_timestamps_ms.npy", np.array([0, 1000.0, 2000.0, 90000.0]))
    assert "its 4 rows, at 1 a second, end at 91.0 s" in only_reason(take(project, given, "video_features"))


# Bombs


def bomb(path: Path, shape: tuple[int, int], *, packed: int = zipfile.ZIP_DEFLATED) -> None:
    """An .npz that unpacks to zeros."""
    size = shape[0] * shape[1] * 2
    head = npy_bytes(np.zeros((0, 0), np.float16)).replace(b"'shape': (0, 0), }", f"'shape': {shape}, }}".encode())
    head = head[:10] + head[10:].split(b"}")[0] + b"}" + b" " * 20
    body = head[10:].ljust(117) + b"\n"
    head = head[:8] + len(body).to_bytes(2, "little") + body
    with zipfile.ZipFile(path, "w", packed, compresslevel=9) as archive, archive.open("features.npy", "w") as file:
        file.write(head)
        for first in range(0, size, 1 << 20):
            file.write(bytes(min(1 << 20, size - first)))


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("shape", [(300_000, DIM), (300_000, DIM + 1), (DIM, 300_000)], ids=str)
def test_what_a_video_cannot_have_is_refused_before_it_is_unpacked(
    shape: tuple[int, int], dry_run: bool, project: Project, given: Path
) -> None:
    bomb(given / "v.npz", shape)
    assert (given / "v.npz").stat().st_size < 200_000
    take(project, given, dry_run=True)  # what is loaded once is loaded
    tracemalloc.start()
    try:
        reason = only_reason(take(project, given, dry_run=dry_run))
        assert tracemalloc.get_traced_memory()[1] < 6_000_000
    finally:
        tracemalloc.stop()
    assert ("its 300,000 rows" in reason) or (str(shape) in reason)


def test_a_damaged_end_is_not_found_in_what_is_refused_by_its_header(project: Project, given: Path) -> None:
    """Nothing after the header is read."""
    bomb(given / "v.npz", (300_000, DIM))
    data = bytearray((given / "v.npz").read_bytes())
    data[-2000] ^= 0xFF
    (given / "v.npz").write_bytes(data)
    assert "its 300,000 rows" in only_reason(take(project, given, dry_run=True))


def test_where_no_length_is_known_what_packs_too_well_is_refused(
    tmp_path: Path, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = made(tmp_path / "project", {"v.mp4": b"no video"})
    bomb(given / "v.npz", (300_000, DIM))
    monkeypatch.setattr("frameloom.workflows.exchange.lengths.MAX_UNPACKED_BYTES", 10_000_000)
    reason = only_reason(take(project, given))
    assert "unpack to 57.6 MB (300,000 x 96), and the length of its video is unknown" in reason
    bomb(given / "v.npz", (300_000, DIM), packed=zipfile.ZIP_STORED)
    assert take(project, given, dry_run=True).imported == ("videos/v.mp4",)


def test_a_length_that_nothing_tells_is_told(tmp_path: Path, given: Path) -> None:
    project = made(tmp_path / "project", {"v.mp4": b"no video"})
    np.save(given / "v.npy", rows(500))
    report = take(project, given)
    assert report.imported == ("videos/v.mp4",)
    assert report.unmeasured == ("videos/v.mp4",)
    assert report.model_dump(mode="json")["unmeasured"] == ["videos/v.mp4"]
    assert "1 are of unknown length, and any number of rows is taken for them" in "\n".join(report.lines())


# Too few rows


def test_rows_that_end_long_before_their_video_are_taken_and_told(tmp_path: Path, given: Path) -> None:
    make_clip(tmp_path / "long.mp4", colour="green", pitch=None, seconds=30)
    project = made(tmp_path / "project", {"v.mp4": (tmp_path / "long.mp4").read_bytes()})
    np.save(given / "v.npy", rows(10))
    report = take(project, given)
    assert report.imported == ("videos/v.mp4",)
    assert report.exit_code == ExitCode.OK
    ((origin, told),) = report.unfit
    assert origin == "v.npy"
    assert "its 10 rows, at 1 a second, end at 10.0 s, and its video at 30.0 s" in told
    assert "about 0.333 rows a second would fit" in told
    assert "1 were taken and are not as long as their video, such as 'v.npy'" in "\n".join(report.lines())
    assert report.model_dump(mode="json")["unfit"] == [{"path": "v.npy", "message": told}]
    for count, is_short in ((26, True), (27, False), (32, False)):
        np.save(given / "v.npy", rows(count))
        fresh = made(tmp_path / f"of {count}", {"v.mp4": (tmp_path / "long.mp4").read_bytes()})
        assert bool(take(fresh, given).unfit) is is_short


# What is stored already


def test_other_numbers_under_the_same_name_are_refused_and_what_is_stored_stays(project: Project, given: Path) -> None:
    for one in ("v", "other"):
        np.save(given / f"{one}.npy", rows(2))
    assert len(take(project, given).imported) == 2
    before, files = contents(project), files_below(project.root / "test_resnet")
    again = take(project, given)
    assert (again.imported, again.already, again.refused) == ((), 2, ())
    np.save(given / "v.npy", rows(2, seed=1))
    for dry_run in (True, False):
        report = take(project, given, dry_run=dry_run)
        assert (report.already, report.exit_code) == (1, ExitCode.FAILURES)
        assert "other numbers (2 rows, imported from npy: v.npy) are stored" in only_reason(report)
        assert "`weights: imported:NAME`" in only_reason(report)
    assert contents(project) == before
    assert files_below(project.root / "test_resnet") == files
    other = made_again(project, weights="imported:y")
    assert len(take(other, given).imported) == 2


def test_a_file_that_became_bad_is_told(project: Project, given: Path) -> None:
    np.save(given / "v.npy", rows(2))
    take(project, given)
    (given / "v.npy").write_bytes(b"bad")
    assert "not a .npy file" in only_reason(take(project, given))


def test_another_number_of_rows_is_told(project: Project, given: Path) -> None:
    np.save(given / "v.npy", rows(2))
    take(project, given)
    np.save(given / "v.npy", rows(3))
    assert "other numbers (2 rows" in only_reason(take(project, given))


# The module


def test_the_package_runs_as_a_module() -> None:
    commands = ([sys.executable, "-m", "frameloom"], [sys.executable, "-m", "frameloom.workflows.cli"])
    told = [
        subprocess.run([*one, "import", "--help"], capture_output=True, text=True, check=True).stdout
        for one in commands
    ]
    assert "Take features that you already have" in told[0]
    assert told[0].partition("\n\n")[2] == told[1].partition("\n\n")[2]
    done = subprocess.run([*commands[0], "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.USAGE
