"""All stages in turn, only what changed: the plan, then exactly that, then the account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ..._vocabulary import FrameloomError, InputError, Status, digest_of
from ...store import writer_lock
from ..console import Console, count_of, readable_seconds
from ..project import CheckpointRef, Project, Want, dropped_spans
from . import stages
from .executor import Crew, assemble
from .report import Report, joined_status, report_of
from .stages import Stage
from .survey import ClipState, Survey, TablePlan, clip_states, plan_table, rowless_videos, stale_ids, survey


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `sync` would do, and what it would cost.

    Attributes:
        num_videos: videos in the collection.
        extract: videos that would be decoded.
        make_word_vectors: whether word vectors would be trained from the captions.
        train: why a model would be trained; None when the one that is there stands.
        embed: clips that would be embedded: those known now.
        embed_later: videos whose clips are known only once they are decoded.
        delete: rows that would be deleted.
        estimated_seconds: from the rates of earlier runs here; None where there is none to go by.
        notes: what else a person should know.
    """

    num_videos: int
    extract: tuple[str, ...]
    make_word_vectors: bool
    train: str | None
    embed: int
    embed_later: int
    delete: int
    estimated_seconds: float | None
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.extract or self.make_word_vectors or self.train or self.embed or self.delete)

    def lines(self) -> Iterator[str]:
        """The plan for a person."""
        if self.is_empty:
            yield f"nothing to do: {count_of(self.num_videos, 'video')}, everything is up to date"
        else:
            yield f"plan for {count_of(self.num_videos, 'video')}:"
            yield f"  decode and extract: {count_of(len(self.extract), 'video')}"
            yield f"  word vectors:       {'train from the captions' if self.make_word_vectors else 'nothing'}"
            yield f"  train:              {self.train or 'nothing'}"
            later = f", and those of {count_of(self.embed_later, 'new video')}" if self.embed_later else ""
            yield f"  embed:              {count_of(self.embed, 'clip')}{later}"
            yield f"  delete:             {count_of(self.delete, 'row')}"
            known = self.estimated_seconds is not None
            time = readable_seconds(self.estimated_seconds or 0.0) if known else "unknown before a first run"
            yield f"  estimated time:     {time}"
        yield from self.notes

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "videos": self.num_videos,
            "extract": list(self.extract),
            "make_word_vectors": self.make_word_vectors,
            "train": self.train,
            "embed": self.embed,
            "embed_later": self.embed_later,
            "delete": self.delete,
            "estimated_seconds": self.estimated_seconds,
            "nothing_to_do": self.is_empty,
            "notes": list(self.notes),
        }


def make_plan(project: Project) -> Plan:
    """Compare collection, specifications, weights, checkpoint and table. Nothing is decoded, trained or embedded."""
    found = survey(project)
    checkpoint = project.checkpoint()
    waiting = found.to_extract()
    make_vectors = stages.lacks_word_vectors(project)
    if make_vectors and project.config.model.checkpoint is None:
        checkpoint = None  # the model of today knows no words
    clips = clip_states(project, found)
    rows = TablePlan(to_embed=tuple(clips), delete_ids=stale_ids(project, clips, unreadable(found)))
    train = None
    if checkpoint is None:
        project.check_model()
        train = f"{project.model_name}, as no checkpoint stands for these features, model and recipe"
    else:
        rows = plan_table(project, clips, unreadable(found), checkpoint)
    later = len(waiting)
    return Plan(
        num_videos=len(found.videos),
        extract=tuple(state.file.video.video for state in waiting),
        make_word_vectors=make_vectors,
        train=train,
        embed=len(rows.to_embed),
        embed_later=later,
        delete=len(rows.delete_ids),
        estimated_seconds=_estimate(project, len(waiting), train is not None, len(rows.to_embed) + later),
        notes=tuple(_notes(project, found, clips, checkpoint)),
    )


def _estimate(project: Project, num_extract: int, trains: bool, num_embed: int) -> float | None:
    total = 0.0
    for name, count in (("extract", num_extract), ("train", int(trains)), ("embed", num_embed)):
        rate = project.ledger.rate(name)
        if count and not rate:
            return None
        total += count / rate if rate else 0.0
    return total


