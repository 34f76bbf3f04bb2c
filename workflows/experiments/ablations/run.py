"""Training and judging the models of a study on the executor's workers: resumable, a folder for each model and seed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...._files import publish_text
from ...._vocabulary import IntegrityError, digest_of
from ....train import get_recipe, read_checkpoint
from ....train.data import FeatureDataset, TrainingSet, stored_clips
from ...console import Console, readable_seconds
from ...sync import Executor, TrainJob, train_model
from .data import Clips
from .studies import Strategy, Study, Table

META_NAME = "model.json"
# Raised whenever the same checkpoint would be judged differently.
_REVISION = 1
_COLUMNS = ("r1", "r5", "r10", "medr", "meanr")

Metrics = dict[str, dict[str, float]]
"""Direction ("text->media", "media->text") to metrics by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One row to judge: how media are put together, how long clips are read, the gallery and the file that lists it."""

    row: str
    media: str
    strategy: Strategy
    gallery: str
    gallery_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationJob:
    """One model to train with one seed, and the rows that ask it."""

    training: str
    seed: int
    train: TrainJob
    reading: Mapping[str, Any]
    asked: tuple[Asked, ...]

    @property
    def folder(self) -> Path:
        return Path(self.train.folder)

    def result_path(self, asked: Asked, digest: str) -> Path:
        """Where the numbers of one row are kept: under everything that decides them."""
        how = [dict(self.reading), asked.media, asked.strategy, asked.gallery_digest, dict(self.train.limits)]
        return self.folder / f"result-{digest_of([_REVISION, digest, *how])[:16]}.json"

    def found(self) -> dict[str, Metrics] | None:
        """The metrics of every row; None where something is still to be done. Raises IntegrityError for damage."""
        if not (self.folder / META_NAME).is_file():
            return None
        digest = read_checkpoint(self.folder).digest
        rows: dict[str, Metrics] = {}
        for asked in self.asked:
            path = self.result_path(asked, digest)
            if not path.is_file():
                return None
            try:
                rows[asked.row] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                fault = f"{path} is damaged ({error}): delete it, and the next run makes it again"
                raise IntegrityError(fault) from None
        return rows


def plan_jobs(
    clips: Clips,
    study: Study,
    folder: Path,
    *,
    tables: Sequence[Table],
    objective: str,
    seeds: int,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> list[AblationJob]:
    """A job for each model that the tables ask and each seed, seed by seed. Writes the lists of their clips."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = _written(folder, "training", clips.training)
    galleries = {name: _written(folder, name, listed) for name, listed in clips.galleries.items()}
    features = clips.project.features()
    rows = {f"{table.number}/{row.key}": row for table in tables for row in table.rows}
    provenance = {"features": features.identities(), "examples": clips.training.digest}
    jobs = []
    for seed in range(seeds):
        recipe = get_recipe(study.recipe, **{**study.overrides, **overrides, "seed": seed})
        for name, training in study.trainings.items():
            asked = tuple(
                Asked(
                    row=key,
                    media=row.media,
                    strategy=row.strategy,
                    gallery=str(galleries[row.gallery]),
                    gallery_digest=clips.galleries[row.gallery].digest,
                )
                for key, row in rows.items()
                if row.training == name
            )
            if not asked:
                continue
            config = features.widths() | {**study.options, **study.objectives[objective], **training.options}
            identity = digest_of([study.model, config, recipe.identity(), provenance])
            train = TrainJob(
                store=str(clips.project.store.root),
                examples=str(examples),
                model=study.model,
                model_config=config,
                recipe=recipe,
                limits=recipe.limits(),
                folder=str(folder / objective / f"{name}-seed{seed}-{identity[:12]}"),
                provenance=provenance,
                device=clips.project.config.run.device,
                threads=1,
                resume=True,
            )
            jobs.append(AblationJob(training=name, seed=seed, train=train, reading=training.reading, asked=asked))
    return jobs


def _written(folder: Path, name: str, examples: TrainingSet) -> Path:
    path = folder / f"{name}-{examples.digest[:12]}.parquet"
    if not path.exists():
        examples.write(path)
    return path


def run_jobs(jobs: Sequence[AblationJob], executor: Callable[[], Executor], console: Console) -> None:
    """Train and judge what is not done yet. Each result is kept at once, so that the next call goes on from there."""
    waiting = [job for job in jobs if job.found() is None]
    if not waiting:
        return
    with console.progress("ablate", len(waiting), "models") as advance:
        for job, outcome in executor().map(run_job, waiting):
            if isinstance(outcome, Exception):
                raise outcome
            console.say(f"  {job.training}, seed {job.seed}: {readable_seconds(outcome)}")
            advance(1)


def run_job(job: AblationJob) -> float:
    """Train what is not trained and judge what is not judged. Returns the seconds that it took."""
    begun = time.monotonic()
    job.folder.mkdir(parents=True, exist_ok=True)
    digest = str(train_model(job.train)["digest"])
    for asked in job.asked:
        path = job.result_path(asked, digest)
        if not path.is_file():
            publish_text(path, json.dumps(judge(job, asked), indent=1))
    return time.monotonic() - begun


def judge(job: AblationJob, asked: Asked) -> Metrics:
    """Retrieval in both directions between the first captions of a gallery and its clips."""
    from ....train.evaluate import LongVideos, embed_test_clips, retrieval_metrics

    samples, longest = _gallery(job.train.store, asked.gallery)
    limits = job.train.limits
    # How a gallery's clips are read by a model that was trained on clips of the recipe's length.
    plan = LongVideos(
        strategy="at_once" if asked.strategy == "beginning" else asked.strategy,
        num_clips=1 if asked.strategy == "beginning" else max(1, round(longest / (limits["max_audio_frames"] / 100))),
        clip_video_tokens=limits["max_video_tokens"],
        clip_audio_frames=limits["max_audio_frames"],
        max_words=limits["max_words"],
    )
    each = (samples[index] for index in range(len(samples)))
    vectors = embed_test_clips(model_of(job), each, plan=plan, combinations=["text", asked.media]).vectors
    similarity = vectors["text"] @ vectors[asked.media].T
    found = {"text->media": retrieval_metrics(similarity), "media->text": retrieval_metrics(similarity.T)}
    return {name: {column: float(getattr(one, column)) for column in _COLUMNS} for name, one in found.items()}


@lru_cache(maxsize=2)
def _gallery(store: str, gallery: str) -> tuple[FeatureDataset, float]:
    """A gallery's clips, and the seconds of the longest."""
    clips = TrainingSet.read(Path(gallery)).clips
    return stored_clips(store, clips), max(clip.end_seconds - clip.start_seconds for clip in clips)


def model_of(job: AblationJob) -> Any:
    """The trained model, as it is read for evaluation."""
    from ....fuse import create_model
    from ....train import load_checkpoint

    model, _meta = load_checkpoint(job.folder)
    if not job.reading:
        return model
    other = create_model(job.train.model, **{**job.train.model_config, **job.reading})
    other.load_state_dict(model.state_dict())
    return other.eval()
