"""The numbers behind the plots: loss curves, attention between modalities, a question's similarity over time.

Legend: H heads, N tokens of one clip, D width, M modalities, P points in time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FrameloomError, InputError
from ...train import read_checkpoint
from ...train.data import ClipSample, StoredExamples
from ..project import CheckpointRef, Project, in_split
from ..search import Query, SearchSession
from ..sync import (
    ClipState,
    EmbedJob,
    State,
    embed_clips,
    loaded_model,
    take_state,
)

CLASS_TOKEN = "cls"  # noqa: S105 - a name of a token
_MAX_WINDOWS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """A training's loss.

    Attributes:
        folder: of the training.
        steps: (step from 1, loss) of every step; empty for a checkpoint that kept only the means of its epochs.
        terms: the loss of every step by term.
        epochs: mean loss of every epoch that is done.
        steps_per_epoch: steps of one epoch.
    """

    folder: Path
    steps: tuple[tuple[int, float], ...]
    terms: Mapping[str, tuple[tuple[int, float], ...]]
    epochs: tuple[float, ...]
    steps_per_epoch: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "folder": str(self.folder),
            "steps": [list(point) for point in self.steps],
            "terms": {name: [list(point) for point in points] for name, points in self.terms.items()},
            "epoch_means": list(self.epochs),
            "steps_per_epoch": self.steps_per_epoch,
        }


def training_losses(folder: Path) -> Losses:
    """The loss curve of a checkpoint's folder, or of the training that is under way there.

    Raises:
        ConfigError: there is no training, or none that kept its losses.
    """
    try:
        return _losses_of_steps(folder)
    except ConfigError:
        return _losses_of_epochs(folder)


def _losses_of_steps(folder: Path) -> Losses:
    from ...train import read_losses

    read = read_losses(folder)
    if not read:
        raise ConfigError(f"the training in {folder} has made no step yet: try again later")
    by_epoch: dict[int, list[float]] = {}
    terms: dict[str, list[tuple[int, float]]] = {}
    for one in read:
        by_epoch.setdefault(one.epoch, []).append(one.loss)
        for name, value in one.terms.items():
            terms.setdefault(name, []).append((one.step, value))
    longest = max(map(len, by_epoch.values()))
    return Losses(
        folder=folder,
        steps=tuple((one.step, one.loss) for one in read),
        terms={name: tuple(points) for name, points in terms.items()},
        epochs=tuple(float(np.mean(losses)) for losses in by_epoch.values() if len(losses) == longest),
        steps_per_epoch=longest,
    )


def _losses_of_epochs(folder: Path) -> Losses:
    run = read_checkpoint(folder).provenance.get("training") or {}
    epochs = tuple(run.get("epoch_losses", ()))
    if not epochs:
        raise ConfigError(f"the checkpoint in {folder} was not trained here: it keeps no losses")
    return Losses(folder=folder, steps=(), terms={}, epochs=epochs, steps_per_epoch=run["step"] / len(epochs))


def trained(project: Project) -> CheckpointRef:
    """The project's checkpoint. Raises FrameloomError where there is none."""
    checkpoint = project.resolve().checkpoint
    if checkpoint is None:
        raise FrameloomError("no trained checkpoint for this configuration: run `frameloom sync` first")
    return checkpoint


# --- attention -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityAttention:
    """How much the tokens of each modality attend to those of each (figure 3 of Everything at Once).

    Attributes:
        modalities: in the order of rows and columns.
        weights: (H, M, M), head, modality of the query, modality of the key: what a query gives to all keys of a
            modality together, averaged over its queries and then over clips. Rows sum to 1.
        tokens: mean number of tokens of each modality in a clip. Attention that told no tokens apart would be in
            proportion to them.
        num_clips: how many clips were averaged.
        block: of the transformer, from 1.
    """

    modalities: tuple[str, ...]
    weights: Float[np.ndarray, "H M M"]
    tokens: tuple[float, ...]
    num_clips: int
    block: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "modalities": list(self.modalities),
            "heads": self.weights.tolist(),
            "mean": self.weights.mean(axis=0).tolist(),
            "tokens": list(self.tokens),
            "clips": self.num_clips,
            "block": self.block,
        }