def _notes(project: Project, found: Survey, clips: list[ClipState], checkpoint: CheckpointRef | None) -> Iterator[str]:
    durations = [(state.file.video, state.duration_seconds) for state in found.videos if state.duration_seconds > 0]
    unmatched = project.collection.unmatched
    if unmatched:
        rows = count_of(len(unmatched), "captioned path")
        yield f"note: {rows} not in the collection, such as {unmatched[0]!r}"
    cut = [video.video for video, seconds in durations if dropped_spans(video, seconds)]
    if cut:
        videos = count_of(len(cut), "video")
        yield f"note: spans beyond the end of {videos} were left out, such as of {cut[0]!r}"
    if checkpoint is not None and checkpoint.examples_digest is not None:
        now = stages.training_set(project.recipe, clips)
        if now.digest != checkpoint.examples_digest:
            yield (
                f"note: the model was trained on {count_of(checkpoint.num_examples or 0, now.unit)}, and the training"
                f" split has changed since ({count_of(len(now), now.unit)} now): `frameloom train` trains anew"
            )


def unreadable(found: Survey) -> set[str]:
    """Videos whose rows stay: they are there, and cannot be read or finished just now."""
    passing = (Status.UNREADABLE, Status.CHANGED)
    return {state.file.video.video for state in found.videos if state.file.status in passing or state.missing}


@contextmanager
def working(project: Project, console: Console) -> Iterator[Stage]:
    """Hold the store's lock and bring it into order; workers start when a stage first needs them."""
    _ = project.collection  # mistakes are told before anything is written
    if project.checkpoint() is None or project.config.model.checkpoint is not None:
        project.check_model()
    with ExitStack() as stack:
        stack.enter_context(writer_lock(project.root))
        for line in project.store.sweep():
            console.say(line)
        _recover_table(project, console)
        _drop_other_columns(project, console)
        crews: list[Crew] = []

        def crew() -> Crew:
            if not crews:
                run = project.config.run
                names = ("workers", "scheduler", "threads", "resources")
                crews.append(stack.enter_context(assemble(**{name: getattr(run, name) for name in names})))
            return crews[0]

        yield Stage(project, crew, console)


def _recover_table(project: Project, console: Console) -> None:
    version = project.ledger.table_version(project.table.uri)
    for line in project.table.recover(version):
        console.say(line)


def _drop_other_columns(project: Project, console: Console) -> None:
    """A table whose metadata columns have other types than the manifest's now is made anew from the features."""
    wanted = project.collection.metadata_types
    if not project.table.exists() or project.ledger.table_state(project.table.uri) == digest_of(wanted):
        return
    there = project.table.metadata_types()
    other = [name for name in there if there[name] != wanted.get(name, there[name])]
    renamed = {name.casefold() for name in wanted if name not in there} & {name.casefold() for name in there}
    if other or renamed:
        console.say(f"metadata columns have changed ({', '.join(sorted({*other, *renamed}))}): the table is made anew")
        project.ledger.set_table_version(project.table.uri, 0)
        project.table.drop()


def sync(project: Project, console: Console) -> Report:
    """Extract, train when there is no checkpoint yet, embed, and delete what is gone. Returns the account."""
    with working(project, console) as stage:
        found = _first_look(stage)
        extracted = len(found.to_extract())
        found = stages.extract(stage, found)
        done = {"extracted": extracted, "trained": 0, "embedded": 0, "written": 0, "deleted": 0}
        trained = _train_if_needed(stage, found, done)
        if isinstance(trained, str):
            done["deleted"] = stages.delete(stage, stale_ids(project, clip_states(project, found), unreadable(found)))
            return _report(project, found, done, notes=(trained,), unindexed=_all_videos(found))
        return _embed(stage, found, trained, done)


def _first_look(stage: Stage) -> Survey:
    """The survey, with progress while files are read that were not known before."""
    total = len(stage.project.collection.videos)
    with stage.console.progress("read", total, "files") as advance:
        return survey(stage.project, on_hashed=lambda _path: advance(1))


def _train_if_needed(stage: Stage, found: Survey, done: dict[str, int]) -> CheckpointRef | str:
    """The checkpoint to embed with, or a sentence that says why there is none."""
    project = stage.project
    if not clip_states(project, found):
        return f"nothing to train on or to embed: none of the {count_of(len(found.videos), 'video')} can be used"
    stages.read_captions(stage)
    checkpoint = project.checkpoint()
    if checkpoint is None:
        try:
            checkpoint = stages.train(stage, clip_states(project, found))
        except InputError as error:
            if found.failures():
                return str(error)
            raise
        done["trained"] = 1
    return checkpoint


