"""An export before it is written: what is exported, and the files that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ..project import FeatureRequest, Project
from .records import Header, Record

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob:
    """The plan of an export: features, the header and the records of its manifest, and the size of files."""

    project: Project
    features: Mapping[str, FeatureRequest]
    header: Header
    records: Sequence[Record]
    shard_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFile:
    """One file of an export: its path in the folder, what makes its bytes, and how many features it counts for."""

    name: str
    make: Callable[[], bytes]
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """The records with the files that hold them, the files, and further small ones by name."""

    records: list[Record]
    files: list[ExportFile]
    texts: Mapping[str, str] = field(default_factory=dict)


def in_groups(items: Sequence[Item], size: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """Cut a list so that no part is larger than the limit, unless one item is."""
    group: list[Item] = []
    total = 0
    for item in items:
        if group and total + size(item) > limit:
            yield group
            group, total = [], 0
        group.append(item)
        total += size(item)
    if group:
        yield group
