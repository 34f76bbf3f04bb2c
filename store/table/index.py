"""The indexes of a clip table. Of the vector index: which kind, how far it is searched, and whether it may be used.

LanceDB builds an index and says nothing of what it finds. Here an index is used by readers only while a record next to
the table names it, and the record is written after recall was measured: some of the table's own vectors are searched
for by index and by exact comparison with every row. The record is one small file that is replaced in one step. Where
it names another index than the table has, as after a kill, the table is searched exactly, until the end of the next run
that writes has measured.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, computed_field

from ..._files import fail_point, publish
from ..._settings import Listed, Settings
from ..._vocabulary import ConfigError
from .rows import COLUMN_TYPES, vectors_of

MATRIX_BYTES = 256 * 2**20  # of vectors that are compared one by one, from memory: 10 to 20 ms
CODES_BYTES = 2 * 2**30  # of codes of one byte a number; what is larger takes one bit a number
PARTITION_ROWS = 4096
MIN_RECALL = 0.99
WANTED_RECALL = 0.995
GROWTH = 0.1  # of the rows: measured again
TRAINED_GROWTH = 2.0  # times the rows: built again
_QUESTIONS = 100
_TOP = 10
_NPROBES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_PROBES_OF_QUESTIONS = 2  # times the partitions that the table's own vectors need
_REFINE = {"IVF_SQ": (3,), "IVF_RQ": (10, 20, 50)}
TEXTS = {"captions": "array_length(captions) > 0", "speech": "speech IS NOT NULL"}
"""Columns that words are looked for in, and which rows have some there."""
_MAX_SCALAR = 16  # metadata columns that get an index
_NAME = "vector_idx"


class IndexRecord(Settings):
    """What was measured of an index.

    Attributes:
        identity: the index as LanceDB names it; another one is not meant.
        kind: LanceDB's name of its kind.
        num_rows: of the table when recall was measured.
        trained_rows: of the table when the index was built.
        num_partitions: of the index.
        nprobes: partitions that a question looks into, twice as many as recall was measured with.
        refine: how many times as many rows as are asked for are compared exactly.
        recall: share of the ``top`` nearest rows that it finds, over `num_questions` vectors of the table itself.
        built: when, in seconds since 1970.
        measured: when, in seconds since 1970.
        build_seconds: how long it took.
    """

    identity: Listed[str]
    kind: str
    num_rows: int
    trained_rows: int
    num_partitions: int
    nprobes: int
    refine: int
    recall: float
    top: int = _TOP
    num_questions: int
    built: float
    measured: float
    build_seconds: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def is_used(self) -> bool:
        """Whether its recall is high enough for readers."""
        return self.recall >= MIN_RECALL


def read_record(path: Path) -> IndexRecord | None:
    """The record of a table's index; None where none can be read, which costs a measurement and nothing else."""
    try:
        return IndexRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ConfigError):
        return None


def vector_index(table: Any) -> Any | None:
    """LanceDB's description of the index over the vectors, in the version that the handle is at."""
    return next((one for one in table.list_indices() if list(one.columns) == ["vector"]), None)


def identity_of(index: Any) -> tuple[str, ...]:
    """What tells this state of an index from any other: each build and each growth makes another one."""
    return str(index.index_uuid), str(index.num_segments), str(index.created_at)


def published(table: Any, record: IndexRecord | None) -> IndexRecord | None:
    """The record, where questions to this version may be answered by its index."""
    if record is None or not record.is_used:
        return None
    index = vector_index(table)
    return record if index is not None and identity_of(index) == record.identity else None


def kind_for(num_rows: int, dim: int) -> str | None:
    """The kind of index for a table of this size; None where comparing every row is fast enough."""
    if num_rows * dim * 4 <= MATRIX_BYTES:
        return None
    return "IVF_SQ" if num_rows * dim <= CODES_BYTES or dim % 8 else "IVF_RQ"


