"""Step localisation: which second of an instructional video shows which step of its task, without training for it.

Papers: Everything at Once (arXiv 2112.04446), section 4.2 and table 3; CrossTask (arXiv 1903.08225), section 4, whose
inference and recall are used. Sources: windows from ninatu/everything_at_once@4daeab6,
everything_at_once/dataset/crosstask_mining_dataset.py; the labelling from DmZhukov/CrossTask@9e6fdcc, dp.pyx and
train.py; the recall of single videos and the log-softmax of MiningYouTube from
brian7685/Multimodal-Clustering-Network@808948b, eval_cross.py. How the authors of Everything at Once ran the labelling
is not published; the paper says that it follows CrossTask.

Deviations:
* With as many seconds as steps the published program finds no labelling, or none of the right one; here the only one
  that there is comes out.
* A step counts as found when at least one predicted second lies in it. The published CrossTask recall counts such
  seconds, which is the same where every step has exactly one.
* Recalls are in percent.

A score is a cosine, a cost its negative. The scores of CrossTask are used as they are, as MCN and HowTo100M do; the
program of CrossTask takes the log-softmax over the steps first (`normalise`).

Legend: T seconds, K steps, S states (2 K + 1), N rows, F frames, D width of a row, E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Real
from numpy.typing import NDArray

from ..._vocabulary import InputError, check_word
from ..data import PreparedClip, collate, frames_of_span, join_streams, rows_of_span
from .embed import embed_batch

if TYPE_CHECKING:
    from ...fuse import FusionModel, Tokens

SecondsPerStep = Literal["one", "many"]
Normalise = Literal["none", "log_softmax"]
Protocol = Literal["crosstask", "crosstask_per_video", "miningyoutube"]
NORMALISE: Mapping[Protocol, Normalise] = {
    "crosstask": "none",
    "crosstask_per_video": "none",
    "miningyoutube": "log_softmax",
}
"""The normalisation of each protocol's scores before the labelling."""


# --- the labelling ----------------------------------------------------------------------------------------------------


