"""`frameloom doctor`: what is there is named, what is not is a problem with something to do."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from frameloom.workflows.cli.app import app
from frameloom.workflows.health import doctor as _doctor
from frameloom.workflows.health.doctor import Examination, Finding
from frameloom.workflows.sync.executor import num_cores
from helpers.projects import write_config
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "cache" / "weights"))
    monkeypatch.chdir(tmp_path)


def by_check(findings: Any) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_this_machine_is_described_and_nothing_is_left_behind(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    document = json.loads(result.stdout)
    found = {row["check"]: row for row in document["findings"]}
    assert result.exit_code == (0 if document["ok"] else 2)
    assert all(row["verdict"] == "ok" or row["advice"] for row in document["findings"]), document
    assert found["torch"]["found"] == metadata.version("torch")
    assert found["decoder process"]["verdict"] == "ok"
    assert {"h264", "aac", "pcm"} <= set(found["decoders"]["found"].split(", "))
    assert "libavcodec" in found["FFmpeg of PyAV"]["found"]
    assert "cores" in found["cpu"]["found"]
    assert {"folder for store", "folder for weights", "folder for temporary files", "python"} <= found.keys()
    assert {"torch", "torchvision", "torchaudio", "av", "h5py", "pyarrow", "lancedb", "gensim"} <= found.keys()
    assert list(tmp_path.iterdir()) == []


def test_problems_decide_the_exit_code_and_come_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Finding(check="a", verdict="ok", found="there")
    warning = Finding(check="b", verdict="warning", found="little", advice="get more")
    problem = Finding(check="c", verdict="problem", found="none", advice="get one")
    for findings, code in (((fine,), 0), ((fine, warning), 0), ((warning, problem), 2)):
        examination = Examination(findings=findings)
        monkeypatch.setattr(_doctor, "examine", lambda _config, examination=examination: examination)
        result = CliRunner().invoke(app, ["doctor"])
        assert result.exit_code == code
        assert [finding.advice in result.stdout for finding in findings] == [True] * len(findings)
    assert result.stdout.splitlines()[-1] == "1 warning, 1 problem"


def test_a_broken_library_is_one_problem_with_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("numpy", None), ("pyarrow", None), ("pyarrow", "pyarrow 1 does not work: reason. Type: pip install x")]
    monkeypatch.setattr(_doctor, "broken_libraries", lambda: rows)
    found = by_check(_doctor.libraries())
    assert found["numpy"] == Finding(check="numpy", verdict="ok", found=metadata.version("numpy"))
    wrong = "pyarrow 1 does not work: reason."
    assert found["pyarrow"] == Finding(check="pyarrow", verdict="problem", found=wrong, advice="pip install x")


def test_a_check_that_needs_a_broken_library_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_doctor, "broken_libraries", list)
    monkeypatch.setitem(sys.modules, "av", None)
    found = by_check(_doctor.examine(tmp_path).findings)
    assert "decoders" not in found
    assert "folder for store" in found


def test_a_missing_decoder_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_doctor.CODECS, "hevc", "no_such_decoder")
    found = by_check(_doctor.decoders())
    assert (found["decoders missing"].verdict, found["decoders missing"].found) == ("warning", "hevc")
    assert "hevc" not in found["decoders"].found


def test_a_child_that_does_not_start_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frameloom.extract.decode.decoder._CHILD_MODULE", "no.such.module")
    (found,) = _doctor.decoder_process()
    assert found.verdict == "problem"
    assert "no.such" in found.found or "No module" in found.found


def test_a_folder_that_cannot_be_written_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert by_check(_doctor.folders(tmp_path))["folder for weights"].verdict == "ok"
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "file" / "weights"))
    found = by_check(_doctor.folders(tmp_path))["folder for weights"]
    assert (found.verdict, found.advice) == ("problem", "name another folder in FRAMELOOM_CACHE")


def test_little_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_doctor, "SMALL_DISK_BYTES", 1e30)
    found = [finding for finding in _doctor.folders(tmp_path) if finding.check.startswith("folder")]
    assert [finding.verdict for finding in found] == ["warning"] * 3


def test_what_a_container_allows_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask.system
    import distributed.system

    monkeypatch.setattr(dask.system, "cpu_count", lambda: 3)
    monkeypatch.setattr(distributed.system, "memory_limit", lambda: int(1e9))
    found = by_check(_doctor.devices())
    assert found["cpu"].found.startswith("3 cores")
    assert (found["memory"].verdict, found["memory"].found) == ("warning", "1.0 GB")
    assert num_cores() == 3


def test_the_store_is_that_of_the_configuration(tmp_path: Path) -> None:
    write_config(tmp_path, store={"path": "elsewhere"})
    found = by_check(_doctor.folders(tmp_path))
    assert found["folder for store"].found.endswith(str(tmp_path / "elsewhere"))
    assert found["configuration"].verdict == "ok"
    write_config(tmp_path, store={"paht": "elsewhere"})
    found = by_check(_doctor.folders(tmp_path / "frameloom.yaml"))
    assert found["configuration"].verdict == "problem"


def test_a_broken_gpu_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def broken() -> bool:
        raise RuntimeError("driver too old")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    found = by_check(_doctor.devices())["gpu"]
    assert (found.verdict, "driver too old" in found.found) == ("warning", True)
