"""A search session: a project opened for questions in any mixture of words, pictures and sound.

Opening one reads the configuration's pointers once; questions then share the model, the table and one decoder.
`is_current` looks at the stamps of a few files: whoever keeps a session asks it before each question, and opens another
one when a training or a sync has changed what answers.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from ..._files import file_stamp
from ..._settings import Settings
from ..._vocabulary import ConfigError, FeatureArray, FrameloomError, InputError, MediaError, Modality
from ...store import metadata_of, quoted, reader_lock
from ...train.data import ClipSample
from ..project import CHECKPOINT_POINTER, VECTORS_POINTER, CheckpointRef, Project
from ..sync import loaded_model
from .moments import first_moments

_COLUMNS = ("clip", "video", "path", "modalities", "start_seconds", "end_seconds", "split", "captions", "metadata")


class Result(Settings):
    """One answer. Fields can be read as attributes or by name, `result["video"]`.

    Attributes:
        video: the video's identity in the collection.
        path: where the file lay when it was indexed.
        start_seconds: first instant of the clip.
        end_seconds: first instant after it.
        score: cosine similarity with the question, from -1 to 1.
        clip: the clip's id, good for `like=`.
        modalities: the media of the clip that were compared, such as ``video+audio``.
        split: the clip's split, if the collection has splits.
        captions: what the collection says of the clip.
        metadata: the manifest's other columns.
        merged: how many hits the moment is made of (see `moments.py`); its span is theirs, all else the best one's.
    """

    video: str
    path: str
    start_seconds: float
    end_seconds: float
    score: float
    clip: str
    modalities: str
    split: str | None = None
    captions: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = {}
    merged: int = 1

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).model_fields:
            raise KeyError(name)
        return getattr(self, name)

    def keys(self) -> Iterator[str]:
        """The field names, so that `dict(result)` and `{**result}` work."""
        return iter(type(self).model_fields)


class Query(Settings):
    """A question: at least one of `text`, `video`, `image`, `audio`, `like`. `ask` makes one and raises InputError."""

    text: str | None = None
    video: Path | None = None
    image: Path | None = None
    audio: Path | None = None
    like: str | None = None
    where: str | None = None
    modalities: str | None = None
    top: int = 10
    merge: bool = False

    @model_validator(mode="after")
    def _asks_something(self) -> Query:
        given = [self.text, self.video, self.image, self.audio, self.like]
        if all(one is None for one in given):
            raise ValueError("an empty question: give words, --image FILE, --video FILE, --audio FILE or --like ID")
        if self.image is not None and self.video is not None:
            raise ValueError("--image and --video are both pictures: give one of them")
        if self.like is not None and any(one is not None for one in given[:4]):
            raise ValueError("--like asks for clips like one of the table: give it without words and files")
        if self.text is not None and not self.text.strip():
            raise ValueError("an empty question: give at least one word")
        return self

    @classmethod
    def ask(cls, **options: Any) -> Query:
        """A checked question. Raises InputError for an empty one, or for values of other types."""
        try:
            return cls(**options)
        except ConfigError as error:
            raise InputError(str(error)) from None


def stamp_of(path: Path) -> str | None:
    """What changes when a file is written again; None where it is not there."""
    try:
        return file_stamp(path.stat())
    except FileNotFoundError:
        return None


class SearchSession:
    """A project, its model, its table and one decoder, kept open for questions.

    Raises FrameloomError when nothing is indexed, or no checkpoint is there to embed questions with.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self.table = project.table
        self._stamp = self._now()  # before anything is read, so that no change between the two is missed
        self.resolved = project.resolve()
        self._count = lru_cache(maxsize=1000)(self.table.count)
        self._closed: weakref.finalize[Any, Any] | None = None
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
        """End the decoder, if a question started it."""
        if self._closed is not None:
            self._closed()

    def _now(self) -> tuple[Any, ...]:
        models, given = self.project.root / "models", self.project.config.model.checkpoint
        found = [each for name in (CHECKPOINT_POINTER, "*/model.json") for each in sorted(models.glob(f"*/{name}"))]
        configured = [] if given is None else [self.project.base / Path(given).expanduser() / "model.json"]
        watched = (models / VECTORS_POINTER, *found, *configured)
        return (self.table.version(), *((str(path), stamp_of(path)) for path in watched))

    def search(self, query: Query) -> list[Result]:
        """The clips nearest to a question, best first.

        A clip is compared through its primary row (video and audio where it has both), or through the rows of
        `modalities`. Raises InputError for a question without a known word, a `where` that does not parse, a `top` out
        of range; FrameloomError when nothing is indexed yet; MediaError for a file that cannot be read.
        """
        with self.project.locked(reader_lock):
            if self._stamp[0] is None:
                raise FrameloomError("nothing is indexed yet: run `frameloom sync` first")
            vector, left_out = self._vector(query)
            of_model = f"model = '{self.checkpoint.digest}'"
            conditions = [of_model, "is_primary = true"]
            if query.modalities is not None:
                known = self.project.config.store.combinations
                if query.modalities not in known:
                    raise InputError(f"modalities: {query.modalities!r}: the table has rows of {', '.join(known)}")
                conditions[1] = f"modalities = {quoted(query.modalities)}"
            if left_out is not None:
                conditions.append(f"clip != {quoted(left_out)}")
            if query.where is not None:
                self._count(query.where)  # it parses by itself, so that it cannot leave its brackets
                conditions.append(f"({query.where})")
            where = " AND ".join(conditions)
            search = partial(self.table.search, vector, where=where, columns=list(_COLUMNS))
            found = first_moments(search, top=query.top) if query.merge else search(top=query.top)
            if not found and not self.table.count(of_model):
                raise FrameloomError(
                    "the table was made by another model than the configuration's: run `frameloom sync`"
                )
            base, fields = self.project.base, Result.model_fields.keys()
            return [
                Result(
                    **{name: row[name] for name in fields - {"path", "captions", "metadata", "merged"}},
                    merged=row.get("merged", 1),
                    path=str(base / row["path"]),
                    captions=tuple(row["captions"] or ()),
                    metadata=metadata_of(row),
                )
                for row in found
            ]

    def embed(self, sample: ClipSample) -> NDArray[np.float32]:
        """The unit vector (D,) of one sample of `text`, `video` and `audio`, of whatever it has."""
        from ...train.data import ClipDataset, collate
        from ...train.evaluate import embed_batch

        batch = collate([ClipDataset([sample], **self.resolved.limits, training=False)[0]])
        (vectors,) = embed_batch(self.model, batch, ["+".join(batch)]).values()
        vector: NDArray[np.float32] = vectors[0]
        return vector

    def words(self, text: str) -> NDArray[np.float32]:
        """The known words of a question, (W, D)."""
        request = self.resolved.features.text
        if request is None:
            if self.project.config.features.text is None:
                raise FrameloomError("the configuration has no features.text: add it, or ask with --video or --audio")
            raise FrameloomError(
                "this index knows no words: it was made without captions; ask with --video, --audio or --like"
            )
        feature: FeatureArray = request.request.build().encode(text)
        if len(feature.values) == 0:
            raise InputError(f"no word of {text!r} is in the vocabulary of {request.name}: try other words")
        return feature.values.astype(np.float32)

    @cached_property
    def model(self) -> Any:
        return loaded_model(str(self.checkpoint.folder), self.checkpoint.digest, self.project.config.run.device)

    @cached_property
    def _decoder(self) -> Any:
        from ...extract import Decoder, Limits

        run = self.project.config.run
        decoder = Decoder(limits=Limits(seconds=run.decode_seconds, memory_bytes=int(run.decode_memory_gb * 1e9)))
        self._closed = weakref.finalize(self, decoder.close)
        return decoder

    def _vector(self, query: Query) -> tuple[NDArray[np.float32], str | None]:
        """The question as a unit vector, and the clip that must not answer itself."""
        if query.like is not None:
            for condition in (f"clip = {quoted(query.like)} AND is_primary = true", f"id = {quoted(query.like)}"):
                rows = self.table.get(where=condition, columns=["clip", "vector"])
                if rows:
                    return np.asarray(rows[0]["vector"], np.float32), rows[0]["clip"]
            raise InputError(
                f"no clip has the id {query.like!r}: ids are in the `clip` field of `frameloom query --json`"
            )
        pictures = query.video or query.image
        sample = {
            "text": [] if query.text is None else [self.words(query.text)],
            "video": None if pictures is None else self._media(Modality.VIDEO, pictures, query.image is not None),
            "audio": None if query.audio is None else self._media(Modality.AUDIO, query.audio)[0],
        }
        return self.embed(sample), None

    def _media(self, modality: Modality, path: Path, is_picture: bool = False) -> list[NDArray[np.float32]]:
        """One modality of a file: each of its streams, (T, D). Raises MediaError where the file does not give one."""
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
        return [features[one.name].values.astype(np.float32) for one in requests]
