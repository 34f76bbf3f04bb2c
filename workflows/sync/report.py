"""What a run ends with: counts that add up, failures by name, an exit code that tells the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..._vocabulary import ExitCode, Outcome, Status
from ...extract import file_status
from .survey import Stream, Survey


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """One video that is not simply ok."""

    path: str
    status: str
    message: str

    def as_dict(self) -> dict[str, str]:
        """JSON-ready."""
        return {"path": self.path, "status": self.status, "message": self.message}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The end of a run.

    Attributes:
        outcomes: how many videos are in each box; the boxes add up to `discovered`.
        modalities: for each modality, how many videos have each status.
        files: every video that is not `ok`, with status and message.
        done: what this run did, as counts: ``extracted``, ``embedded``, ``written``, ``deleted``, ``trained``.
        notes: sentences for a person.
        max_failures: more failed videos than this make the exit code 3.
    """

    outcomes: Mapping[Outcome, int]
    modalities: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    files: tuple[FileReport, ...] = ()
    done: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    max_failures: int = 0

    @property
    def discovered(self) -> int:
        """All videos of the collection."""
        return sum(self.outcomes.values())

    @property
    def num_failed(self) -> int:
        """Videos that were rejected or quarantined, and those that are still pending after a run."""
        return sum(self.outcomes.get(box, 0) for box in (Outcome.REJECTED, Outcome.QUARANTINED, Outcome.PENDING))

    @property
    def exit_code(self) -> int:
        """0, or 3 when more videos failed than `max_failures`."""
        return ExitCode.FAILURES if self.num_failed > self.max_failures else ExitCode.OK

    @property
    def did_nothing(self) -> bool:
        """Whether everything stood already."""
        return not any(self.done.values())

    @property
    def is_up_to_date(self) -> bool:
        """Whether everything that can be indexed is."""
        return bool(self.outcomes.get(Outcome.INDEXED, 0)) and not self.outcomes.get(Outcome.PENDING, 0)

    def identity(self) -> str:
        """The accounting identity as a sentence."""
        parts = " + ".join(f"{self.outcomes.get(box, 0)} {box.value}" for box in Outcome)
        return f"{self.discovered} discovered = {parts}"

    def lines(self) -> Iterator[str]:
        """The report for a person."""
        yield from file_lines([file.as_dict() for file in self.files])
        yield self.identity()
        for modality, statuses in self.modalities.items():
            yield f"  {modality}: " + ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
        yield from self.notes

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "discovered": self.discovered,
            **{box.value: self.outcomes.get(box, 0) for box in Outcome},
            "modalities": {name: dict(statuses) for name, statuses in self.modalities.items()},
            "files": [file.as_dict() for file in self.files],
            "done": dict(self.done),
            "notes": list(self.notes),
            "exit_code": self.exit_code,
        }


def file_lines(files: list[dict[str, str]]) -> Iterator[str]:
    """Files that are not ok, for a person: all that failed, and how many are pending for what reason."""
    pending = Counter(file["message"] for file in files if file["status"] == "pending")
    for file in files:
        if file["status"] != "pending":
            yield f"  {file['path']}: {file['status']}: {file['message']}"
    for reason, count in pending.items():
        yield f"  pending: {count}: {reason} (--json names them)"


def joined_status(streams: Sequence[Stream]) -> str:
    """The status of features that are joined: that of the worst, `pending` while one is not extracted."""
    entries = {one.want.name: one.entry for one in streams if one.entry is not None}
    return file_status(entries)[0].value if len(entries) == len(streams) else "pending"


def report_of(
    found: Survey,
    *,
    max_failures: int,
    done: Mapping[str, int],
    notes: tuple[str, ...] = (),
    unindexed: frozenset[str] = frozenset(),
    rowless: Mapping[str, tuple[Status, str]] | None = None,
) -> Report:
    """The report of a survey.

    Videos in `unindexed` were extracted, and their rows are not in the table yet. Those in `rowless` can have no row,
    for the reason given there.
    """
    outcomes: Counter[Outcome] = Counter()
    modalities: dict[str, Counter[str]] = {}
    files = []
    for state in found.videos:
        name = state.file.video.video
        outcome, (status, message) = state.outcome, state.status
        if rowless and name in rowless and outcome in (Outcome.INDEXED, Outcome.PARTIAL):
            outcome, (status, message) = Outcome.REJECTED, rowless[name]
        if name in unindexed and outcome in (Outcome.INDEXED, Outcome.PARTIAL):
            outcome = Outcome.PENDING
        outcomes[outcome] += 1
        for modality, streams in state.modalities().items():
            modalities.setdefault(str(modality), Counter())[joined_status(streams)] += 1
        if outcome is Outcome.PENDING:
            files.append(FileReport(path=name, status="pending", message=state.why_pending))
        elif outcome is not Outcome.INDEXED:
            files.append(FileReport(path=name, status=status.value, message=message))
    return Report(
        outcomes=outcomes,
        modalities=modalities,
        files=tuple(files),
        done=done,
        notes=notes,
        max_failures=max_failures,
    )