def project_attention(project: Project, *, num_clips: int, split: str | None, block: int = 1) -> ModalityAttention:
    """Attention in the project's model over the first clips (by hash of their names) that have all modalities.

    Raises:
        FrameloomError: no model yet.
        InputError: a model without fused attention, no such block, or no clip that has all its modalities.
    """
    checkpoint = trained(project)
    model = loaded_model(str(checkpoint.folder), checkpoint.digest, project.config.run.device)
    _check_fuses(model, block)
    state = take_state(project)
    clips = [clip for clip in state.clips if split is None or _in(clip, split)]
    having = [clip for clip in clips if all(_has(clip, name) for name in model.modalities)]
    if not having:
        where = "" if split is None else f" of the split {split!r}"
        raise InputError(f"no clip{where} has all of {', '.join(model.modalities)}: attention needs at least one")
    chosen = sorted(having, key=lambda state: state.clip.clip_id)[:num_clips]
    return mean_attention(model, _prepared(state, chosen), block=block)


def _in(state: ClipState, split: str) -> bool:
    if split not in ("train", "val", "test"):
        raise InputError(f"split {split!r}: allowed are train, val, test")
    return in_split(state.clip.split, split)


def _has(state: ClipState, name: str) -> bool:
    return state.inputs.has(name)


def _check_fuses(model: Any, block: int) -> None:
    fusion = getattr(model, "fusion", None)
    if fusion is None or getattr(model.config, "transformer", "shared") != "shared" or not len(fusion.blocks):
        raise InputError(
            f"the model {model.name} has no transformer that fuses modalities: there is no attention to plot"
        )
    if not 1 <= block <= len(fusion.blocks):
        raise InputError(f"block {block}: this model has blocks 1 to {len(fusion.blocks)}")


def _prepared(state: State, clips: Sequence[ClipState]) -> Iterator[Mapping[str, Any]]:
    """A batch of one clip each, so that no token is padding."""
    from ...train.data import ClipDataset, collate

    examples = StoredExamples(state.project.store, [clip.inputs for clip in clips])
    dataset = ClipDataset(examples, **state.resolved.limits, training=False)
    for index in range(len(dataset)):
        yield collate([dataset[index]])


def mean_attention(model: Any, batches: Iterator[Mapping[str, Any]], *, block: int = 1) -> ModalityAttention:
    """Attention between modalities, averaged over batches of one clip each."""
    found, counts, names = [], [], list[str]()
    for batch in batches:
        groups = clip_tokens(model, batch)
        names = list(groups)
        sizes = [len(rows) for rows in groups.values()]
        weights = attention_weights(model.fusion, list(groups.values()), block=block)
        found.append(_between(weights, sizes))
        counts.append(sizes)
    return ModalityAttention(
        modalities=tuple(names),
        weights=np.mean(found, axis=0),
        tokens=tuple(np.mean(counts, axis=0).tolist()),
        num_clips=len(found),
        block=block,
    )


