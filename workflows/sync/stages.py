"""The stages: extract, read captions, train, embed. Each looks at what is there and does only what is missing."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby

from ..._files import publish_text
from ..._vocabulary import InputError, Status, digest_of
from ...extract.speech import check_library
from ...train import save_checkpoint
from ...train.data import ClipDataset, ClipFeatures, stored_clips
from ..console import Console, count_of, readable_seconds
from ..project import (
    CHECKPOINT_POINTER,
    CheckpointRef,
    FeatureRequest,
    ImportRecord,
    Project,
    Resolved,
    keep_project,
)
from .examples import examples_of
from .executor import Executor, WorkerLostError, in_batches, num_threads, outcomes
from .report import cut_captions
from .state import State
from .survey import Survey, VideoState, attempt_name, fingerprint_of
from .tasks import (
    VERDICTS,
    ExtractItem,
    ExtractJob,
    ExtractResult,
    TextJob,
    TrainJob,
    encode_captions,
    extract_batch,
    reject_item,
    text_digest,
    train_model,
)
from .weights import fetch_requested

CAPTIONS_PER_TASK = 2000
NAMES_PER_TASK = 250
DEATHS_BEFORE_QUARANTINE = 2
FAILURES_OF_ALL = 3
"""Files that fail one after the other, and none that does not: the fault is not theirs."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The input of every stage: a project, and its resolved form when the run began.

    `executor` starts the workers when it is first called: idle runs start none.
    """

    project: Project
    resolved: Resolved
    executor: Callable[[], Executor]
    console: Console


def extract(stage: Stage, found: Survey) -> Survey:
    """Extract what the survey lacks. Returns the survey as it is afterwards."""
    if not (waiting := found.to_extract()):
        return found
    lacking = {name for state in waiting for name in state.to_extract}
    if any(one.purpose == "speech" and one.name in lacking for one in stage.project.extracted):
        check_library()
    fetch_requested([one.request for one in stage.project.extracted if one.name in lacking], stage.console)
    begun, jobs = time.monotonic(), [*extract_jobs(stage.project, waiting)]
    with stage.console.progress("extract", sum(len(job.items) for job in jobs), "videos") as advance:
        _run_extract_jobs(stage, jobs, advance)
    stage.project.ledger.record_rate(rate_name("extract", *lacking), len(waiting), time.monotonic() - begun)
    return found.updated(stage.project)


def rate_name(stage: str, *names: str) -> str:
    """What the ledger keeps a stage's rate under: that of another backbone or model says nothing."""
    return " ".join([stage, *sorted(names)])


def extract_jobs(project: Project, waiting: list[VideoState]) -> Iterator[ExtractJob]:
    """Batches of videos that lack the same features, in the collection's order.

    A batch is committed whole, so what an interrupted run leaves are whole batches: cut again, they are the same ones,
    and their shards get the same bytes. Speech, which is slow and reads sound at a rate of its own, has its own ones.
    """
    run = project.config.run
    parts = [(missing, state) for state in waiting for missing in state.parts_to_extract]
    ordered = sorted(parts, key=lambda part: (part[0], part[1].name))
    for missing, several in groupby(ordered, key=lambda part: part[0]):
        for batch in in_batches((state for _, state in several), run.batch_videos):
            items = (
                ExtractItem(
                    video=state.name,
                    path=str(state.file.video.path),
                    digest=state.file.digest or "",
                    is_picture=state.file.video.is_picture,
                    stamp=project.ledger.stamp_of(state.file.video.path, state.file.digest or ""),
                    fingerprints={
                        one.request.name: one.fingerprint for one in state.streams if one.request.name in missing
                    },
                )
                for state in batch
            )
            yield ExtractJob(
                store=str(project.store.root),
                items=tuple(items),
                backbones=tuple(one.request for one in project.extracted if one.name in missing),
                decode_seconds=run.decode_seconds,
                decode_memory_bytes=int(run.decode_memory_gb * 1e9),
                threads=run.threads,
                token=uuid.uuid4().hex[:12],
                format=project.config.store.format,
            )


