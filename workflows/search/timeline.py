"""A question's similarity with one window of a video after another, from stored features: where the answer is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import FrameloomError, InputError
from ...train.data import ClipFeatures
from ..project import CheckpointRef, Project
from ..sync import ClipState, State, embed_clips, embed_job, take_state
from .session import Query, SearchSession

_MAX_WINDOWS = 100_000
_WINDOWS_PER_JOB = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A question's similarity with every window of one video, and the spans of the video with their captions.

    Windows are (P, 2) seconds [start, end), similarities (P,) cosines.
    """

    question: str
    video: str
    modalities: str
    windows: NDArray[np.float64]
    similarities: NDArray[np.float32]
    spans: tuple[tuple[float, float, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
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

    A video is named by its identity in the collection, its path, or its file name where only one has it; None takes
    the video of the best answer.

    Raises:
        FrameloomError: no model yet.
        InputError: no such video, one without features, a question without a known word, lengths that are not above 0.
    """
    session = SearchSession(project, or_before=True)
    if not (0 < window_seconds < np.inf and 0 < step_seconds < np.inf):
        raise InputError(f"window {window_seconds:g} s and step {step_seconds:g} s must be above 0")
    if not question.strip():
        raise InputError("an empty question: give at least one word")
    asked = session.embed({"text": [session.words(question)]})
    if video is None:
        results = session.search(Query(text=question, top=1))
        if not results:
            raise InputError("no clip answers this question: name a video with --video")
        video = results[0].video
    states = _states_of(take_state(project), video)
    widest = max(states, key=lambda clip: -1 if clip.primary is None else clip.primary.count("+"))
    combination = widest.primary
    if combination is None:
        raise InputError(f"the video {widest.clip.video!r} has nothing that store.combinations asks for")
    windows = windows_of(max(state.clip.end_seconds for state in states), window=window_seconds, step=step_seconds)
    return Timeline(
        question=question,
        video=widest.clip.video,
        modalities=combination,
        windows=windows,
        similarities=embed_windows(session, widest.inputs, windows, combination) @ asked,
        spans=tuple(
            (state.clip.start_seconds, state.clip.end_seconds, state.clip.captions[0])
            for state in states
            if state.clip.captions
        ),
    )


def embed_windows(
    session: SearchSession, clip: ClipFeatures, windows: NDArray[np.float64], combination: str
) -> NDArray[np.float32]:
    """The unit vector of each of (P, 2) windows of a clip's video, (P, D), as the rows of the table are made."""
    vectors = []
    for first in range(0, len(windows), _WINDOWS_PER_JOB):
        clips = tuple(
            replace(clip, clip=f"{start:.3f}-{end:.3f}", start_seconds=start, end_seconds=end, captions=())
            for start, end in windows[first : first + _WINDOWS_PER_JOB].tolist()
        )
        job = embed_job(session.project, session.resolved, clips, (combination,))
        vectors.append(embed_clips(job)[combination][1])
    return np.concatenate(vectors)


def trained(project: Project) -> CheckpointRef:
    """The project's checkpoint. Raises FrameloomError without one."""
    checkpoint = project.resolve().checkpoint
    if checkpoint is None:
        raise FrameloomError("no trained checkpoint for this configuration: run `frameloom sync` first")
    return checkpoint


def windows_of(seconds: float, *, window: float, step: float) -> NDArray[np.float64]:
    """Windows [start, end) over a video, (P, 2): every step while a whole one fits; one for a video that is shorter."""
    if (seconds - window) / step > _MAX_WINDOWS:
        raise InputError(
            f"a step of {step:g} s makes more than {_MAX_WINDOWS} windows of {seconds:.0f} s: take longer steps"
        )
    starts = np.arange(0.0, max(seconds - window, 0.0) + 1e-6, step)
    return np.stack([starts, np.minimum(starts + window, seconds)], axis=1)


def _states_of(state: State, name: str) -> list[ClipState]:
    known = [video.file.video for video in state.survey.videos]
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
    states = [clip for clip in state.clips if clip.clip.video == chosen[0].video]
    if not states:
        raise InputError(f"the video {chosen[0].video!r} has no features: `frameloom status` says why")
    return states
