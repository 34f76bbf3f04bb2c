"""How fast and how exactly a clip table is searched, against brute force with NumPy in the same run.

    python tests/benchmarks/query.py --rows 1000000 --save FILE.json

Rows are written as a sync writes them; `tend_index` builds the index, measures it and publishes it. Questions are
200 vectors (or `--questions`) of the same distribution that are not in the table. Peak memory is that of this process
while it writes, merges and builds; it also makes the vectors, in blocks of 50,000. Brute force is `matrix @ question`
and `argpartition` over all vectors in float32 for tables of up to two million rows, and over the first million, times
the rest, for larger ones. With `--folder` the table stays, and a second run with the same folder only asks.

A whole question, with the model warm, is words through MiniLM's network (seeded weights of the real size) and a search
that returns all columns that `frameloom query` shows.

`--vectors spread` (the default) has the spread of real embeddings: clusters whose sizes follow a power law, each a
Gaussian of 24 dimensions out of 128 common directions, noise in all, and a mean that all share, so that any two have a
cosine of about 0.2. For 512 numbers, 20,000 rows: half of the variance in 37 directions (participation ratio), 90 % in
88; cosine of the nearest other row 0.83, of the tenth 0.76. `--vectors random` are directions drawn evenly, which have
no near neighbours and are the hardest case for every index.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from frameloom.extract import create_backbone
from frameloom.store import ClipTable
from frameloom.store.table.index import kind_for

BLOCK = 50_000
NUM_QUESTIONS = 200
TOP = 10
NUM_BUCKETS = 1000
FILTERS = {"all": None, "10%": "bucket < 100", "1%": "bucket < 10", "0.1%": "bucket < 1"}
COLUMNS = ("clip", "video", "path", "modalities", "start_seconds", "end_seconds", "split", "captions", "metadata")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vectors", choices=["spread", "random"], default="spread")
    parser.add_argument("--folder", type=Path, help="where the table is made, or was made before")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        given = arguments.rows, arguments.width, arguments.vectors
        built = folder / "built.json"
        if not built.is_file():
            built.write_text(json.dumps(build(folder, *given)), encoding="utf-8")
        found = json.loads(built.read_text(encoding="utf-8")) | ask_all(folder, *given, arguments.questions)
    print(json.dumps(found, indent=1))
    if arguments.save:
        about = {"machine": platform.platform(), "date": time.strftime("%Y-%m-%d"), "command": " ".join(sys.argv)}
        arguments.save.write_text(json.dumps({"about": about, **found}, indent=1) + "\n", encoding="utf-8")


def build(folder: Path, num_rows: int, width: int, kind: str) -> dict[str, Any]:
    """Fill a table and let it build its index. Seconds and GiB. The best scores of the questions are kept in a file."""
    make = MAKERS[kind](width)
    questions = make(np.random.default_rng(10**6), NUM_QUESTIONS)
    table = ClipTable(folder / "vectors")
    table.create(width, {"bucket": "int64"})
    truth = {name: np.full((NUM_QUESTIONS, TOP), -2.0, np.float32) for name in FILTERS}
    writing = 0.0
    for start, vectors in blocks(make, num_rows):
        buckets = bucket_of(np.arange(start, start + len(vectors)))
        scores = questions @ vectors.T
        for name, limit in (("all", NUM_BUCKETS), ("10%", 100), ("1%", 10), ("0.1%", 1)):
            both = np.concatenate([truth[name], scores[:, buckets < limit]], axis=1)
            truth[name] = np.partition(both, both.shape[1] - TOP, axis=1)[:, -TOP:]
        writing += seconds(table.apply, rows_of(vectors, start))
        print(f"{start + len(vectors):,} of {num_rows:,} rows written", file=sys.stderr, flush=True)
    np.savez(folder / "truth.npz", **truth)
    peaks = {"writing": peak_gb()}
    merging = seconds(table.finish)
    peaks["merging"] = peak_gb()
    indexing = seconds(table.tend_index)
    peaks["building and measuring"] = peak_gb()
    record = table.index_record()
    return {
        "rows": num_rows,
        "width": width,
        "vectors": kind,
        "seconds_to_write": round(writing, 1),
        "seconds_to_merge": round(merging, 1),
        "seconds_to_build_and_measure": round(indexing, 1),
        "index": None if record is None else record.as_dict(),
        "peak_memory_gb": peaks,
        "disk_gb": round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**30, 2),
    }


def ask_all(folder: Path, num_rows: int, width: int, kind: str, num_questions: int) -> dict[str, Any]:
    """Ask the table. Milliseconds, but for names that say seconds."""
    make = MAKERS[kind](width)
    questions = make(np.random.default_rng(10**6), NUM_QUESTIONS)[:num_questions]
    matrix = np.empty((num_rows if num_rows <= 2_000_000 else 1_000_000, width), np.float32)
    for start, vectors in blocks(make, len(matrix)):
        matrix[start : start + len(vectors)] = vectors
    brute = milliseconds(lambda one: np.argpartition(-(matrix @ one), TOP)[:TOP], questions[:30])
    brute *= num_rows / len(matrix)
    del matrix
    found: dict[str, Any] = {"questions": num_questions, "brute_force_milliseconds": round(brute, 2)}
    table = ClipTable(folder / "vectors")
    truth = np.load(folder / "truth.npz")
    for name, where in FILTERS.items():
        for question in questions[:20]:  # warm, and past the number of questions after which a matrix is kept
            table.search(question, where=where, columns=["id"], top=TOP)
        answers: list[list[float]] = []

        def ask(question: Any, where: str | None = where, answers: list[list[float]] = answers) -> None:
            answers.append([one["score"] for one in table.search(question, where=where, columns=["id"], top=TOP)])

        took = milliseconds(ask, questions)
        least = truth[name].min(axis=1)[:num_questions]
        recall = np.mean([sum(one >= low - 1e-5 for one in row) / TOP for row, low in zip(answers, least, strict=True)])
        found[name] = {"recall_at_10": round(float(recall), 4), "milliseconds": round(took, 2)}
        print(name, found[name], file=sys.stderr, flush=True)
    shown = milliseconds(lambda one: table.search(one, columns=COLUMNS, top=TOP), questions)
    found["milliseconds_with_all_columns"] = round(shown, 2)
    encoder = create_backbone("all_minilm_l6_v2")
    words = milliseconds(lambda _one: encoder.encode("a dog does a trick on the beach"), questions[:30])
    found["milliseconds_to_encode_words"] = round(words, 2)
    found["memory_gb_while_searching"] = round(resident_gb(), 2)
    found["of_brute_force"] = round(found["all"]["milliseconds"] / brute, 4)
    new = make(np.random.default_rng(2 * 10**6), 1000)
    first = table.count()  # an earlier run with the same folder has added rows
    begun = time.perf_counter()
    table.apply(rows_of(new, first))
    best = ClipTable(table.uri).search(new[0], top=10, columns=["clip"])
    assert f"{first:032x}" in {one["clip"] for one in best}
    found["first_upsert_of_1000_visible_seconds"] = round(time.perf_counter() - begun, 2)
    found["next_upsert_of_1000_seconds"] = round(seconds(table.apply, rows_of(new, first + 1000)), 2)
    for question in questions[:20]:
        table.search(question, columns=["id"], top=TOP)
    after = milliseconds(lambda one: table.search(one, columns=["id"], top=TOP), questions)
    found["milliseconds_after_upserts"] = round(after, 2)
    found["kind_for_this_size"] = kind_for(num_rows, width)
    return found


class Spread:
    """Vectors of unit length with the spread of real embeddings; see above."""

    def __init__(self, width: int, *, num_clusters: int = 1000, num_directions: int = 128, own: int = 24) -> None:
        rng = np.random.default_rng(1)
        self._directions = rng.standard_normal((num_directions, width)).astype(np.float32) / np.sqrt(width)
        decay = (np.arange(1, num_directions + 1) ** -0.5).astype(np.float32)
        self._centres = (rng.standard_normal((num_clusters, num_directions)).astype(np.float32) * decay) @ (
            self._directions
        )
        self._centres /= np.linalg.norm(self._centres, axis=1, keepdims=True)
        mean = rng.standard_normal(width).astype(np.float32)
        self._centres += 0.6 * mean / np.linalg.norm(mean)
        self._own = rng.integers(0, num_directions, (num_clusters, own))
        sizes = 1 / np.arange(1, num_clusters + 1) ** 0.7
        self._sizes = sizes / sizes.sum()

    def __call__(self, rng: np.random.Generator, number: int) -> np.ndarray:
        width, (_, own) = self._centres.shape[1], self._own.shape
        clusters = rng.choice(len(self._sizes), number, p=self._sizes)
        weights = np.zeros((number, len(self._directions)), np.float32)
        drawn = rng.standard_normal((number, own)).astype(np.float32) * np.float32(0.86 / np.sqrt(own))
        np.add.at(weights, (np.arange(number)[:, None], self._own[clusters]), drawn)
        noise = rng.standard_normal((number, width), dtype=np.float32) * np.float32(0.25 / np.sqrt(width))
        return unit(self._centres[clusters] + weights @ self._directions + noise)


class Evenly:
    """Directions drawn evenly."""

    def __init__(self, width: int) -> None:
        self._width = width

    def __call__(self, rng: np.random.Generator, number: int) -> np.ndarray:
        return unit(rng.standard_normal((number, self._width), dtype=np.float32))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def blocks(make: Callable[..., np.ndarray], num_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, num_rows, BLOCK):
        yield start, make(np.random.default_rng(start), min(BLOCK, num_rows - start))


def bucket_of(serials: np.ndarray) -> np.ndarray:
    """A number from 0 to 999 for each row that has nothing to do with its vector."""
    return (serials.astype(np.uint64) * np.uint64(2_654_435_761) >> np.uint64(7)) % np.uint64(NUM_BUCKETS)


def rows_of(vectors: np.ndarray, start: int) -> pa.Table:
    serials, number = range(start, start + len(vectors)), len(vectors)
    names = [f"{one:032x}" for one in serials]
    videos = [f"videos/{one // 10:07d}.mp4" for one in serials]
    return pa.table(
        {
            "id": [f"{one}-video" for one in names],
            "clip": names,
            "video": videos,
            "path": videos,
            "modalities": ["video"] * number,
            "is_primary": [True] * number,
            "start_seconds": np.zeros(number),
            "end_seconds": np.full(number, 10.0),
            "split": ["train"] * number,
            "captions": pa.array([["a caption of some words"]] * number),
            "metadata": ["{}"] * number,
            "fingerprint": [f"{one * 7:032x}" for one in serials],
            "row_digest": [f"{one * 11:032x}" for one in serials],
            "model": ["0" * 32] * number,
            "bucket": bucket_of(np.array(serials)).astype(np.int64),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
        }
    )


MAKERS: dict[str, Callable[[int], Callable[..., np.ndarray]]] = {"spread": Spread, "random": Evenly}


def peak_gb() -> float:
    """The most memory that this process had since it was asked last, in GiB."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return round(int(status.split("VmHWM:")[1].split()[0]) / 2**20, 2)


def resident_gb() -> float:
    """Memory that this process has now, in GiB. The matrix of brute force is gone by then."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def seconds(call: Callable[..., Any], *given: Any) -> float:
    begun = time.perf_counter()
    call(*given)
    return time.perf_counter() - begun


def milliseconds(call: Callable[[Any], Any], questions: Any) -> float:
    """The median time of a question."""
    return 1000 * statistics.median(seconds(call, one) for one in questions)


if __name__ == "__main__":
    main()