def _embed(stage: Stage, found: Survey, checkpoint: CheckpointRef, done: dict[str, int]) -> Report:
    project = stage.project
    clips = clip_states(project, found)
    plan = plan_table(project, clips, unreadable(found), checkpoint)
    done["embedded"] = len(plan.to_embed)
    done["written"], done["deleted"] = stages.embed(stage, checkpoint, plan)
    return _report(project, found, done, notes=tuple(_notes(project, found, clips, checkpoint)))


def _report(
    project: Project,
    found: Survey,
    done: Mapping[str, int],
    *,
    notes: tuple[str, ...] = (),
    unindexed: frozenset[str] = frozenset(),
) -> Report:
    return report_of(
        found,
        max_failures=project.config.run.max_failures,
        done=done,
        notes=notes,
        unindexed=unindexed,
        rowless=rowless_videos(project, found, clip_states(project, found)),
    )


def _all_videos(found: Survey) -> frozenset[str]:
    return frozenset(state.file.video.video for state in found.videos)


def extract_only(project: Project, console: Console) -> Report:
    """`frameloom extract`: media and caption features, nothing else. A video counts as indexed when extracted."""
    with working(project, console) as stage:
        found = _first_look(stage)
        extracted = len(found.to_extract())
        found = stages.extract(stage, found)
        if clip_states(project, found):
            stages.read_captions(stage)
        return _report(project, found, {"extracted": extracted})


def train_only(project: Project, console: Console, *, force: bool = False) -> tuple[CheckpointRef, bool]:
    """`frameloom train`: train on the features as they are now. Returns the checkpoint, and whether it is a new one."""
    with working(project, console) as stage:
        found = survey(project)
        if found.to_extract():
            console.say(f"note: {count_of(len(found.to_extract()), 'video')} not extracted yet: not trained on")
        if project.config.model.checkpoint is not None:
            raise FrameloomError("model.checkpoint is set, so nothing is trained here: remove it to train a model")
        clips = clip_states(project, found)
        if not clips:
            raise FrameloomError("no features to train on: run `frameloom extract` first")
        stages.read_captions(stage, renew_vectors=True)
        clips = clip_states(project, found)
        checkpoint = project.checkpoint()
        now = stages.training_set(project.recipe, clips).digest
        if checkpoint is not None and not force and checkpoint.examples_digest in (now, None):
            return checkpoint, False
        return stages.train(stage, clips, anew=force), True


def embed_only(project: Project, console: Console) -> Report:
    """`frameloom embed`: bring the table up to date with the features and the checkpoint that are there."""
    with working(project, console) as stage:
        found = survey(project)
        checkpoint = project.checkpoint()
        if checkpoint is None:
            raise FrameloomError("no checkpoint to embed with: run `frameloom train` first, or give model.checkpoint")
        stages.read_captions(stage)
        done = {"embedded": 0, "written": 0, "deleted": 0}
        return _embed(stage, found, checkpoint, done)


def status_of(project: Project) -> dict[str, Any]:
    """`frameloom status`: what is there, what is stale and why, what failed. JSON-ready."""
    plan = make_plan(project)
    found = survey(project)
    checkpoint = project.checkpoint()
    num_rows = project.table.count() if project.table.exists() else 0
    unindexed = _all_videos(found)
    if checkpoint is not None:
        rows = plan_table(project, clip_states(project, found), set(), checkpoint)
        unindexed = frozenset(state.clip.video for state in rows.to_embed)
    report = _report(project, found, {}, unindexed=unindexed)
    return {
        **report.as_dict(),
        "features": {str(modality): _told(wants, found) for modality, wants in project.streams().items()},
        "checkpoint": None if checkpoint is None else checkpoint.digest,
        "rows": num_rows,
        "store_bytes": project.store.num_bytes(),
        "plan": plan.as_dict(),
    }


def _told(wants: Sequence[Want], found: Survey) -> dict[str, Any]:
    """What a modality's rows are made of: all its features in one line, and each with its own statuses."""
    return {
        "backbone": "+".join(want.name for want in wants),
        "dim": sum(want.spec.dim for want in wants),
        "weights": "+".join(want.weights_digest for want in wants),
        "streams": [
            {
                "backbone": want.name,
                "dim": want.spec.dim,
                "weights": want.weights_digest,
                "statuses": _statuses(want, found),
            }
            for want in wants
        ],
    }


def _statuses(want: Want, found: Survey) -> dict[str, int]:
    streams = (one for state in found.videos for one in state.streams)
    return dict(Counter(joined_status([one]) for one in streams if one.want.name == want.name))
