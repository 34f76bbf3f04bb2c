"""The features that a project requests, with their identities, and their resolved form, which a run works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..._vocabulary import ConfigError, FeatureSpec, Modality
from .imported import imported_weights

if TYPE_CHECKING:
    from ...train import CheckpointMeta


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneRequest:
    """Everything that builds one backbone, hashable, so that a worker builds it once."""

    name: str
    weights: str | None
    seed: int
    options: tuple[tuple[str, Any], ...]
    device: str

    def build(self) -> Any:
        """The backbone, from this process's cache."""
        return _backbone(self)


@lru_cache(maxsize=8)
def _backbone(request: BackboneRequest) -> Any:
    from ...extract import create_backbone

    if imported_weights(request.weights) is not None:
        raise ConfigError(
            f"{request.name} with weights: {request.weights} takes features from `frameloom import` and cannot make"
            " any: import those that lack (--absent records the videos that have none), or name weights that are here"
        )
    return create_backbone(
        request.name, weights=request.weights, seed=request.seed, device=request.device, **dict(request.options)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRequest:
    """One feature that the configuration asks for, with what identifies its numbers."""

    modality: Modality
    spec: FeatureSpec
    weights_digest: str
    request: BackboneRequest
    purpose: Literal["model", "shots", "speech"] = "model"
    """What it is for: a model reads it, it says where shots end, or what is said."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_read(self) -> bool:
        """Whether a model reads it."""
        return self.purpose == "model"

    @property
    def is_imported(self) -> bool:
        """Whether another program makes it, so that it cannot be extracted here."""
        return imported_weights(self.request.weights) is not None

    def identity(self) -> dict[str, Any]:
        """The settings that decide this feature's numbers, the same for every file."""
        return {"spec": self.spec.identity(), "weights": self.weights_digest}


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The features of a project.

    Attributes:
        media: those that are read from files: video, then audio.
        text: the one that reads captions and questions; None without one, and before its word vectors are trained.
        extra_text: names of the further modalities that `text` reads.
        word_vectors: the file that the project trained for `text`, if it does.
    """

    media: tuple[FeatureRequest, ...]
    text: FeatureRequest | None = None
    extra_text: tuple[str, ...] = ()
    word_vectors: Path | None = None

    def streams(self) -> dict[Modality, tuple[FeatureRequest, ...]]:
        """The features that the model reads, by modality; those of one modality are joined, in this order."""
        found: dict[Modality, tuple[FeatureRequest, ...]] = {}
        for request in (*self.media, *([] if self.text is None else [self.text])):
            found[request.modality] = (*found.get(request.modality, ()), request)
        return found

    def named(self) -> dict[str, FeatureRequest]:
        """Every feature by the name that users know it by: ``video``, or one of several: ``video-resnet152``."""
        return {
            str(modality) if len(requests) == 1 else f"{modality}-{request.name}": request
            for modality, requests in self.streams().items()
            for request in requests
        }

    def random_note(self) -> str:
        """A sentence where networks have seeded random weights, which nobody wants but for a trial; else empty."""
        requests = (*self.media, *([] if self.text is None else [self.text]))
        names = ", ".join(one.name for one in requests if one.weights_digest.startswith("seeded:"))
        return f"features are random, for trying out: {names} (see `frameloom weights`)" if names else ""

    def identities(self) -> dict[str, Any]:
        """The identity of each modality's rows: that of its feature, or a list of several."""
        found = {str(name): [request.identity() for request in requests] for name, requests in self.streams().items()}
        if self.text is not None:
            found |= {name: [self.text.identity()] for name in self.extra_text}
        return {name: several[0] if len(several) == 1 else several for name, several in found.items()}

    def specs(self) -> list[FeatureSpec]:
        """The specification of every feature."""
        return [request.spec for request in self.named().values()]

    def widths(self) -> dict[str, Any]:
        """The model's settings that its features decide: how wide its video rows (all streams joined) and words are."""
        return model_widths(self.specs(), self.extra_text)


def model_widths(specs: list[FeatureSpec], extra_text: tuple[str, ...]) -> dict[str, Any]:
    """The width of each modality's rows, all features side by side, by the model's name for it."""
    widths: dict[str, Any] = {}
    for spec in specs:
        if spec.modality is not Modality.AUDIO:
            widths[f"{spec.modality}_dim"] = widths.get(f"{spec.modality}_dim", 0) + spec.dim
    if extra_text:
        widths["extra_dims"] = dict.fromkeys(extra_text, widths.get("text_dim"))
    return widths


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRef:
    """A finished checkpoint: its folder, its identity, and its training data."""

    folder: Path
    digest: str
    examples_digest: str | None = None
    num_examples: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The resolved project of one run, read from the disk once. A run that changes one of these makes another.

    Attributes:
        features: what is extracted, and what reads words.
        limits: how much of a clip the model reads.
        model_key: what identifies the training that the configuration asks for, apart from the clips trained on.
        model_folder: where checkpoints of this model, these features and this recipe are kept.
        checkpoint: what embeds: the configured one, or the one that was trained here; None before training.
        given: what a configured checkpoint says of itself.
    """

    features: Features
    limits: Mapping[str, int]
    model_key: str
    model_folder: Path
    checkpoint: CheckpointRef | None
    given: CheckpointMeta | None = None
