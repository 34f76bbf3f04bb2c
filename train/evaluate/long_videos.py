"""Test clips that last longer than the clips that a model was trained on: four ways to embed them.

Paper: Everything at Once (arXiv 2112.04446), section 4.4 and table 6. Source: the authors' evaluation configurations
(ninatu/everything_at_once@4daeab6, configs/evaluation) and everything_at_once/dataset/utils.py.

at_once   the model is given all rows and frames, more than it was ever trained with
clips     they are cut into parts as long as a training clip; the embeddings of the parts are averaged
max_pool  video rows and audio tokens are max-pooled to as many as a training clip has
nearest   ... are sampled evenly to as many

Averages are taken of the embeddings as the model makes them, before they are normalised, as published.

Deviation: which part of a clip counts is decided by its spectrogram frames, as published; of a clip without sound by
its video rows. The authors' test sets have no such clip.

A long clip is cut into equal parts as "cut_into_clips" of the authors does it; they mark a part that does not count by
the id "-1". The embeddings of parts are averaged by `tokens.average_by_id`.

Legend: N clips, or padded rows, P parts, D width, E width of an embedding.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped
from numpy.typing import NDArray

from ..._vocabulary import InputError, check_word
from ..data import ClipSample, PreparedClip, collate, join_streams
from .embed import embed_batch
from .metrics import modalities_of

if TYPE_CHECKING:
    from ...fuse import FusionModel, Tokens

LongVideoStrategy = Literal["at_once", "clips", "max_pool", "nearest"]
REAL_SHARE = 0.7
"""A part after the first counts when more than this share of its spectrogram frames is real."""


def equal_parts(rows: Shaped[np.ndarray, N * D], *, num_parts: int) -> Shaped[np.ndarray, "P M *D"]:
    """Padded rows, or their mask, as `num_parts` parts of equal length.

    Raises InputError when the parts would not be equal.
    """
    if num_parts < 1 or len(rows) % num_parts:
        raise InputError(f"{len(rows)} rows cannot be cut into {num_parts} equal parts: pad them to a multiple")
    return rows.reshape(num_parts, len(rows) // num_parts, *rows.shape[1:])


def frames_of_parts(
    num_frames: int, *, num_parts: int, frames_per_part: int
) -> tuple[Int[np.ndarray, " P"], Bool[np.ndarray, " P"]]:
    """The spectrogram frames that each part is taken to have, and whether it counts.

    The first part always counts. One that does not count is given all its frames, real or not, as the authors do it.

    Args:
        num_frames: real frames of the whole clip.
        num_parts: P.
        frames_per_part: frames of a part, padding included.
    """
    left = num_frames - np.arange(num_parts) * frames_per_part
    counts = (left > REAL_SHARE * frames_per_part) | (np.arange(num_parts) == 0)
    return np.where(counts, np.minimum(left, frames_per_part), frames_per_part), counts


@dataclass(frozen=True, slots=True, kw_only=True)
class LongVideos:
    """How long test clips are embedded.

    Attributes:
        strategy: see the head of this file.
        num_clips: the longest test clip, in training clips: 4 for MSR-VTT (48 rows, 3072 frames), 6 for YouCook2 (72
            and 4608). Longer ones are cut at the end.
        clip_video_tokens: rows of a training clip.
        clip_audio_frames: spectrogram frames of a training clip.
        max_words: words of a caption that are kept.
    """

    strategy: LongVideoStrategy
    num_clips: int
    clip_video_tokens: int = 12
    clip_audio_frames: int = 768
    max_words: int = 20

    def __post_init__(self) -> None:
        check_word("strategy", self.strategy, LongVideoStrategy)
        if min(self.num_clips, self.clip_video_tokens, self.clip_audio_frames, self.max_words) < 1:
            raise InputError(f"num_clips and the limits of a clip must be at least 1; got {self}")

    def model_options(self) -> dict[str, Any]:
        """The options of Everything at Once's configuration that the strategy needs. None of them touches a weight.

        Sound is padded to the limit first, as the authors always do; felt only where padding is not silenced.
        """
        pooled = self.strategy in ("max_pool", "nearest")
        parts = 1 if self.strategy == "clips" else self.num_clips
        return {
            "audio_reduction": self.strategy if pooled else "none",
            "max_audio_frames": self.clip_audio_frames,
            "pad_audio_to": self.clip_audio_frames * parts,
        }

    def prepare(
        self,
        *,
        text: NDArray[Any] | None,
        video: NDArray[Any] | Sequence[NDArray[Any]] | None,
        audio: NDArray[Any] | None,
    ) -> list[PreparedClip]:
        """One clip ready for a batch, or under "clips" every part of it that counts, at least one.

        Args:
            text: word vectors (W, D) of the caption.
            video: rows (T, D), or several streams of them that are joined (`join_streams`).
            audio: log-mel frames (F, mel bands).
        """
        words = None if text is None else text[: self.max_words].astype(np.float32)
        rows, tokens = None, self.clip_video_tokens
        if video is not None:
            streams = [video] if isinstance(video, np.ndarray) else video
            if self.strategy in ("at_once", "clips"):
                rows = join_streams(streams, max_tokens=self.num_clips * tokens)
            else:
                rows = join_streams(
                    streams, max_tokens=tokens, how="nearest" if self.strategy == "nearest" else "max_pool"
                )
        frames = None if audio is None else audio[: self.num_clips * self.clip_audio_frames].astype(np.float32)
        if self.strategy != "clips":
            return [{"text": words, "video": rows, "audio": frames}]
        if frames is not None and len(frames):
            ruling, length = len(frames), self.clip_audio_frames
        else:
            ruling, length = 0 if rows is None else len(rows), self.clip_video_tokens
        _, counts = frames_of_parts(ruling, num_parts=self.num_clips, frames_per_part=length)
        return [
            {
                "text": words,
                "video": _part(rows, part, length=self.clip_video_tokens),
                "audio": _part(frames, part, length=self.clip_audio_frames),
            }
            for part in np.flatnonzero(counts).tolist()
        ]


def _part(rows: NDArray[np.float32] | None, part: int, *, length: int) -> NDArray[np.float32] | None:
    return None if rows is None else rows[part * length : (part + 1) * length]


class ClipEmbeddings(NamedTuple):
    """The result of `embed_test_clips`.

    Attributes:
        vectors: (N, E) unit vectors by combination; zeros for a clip that has none of its modalities.
        present: (N,) by modality, which clips really have it.
    """

    vectors: dict[str, NDArray[np.float32]]
    present: dict[str, NDArray[np.bool_]]


def embed_test_clips(
    model: FusionModel,
    samples: Iterable[ClipSample],
    *,
    plan: LongVideos,
    combinations: Sequence[str] = ("text", "video", "audio", "video+audio"),
    batch_size: int = 32,
) -> ClipEmbeddings:
    """Embed test clips by a strategy, each with its first caption, in the order in which they are given.

    The model is used as it is, but for the options of the plan, which a view of it has that shares its weights: put it
    into evaluation mode first (`load_checkpoint` does).

    Args:
        model: a trained model.
        samples: the clips.
        plan: the strategy and the limits.
        combinations: "video+audio" is their joint embedding, "video,audio" the mean of the two (v+a of table 4).
        batch_size: clips embedded together.

    Raises:
        InputError: no clip, or a combination that the model does not take.
    """
    wanted = list(dict.fromkeys(name for each in combinations for name in modalities_of(each)))
    if not set(wanted) <= set(model.modalities):
        raise InputError(f"combinations {list(combinations)}: the model takes {', '.join(model.modalities)}")
    # The same model, weights and all, with the plan's options, where its configuration has them.
    view, rest = copy.copy(model), iter(samples)
    known = {name: value for name, value in plan.model_options().items() if hasattr(model.config, name)}
    view.config = model.config.replaced(**known)
    vectors: dict[str, list[NDArray[np.float32]]] = {name: [] for name in combinations}
    present: dict[str, list[bool]] = {name: [] for name in wanted}
    while chunk := list(islice(rest, batch_size)):
        clips = []
        for sample in chunk:
            captions: Sequence[NDArray[Any]] = sample.get("text") or ()
            text = captions[0] if len(captions) else None
            parts = plan.prepare(text=text, video=sample.get("video"), audio=sample.get("audio"))
            clips.append([{name: part[name] for name in wanted} for part in parts])
        for name in wanted:
            present[name] += [any((rows := part[name]) is not None and len(rows) for part in parts) for parts in clips]
        for name, rows in _mean_embeddings(view, clips, combinations).items():
            vectors[name].append(rows)
    if not present[wanted[0]]:
        raise InputError("there is no clip to embed: give at least one")
    return ClipEmbeddings(
        {name: np.concatenate(rows) for name, rows in vectors.items()},
        {name: np.array(flags) for name, flags in present.items()},
    )


def _mean_embeddings(
    model: FusionModel, clips: Sequence[Sequence[PreparedClip]], combinations: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Unit vectors (B, E) of clips in parts; zeros where the whole batch lacks a modality."""
    owner = np.repeat(np.arange(len(clips)), [len(parts) for parts in clips])
    batch = collate([part for parts in clips for part in parts])
    made = _embeddings(model, batch, combinations) if batch else {}
    means = {}
    for name in combinations:
        sums = np.zeros((len(clips), model.dim), np.float32)
        if name in made:
            np.add.at(sums, owner, made[name])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        means[name] = (sums / np.maximum(lengths, 1e-8)).astype(np.float32)
    return means


