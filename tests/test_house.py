"""The house stays as it was drawn: imports run one way, doors are doors, the wheel holds every module."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import frameloom
import pytest

ROOT = Path(frameloom.__file__).parent
FOLDERS = ("extract", "store", "fuse", "train", "workflows")
ALLOWED = {
    "extract": set(),
    "store": set(),
    "fuse": set(),
    "train": {"fuse", "store"},
    "workflows": {"extract", "store", "fuse", "train"},
}
# What `fuse`, `train` and the forward passes of backbones must do without: a training machine may lack them.
OPTIONAL = {"gensim", "dask", "distributed", "lancedb", "av", "webdataset", "pydantic", "typer", "rich"}


def modules() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The folders of the house that a module imports from, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == 2:
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name.split(".")[0] == "frameloom" for name in names), f"{path}: imports are relative"
    return found & set(FOLDERS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    assert imported(path) <= ALLOWED[folder]


def test_folders_outside_the_package_reach_no_machinery_of_another() -> None:
    for path in modules():
        folder = path.relative_to(ROOT).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module and "." in node.module:
                other, inner = node.module.split(".", 1)
                assert not inner.startswith("_"), f"{path.name} of {folder} reaches into {other}/{inner}: use its door"


# Not `_api.py`: what users call reaches into the folders, when it is called.
@pytest.mark.parametrize("path", sorted({*ROOT.glob("_[!_]*.py")} - {ROOT / "_api.py"}), ids=lambda path: path.name)
def test_machinery_at_the_root_stands_below_every_folder(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            assert all(name.startswith("_") for name in names), f"{path.name} imports {names}"


@pytest.mark.parametrize("module", ["frameloom", "frameloom.extract"])
def test_the_shared_audio_cnn_is_loaded_by_those_who_use_it(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'frameloom._davenet'}} & set(sys.modules)))"
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize("folder", FOLDERS)
def test_doors_have_names_and_no_logic(folder: str) -> None:
    tree = ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8"))
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
    assert all(isinstance(node, allowed) for node in tree.body)
    assert any(isinstance(node, ast.Assign) and node.targets[0].id == "__all__" for node in tree.body)
    assert not any(alias.name == "*" for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names)


def test_no_file_is_longer_than_500_lines() -> None:
    long = {path.name: count for path in modules() if (count := len(path.read_text().splitlines())) > 500}
    assert not long


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_and_training_import_without_the_libraries_of_other_stages() -> None:
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(OPTIONAL)!r}:
            raise ImportError("refused: " + name)
sys.meta_path.insert(0, Refuse())
import frameloom.fuse, frameloom.train
from frameloom.extract import create_backbone
create_backbone("test_resnet")
print("imported")
"""
    assert run_python(code).splitlines()[-1] == "imported"


def test_listing_backbones_loads_no_heavy_library() -> None:
    code = """
import sys, frameloom
from frameloom.extract import backbone_spec
assert [backbone_spec(name) for name in frameloom.list_backbones()]
print(sorted({"torch", "timm", "av", "gensim", "lancedb", "dask"} & set(sys.modules)))
"""
    assert run_python(code).strip() == "[]"


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == frameloom.__version__


@pytest.mark.slow
def test_wheel_installs_elsewhere_and_every_module_imports(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith(("tests/", "frameloom/tests/"))]
    target = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    found = [*ROOT.glob("_[!_]*.py"), *modules()]
    wanted = [".".join(("frameloom", *path.relative_to(ROOT).with_suffix("").parts)) for path in found]
    wanted = [name.removesuffix(".__init__") for name in wanted if not name.endswith("_child")]
    code = f"""
import sys, importlib
sys.path.insert(0, {str(target)!r})
for name in {wanted!r}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(target)!r}), module.__file__
print("all")
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "all", done.stderr
