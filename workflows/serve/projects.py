"""Projects as the server knows them: sessions, clips by id, what can be asked, and questions that were uploaded."""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, InputError, digest_of
from ...extract.decode import Limits
from ...store import metadata_of, quoted
from ..project import SPEECH, Project, file_of
from ..search import KeptSession, Query, Result, SearchSession, explained
from ..sync import State, take_state
from .lanes import Job
from .security import Refused, busy

CLIP_COLUMNS = ("clip", "video", "path", "start_seconds", "end_seconds", "split", "captions", "metadata")
SENSES = {"sight": "video", "sound": "audio", "sight+sound": "video+audio", "speech": SPEECH}
MOST_QUESTIONS = 256
WARMING = ("a", "picture")  # the second question reads the vectors into memory
_MOST_CLIPS = 4096
_MOST_VALUES = 50
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedClip:
    """One clip of the table. `path` stays inside of the server."""

    clip: str
    video: str
    name: str
    title: str
    path: Path
    start_seconds: float
    end_seconds: float
    split: str | None
    captions: tuple[str, ...]
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """The vector of a question that came as a file, of which nothing else is kept."""

    vector: NDArray[np.float32]
    checkpoint: str
    text: str | None
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Answers from one whole version of the table, which has `pool` clips."""

    version: int
    pool: int
    results: list[Result]


class ServedSession(SearchSession):
    """A session that also knows the vectors of questions that were uploaded, by their ids."""

    uploaded: OrderedDict[str, Uploaded]

    @cached_property
    def num_clips(self) -> int:
        """Clips that this session's model has embedded."""
        return self.table.count(f"model = {quoted(self.checkpoint.digest)} AND is_primary = true")

    def vector(self, query: Query) -> tuple[NDArray[np.float32], list[str]]:
        if query.image is None or query.image.is_absolute():
            return super().vector(query)
        known = self.uploaded.get(str(query.image))
        if known is None:
            raise Refused(404, "this question is not known any more: upload its file again")
        if known.checkpoint != self.checkpoint.digest:
            raise Refused(404, "another model answers since this question was uploaded: upload its file again")
        return known.vector, []


