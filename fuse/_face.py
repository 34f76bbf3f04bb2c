"""The face that every fusion model shows: any subset of modalities in, unit vectors and a training loss out.

Legend: B batch, N tokens (rows of one modality), D width of a row, E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from .._vocabulary import ConfigError, InputError

MODALITIES = ("text", "video", "audio")
"""The modalities, in the order in which their tokens are joined."""


class Tokens(NamedTuple):
    """One modality of a batch, padded to a common length.

    Attributes:
        values: (B, N, D). Text: word vectors. Video: feature rows. Audio: log-mel frames, time before mel bands.
        mask: (B, N), nonzero where a row is real. A sample whose mask is all zero does not have this modality.
    """

    values: Float[Tensor, "B N D"]
    mask: Shaped[Tensor, "B N"]


class Embeddings(NamedTuple):
    """What a model makes of a batch.

    Attributes:
        vectors: (B, E) under "text", "video", "text+video", ...: every combination whose modalities were given.
        nonempty: (B,) bool under each modality given: whether the sample really has it.
    """

    vectors: dict[str, Tensor]
    nonempty: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The base of every model's configuration: frozen, and made of JSON-ready values."""


class FusionModel(nn.Module):
    """The base of the five models.

    Attributes:
        name: the registered name.
        config: the configuration that the model was built with.
        dim: width E of an embedding.
        modalities: the modalities that it takes.
    """

    config_type: ClassVar[type[ModelConfig]] = ModelConfig
    name: str
    config: ModelConfig
    dim: int
    modalities: tuple[str, ...] = MODALITIES
    paper: ClassVar[str] = ""
    """Where the model was published."""

    def encode(
        self, *, text: Tokens | None = None, video: Tokens | None = None, audio: Tokens | None = None
    ) -> Float[Tensor, "B E"]:
        """Embed one combination of modalities as unit vectors. Raises InputError when none is given."""
        raise NotImplementedError

    def embeddings(self, batch: Mapping[str, Tokens | None]) -> Embeddings:
        """Embed every combination that the training objective compares."""
        raise NotImplementedError

    def loss(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """The training objective, and each of its terms by name (detached)."""
        raise NotImplementedError

    def forward(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss`, so that wrappers for parallel training see it."""
        return self.loss(batch)

    def from_official(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> FusionModel:
        """Take the authors' published weights. See each model for the names of `config`."""
        raise NotImplementedError


def given_modalities(
    batch: Mapping[str, Tokens | None], *, dims: Mapping[str, int], allowed: Sequence[str] = MODALITIES
) -> dict[str, Tokens]:
    """The modalities that a batch really holds, in the order of `MODALITIES`, with their shapes checked.

    A modality that is None or has no rows at all (N = 0) is left out.

    Raises:
        InputError: an unknown modality, a wrong width, masks that do not fit, or nothing left.
    """
    for name in batch:
        if name not in allowed:
            raise InputError(f"the batch has a modality {name!r}; this model takes {', '.join(allowed)}")
    given = {name: tokens for name in MODALITIES if (tokens := batch.get(name)) is not None and tokens.values.shape[1]}
    if not given:
        raise InputError(f"the batch holds no modality; give at least one of {', '.join(allowed)}")
    for name, tokens in given.items():
        _check_tokens(name, tokens, dim=dims[name])
    sizes = {name: len(tokens.values) for name, tokens in given.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"the modalities of a batch must have the same number of samples; got {sizes}")
    return given


def _check_tokens(name: str, tokens: Tokens, *, dim: int) -> None:
    shape = tuple(tokens.values.shape)
    if len(shape) != 3 or shape[2] != dim:
        raise InputError(f"{name} has shape {shape}; this model takes (batch, rows, {dim})")
    if tuple(tokens.mask.shape) != shape[:2]:
        raise InputError(f"the mask of {name} has shape {tuple(tokens.mask.shape)}; its values need {shape[:2]}")


def load_weights(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load a state dict whose keys are exactly the model's own, but for the prefix of data parallelism.

    Raises:
        InputError: keys missing or unexpected, shapes wrong, numbers not finite; the first five of each are listed.
            The model is left as it was.
    """
    weights = {key.removeprefix("module."): value for key, value in state_dict.items()}
    own = model.state_dict()
    problems = [
        *_listed("missing", own.keys() - weights.keys()),
        *_listed("unexpected", weights.keys() - own.keys()),
        *_listed("wrong shape", _misshapen(own, weights)),
        *_listed("not finite", (key for key in own.keys() & weights.keys() if not weights[key].isfinite().all())),
    ]
    if problems:
        raise InputError(f"these weights do not fit the model's configuration: {'; '.join(problems)}")
    model.load_state_dict(weights)


def _misshapen(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Iterable[str]:
    for key in own.keys() & given.keys():
        if own[key].shape != given[key].shape:
            yield f"{key} {tuple(given[key].shape)} for {tuple(own[key].shape)}"


def _listed(what: str, keys: Iterable[str]) -> list[str]:
    first = sorted(keys)
    more = f" and {len(first) - 5} more" if len(first) > 5 else ""
    return [f"{what}: {', '.join(first[:5])}{more}"] if first else []


def renamed_config(official: Mapping[str, Any], names: Mapping[str, str], *, where: str) -> dict[str, Any]:
    """Translate an official configuration's names into ours. Raises ConfigError for a name that has no meaning here."""
    unknown = sorted(official.keys() - names.keys())
    if unknown:
        raise ConfigError(f"{where} has no key {', '.join(map(repr, unknown))}; known: {', '.join(sorted(names))}")
    return {names[key]: value for key, value in official.items()}
