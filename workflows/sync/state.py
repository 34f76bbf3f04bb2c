"""One moment of a project: its videos, their clips and the checkpoint, made once for a run and passed on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..._vocabulary import Clip, Status, digest_of
from ...extract.speech import segments_of
from ...store import embedding_fingerprint, quoted
from ...train.data import ClipFeatures
from ..console import count_of
from ..project import SPEECH, CheckpointRef, FeatureRequest, Project, Resolved, text_of
from .survey import Stream, Survey, fingerprint_of, survey
from .tasks import text_digest

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipState:
    """One clip that can be embedded.

    Attributes:
        clip: what it is.
        path: its file's path, as the table keeps it.
        inputs: what is stored of it.
        combinations: those of `store.combinations` that it has.
        row_digest: what decides its rows apart from vectors: captions, split, metadata, the combinations asked for, and
            the transcript.
        speech: the fingerprint of its video's transcript, where there is one with words in it.
    """

    clip: Clip
    path: str
    inputs: ClipFeatures
    combinations: tuple[str, ...]
    row_digest: str
    speech: str | None = None

    @property
    def row_ids(self) -> dict[str, str]:
        return {one: f"{self.clip.clip_id}-{one}" for one in self.combinations}

    @property
    def primary(self) -> str | None:
        """The combination through which it is searched: of those that it has, the one with the most of its media."""
        media = [one for one in self.combinations if "text" not in one.split("+")]
        return max(media, key=lambda one: (one.count("+"), one == "video"), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A project at one moment. A stage that changes it is followed by another one."""

    project: Project
    resolved: Resolved
    survey: Survey
    clips: tuple[ClipState, ...]

    @property
    def checkpoint(self) -> CheckpointRef | None:
        return self.resolved.checkpoint

    def rowless(self) -> dict[str, tuple[Status, str]]:
        """Videos that were extracted and can have no row, with the reason."""
        with_rows = {state.clip.video for state in self.clips if state.combinations}
        with_clips = {state.clip.video for state in self.clips}
        reasons: dict[str, tuple[Status, str]] = {}
        for state in self.survey.videos:
            if state.missing or state.duration_seconds <= 0 or state.name in with_rows:
                continue
            if state.name in with_clips:
                wanted = ", ".join(self.project.config.store.combinations)
                reason = (Status.NO_AUDIO, f"it has none of the combinations of store.combinations ({wanted})")
            else:
                seconds = state.duration_seconds
                reason = (Status.TOO_SHORT, f"no span of the manifest reaches into its {seconds:.2f} s")
            reasons[state.name] = reason
        return reasons

    def embedding_identity(self, state: ClipState) -> str:
        """Fingerprint of a clip's vectors: of its features, its span, the checkpoint, and how much of it is read."""
        assert self.checkpoint is not None
        inputs = state.inputs
        span, limits = [inputs.start_seconds, inputs.end_seconds], self.resolved.limits
        return embedding_fingerprint(inputs.identities(), self.checkpoint.digest, span=span, limits=limits)

    def stale_ids(self, held: Mapping[str, tuple[str, str, str]] | None = None) -> tuple[str, ...]:
        """Rows of clips that are no more, but for those of videos that cannot be read or finished just now."""
        expected = {one for state in self.clips for one in state.row_ids.values()}
        keep = {state.name for state in self.survey.videos if state.is_passing}
        held = held_rows(self.project) if held is None else held
        return tuple(one for one, (_, _, video) in held.items() if one not in expected and video not in keep)

    def doubted_deletion(self) -> str:
        """Why rows of videos that are gone are not deleted without consent; empty where so many may be.

        Rows whose content has other names now, as after a move, are not among them.
        """
        from ..project.collection import source_names

        project = self.project
        held = held_rows(project)
        there = {one.name for one in self.survey.videos if one.file.status is not Status.MISSING}
        moved = {self.embedding_identity(clip) for clip in self.clips} if self.checkpoint is not None else set()
        gone = [video for fingerprint, _, video in held.values() if video not in there and fingerprint not in moved]
        most = project.config.run.max_deleted_share
        names = source_names(project.config.collection.videos, project.base)
        lost = {one.partition("/")[0] for one in gone} & names - {one.partition("/")[0] for one in there}
        if not lost and len(gone) <= most * len(held):
            return ""
        reason = f"all of {min(lost)}" if lost else f"more than run.max_deleted_share = {most:g} allows"
        return (
            f"{len(gone)} of the table's {count_of(len(held), 'row')} belong to videos that are gone, such as"
            f" {min(gone)!r}: {reason}; a disk that is not mounted looks the same. Bring the videos back, or"
            " delete the rows with `frameloom sync --allow-delete`"
        )


def take_state(project: Project) -> State:
    return state_of(project, project.resolve(), survey(project))


def state_of(project: Project, resolved: Resolved, found: Survey) -> State:
    """The state that a survey and what was resolved give together."""
    clips = tuple(clip_states(project, found, resolved.features.text))
    return State(project=project, resolved=resolved, survey=found, clips=clips)