@dataclass
class ServedProject:
    """One project by its name. Its two sessions belong to one lane each; `lock` guards what both touch."""

    name: str
    path: Path
    limits: Limits
    questions: OrderedDict[str, Uploaded] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        Project.open(self.path, read_only=True)  # mistakes of the configuration are raised at once
        self._temporary = tempfile.TemporaryDirectory(prefix="frameloom-serve-")
        self._quick = KeptSession(self.path, self._opened)
        self._slow = KeptSession(self.path, self._opened)
        self._state: tuple[SearchSession, State] | None = None
        self._facts: tuple[int, dict[str, Any]] | None = None
        self._clips: OrderedDict[tuple[int | None, str], ServedClip] = OrderedDict()

    def _opened(self, project: Project) -> ServedSession:
        project = Project(project.config, project.base, read_only=True)  # a server leaves the ledger as it is
        session = ServedSession(project, limits=self.limits, or_before=True)
        session.uploaded = self.questions
        return session

    @property
    def folder(self) -> Path:
        """A folder for as long as the server runs."""
        return Path(self._temporary.name)

    def close(self) -> None:
        self._quick.close()
        self._slow.close()
        self._temporary.cleanup()

    # --- in the lane of questions -------------------------------------------------------------------------------------

    def warm(self) -> None:
        """Load what the first question would wait for. Raises what a question does."""
        session = self._quick.current()
        if session.resolved.features.text is not None:
            for word in WARMING:
                with suppress(InputError):  # no word of this vocabulary
                    session.search(Query(text=word, top=1))

    def search(self, queries: Sequence[Query]) -> list[Found]:
        """Answers to several questions, all from one whole version of the table.

        Raises what `SearchSession.search_many` does, and Refused (503) where a writer commits faster than that.
        """
        for _ in range(_TRIES):
            session = self._quick.current()
            before, pool = session.table.version(), session.num_clips
            found = session.search_many(queries)
            if before is not None and before == session.table.version():  # nothing was read of another one
                return [Found(version=before, pool=pool, results=results) for results in found]
        raise busy("the table is being written: ask again in a second")

    def answer(self, jobs: Sequence[Job]) -> None:
        """Settle questions together; where one of them cannot be answered, each by itself."""
        try:
            found = self.search([job.asked[1] for job in jobs])
        except Exception:  # noqa: BLE001 - asked again below, where it is raised to the one who asked
            for job in jobs:
                job.settle(lambda job=job: self.search([job.asked[1]])[0])  # type: ignore[misc]
        else:
            for job, one in zip(jobs, found, strict=True):
                job.answer.set_result(one)

    def clip(self, name: str) -> ServedClip:
        """A clip by its id. Raises Refused (404) for one that the table does not have."""
        table = self._quick.current().table
        key = table.version(), name
        if key in self._clips:
            self._clips.move_to_end(key)
            return self._clips[key]
        rows = table.get(where=f"clip = {quoted(name)} AND is_primary = true", columns=CLIP_COLUMNS)
        if not rows:
            raise Refused(404, f"the project {self.name} has no clip {name}")
        row = rows[0]
        self._clips[key] = ServedClip(
            **{name: row[name] for name in ("clip", "start_seconds", "end_seconds", "split")},
            name=row["video"],
            video=video_id(row["video"]),
            title=title_of(row["video"]),
            path=self._quick.current().project.base / file_of(row["path"]),
            captions=tuple(row["captions"] or ()),
            metadata=metadata_of(row),
        )
        while len(self._clips) > _MOST_CLIPS:
            self._clips.popitem(last=False)
        return self._clips[key]

    # --- in the lane of work that takes longer ------------------------------------------------------------------------

    @property
    def session(self) -> ServedSession:
        """The session of the slow lane."""
        return self._slow.current()

    @property
    def state(self) -> State:
        """The clips of the collection, looked at once for each session."""
        session = self.session
        if self._state is None or self._state[0] is not session:
            self._state = session, take_state(session.project)
        return self._state[1]

    def embed(self, path: Path, kind: str, text: str | None) -> str:
        """Make a file the question of an id. Raises MediaError for one that cannot be read, InputError."""
        session = self.session
        if kind not in (kinds := self._files(session)):
            raise InputError(f"kind = {kind}: this project is asked with {', '.join(kinds) or 'words'}")
        given = {"video": {"video": path}, "image": {"image": path}, "audio": {"audio": path}}[kind]
        if kind == "video" and "audio" in session.project.config.store.combinations and self._has_sound(path):
            given["audio"] = path
        with all_cores():
            vector, _ = session.vector(Query.ask(text=text, **given))
        uploaded = Uploaded(vector=vector, checkpoint=session.checkpoint.digest, text=text, kind=kind)
        name = secrets.token_hex(16)
        with self.lock:
            self.questions[name] = uploaded
            while len(self.questions) > MOST_QUESTIONS:
                self.questions.popitem(last=False)
        return name

    def _has_sound(self, path: Path) -> bool:
        from ...extract.decode import Decoder

        with Decoder(limits=self.limits) as decoder:
            return decoder.probe(path).audio is not None

    def uploaded(self, name: str) -> Uploaded:
        """A question by its id. Raises Refused (404) where it is not known any more."""
        with self.lock:
            known = self.questions.get(name)
            if known is not None:
                self.questions.move_to_end(name)
        if known is None:
            raise Refused(404, "this question is not known any more: upload its file again")
        return known

    def explain(self, query: Query, name: str) -> Result:
        """Why a clip answers a question, with the clip as the one answer."""
        session = self.session
        here = f"clip = {quoted(name)}"
        only = query.replaced(where=here, top=1, offset=0, merge=False, hybrid=False, distinct=None, diversity=0.0)
        found = session.search(only)
        if not found:
            raise Refused(404, f"the clip {name} does not answer this question")
        return explained(session, only, found, collection=self.state)[0]

    def facts(self) -> dict[str, Any]:
        """What can be asked: numbers, senses, columns with their values. Made once for each version."""
        session = self.session
        version = session.table.version() or 0
        if self._facts is None or self._facts[0] != version:
            config = session.project.config
            rows = [*config.store.combinations, *([] if session.project.speech is None else [SPEECH])]
            facts = {
                "name": self.name,
                "version": version,
                "clips": session.num_clips,
                "senses": [sense for sense, name in SENSES.items() if name in rows],
                "words": session.resolved.features.text is not None,
                "files": self._files(session),
                "columns": [*self._columns(session)],
            }
            self._facts = version, facts
        return self._facts[1]

    def _files(self, session: SearchSession) -> list[str]:
        """Which kinds of files can be a question: those whose modality the model reads."""
        streams = {str(one) for one in session.resolved.features.streams()}
        kinds = {"video": "video", "image": "video", "audio": "audio"}
        return [kind for kind, modality in kinds.items() if modality in streams]

    def _columns(self, session: SearchSession) -> list[dict[str, Any]]:
        types = {**column_types(session)}
        values: dict[str, set[Any]] = {name: set() for name in types}
        for batch in session.table.batches(list(types)):
            for name, known in values.items():
                if len(known) <= _MOST_VALUES or types[name] in ("int64", "double"):
                    known.update(one for one in batch.column(name).unique().to_pylist() if one is not None)
                    if types[name] in ("int64", "double") and len(known) > 2:
                        values[name] = {min(known), max(known)}
        return [
            {
                "name": name,
                "type": types[name],
                "values": sorted(known) if types[name] in ("string", "bool") and len(known) <= _MOST_VALUES else None,
                "least": min(known, default=None) if types[name] in ("int64", "double") else None,
                "largest": max(known, default=None) if types[name] in ("int64", "double") else None,
            }
            for name, known in values.items()
        ]

    def condition(self, filters: Sequence[str], within: ServedClip | None) -> str | None:
        """A condition of the table from ``COLUMN:OPERATOR:VALUE`` each, built from quoted values alone.

        Raises InputError for a column, an operator or a value that is not allowed.
        """
        types = column_types(self._quick.current())
        parts = [] if within is None else [f"video = {quoted(within.name)}"]
        for text in filters:
            name, _, rest = text.partition(":")
            operator, colon, value = rest.partition(":")
            if name not in types or operator not in OPERATORS or not colon:
                raise InputError(
                    f"a filter is COLUMN:OPERATOR:VALUE, with one of {', '.join(OPERATORS)} and of the columns"
                    f" {', '.join(types)}; not {text!r:.80}"
                )
            parts.append(compared(name, operator, value, types[name]))
        return " AND ".join(parts) or None