def _embeddings(
    model: FusionModel, batch: Mapping[str, Tokens], combinations: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Embeddings of parts before they are normalised, where the model shows them; otherwise unit vectors."""
    import torch

    from ...fuse import Tokens

    device = next(model.parameters()).device
    moved = {name: Tokens(tokens.values.to(device), tokens.mask.to(device)) for name, tokens in batch.items()}
    found: dict[str, NDArray[np.float32]] = {}
    with torch.inference_mode():
        for mark, fusion in ("+", "joint"), (",", "late"):
            names = [name for name in combinations if mark in name or (mark == "+" and "," not in name)]
            if names and "fusion" in inspect.signature(model.embeddings).parameters:
                raw = model.embeddings(moved, fusion=fusion).vectors  # type: ignore[call-arg]
                found |= {
                    name: raw[inner].float().cpu().numpy() for name in names if (inner := name.replace(",", "+")) in raw
                }
    missing = [name for name in combinations if name not in found]
    return found | _unit_embeddings(model, batch, missing)


def _unit_embeddings(
    model: FusionModel, batch: Mapping[str, Tokens], combinations: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    singles = [name for each in combinations for name in (modalities_of(each) if "," in each else [each])]
    made = embed_batch(model, batch, list(dict.fromkeys(singles))) if singles else {}
    late = {
        name: np.mean([made[one] for one in modalities_of(name)], axis=0)
        for name in combinations
        if "," in name and set(modalities_of(name)) <= made.keys()
    }
    return {name: made[name] for name in combinations if name in made} | late
