"""What the house test measures: imports with the folder that they reach, functions, words, entries of folders."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import frameloom

ROOT = Path(frameloom.__file__).parent
PACKAGES = ("extract", "store", "fuse", "train", "workflows")


@dataclass(frozen=True)
class Imported:
    """One name that a module imports from another module of frameloom."""

    path: Path
    line: int
    module: tuple[str, ...]  # from the root on, e.g. ("store", "formats", "hdf5")
    name: str
    deferred: bool  # inside a function, or for type checkers alone

    @property
    def folder(self) -> tuple[str, ...]:
        """The folder that is reached: the module itself where it is a door."""
        return self.module if ROOT.joinpath(*self.module).is_dir() else self.module[:-1]

    @property
    def by_door(self) -> bool:
        return self.folder == self.module

    @property
    def importer(self) -> tuple[str, ...]:
        return folder_of(self.path)

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.name} from {'.'.join(self.module)}"


def folder_of(path: Path) -> tuple[str, ...]:
    return path.parent.relative_to(ROOT).parts


def modules(*packages: str) -> list[Path]:
    return sorted(path for package in packages or PACKAGES for path in (ROOT / package).rglob("*.py"))


def source_files() -> list[Path]:
    return [*sorted(ROOT.glob("*.py")), *modules()]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def exported(door: Path) -> frozenset[str]:
    """The names in the `__all__` of a door."""
    for node in tree_of(door).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


@cache
def imports_of(path: Path) -> tuple[Imported, ...]:
    """Every relative import of a module, resolved, wherever in the file."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[Imported]:
    here = folder_of(path)
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = (*here[: len(here) - node.level + 1], *(node.module.split(".") if node.module else ()))
        for alias in node.names:
            inner = ROOT.joinpath(*base, alias.name)
            is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
            door = ROOT.joinpath(*base, "__init__.py")
            by_name = door.is_file() and alias.name in exported(door) and path != door
            module = (*base, alias.name) if is_module and not by_name else base
            yield Imported(path, node.lineno, module, alias.name, deferred=node.col_offset > 0)


def all_imports(*packages: str) -> Iterator[Imported]:
    for path in modules(*packages):
        yield from imports_of(path)


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of nodes that reach each other."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        stack = [start]
        while stack:
            new = graph.get(stack.pop(), set()) - seen
            seen |= new
            stack += new
        return seen

    reached = {node: reach(node) for node in graph}
    found = {frozenset({b for b in reached[a] if a in reached.get(b, ())}) for a in graph if a in reached[a]}
    return [set(each) for each in found]


def package_graph(package: str) -> dict[str, set[str]]:
    """Who imports whom inside a package: its folders, and each module that lies in the package itself."""
    graph: dict[str, set[str]] = {}
    for each in all_imports(package):
        if each.path == ROOT / package / "__init__.py" or each.module[0] != package or len(each.module) < 2:
            continue
        here = each.path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        graph.setdefault(here, set())
        if (other := each.module[1]) != here:
            graph[here].add(other)
    return graph


def functions(paths: Iterable[Path]) -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in paths:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def share_called_once() -> float:
    """Percentage of functions that are private and whose name occurs twice in their file: the definition, one use."""
    words = {path: Counter(re.findall(r"\b\w+\b", path.read_text(encoding="utf-8"))) for path in source_files()}
    found = [
        node.name.startswith("_") and not node.name.startswith("__") and words[path][node.name] == 2
        for path, node in functions(source_files())
    ]
    return 100 * sum(found) / len(found)


def entries(folder: Path) -> list[str]:
    """The modules of a folder and the folders in it that hold modules."""
    inner = [path.name for path in folder.iterdir() if path.is_dir() and any(path.rglob("*.py"))]
    return sorted([path.name for path in folder.glob("*.py")] + inner)


def num_lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def occurrences(pattern: str) -> int:
    """How often a pattern occurs in the source, in comments and messages too."""
    return sum(len(re.findall(pattern, path.read_text(encoding="utf-8"))) for path in source_files())
