"""A project at work: its configuration, its collection, its store, its models. Every stage gets one of these."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..._files import publish_text
from ..._vocabulary import ConfigError, FeatureSpec, IntegrityError, Modality, canonical_json, digest_of
from ...extract import backbone_spec, needs_weights, path_options, weights_digest
from ...extract.weights import find_source
from ...store import ClipTable, FeatureStore, Ledger, check_metadata_schema
from ...train import get_recipe, read_checkpoint
from .collection import Collection, discover, readable_path
from .config import Config, FeatureConfig, load_config
from .imported import imported_weights
from .manifest import is_address
from .requests import BackboneRequest

CONFIG_NAME = "frameloom.yaml"
VECTORS_POINTER = "word_vectors.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """One feature that the configuration asks for, with what identifies its numbers."""

    modality: Modality
    spec: FeatureSpec
    weights_digest: str
    request: BackboneRequest

    @property
    def name(self) -> str:
        """The feature's name: that of its backbone, and of its folder in the store."""
        return self.spec.name

    @property
    def is_imported(self) -> bool:
        """Whether it was made elsewhere, so that it cannot be extracted here."""
        return imported_weights(self.request.weights) is not None

    def identity(self) -> dict[str, Any]:
        """What decides the numbers of this feature, whatever the file."""
        return {"spec": self.spec.identity(), "weights": self.weights_digest}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRef:
    """A finished checkpoint: where it lies, what identifies it, and what it was trained on."""

    folder: Path
    digest: str
    examples_digest: str | None = None
    num_examples: int | None = None