@contextmanager
def all_cores() -> Iterator[None]:
    """Let torch use all cores for a file, and as many as before for the few words of questions."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


OPERATORS = {"eq": "=", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "has": "contains"}


def column_types(session: SearchSession) -> dict[str, str]:
    """The columns that filters may name. Where files lie, and what is computed, is not among them."""
    own = {"split": "string", "start_seconds": "double", "end_seconds": "double"}
    return {**own, **session.table.metadata_types()}


def compared(name: str, operator: str, value: str, kind: str) -> str:
    """One comparison of a column with a value, as SQL. Raises InputError for a value of another type."""
    try:
        literal = {
            "string": lambda: quoted(value),
            "int64": lambda: str(int(value)),
            "double": lambda: repr(float(value)),
            "bool": lambda: {"true": "true", "false": "false"}[value],
        }[kind]()
    except (KeyError, ValueError):
        raise InputError(f"the column {name} is {kind}: {value!r:.80} is not") from None
    if literal.lstrip("-") in ("inf", "nan") or len(value) > 200 or (kind == "int64" and abs(int(literal)) >= 2**63):
        raise InputError(f"the column {name} cannot be compared with {value!r:.80}")
    if operator == "has":
        if kind != "string":
            raise InputError(f"the column {name} is {kind}: `has` looks into texts")
        return f'contains(lower("{name}"), lower({literal}))'
    if kind == "bool" and operator not in ("eq", "ne"):
        raise InputError(f"the column {name} is true or false: compare by eq or ne")
    return f'"{name}" {OPERATORS[operator]} {literal}'


def video_id(video: str) -> str:
    """The id of a video, which says nothing of where it lies."""
    return digest_of(["video", video])[:32]


def title_of(video: str) -> str:
    """What people read for a video: its file's name without folders and ending."""
    return PurePosixPath(video).stem


def named_projects(given: Sequence[str], limits: Limits) -> dict[str, ServedProject]:
    """Projects by name, from ``FILE`` (named by its folder) or ``NAME=FILE``.

    Raises ConfigError for a name that two have, or that is empty, and for a configuration that is wrong.
    """
    found: dict[str, ServedProject] = {}
    for one in given:
        name, equals, file = one.partition("=")
        path = Path(file if equals else one)
        path = path / "frameloom.yaml" if path.is_dir() else path
        name = name if equals else path.absolute().parent.name
        name = "".join(each if each.isascii() and (each.isalnum() or each in "-_") else "-" for each in name)[:64]
        if not name or name in found:
            raise ConfigError(f"two projects are called {name!r}: name one with -c NAME={path}")
        found[name] = ServedProject(name, path, limits)
    return found
