"""The plan before the work: what is there, what is wanted, and what lies between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._vocabulary import Clip, MediaError, Modality, Outcome, Status, digest_of
from ...extract import file_status
from ...store import embedding_fingerprint, feature_fingerprint
from ...train.data import ClipFeatures
from ..project import CheckpointRef, Project, Video, Want, clips_of, text_of
from .tasks import ExtractItem, text_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """One video of the collection: the digest of its bytes, or why it has none."""

    video: Video
    digest: str | None = None
    status: Status = Status.OK
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One wanted feature of one video.

    Attributes:
        want: the feature.
        fingerprint: its name in the store.
        entry: what the store holds under that name; None where it was not extracted yet.
    """

    want: Want
    fingerprint: str
    entry: Any | None

    @property
    def status(self) -> tuple[Status, str] | None:
        """Its status with its message; None where it was not extracted yet."""
        return None if self.entry is None else (self.entry.status, self.entry.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoState:
    """What the store holds of one video: a stream for each wanted feature, none of a file that cannot be read."""

    file: FileState
    streams: tuple[Stream, ...] = ()

    @property
    def entries(self) -> dict[str, Any]:
        """What is stored, by feature."""
        return {one.want.name: one.entry for one in self.streams if one.entry is not None}

    @property
    def missing(self) -> tuple[str, ...]:
        """The features that the store lacks."""
        return tuple(one.want.name for one in self.streams if one.entry is None)

    @property
    def to_extract(self) -> tuple[str, ...]:
        """The features that must be extracted: all that are missing, but for those that are made elsewhere."""
        return tuple(one.want.name for one in self.streams if one.entry is None and not one.want.is_imported)

    @property
    def why_pending(self) -> str:
        """What a pending video waits for."""
        awaited = sorted(set(self.missing) - set(self.to_extract))
        if not awaited:
            return "not done yet"
        return f"waits for `frameloom import` of {', '.join(awaited)} (--absent records videos that have none)"

    def modalities(self) -> dict[Modality, tuple[Stream, ...]]:
        """The streams that are joined for the model, by modality."""
        names = dict.fromkeys(one.want.modality for one in self.streams)
        return {name: tuple(one for one in self.streams if one.want.modality is name) for name in names}

    @property
    def status(self) -> tuple[Status, str]:
        """The video's own status with its message; `ok` also while something is missing."""
        if not self.entries:
            return self.file.status, self.file.message
        worst = file_status(self.entries)
        return worst[0], self._blamed(*worst)

    def _blamed(self, status: Status, message: str) -> str:
        """The message, with the feature's name where others of the same modality have another status."""
        for streams in self.modalities().values():
            names = [one.want.name for one in streams if one.status == (status, message)]
            if message and names and len(names) < len(streams):
                return f"{', '.join(names)}: {message}"
        return message

    @property
    def outcome(self) -> Outcome:
        """The box of the accounting identity, as far as extraction goes."""
        if self.missing and self.file.digest is not None:
            return Outcome.PENDING
        status = self.status[0]
        # A video that has nothing of what was asked for (no sound, where only sound is wanted) cannot be found.
        return Outcome.REJECTED if status.is_absence else status.outcome

    @property
    def duration_seconds(self) -> float:
        """The end of the last stream that was seen or heard; 0 where nothing was."""
        return max((entry.end_seconds for entry in self.entries.values() if entry.num_rows), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Every video of the collection against the features that are wanted."""

    videos: tuple[VideoState, ...]

    def to_extract(self) -> list[VideoState]:
        """Videos of which a feature must be extracted, each content once."""
        seen: set[str] = set()
        chosen = []
        for state in self.videos:
            if state.to_extract and state.file.digest is not None and state.file.digest not in seen:
                seen.add(state.file.digest)
                chosen.append(state)
        return chosen

    def failures(self) -> list[VideoState]:
        """Videos that were rejected, quarantined, or could not be tried."""
        boxes = (Outcome.REJECTED, Outcome.QUARANTINED)
        return [state for state in self.videos if state.outcome in boxes]


def survey(project: Project, *, on_hashed: Callable[[Path], None] | None = None) -> Survey:
    """Compare the files on disk with the store. Files whose size and times are unchanged are not read again."""
    project.store.refresh()
    files = _file_states(project, on_hashed)
    return Survey(videos=tuple(_video_state(project, file) for file in files))


def _file_states(project: Project, on_hashed: Callable[[Path], None] | None) -> list[FileState]:
    videos = project.collection.videos
    digests = project.ledger.digests_of_files([video.path for video in videos], on_hashed=on_hashed)
    states = []
    for video in videos:
        digest = digests[video.path]
        if isinstance(digest, MediaError):
            states.append(FileState(video=video, status=digest.status, message=digest.message))
        else:
            states.append(FileState(video=video, digest=digest))
    return states


def _video_state(project: Project, file: FileState) -> VideoState:
    if file.digest is None:
        return VideoState(file=file)
    named = [(want, fingerprint_of(file.digest, want)) for want in project.wants]
    return VideoState(
        file=file,
        streams=tuple(Stream(want=want, fingerprint=name, entry=project.store.entry(name)) for want, name in named),
    )


def fingerprint_of(source_digest: str, want: Want) -> str:
    """The name of one feature of one source."""
    return feature_fingerprint(source_digest, want.spec, want.weights_digest)


def extract_item(state: VideoState) -> ExtractItem:
    """What a worker needs to know of a video that lacks features."""
    assert state.file.digest is not None
    return ExtractItem(
        video=state.file.video.video,
        path=str(state.file.video.path),
        digest=state.file.digest,
        fingerprints={one.want.name: one.fingerprint for one in state.streams if one.want.name in state.to_extract},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipState:
    """One clip that can be embedded: what it is, and what it has."""

    clip: Clip
    path: str
    inputs: ClipFeatures

    def combinations(self, wanted: Iterable[str]) -> list[str]:
        """The wanted combinations of modalities that this clip has."""
        return [one for one in wanted if all(map(self.inputs.has, one.split("+")))]


def clip_states(project: Project, found: Survey) -> list[ClipState]:
    """Every clip of every usable video, sorted by video and time."""
    text = project.text_want()
    states: list[ClipState] = []
    for state in found.videos:
        if state.file.digest is None or state.duration_seconds <= 0:
            continue
        clip_seconds = project.config.collection.clip_seconds
        for clip in clips_of(state.file.video, state.duration_seconds, clip_seconds=clip_seconds):
            made = _clip_state(project, state, clip, text)
            if made is not None:
                states.append(made)
    return states


def _clip_state(project: Project, state: VideoState, clip: Clip, text: Want | None) -> ClipState | None:
    media = {
        modality: tuple(one.fingerprint for one in streams)
        for modality, streams in state.modalities().items()
        if all(_reaches(project, one, clip) for one in streams)
    }
    if not media:
        return None
    further = {} if text is None else _further_texts(project, clip, text)
    inputs = ClipFeatures(
        clip=clip.clip_id,
        start_seconds=clip.start_seconds,
        end_seconds=clip.end_seconds,
        features={**{modality.value: prints for modality, prints in media.items()}, **further},
        captions=() if text is None else _known_texts(project, clip, text),
    )
    path = project.kept_path(state.file.video.path)
    return ClipState(clip=clip, path=path, inputs=inputs)


def _reaches(project: Project, stream: Stream, clip: Clip) -> bool:
    """Whether a feature has something to say of a clip: it has rows, and its stream overlaps the clip.

    A damaged or truncated stream has holes, so there the rows themselves are asked: one must lie in the clip, or
    nearer to it than the distance between two rows.
    """
    entry, spec = stream.entry, stream.want.spec
    if entry is None or not entry.num_rows:
        return False
    if entry.status is Status.OK:
        return bool(entry.start_seconds < clip.end_seconds and clip.start_seconds < entry.end_seconds)
    apart = spec.sampling.get("rows_per_window", 1) / (spec.rate_hz or 1.0)
    found = project.store.read_span(entry.fingerprint, clip.start_seconds - apart, clip.end_seconds + apart)
    return len(found.values) > 0


def _further_texts(project: Project, clip: Clip, text: Want) -> dict[str, tuple[str, ...]]:
    """The features of the clip's further texts, by modality: those that have at least one known word."""
    columns = project.config.features.extra_text
    told = {name: text_of(clip.metadata, column) for name, column in columns.items()}
    names = {name: fingerprint_of(text_digest(one), text) for name, one in told.items() if one}
    return {
        name: (one,)
        for name, one in names.items()
        if (entry := project.store.entry(one)) is not None and entry.num_rows
    }


def _known_texts(project: Project, clip: Clip, text: Want) -> tuple[str, ...]:
    """The clip's captions that have at least one known word."""
    names = (fingerprint_of(text_digest(caption), text) for caption in clip.captions)
    return tuple(name for name in names if (entry := project.store.entry(name)) is not None and entry.num_rows)


def rowless_videos(project: Project, found: Survey, clips: list[ClipState]) -> dict[str, tuple[Status, str]]:
    """Videos that were extracted and can have no row, with the reason."""
    with_rows = {state.clip.video for state in clips if row_ids(project, state)}
    with_clips = {state.clip.video for state in clips}
    reasons: dict[str, tuple[Status, str]] = {}
    for state in found.videos:
        name = state.file.video.video
        if state.missing or state.duration_seconds <= 0 or name in with_rows:
            continue
        if name in with_clips:
            wanted = ", ".join(project.config.store.combinations)
            reasons[name] = (Status.NO_AUDIO, f"it has none of the combinations of store.combinations ({wanted})")
        else:
            reasons[name] = (
                Status.TOO_SHORT,
                f"no span of the manifest reaches into its {state.duration_seconds:.2f} s",
            )
    return reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """What must change in the table.

    Attributes:
        to_embed: clips whose rows are missing or were made from something else.
        delete_ids: rows of clips that are no more.
    """

    to_embed: tuple[ClipState, ...]
    delete_ids: tuple[str, ...]


def plan_table(project: Project, clips: list[ClipState], keep: set[str], checkpoint: CheckpointRef) -> TablePlan:
    """Compare the table with the clips. Rows of the videos in `keep` (unreadable just now) are left alone."""
    held = _held_rows(project)
    to_embed: list[ClipState] = []
    for state in clips:
        wanted = (embedding_identity(project, state, checkpoint), row_digest(project, state))
        if any(held.get(one, ("", "", ""))[:2] != wanted for one in row_ids(project, state)):
            to_embed.append(state)
    return TablePlan(to_embed=tuple(to_embed), delete_ids=_stale_ids(project, held, clips, keep))


def stale_ids(project: Project, clips: list[ClipState], keep: set[str]) -> tuple[str, ...]:
    """Rows of clips that are no more, whatever checkpoint there is."""
    return _stale_ids(project, _held_rows(project), clips, keep)


def _stale_ids(
    project: Project, held: Mapping[str, tuple[str, str, str]], clips: list[ClipState], keep: set[str]
) -> tuple[str, ...]:
    expected = {one for state in clips for one in row_ids(project, state)}
    return tuple(one for one, (_, _, video) in held.items() if one not in expected and video not in keep)


def row_ids(project: Project, state: ClipState) -> list[str]:
    """The rows that a clip has in the table: one for each wanted combination of modalities that it has."""
    return [row_id(state.clip.clip_id, one) for one in state.combinations(project.config.store.combinations)]


def _held_rows(project: Project) -> dict[str, tuple[str, str, str]]:
    """Row id to (fingerprint, row digest, video)."""
    if not project.table.exists():
        return {}
    columns = project.table.rows().to_pydict()
    triples = zip(columns["fingerprint"], columns["row_digest"], columns["video"], strict=True)
    return dict(zip(columns["id"], triples, strict=True))


def row_id(clip_id: str, combination: str) -> str:
    """The primary key of a row: one for each clip and combination of modalities."""
    return f"{clip_id}-{combination}"


def embedding_identity(project: Project, state: ClipState, checkpoint: CheckpointRef) -> str:
    """What decides the vectors of a clip: its features, its span, the checkpoint, and how much of it is read."""
    inputs = state.inputs
    span = [inputs.start_seconds, inputs.end_seconds]
    return embedding_fingerprint(inputs.identities(), checkpoint.digest, span=span, limits=project.limits)


def row_digest(project: Project, state: ClipState) -> str:
    """What decides the rest of a row: captions, split, metadata, and which combinations it stands beside."""
    clip, wanted = state.clip, sorted(project.config.store.combinations)
    return digest_of([clip.video, state.path, list(clip.captions), clip.split, dict(clip.metadata), wanted])


def fullest_combination(project: Project, state: ClipState) -> str | None:
    """The combination through which a clip is searched: of those that it has, the one with the most of its media."""
    media = [one for one in state.combinations(project.config.store.combinations) if "text" not in one.split("+")]
    return max(media, key=lambda one: (one.count("+"), one == "video"), default=None)