def _run_extract_jobs(stage: Stage, jobs: list[ExtractJob], advance: Callable[[int], None]) -> None:
    """Run batches. One whose worker died is tried again file by file, and a file that kills workers is quarantined."""
    ledger, executor = stage.project.ledger, stage.executor()
    killers = [job for job in jobs if any(ledger.attempts(item.digest) for item in job.items)]
    alone = [one for job in killers for one in _one_by_one(job)]
    num_failed, has_succeeded = 0, False
    for job, outcome in executor.map(extract_batch, [job for job in jobs if job not in killers]):
        if isinstance(outcome, ExtractResult):
            advance(len(job.items))
            has_succeeded = True
            _note_verdicts(stage, job, outcome)
        else:
            alone += _one_by_one(job)
    while alone:
        again: list[ExtractJob] = []
        for job, outcome in executor.map(extract_batch, alone, is_alone=True):
            (item,) = job.items
            if isinstance(outcome, Exception):
                message = f"the worker failed on it: {outcome}"
                if isinstance(outcome, WorkerLostError):
                    ledger.finish_attempt(item.digest, died=True)
                    if ledger.attempts(item.digest) < DEATHS_BEFORE_QUARANTINE:
                        again.append(job)
                        continue
                    message = f"the worker process that was alone with it died, {DEATHS_BEFORE_QUARANTINE} times"
                else:
                    num_failed += 1
                    if num_failed >= FAILURES_OF_ALL and not has_succeeded:  # no file is at fault
                        raise outcome.__cause__ or outcome
                reject_item(job, Status.DECODER_CRASH, message)
                ledger.finish_attempt(attempt_name(stage.project, item.digest), died=True)
                stage.console.say(f"  {item.video}: {Status.DECODER_CRASH.value}: {message}")
            else:
                has_succeeded = True
                ledger.finish_attempt(item.digest)
                _note_verdicts(stage, job, outcome)
            advance(1)
        alone = again


def _one_by_one(job: ExtractJob) -> list[ExtractJob]:
    return [replace(job, items=(item,), token=uuid.uuid4().hex[:12]) for item in job.items]


def _note_verdicts(stage: Stage, job: ExtractJob, result: ExtractResult) -> None:
    """Say what failed, and count what the next run tries again."""
    console = stage.console
    for item in job.items:
        if any(status in VERDICTS for status, _ in result.statuses.get(item.video, {}).values()):
            stage.project.ledger.finish_attempt(attempt_name(stage.project, item.digest), died=True)
    for video, statuses in result.statuses.items():
        bad = {status: message for status, message in statuses.values() if status is not Status.OK}
        for status, message in bad.items():
            if not status.is_absence:
                console.say(f"  {video}: {status.value}: {message}")
    for video, message in result.passing.items():
        console.say(f"  {video}: {message.partition('; ')[0]}; the next run tries it again")


def read_captions(stage: Stage, *, renew_vectors: bool = False) -> Resolved:
    """Make the features of every caption, and before that word vectors where none are given.

    Returns what is resolved afterwards: words are read with the vectors that were trained here, if any were.
    """
    project, resolved = stage.project, stage.resolved
    captions = project.texts()
    if project.config.features.text is None or not captions:
        return resolved
    if lacks_word_vectors(project, resolved) or (renew_vectors and project.trains_word_vectors):
        resolved = _train_word_vectors(stage)
    text = resolved.features.text
    if text is None:
        return resolved
    unknown = _read_texts(stage, text, captions, what="captions", per_task=CAPTIONS_PER_TASK)
    if unknown:
        stage.console.say(f"  {count_of(unknown, 'caption')} without a single known word: not trained on")
    return resolved


