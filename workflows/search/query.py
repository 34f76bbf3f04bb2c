"""Questions in any mixture of words, pictures and sound, answered from the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FrameloomError, InputError, MediaError, Modality
from ...store import metadata_of, quoted
from ...train.data import ClipSample
from ..project import CheckpointRef, Project, combination_fault
from ..sync import loaded_model

_COLUMNS = ("clip", "video", "path", "modalities", "start_seconds", "end_seconds", "split", "captions", "metadata")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One answer. Fields can be read as attributes or by name, `result["video"]`.

    Attributes:
        video: the video's identity in the collection.
        path: where the file lay when it was indexed.
        start_seconds: first instant of the clip.
        end_seconds: first instant after it.
        score: cosine similarity with the question, from -1 to 1.
        clip: the clip's id, good for `like=`.
        modalities: what of the clip was compared, such as ``video+audio``.
        split: the clip's split, if the collection has splits.
        captions: what the collection says of the clip.
        metadata: the manifest's other columns.
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
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        if name not in self.__slots__:
            raise KeyError(name)
        return getattr(self, name)

    def keys(self) -> Iterator[str]:
        """The field names, so that `dict(result)` works."""
        return iter(self.__slots__)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"captions": list(self.captions), "metadata": dict(self.metadata)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question: at least one of `text`, `video`, `audio` and `like`."""

    text: str | None = None
    video: Path | None = None
    audio: Path | None = None
    like: str | None = None
    where: str | None = None
    modalities: str | None = None
    top: int = 10


def search(project: Project, query: Query) -> list[Result]:
    """The clips nearest to a question, best first.

    A clip is compared through its primary row (video and audio where it has both), or through the rows of `modalities`.
    Raises InputError for an empty question, one without a known word, a `where` that does not parse, a `top` out of
    range; FrameloomError when nothing is indexed yet; MediaError for a file that cannot be read.
    """
    _check(query)
    checkpoint = serving_checkpoint(project)
    vector, left_out = _query_vector(project, query, checkpoint)
    conditions = [f"model = '{checkpoint.digest}'"]
    conditions.append(
        f"modalities = '{_combination(project, query.modalities)}'" if query.modalities else "is_primary = true"
    )
    if left_out is not None:
        conditions.append(f"clip != '{left_out}'")
    if query.where is not None:
        project.table.count(query.where)  # a mistake is told in the words of the one who made it
        conditions.append(f"({query.where})")
    rows = project.table.search(vector, where=" AND ".join(conditions), top=query.top, columns=list(_COLUMNS))
    if not rows and not project.table.count(conditions[0]):
        raise FrameloomError("the table was made by another model than the configuration's: run `frameloom sync`")
    return [_result(project, row) for row in rows]


def _check(query: Query) -> None:
    given = [query.text, query.video, query.audio, query.like]
    for name in ("text", "like", "where", "modalities"):
        if not isinstance(getattr(query, name), str | None):
            raise InputError(f"{name} is {getattr(query, name)!r}: it must be a text")
    if not isinstance(query.top, int):
        raise InputError(f"top is {query.top!r}: it must be a whole number")
    if all(one is None for one in given):
        raise InputError("an empty question: give words, --video FILE, --audio FILE or --like ID")
    if query.like is not None and any(one is not None for one in given[:3]):
        raise InputError("--like asks for clips like one of the table: give it without words and files")
    if query.text is not None and not query.text.strip():
        raise InputError("an empty question: give at least one word")


def serving_checkpoint(project: Project) -> CheckpointRef:
    """The checkpoint to search with. Raises FrameloomError when there is nothing to search."""
    if not project.table.exists():
        raise FrameloomError("nothing is indexed yet: run `frameloom sync` first")
    checkpoint = project.checkpoint()
    if checkpoint is None:
        raise FrameloomError("no model stands for this configuration yet: run `frameloom sync`")
    return checkpoint