class Project:
    """A configuration and everything that it names. Opening one reads, and writes nothing."""

    def __init__(self, config: Config, base: Path, *, read_only: bool = False) -> None:
        self.config = config
        self.read_only = read_only
        self.base = base
        self.root = self._absolute(config.store.path)
        _check_folder("store.path", self.root)
        check_device(config.run.device)
        self._new_vectors: Path | None = None
        self.recipe = get_recipe(config.training.recipe, **config.training.overrides)
        self.store = FeatureStore(self._features_root())
        _check_folder("store.features", self.store.root)
        self.wants = tuple(self._want(modality, feature) for modality, feature in config.features.media())
        text = config.features.text
        self._text_spec = None if text is None else self._check_modality(Modality.TEXT, text)  # refused before any work

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Project:
        """Read a configuration file. Raises ConfigError or UnknownNameError."""
        path = path / CONFIG_NAME if path.is_dir() else path
        return cls(load_config(path), path.absolute().parent, read_only=read_only)

    @cached_property
    def collection(self) -> Collection:
        """The videos of the collection as they are on disk now. Raises ConfigError."""
        section = self.config.collection
        found = discover(section.videos, captions=section.captions, base=self.base)
        check_metadata_schema(found.metadata_types)
        for name, column in self.config.features.extra_text.items():
            if column not in found.metadata_types:
                known = ", ".join(found.metadata_types) or "none"
                raise ConfigError(
                    f"features.extra_text.{name}: the collection has no column {column!r} with anything in it;"
                    f" its further columns are: {known}"
                )
        return found

    def texts(self, *, split: str | None = None) -> list[str]:
        """Every text that the text feature reads, each once: captions, then the columns of `features.extra_text`."""
        columns = self.config.features.extra_text.values()
        extra = (text for column in columns for text in self.collection.column_texts(column, split=split))
        return list(dict.fromkeys([*self.collection.captions(split=split), *extra]))

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, which a project that only reads leaves as it is."""
        return Ledger(self.root, read_only=self.read_only)

    @cached_property
    def table(self) -> ClipTable:
        """The LanceDB table of clip embeddings; may not exist yet."""
        return ClipTable(str(self.root / "vectors"), self.config.store.table)

    @property
    def model_name(self) -> str:
        """The fusion model: the configuration's, or the recipe's."""
        return self.config.model.name or self.recipe.model

    @property
    def model_options(self) -> dict[str, Any]:
        """The model's settings: the recipe's, where it is the recipe's model, and over them the configuration's."""
        own = dict(self.recipe.model_options) if self.model_name == self.recipe.model else {}
        return {**own, **self.config.model.config}

    @property
    def limits(self) -> dict[str, int]:
        """How much of a clip a model reads: by the configuration, the given checkpoint, or the recipe."""
        names = ("max_video_tokens", "max_audio_frames", "max_words")
        own = {name: getattr(self.recipe, name) for name in names}
        if self.config.model.checkpoint is not None:
            own |= read_checkpoint(self._absolute(self.config.model.checkpoint)).provenance.get("limits", {})
        given = {name: getattr(self.config.model, name) for name in names}
        return own | {name: value for name, value in given.items() if value is not None}

    def check_model(self) -> None:
        """Raises UnknownNameError or ConfigError for a model, or settings of it, that cannot be built or fed.

        Of a given checkpoint, whose features are compared when it is opened, only the combinations are checked.
        """
        from ...fuse import model_config, model_description

        if self.config.model.checkpoint is not None:
            meta = read_checkpoint(self._absolute(self.config.model.checkpoint))
            self._check_combinations(meta.model, model_config(meta.model, **meta.config).all_modalities())
            return
        widths = self._checked_widths()
        if "extra_dims" not in model_description(self.model_name)["config"]:
            widths.pop("extra_dims", None)  # `_check_features` says it in the words of the configuration
        taken = model_config(self.model_name, **{**widths, **self.model_options}).all_modalities()
        self._check_features(taken)
        self._check_combinations(self.model_name, taken)

    def _checked_widths(self) -> dict[str, Any]:
        """The widths of the features. Raises ConfigError where a setting of the model says otherwise."""
        specs = [want.spec for want in self.wants] + ([] if self._text_spec is None else [self._text_spec])
        widths = self._model_widths(specs)
        for option, width in widths.items():
            if self.model_options.get(option, width) != width:
                found = " beside ".join(f"{one.name} ({one.dim})" for one in specs if f"{one.modality}_dim" == option)
                raise ConfigError(
                    f"model.config.{option}: {self.model_options[option]!r}, and the rows of {found} are {width} wide:"
                    " leave the key out, and the model is made for its features"
                )
        return widths

    def _check_features(self, taken: Sequence[str]) -> None:
        """Raises ConfigError for a feature that the model to be trained does not read."""
        for name, key in self._feature_keys().items():
            if name not in taken:
                raise ConfigError(
                    f"{key}: the model {self.model_name} takes {', '.join(taken)}: leave the key out (what is extracted"
                    " stays in the store), or choose another model as model.name"
                )

    def _check_combinations(self, model: str, taken: Sequence[str]) -> None:
        """Raises ConfigError for rows of the table that the model cannot make. Defaults that no clip has are let be."""
        store, has = self.config.store, self._feature_keys().keys()
        for combination in store.combinations:
            parts = set(combination.split("+"))
            if not parts <= set(taken) and (parts <= has or "combinations" in store.model_fields_set):
                rest = next(name for name in ("video", *taken) if name in taken)
                raise ConfigError(
                    f"store.combinations: the model {model} takes {', '.join(taken)}, and not {combination}: leave it"
                    f" out, as in combinations: [{rest}]"
                )

    def _feature_keys(self) -> dict[str, str]:
        """The modalities that the configuration has features of, each with its key."""
        features = self.config.features
        own = {name: f"features.{name}" for name in ("video", "audio", "text") if getattr(features, name)}
        return own | {name: f"features.extra_text.{name}" for name in features.extra_text}

    @property
    def trains_word_vectors(self) -> bool:
        """Whether the text feature reads vectors that this project makes from its own captions."""
        feature = self.config.features.text
        return feature is not None and feature.weights is None and needs_weights(feature.backbone)

    def text_want(self) -> Want | None:
        """The text feature, once it has vectors: those of the configuration, or those made from the captions."""
        feature = self.config.features.text
        if feature is None:
            return None
        if self.trains_word_vectors:
            made = self.word_vectors()
            if made is None:
                return None
            feature = feature.model_copy(update={"weights": str(made)})
            want = self._want(Modality.TEXT, feature)
            self._check_vectors(made, want.weights_digest)
            return want
        return self._want(Modality.TEXT, feature)

    def _check_vectors(self, made: Path, digest: str) -> None:
        """Raises IntegrityError for vectors that are not those that were trained."""
        pointer = read_json(self.root / "models" / VECTORS_POINTER, needs=("file",)) or {}
        if pointer.get("file") == made.name and digest != pointer.get("sha256", digest):
            raise IntegrityError(f"the word vectors {made} are damaged: run `frameloom repair`, then `frameloom sync`")

    def word_vectors(self) -> Path | None:
        """The word vectors that this project made from its own captions, if it has."""
        if self._new_vectors is not None:
            return self._new_vectors
        pointer = read_json(self.root / "models" / VECTORS_POINTER, needs=("file",))
        path = None if pointer is None else self.root / "models" / pointer["file"]
        return path if path is not None and path.is_file() else None

    def use_word_vectors(self, path: Path) -> None:
        """Take these vectors, for as long as this object lives."""
        self._new_vectors = path

    def keep_word_vectors(self) -> None:
        """Make the vectors taken last those of the project."""
        if self._new_vectors is not None:
            want = self.text_want()
            pointer = {"file": self._new_vectors.name, **({} if want is None else {"sha256": want.weights_digest})}
            publish_text(self.root / "models" / VECTORS_POINTER, canonical_json(pointer))

    def streams(self) -> dict[Modality, tuple[Want, ...]]:
        """The features that the model reads, by modality; those of one modality are joined, in this order.

        The text feature is among them once it has vectors.
        """
        text = self.text_want()
        found: dict[Modality, tuple[Want, ...]] = {}
        for want in (*self.wants, *([] if text is None else [text])):
            found[want.modality] = (*found.get(want.modality, ()), want)
        return found

    def all_wants(self) -> dict[str, Want]:
        """Every feature of `streams` by what people call it: ``video``, or of several of them ``video-resnet152``."""
        return {
            str(modality) if len(wants) == 1 else f"{modality}-{want.name}": want
            for modality, wants in self.streams().items()
            for want in wants
        }

    def feature_identities(self) -> dict[str, Any]:
        """What decides the numbers of each modality's rows: the identity of its feature, or a list of several."""
        identities = {str(name): [want.identity() for want in wants] for name, wants in self.streams().items()}
        text = self.text_want()
        identities |= {} if text is None else {name: [text.identity()] for name in self.config.features.extra_text}
        return {name: found[0] if len(found) == 1 else found for name, found in identities.items()}

    def model_widths(self) -> dict[str, Any]:
        """The model's settings that its features decide: how wide its video rows (all streams joined) and words are."""
        return self._model_widths([want.spec for want in self.all_wants().values()])

    def _model_widths(self, specs: Sequence[FeatureSpec]) -> dict[str, Any]:
        widths: dict[str, Any] = _model_widths(specs)
        if self.config.features.extra_text:
            widths["extra_dims"] = dict.fromkeys(self.config.features.extra_text, widths.get("text_dim"))
        return widths

    def model_key(self) -> str:
        """What identifies the training that the configuration asks for, apart from the clips trained on."""
        return digest_of(
            {
                "model": self.model_name,
                "config": self.model_options,
                "limits": self.limits,
                "recipe": self.recipe.as_dict(),
                "features": self.feature_identities(),
            }
        )

    def model_folder(self) -> Path:
        """Where checkpoints of this model, these features and this recipe are kept."""
        return self.root / "models" / f"{self.model_name}-{self.model_key()[:12]}"

    def checkpoint(self) -> CheckpointRef | None:
        """The checkpoint to embed with: the configured one, or the one that was trained here; None before training."""
        given = self.config.model.checkpoint
        if given is not None:
            return self._given_checkpoint(self._absolute(given))
        names = ("folder", "digest", "examples_digest", "num_examples")
        pointer = read_json(self.model_folder() / "current.json", needs=names)
        if pointer is None or not (self.model_folder() / pointer["folder"] / "model.json").is_file():
            return None
        return CheckpointRef(
            folder=self.model_folder() / pointer["folder"],
            digest=pointer["digest"],
            examples_digest=pointer["examples_digest"],
            num_examples=pointer["num_examples"],
        )

    def kept_path(self, path: Path) -> str:
        """A path as the table keeps it: relative where the file lies in the project's folder, which may be moved."""
        return readable_path(path.relative_to(self.base) if path.is_relative_to(self.base) else path)

    def _given_checkpoint(self, folder: Path) -> CheckpointRef:
        """Raises ConfigError for a checkpoint that was trained on other features than this project extracts."""
        meta = read_checkpoint(folder)
        trained_on: Mapping[str, Any] = meta.provenance.get("features", {})
        if self.trains_word_vectors and "text" in trained_on:
            raise ConfigError(
                f"model.checkpoint: {folder} was trained on the word vectors {trained_on['text']['weights']}:"
                " give their file as features.text.weights"
            )
        for modality, own in self.feature_identities().items():
            known = trained_on.get(modality)
            if known is not None and digest_of(known) != digest_of(own):
                raise ConfigError(
                    f"model.checkpoint: {folder} was trained on {modality} features of {_named(known)}, and"
                    f" features.{modality} gives {_named(own)}: use the same backbones in the same order, with the same"
                    " options and weights"
                )
        for option, width in self.model_widths().items():
            if meta.config.get(option, width) != width:
                raise ConfigError(
                    f"model.checkpoint: {folder} has {option} {meta.config[option]}, and the rows of"
                    f" features.{option.removesuffix('_dim')} are {width} wide: use the features that it was made for"
                )
        return CheckpointRef(folder=folder, digest=meta.digest)

    def _want(self, modality: Modality, feature: FeatureConfig) -> Want:
        options = self._options(feature)
        spec = self._check_modality(modality, feature)
        weights = self._weights(feature)
        request = BackboneRequest(
            name=feature.backbone,
            weights=weights,
            seed=feature.seed,
            options=tuple(sorted(options.items())),
            device=self.config.run.device,
        )
        digest = imported_weights(weights) or weights_digest(feature.backbone, weights, seed=feature.seed)
        return Want(modality=modality, spec=spec, weights_digest=digest, request=request)

    def _check_modality(self, modality: Modality, feature: FeatureConfig) -> FeatureSpec:
        spec = backbone_spec(feature.backbone, **self._options(feature))
        if spec.modality is not modality:
            raise ConfigError(
                f"features.{modality}.backbone: {feature.backbone!r} reads {spec.modality}, not {modality}:"
                f" put it under features.{spec.modality}"
            )
        return spec

    def _options(self, feature: FeatureConfig) -> dict[str, int | float | str | bool]:
        """A backbone's options, with paths as seen from the configuration's folder."""
        paths = path_options(feature.backbone)
        return {
            name: str(self._absolute(value)) if name in paths and isinstance(value, str) and value else value
            for name, value in feature.options.items()
        }

    def _weights(self, feature: FeatureConfig) -> str | None:
        """A tag or the name of an import as it is, a path as seen from the configuration's folder."""
        if feature.weights is None or imported_weights(feature.weights):
            return feature.weights
        if find_source(backbone_spec(feature.backbone).weights, feature.weights):
            return feature.weights
        return str(self._absolute(feature.weights))

    def _features_root(self) -> Path | str:
        given = self.config.store.features
        if given is None:
            return self.root
        return given if is_address(given) else self._absolute(given)

    def _absolute(self, path: str) -> Path:
        return self.base / Path(path).expanduser()


