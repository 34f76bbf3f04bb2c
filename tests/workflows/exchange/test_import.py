"""Import: every layout gives the right numbers at the right times, nothing is guessed, claimed falsely, or run."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frameloom._vocabulary import ConfigError, ExitCode, InputError, LockedError, Modality, Outcome, Status
from frameloom.store import writer_lock
from frameloom.workflows.cli.app import app
from frameloom.workflows.exchange.exporting import export
from frameloom.workflows.exchange.importing import ImportReport, ImportRequest, import_into
from frameloom.workflows.exchange.records import MANIFEST
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync.survey import survey
from frameloom.workflows.sync.sync import extract_only
from helpers.exchanging import NAMES, PENDING, QUIET, configure, contents, files_below, fill, make_files
from typer.testing import CliRunner

IDS = ("8N4mGHodjss", "jEyaTUyJ-rs", "video9770", "_v.with.dots", "naïve 五")
DIM = 96  # of test_resnet, whose rows are 1 s apart


def make_project(folder: Path, *, ids: tuple[str, ...] = IDS, weights: str = "imported:eao") -> Project:
    make_files(folder, tuple(f"videos/{one}.mp4" for one in ids))
    (folder / "videos" / "gone.mp4").unlink()
    return Project.open(configure(folder, video=weights, audio="imported:eao"))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return make_project(folder)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """The folder of what is imported."""
    folder = tmp_path / "given"
    folder.mkdir()
    return folder


def numbers(name: str, rows: int = 4, *, dim: int = DIM, dtype: Any = np.float16) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).standard_normal((rows, dim)).astype(dtype)


def take(project: Project, path: Path, layout: str = "npy", feature: str = "video", **how: Any) -> ImportReport:
    return import_into(project, ImportRequest(path=path, layout=layout, feature=feature, **how), QUIET)


def stored(project: Project, modality: str = "video") -> dict[str, Any]:
    """The features of a modality by video id."""
    project.store.refresh()
    return {
        entry.key.removeprefix("videos/").removesuffix(".mp4"): project.store.read(entry.fingerprint)
        for entry in project.store.entries()
        if entry.feature == {"video": "test_resnet", "audio": "logmel_avlnet", "text": "word2vec"}[modality]
    }


def lacking(project: Project, modality: Modality = Modality.VIDEO) -> list[str]:
    """Videos of which the survey, and so `sync`, says that this feature must be extracted."""
    wanted = {want.name for want in project.media if want.modality is modality}
    return [state.file.video.video for state in survey(project).videos if wanted & set(state.missing)]


# Layouts


def in_npy(folder: Path, suffix: str = "") -> dict[str, Any]:
    for one in IDS:
        np.save(folder / f"{one}{suffix}.npy", numbers(one))
    return {"suffix": suffix}


def in_npy_2d_beside_3d(folder: Path) -> dict[str, Any]:
    for one in IDS:
        np.save(folder / f"{one}_3d.npy", numbers("other", dim=7))
    return in_npy(folder, "_2d")


def in_npz_features(folder: Path) -> dict[str, Any]:
    for number, one in enumerate(IDS):
        inner = folder / "food" / f"video_{number}"
        inner.mkdir(parents=True)
        np.savez(inner / f"{one}.npz", features=numbers(one), other=np.zeros(3))
    return {}


def in_npz_one_array(folder: Path) -> dict[str, Any]:
    for one in IDS:
        np.savez_compressed(folder / f"{one}_2d.npz", numbers(one))
    return {"suffix": "_2d"}


def in_list_of_dicts(folder: Path) -> dict[str, Any]:
    items = [{"id": one, "2d": numbers(one), "3d": numbers("x", dim=5), "caption": ["a", "b"]} for one in IDS]
    (folder / "msrvtt.pkl").write_bytes(pickle.dumps(items, 2))
    return {"layout": "pickle", "path": folder / "msrvtt.pkl", "array": "2d"}


def in_dict_of_arrays(folder: Path) -> dict[str, Any]:
    (folder / "all.pickle").write_bytes(pickle.dumps({one: numbers(one) for one in IDS}, 5))
    return {"layout": "pickle", "path": folder / "all.pickle"}


def in_dict_of_dicts(folder: Path) -> dict[str, Any]:
    import torch

    data = {one: {"clip": torch.from_numpy(numbers(one)), "length": 4} for one in IDS}
    (folder / "clip.pkl").write_bytes(pickle.dumps(data))
    return {"layout": "pickle", "path": folder / "clip.pkl"}


LAYOUTS: list[Callable[[Path], dict[str, Any]]] = [
    in_npy,
    in_npy_2d_beside_3d,
    in_npz_features,
    in_npz_one_array,
    in_list_of_dicts,
    in_dict_of_arrays,
    in_dict_of_dicts,
]


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_every_layout_gives_its_numbers_a_second_apart(make: Any, project: Project, given: Path) -> None:
    how = {"path": given, **make(given)}
    assert lacking(project) == sorted(f"videos/{one}.mp4" for one in IDS)
    report = take(project, **how)
    assert (len(report.imported), report.refused, report.unmatched, report.without) == (len(IDS), (), (), ())
    assert report.exit_code == ExitCode.OK
    found = stored(project)
    for one in IDS:
        np.testing.assert_array_equal(found[one].values, numbers(one))
        assert found[one].times.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]
        assert found[one].message.startswith("imported from ")
        assert one in found[one].message
    assert not lacking(project)
    again = take(project, **how)
    assert (again.imported, again.already) == ((), len(IDS))


def test_spectrograms_are_turned_and_centred(project: Project, given: Path) -> None:
    for one in IDS:
        np.savez(given / f"{one}_spec.npz", numbers(one, 30, dim=40).T)
    how = {"feature": "audio", "suffix": "_spec"}
    refused = take(project, given, **how)
    assert all("--transposed" in reason for _, reason in refused.refused)
    assert refused.exit_code == ExitCode.FAILURES
    take(project, given, transposed=True, **how)
    found = stored(project, "audio")[IDS[0]]
    np.testing.assert_array_equal(found.values, numbers(IDS[0], 30, dim=40))
    middles = found.times.mean(axis=1)
    np.testing.assert_allclose(middles[1:], np.arange(1, 30) / 100, atol=1e-9)  # where our own spectrogram has them
    assert found.times[0, 0] == 0


def test_video_features_bring_their_times(project: Project, given: Path) -> None:
    for one in IDS:
        np.save(given / f"{one}_resnet.npy", numbers(one).astype(np.float32))
        np.save(given / f"{one}_timestamps_ms.npy", np.arange(4) * 1000.0 + 40)
        np.save(given / f"{one}_fps.npy", np.array(25.0))
    take(project, given, "video_features")
    found = stored(project)
    np.testing.assert_array_equal(found[IDS[0]].values, numbers(IDS[0]))
    np.testing.assert_allclose(found[IDS[0]].times, [[0.04, 0.08], [1.04, 1.08], [2.04, 2.08], [3.04, 3.08]])


def test_video_features_without_times_are_a_row_after_the_other(project: Project, given: Path) -> None:
    for one in IDS:
        np.save(given / f"{one}_s3d.npy", numbers(one))
    take(project, given, "video_features")
    assert stored(project)[IDS[0]].times.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


@pytest.mark.parametrize(
    ("stamps", "told"),
    [
        (np.arange(3) * 1000.0, "are not the times"),
        (np.array([0, 1000, 500, 2000.0]), "go forwards"),
        (np.array([0, np.nan, 2000.0, 3000.0]), "finite"),
        (np.arange(4) * 40.0, "rows 0.04 s apart are not those of test_resnet"),
    ],
)
def test_times_that_cannot_be_are_refused(stamps: Any, told: str, project: Project, given: Path) -> None:
    np.save(given / f"{IDS[0]}_resnet.npy", numbers(IDS[0]))
    np.save(given / f"{IDS[0]}_timestamps_ms.npy", stamps)
    ((_, reason),) = take(project, given, "video_features").refused
    assert told in reason


def test_which_of_several_arrays(project: Project, given: Path) -> None:
    (given / "a.pkl").write_bytes(pickle.dumps([{"id": IDS[0], "2d": numbers("a"), "3d": numbers("b")}]))
    ((_, reason),) = take(project, given / "a.pkl", "pickle").refused
    assert "'2d', '3d'" in reason
    assert "--array" in reason
    for ending in ("rgb", "flow"):
        np.save(given / f"{IDS[0]}_{ending}.npy", numbers(ending))
    with pytest.raises(ConfigError, match=r"rgb, flow are there: .*--array"):
        take(project, given, "video_features")
    take(project, given, "video_features", array="flow")
    np.testing.assert_array_equal(stored(project)[IDS[0]].values, numbers("flow"))


# Round trips


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("import") / "project"
    folder.mkdir()
    make_files(folder)
    fill(Project.open(configure(folder)))
    return folder


def test_what_is_exported_comes_back_as_it_was(filled: Path, tmp_path: Path) -> None:
    export(Project.open(filled, read_only=True), tmp_path / "out", format="npy", console=QUIET)
    fresh = Path(shutil.copytree(filled, tmp_path / "fresh", symlinks=True))
    shutil.rmtree(fresh / ".frameloom")
    (fresh / NAMES[0]).rename(fresh / "videos" / "renamed.mp4")  # content counts, not names
    project = Project.open(fresh)
    for kind in ("video", "audio", "text"):
        report = take(project, tmp_path / "out", "frameloom", kind)
        assert report.exit_code == ExitCode.OK
        assert report.without == ((PENDING,) if kind != "text" else ())
    before = {
        (feature, key.replace(NAMES[0], "videos/renamed.mp4")): told
        for (feature, key), told in contents(Project.open(filled, read_only=True)).items()
        if (feature, key) != ("word2vec", "say 0")  # said of the file that is called otherwise now
    }
    assert contents(project) == before
    assert lacking(project) == lacking(project, Modality.AUDIO) == [PENDING]


def test_extraction_opens_only_what_was_not_imported(filled: Path, tmp_path: Path, decodes: list[str]) -> None:
    export(Project.open(filled, read_only=True), tmp_path / "out", format="npy", console=QUIET)
    fresh = Path(shutil.copytree(filled, tmp_path / "fresh", symlinks=True))
    shutil.rmtree(fresh / ".frameloom")
    for kind in ("video", "audio"):
        take(Project.open(fresh), tmp_path / "out", "frameloom", kind)
    extract_only(Project.open(fresh), QUIET)
    assert decodes == [Path(PENDING).name]


def test_an_export_of_other_weights_needs_a_name_or_a_voucher(filled: Path, tmp_path: Path) -> None:
    export(Project.open(filled, read_only=True), tmp_path / "out", format="npy", features=["video"], console=QUIET)
    fresh = Path(shutil.copytree(filled, tmp_path / "fresh", symlinks=True))
    shutil.rmtree(fresh / ".frameloom")
    text = configure(fresh).read_text(encoding="utf-8")
    (fresh / "frameloom.yaml").write_text(text.replace("backbone: test_resnet", "backbone: test_resnet\n    seed: 5"))
    with pytest.raises(ConfigError, match="the export says test_resnet, seeded:0"):
        take(Project.open(fresh), tmp_path / "out", "frameloom")
    report = take(Project.open(configure(fresh, video="imported:mine")), tmp_path / "out", "frameloom")
    assert len(report.imported) == len(NAMES) - 1


def altered(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    lines = [json.loads(line) for line in (folder / MANIFEST).read_text(encoding="utf-8").splitlines()]
    for line in lines[1:]:
        change(line)
    (folder / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd", "nothing.npy", "video/../../secret.npy"])
def test_a_manifest_reaches_no_file_outside_of_its_folder(name: str, filled: Path, tmp_path: Path) -> None:
    export(Project.open(filled, read_only=True), tmp_path / "out", format="npy", features=["video"], console=QUIET)
    np.save(tmp_path / "secret.npy", numbers("secret"))
    altered(tmp_path / "out", lambda line: line.update(file=name))
    fresh = Path(shutil.copytree(filled, tmp_path / "fresh", symlinks=True))
    shutil.rmtree(fresh / ".frameloom")
    report = take(Project.open(fresh), tmp_path / "out", "frameloom")
    assert not report.imported
    assert ["is not a file of the export" in reason for _, reason in report.refused] == [True] * (len(NAMES) - 1)


def test_an_export_that_was_changed_is_refused(filled: Path, tmp_path: Path) -> None:
    export(Project.open(filled, read_only=True), tmp_path / "out", format="npy", features=["video"], console=QUIET)
    path = tmp_path / "out" / "video" / f"{NAMES[0]}.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    fresh = Path(shutil.copytree(filled, tmp_path / "fresh", symlinks=True))
    shutil.rmtree(fresh / ".frameloom")
    report = take(Project.open(fresh), tmp_path / "out", "frameloom")
    assert [origin for origin, _ in report.refused] == [f"video/{NAMES[0]}.npy"]
    assert "not those that were exported" in report.refused[0][1]
    assert len(report.imported) == len(NAMES) - 2


@pytest.mark.parametrize(
    "change",
    [
        {"status": "splendid"},
        {"num_rows": "many"},
        {"further": 1},
        {"start_seconds": "soon"},
        {"start_seconds": float("nan")},
        {"end_seconds": float("inf")},
        {"end_seconds": 10**400},
        {"start_seconds": True},
        {"num_rows": -1},
        {"num_rows": True},
        {"checksum": "x"},
        {"checksum": -1},
        {"file": 5},
    ],
)
def test_a_manifest_that_says_what_none_of_ours_says_is_refused(
    change: dict[str, Any], filled: Path, tmp_path: Path
) -> None:
    export(Project.open(filled, read_only=True), tmp_path / "out", format="npy", features=["video"], console=QUIET)
    altered(tmp_path / "out", lambda line: line.update(change))
    with pytest.raises(InputError, match=r"manifest\.jsonl is not the manifest of an export"):
        take(Project.open(filled), tmp_path / "out", "frameloom")


@pytest.mark.parametrize(
    "change",
    [
        {"features": {"video": 5}},
        {"features": {"video": {"spec": float("nan")}}},
        {"features": {"video": {"spec": {"name": "\ud800"}}}},
        {"features": {}},
        {"features": []},
        {"format": ["npy"]},
        {"unit": {}},
    ],
)
def test_a_header_that_says_what_none_of_ours_says_is_refused(
    change: dict[str, Any], filled: Path, tmp_path: Path
) -> None:
    export(Project.open(filled, read_only=True), tmp_path / "out", format="npy", features=["video"], console=QUIET)
    header, *records = (tmp_path / "out" / MANIFEST).read_text(encoding="utf-8").splitlines()
    changed = json.dumps({**json.loads(header), **change})
    (tmp_path / "out" / MANIFEST).write_text("".join(f"{line}\n" for line in (changed, *records)), encoding="utf-8")
    with pytest.raises(InputError, match=r"manifest\.jsonl is not the manifest of an export"):
        take(Project.open(filled), tmp_path / "out", "frameloom")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"message": "\ud800"}, "surrogate"),
        ({"video": "videos/\udcff.mp4"}, "surrogate"),
        ({"file": "video/\udcff.npy"}, "surrogate"),
        ({"start_seconds": 5.0, "end_seconds": 1}, "ends at 1 s, before it starts at 5 s"),
        ({"status": "no_video"}, "status is no_video, and it has"),
    ],
)
def test_a_record_that_cannot_be_true_is_refused_alone(
    change: dict[str, Any], told: str, filled: Path, tmp_path: Path
) -> None:
    export(Project.open(filled, read_only=True), tmp_path / "out", format="npy", features=["video"], console=QUIET)
    altered(tmp_path / "out", lambda line: line.update(change) if line["video"] == NAMES[0] else None)
    fresh = Path(shutil.copytree(filled, tmp_path / "fresh", symlinks=True))
    shutil.rmtree(fresh / ".frameloom")
    report = take(Project.open(fresh), tmp_path / "out", "frameloom")
    ((origin, reason),) = report.refused
    assert told in reason
    assert f"{origin}{reason}".encode()
    assert len(report.imported) == len(NAMES) - 2


def test_names_that_are_stored_otherwise_than_they_are_called_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    make_files(folder, ("videos/a.mp4", "videos/b.mp4", "videos/plain.mp4"))
    (folder / "videos" / "a.mp4").rename(folder / "videos" / "back\\slash.mp4")
    (folder / "videos" / "b.mp4").rename(folder / "videos" / os.fsdecode(b"byte\xff.mp4"))
    (folder / "captions.jsonl").write_text('{"video": "videos/plain.mp4", "captions": ["say"]}\n', encoding="utf-8")
    fill(Project.open(configure(folder)))
    export(Project.open(folder, read_only=True), tmp_path / "out", format="npy", console=QUIET)
    before = contents(Project.open(folder, read_only=True))
    shutil.rmtree(folder / ".frameloom")
    for kind in ("video", "audio", "text"):
        assert take(Project.open(folder), tmp_path / "out", "frameloom", kind).refused == ()
    assert contents(Project.open(folder)) == before


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_exports_for_others_are_not_imported_again(format: str, filled: Path, tmp_path: Path) -> None:
    export(Project.open(filled, read_only=True), tmp_path / "out", format=format, console=QUIET)
    with pytest.raises(ConfigError, match=f"as {format}: only npy exports are imported again"):
        take(Project.open(filled), tmp_path / "out", "frameloom", "video")


# Identity


def test_unknown_weights_are_not_taken_for_those_of_the_configuration(tmp_path: Path, given: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    in_npy(given)
    make_project(folder)
    seeded = Project.open(configure(folder))
    with pytest.raises(ConfigError, match=r"weights: imported:NAME.*--trust-weights"):
        take(seeded, given)
    assert not list(seeded.store.entries())
    named = Project.open(configure(folder, video="imported:one"))
    take(named, given)
    assert not lacking(named)
    for other in (seeded, Project.open(configure(folder, video="imported:two"))):
        assert len(lacking(other)) == len(IDS)


def test_a_user_can_stand_for_it_and_that_is_recorded(tmp_path: Path, given: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    in_npy(given)
    make_project(folder)
    project = Project.open(configure(folder))
    take(project, given, vouch=True)
    assert not lacking(project)
    (record,) = (folder / ".frameloom" / "imports").iterdir()
    facts = json.loads(record.read_text(encoding="utf-8"))
    assert facts["vouched"] is True
    assert facts["identity"]["weights"] == "seeded:0"
    assert facts["layout"] == "npy"


def test_nothing_is_extracted_under_imported_weights(project: Project, given: Path) -> None:
    np.save(given / f"{IDS[0]}.npy", numbers(IDS[0]))
    take(project, given)
    report = extract_only(project, QUIET)
    assert report.exit_code == ExitCode.FAILURES
    assert report.outcomes[Outcome.PENDING] == len(IDS)
    waiting = {file.path: file.message for file in report.files}
    assert "frameloom import` of logmel_avlnet (" in waiting[f"videos/{IDS[0]}.mp4"]
    assert "frameloom import` of logmel_avlnet, test_resnet (" in waiting[f"videos/{IDS[1]}.mp4"]
    with pytest.raises(ConfigError, match="cannot make any"):
        project.media[0].request.build()


def test_names_of_imports_are_plain(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 64 letters"):
        make_project(tmp_path, weights="imported:../x")


@pytest.mark.parametrize("how", [{"rate_hz": 1.5}, {"seconds_per_row": 2.0}])
def test_another_rate_is_another_feature(how: dict[str, float], project: Project, given: Path) -> None:
    in_npy(given)
    with pytest.raises(ConfigError, match=r"are not those of test_resnet, which are 1 s apart.*rate_hz"):
        take(project, given, **how)
    assert take(project, given, rate_hz=1.0).exit_code == ExitCode.OK


def test_a_rate_that_is_configured_gives_its_times(tmp_path: Path, given: Path) -> None:
    make_project(tmp_path)
    text = configure(tmp_path, video="imported:eao").read_text(encoding="utf-8")
    text = text.replace("backbone: test_resnet", "backbone: test_resnet\n    options: {rate_hz: 2.0}")
    (tmp_path / "frameloom.yaml").write_text(text, encoding="utf-8")
    in_npy(given)
    project = Project.open(tmp_path)
    take(project, given, rate_hz=2.0)
    assert stored(project)[IDS[0]].times.tolist() == [[0, 0.5], [0.5, 1], [1, 1.5], [1.5, 2]]


# Matching


def test_what_does_not_match_is_counted_and_named_on_both_sides(project: Project, given: Path) -> None:
    for one in (*IDS[:2], "unknown"):
        np.save(given / f"{one}.npy", numbers(one))
    report = take(project, given)
    assert report.unmatched == ("unknown.npy",)
    assert set(report.without) == {f"videos/{one}.mp4" for one in IDS[2:]}
    assert "1 fit nothing in the collection, such as 'unknown.npy'" in "\n".join(report.lines())


def test_nothing_that_matches_is_told_with_what_to_do(project: Project, given: Path) -> None:
    in_npy(given, "_2d")
    with pytest.raises(ConfigError, match=r"such as '.*_2d', fits .*--suffix"):
        take(project, given)


def test_a_name_that_fits_several_videos_fits_none(tmp_path: Path, given: Path) -> None:
    make_files(tmp_path, ("videos/a/x.mp4", "videos/b/x.mp4", "videos/y.mp4"))
    (tmp_path / "videos" / "gone.mp4").unlink()
    project = Project.open(configure(tmp_path, video="imported:eao"))
    for name in ("x", "y"):
        np.save(given / f"{name}.npy", numbers(name))
    report = take(project, given)
    assert report.imported == ("videos/y.mp4",)
    assert report.refused[0][0] == "x.npy"
    assert "fits 2 videos" in report.refused[0][1]
    for name in ("a", "b"):
        (given / name).mkdir()
        np.save(given / name / "x.npy", numbers(name))
    (given / "x.npy").unlink()
    assert take(project, given).imported == ("videos/a/x.mp4", "videos/b/x.mp4")


def test_two_files_for_one_video_are_both_refused(project: Project, given: Path) -> None:
    np.save(given / f"{IDS[0]}.npy", numbers("a"))
    (given / "sub").mkdir()
    np.save(given / "sub" / f"{IDS[0]}.npy", numbers("b"))
    np.save(given / f"{IDS[1]}.npy", numbers("c"))
    report = take(project, given)
    assert report.imported == (f"videos/{IDS[1]}.mp4",)
    assert sorted(origin for origin, _ in report.refused) == [f"{IDS[0]}.npy", f"sub/{IDS[0]}.npy"]


def test_names_are_the_same_however_unicode_spells_them(project: Project, given: Path) -> None:
    import unicodedata

    np.save(given / f"{unicodedata.normalize('NFD', IDS[4])}.npy", numbers("x"))
    assert take(project, given).imported == (f"videos/{IDS[4]}.mp4",)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_mapping_says_what_names_do_not(ending: str, project: Project, given: Path, tmp_path: Path) -> None:
    pairs = {"0.npy": f"videos/{IDS[0]}.mp4", "1": f"videos/{IDS[4]}.mp4", "../outside.npy": f"videos/{IDS[1]}.mp4"}
    for number in range(3):
        np.save(given / f"{number}.npy", numbers(str(number)))
    np.save(tmp_path / "outside.npy", numbers("outside"))
    mapping = tmp_path / f"mapping.{ending}"
    if ending == "csv":
        text = "file,video\n" + "".join(f"{file},{video}\n" for file, video in pairs.items())
    else:
        text = "".join(json.dumps({"file": file, "video": video}) + "\n" for file, video in pairs.items())
    mapping.write_text(text, encoding="utf-8")
    report = take(project, given, mapping=mapping)
    assert sorted(report.imported) == sorted([f"videos/{IDS[0]}.mp4", f"videos/{IDS[4]}.mp4"])
    assert report.unmatched == ("2.npy",)  # and nothing outside was read
    np.testing.assert_array_equal(stored(project)[IDS[4]].values, numbers("1"))


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "file,video\nx,1\nx,2\n", "\xff"])
def test_a_mapping_that_is_none_is_refused(text: str, project: Project, given: Path, tmp_path: Path) -> None:
    in_npy(given)
    (tmp_path / "m.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"--mapping .*m\.csv"):
        take(project, given, mapping=tmp_path / "m.csv")


def test_a_mapping_that_is_nested_without_end_is_refused(project: Project, given: Path, tmp_path: Path) -> None:
    in_npy(given)
    (tmp_path / "m.jsonl").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--mapping .*m\.jsonl cannot be read"):
        take(project, given, mapping=tmp_path / "m.jsonl")


def test_videos_of_one_content_have_one_feature(tmp_path: Path, given: Path) -> None:
    make_files(tmp_path, ("videos/a.mp4", "videos/b.mp4", "videos/c.mp4"))
    for name in ("b", "c", "gone"):
        (tmp_path / "videos" / f"{name}.mp4").unlink()
    for name in ("b", "c"):
        shutil.copyfile(tmp_path / "videos" / "a.mp4", tmp_path / "videos" / f"{name}.mp4")
    project = Project.open(configure(tmp_path, video="imported:eao"))
    for name in ("a", "b"):
        np.save(given / f"{name}.npy", numbers("same"))
    report = take(project, given)
    assert (report.imported, report.already) == (("videos/a.mp4",), 1)
    shutil.rmtree(tmp_path / ".frameloom")
    np.save(given / "c.npy", numbers("other"))
    report = take(Project.open(tmp_path), given)
    assert not report.imported
    assert sorted(origin for origin, _ in report.refused) == ["a.npy", "c.npy"]


# What is wrong


def objects() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.array([{"a": 1}], object), allow_pickle=True)
    return sink.getvalue()


def saved(array: Any) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


BAD = {
    "wrong width": (saved(numbers("x", dim=95)), r"\(4, 95\); \(T, 96\) is wanted: test_resnet has width 96"),
    "turned": (saved(numbers("x").T), "--transposed"),
    "NaN": (saved(np.full((2, DIM), np.nan, np.float16)), "NaN"),
    "infinity": (saved(np.full((2, DIM), np.inf, np.float32)), "infinity"),
    "empty": (saved(np.zeros((0, DIM), np.float16)), "no rows"),
    "one vector": (saved(np.zeros(DIM, np.float16)), "one vector for a whole video"),
    "three dimensions": (saved(np.zeros((1, 2, DIM), np.float16)), r"shape \(1, 2, 96\)"),
    "digits": (saved(np.full((2, DIM), 1 / 3, np.float32)), "float32 values lose digits as float16: .*--cast"),
    "too large": (saved(np.full((2, DIM), 1e6, np.float32)), "too large for float16"),
    "objects": (objects(), "Python objects"),
    "complex": (saved(np.zeros((2, DIM), np.complex64)), "floats or whole numbers"),
    "cut": (saved(numbers("x"))[:-3], "and holds"),
    "no npy": (b"hello", "not a .npy file"),
    "nothing": (b"", "not a .npy file"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_one_bad_file_is_named_and_the_others_are_taken(name: str, project: Project, given: Path) -> None:
    data, told = BAD[name]
    in_npy(given)
    (given / f"{IDS[1]}.npy").write_bytes(data)
    report = take(project, given)
    assert len(report.imported) == len(IDS) - 1
    ((origin, reason),) = report.refused
    assert origin == f"{IDS[1]}.npy"
    import re

    assert re.search(told, reason), reason
    assert report.exit_code == ExitCode.FAILURES
    assert lacking(project) == [f"videos/{IDS[1]}.mp4"]


def test_digits_are_lost_only_when_that_is_asked_for(project: Project, given: Path) -> None:
    np.save(given / f"{IDS[0]}.npy", np.full((2, DIM), 1 / 3, np.float32))
    take(project, given, cast=True)
    assert stored(project)[IDS[0]].values[0, 0] == np.float16(1 / 3)
    np.save(given / f"{IDS[1]}.npy", numbers("x").astype(np.float64))  # as large a type as it may be, and no digit more
    take(project, given)
    np.testing.assert_array_equal(stored(project)[IDS[1]].values, numbers("x"))


def test_a_zip_bomb_is_refused(project: Project, given: Path) -> None:
    head = saved(np.zeros(0, np.uint8)).replace(b"'shape': (0,)", b"'shape': (9000000000,)")
    with zipfile.ZipFile(given / f"{IDS[0]}.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", head + bytes(10_000_000))
    ((origin, reason),) = take(project, given).refused
    assert origin == f"{IDS[0]}.npz"
    assert "declares shape" in reason


class _Harm:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def test_a_pickle_that_calls_anything_is_refused_and_nothing_is_run(
    project: Project, given: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    data = pickle.dumps({IDS[0]: numbers("x"), IDS[1]: _Harm(canary)})
    (given / "bad.pkl").write_bytes(data)
    with pytest.raises(InputError, match=r"bad\.pkl: it wants 'posix.system'"):
        take(project, given / "bad.pkl", "pickle")
    assert not canary.exists()
    assert not list(project.store.entries())


# Absent, planned, locked


def statuses(project: Project) -> dict[str, Status]:
    found = {state.name: one for state in survey(project).videos for one in state.streams if one.status is not None}
    return {name.removeprefix("videos/").removesuffix(".mp4"): one.status[0] for name, one in found.items()}


def test_what_has_none_is_recorded_and_can_be_brought_later(project: Project, given: Path) -> None:
    np.save(given / f"{IDS[0]}.npy", numbers(IDS[0]))
    report = take(project, given, absent=True)
    assert len(report.absent) == len(IDS) - 1
    assert report.without == ()
    assert not lacking(project)
    assert statuses(project) == {IDS[0]: Status.OK} | dict.fromkeys(IDS[1:], Status.NO_VIDEO)
    assert list(stored(project)) == [IDS[0]]
    for one in IDS[1:3]:
        np.save(given / f"{one}.npy", numbers(one))
    report = take(project, given)
    assert (len(report.imported), report.already) == (2, 1)
    found = stored(project)
    for one in IDS[:3]:
        np.testing.assert_array_equal(found[one].values, numbers(one))
    assert statuses(project) == dict.fromkeys(IDS[:3], Status.OK) | dict.fromkeys(IDS[3:], Status.NO_VIDEO)
    assert not lacking(project)


def test_what_was_absent_and_came_since_is_missing_when_it_is_lost(project: Project, given: Path) -> None:
    np.save(given / f"{IDS[0]}.npy", numbers(IDS[0]))
    take(project, given, absent=True)
    np.save(given / f"{IDS[1]}.npy", numbers(IDS[1]))
    take(project, given)
    shutil.rmtree(project.root / "test_resnet")
    assert lacking(Project.open(project.base)) == sorted(f"videos/{one}.mp4" for one in IDS[:2])


def test_a_damaged_record_is_named_and_the_import_can_be_run_again(
    project: Project, given: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(given / f"{IDS[0]}.npy", numbers(IDS[0]))
    take(project, given, absent=True)
    (path,) = (project.root / "imports").glob("*.json")
    path.write_text(path.read_text()[:-9])
    assert lacking(project) == lacking(project) == sorted(f"videos/{one}.mp4" for one in IDS[1:])
    (said,) = caplog.messages
    assert str(path) in said
    assert "frameloom import" in said
    take(project, given, absent=True)
    assert not lacking(project)


def test_an_export_says_what_an_import_had_nothing_for(project: Project, given: Path, tmp_path: Path) -> None:
    np.save(given / f"{IDS[0]}.npy", numbers(IDS[0]))
    take(project, given, absent=True)
    report = export(project, tmp_path / "out", format="npy", features=["video"], console=QUIET)
    assert report.statuses["video"] == {"ok": 1, "no_video": len(IDS) - 1}


def test_a_dry_run_finds_what_is_wrong_and_writes_nothing(project: Project, given: Path) -> None:
    in_npy(given)
    (given / f"{IDS[1]}.npy").write_bytes(b"bad")
    (given / f"{IDS[2]}.npy").unlink()
    root = project.root
    report = import_into(
        Project.open(project.base, read_only=True),
        ImportRequest(path=given, layout="npy", feature="video", dry_run=True, absent=True),
        QUIET,
    )
    assert (len(report.imported), len(report.refused)) == (len(IDS) - 2, 1)
    assert not root.exists() or not files_below(root)
    text = "\n".join(report.lines())
    assert "would import 3" in text
    assert "1 would be recorded as having none" in text


def test_one_writer_at_a_time(project: Project, given: Path) -> None:
    in_npy(given)
    with writer_lock(project.root), pytest.raises(LockedError):
        take(project, given)


def test_unreadable_videos_are_named(project: Project, given: Path) -> None:
    in_npy(given)
    video = project.base / "videos" / f"{IDS[0]}.mp4"
    video.unlink()
    video.symlink_to("nowhere")
    report = take(Project.open(project.base), given)
    assert report.unreadable == (f"videos/{IDS[0]}.mp4",)
    assert report.unmatched == (f"{IDS[0]}.npy",)


def test_captions_are_imported_from_a_dict_of_them(project: Project, given: Path) -> None:
    captions = project.collection.texts()
    (given / "t.pkl").write_bytes(pickle.dumps({one: numbers(one, 2, dim=4, dtype=np.float32) for one in captions}))
    folder = project.base
    named = Project.open(configure(folder, video="imported:eao", audio="imported:eao"))
    with pytest.raises(ConfigError, match="weights: imported:NAME"):
        take(named, given / "t.pkl", "pickle", "text")
    report = take(named, given / "t.pkl", "pickle", "text", vouch=True)
    assert len(report.imported) == len(captions)
    assert np.isnan(stored(named, "text")["all say"].times).all()


# The command


def test_the_command_answers_in_json(project: Project, given: Path) -> None:
    in_npy(given)
    arguments = ["import", str(given), "--layout", "npy", "--feature", "video", "-c", str(project.base), "--json", "-q"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert sorted(found["imported"]) == sorted(f"videos/{one}.mp4" for one in IDS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"--layout": "npz"}, "did you mean"),
        ({"--feature": "smell"}, "no feature 'smell'"),
        ({"--layout": "pickle"}, "is one file"),
        ({"--layout": "frameloom"}, "manifest.jsonl"),
        ({"--rate-hz": "0"}, "more than 0"),
        ({"--allow-length": "-1"}, "seconds, 0 or more"),
    ],
)
def test_a_wrong_request_is_told(change: dict[str, str], told: str, project: Project, given: Path) -> None:
    in_npy(given)
    options = {"--layout": "npy", "--feature": "video", "-c": str(project.base), **change}
    result = CliRunner().invoke(app, ["import", str(given), *(word for pair in options.items() for word in pair)])
    assert result.exit_code == ExitCode.USAGE
    assert told in result.stderr
