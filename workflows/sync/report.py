"""Reports before and after a run: the plan, counts that add up, failures by name, the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import model_serializer

from ..._settings import Settings
from ..._vocabulary import ExitCode, Outcome, Status
from ...extract import file_status
from ...store import FeatureStore
from ...train.data import TrainingSet
from ..console import count_of, readable_seconds
from .state import State
from .survey import Stream

FILES_SHOWN = 20
"""Of each status; `--json` names all."""


class Plan(Settings):
    """The planned work of `sync` and its cost.

    Attributes:
        train: why a model would be trained; None where there is a checkpoint.
        assemble: the model that would be put together, which is not trained; None where it is there.
        embed: clips that would be embedded: those known now.
        embed_later: videos whose clips are known only once they are decoded.
        merge: small shards that would be merged.
        estimated_seconds: from the rates of earlier runs here; None without one.
    """

    num_videos: int
    extract: tuple[str, ...]
    make_word_vectors: bool
    train: str | None
    assemble: str | None = None
    embed: int
    embed_later: int
    delete: int
    merge: int
    estimated_seconds: float | None
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        model = self.make_word_vectors or self.train or self.assemble
        return not (self.extract or model or self.embed or self.delete or self.merge)

    def lines(self) -> Iterator[str]:
        if self.is_empty:
            yield f"nothing to do: {count_of(self.num_videos, 'video')}, everything is up to date"
        else:
            yield f"plan for {count_of(self.num_videos, 'video')}:"
            yield f"  decode and extract: {count_of(len(self.extract), 'video')}"
            yield f"  words:              {'train from the captions' if self.make_word_vectors else 'nothing'}"
            model = f"nothing; {self.assemble} is put together from its backbones" if self.assemble else "nothing"
            yield f"  train:              {self.train or model}"
            later = f", and those of {count_of(self.embed_later, 'new video')}" if self.embed_later else ""
            yield f"  embed:              {count_of(self.embed, 'clip')}{later}"
            yield f"  delete:             {count_of(self.delete, 'row')}"
            yield f"  merge:              {count_of(self.merge, 'small shard')}"
            known = self.estimated_seconds
            yield f"  estimated time:     {'unknown before a first run' if known is None else readable_seconds(known)}"
        yield from self.notes

    @model_serializer(mode="wrap")
    def as_json(self, fields: Any) -> dict[str, Any]:
        found: dict[str, Any] = fields(self)
        return {"videos": found.pop("num_videos"), **found, "nothing_to_do": self.is_empty}


class FileReport(Settings):
    """One video that is not simply ok."""

    path: str
    status: str
    message: str


class Report(Settings):
    """The end of a run.

    Attributes:
        outcomes: how many videos are in each box; the boxes add up to `discovered`.
        modalities: for each modality, how many videos have each status.
        files: every video that is not `ok`, with status and message.
        done: counts of what this run did: extracted, word_vectors, trained, assembled (a model that is not trained),
            embedded, written, deleted, merged.
    """

    outcomes: Mapping[Outcome, int]
    modalities: Mapping[str, Mapping[str, int]] = {}
    files: tuple[FileReport, ...] = ()
    done: Mapping[str, int] = {}
    notes: tuple[str, ...] = ()
    max_failures: int = 0

    @property
    def discovered(self) -> int:
        return sum(self.outcomes.values())

    @property
    def exit_code(self) -> int:
        """3 where more videos than `max_failures` were rejected or quarantined, or are still pending after a run."""
        failed = sum(self.outcomes.get(box, 0) for box in (Outcome.REJECTED, Outcome.QUARANTINED, Outcome.PENDING))
        return ExitCode.FAILURES if failed > self.max_failures else ExitCode.OK

    @property
    def did_nothing(self) -> bool:
        return not any(self.done.values())

    @property
    def is_up_to_date(self) -> bool:
        """Whether everything that can be indexed is."""
        return bool(self.outcomes.get(Outcome.INDEXED, 0)) and not self.outcomes.get(Outcome.PENDING, 0)

    def lines(self) -> Iterator[str]:
        yield from file_lines([file.model_dump() for file in self.files])
        parts = " + ".join(f"{self.outcomes.get(box, 0)} {box.value}" for box in Outcome)
        yield f"{self.discovered} discovered = {parts}"
        for modality, statuses in self.modalities.items():
            yield f"  {modality}: " + ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
        if deleted := self.done.get("deleted", 0):
            yield f"deleted: {count_of(deleted, 'row')} of clips that are no more"
        yield from self.notes

    @model_serializer(mode="wrap")
    def as_json(self, fields: Any) -> dict[str, Any]:
        found: dict[str, Any] = fields(self)
        boxes = {box.value: self.outcomes.get(box, 0) for box in Outcome}
        rest = {name: found[name] for name in ("modalities", "files", "done", "notes")}
        return {"discovered": self.discovered, **boxes, **rest, "exit_code": int(self.exit_code)}


def file_lines(files: list[dict[str, str]]) -> Iterator[str]:
    """Files that are not ok: how many are pending or missing, and those that failed, the first of each status."""
    pending = Counter(file["message"] for file in files if file["status"] == "pending")
    numbers: Counter[str] = Counter()
    most = {Status.MISSING.value: 1, "pending": 0}
    for file in files:
        status = file["status"]
        numbers[status] += 1
        if numbers[status] <= most.get(status, FILES_SHOWN):
            yield f"  {file['path']}: {status}: {file['message']}"
    for status, number in numbers.items():
        if status != "pending" and (more := number - most.get(status, FILES_SHOWN)) > 0:
            yield f"  {status}: {more} more (--json names them)"
    for reason, count in pending.items():
        yield f"  pending: {count}: {reason} (--json names them)"


def joined_status(streams: Sequence[Stream]) -> str:
    """The status of features that are joined: that of the worst, `pending` while one is not extracted."""
    entries = {one.request.name: one.entry for one in streams if one.entry is not None}
    return file_status(entries)[0].value if len(entries) == len(streams) else "pending"


def report_of(
    state: State, done: Mapping[str, int], *, notes: Sequence[str] = (), unindexed: frozenset[str] = frozenset()
) -> Report:
    """The report of a state. Videos in `unindexed` were extracted, and their rows are not in the table yet."""
    outcomes: Counter[Outcome] = Counter()
    modalities: dict[str, Counter[str]] = {}
    files = []
    rowless = state.rowless()
    for video in state.survey.videos:
        outcome, (status, message) = video.outcome, video.status
        if video.name in rowless and outcome in (Outcome.INDEXED, Outcome.PARTIAL):
            outcome, (status, message) = Outcome.REJECTED, rowless[video.name]
        if video.name in unindexed and outcome in (Outcome.INDEXED, Outcome.PARTIAL):
            outcome = Outcome.PENDING
        outcomes[outcome] += 1
        for modality, streams in video.modalities().items():
            modalities.setdefault(str(modality), Counter())[joined_status(streams)] += 1
        if outcome is Outcome.PENDING:
            files.append(FileReport(path=video.name, status="pending", message=video.why_pending))
        elif outcome is not Outcome.INDEXED:
            files.append(FileReport(path=video.name, status=status.value, message=message))
    return Report(
        outcomes=outcomes,
        modalities=modalities,
        files=tuple(files),
        done=done,
        notes=tuple(notes),
        max_failures=state.project.config.run.max_failures,
    )


def cut_captions(store: FeatureStore, examples: TrainingSet, limit: int) -> str:
    """How much a model of pixels does not read of the captions that it is trained on; empty where it reads all."""
    texts = [clip.captions for clip in examples.clips] + [one.texts for one in examples.questions]
    entries = (store.entry(name) for names in texts for name in names)
    cut = [entry.num_rows - limit for entry in entries if entry is not None and entry.num_rows > limit]
    if not cut:
        return ""
    captions = count_of(len(cut), "caption")
    return f"  {captions} of more than {limit} word pieces: {sum(cut)} pieces are not read (model.max_words)"
