"""Clips into classes: by the names of the classes as texts, without training, and by a linear probe of the embeddings.

The class of a clip is a column of the manifest. MILES (arXiv 2204.12408), section 4.2, and All-in-one (arXiv
2203.07303), section 4.2, judge action recognition so; the probe is that of `fuse/heads/probe.py`.

Legend: N clips, C classes, E width of an embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._settings import Settings
from ..._vocabulary import ConfigError, InputError
from ..console import count_of
from ..project import Project, in_split
from ..search import SearchSession
from ..sync import ClipState, take_state
from .evaluate import Interval

MOST_CLASSES = 10_000


class ClassEvaluation(Settings):
    """How often the class of a clip is found."""

    column: str
    """Of the manifest, whose values are the classes."""
    split: str
    num_clips: int
    """Clips of the split that have a class and a row in the table."""
    num_classes: int
    """Different values, in training and in this split."""
    left_out: Mapping[str, int] = {}
    """Clips that could not be judged, by the reason."""
    unseen: int = 0
    """Clips of classes that no training clip has: the probe is wrong about them."""
    accuracy: Mapping[str, float]
    """In percent: "zero-shot" by the names, "probe", and "majority", the most frequent class of training."""
    intervals: Mapping[str, Interval]
    """95 % of each, over draws of the split's videos."""

    def lines(self) -> Iterator[str]:
        yield (
            f"{count_of(self.num_clips, 'clip')} of the split {self.split!r},"
            f" {self.num_classes} classes of the column {self.column!r}; in brackets 95 %"
        )
        for name, value in self.accuracy.items():
            low, high = self.intervals[name]
            yield f"  {name:10} accuracy {value:.1f} [{low:.1f}, {high:.1f}]"
        if self.unseen:
            yield f"  {count_of(self.unseen, 'clip')} of classes that no training clip has"
        yield from (f"  {count_of(count, 'clip')} left out: {why}" for why, count in self.left_out.items())


def evaluate_classes(project: Project, *, column: str, split: str = "test", prompt: str = "{}") -> ClassEvaluation:
    """Judge a synced project by the classes of its clips.

    Args:
        project: which was synced.
        column: of the manifest.
        split: train, val or test.
        prompt: the sentence that is embedded for a class, with `{}` in the place of its name.

    Raises:
        InputError: no such column, no clip that has a class, more classes than there can be, a prompt without `{}`.
        FrameloomError: no model yet.
    """
    if split not in ("train", "val", "test"):
        raise InputError(f"split {split!r}: allowed are train, val, test")
    if prompt.count("{}") != 1:
        raise InputError(f"prompt {prompt!r:.80}: write {{}} once, in the place of the class's name")
    known = project.collection.metadata_types
    if column not in known:
        listed = ", ".join(known) or "none"
        raise InputError(f"the manifest has no column {column!r} with anything in it; it has {listed}")
    session, left_out = SearchSession(project), Counter[str]()
    rows = project.table.get(where=f"model = '{session.checkpoint.digest}' AND is_primary", columns=["clip", "vector"])
    vector_of = {row["clip"]: np.asarray(row["vector"], np.float32) for row in rows}
    learned: list[ClipState] = []
    asked: list[ClipState] = []
    for state in take_state(project).clips:
        is_asked = in_split(state.clip.split, split)
        if not is_asked and not in_split(state.clip.split, "train"):
            continue
        value = state.clip.metadata.get(column)
        if value is None or not str(value).strip():
            left_out["it has no class"] += is_asked
        elif state.clip.clip_id not in vector_of:
            left_out["it has no row in the table: run `frameloom sync`"] += is_asked
        else:
            asked += [state] if is_asked else []
            learned += [state] if in_split(state.clip.split, "train") else []
    names = sorted({str(one.clip.metadata[column]).strip() for one in (*learned, *asked)})
    if not asked or not 2 <= len(names) <= MOST_CLASSES:
        raise InputError(
            f"{len(asked)} clips of the split {split!r} have a value of {column!r}, and {len(names)} values are"
            f" different: it takes a clip, and 2 to {MOST_CLASSES:,} classes"
        )
    number_of = {name: number for number, name in enumerate(names)}

    def arrays(states: list[ClipState]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        numbers = [number_of[str(one.clip.metadata[column]).strip()] for one in states]
        vectors = [vector_of[one.clip.clip_id] for one in states]
        return np.array(vectors, np.float32).reshape(len(states), -1), np.array(numbers, np.int64)

    vectors, classes = arrays(asked)
    train_vectors, train_classes = arrays(learned)
    guesses = {"zero-shot": (vectors @ _named(session, [prompt.format(name) for name in names]).T).argmax(axis=1)}
    if learned:
        guesses["probe"] = _probed(train_vectors, train_classes, vectors, num_classes=len(names))
        guesses["majority"] = np.full(len(asked), np.bincount(train_classes).argmax())
    return ClassEvaluation(
        column=column,
        split=split,
        num_clips=len(asked),
        num_classes=len(names),
        left_out={why: count for why, count in left_out.items() if count},
        unseen=int((~np.isin(classes, train_classes)).sum()) if learned else 0,
        **_judged({name: 100.0 * (guess == classes) for name, guess in guesses.items()}, asked),
    )


def _named(session: SearchSession, sentences: list[str]) -> NDArray[np.float32]:
    """Unit vectors (C, E) of sentences. Raises InputError for one without a known word."""
    from ...train.data import sample_batch
    from ...train.evaluate import embed_batch

    if session.resolved.features.text is None:
        raise ConfigError("features.text: names of classes are texts: add a backbone that reads them")
    samples = [{"text": [session.words(sentence)]} for sentence in sentences]
    return embed_batch(session.model, sample_batch(samples, session.resolved.limits), ["text"])["text"]


def _probed(
    train: NDArray[np.float32], classes: NDArray[np.int64], vectors: NDArray[np.float32], *, num_classes: int
) -> NDArray[np.int64]:
    """What a linear layer that was trained on embeddings says of others."""
    import torch

    from ...fuse.heads import fit_linear_probe

    probe = fit_linear_probe(torch.from_numpy(train), torch.from_numpy(classes), num_classes=num_classes)
    with torch.inference_mode():
        found: NDArray[np.int64] = probe(torch.from_numpy(vectors)).argmax(dim=1).numpy()
    return found


def _judged(right: Mapping[str, NDArray[np.float64]], asked: list[ClipState]) -> dict[str, Any]:
    from ...train.evaluate import intervals, redrawn_means

    groups = np.unique([one.clip.video for one in asked], return_inverse=True)[1]
    accuracy = {name: float(each.mean()) for name, each in right.items()}
    return {"accuracy": accuracy, "intervals": intervals(redrawn_means(right, groups))}