def label_steps(
    costs: Real[np.ndarray, "T K"], *, seconds_per_step: SecondsPerStep = "one", background_cost: float = 0.0
) -> Bool[np.ndarray, "T K"]:
    """The cheapest labelling of the seconds in which every step comes once, in the given order.

    Background may lie before, between and after the steps. Of predecessors of the same cost the first of these is
    taken: the same state, the one before, the step before without background between; at the end the last step, unless
    background behind it is cheaper. Costs enter as float32 and are added as float64, as the published program does.

    Args:
        costs: of second t for step k.
        seconds_per_step: whether a step lasts exactly one second, or one or more that follow each other.
        background_cost: of a second without a step.

    Raises:
        InputError: fewer seconds than steps, no step, or costs that are not finite.
    """
    if costs.ndim != 2 or not costs.shape[1] or len(costs) < costs.shape[1]:
        raise InputError(f"costs have shape {costs.shape}: they must be (seconds, steps), with a second for every step")
    if not np.isfinite(costs).all():
        raise InputError("costs must be finite numbers: a NaN has no order")
    check_word("seconds_per_step", seconds_per_step, SecondsPerStep)
    num_seconds, num_steps = costs.shape
    is_step = np.arange(2 * num_steps + 1) % 2 == 1
    state_costs = np.full((num_seconds, len(is_step)), background_cost, np.float64)
    state_costs[:, is_step] = costs.astype(np.float32)
    may_stay = ~is_step if seconds_per_step == "one" else np.ones_like(is_step)
    totals, moves = _cheapest(state_costs, may_stay=may_stay, may_skip=is_step)
    state = len(is_step) - 1 if totals[-1] < totals[-2] else len(is_step) - 2
    labels = np.zeros((num_seconds, num_steps), bool)
    for second in range(num_seconds - 1, -1, -1):
        if is_step[state]:
            labels[second, state // 2] = True
        state -= int(moves[second, state])
    return labels


def _cheapest(
    state_costs: Float[np.ndarray, "T S"], *, may_stay: Bool[np.ndarray, " S"], may_skip: Bool[np.ndarray, " S"]
) -> tuple[Float[np.ndarray, " S"], NDArray[np.int8]]:
    """The cost of the cheapest way into every state at the end, and by how many states it advanced at each second."""
    num_states = state_costs.shape[1]
    moves = np.zeros(state_costs.shape, np.int8)
    # Two states that nothing reaches come first, so that a way of one or two states is a slice.
    before = np.full(num_states + 2, np.inf)
    before[2] = 0.0
    ways = np.empty((3, num_states))
    for second, cost in enumerate(state_costs):
        ways[0] = np.where(may_stay, before[2:], np.inf)
        ways[1] = before[1:-1]
        ways[2] = np.where(may_skip, before[:-2], np.inf)
        moves[second] = ways.argmin(axis=0)
        before[2:] = ways.min(axis=0) + cost
    return before[2:], moves


def predict_steps(
    scores: Real[np.ndarray, "T K"], *, normalise: Normalise = "none", seconds_per_step: SecondsPerStep = "one"
) -> Bool[np.ndarray, "T K"]:
    """The labelling with the highest sum of scores; a second without a step scores 0.

    Args:
        scores: of second t for step k, the higher the better.
        normalise: "log_softmax" makes every second's scores logarithms of probabilities over the steps first.
        seconds_per_step: see `label_steps`.

    Raises:
        InputError: as `label_steps` does.
    """
    check_word("normalise", normalise, Normalise)
    scores = scores.astype(np.float32)
    if normalise == "log_softmax" and scores.size:
        scores = scores - scores.max(axis=1, keepdims=True)
        scores = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return label_steps(-scores, seconds_per_step=seconds_per_step)


# --- the recall -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Localised:
    """One video whose seconds were labelled.

    Attributes:
        video: its name.
        task: the task that it belongs to; the same for all in a data set without tasks.
        truth: (T, K) the annotated seconds of every step.
        predicted: (T, K) the predicted ones.
    """

    video: str
    task: str
    truth: NDArray[Any]
    predicted: NDArray[Any]

    def counts(self) -> tuple[int, int]:
        """Steps that were found, and steps that the video shows. Raises InputError for shapes that differ."""
        if self.truth.shape != self.predicted.shape or self.truth.ndim != 2:
            raise InputError(
                f"{self.video}: annotation {self.truth.shape} and prediction {self.predicted.shape} must both be"
                " (seconds, steps)"
            )
        truth = self.truth.astype(bool)
        found = (truth & self.predicted.astype(bool)).any(axis=0)
        return int(found.sum()), int(truth.any(axis=0).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalisationRecall:
    """How many of the steps that are shown were found.

    Attributes:
        protocol: how they were counted.
        recall: in percent.
        by_task: the same for every task, in the order of the names.
        num_videos: videos counted.
    """

    protocol: Protocol
    recall: float
    by_task: Mapping[str, float]
    num_videos: int


def localisation_recall(videos: Iterable[Localised], *, protocol: Protocol) -> LocalisationRecall:
    """The recall of step localisation, in percent.

    "crosstask": of each task the steps found in all its videos over the steps shown in all its videos, then the mean
    over tasks (CrossTask's own). "crosstask_per_video": the recall of each video, the mean over a task's videos, then
    over tasks (HowTo100M and MCN, and so the numbers that Everything at Once compares with). "miningyoutube": the
    recall of each video, then the mean over all videos.

    Raises:
        InputError: no video, shapes that differ, or a video or task that shows no step and so has no recall.
    """
    check_word("protocol", protocol, Protocol)
    groups: dict[str, list[tuple[int, int]]] = {}
    num_videos = 0
    for each in videos:
        num_videos += 1
        counts = each.counts()
        if protocol != "crosstask" and not counts[1]:
            raise InputError(f"{each.video} shows no step and has no recall: leave it out")
        groups.setdefault("" if protocol == "miningyoutube" else each.task, []).append(counts)
    if not groups:
        raise InputError("there is no video to count: give at least one")
    by_task = {}
    for task in sorted(groups):
        found, shown = np.array(groups[task], np.float64).T
        if not shown.sum():
            raise InputError(f"no video of the task {task!r} shows a step, so that it has no recall: leave it out")
        is_pooled = protocol == "crosstask"
        by_task[task] = 100.0 * float(found.sum() / shown.sum() if is_pooled else (found / shown).mean())
    mean = float(np.mean(list(by_task.values())))
    return LocalisationRecall(protocol=protocol, recall=mean, by_task=by_task, num_videos=num_videos)


# --- the windows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepWindow:
    """The model's input for one second of a video.

    Attributes:
        start_seconds: first instant of the window.
        end_seconds: the instant after its last.
        frames: spectrogram frames of the video, with context on both sides.
        inside: of those frames the ones that belong to the window and are not context.
    """

    start_seconds: int
    end_seconds: int
    frames: slice
    inside: slice


def step_windows(num_seconds: int, *, radius: int = 1, context_seconds: int = 0) -> list[StepWindow]:
    """A window around every second: [t - radius, t + radius + 1), cut at both ends of the video.

    Args:
        num_seconds: T, the length of the annotation.
        radius: seconds on each side; 1 is the paper's window of 3 s.
        context_seconds: seconds of sound more on each side, which the audio network hears and the mask then hides.

    Raises:
        InputError: a negative number.
    """
    if min(num_seconds, radius, context_seconds) < 0:
        raise InputError(f"{num_seconds} seconds, radius {radius}, context {context_seconds}: none may be negative")
    windows = []
    for second in range(num_seconds):
        start, end = max(0, second - radius), min(second + radius + 1, num_seconds)
        heard_start, heard_end = max(0, start - context_seconds), min(end + context_seconds, num_seconds)
        inside = frames_of_span(float(start - heard_start), float(end - heard_start))
        windows.append(StepWindow(start, end, frames_of_span(float(heard_start), float(heard_end)), inside))
    return windows


def window_audio(
    audio: Real[np.ndarray, "F D"], windows: Sequence[StepWindow], *, max_frames: int = 768
) -> tuple[Float[np.ndarray, "T M D"], Bool[np.ndarray, "T M"]]:
    """The spectrogram of every window, padded with zeros to the longest, and the mask of what is the window's own.

    As the authors count frames, a window that begins at 0 s has two frames fewer than others of its length, and without
    context the mask hides the last two of every other window. Every window has at least one frame, masked where the
    sound has ended before it.

    Args:
        audio: frames of the whole video.
        windows: of the video.
        max_frames: frames kept of a window with its context.
    """
    crops = [audio[window.frames][:max_frames] for window in windows]
    longest = max([1, *map(len, crops)])
    values = np.zeros((len(crops), longest, audio.shape[1]), np.float32)
    mask = np.zeros((len(crops), longest), bool)
    for i, (crop, window) in enumerate(zip(crops, windows, strict=True)):
        values[i, : len(crop)] = crop
        mask[i, window.inside.start : min(window.inside.stop, len(crop))] = True
    return values, mask


# --- scoring with a model ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVideo:
    """One video to be localised: features of all of it, and the words of its task's steps.

    Attributes:
        video: its name.
        task: the task that it belongs to; empty for MiningYouTube, where each video has steps of its own.
        streams: video features (N, D), each with its rows per second, in the order in which they are joined.
        audio: (F, mel bands) log-mel frames; None for a model without audio, or a video without sound.
        steps: word vectors (W, D) of every step, in the order of the steps.
        truth: (T, K) the annotated seconds of every step; T is the length that is scored.
    """

    video: str
    task: str
    streams: Sequence[tuple[NDArray[Any], float]]
    audio: NDArray[Any] | None
    steps: Sequence[NDArray[Any]]
    truth: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Localiser:
    """How videos are localised. The defaults are the paper's.

    Attributes:
        combination: the modalities whose joint embedding is compared with the steps.
        radius: see `step_windows`.
        context_seconds: see `step_windows`. A model that silences masked frames does not hear it.
        max_video_tokens: rows kept of a window.
        max_audio_frames: frames kept of a window.
        max_words: words kept of a step.
        batch_size: windows embedded together.
    """

    combination: str = "video+audio"
    radius: int = 1
    context_seconds: int = 0
    max_video_tokens: int = 12
    max_audio_frames: int = 768
    max_words: int = 20
    batch_size: int = 64

    def scores(self, model: FusionModel, video: StepVideo) -> Float[np.ndarray, "T K"]:
        """The cosine of every second's window with every step.

        Raises:
            InputError: steps and annotation do not fit, or the video lacks a modality of `combination` altogether.
        """
        if video.truth.ndim != 2 or video.truth.shape[1] != len(video.steps):
            raise InputError(
                f"{video.video}: the annotation has shape {video.truth.shape} and there are {len(video.steps)} steps"
            )
        steps = collate([{"text": words[: self.max_words].astype(np.float32)} for words in video.steps])
        if not steps:
            raise InputError("no step has a known word: the texts of the steps and the word vectors do not fit")
        text = _embedded(model, steps, "text", video.video)
        windows = step_windows(len(video.truth), radius=self.radius, context_seconds=self.context_seconds)
        parts = [windows[first : first + self.batch_size] for first in range(0, len(windows), self.batch_size)]
        seen = [_embedded(model, self.batch(video, part), self.combination, video.video) for part in parts]
        return (np.concatenate(seen) if seen else np.zeros((0, text.shape[1]), np.float32)) @ text.T

    def batch(self, video: StepVideo, windows: Sequence[StepWindow]) -> dict[str, Tokens]:
        """Some windows of a video as a model takes them."""
        from ...fuse import Tokens

        seen = windows if video.streams else ()
        prepared: list[PreparedClip] = []
        for window in seen:
            span = float(window.start_seconds), float(window.end_seconds)
            cut = [rows[rows_of_span(*span, rate_hz=rate, rounding="accurate")] for rows, rate in video.streams]
            prepared.append({"video": join_streams(cut, max_tokens=self.max_video_tokens)})
        batch = collate(prepared)
        if video.audio is not None:
            batch["audio"] = Tokens.of(*window_audio(video.audio, windows, max_frames=self.max_audio_frames))
        if prepared and "video" not in batch:  # no row at all: the model's placeholder for every window
            nothing = np.zeros((len(windows), 1, sum(rows.shape[1] for rows, _ in video.streams)), np.float32)
            batch["video"] = Tokens.of(nothing, np.zeros(nothing.shape[:2], bool))
        return batch

    def localise(
        self, model: FusionModel, videos: Iterable[StepVideo], *, protocol: Protocol = "crosstask"
    ) -> tuple[LocalisationRecall, list[Localised]]:
        """Score, label and count videos.

        The model is used as it is: put it into evaluation mode first (`load_checkpoint` does).

        Raises:
            InputError: as `scores`, `label_steps` and `localisation_recall` do; it names the video.
        """
        check_word("protocol", protocol, Protocol)
        results = []
        for video in videos:
            scores = self.scores(model, video)
            try:
                predicted = predict_steps(scores, normalise=NORMALISE[protocol])
            except InputError as error:
                raise InputError(f"{video.video}: {error}") from None
            results.append(Localised(video=video.video, task=video.task, truth=video.truth, predicted=predicted))
        return localisation_recall(results, protocol=protocol), results


def _embedded(model: FusionModel, batch: Mapping[str, Tokens], combination: str, video: str) -> NDArray[np.float32]:
    found = embed_batch(model, batch, [combination])
    if combination not in found:
        raise InputError(f"{video} has no {combination}: it has {', '.join(batch) or 'nothing'}; choose `combination`")
    return found[combination]
