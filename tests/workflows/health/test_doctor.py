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
    assert found["decoding child"]["verdict"] == "ok"
    assert {"h264", "aac", "pcm"} <= set(found["decoders"]["found"].split(", "))
    assert "libavcodec" in found["FFmpeg of PyAV"]["found"]
    assert "cores usable" in found["processor"]["found"]
    assert {"memory", "disk for store", "disk for weights", "disk for temporary files", "python"} <= found.keys()
    assert set(_doctor.LIBRARIES) <= found.keys()
    assert list(tmp_path.iterdir()) == []


def test_problems_decide_the_exit_code_and_come_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Finding(check="a", verdict="ok", found="there")
    warning = Finding(check="b", verdict="warning", found="little", advice="get more")
    problem = Finding(check="c", verdict="problem", found="none", advice="get one")
    for findings, code in (((fine,), 0), ((fine, warning), 0), ((warning, problem), 2)):
        examination = Examination(findings)
        monkeypatch.setattr(_doctor, "examine", lambda _config, examination=examination: examination)
        result = CliRunner().invoke(app, ["doctor"])
        assert result.exit_code == code
        assert [finding.advice in result.stdout for finding in findings] == [True] * len(findings)
    assert result.stdout.splitlines()[-1] == "1 warning, 1 problem"


def test_a_missing_library_is_a_problem_if_it_is_needed() -> None:
    assert _doctor._library("no_such_library", is_needed=True).verdict == "problem"
    assert "pip install" in _doctor._library("no_such_library", is_needed=True).advice
    assert _doctor._library("no_such_library", is_needed=False).verdict == "ok"


def test_a_library_that_does_not_load_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    found = _doctor._library("h5py", is_needed=True)
    assert (found.verdict, "does not load" in found.found) == ("problem", True)


def test_what_frameloom_needs_is_what_its_package_says() -> None:
    assert {"torch", "lancedb", "pyyaml"} <= _doctor._needed()
    assert not {"pytest", "ruff", "mypy"} & _doctor._needed()


def test_a_missing_decoder_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_doctor.CODECS, "hevc", "no_such_decoder")
    found = by_check(_doctor._decoders())
    assert (found["decoders missing"].verdict, found["decoders missing"].found) == ("warning", "hevc")
    assert "hevc" not in found["decoders"].found


def test_a_child_that_does_not_start_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frameloom.extract.decode.decoder._CHILD_MODULE", "no.such.module")
    (found,) = _doctor._decoding_child()
    assert found.verdict == "problem"
    assert "no.such" in found.found or "No module" in found.found


def test_a_cache_that_cannot_be_written_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (found,) = _doctor._cache()
    assert found.verdict == "ok"
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "file" / "weights"))
    (found,) = _doctor._cache()
    assert (found.verdict, "FRAMELOOM_CACHE" in found.advice) == ("problem", True)


def test_little_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_doctor, "_LITTLE_DISK_BYTES", 1e30)
    found = [finding for finding in _doctor._disks(tmp_path) if finding.check.startswith("disk")]
    assert [finding.verdict for finding in found] == ["warning"] * 3


def test_the_store_is_that_of_the_configuration(tmp_path: Path) -> None:
    write_config(tmp_path, store={"path": "elsewhere"})
    found = by_check(_doctor._disks(tmp_path))
    assert found["disk for store"].found.endswith(str(tmp_path / "elsewhere"))
    assert found["configuration"].verdict == "ok"
    write_config(tmp_path, store={"paht": "elsewhere"})
    found = by_check(_doctor._disks(tmp_path / "frameloom.yaml"))
    assert found["configuration"].verdict == "problem"


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("", None), ("x y", None), ("100 0", None)]
)
def test_a_container_s_quota_is_read(monkeypatch: pytest.MonkeyPatch, text: str, cores: float | None) -> None:
    monkeypatch.setattr(_doctor, "_text", lambda _path: text)
    assert _doctor._cores_by_quota() == cores


def test_a_container_s_memory_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n",
        "/sys/fs/cgroup/memory.max": "4000000000\n",
        "/sys/fs/cgroup/memory.current": "3000000000\n",
    }
    monkeypatch.setattr(_doctor, "_text", lambda path: files.get(str(path), ""))
    (found,) = _doctor._memory()
    assert (found.verdict, found.found) == ("warning", "1.0 GB free of 4.0 GB")
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    (found,) = _doctor._memory()
    assert (found.verdict, found.found) == ("ok", "8.2 GB free of 16.4 GB")


def test_a_broken_gpu_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def broken() -> bool:
        raise RuntimeError("driver too old")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    (found,) = _doctor._gpus()
    assert (found.verdict, "driver too old" in found.found) == ("warning", True)
