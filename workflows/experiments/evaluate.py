"""Retrieval on held-out clips, from the table: each caption asks, the clip that it was written for is the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from ..._settings import Settings
from ..._vocabulary import InputError
from ..project import Project
from ..search import SearchSession
from ..sync import in_batches

QUERIES_PER_BATCH = 256


class Evaluation(Settings):
    """Text-to-media retrieval on one split."""

    split: str
    """The split whose clips are asked for and searched."""
    num_queries: int
    """Captions asked, one for each item (its first)."""
    num_items: int
    """Items in the gallery: videos, or spans of them that have captions of their own."""
    metrics: Mapping[str, Mapping[str, float]]
    """Combination to R@1, R@5, R@10 in percent, and median and mean rank from 1."""

    def lines(self) -> Iterator[str]:
        yield f"{self.num_queries} questions, {self.num_items} clips of the split {self.split!r}"
        yield f"{'text -> ':22}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'MedR':>7}"
        for name, values in self.metrics.items():
            numbers = "".join(f"{values[column]:7.1f}" for column in ("r1", "r5", "r10", "medr"))
            yield f"  {name:20}{numbers}"


def evaluate(project: Project, *, split: str = "test") -> Evaluation:
    """R@1, R@5, R@10 and the median rank of text -> video, audio and video+audio on one split.

    The windows of one video that share their captions are one item, and its best window counts. Raises InputError when
    the split has no clip with captions.
    """
    from ...train.evaluate import retrieval_metrics

    if split not in ("train", "val", "test"):
        raise InputError(f"split {split!r}: allowed are train, val, test")
    session = SearchSession(project)
    condition = f"split = '{split}'" if split != "train" else "(split = 'train' OR split IS NULL)"
    rows = project.table.get(
        where=f"{condition} AND model = '{session.checkpoint.digest}'",
        columns=["video", "captions", "modalities", "vector"],
    )
    # A row is a window of a video and answers a caption.
    items_of_rows = [((row["video"], row["captions"][0]), row) for row in rows if row["captions"]]
    items = sorted({item for item, _ in items_of_rows})
    if len(items) < 2:
        raise InputError(f"the split {split!r} has {len(items)} clips with captions: retrieval needs at least 2")
    position = {item: index for index, item in enumerate(items)}
    queries, targets = _queries(session, [caption for _, caption in items])
    metrics: dict[str, Mapping[str, float]] = {}
    media = [one for one in project.config.store.combinations if "text" not in one.split("+")]
    for combination in sorted(media, key=lambda one: one.count("+")):
        chosen = [(position[item], row["vector"]) for item, row in items_of_rows if row["modalities"] == combination]
        if not chosen:
            continue
        # (Q, items): the best window of each item; an item without this combination is never found.
        best = np.full((len(queries), len(items)), -2.0, np.float32)
        for column, vector in chosen:
            best[:, column] = np.maximum(best[:, column], queries @ np.asarray(vector, np.float32))
        found = retrieval_metrics(best, targets=targets, num_queries=len(items))
        metrics[combination] = {name: float(getattr(found, name)) for name in ("r1", "r5", "r10", "medr", "meanr")}
    return Evaluation(split=split, num_queries=len(items), num_items=len(items), metrics=metrics)


def _queries(session: SearchSession, captions: list[str]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit vectors (Q, D) of the captions that have a known word, and their positions. The others count as misses."""
    from ...train.data import ClipDataset
    from ...train.evaluate import embed_batch

    samples, targets = [], []
    for position, caption in enumerate(captions):
        with suppress(InputError):
            samples.append({"text": [session.words(caption)]})
            targets.append(position)
    if not samples:
        raise InputError("none of the captions of this split has a known word: train with captions that share words")
    dataset = ClipDataset(samples, **session.resolved.limits, training=False)
    batches = map(dataset.__getitems__, in_batches(range(len(dataset)), QUERIES_PER_BATCH))
    vectors = np.concatenate([embed_batch(session.model, batch, ["text"])["text"] for batch in batches])
    return vectors, np.array(targets)
