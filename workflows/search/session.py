"""A search session: a project opened for questions in any mixture of words, pictures and sound.

Opening one reads the configuration's pointers once; questions then share the model, the table and one decoder.
`is_current` looks at the stamps of a few files: whoever keeps a session asks it before each question, and opens another
one when a training or a sync has changed what answers.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..._settings import Settings
from ..._vocabulary import ConfigError, FeatureArray, FrameloomError, InputError, MediaError, Modality, canonical_json
from ...extract.decode import Limits
from ...store import metadata_of, quoted
from ...train.data import ClipSample
from ...train.evaluate import Ensemble
from ..project import CHECKPOINT_POINTER, SPEECH, CheckpointRef, Project, file_of
from ..sync import in_batches, loaded_model
from .before import made_by, stamp_of
from .moments import first_moments
from .ranking import arranged, away_from, fused
from .results import Result, Score

if TYPE_CHECKING:
    from ...fuse import FusionModel
    from .rerank import Reranker

MAX_TEXT_CHARACTERS = 10_000
MAX_TOP = 10_000
POOL = 1000  # candidates that are fused, compared with each other and arranged, whatever page is asked for
SENSES = {"video": "sight", "audio": "sound"}
_TEXTS_A_BATCH = 256
_COMPARED = ("id", "vector")
_COLUMNS = ("clip", "video", "path", "modalities", "start_seconds", "end_seconds", "split", "captions", "metadata")


class Query(Settings):
    """A question: at least one of `text`, `video`, `image`, `audio`, `like`, `unlike`. `ask` makes one.

    Attributes:
        text: words.
        video: a file whose pictures are part of the question.
        image: a still picture, instead of a video.
        audio: a file whose sound is part of the question.
        like: the id of a clip, instead of all of the above.
        unlike: the id of a clip that the question moves away from.
        where: a condition on the table's columns.
        modalities: the rows to compare with; by default each clip's primary row; `speech`: what is said, alone.
        hybrid: also look for the words in the captions and in what is said, and fuse the orders by their ranks.
        distinct: leave out clips whose cosine with a better one is at least this.
        diversity: from 0 to 1: how much answers shall differ from those before them.
        top: how many answers.
        offset: how many of the best to pass over.
        merge: hits of a video that lie together are one answer (see `moments.py`).
        rerank: a model that judges the candidates again, see `rerank.py`.
        candidates: how many of the best it is given.
        budget_seconds: how long it may take; None: as long as it takes.
        ensemble: how a clip's frames make one of its scores, see `train/evaluate/rerank.py`.
        group_frames: frames that it reads together, but for the ensemble `concat`.
    """

    text: str | None = None
    video: Path | None = None
    image: Path | None = None
    audio: Path | None = None
    like: str | None = None
    unlike: str | None = None
    where: str | None = None
    modalities: str | None = None
    hybrid: bool = False
    distinct: float | None = Field(default=None, gt=0, le=1)
    diversity: float = Field(default=0.0, ge=0, le=1)
    top: int = 10
    offset: int = 0
    merge: bool = False
    rerank: str | None = None
    candidates: int = Field(default=100, ge=1, le=POOL)
    budget_seconds: float | None = Field(default=None, ge=0)
    ensemble: Ensemble = "concat"
    group_frames: int = Field(default=1, ge=1)

    @property
    def is_arranged(self) -> bool:
        """Whether the order of answers follows from more than their similarity."""
        return self.hybrid or self.distinct is not None or self.diversity > 0

    @property
    def is_of_words(self) -> bool:
        """Whether it consists of words alone."""
        return self.text is not None and not any((self.video, self.image, self.audio, self.like, self.unlike))

    @model_validator(mode="after")
    def _asks_something(self) -> Query:
        media = [self.text, self.video, self.image, self.audio]
        if all(one is None for one in (*media, self.like, self.unlike)):
            raise ValueError(
                "an empty question: give words, --image, --video or --audio FILE, --like ID or --unlike ID"
            )
        if self.image is not None and self.video is not None:
            raise ValueError("--image and --video are both pictures: give one of them")
        if self.like is not None and any(one is not None for one in media):
            raise ValueError("--like asks for clips like one of the table: give it without words and files")
        if self.text is not None and not self.text.strip():
            raise ValueError("an empty question: give at least one word")
        if self.rerank is not None:
            self._can_be_reranked()
        if self.merge and self.is_arranged:
            raise ValueError("--merge joins hits by their similarity: leave out --hybrid, --distinct and --diversity")
        if self.hybrid and self.text is None:
            raise ValueError("--hybrid looks for words in the captions: give words")
        named = {"the question": self.text, "--like": self.like, "--unlike": self.unlike}
        for name, given in {**named, "--modalities": self.modalities}.items():
            if given is not None and len(given) > MAX_TEXT_CHARACTERS:
                raise ValueError(f"{name} has {len(given):,} characters; {MAX_TEXT_CHARACTERS:,} are allowed")
        if self.offset < 0:
            raise ValueError(f"offset = {self.offset}: 0 or more can be passed over")
        most = POOL if self.is_arranged else MAX_TOP
        if self.top < 1 or self.top + self.offset > most:
            rest = f", offset = {self.offset}" if self.offset else ""
            raise ValueError(f"top = {self.top}{rest}: from 1 to {most:,} results can be asked for")
        return self

    def _can_be_reranked(self) -> None:
        if not self.is_of_words:
            raise ValueError("--rerank reads words with frames: give words, and neither files nor --like and --unlike")
        if self.merge or self.distinct is not None or self.diversity:
            raise ValueError("--rerank has the last word on the order: leave out --merge, --distinct and --diversity")
        if self.top + self.offset > self.candidates:
            rest = f" behind {self.offset}" if self.offset else ""
            raise ValueError(f"{self.top} answers{rest} of {self.candidates} candidates: give as many --candidates")

    @property
    def first_stage(self) -> Query:
        """What the first stage of this one is asked."""
        return self.replaced(rerank=None, top=self.candidates, offset=0)

    @classmethod
    def ask(cls, **options: Any) -> Query:
        """A checked question. Raises InputError for an empty one, or for values of other types."""
        try:
            return cls(**options)
        except ConfigError as error:
            raise InputError(str(error)) from None


class SearchSession:
    """A project, its model, its table and one decoder, kept open for questions.

    Args:
        project: to be asked.
        given: a model in memory, in the place of the checkpoint: it reads words and pictures, and searches nothing.
        limits: what a file of a question may cost; without it what `run` of the configuration allows.
        or_before: while the project's model has no rows yet, the one before answers (see `before.py`).

    Raises FrameloomError when nothing is indexed, or no checkpoint is there to embed questions with.
    """

    def __init__(
        self,
        project: Project,
        *,
        given: FusionModel | None = None,
        limits: Limits | None = None,
        or_before: bool = False,
    ) -> None:
        self.project = self._configured = project
        self.table = project.table
        run = project.config.run
        self._limits = limits or Limits(seconds=run.decode_seconds, memory_bytes=int(run.decode_memory_gb * 1e9))
        self._stamp = self._now()  # before anything is read, so that no change between the two is missed
        self.project, self.resolved = made_by(project) if or_before else (project, project.resolve())
        self.table = self.project.table
        self._count = lru_cache(maxsize=1000)(self.table.count)
        self._closed: weakref.finalize[Any, Any] | None = None
        self._rerankers: dict[str, Reranker] = {}
        if given is not None:
            self.model = given
            return
        if self.resolved.checkpoint is None:
            raise FrameloomError(
                "no trained checkpoint for this configuration: run `frameloom sync`"
                if self.table.exists()
                else "nothing is indexed yet: run `frameloom sync` first"
            )
        self.checkpoint: CheckpointRef = self.resolved.checkpoint

    def is_current(self) -> bool:
        """Whether checkpoints, word vectors and table are those that this session was opened with."""
        return self._stamp == self._now()

    def close(self) -> None:
        """End the decoders that questions started."""
        for reranker in self._rerankers.values():
            reranker.session.close()
        if self._closed is not None:
            self._closed()

    def _now(self) -> tuple[Any, ...]:
        from ..project.kept import VECTORS_POINTERS

        models, given = self._configured.root / "models", self._configured.config.model.checkpoint
        found = [each for name in (CHECKPOINT_POINTER, "*/model.json") for each in sorted(models.glob(f"*/{name}"))]
        configured = [] if given is None else [self._configured.base / Path(given).expanduser() / "model.json"]
        watched = (*(models / name for name in VECTORS_POINTERS), *found, *configured)
        return (self._configured.table.version(), *((str(path), stamp_of(path)) for path in watched))

    def search(self, query: Query) -> list[Result]:
        """The clips nearest to a question, best first.

        A clip is compared through its primary row (video and audio where it has both), or through the rows of
        `modalities`. Raises InputError for a question without a known word, a `where` that does not parse, a `top` out
        of range; FrameloomError when nothing is indexed yet; MediaError for a file that cannot be read.

        No lock is held: the table answers from one whole version, and from a newer one where a writer has dropped that.
        """
        return self.search_many([query])[0]

    def search_many(self, queries: Sequence[Query]) -> list[list[Result]]:
        """`search` for each of several questions: words are embedded in one batch, and compared in one pass."""
        if any(query.rerank is not None for query in queries):
            judges = [None if one.rerank is None else self.reranker(one.rerank) for one in queries]
            firsts = [one if judge is None else one.first_stage for one, judge in zip(queries, judges, strict=True)]
            parts = zip(queries, judges, self.search_many(firsts), strict=True)
            return [clips if judge is None else judge.answers(query, clips) for query, judge, clips in parts]
        if not self.table.exists():
            raise FrameloomError("nothing is indexed yet: run `frameloom sync` first")
        of_model = f"model = '{self.checkpoint.digest}'"
        groups: dict[tuple[str, int, bool, bool, bool], list[int]] = {}
        vectors: list[NDArray[np.float32]] = []
        for place, (query, (vector, left_out)) in enumerate(zip(queries, self._vectors(queries), strict=True)):
            vectors.append(vector)
            where, wanted = self._condition(query, of_model, left_out), query.top + query.offset
            kind = where, wanted, query.is_arranged, query.merge, self.asks_speech(query)
            groups.setdefault(kind, []).append(place)
        found: dict[int, list[dict[str, Any]]] = {}
        for (where, wanted, is_arranged, merge, is_of_speech), places in groups.items():
            how: dict[str, Any] = {"where": where, "columns": _COMPARED if is_arranged else _COLUMNS}
            top = POOL if is_arranged else wanted
            searches = [
                partial(self._by_speech, queries[one]) if is_of_speech else partial(self.table.search, vectors[one])
                for one in places
            ]
            if merge:
                answers = [first_moments(partial(search, **how), top=wanted) for search in searches]
            elif is_of_speech or len(places) == 1:  # one question may be answered without reading all vectors
                answers = [search(top=top, **how) for search in searches]
            else:
                answers = self.table.search_many([vectors[one] for one in places], top=top, **how)
            if is_arranged:
                pools = zip(places, answers, strict=True)
                answers = [self._arranged(queries[one], vectors[one], pool, where, wanted) for one, pool in pools]
            found.update(zip(places, answers, strict=True))
        if not all(found.values()) and not self.table.count(of_model):
            raise FrameloomError("the table was made by another model than the configuration's: run `frameloom sync`")
        return [[self._result(row) for row in found[place][query.offset :]] for place, query in enumerate(queries)]

    def reranker(self, name: str) -> Reranker:
        """The model of a name that judges candidates, kept for further questions while it stays the same."""
        from .rerank import Reranker

        if name not in self._rerankers or not self._rerankers[name].session.is_current():
            if name in self._rerankers:
                self._rerankers.pop(name).session.close()
            self._rerankers[name] = Reranker.called(self.project, name)
        return self._rerankers[name]

    def frames_of(self, path: Path) -> FeatureArray:
        """The pictures of a file, as models of pixels are given them. Raises MediaError where it has none."""
        return self._media(Modality.VIDEO, path)[0]

    def _condition(self, query: Query, of_model: str, left_out: Sequence[str]) -> str:
        """Which rows are compared."""
        conditions = [of_model, "is_primary = true"]
        if query.modalities is not None:
            known = self.project.config.store.combinations
            if self.asks_speech(query):
                if not query.is_of_words or query.hybrid:
                    raise InputError("speech is searched for words: give words, without files, like, unlike and hybrid")
            elif query.modalities not in known:
                rows = ", ".join([*known, *([] if self.project.speech is None else [SPEECH])])
                raise InputError(f"modalities: {query.modalities!r:.80}: the table has rows of {rows}")
            else:
                conditions[1] = f"modalities = {quoted(query.modalities)}"
        conditions += [f"clip != {quoted(clip)}" for clip in left_out]
        if query.where is not None:
            self._count(query.where)  # it parses by itself, so that it cannot leave its brackets
            conditions.append(f"({query.where})")
        return " AND ".join(conditions)

    def asks_speech(self, query: Query) -> bool:
        """Whether clips are compared by what is said in them, and by nothing else."""
        return query.modalities == SPEECH and self.project.speech is not None

    def _said(self, text: str, vector: NDArray[np.float32] | None, **how: Any) -> list[dict[str, Any]]:
        """Clips in which words are said, with ``speech``, the BM25, best first."""
        if SPEECH not in self.table.metadata_types():
            raise FrameloomError("what is said is not in the table yet: run `frameloom sync` first")
        if not self._count(f"{SPEECH} IS NOT NULL"):
            return []
        rows = self.table.search_text(text, vector, column=SPEECH, **how)
        for row in rows:
            row[SPEECH] = row.pop("words")
        return rows

    def _by_speech(self, query: Query, **how: Any) -> list[dict[str, Any]]:
        assert query.text is not None
        return [{**row, "score": row[SPEECH]} for row in self._said(query.text, None, **how)]

    def _arranged(
        self, query: Query, vector: NDArray[np.float32], pool: Sequence[dict[str, Any]], where: str, number: int
    ) -> list[dict[str, Any]]:
        """The first `number` answers in an order that follows from the best `POOL`."""
        rows = {row["id"]: row for row in pool}
        if query.hybrid and query.text is not None:
            how: dict[str, Any] = {"where": where, "top": POOL, "columns": _COMPARED}
            found = {"words": self.table.search_text(query.text, vector, **how)}
            if self.project.speech is not None:
                found[SPEECH] = self._said(query.text, vector, **how)
            orders = [list(rows), *([row["id"] for row in several] for several in found.values())]
            for kind, several in found.items():
                for row in several:
                    rows.setdefault(row["id"], row)[kind] = row[kind]
            for name, score in fused(*orders).items():
                rows[name].update(cosine=rows[name]["score"], fused=score, score=score)
        best = sorted(rows.values(), key=lambda row: (-row["score"], row["id"]))
        taken = arranged(best, number=number, threshold=query.distinct, weight=query.diversity)
        shown = {row["id"]: row for row in self.table.get(ids=[row["id"] for row in taken], columns=("id", *_COLUMNS))}
        return [{**row, **shown[row["id"]]} for row in taken if row["id"] in shown]

    def _result(self, row: Mapping[str, Any]) -> Result:
        modalities = "+".join(SENSES.get(one, one) for one in row["modalities"].split("+"))
        is_of_speech = SPEECH in row and "cosine" not in row
        named = {} if is_of_speech else {modalities: row.get("cosine", row["score"])}
        named |= {name: row.get(name) for name in ("words", SPEECH, "fused")}
        path = str(self.project.base / file_of(row["path"]))
        is_text = path.encode(errors="replace").decode() == path  # no name in other bytes than UTF-8
        return Result(
            **{name: row[name] for name in Result.model_fields.keys() & row.keys() - {"path", "captions", "metadata"}},
            path=path if is_text else str(self.project.base / row["path"]),
            captions=tuple(row["captions"] or ()),
            metadata=metadata_of(row),
            scores=tuple(Score(name=name, value=value) for name, value in named.items() if value is not None),
        )

    def embed(self, sample: ClipSample) -> NDArray[np.float32]:
        """The unit vector (D,) of one sample of `text`, `video` and `audio`, of whatever it has."""
        vector: NDArray[np.float32] = self.embed_many([sample])[0]
        return vector

    def embed_many(self, samples: Sequence[ClipSample]) -> NDArray[np.float32]:
        """The unit vectors (N, D) of samples that have the same modalities, in one batch."""
        from ...train.data import sample_batch
        from ...train.evaluate import embed_batch

        spec = self.resolved.features.media[0].spec
        batch = sample_batch(samples, self.resolved.limits, spec=canonical_json(spec.identity()))
        vectors: NDArray[np.float32]
        (vectors,) = embed_batch(self.model, batch, ["+".join(batch)]).values()
        return vectors

    def words(self, text: str) -> NDArray[Any]:
        """The known words of a question, (W, D), or its word pieces, (W, 1)."""
        request = self.resolved.features.text
        if request is None:
            if self.project.config.features.text is None:
                raise FrameloomError("the configuration has no features.text: add it, or ask with --video or --audio")
            raise FrameloomError(
                "this index knows no words: it was made without captions; ask with --video, --audio or --like"
            )
        backbone, asked = self._asked(text)
        feature: FeatureArray = backbone.encode(asked)
        if len(feature.values) == 0:
            raise InputError(f"no word of {text!r:.80} is in the vocabulary of {request.name}: try other words")
        return feature.values

    def _asked(self, text: str) -> tuple[Any, str]:
        """The backbone that reads questions, and this one as it is spelled for it."""
        assert self.resolved.features.text is not None
        backbone: Any = self.resolved.features.text.request.build()
        return backbone, backbone.respelled(text) if hasattr(backbone, "respelled") else text

    def notes(self, query: Query) -> tuple[str, ...]:
        """What to know of the answers: words of the question left out, random features, a filter of no row."""
        notes = [random] if (random := self.resolved.features.random_note()) else []
        if query.text is not None and self.resolved.features.text is not None and not self.asks_speech(query):
            backbone, asked = self._asked(query.text)
            words = backbone.left_out(asked) if hasattr(backbone, "left_out") else []
            notes += [f"not in the vocabulary, and left out of the question: {', '.join(words)}"] if words else []
        if query.where is not None and not self._count(query.where):
            notes += ["no row of the table fulfils the condition of `where`"]
        return tuple(notes)

    @cached_property
    def model(self) -> Any:
        return loaded_model(str(self.checkpoint.folder), self.checkpoint.digest, self.project.config.run.device)

    @cached_property
    def _decoder(self) -> Any:
        from ...extract import Decoder

        decoder = Decoder(limits=self._limits)
        self._closed = weakref.finalize(self, decoder.close)
        return decoder

    def vector(self, query: Query) -> tuple[NDArray[np.float32], list[str]]:
        """The question as a direction (D,), and the clips that must not answer themselves."""
        left_out: list[str] = []
        vector: NDArray[np.float32] | None = None
        if query.like is not None:
            vector, clip = self._stored(query.like)
            left_out.append(clip)
        elif any(one is not None for one in (query.text, query.video, query.image, query.audio)):
            vector = self.embed(self.sample(query))
        if query.unlike is not None:
            example, clip = self._stored(query.unlike)
            vector = away_from(vector, example)
            left_out.append(clip)
        assert vector is not None
        return vector, left_out

    def _vectors(self, queries: Sequence[Query]) -> list[tuple[NDArray[np.float32], list[str]]]:
        """`vector` of each, words alone in batches, and the same words once."""
        of_words = [one.text for one in queries if one.is_of_words and not self.asks_speech(one)]
        texts = sorted({text for text in of_words if text is not None})
        known: dict[str | None, NDArray[np.float32]] = {}
        for batch in in_batches(texts if len(queries) > 1 else (), _TEXTS_A_BATCH):
            samples = [self.sample(Query(text=text)) for text in batch]
            known.update(zip(batch, self.embed_many(samples), strict=True))
        nothing: tuple[NDArray[np.float32], list[str]] = np.zeros(0, np.float32), []
        return [
            nothing
            if self.asks_speech(one)
            else (known[one.text], [])
            if one.is_of_words and one.text in known
            else self.vector(one)
            for one in queries
        ]

    def _stored(self, name: str) -> tuple[NDArray[np.float32], str]:
        """The vector of a clip's primary row, or of a row, and the clip; named by id, or by VIDEO or VIDEO@SECONDS."""
        video, _, at = name.rpartition("@")
        conditions = [f"clip = {quoted(name)} AND is_primary = true", f"id = {quoted(name)}"]
        conditions.append(f"video = {quoted(name)} AND is_primary = true")
        with suppress(ValueError):
            instant = float(at)
            span = f"start_seconds <= {instant!r} AND end_seconds > {instant!r}"
            conditions += (
                [f"video = {quoted(video)} AND is_primary = true AND {span}"] if math.isfinite(instant) else []
            )
        for condition in conditions:
            rows = self.table.get(where=condition, columns=["clip", "vector", "start_seconds"])
            if len({row["clip"] for row in rows}) > 1 and condition.startswith("video"):
                start = min(row["start_seconds"] for row in rows)
                raise InputError(f"{name!r:.80} has several clips: name an instant of one, such as {name}@{start:g}")
            if rows:
                return np.asarray(rows[0]["vector"], np.float32), rows[0]["clip"]
        raise InputError(
            f"no clip has the id {name!r:.80}, and no video the name: ids are in the `clip` field of"
            " `frameloom query --json`, and VIDEO@SECONDS names one of a video's clips"
        )

    def sample(self, query: Query) -> ClipSample:
        """The question as a clip of words, pictures and sound."""
        pictures = query.video or query.image
        return {
            "text": [] if query.text is None else [self.words(query.text)],
            "video": None if pictures is None else self._pictures(pictures, query.image is not None),
            "audio": None if query.audio is None else self._media(Modality.AUDIO, query.audio)[0].values,
        }

    def _pictures(self, path: Path, is_picture: bool) -> FeatureArray | list[NDArray[np.float16]]:
        """The pictures of a file, as the model reads them: the frames themselves, or rows of each stream."""
        found = self._media(Modality.VIDEO, path, is_picture)
        return found[0] if "num_frames" in self.resolved.limits else [feature.values for feature in found]

    def _media(self, modality: Modality, path: Path, is_picture: bool = False) -> list[FeatureArray]:
        """One modality of a file: each of its streams. Raises MediaError where the file does not give one."""
        from ...extract import extract_file

        requests = self.resolved.features.streams().get(modality, ())
        if not requests:
            raise ConfigError(f"this index has no {modality} feature: add features.{modality} to the configuration")
        backbones = [one.request.build() for one in requests]
        features = extract_file(path, backbones, decoder=self._decoder, is_picture=is_picture)
        for name, feature in features.items():
            if len(feature.values) == 0:
                blamed = f"{name}: {feature.message}" if len(requests) > 1 else feature.message
                raise MediaError(feature.status, f"{path}: {feature.status.value}: {blamed}")
        return [features[one.name] for one in requests]