def _combination(project: Project, name: str) -> str:
    fault = combination_fault(name, project.config.features.modalities())
    if fault is not None:
        raise InputError(f"modalities: {fault}")
    return name


def _query_vector(project: Project, query: Query, checkpoint: CheckpointRef) -> tuple[NDArray[np.float32], str | None]:
    """The question as a unit vector, and the clip that must not answer itself."""
    if query.like is not None:
        return _vector_of(project, query.like)
    sample = ClipSample(
        text=[] if query.text is None else [words_of(project, query.text)],
        video=None if query.video is None else _media(project, Modality.VIDEO, query.video),
        audio=None if query.audio is None else _media(project, Modality.AUDIO, query.audio)[0],
    )
    return embed_sample(project, sample, checkpoint), None


def embed_sample(project: Project, sample: ClipSample, checkpoint: CheckpointRef) -> NDArray[np.float32]:
    """The unit vector (D,) of one sample of `text`, `video` and `audio`, of whatever it has."""
    from ...train.data import ClipDataset, collate
    from ...train.evaluate import embed_batch

    batch = collate([ClipDataset([sample], **project.limits, training=False)[0]])
    model = loaded_model(str(checkpoint.folder), checkpoint.digest, project.config.run.device)
    (vectors,) = embed_batch(model, batch, ["+".join(batch)]).values()
    vector: NDArray[np.float32] = vectors[0]
    return vector


def words_of(project: Project, text: str) -> NDArray[np.float32]:
    """The known words of a question, (W, D)."""
    want = project.text_want()
    if want is None:
        if project.config.features.text is None:
            raise FrameloomError("the configuration has no features.text: add it, or ask with --video or --audio")
        raise FrameloomError(
            "this index knows no words: it was made without captions; ask with --video, --audio or --like"
        )
    feature: FeatureArray = want.request.build().encode(text)
    if len(feature.values) == 0:
        raise InputError(f"no word of {text!r} is in the vocabulary of {want.spec.name}: try other words")
    return feature.values.astype(np.float32)


def _media(project: Project, modality: Modality, path: Path) -> list[NDArray[np.float32]]:
    """One modality of a file: each of its streams, (T, D). Raises MediaError where the file does not give one."""
    from ...extract import Decoder, Limits, extract_file

    wants = [want for want in project.wants if want.modality is modality]
    if not wants:
        raise ConfigError(f"this index has no {modality} feature: add features.{modality} to the configuration")
    run = project.config.run
    with Decoder(limits=Limits(seconds=run.decode_seconds, memory_bytes=int(run.decode_memory_gb * 1e9))) as decoder:
        features = extract_file(path, [want.request.build() for want in wants], decoder=decoder)
    for name, feature in features.items():
        if len(feature.values) == 0:
            blamed = f"{name}: {feature.message}" if len(wants) > 1 else feature.message
            raise MediaError(feature.status, f"{path}: {feature.status.value}: {blamed}")
    return [features[want.name].values.astype(np.float32) for want in wants]


def _vector_of(project: Project, like: str) -> tuple[NDArray[np.float32], str]:
    """The stored vector of a clip (its primary row) or of one row, by id."""
    for condition in (f"clip = {quoted(like)} AND is_primary = true", f"id = {quoted(like)}"):
        rows = project.table.get(where=condition, columns=["clip", "vector"])
        if rows:
            return np.asarray(rows[0]["vector"], np.float32), rows[0]["clip"]
    raise InputError(f"no clip has the id {like!r}: ids are in the `clip` field of `frameloom query --json`")


def _result(project: Project, row: Mapping[str, Any]) -> Result:
    return Result(
        video=row["video"],
        path=str(project.base / row["path"]),
        start_seconds=row["start_seconds"],
        end_seconds=row["end_seconds"],
        score=float(row["score"]),
        clip=row["clip"],
        modalities=row["modalities"],
        split=row["split"],
        captions=tuple(row["captions"] or ()),
        metadata=metadata_of(row),
    )