def clip_states(project: Project, found: Survey, text: FeatureRequest | None) -> Iterator[ClipState]:
    """Every clip of every usable video, sorted by video and time."""
    config = project.config
    for state in found.videos:
        if state.file.digest is None or state.duration_seconds <= 0:
            continue
        path = project.kept_path(state.file.video.path)
        transcripts = (one for one in state.streams if one.request.purpose == "speech")
        speech = next((one.fingerprint for one in transcripts if one.entry is not None and one.entry.num_rows), None)
        for clip in project.clips_of(state.file.video, state.file.digest, state.duration_seconds):
            media = {
                modality.value: tuple(one.fingerprint for one in streams)
                for modality, streams in state.modalities().items()
                if all(_reaches(project, one, clip) for one in streams)
            }
            if not media:
                continue
            texts = _known_texts(project, dict(enumerate(clip.captions)), text)
            columns = config.features.extra_text
            further = {name: text_of(clip.metadata, column) for name, column in columns.items()}
            extra = _known_texts(project, {name: one for name, one in further.items() if one}, text)
            inputs = ClipFeatures(
                clip=clip.clip_id,
                start_seconds=clip.start_seconds,
                end_seconds=clip.end_seconds,
                features=media | {name: (one,) for name, one in extra.items()},
                captions=tuple(texts.values()),
                is_picture=state.file.video.is_picture,
            )
            wanted = config.store.combinations
            facts: list[Any] = [clip.video, path, list(clip.captions), clip.split, dict(clip.metadata), sorted(wanted)]
            if project.speech is not None:
                facts.append([SPEECH, speech])
            yield ClipState(
                clip=clip,
                path=path,
                inputs=inputs,
                combinations=tuple(one for one in wanted if all(map(inputs.has, one.split("+")))),
                row_digest=digest_of(facts),
                speech=speech,
            )


def speech_column(project: Project, found: ClipState) -> dict[str, str]:
    """What is said in a clip, as a column of its rows; nothing where nobody speaks."""
    if found.speech is None:
        return {}
    said = project.store.read_span(found.speech, found.clip.start_seconds, found.clip.end_seconds)
    text = " ".join(segment.text for segment in segments_of(said))
    return {SPEECH: text} if text else {}


def _reaches(project: Project, stream: Stream, clip: Clip) -> bool:
    """Whether a feature has something to say of a clip: it has rows, and its stream overlaps the clip.

    A damaged or truncated stream has holes, so there the rows themselves are asked: one must lie in the clip, or
    nearer to it than the distance between two rows.
    """
    entry, spec = stream.entry, stream.request.spec
    if entry is None or not entry.num_rows:
        return False
    if entry.status is Status.OK:
        return bool(entry.start_seconds < clip.end_seconds and clip.start_seconds < entry.end_seconds)
    apart = spec.sampling.get("rows_per_window", 1) / (spec.rate_hz or 1.0)
    found = project.store.read_span(entry.fingerprint, clip.start_seconds - apart, clip.end_seconds + apart)
    return len(found.values) > 0


def _known_texts(project: Project, texts: Mapping[Key, str], text: FeatureRequest | None) -> dict[Key, str]:
    """The features of the texts that have at least one known word."""
    if text is None:
        return {}
    names = {key: fingerprint_of(text_digest(one), text) for key, one in texts.items()}
    entries = {key: project.store.entry(name) for key, name in names.items()}
    return {key: names[key] for key, entry in entries.items() if entry is not None and entry.num_rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """Changes due in the table: clips whose rows are missing or outdated, and rows of clips that are no more.

    Attributes:
        new_table: why no row can stay, so that a new table is made, and put in the place of this one when it is whole;
            empty where rows are changed one by one.
    """

    to_embed: tuple[ClipState, ...]
    delete_ids: tuple[str, ...]
    new_table: str = ""


def plan_table(state: State) -> TablePlan:
    """Compare the table with the clips. Without a checkpoint every clip must be embedded."""
    held = held_rows(state.project)
    to_embed = state.clips
    if state.checkpoint is not None:
        wanted = {clip.clip.clip_id: (state.embedding_identity(clip), clip.row_digest) for clip in state.clips}
        to_embed = tuple(
            clip
            for clip in state.clips
            if any(held.get(one, ("", ""))[:2] != wanted[clip.clip.clip_id] for one in clip.row_ids.values())
        )
    new_table = why_new_table(state) if held and state.checkpoint is not None else ""
    to_embed = state.clips if new_table else to_embed
    return TablePlan(to_embed=to_embed, delete_ids=state.stale_ids(held), new_table=new_table)


def why_new_table(state: State) -> str:
    """Why every row of the table must be made anew; empty where some can stay."""
    project, checkpoint = state.project, state.checkpoint
    assert checkpoint is not None
    wanted, table = project.column_types, project.table
    if project.ledger.table_state(project.ledger_key(table)) == table_digest(wanted, checkpoint.digest):
        return ""  # without a look into the table, which takes seconds
    there = table.metadata_types()
    other = [name for name in there if there[name] != wanted.get(name, there[name])]
    renamed = {name.casefold() for name in wanted if name not in there} & {name.casefold() for name in there}
    if other or renamed:
        return f"metadata columns have changed ({', '.join(sorted({*other, *renamed}))})"
    if not {"row_checksum", "vector_checksum"} <= set(table.schema().names):
        return "it was written by an older version"
    return "" if table.count(f"model = {quoted(checkpoint.digest)}") else "its rows are of another model"


def table_digest(metadata_types: Mapping[str, str], checkpoint: str) -> str:
    """What the ledger keeps of a table whose rows need no look: its columns, and the model of its rows."""
    return digest_of([dict(metadata_types), checkpoint])


def held_rows(project: Project) -> dict[str, tuple[str, str, str]]:
    """Row id to (fingerprint, row digest, video)."""
    if not project.table.exists():
        return {}
    columns = project.table.rows().to_pydict()
    triples = zip(columns["fingerprint"], columns["row_digest"], columns["video"], strict=True)
    return dict(zip(columns["id"], triples, strict=True))