def clip_tokens(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens (N, D) that enter the transformer for a batch of one clip, by modality, the class token first."""
    import torch

    device = next(model.parameters()).device
    moved = {name: type(each)(*(part.to(device) for part in each)) for name, each in batch.items()}
    with torch.inference_mode():
        made, _ = model.tokens(moved)
    groups = {
        name: each.values.reshape(-1, each.values.shape[-1])[: int(each.mask.sum())] for name, each in made.items()
    }
    cls = model.fusion.cls_token
    return groups if cls is None else {CLASS_TOKEN: cls[0], **groups}


def attention_weights(fusion: Any, groups: Sequence[Any], *, block: int) -> NDArray[np.float64]:
    """softmax(q k^T / sqrt(D / H)) of one block, (H, N, N), for the tokens of one clip.

    The model's own attention never makes this matrix; it is computed here from the same weights, in float64.
    """
    import torch

    with torch.inference_mode():
        x_ND = torch.cat(list(groups)).double()
        for earlier in list(fusion.blocks)[: block - 1]:
            x_ND = _through(earlier, x_ND)
        q, k, _v = _queries_keys_values(fusion.blocks[block - 1], x_ND)
        weights: NDArray[np.float64] = _softmax(q, k).cpu().numpy()
    return weights


def _queries_keys_values(block: Any, x_ND: Any) -> tuple[Any, Any, Any]:
    """(H, N, D / H) each."""
    normed = _normed(block.norm1, x_ND)
    q, k, v = _linear(block.attn.qkv, normed).unflatten(-1, (3, block.attn.heads, -1)).permute(1, 2, 0, 3)
    return q, k, v


def _softmax(q: Any, k: Any) -> Any:
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)


def _through(block: Any, x_ND: Any) -> Any:
    """What a block makes of its tokens: x + attention(LN x), then x + MLP(LN x)."""
    from torch.nn import functional

    q, k, v = _queries_keys_values(block, x_ND)
    attended = (_softmax(q, k) @ v).transpose(0, 1).flatten(1)
    x_ND = x_ND + _linear(block.attn.proj, attended)
    hidden = functional.gelu(_linear(block.mlp.fc1, _normed(block.norm2, x_ND)))
    return x_ND + _linear(block.mlp.fc2, hidden)


def _linear(layer: Any, x: Any) -> Any:
    y = x @ layer.weight.double().T
    return y if layer.bias is None else y + layer.bias.double()


def _normed(layer: Any, x: Any) -> Any:
    from torch.nn import functional

    return functional.layer_norm(x, layer.normalized_shape, layer.weight.double(), layer.bias.double(), layer.eps)


def _between(weights: NDArray[np.float64], sizes: Sequence[int]) -> NDArray[np.float64]:
    """(H, N, N) to (H, M, M): summed over the keys of a modality, averaged over the queries of one."""
    starts = np.cumsum([0, *sizes[:-1]])
    by_key = np.add.reduceat(weights, starts, axis=2)
    by_both: NDArray[np.float64] = np.add.reduceat(by_key, starts, axis=1) / np.asarray(sizes)[None, :, None]
    return by_both


# --- a question over time --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A question's similarity with every window of one video.

    Attributes:
        question: what was asked.
        video: the video's identity in the collection.
        modalities: what of it was compared.
        windows: (P, 2) seconds [start, end) of each window.
        similarities: (P,) cosines.
        spans: captions of the video with their spans, where the collection has some.
    """

    question: str
    video: str
    modalities: str
    windows: NDArray[np.float64]
    similarities: NDArray[np.float32]
    spans: tuple[tuple[float, float, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "question": self.question,
            "video": self.video,
            "modalities": self.modalities,
            "windows": [
                {"start_seconds": start, "end_seconds": end, "similarity": float(similarity)}
                for (start, end), similarity in zip(self.windows.tolist(), self.similarities, strict=True)
            ],
        }


def question_timeline(
    project: Project, question: str, *, video: str | None, window_seconds: float, step_seconds: float
) -> Timeline:
    """Embed every window of a video from its stored features, and compare each with a question.

    Args:
        project: with a trained model.
        question: words.
        video: its identity in the collection, its path, or its name where only one has it; None takes the video of the
            best answer.
        window_seconds: length of a window.
        step_seconds: from the start of one window to that of the next.

    Raises:
        FrameloomError: no model yet.
        InputError: no such video, one without features, a question without a known word, lengths that are not above 0.
    """
    session = SearchSession(project)
    if not (0 < window_seconds < np.inf and 0 < step_seconds < np.inf):
        raise InputError(f"window {window_seconds:g} s and step {step_seconds:g} s must be above 0")
    if not question.strip():
        raise InputError("an empty question: give at least one word")
    asked = session.embed(ClipSample(text=[session.words(question)], video=None, audio=None))
    name = _best_video(session, question) if video is None else video
    states = _states_of(project, name)
    widest = max(states, key=lambda state: len(_fullest(project, state)))
    windows = windows_of(max(state.clip.end_seconds for state in states), window=window_seconds, step=step_seconds)
    combination = "+".join(_fullest(project, widest))
    vectors = _embedded(session, widest, windows, combination)
    return Timeline(
        question=question,
        video=widest.clip.video,
        modalities=combination,
        windows=windows,
        similarities=vectors @ asked,
        spans=tuple(
            (state.clip.start_seconds, state.clip.end_seconds, state.clip.captions[0])
            for state in states
            if state.clip.captions
        ),
    )


def windows_of(seconds: float, *, window: float, step: float) -> NDArray[np.float64]:
    """Windows [start, end) over a video, (P, 2): every step while a whole one fits; one for a video that is shorter."""
    if (seconds - window) / step > _MAX_WINDOWS:
        raise InputError(
            f"a step of {step:g} s makes more than {_MAX_WINDOWS} windows of {seconds:.0f} s: take longer steps"
        )
    starts = np.arange(0.0, max(seconds - window, 0.0) + 1e-6, step)
    return np.stack([starts, np.minimum(starts + window, seconds)], axis=1)


def _best_video(session: SearchSession, question: str) -> str:
    results = session.search(Query(text=question, top=1))
    if not results:
        raise InputError("no clip answers this question: name a video with --video")
    return results[0].video


def _states_of(project: Project, name: str) -> list[ClipState]:
    """The clips of one video."""
    found = take_state(project)
    known = [video.file.video for video in found.survey.videos]
    ways = (
        [video for video in known if video.video == name],
        [video for video in known if video.path.absolute() == Path(name).absolute()],
        [video for video in known if Path(video.video).name == Path(name).name],
    )
    chosen = next((videos for videos in ways if videos), [])
    if not chosen:
        raise InputError(
            f"no video {name!r} in the collection: its names are in the `video` field of `frameloom query --json`"
        )
    if len(chosen) > 1:
        raise InputError(f"{len(chosen)} videos are called {name!r}: give one as {chosen[0].video!r}")
    states = [state for state in found.clips if state.clip.video == chosen[0].video]
    if not states:
        raise InputError(f"the video {chosen[0].video!r} has no features: `frameloom status` says why")
    return states


def _fullest(project: Project, state: ClipState) -> list[str]:
    """The media of a clip's fullest combination."""
    combinations = [one.split("+") for one in project.config.store.combinations]
    having = [parts for parts in combinations if "text" not in parts and all(state.inputs.has(part) for part in parts)]
    if not having:
        raise InputError(f"the video {state.clip.video!r} has nothing that store.combinations asks for")
    return max(having, key=len)


def _embedded(
    session: SearchSession, state: ClipState, windows: NDArray[np.float64], combination: str
) -> NDArray[np.float32]:
    """(P, E) unit vectors of the windows, made by the same call as the rows of the table."""
    clips = tuple(
        replace(state.inputs, clip=f"{start:.3f}-{end:.3f}", start_seconds=start, end_seconds=end, captions=())
        for start, end in windows.tolist()
    )
    vectors = []
    for first in range(0, len(clips), 64):
        job = EmbedJob(
            store=str(session.project.store.root),
            checkpoint=str(session.checkpoint.folder),
            checkpoint_digest=session.checkpoint.digest,
            clips=clips[first : first + 64],
            combinations=(combination,),
            limits=session.resolved.limits,
            device=session.project.config.run.device,
            threads=session.project.config.run.threads,
        )
        vectors.append(embed_clips(job).vectors[combination][1])
    return np.concatenate(vectors)
