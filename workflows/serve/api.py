"""The JSON API under `/api/v1`: ids and never paths, problems in `application/problem+json`, nothing that writes."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AfterValidator

from ..._vocabulary import InputError
from ..project import Project as OpenedProject
from ..search import Query as Asking
from ..search import Result, embed_windows, windows_of
from ..sync import status_of
from . import answers
from .answers import Id
from .export import write_map
from .lanes import Lane
from .media import MEDIA_TYPES, SIDES, UNKNOWN_TYPE, MediaFile, Pictures, media_file, webvtt
from .projects import SENSES, ServedClip, ServedProject, title_of, video_id
from .security import COOKIE, Refused, ServeSettings, busy, session_cookie

MOST_UPLOADS = 4
MOST_CONVERSIONS = 4
MOST_WINDOWS = 200
MOST_FILES = 200
MOST_COMMITS = 10
_STATUS_SECONDS = 30.0
_MEDIA: dict[str, Any] = {kind: {} for kind in sorted({*MEDIA_TYPES.values(), UNKNOWN_TYPE})}
_IMMUTABLE = {"cache-control": "private, max-age=3600"}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": why,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, why in {
        400: "The request is malformed.",
        401: "A token is needed.",
        403: "Another site's page asks.",
        404: "Nothing has this name or id.",
        408: "The request came too slowly.",
        409: "Nothing is indexed, or not by this model: run `frameloom sync`.",
        413: "The body is too large.",
        415: "The file cannot be read as a clip, picture or sound.",
        421: "The server does not go by this name.",
        422: "The question is wrong.",
        500: "A fault of the server.",
        503: "Too many questions wait: ask again after Retry-After seconds.",
    }.items()
}


class Service:
    """What all requests share: projects, lanes and pictures."""

    def __init__(
        self, projects: Mapping[str, ServedProject], pictures: Pictures, films: Pictures, settings: ServeSettings
    ) -> None:
        self.projects, self.pictures, self.films, self.settings = projects, pictures, films, settings
        self.quick = Lane("questions", capacity=settings.queue, answer=self._answer)
        self.slow = Lane("explanations", capacity=max(4, settings.queue // 8))
        self.drawing = Lane("pictures", capacity=settings.queue)
        self.converting = Lane("playable", capacity=MOST_CONVERSIONS)
        self.uploads = 0
        self._statuses: dict[str, tuple[float, Any]] = {}

    def _answer(self, jobs: Any) -> None:
        for project in {id(job.asked[0]): job.asked[0] for job in jobs}.values():
            project.answer([job for job in jobs if job.asked[0] is project])

    def warm(self) -> None:
        """Load models and tables before the first question; an index that is missing is reported to whoever asks."""
        for project in self.projects.values():
            self.quick.begin(project.warm)

    def close(self) -> None:
        self.films.is_ending = True
        for lane in (self.quick, self.slow, self.drawing, self.converting):
            lane.close()
        self.pictures.close()
        self.films.close()
        for project in self.projects.values():
            project.close()

    def status(self, project: ServedProject) -> answers.StatusOut:
        """What `frameloom status` says, without paths; at most every 30 seconds anew."""
        at, found = self._statuses.get(project.name, (0.0, None))
        if found is None or time.monotonic() - at > _STATUS_SECONDS:
            found = status_out(project)
            self._statuses[project.name] = time.monotonic(), found
        return found  # type: ignore[no-any-return]


def status_out(project: ServedProject) -> answers.StatusOut:
    session = project.session
    found = status_of(OpenedProject.open(project.path, read_only=True))  # the collection as it lies there now
    files = found["files"]
    plan = found["plan"]
    due = [f"{name}: {len(plan[name]) if isinstance(plan[name], list) else plan[name]}"
           for name in ("extract", "train", "embed", "delete") if plan.get(name)]  # fmt: skip
    commits = session.table.commits()[:MOST_COMMITS]
    return answers.StatusOut(
        discovered=found["discovered"],
        outcomes={name: found[name] for name in ("indexed", "partial", "rejected", "quarantined", "pending")},
        rows=found["rows"],
        version=session.table.version() or 0,
        store_bytes=found["store_bytes"],
        features=[
            answers.FeatureOut(modality=name, backbone=one["backbone"], statuses=found["modalities"].get(name, {}))
            for name, one in found["features"].items()
        ],
        files=[
            answers.FileOut(title=title_of(one["path"]), status=one["status"], message=one["message"])
            for one in files[:MOST_FILES]
        ],
        more_files=max(0, len(files) - MOST_FILES),
        due=due,
        commits=[
            answers.CommitOut(version=version, at=datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds"))
            for version, at in commits
        ],
    )


# What routes depend on are coroutines: FastAPI gives functions to threads, on whose turn a busy machine lets all wait.
async def service_of(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


async def project_of(project: str, service: Annotated[Service, Depends(service_of)]) -> ServedProject:
    known = service.projects.get(project)
    if known is None:
        raise Refused(404, "there is no project of this name: /api/v1/projects lists them")
    return known


async def clip_of(
    clip: Id, project: Annotated[ServedProject, Depends(project_of)], service: Annotated[Service, Depends(service_of)]
) -> ServedClip:
    return await service.quick.do(partial(project.clip, clip))


def _known_side(side: int) -> int:
    if side not in SIDES:
        raise ValueError(f"one of {', '.join(map(str, SIDES))}")
    return side


Served = Annotated[Service, Depends(service_of)]
Project = Annotated[ServedProject, Depends(project_of)]
Clip = Annotated[ServedClip, Depends(clip_of)]
router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.get("/projects", summary="The projects of this server.")
async def projects(service: Served) -> list[answers.ProjectName]:
    return [answers.ProjectName(name=name) for name in service.projects]


@router.get("/projects/{project}", summary="What can be asked: senses, kinds of files, columns and their values.")
async def one_project(project: Project, service: Served) -> answers.ProjectOut:
    facts = await service.slow.do(project.facts)
    limits = {"upload_bytes": service.settings.upload_bytes, "upload_seconds": service.settings.upload_seconds}
    return answers.ProjectOut(**facts, **limits)


@router.get("/projects/{project}/status", summary="What is indexed, what failed and why, and what is due.")
async def status(project: Project, service: Served) -> answers.StatusOut:
    return await service.slow.do(partial(service.status, project))


def asking(project: ServedProject, asked: answers.Question, **more: Any) -> Asking:
    """The question as a session takes it. Raises InputError for none or two, and for a sense that is not there."""
    given = [one for one in (asked.q, asked.like, asked.question) if one is not None]
    if not given or not all(one.strip() for one in given):
        raise InputError("an empty question: give words as q, a clip as like, or an uploaded file as question")
    if len(given) > 1:
        raise InputError("give one of q, like and question; words that go with a file are uploaded with it")
    sense = None if asked.sense == "all" else SENSES[asked.sense]
    if asked.question is None:
        return Asking.ask(text=asked.q, like=asked.like, modalities=sense, **more)
    uploaded = project.uploaded(asked.question)
    return Asking.ask(
        image=Path(asked.question), modalities=sense, text=uploaded.text if more.get("hybrid") else None, **more
    )


@router.get("/projects/{project}/search", summary="Clips that answer a question, best first.")
async def search(project: Project, service: Served, asked: Annotated[answers.Search, Query()]) -> answers.Answers:
    started = time.perf_counter()
    clip = None if asked.within is None else await service.quick.do(partial(project.clip, asked.within))
    where = None
    if asked.where or clip is not None:
        where = await service.quick.do(partial(project.condition, asked.where, clip))
    query = asking(
        project,
        asked,
        where=where,
        hybrid=asked.hybrid,
        merge=asked.merge,
        distinct=asked.distinct,
        diversity=asked.diversity,
        top=asked.top + 1,  # one more says whether there is a next page
        offset=asked.offset,
    )
    found = await service.quick.ask((project, query))
    shown = found.results[: asked.top]
    return answers.Answers(
        project=project.name,
        version=found.version,
        pool=found.pool,
        offset=asked.offset,
        next=asked.offset + asked.top if len(found.results) > asked.top else None,
        seconds=round(time.perf_counter() - started, 4),
        results=[hit_out(project.name, one, asked.offset + place) for place, one in enumerate(shown, 1)],
    )


@router.post(
    "/projects/{project}/questions",
    status_code=201,
    summary="Upload a clip, a picture or a sound as a question: the body is the file, kept until it is embedded.",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload(
    request: Request,
    project: Project,
    service: Served,
    kind: Literal["video", "image", "audio"],
    q: answers.Words | None = None,
) -> answers.Asked:
    if service.uploads >= MOST_UPLOADS:
        raise busy("other files are being read: send this one again in a second")
    service.uploads += 1
    try:
        with tempfile.TemporaryDirectory(prefix="frameloom-question-") as folder:
            path = Path(folder) / "question"
            with path.open("xb") as file:
                async for piece in request.stream():  # counted and timed by `Guard`
                    file.write(piece)
            words = q if q is not None and q.strip() else None
            return answers.Asked(question=await service.slow.do(partial(project.embed, path, kind, words)))
    finally:
        service.uploads -= 1


@router.get("/projects/{project}/clips/{clip}", summary="A clip.")
async def one_clip(project: Project, clip: Clip) -> answers.ClipOut:
    return answers.ClipOut(**clip_fields(project.name, clip))


@router.get(
    "/projects/{project}/clips/{clip}/media",
    summary="The file of a clip's video, whole or a range of its bytes.",
    response_class=MediaFile,
    responses={
        200: {"content": _MEDIA, "description": "The whole file."},
        206: {"content": _MEDIA, "description": "A range of it."},
        416: {"description": "No such range.", "content": {"text/plain": {}}},
    },
)
async def media(clip: Clip, service: Served) -> Response:
    is_link = clip.path.resolve() != clip.path  # of the file, or of a folder above it
    if is_link and service.pictures.kept(clip.path, "media")[1] is None:
        await service.drawing.do(partial(service.pictures.check_media, clip.path))
    return media_file(clip.path)


@router.get(
    "/projects/{project}/clips/{clip}/playable",
    summary="A clip's video in H.264 and AAC, for browsers that cannot play its file; at most ten minutes long.",
    response_class=MediaFile,
    responses={
        200: {"content": {"video/mp4": {}}, "description": "The whole file."},
        206: {"content": {"video/mp4": {}}, "description": "A range of it."},
        416: {"description": "No such range.", "content": {"text/plain": {}}},
    },
)
async def playable(clip: Clip, service: Served) -> Response:
    path = await asyncio.to_thread(service.films.kept_playable, clip.path)
    if path is None:
        path = await service.converting.do(partial(service.films.make_playable, clip.path))
    return MediaFile(path, media_type="video/mp4", headers={**_IMMUTABLE, "etag": f'"{path.name}"'})


@router.get(
    "/projects/{project}/clips/{clip}/thumbnail",
    summary="The picture on display at an instant, in the middle of the clip without one.",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}, "description": "A JPEG."}},
)
async def thumbnail(
    clip: Clip,
    service: Served,
    t: Annotated[float | None, Query(ge=0, le=1e6, allow_inf_nan=False)] = None,
    side: Annotated[int, AfterValidator(_known_side), Query(json_schema_extra={"enum": list(SIDES)})] = SIDES[1],
) -> Response:
    middle = (clip.start_seconds + clip.end_seconds) / 2
    seconds = round(middle if t is None else t, 1)
    key, kept = await asyncio.to_thread(service.pictures.kept, clip.path, "thumbnail", seconds, side)
    if kept is None:
        kept = await service.drawing.do(partial(service.pictures.make_thumbnail, key, clip.path, seconds, side))
    return Response(kept, media_type="image/jpeg", headers=_IMMUTABLE)


async def _sheet(clip: ServedClip, service: Service) -> tuple[dict[str, Any], bytes]:
    key, kept = await asyncio.to_thread(service.pictures.kept, clip.path, "sprite")
    if kept is None:
        kept = await service.drawing.do(partial(service.pictures.make_sprite, key, clip.path))
    times, _, picture = kept.partition(b"\n")
    return json.loads(times), picture


@router.get(
    "/projects/{project}/clips/{clip}/sprite",
    summary="Pictures over the whole video in one sheet.",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}, "description": "A JPEG of tiles."}},
)
async def sprite(clip: Clip, service: Served) -> Response:
    _, picture = await _sheet(clip, service)
    return Response(picture, media_type="image/jpeg", headers=_IMMUTABLE)


@router.get(
    "/projects/{project}/clips/{clip}/sprite.vtt",
    summary="Which tile of the sheet shows which seconds (WebVTT).",
    response_class=Response,
    responses={200: {"content": {"text/vtt": {}}, "description": "WebVTT."}},
)
async def sprite_times(clip: Clip, service: Served) -> Response:
    times, _ = await _sheet(clip, service)
    return Response(webvtt(times, "sprite"), media_type="text/vtt", headers=_IMMUTABLE)


@router.get(
    "/projects/{project}/clips/{clip}/timeline", summary="The question's score over the whole of a clip's video."
)
async def timeline(
    project: Project, clip: Clip, service: Served, asked: Annotated[answers.Question, Query()]
) -> answers.TimelineOut:
    return await service.slow.do(partial(timeline_out, project, clip, asking(project, asked)))


def timeline_out(project: ServedProject, clip: ServedClip, query: Asking) -> answers.TimelineOut:
    session = project.session
    states = [state for state in project.state.clips if state.clip.video == clip.name]
    if not states:
        raise Refused(409, "the collection has changed since it was indexed: run `frameloom sync`")
    seconds = max(state.clip.end_seconds for state in states)
    widest = max(states, key=lambda state: -1 if state.primary is None else state.primary.count("+"))
    rows = query.modalities if query.modalities in widest.combinations else widest.primary
    windows: list[answers.WindowOut] = []
    if rows is not None and not session.asks_speech(query):
        vector = session.vector(query)[0]
        length = max(1.0, seconds / MOST_WINDOWS)
        spans = windows_of(seconds, window=length, step=length)
        scores = embed_windows(session, widest.inputs, spans, rows) @ vector
        windows = [window_out(start, end, score) for (start, end), score in zip(spans.tolist(), scores, strict=True)]
    clips = [window_out(one.clip.start_seconds, one.clip.end_seconds, 0.0) for one in states]
    return answers.TimelineOut(video=clip.video, seconds=seconds, windows=windows, spans=clips)


@router.get("/projects/{project}/clips/{clip}/why", summary="Which words, senses and seconds make a clip an answer.")
async def why(
    project: Project, clip: Clip, service: Served, asked: Annotated[answers.Question, Query()]
) -> answers.WhyOut:
    query = asking(project, asked)
    found: Result = await service.slow.do(partial(project.explain, query, clip.clip))
    reason = found.explanation
    assert reason is not None
    return answers.WhyOut(
        clip=clip.clip,
        senses=reason.senses,
        words=[answers.WorthOut(word=one.word, value=one.value) for one in reason.words],
        seconds=[window_out(one.start_seconds, one.end_seconds, one.value) for one in reason.seconds],
        speech=[answers.SaidOut(**one.as_dict()) for one in reason.speech],
    )


@router.get(
    "/projects/{project}/map",
    summary="All clips with their vectors as Parquet, for `embedding-atlas FILE --vector vector --text text`.",
    response_class=MediaFile,
    responses={200: {"content": {"application/vnd.apache.parquet": {}}, "description": "Parquet."}},
)
async def embedding_map(project: Project, service: Served) -> Response:
    path = await service.slow.do(partial(write_map, project))
    return MediaFile(path, media_type="application/vnd.apache.parquet", filename=f"{project.name}.parquet")


@router.post("/session", status_code=204, summary="Change the token for a cookie, so that videos can be played.")
async def open_session(service: Served) -> Response:
    answer = Response(status_code=204)
    if service.settings.token is not None:  # `Guard` has seen it
        value = session_cookie(service.settings.token)
        answer.set_cookie(COOKIE, value, httponly=True, samesite="strict", path="/")
    return answer


def window_out(start: float, end: float, score: float) -> answers.WindowOut:
    return answers.WindowOut(start_seconds=start, end_seconds=end, score=round(float(score), 5))


def clip_fields(project: str, clip: ServedClip | Result) -> dict[str, Any]:
    """What is answered of a clip, with addresses on this server and without its path."""
    base = f"/api/v1/projects/{project}/clips/{clip.clip}"
    start, end = clip.start_seconds, clip.end_seconds
    name = clip.video if isinstance(clip, Result) else clip.name
    return {
        "clip": clip.clip,
        "video": video_id(name),
        "title": title_of(name),
        "start_seconds": start,
        "end_seconds": end,
        "split": clip.split,
        "captions": list(clip.captions),
        "metadata": dict(clip.metadata),
        "media": f"{base}/media#t={start:.3f},{end:.3f}",
        "thumbnail": f"{base}/thumbnail?t={(start + end) / 2:.1f}",
    }


def hit_out(project: str, one: Result, rank: int) -> answers.Hit:
    scores = [answers.ScoreOut(name=each.name, value=each.value, better=each.better) for each in one.scores]
    return answers.Hit(**clip_fields(project, one), rank=rank, score=one.score, scores=scores, merged=one.merged)
