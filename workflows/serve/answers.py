"""What the API takes and gives, as pydantic models: the OpenAPI document is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Words = Annotated[str, StringConstraints(max_length=2000)]
Filter = Annotated[str, StringConstraints(max_length=400)]


class Question(BaseModel):
    """What is asked: words `q`, or a clip `like`, or an uploaded file's `question`."""

    model_config = ConfigDict(extra="forbid")

    q: Words | None = Field(None, description="Words.")
    like: Id | None = Field(None, description="The id of a clip: clips like it.")
    question: Id | None = Field(None, description="The id that an upload was answered with.")
    sense: Literal["all", "sight", "sound", "sight+sound", "speech"] = Field(
        "all", description="What is compared. `all`: whatever a clip has."
    )


class Search(Question):
    """A question and which of its answers are wanted."""

    where: list[Filter] = Field(
        [], max_length=8, description="COLUMN:OPERATOR:VALUE; operators eq, ne, lt, le, gt, ge, has. All must hold."
    )
    within: Id | None = Field(None, description="Only clips of the video that this clip is of.")
    hybrid: bool = Field(False, description="Also look for the words in captions and in what is said.")
    merge: bool = Field(False, description="Hits of one video that lie together are one answer.")
    distinct: float | None = Field(None, gt=0, le=1, description="Leave out clips as near as this to a better answer.")
    diversity: float = Field(0.0, ge=0, le=1, description="How much answers shall differ from each other.")
    top: int = Field(24, ge=1, le=100)
    offset: int = Field(0, ge=0, le=900)


class ScoreOut(BaseModel):
    """One number by its name, and which direction is better. Scores order answers; they are no probabilities."""

    name: str
    value: float
    better: Literal["higher", "lower"]


class ClipOut(BaseModel):
    """A clip: ids, times in seconds, and what the collection says of it. Addresses are on this server."""

    clip: Id
    video: Id
    title: str
    start_seconds: float
    end_seconds: float
    split: str | None
    captions: list[str]
    metadata: dict[str, Any]
    media: str = Field(description="The video's file, with `#t=start,end`.")
    thumbnail: str


class Hit(ClipOut):
    """One answer."""

    rank: int
    score: float
    scores: list[ScoreOut]
    merged: int


class Answers(BaseModel):
    """Answers to a question, best first, all from one version of the table."""

    project: str
    version: int
    pool: int = Field(description="Number of clips in the table.")
    offset: int
    next: int | None = Field(description="The offset of the next page; null after the last.")
    seconds: float = Field(description="Time that the answer took.")
    results: list[Hit]


class Asked(BaseModel):
    """The id of a question that was uploaded, known until 256 others have come or the server ends."""

    question: Id


class ColumnOut(BaseModel):
    """A column that filters may name, with its values where they are few, or the least and the largest."""

    name: str
    type: str
    values: list[Any] | None
    least: float | None
    largest: float | None


class ProjectOut(BaseModel):
    """What can be asked of a project."""

    name: str
    version: int
    clips: int
    senses: list[str]
    words: bool
    files: list[str]
    columns: list[ColumnOut]
    upload_bytes: int
    upload_seconds: float


class ProjectName(BaseModel):
    """One project that this server answers for."""

    name: str


class FileOut(BaseModel):
    """A video that is not wholly indexed, and why."""

    title: str
    status: str
    message: str


class FeatureOut(BaseModel):
    """A feature that clips are searched by, and how many videos have which status."""

    modality: str
    backbone: str
    statuses: dict[str, int]


class CommitOut(BaseModel):
    """A time at which a run wrote the table (RFC 3339, UTC)."""

    version: int
    at: str


class StatusOut(BaseModel):
    """What is indexed, what failed and why, what the next sync would do, and when the table was last written."""

    discovered: int
    outcomes: dict[str, int]
    rows: int
    version: int
    store_bytes: int
    features: list[FeatureOut]
    files: list[FileOut]
    more_files: int = Field(description="How many further files are not listed.")
    due: list[str]
    commits: list[CommitOut] = Field(description="The last, newest first; older ones are dropped by runs.")


class WindowOut(BaseModel):
    """Seconds of a video, and their cosine with the question."""

    start_seconds: float
    end_seconds: float
    score: float


class TimelineOut(BaseModel):
    """A question over the whole of a video."""

    video: Id
    seconds: float
    windows: list[WindowOut]
    spans: list[WindowOut] = Field(description="Clips of the video.")


class WorthOut(BaseModel):
    """A word, and the cosine that the clip loses without it."""

    word: str
    value: float


class SaidOut(BaseModel):
    """A segment of what is said that has words of the question."""

    start_seconds: float
    end_seconds: float
    text: str
    words: list[str]


class WhyOut(BaseModel):
    """Why a clip answers: its senses apart, the words, the seconds, what is said."""

    clip: Id
    senses: dict[str, float]
    words: list[WorthOut]
    seconds: list[WindowOut]
    speech: list[SaidOut]


class Health(BaseModel):
    """That the server runs."""

    status: Literal["ok"]


class Problem(BaseModel):
    """A refusal (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = None