def build(table: Any, kind: str) -> float:
    """Build the index of the vectors and, of columns that filters name, scalar ones. Returns the seconds it took."""
    import pyarrow as pa
    from lancedb.index import Bitmap, BTree, IvfRq, IvfSq

    pa.default_memory_pool().release_unused()  # of rows that were read before: 3 GB where there are ten million
    begun = time.monotonic()
    partitions = max(1, table.count_rows() // PARTITION_ROWS)
    made = IvfSq if kind == "IVF_SQ" else IvfRq
    table.create_index("vector", config=made(distance_type="cosine", num_partitions=partitions), name=_NAME)
    few: dict[str, Any] = dict.fromkeys(("model", "modalities", "is_primary", "split"), Bitmap())
    many: dict[str, Any] = dict.fromkeys(("clip", "video"), BTree())
    extra = [field.name for field in table.schema if field.name not in {*COLUMN_TYPES, *TEXTS}][:_MAX_SCALAR]
    for column, config in {**few, **many, **dict.fromkeys(extra, BTree())}.items():
        table.create_index(column, config=config)
    return time.monotonic() - begun


def measure(table: Any, kind: str, *, trained_rows: int, built: float, build_seconds: float) -> IndexRecord:
    """Search for vectors of the table by index, ever further, until nearly all are found that a comparison finds."""
    index, num_rows = vector_index(table), int(table.count_rows())
    questions = _questions(table, num_rows)
    exact = _exact(table, questions)
    partitions = max(1, trained_rows // PARTITION_ROWS)
    best = (0.0, 1, 1)
    for refine in _REFINE[kind]:
        for nprobes in sorted({min(one, partitions) for one in _NPROBES}):
            found = _recall(table, questions, exact, nprobes=nprobes, refine=refine)
            best = max(best, (found, nprobes, refine), key=lambda one: one[0])
            if found >= WANTED_RECALL:
                break
        if best[0] >= WANTED_RECALL:
            break
    # The table's own vectors lie among their neighbours; a question lies between partitions, and needs more of them.
    best = (best[0], min(partitions, best[1] * _PROBES_OF_QUESTIONS), best[2])
    return IndexRecord(
        identity=identity_of(index),
        kind=kind,
        num_rows=num_rows,
        trained_rows=trained_rows,
        num_partitions=partitions,
        nprobes=best[1],
        refine=best[2],
        recall=best[0],
        num_questions=len(questions),
        built=built,
        measured=time.time(),
        build_seconds=build_seconds,
    )


def _questions(table: Any, num_rows: int) -> NDArray[np.float32]:
    places = np.random.default_rng(num_rows).choice(num_rows, min(_QUESTIONS, num_rows), replace=False)
    return vectors_of(table.take_offsets([int(one) for one in places]).select(["vector"]).to_arrow())


def _exact(table: Any, questions: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each question the similarity of the row that is the last of its nearest, itself included."""
    nearest = np.full((len(questions), _TOP + 1), -2.0, np.float32)
    for batch in table.search().select(["vector"]).to_batches(8192):
        scores = np.concatenate([nearest, questions @ vectors_of(batch).T], axis=1)
        nearest = np.partition(scores, scores.shape[1] - _TOP - 1, axis=1)[:, -_TOP - 1 :]
    least: NDArray[np.float32] = nearest.min(axis=1)
    return least


def _recall(
    table: Any, questions: NDArray[np.float32], exact: NDArray[np.float32], *, nprobes: int, refine: int
) -> float:
    """Share of the nearest rows that are found. A row as near as the last of them is one of them."""
    shares = []
    for question, least in zip(questions, exact, strict=True):
        search = table.search(question, vector_column_name="vector").distance_type("cosine").nprobes(nprobes)
        found = search.refine_factor(refine).limit(_TOP + 1).select(["vector", "_distance"]).to_arrow()
        # The question itself is always found, and says nothing.
        shares.append(min(_TOP, int((vectors_of(found) @ question >= least - 1e-5).sum()) - 1) / _TOP)
    return float(np.mean(shares))


def tend(opened: Callable[[], Any], path: Path, commit: Callable[[], AbstractContextManager[None]]) -> None:
    """Bring the indexes of a table and the record up to date. For the holder of the writer lock.

    Captions and speech have a full-text index, whatever the size. That of the vectors is built where the table has
    become large, and again where it is twice as large as then or recall has decayed; measured where rows or the index
    are others than at the last measurement.

    Args:
        opened: the table's newest version.
        path: of the record.
        commit: makes durable what its block commits.
    """
    table, record = opened(), read_record(path)
    indexed = [list(one.columns) for one in table.list_indices()]
    for column, condition in TEXTS.items():
        if column in table.schema.names and [column] not in indexed and table.count_rows(condition):
            from lancedb.index import FTS

            with commit():
                table.create_index(column, config=FTS())
            table = opened()
    num_rows, index = int(table.count_rows()), vector_index(table)
    kind = kind_for(num_rows, int(table.schema.field("vector").type.list_size))
    if kind is None:
        path.unlink(missing_ok=True)
        if index is not None:
            with commit():
                table.drop_index(index.name)
        return
    is_young = record is not None and record.kind == kind and num_rows < TRAINED_GROWTH * record.trained_rows
    if index is not None and record is not None and is_young:
        same_rows = abs(num_rows - record.num_rows) <= GROWTH * record.num_rows
        if same_rows and identity_of(index) == record.identity:
            return
        if (index.num_unindexed_rows or 0) > GROWTH * num_rows:
            with commit():
                table.optimize(cleanup_older_than=datetime.timedelta(days=3650))
            table = opened()
        known = {name: getattr(record, name) for name in ("trained_rows", "built", "build_seconds")}
        record = measure(table, kind, **known)
        if record.is_used:
            _publish(path, record)
            return
    with commit():
        seconds = build(table, kind)
    _publish(path, measure(opened(), kind, trained_rows=num_rows, built=time.time(), build_seconds=seconds))


def _publish(path: Path, record: IndexRecord) -> None:
    fail_point("table.measured")
    publish(path, record.model_dump_json(indent=1, exclude={"is_used"}).encode(), kind="index")