def _read_texts(stage: Stage, text: FeatureRequest, texts: Sequence[str], *, what: str, per_task: int) -> int:
    """Make those features of texts that the store lacks. Returns how many of these had no known word."""
    project = stage.project
    names = {each: fingerprint_of(text_digest(each), text) for each in texts}
    absent = ImportRecord.absent_in(project.root)
    missing = [pair for pair in names.items() if pair[1] not in project.store and pair[1] not in absent]
    if not missing:
        return 0
    fetch_requested([text.request], stage.console)
    jobs = [
        TextJob(
            store=str(project.store.root),
            captions=tuple(each for each, _ in batch),
            fingerprints=tuple(name for _, name in batch),
            backbone=text.request,
            token=uuid.uuid4().hex[:12],
            format=project.config.store.format,
        )
        for batch in in_batches(missing, per_task)
    ]
    unknown = 0
    with stage.console.progress(what, len(missing), what) as advance:
        for job, outcome in outcomes(stage.executor, encode_captions, jobs):
            unknown += outcome
            advance(len(job.captions))
    project.store.refresh()
    return unknown


def lacks_word_vectors(project: Project, resolved: Resolved) -> bool:
    """Whether word vectors must be trained: captions are there to be read, and no vectors to read them with."""
    return project.trains_word_vectors and resolved.features.text is None and bool(project.texts(split="train"))


