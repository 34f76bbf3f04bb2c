"""Set-up: pinned versions, ranges whose bounds are tried, one line instead of a traceback for a broken library."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import frameloom
import pytest
from frameloom import _environment
from frameloom._environment import broken_environment
from helpers.projects import make_clip, write_config
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(frameloom.__file__).parent
UNDEFINED = "/site/libstub.so: undefined symbol: _ZN3c1017symbol"


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    rows = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+-]+)", line) for line in lines if not line.startswith("#")]
    assert all(rows), "constraints.txt has names and exact versions, nothing else"
    return {canonicalize_name(row[1]): row[2] for row in rows if row}


def test_every_direct_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    assert "frameloom" not in pinned
    outside = [str(one) for one in requirements() if pinned.get(canonicalize_name(one.name), "") not in one.specifier]
    assert not outside


def test_every_direct_dependency_has_a_lower_bound() -> None:
    assert [one.name for one in requirements() if not any(each.operator == ">=" for each in one.specifier)] == []


def test_set_up_and_ci_install_the_pinned_versions() -> None:
    assert "-c constraints.txt --editable '.[dev]'" in (ROOT / "Makefile").read_text()
    commands = (ROOT / ".ci" / "run").read_text()
    assert "make test" in commands
    assert "export CI=true" in commands  # so that no missing tool skips a test there


def test_every_library_that_frameloom_needs_is_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {Requirement(line).name.lower() for line in project["dependencies"]}
    tried = {module.partition(".")[0] for module in _environment.CALLS} - {"yaml", "PIL"} | {"pyyaml", "pillow"}
    assert direct - tried == {"jaxtyping"}  # annotations
    assert tried <= direct


# Broken libraries. Stubs come first on the path, as a library that does not fit would.


def stub(folder: Path, library: str, code: str = f"raise OSError({UNDEFINED!r})") -> Path:
    package = folder / "stubs" / library
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    return folder / "stubs"


def run(folder: Path, stubs: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(stubs), str(ROOT.parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "FRAMELOOM_CACHE": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    make_clip(tmp_path / "videos" / "red.mp4", colour="red", pitch="low")
    write_config(tmp_path, collection={"captions": None})
    return tmp_path


@pytest.mark.parametrize(
    "command",
    ["--help", "sync", *(pytest.param(name, marks=pytest.mark.slow) for name in ("backbones", "query red", "doctor"))],
)
def test_a_command_line_that_cannot_start_says_why_in_one_line(project: Path, command: str) -> None:
    done = run(project, stub(project, "typer"), "-m", "frameloom", *command.split())
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith(f"frameloom: typer {_environment.version_of('typer')} does not work: {UNDEFINED}. Type: ")


@pytest.mark.parametrize(
    "library", ["torch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("h5py", "av", "numpy"))]
)
def test_a_run_that_needs_a_broken_library_says_which_in_one_line(project: Path, library: str) -> None:
    done = run(project, stub(project, library), "-m", "frameloom", "sync", "--quiet")
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith(f"frameloom: {library} {_environment.version_of(library)} does not work")
    assert f"{UNDEFINED}. Type: {sys.executable} -m pip install " in line


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        ("RuntimeError('a bug')", "RuntimeError: a bug"),
        ("frameloom.ConfigError('a mistake')", "frameloom: a mistake"),
        ("frameloom._vocabulary.ProcessStartError('it ended')", "frameloom: matplotlib "),
    ],
)
def test_a_broken_library_is_not_blamed_for_other_faults(project: Path, raised: str, words: str) -> None:
    code = f"""
import sys, frameloom, frameloom._environment as it, frameloom.__main__ as command
from frameloom.workflows.project import Project
it.CALLS = {{name: it.CALLS[name] for name in ("numpy", "matplotlib.figure")}}
def fail(*_, **__):
    raise {raised}
Project.open = fail
sys.argv = ["frameloom", "sync", "--dry-run"]
command.main()
"""
    done = run(project, stub(project, "matplotlib"), "-c", code)
    assert done.returncode in (1, 2)
    assert done.stderr.splitlines()[-1].startswith(words)


def test_commands_work_without_the_libraries_that_they_do_not_need(project: Path) -> None:
    done = run(project, stub(project, "torch"), "-m", "frameloom", "backbones")
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_names_both_libraries_of_a_pair_that_does_not_fit(project: Path) -> None:
    few = "it.CALLS = {name: it.CALLS[name] for name in ('torch', 'torchaudio')}"
    code = f"import sys, frameloom._environment as it, frameloom.__main__ as command; {few}; sys.argv[0] = 'frameloom'"
    done = run(project, stub(project, "torchaudio"), "-c", f"{code}; command.main()", "doctor")
    versions = [_environment.version_of(name) for name in ("torchaudio", "torch")]
    assert done.returncode == 2
    assert done.stderr == ""
    assert f"torchaudio {versions[0]} does not work with torch {versions[1]}: {UNDEFINED}" in done.stdout
    assert "constraints.txt" in done.stdout


def test_the_check_after_set_up_goes_on_after_a_library_that_crashes(tmp_path: Path) -> None:
    stubs = stub(tmp_path, "h5py", "import os; os.abort()")
    stub(tmp_path, "xxhash", "raise RuntimeError('operator xxhash::hash does not exist')")
    (stubs / "av.abi3.so").write_bytes(b"\x7fELF and nothing that can be loaded")
    few = (
        "frameloom._environment as it; it.CALLS = {name: it.CALLS[name] for name in ('numpy', 'xxhash', 'av', 'h5py')}"
    )
    done = run(tmp_path, stubs, "-c", f"import sys, {few}; sys.exit(it.main([]))")
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split()[0] for line in lines] == ["xxhash", "av", "h5py"]
    assert "operator xxhash::hash does not exist" in lines[0]
    assert "av.abi3.so" in lines[1]
    assert "it ends the process: Aborted" in lines[2]


def test_only_the_import_of_a_library_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import h5py

    def line_of(code: str) -> str | None:
        with pytest.raises(BaseException) as caught:
            exec(code, {"__name__": "elsewhere"})
        return broken_environment(caught.value)

    monkeypatch.syspath_prepend(tmp_path)
    assert h5py is sys.modules["h5py"]
    assert line_of("import h5py; h5py.File('/no/such/file')") is None
    assert line_of("raise OSError('undefined symbol')") is None
    assert line_of("import no_such_module_of_anyone") is None
    assert "numpy" in str(line_of("from numpy import no_such_name"))
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "h5py" in str(line_of("import h5py"))
    for number, interrupt in enumerate(["KeyboardInterrupt", "MemoryError"]):
        monkeypatch.delitem(sys.modules, "xxhash", raising=False)
        stub(tmp_path / str(number), "xxhash", f"raise {interrupt}")
        monkeypatch.syspath_prepend(tmp_path / str(number) / "stubs")
        assert line_of("import xxhash") is None


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_environment, "version_of", lambda _library: None)
    line = broken_environment(ModuleNotFoundError("No module named 'torch'", name="torch"))
    command = f"{sys.executable} -m pip install -c {ROOT / 'constraints.txt'} -e {ROOT}"
    assert line == f"torch is not installed. Type: {command}"


def test_a_damaged_library_of_the_pinned_version_is_installed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_environment, "version_of", lambda _library: pins()["av"])
    line = str(broken_environment(ImportError("file too short", name="av")))
    assert line.endswith(f"pip install --force-reinstall --no-deps av=={pins()['av']}")
