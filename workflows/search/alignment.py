"""Which patches of a clip's frames answer which word of a question: figure 3 of MILES, figure 7 of All-in-one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from ..._vocabulary import ConfigError, InputError, canonical_json
from ...train.data import sample_batch
from ..project import Project
from .rerank import moved, within
from .session import SearchSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """How well words go with patches.

    Attributes:
        question: the words.
        video: the file.
        model: whose features are compared.
        words: those that the model reads.
        frames: (T, S, S, 3) the frames that it sees.
        weights: (W, T, h, w) of each word and patch, the mean over the pieces of a word: a cosine (MILES), or the share
            of the word that optimal transport moves to the patch (All-in-one).
    """

    question: str
    video: str
    model: str
    words: tuple[str, ...]
    frames: UInt8[np.ndarray, "T S S 3"]
    weights: Float[np.ndarray, "W T h w"]

    def as_dict(self) -> dict[str, Any]:
        words = zip(self.words, self.weights.tolist(), strict=True)
        return {
            "question": self.question,
            "video": self.video,
            "model": self.model,
            "words": [{"word": word, "weights": weights} for word, weights in words],
        }


def question_alignment(
    project: Project, question: str, video: Path, *, span: tuple[float, float] = (-np.inf, np.inf)
) -> Alignment:
    """Compare the words of a question with the patches of a file's frames, whether it is in the collection or not.

    Raises:
        ConfigError: a model that does not compare single patches with words.
        InputError: a question without a known word.
        MediaError: a file that cannot be read.
        FrameloomError: no model yet.
    """
    import torch

    session = SearchSession(project, or_before=True)
    model, limits = session.model, session.resolved.limits
    if not hasattr(model, "word_patches"):
        raise ConfigError(f"{model.name} compares no single patches with words: use miles or all_in_one")
    pieces = session.words(question)
    words = [(word, len(session.words(word)) - 2) for word in question.split()]  # without [CLS] and [SEP]
    spec = canonical_json(session.resolved.features.media[0].spec.identity())
    frames = within(session.frames_of(video), *span)
    batch = sample_batch([{"text": [pieces], "video": frames}], limits, spec=spec)
    batch = {name: moved(tokens, next(model.parameters()).device) for name, tokens in batch.items()}
    with torch.inference_mode():
        weights = model.word_patches(text=batch["text"], video=batch["video"])[0].float().cpu().numpy()
    num_frames, last = int(batch["video"].mask.sum()), int(batch["text"].mask.sum()) - 1
    side = int(weights.shape[2] ** 0.5)
    maps, shown, place = [], [], 1
    for word, count in words:
        if place + count > last:  # beyond what the model reads
            break
        maps.append(weights[place : place + count, :num_frames].mean(axis=0).reshape(num_frames, side, side))
        shown.append(word)
        place += count
    if not shown:
        raise InputError(f"the model reads {last - 1} pieces, fewer than the first word has: ask with shorter words")
    pictures = batch["video"].values[0, :num_frames].permute(0, 2, 3, 1).cpu().numpy()
    return Alignment(
        question=question,
        video=str(video),
        model=model.name,
        words=tuple(shown),
        frames=pictures,
        weights=np.stack(maps),
    )
