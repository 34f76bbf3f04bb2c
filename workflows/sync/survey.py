"""The videos of a collection against the store: what each has, what it lacks, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..._vocabulary import MediaError, Modality, Outcome, Status, digest_of
from ...extract import file_status
from ...store import feature_fingerprint
from ..project import FeatureRequest, ImportRecord, Project, Video


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """One video of the collection: the digest of its bytes, or why it has none."""

    video: Video
    digest: str | None = None
    status: Status = Status.OK
    message: str = ""


TRIES = 2
"""Runs that decode a content before the verdict that it crashes or exceeds the limits is kept."""
NOTHING_IMPORTED = "nothing was imported for it"
_ABSENCE = {Modality.VIDEO: Status.NO_VIDEO, Modality.AUDIO: Status.NO_AUDIO, Modality.TEXT: Status.NO_TEXT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """In place of an entry of the store: an import was said to have nothing for this feature."""

    status: Status
    message: str = NOTHING_IMPORTED
    num_rows: int = 0
    start_seconds: None = None
    end_seconds: None = None
    checksum: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One requested feature of one video, its name in the store, and what is there under that name.

    That is an entry of the store or an `Absence`; None before it is extracted.

    Attributes:
        is_due: what is there is the verdict of an attempt, and the next run makes another one.
    """

    request: FeatureRequest
    fingerprint: str
    entry: Any | None
    is_due: bool = False

    @property
    def status(self) -> tuple[Status, str] | None:
        """Its status with its message; None before it is extracted."""
        return None if self.entry is None else (self.entry.status, self.entry.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoState:
    """The stored state of one video: a stream for each requested feature, none of a file that cannot be read."""

    file: FileState
    streams: tuple[Stream, ...] = ()

    @property
    def name(self) -> str:
        return self.file.video.video

    @property
    def entries(self) -> dict[str, Any]:
        return {one.request.name: one.entry for one in self.streams if one.entry is not None}

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(one.request.name for one in self.streams if one.entry is None)

    @property
    def to_extract(self) -> tuple[str, ...]:
        """The features that must be extracted: all that are missing or due, but for those that are imported."""
        return tuple(
            one.request.name
            for one in self.streams
            if (one.entry is None or one.is_due) and not one.request.is_imported
        )

    @property
    def parts_to_extract(self) -> list[tuple[str, ...]]:
        """The same, as what is extracted together: speech by itself."""
        speech = {one.request.name for one in self.streams if one.request.purpose == "speech"}
        parts = (tuple(name for name in self.to_extract if (name in speech) == alone) for alone in (False, True))
        return [part for part in parts if part]

    @property
    def why_pending(self) -> str:
        awaited = sorted(set(self.missing) - set(self.to_extract))
        if not awaited:
            return "not done yet"
        return f"waits for `frameloom import` of {', '.join(awaited)} (--absent records videos that have none)"

    def modalities(self) -> dict[Modality, tuple[Stream, ...]]:
        """The streams that are joined for the model, by modality; those of another purpose are not among them."""
        found: dict[Modality, tuple[Stream, ...]] = {}
        for one in (each for each in self.streams if each.request.is_read):
            found[one.request.modality] = (*found.get(one.request.modality, ()), one)
        return found

    @property
    def status(self) -> tuple[Status, str]:
        """The video's own status with its message; `ok` also while something is missing.

        The message names the feature where others of the same modality have another status.
        """
        if not self.entries:
            return self.file.status, self.file.message
        status, message = file_status(self.entries)
        for streams in self.modalities().values():
            names = [one.request.name for one in streams if one.status == (status, message)]
            if message and names and len(names) < len(streams):
                return status, f"{', '.join(names)}: {message}"
        return status, message

    @property
    def outcome(self) -> Outcome:
        """The box of the accounting identity, as far as extraction goes."""
        if self.missing and self.file.digest is not None:
            return Outcome.PENDING
        status = self.status[0]
        # A video that has nothing of what was asked for (no sound, where only sound is requested) cannot be found.
        return Outcome.REJECTED if status.is_absence else status.outcome

    @property
    def is_passing(self) -> bool:
        """Whether it is there and cannot be read or finished just now, so that its rows stay."""
        return self.file.status in (Status.UNREADABLE, Status.CHANGED) or bool(self.missing)

    @property
    def duration_seconds(self) -> float:
        """The end of the last stream that was seen or heard; 0 without any. Words that are said do not count."""
        entries = (one.entry for one in self.streams if one.request.purpose != "speech")
        return max((entry.end_seconds for entry in entries if entry is not None and entry.num_rows), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Every video of the collection against the features that are requested."""

    videos: tuple[VideoState, ...]

    def to_extract(self) -> list[VideoState]:
        """Videos of which a feature must be extracted, each content once."""
        waiting = [state for state in self.videos if state.to_extract and state.file.digest is not None]
        return list({state.file.digest: state for state in reversed(waiting)}.values())[::-1]

    def updated(self, project: Project) -> Survey:
        """The same files with what was stored of them since. The files themselves are not looked at again."""
        project.store.refresh()
        absent = ImportRecord.absent_in(project.root)

        def streams(state: VideoState) -> tuple[Stream, ...]:
            return tuple(stream_of(project, one.request, state.file.digest or "", absent) for one in state.streams)

        videos = (replace(state, streams=streams(state)) if state.to_extract else state for state in self.videos)
        return Survey(videos=tuple(videos))


def survey(project: Project, *, on_hashed: Callable[[Path], None] | None = None) -> Survey:
    """Compare the files on disk with the store. Files whose size and times are unchanged are not read again."""
    project.store.refresh()
    videos = project.collection.videos
    digests = project.ledger.digests_of_files([video.path for video in videos], on_hashed=on_hashed)
    absent = ImportRecord.absent_in(project.root)
    states = []
    for video in videos:
        digest = digests[video.path]
        if isinstance(digest, MediaError):
            states.append(VideoState(file=FileState(video=video, status=digest.status, message=digest.message)))
            continue
        wanted = (one for one in project.extracted if one.purpose != "shots" or not video.has_spans)
        streams = tuple(stream_of(project, request, digest, absent) for request in wanted)
        states.append(VideoState(file=FileState(video=video, digest=digest), streams=streams))
    return Survey(videos=tuple(states))


def stream_of(project: Project, request: FeatureRequest, digest: str, absent: frozenset[str]) -> Stream:
    """One feature of one source in the store as it was last refreshed. `ImportRecord.absent_in` says what is absent."""
    name = fingerprint_of(digest, request)
    entry: Any = project.store.entry(name)
    if entry is None and name in absent:
        entry = Absence(status=_ABSENCE[request.modality])
    is_due = entry is not None and entry.status.is_momentary
    if is_due and entry.status.outcome is Outcome.QUARANTINED:
        is_due = project.ledger.attempts(attempt_name(project, digest)) < TRIES
    return Stream(request=request, fingerprint=name, entry=entry, is_due=is_due)


def attempt_name(project: Project, digest: str) -> str:
    """What attempts to decode a content are counted under: others count anew with other limits."""
    run = project.config.run
    return digest_of(["attempt", digest, run.decode_seconds, run.decode_memory_gb])


def fingerprint_of(source_digest: str, request: FeatureRequest) -> str:
    return feature_fingerprint(source_digest, request.spec, request.weights_digest)
