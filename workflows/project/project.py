"""A project: a configuration and what it names. Every stage gets one of these, and what `resolve` read of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..._files import check_disk, publish_text
from ..._vocabulary import Clip, ConfigError, FeatureSpec, IntegrityError, Modality, canonical_json, digest_of
from ..._weights import check_device
from ...extract import backbone_spec, follows_weights, learned_words, path_options, weights_digest
from ...extract.speech import is_transcript
from ...extract.weights import find_source
from ...store import ClipTable, FeatureStore, Ledger, check_metadata_schema, feature_fingerprint, writer_lock
from ...train import get_recipe, read_checkpoint
from .collection import Collection, Video, clips_of, discover, readable_path
from .config import DETECTORS, SPEECH, Config, FeatureConfig, StoreConfig, load_config
from .imported import imported_weights
from .kept import kept_words, read_json, table_of, tables_in, words_pointer
from .manifest import is_address
from .pixels import check_pixels, pixel_sizes, start_identity
from .questions import Questions, read_questions
from .requests import BackboneRequest, CheckpointRef, FeatureRequest, Features, Resolved, model_widths
from .units import cuts_of, shots_of, windows_of

CONFIG_NAME = "frameloom.yaml"
CHECKPOINT_POINTER = "current.json"


class Project:
    """A configuration and everything that it names. Opening one reads, and writes nothing.

    What a training changes (word vectors, the checkpoint) is not kept here: `resolve` reads it, once for each run.
    """

    def __init__(self, config: Config, base: Path, *, read_only: bool = False) -> None:
        self.config = config
        self.read_only = read_only
        self.base = base
        self.root = self._absolute(config.store.path)
        _check_folder("store.path", self.root)
        check_device(config.run.device, where="run.device")
        self.recipe = get_recipe(config.training.recipe, **config.training.overrides)
        given = config.store.features
        self.store = FeatureStore(self.root if given is None else given if is_address(given) else self._absolute(given))
        _check_folder("store.features", self.store.root)
        self.media = tuple(self._request(modality, feature) for modality, feature in config.features.media())
        shots = config.collection.shots
        self.shots: FeatureRequest | None = None
        if shots is not None:
            feature = FeatureConfig(backbone=shots.detector, weights=DETECTORS[shots.detector][0])
            self.shots = replace(self._request(Modality.VIDEO, feature), purpose="shots")
            if self.shots.name in [one.name for one in self.media]:
                raise ConfigError(
                    f"features.video: {self.shots.name} finds shots: give a backbone whose rows a model reads"
                )
        speech = config.features.speech
        self.speech = (
            None if speech is None else replace(self._request(Modality.AUDIO, speech, key=SPEECH), purpose="speech")
        )
        if self.speech is not None and not is_transcript(self.speech.spec):
            raise ConfigError(f"features.speech.backbone: {self.speech.name} gives no words: use whisper")
        for one in self.media:
            if is_transcript(one.spec):
                raise ConfigError(
                    f"features.audio.backbone: rows of {one.name} are words: put it under features.speech"
                )
        text = config.features.text
        self._text_spec = None if text is None else self._spec(Modality.TEXT, text)  # refused before any work

    @classmethod
    def open(cls, path: str | Path, *, read_only: bool = False) -> Project:
        """Read a configuration file. Raises ConfigError or UnknownNameError."""
        path = Path(path) / CONFIG_NAME if Path(path).is_dir() else Path(path)
        base = Path(os.path.abspath(path)).parent  # noqa: PTH100 - as the paths of videos: without "..", and no link followed
        return cls(load_config(path), base, read_only=read_only)

    @cached_property
    def collection(self) -> Collection:
        """The videos of the collection as they were on disk when this was first asked for. Raises ConfigError."""
        section = self.config.collection
        found = discover(section.videos, captions=section.captions, base=self.base)
        check_metadata_schema(found.metadata_types)
        if self.speech is not None and SPEECH in (name.casefold() for name in found.metadata_types):
            raise ConfigError(f"features.speech needs the column {SPEECH!r}, and the manifest has one: rename that")
        for name, column in self.config.features.extra_text.items():
            if column not in found.metadata_types:
                known = ", ".join(found.metadata_types) or "none"
                raise ConfigError(
                    f"features.extra_text.{name}: the collection has no column {column!r} with anything in it;"
                    f" its further columns are: {known}"
                )
        return found

    @cached_property
    def questions(self) -> Questions:
        """Those of `collection.questions`; none without. Raises ConfigError for a file that cannot be read."""
        given = self.config.collection.questions
        return read_questions(self._absolute(given), self.collection.videos) if given else Questions()

    def texts(self, *, split: str | None = None) -> list[str]:
        """Every text that the text feature reads, each once: captions, columns of `features.extra_text`, questions."""
        texts = self.collection.texts(self.config.features.extra_text.values(), split=split)
        return list(dict.fromkeys([*texts, *self.questions.texts(split)]))

    @property
    def extracted(self) -> tuple[FeatureRequest, ...]:
        """What is extracted of a file: what the model reads, what finds shots, and what transcribes."""
        return (*self.media, *(one for one in (self.shots, self.speech) if one is not None))

    @property
    def column_types(self) -> dict[str, str]:
        """The table's columns besides ours: those of the manifest, and what is said where that is asked for."""
        return {**self.collection.metadata_types, **({} if self.speech is None else {SPEECH: "string"})}

    def clips_of(self, video: Video, digest: str, duration_seconds: float) -> list[Clip]:
        """Cut a video, whose content has this digest, into clips; none while its shots are not extracted.

        A video without pictures that can be read is one shot.
        """
        section = self.config.collection
        units = windows_of(duration_seconds, length=section.clip_seconds, stride=section.stride_seconds)
        if section.shots is not None and self.shots is not None and not video.has_spans:
            name = feature_fingerprint(digest, self.shots.spec, self.shots.weights_digest)
            if self.store.entry(name) is None:
                return []
            cuts = cuts_of(self.store.read(name), threshold=section.shots.cut_value)
            shortest, longest = section.shots.shortest_seconds, section.shots.longest_seconds
            units = shots_of(duration_seconds, cuts, shortest=shortest, longest=longest)
        return clips_of(video, duration_seconds, units=units)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, which a project that only reads leaves as it is."""
        return Ledger(self.root, read_only=self.read_only)

    @contextmanager
    def locked(self, *locks: Callable[[Path], AbstractContextManager[None]]) -> Iterator[None]:
        """Hold locks, such as `reader_lock`, on the store, and on features elsewhere, which others may use as well."""
        features = self.store.place.folder
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock(self.root))
                if features.resolve() != self.root.resolve():
                    stack.enter_context(lock(features))
            if writer_lock in locks:
                check_disk(self.root)
            yield

    @cached_property
    def table(self) -> ClipTable:
        """The rows of the project's model; those of other models are in tables of their own, see `kept`."""
        return self._table(table_of(self.root, self.config.store.table, self.model_name))

    def other_tables(self) -> list[ClipTable]:
        """The tables of other models of this store."""
        return [self._table(name) for name in sorted(tables_in(self.root)) if name != self.table.name]

    @staticmethod
    def ledger_key(table: ClipTable) -> str:
        """What the ledger knows a table by: its folder alone where it has the usual name, as older ledgers do."""
        return table.uri if table.name == StoreConfig().table else f"{table.uri}#{table.name}"

    def _table(self, name: str) -> ClipTable:
        return ClipTable(str(self.root / "vectors"), name)

    @property
    def model_name(self) -> str:
        """The fusion model: the configuration's, or the recipe's."""
        return self.config.model.name or self.recipe.model

    @property
    def model_options(self) -> dict[str, Any]:
        """The model's settings: the recipe's, where it is the recipe's model, and over them the configuration's."""
        own = dict(self.recipe.model_options) if self.model_name == self.recipe.model else {}
        return {**own, **self.config.model.config}

    def _model_identity(self) -> dict[str, Any]:
        """What identifies the model's settings: lines that only write out what holds without them are left out."""
        from ...fuse import model_config

        def shortest(model: str, own: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
            options = {**own, **written}
            for name in written:
                rest = {other: value for other, value in options.items() if other != name}
                rest |= {name: own[name]} if name in own else {}
                try:
                    widths = self.widths(self.specs)
                    with_line, without = (model_config(model, **{**widths, **one}) for one in (options, rest))
                except ConfigError:  # it cannot do without the line, or `check_model` refuses it
                    continue
                options = rest if with_line == without else options
            return options

        given = self.config.training.overrides.get("model_options") or {}
        own = get_recipe(self.config.training.recipe).model_options if given else self.recipe.model_options
        own = shortest(self.recipe.model, own, given)
        recipe = {**self.recipe.identity(), "model_options": own}
        own = own if self.model_name == self.recipe.model else {}
        config = shortest(self.model_name, own, self.config.model.config)
        return {"config": config, "recipe": recipe, **start_identity(self.config, self.base, self.model_name)}

    @property
    def trains(self) -> bool:
        """Whether the model learns anything. Raises UnknownNameError."""
        from ...fuse import model_type

        return model_type(self.model_name).trains

    @property
    def trains_word_vectors(self) -> bool:
        """Whether the text feature reads word vectors, or word pieces, that this project learns from its captions."""
        feature = self.config.features.text
        return feature is not None and feature.weights is None and learned_words(feature.backbone) is not None

    def kept_path(self, path: Path) -> str:
        """A path as the table keeps it: relative where the file lies in the project's folder, which may be moved."""
        return readable_path(path.relative_to(self.base) if path.is_relative_to(self.base) else path)

    def resolve(self, *, word_vectors: Path | None = None) -> Resolved:
        """Read what a run works with: features, limits, checkpoint.

        Args:
            word_vectors: read words with these, in place of those that the project trained last.

        Raises:
            ConfigError: a configured checkpoint that was trained on other features.
            IntegrityError: a pointer of ours, or the word vectors, are damaged.
        """
        features = self.features(word_vectors=word_vectors)
        limits = self.recipe.limits()
        given = self.config.model.checkpoint
        meta = None if given is None else read_checkpoint(self._absolute(given))
        if meta is not None:
            known = meta.provenance.get("limits", {})
            limits = {**limits, **known} if known.keys() <= limits.keys() else dict(known)
        own = {name: getattr(self.config.model, name, None) for name in limits}
        limits |= {name: value for name, value in own.items() if value is not None}
        key = digest_of(
            {
                "model": self.model_name,
                "limits": limits,
                **self._model_identity(),
                "features": features.identities(),
            }
        )
        folder = self.root / "models" / f"{self.model_name}-{key[:12]}"
        if given is None or meta is None:
            checkpoint = _current_checkpoint(folder)
        else:
            self._check_given(self._absolute(given), meta, features)
            checkpoint = CheckpointRef(folder=self._absolute(given), digest=meta.digest)
        return Resolved(
            features=features, limits=limits, model_key=key, model_folder=folder, checkpoint=checkpoint, given=meta
        )

    def features(self, *, word_vectors: Path | None = None) -> Features:
        """The features of the project; see `resolve`. Raises IntegrityError for word vectors that are damaged."""
        features = Features(media=self.media, extra_text=tuple(self.config.features.extra_text))
        feature = self.config.features.text
        if feature is None:
            return features
        if not self.trains_word_vectors:
            return replace(features, text=self._request(Modality.TEXT, feature))
        learned = learned_words(feature.backbone, **feature.options)
        pointer = {} if learned is None else kept_words(self.root, learned.file_name)
        if word_vectors is None and pointer:
            word_vectors = self.root / "models" / pointer["file"]
        if word_vectors is None or not word_vectors.is_file():
            return features
        text = self._request(Modality.TEXT, feature.model_copy(update={"weights": str(word_vectors)}))
        known = pointer.get("sha256", text.weights_digest)
        if pointer.get("file") == word_vectors.name and text.weights_digest != known:
            raise IntegrityError(
                f"the word vectors {word_vectors} are damaged: run `frameloom repair`, then `frameloom sync`"
            )
        return replace(features, text=text, word_vectors=word_vectors)

    def keep_word_vectors(self, features: Features) -> None:
        """Make the word vectors of these features those that the project reads words with from now on."""
        path, text = features.word_vectors, features.text
        if path is not None and text is not None:
            pointer = canonical_json({"file": path.name, "sha256": text.weights_digest})
            publish_text(self.root / "models" / words_pointer(path.name), pointer)

    def check_model(self, resolved: Resolved) -> None:
        """Raises UnknownNameError or ConfigError for a model, or settings of it, that cannot be built or fed.

        Of a configured checkpoint, whose features `resolve` compares, only the combinations are checked.
        """
        from ...fuse import model_config, model_description, model_type

        if resolved.given is not None:
            meta = resolved.given
            self._check_combinations(meta.model, model_config(meta.model, **meta.config).all_modalities())
            return
        widths = self.widths(specs := self.specs)
        for option, width in widths.items():
            if self.model_options.get(option, width) != width:
                found = " and ".join(f"{one.name} ({one.dim})" for one in specs if f"{one.modality}_dim" == option)
                if not found:
                    raise ConfigError(
                        f"model.config.{option}: {self.model_options[option]!r}, and features, recipe and limits ask"
                        f" for {width}: leave the key out, and the model is made for them"
                    )
                raise ConfigError(
                    f"model.config.{option}: {self.model_options[option]!r}, and the rows of {found} are {width} wide:"
                    " leave the key out, and the model is made for its features"
                )
        if model_type(self.recipe.model).trains != self.trains:
            raise ConfigError(
                f"training.recipe: {self.recipe.name} is for the model {self.recipe.model}, and not for"
                f" {self.model_name}: give the recipe of that name, or leave model.name out"
            )
        takes_pixels = model_type(self.model_name).takes_pixels
        check_pixels(self.config, self.recipe, self.model_name, specs, takes_pixels=takes_pixels)
        if not self.trains:
            self._check_towers()
        if "extra_dims" not in model_description(self.model_name)["config"]:
            widths.pop("extra_dims", None)  # refused below, by the key of the configuration
        taken = model_config(self.model_name, **{**widths, **self.model_options}).all_modalities()
        for name, key in self._feature_keys().items():
            if name not in taken:
                raise ConfigError(
                    f"{key}: the model {self.model_name} takes {', '.join(taken)}: leave the key out (what is extracted"
                    " stays in the store), or choose another model as model.name"
                )
        self._check_combinations(self.model_name, taken)

    @property
    def specs(self) -> list[FeatureSpec]:
        return [one.spec for one in self.media] + ([] if self._text_spec is None else [self._text_spec])

    def widths(self, specs: Sequence[FeatureSpec]) -> dict[str, Any]:
        """The model's settings that its features decide: how wide the rows of each modality are. UnknownNameError."""
        from ...fuse import model_description, model_type

        if model_type(self.model_name).takes_pixels:
            known = model_description(self.model_name)["config"]
            sizes = pixel_sizes(self.config.model, self.recipe, self.model_options, specs)
            return {name: size for name, size in sizes.items() if name in known}
        widths = model_widths(list(specs), tuple(self.config.features.extra_text))
        sound = [spec.dim for spec in specs if spec.modality is Modality.AUDIO]
        takes_any = "audio_dim" in model_description(self.model_name)["config"]
        return widths | ({"audio_dim": sound[0]} if sound and takes_any else {})

    def _check_towers(self) -> None:
        """Raises ConfigError where a model that is not trained lacks a tower, or has one that it cannot compare."""
        from ...extract import class_names
        from ...fuse import ImagenetLabels, model_type

        is_conse = issubclass(model_type(self.model_name), ImagenetLabels)
        has = self._feature_keys().keys()
        lacking = {"video", "text"} - has if is_conse else {"text"} - has
        if lacking:
            others = "pictures" if is_conse else "pictures or sound"
            raise ConfigError(
                f"features.{min(lacking)}: the model {self.model_name} compares words with {others}: give a backbone"
                " for each"
            )
        useless = sorted(self.config.training.overrides.keys() - self.recipe.limits().keys())
        if useless:
            raise ConfigError(
                f"training.overrides.{useless[0]}: the model {self.model_name} is not trained: leave it out"
            )
        if len(self.config.features.video) > 1:
            raise ConfigError(f"features.video: the model {self.model_name} takes one backbone, not several")
        text = self.config.features.text
        if text is None or self.trains_word_vectors:
            raise ConfigError("features.text: nothing is trained for this model: give vectors as features.text.weights")
        if is_conse:
            class_names(self.media[0].spec)
            return
        words = self._request(Modality.TEXT, text)
        for media in self.media:
            digests = [media.weights_digest, words.weights_digest]
            is_seeded = any(one.startswith("seeded:") for one in digests)
            if len(set(digests)) > 1 and (is_seeded or follows_weights(media.name) or follows_weights(words.name)):
                raise ConfigError(
                    f"features.text: its weights are {digests[1]}, and those of features.{media.modality} {digests[0]}:"
                    " rows of different models cannot be compared; take both from the same weights"
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

    def _check_given(self, folder: Path, meta: Any, features: Features) -> None:
        """Raises ConfigError for a checkpoint that was trained on other features than this project extracts."""
        trained_on: Mapping[str, Any] = meta.provenance.get("features", {})
        if self.trains_word_vectors and "text" in trained_on:
            raise ConfigError(
                f"model.checkpoint: {folder} was trained on the word vectors {trained_on['text']['weights']}:"
                " give their file as features.text.weights"
            )
        for modality, own in features.identities().items():
            known = trained_on.get(modality)
            if known is not None and digest_of(known) != digest_of(own):
                raise ConfigError(
                    f"model.checkpoint: {folder} was trained on {modality} features of {_names(known)}, and"
                    f" features.{modality} gives {_names(own)}: use the same backbones in the same order, with the same"
                    " options and weights"
                )
        for option, width in features.widths().items():
            if meta.config.get(option, width) != width:
                raise ConfigError(
                    f"model.checkpoint: {folder} has {option} {meta.config[option]}, and the rows of"
                    f" features.{option.removesuffix('_dim')} are {width} wide: use the features that it was made for"
                )

    # --- the configuration's keys -------------------------------------------------------------------------------------

    def _request(self, modality: Modality, feature: FeatureConfig, *, key: str = "") -> FeatureRequest:
        spec = self._spec(modality, feature, key=key)
        weights = self._weights(feature)
        request = BackboneRequest(
            name=feature.backbone,
            weights=weights,
            seed=feature.seed,
            options=tuple(sorted(self._options(feature).items())),
            device=self.config.run.device,
        )
        digest = imported_weights(weights) or weights_digest(feature.backbone, weights, seed=feature.seed)
        return FeatureRequest(modality=modality, spec=spec, weights_digest=digest, request=request)

    def _spec(self, modality: Modality, feature: FeatureConfig, *, key: str = "") -> FeatureSpec:
        weights = self._weights(feature)
        if follows_weights(feature.backbone) and (weights is None or imported_weights(weights)):
            raise ConfigError(
                f"features.{modality}.weights: {feature.backbone} needs a model: give a folder as transformers saves"
                " it, or hf://OWNER/NAME@REVISION"
            )
        spec = backbone_spec(feature.backbone, weights=weights, **self._options(feature))
        if spec.modality is not modality:
            raise ConfigError(
                f"features.{key or modality}.backbone: {feature.backbone!r} reads {spec.modality}, not {modality}:"
                f" put it under features.{spec.modality}"
            )
        return spec

    def _weights(self, feature: FeatureConfig) -> str | None:
        """A tag, a model of the Hub or the name of an import as it is, a path as seen from the project's folder."""
        weights = feature.weights
        if (
            weights is None
            or imported_weights(weights)
            or find_source(backbone_spec(feature.backbone).weights, weights)
        ):
            return weights
        return str(self._absolute(weights))

    def _options(self, feature: FeatureConfig) -> dict[str, int | float | str | bool]:
        """A backbone's options, with paths as seen from the configuration's folder."""
        paths = path_options(feature.backbone)
        return {
            name: str(self._absolute(value)) if name in paths and isinstance(value, str) and value else value
            for name, value in feature.options.items()
        }

    def _absolute(self, path: str) -> Path:
        return self.base / Path(path).expanduser()


def _current_checkpoint(folder: Path) -> CheckpointRef | None:
    """The checkpoint that the pointer in a model's folder names, if it is there."""
    names = [key.name for key in fields(CheckpointRef)]
    pointer = read_json(folder / CHECKPOINT_POINTER, needs=names)
    if pointer is None or not (folder / pointer["folder"] / "model.json").is_file():
        return None
    return CheckpointRef(**{name: pointer[name] for name in names} | {"folder": folder / pointer["folder"]})


def _names(identity: Any) -> str:
    several = identity if isinstance(identity, list) else [identity]
    return " and ".join(f"{one['spec']['name']} ({one['weights']})" for one in several)


def _check_folder(name: str, path: Path | str) -> None:
    if isinstance(path, Path) and path.exists() and not path.is_dir():
        raise ConfigError(f"{name}: {path} is not a folder: name a folder, which need not exist yet")