def _check_folder(name: str, path: Path | str) -> None:
    if isinstance(path, Path) and path.exists() and not path.is_dir():
        raise ConfigError(f"{name}: {path} is not a folder: name a folder, which need not exist yet")


def _model_widths(specs: Sequence[FeatureSpec]) -> dict[str, int]:
    """The width of each modality's rows, all features side by side, by the model's name for it."""
    read = [spec for spec in specs if spec.modality is not Modality.AUDIO]
    return {
        f"{modality}_dim": sum(spec.dim for spec in read if spec.modality is modality)
        for modality in dict.fromkeys(spec.modality for spec in read)
    }


def _named(identity: Any) -> str:
    """The features of `Project.feature_identities`, for a person."""
    several = identity if isinstance(identity, list) else [identity]
    return " beside ".join(f"{one['spec']['name']} ({one['weights']})" for one in several)


def check_device(name: str) -> None:
    """Raises ConfigError for a device that there is not."""
    if name == "cpu":
        return
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise ConfigError(f"run.device: {name!r} is not a device: use cpu, cuda or cuda:N")
    import torch

    number = int(name.partition(":")[2] or 0)
    if number >= torch.cuda.device_count():
        raise ConfigError(f"run.device: {name} is not there ({torch.cuda.device_count()} GPUs are): use cpu")


def read_json(path: Path, *, needs: Sequence[str]) -> dict[str, Any] | None:
    """A small JSON file of ours, or None where there is none. Raises IntegrityError when it is not what was written."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not set(needs) <= found.keys():
        raise IntegrityError(f"{path} is damaged: run `frameloom repair`, and the next sync makes it again")
    return found