def _train_word_vectors(stage: Stage) -> Resolved:
    """Learn word vectors, or word pieces, from the captions that may be learned from, and say so."""
    from ...extract import learned_words

    project = stage.project
    feature = project.config.features.text
    assert feature is not None
    learned = learned_words(feature.backbone, **feature.options)
    captions = project.texts(split="train")
    if not captions or learned is None:
        return stage.resolved
    identity = digest_of({"captions": captions, **learned.options, "seed": feature.seed})
    path = project.root / "models" / learned.file_name.format(identity[:12])
    # `resolve` compared the project's own with their digest. Nothing vouches for another file: the same bytes are made.
    if path != stage.resolved.features.word_vectors:
        stage.console.say(
            f"{learned.what}: none given, so they are trained from the collection's own"
            f" {count_of(len(captions), 'caption')} (give yours with features.text.weights)"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        learned.train(captions, path, seed=feature.seed, **learned.options)
        project.ledger.record_rate("word_vectors", len(captions), time.monotonic() - begun)
    renewed = project.resolve(word_vectors=path)
    # Vectors that replace others are those of the project once a model was trained on them.
    if stage.resolved.features.word_vectors is None:
        project.keep_word_vectors(renewed.features)
    return renewed


def train(stage: Stage, state: State, *, anew: bool = False) -> Resolved:
    """Train on the clips of a state, or go on with an interrupted training, and make it the current checkpoint.

    With `anew`, what an earlier training of the same clips left is discarded.
    """
    from ..project.pixels import mirrored_captions, start_files

    project, resolved = stage.project, state.resolved
    if not project.trains:
        return assemble(stage, state)
    examples, asked = examples_of(state)
    for line in [] if asked is None else asked.lines():
        stage.console.say(f"  {line}")
    if asked is not None and len(examples) - asked.num_unknown < 2:
        raise InputError(
            f"training needs at least 2 questions of the training split whose answers are known; found"
            f" {len(examples) - asked.num_unknown} among {len(project.questions.questions)} of {project.recipe.task}:"
            " see collection.questions"
        )
    if len(examples) < 2:
        raise InputError(
            f"training needs at least 2 {examples.unit}s of the training split with two of video, audio and captions;"
            f" found {len(examples)} among {count_of(len(state.clips), 'clip')}: give captions with"
            " collection.captions, or a trained model with model.checkpoint"
        )
    if project.config.features.text is not None and examples.is_silent:
        raise InputError(
            f"nothing is said in any of {len(examples)} narrated videos of the training split: give sentences as"
            " captions of spans with collection.captions, or leave features.text out to learn without words"
        )
    if project.recipe.frames is not None and (
        cut := cut_captions(project.store, examples, resolved.limits["max_words"])
    ):
        stage.console.say(cut)
    if mirrored := mirrored_captions(project.recipe, project.texts(split="train")):
        stage.console.say(mirrored)
    digest = examples.digest
    folder = resolved.model_folder / digest[:12]
    folder.mkdir(parents=True, exist_ok=True)
    examples.write(folder / "examples.parquet")
    publish_text(folder / "frameloom.json", project.config.model_dump_json(indent=1))
    job = TrainJob(
        store=str(project.store.root),
        examples=str(folder / "examples.parquet"),
        model=project.model_name,
        model_config={**project.widths(resolved.features.specs()), **project.model_options},
        recipe=project.recipe,
        limits=resolved.limits,
        folder=str(folder),
        provenance={"features": resolved.features.identities(), "examples": digest, "limits": resolved.limits}
        | ({} if asked is None else {"answers": list(asked.answers)}),
        device=project.config.run.device,
        threads=num_threads(),
        resume=not anew,
        start=start_files(project.config, project.base, project.model_name, resolved.features.identities()),
    )
    begun = time.monotonic()
    with stage.console.training() as on_event:
        result = stage.executor().run(train_model, job, on_event)
    stage.console.say(
        f"trained {project.model_name} on {count_of(len(examples), examples.unit)} in"
        f" {readable_seconds(time.monotonic() - begun)}: loss {result['loss']:.3f} after {result['steps']} steps"
    )
    if (first := project.config.model.start.get("model")) is not None:
        stage.console.say(f"  it began with {first}; new in it: {', '.join(result['anew']) or 'nothing'}")
    samples = result["steps"] * project.recipe.batch_size
    project.ledger.record_rate(rate_name("train", project.model_name), samples, time.monotonic() - begun)
    checkpoint = CheckpointRef(
        folder=folder, digest=result["digest"], examples_digest=digest, num_examples=len(examples)
    )
    project.keep_word_vectors(resolved.features)
    return _with_checkpoint(project, resolved, checkpoint)


def _with_checkpoint(project: Project, resolved: Resolved, checkpoint: CheckpointRef) -> Resolved:
    """Make a finished checkpoint the current one of its model."""
    keep_project(project, resolved)
    pointer = {**asdict(checkpoint), "folder": checkpoint.folder.name}
    publish_text(resolved.model_folder / CHECKPOINT_POINTER, json.dumps(pointer, indent=1))
    return replace(resolved, checkpoint=checkpoint)


def assemble(stage: Stage, state: State) -> Resolved:
    """Make the checkpoint of a model that is not trained. The names of its classes are read as questions are."""
    from ...extract import class_names
    from ...fuse import ImagenetLabels, create_model
    from ...train.evaluate import embed_batch

    project, resolved = stage.project, state.resolved
    features = resolved.features
    begun = time.monotonic()
    model = create_model(project.model_name, **{**project.widths(features.specs()), **project.model_options})
    if isinstance(model, ImagenetLabels):
        text = features.text
        assert text is not None
        names = class_names(features.media[0].spec)
        if _read_texts(stage, text, names, what="class names", per_task=NAMES_PER_TASK):
            raise InputError(f"{text.name} does not know every class name: use a backbone that reads any text")
        clips = [ClipFeatures(clip=name, captions=(fingerprint_of(text_digest(name), text),)) for name in names]
        data = ClipDataset(stored_clips(str(project.store.root), clips), **resolved.limits, training=False)
        model.set_labels(embed_batch(model, data.__getitems__(range(len(names))), ["text"])["text"])
    folder = resolved.model_folder / "assembled"
    publish_text(folder / "frameloom.json", project.config.model_dump_json(indent=1))
    provenance = {"features": features.identities(), "limits": resolved.limits}
    meta = save_checkpoint(model, folder, recipe=project.recipe.model_dump(), provenance=provenance)
    project.ledger.record_rate("assemble", 1, time.monotonic() - begun)
    stage.console.say(f"{project.model_name}: put together from its backbones, nothing is trained")
    return _with_checkpoint(project, resolved, CheckpointRef(folder=folder, digest=meta.digest))
