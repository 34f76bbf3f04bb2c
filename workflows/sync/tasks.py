"""Tasks of workers: functions of one job each, idempotent. Arrays go to the store, not through Dask."""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._files import file_stamp
from ..._vocabulary import FeatureArray, MediaError, Outcome, Status, digest_of
from ...store import hash_file
from ...train import Recipe
from ...train.data import ClipFeatures
from ..project import BackboneRequest
from .executor import emit

# Stored of a file, so that it is listed, and tried again while `survey.TRIES` are not used up.
VERDICTS = frozenset(status for status in Status if status.outcome is Outcome.QUARANTINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractItem:
    """One file to extract.

    Attributes:
        digest: of its content when it was surveyed.
        stamp: its `file_stamp` then; empty where the content must be hashed again to know that it is the same.
        fingerprints: names the features that it lacks.
    """

    video: str
    path: str
    digest: str
    fingerprints: Mapping[str, str]
    is_picture: bool = False
    stamp: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractJob:
    """A batch of files that lack the same features."""

    store: str
    items: tuple[ExtractItem, ...]
    backbones: tuple[BackboneRequest, ...]
    decode_seconds: float
    decode_memory_bytes: int
    threads: int
    token: str
    format: str = "hdf5"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractResult:
    """The result of each file of a batch: video to feature to (status, message).

    Nothing was stored of `passing` files, which changed, went or could not be read meanwhile: video to what happened.
    """

    statuses: Mapping[str, Mapping[str, tuple[Status, str]]]
    passing: Mapping[str, str]


def extract_batch(job: ExtractJob) -> ExtractResult:
    """Decode and extract a batch of files, then commit one shard for each feature."""
    from ...extract import extract_files

    _set_threads(job.threads)
    backbones = [request.build() for request in job.backbones]
    decoder = _decoder(job.decode_seconds, job.decode_memory_bytes)
    features: dict[str, dict[str, FeatureArray]] = {}
    passing: dict[str, str] = {}
    for is_picture in (False, True):
        items = [item for item in job.items if item.is_picture == is_picture]
        paths = [Path(item.path) for item in items]
        extracted = extract_files(paths, backbones, decoder=decoder, is_picture=is_picture) if items else []
        for item, found in zip(items, extracted, strict=True):
            passed = [one for one in found.values() if one.status.is_momentary and one.status not in VERDICTS]
            if passed or not _is_as_surveyed(item):
                passing[item.video] = passed[0].message if passed else "the file changed since it was looked at"
            else:
                features[item.video] = found
    kept = [item for item in job.items if item.video in features]
    for backbone in backbones:
        _write_shard(job, backbone.spec, kept, features)
    return ExtractResult(
        statuses={
            video: {name: (array.status, array.message) for name, array in found.items()}
            for video, found in features.items()
        },
        passing=passing,
    )


def _is_as_surveyed(item: ExtractItem) -> bool:
    """Whether what was just read is what the survey hashed: features are named by that hash."""
    try:
        if item.stamp == file_stamp(Path(item.path).stat()):
            return True
    except OSError:
        return False
    found = hash_file(Path(item.path))
    return not isinstance(found, MediaError) and found[0] == item.digest


@lru_cache(maxsize=1)
def _decoder(seconds: float, memory_bytes: int) -> Any:
    """This process's decoder, whose child serves batch after batch."""
    from ...extract import Decoder, Limits

    decoder = Decoder(limits=Limits(seconds=seconds, memory_bytes=memory_bytes))
    atexit.register(decoder.close)
    return decoder


def reject_item(job: ExtractJob, status: Status, message: str) -> None:
    """Commit a batch of one as rejected, without opening it: what is done with a file that kills its worker."""
    from ...extract import backbone_spec

    (item,) = job.items
    for request in job.backbones:
        spec = backbone_spec(request.name, weights=request.weights, **dict(request.options))
        features = {item.video: {spec.name: FeatureArray.empty(spec, status, message)}}
        _write_shard(job, spec, [item], features)


def _write_shard(
    job: ExtractJob, spec: Any, items: Sequence[ExtractItem], features: Mapping[str, Mapping[str, FeatureArray]]
) -> None:
    from ...store import FeatureStore, Sample

    samples = [
        Sample(
            key=item.video,
            source_digest=item.digest,
            fingerprint=item.fingerprints[spec.name],
            feature=features[item.video][spec.name],
        )
        for item in items
    ]
    if samples:
        FeatureStore(job.store).write_shard(spec.name, samples, spec=spec, token=job.token, format=job.format)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextJob:
    """A batch of captions with the fingerprints of their features."""

    store: str
    captions: tuple[str, ...]
    fingerprints: tuple[str, ...]
    backbone: BackboneRequest
    token: str
    format: str = "hdf5"


def encode_captions(job: TextJob) -> int:
    """Turn captions into word vectors and commit one shard. Returns how many captions had no known word."""
    from ...store import FeatureStore, Sample

    backbone = job.backbone.build()
    samples = [
        Sample(
            key=caption, source_digest=text_digest(caption), fingerprint=fingerprint, feature=backbone.encode(caption)
        )
        for caption, fingerprint in zip(job.captions, job.fingerprints, strict=True)
    ]
    FeatureStore(job.store).write_shard(
        backbone.spec.name, samples, spec=backbone.spec, token=job.token, format=job.format
    )
    return sum(sample.feature.status is not Status.OK for sample in samples)


def text_digest(caption: str) -> str:
    """The identity of a sentence: the hash of its text."""
    return digest_of({"text": caption})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """One training. `examples` is a Parquet file that lists the clips and the fingerprints of their features."""

    store: str
    examples: str
    model: str
    model_config: Mapping[str, Any]
    recipe: Recipe
    limits: Mapping[str, int]
    folder: str
    provenance: Mapping[str, Any]
    device: str
    threads: int
    resume: bool
    start: Mapping[str, str] = field(default_factory=dict)
    """Files of weights that the model begins with, by side; of "model" the checkpoint's folder."""


def train_model(job: TrainJob) -> Mapping[str, Any]:
    """Train, or go on training, and leave a checkpoint in the job's folder.

    Returns its digest, the last loss, the steps, and of a model that began with a trained one the parts that were new.
    """
    import torch

    from ...extract.weights import read_state_dict
    from ...fuse import create_model
    from ...train import fit, load_checkpoint
    from ...train.data import training_data

    _set_threads(job.threads)
    torch.manual_seed(job.recipe.seed)
    model: Any = create_model(job.model, **job.model_config)
    begun, anew = dict(job.start), []
    if "model" in begun:
        trained, meta = load_checkpoint(begun.pop("model"))
        # A head's row is one answer of a list.
        same_answers = meta.provenance.get("answers") == job.provenance.get("answers")
        left_out = () if same_answers else model.head_names
        weights = {name: value for name, value in trained.state_dict().items() if not name.startswith(left_out)}
        anew = model.continue_from(weights)
    if begun:
        model.start_from(**{side: read_state_dict(Path(path)) for side, path in begun.items()})
    recipe, examples = job.recipe, Path(job.examples)
    data = training_data(
        examples,
        job.store,
        limits=job.limits,
        seed=recipe.seed,
        narration=recipe.narration.model_dump() if recipe.narration else None,
        frames=recipe.frames.training() if recipe.frames else None,
        pairs=recipe.frames is not None and recipe.frames.pictures == "balanced",
    )
    result = fit(
        model,
        data,
        recipe=recipe,
        folder=Path(job.folder),
        device=job.device,
        provenance=dict(job.provenance),
        resume=job.resume,
        # Frames are decoded while the GPU computes; on a CPU both want the same cores.
        num_workers=max(1, job.threads - 1) if recipe.frames and job.device != "cpu" else 0,
        on_progress=lambda progress: emit(
            {name: getattr(progress, name) for name in ("epoch", "epochs", "step", "steps", "loss", "seconds_left")}
        ),
    )
    return {"digest": result.digest, "loss": result.loss, "steps": result.steps, "anew": anew}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedJob:
    """A batch of clips to embed with one checkpoint."""

    store: str
    checkpoint: str
    checkpoint_digest: str
    clips: tuple[ClipFeatures, ...]
    combinations: tuple[str, ...]
    limits: Mapping[str, int]
    device: str
    threads: int


def embed_clips(job: EmbedJob) -> dict[str, tuple[list[int], NDArray[np.float32]]]:
    """Read a batch of clips from the store and embed every combination of modalities that each has.

    Returns for each combination the clips that have it, as positions in the job, and their unit vectors (n, D).
    """
    from ...train.data import clip_data
    from ...train.evaluate import embed_batch

    _set_threads(job.threads)
    model = loaded_model(job.checkpoint, job.checkpoint_digest, job.device)
    data = clip_data(job.store, job.clips, job.limits)
    vectors: dict[str, tuple[list[int], NDArray[np.float32]]] = {}
    for combination in job.combinations:
        having = [i for i, clip in enumerate(job.clips) if all(map(clip.has, combination.split("+")))]
        if having:
            found = [embed_batch(model, batch, [combination])[combination] for batch in data.batches(having)]
            vectors[combination] = (having, np.concatenate(found))
    return vectors


@lru_cache(maxsize=1)
def loaded_model(folder: str, digest: str, device: str) -> Any:
    """A checkpoint's model in evaluation mode, from this process's cache; a new digest is a new entry."""
    from ...train import load_checkpoint

    model, _meta = load_checkpoint(Path(folder), device=device, expected_digest=digest)
    return model


def _set_threads(threads: int) -> None:
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
