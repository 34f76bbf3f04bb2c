"""Fusion models by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from .._registry import Registry, nearest
from .._vocabulary import ConfigError
from .base import FusionModel, ModelConfig

Model = TypeVar("Model", bound=FusionModel)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A registered model: its class, the values in which it departs from its class's defaults, and a line about it."""

    model: type[FusionModel]
    defaults: Mapping[str, Any]
    summary: str


MODELS: Registry[ModelEntry] = Registry("model")


def register_model(
    name: str, *, summary: str, defaults: Mapping[str, Any] | None = None
) -> Callable[[type[Model]], type[Model]]:
    """Register a model's class under a name, with values that replace its configuration's defaults."""

    def decorate(model: type[Model]) -> type[Model]:
        MODELS.add(name, ModelEntry(model, dict(defaults or {}), summary))
        return model

    return decorate


def list_models(pattern: str = "*") -> list[str]:
    """The names of the models that match a shell pattern, sorted."""
    return MODELS.names(pattern)


def model_description(name: str) -> dict[str, Any]:
    """What a model is, as JSON-ready data: name, paper, a line about it, and its configuration when nothing is set.

    Raises:
        UnknownNameError: no such model; the nearest names are listed.
    """
    entry = MODELS[name]
    return {
        "name": name,
        "paper": entry.model.paper,
        "summary": entry.summary,
        "config": asdict(model_config(name)),
    }


def model_config(name: str, **config: Any) -> ModelConfig:
    """The resolved configuration of a model, without building it.

    Raises:
        UnknownNameError: no such model; the nearest names are listed.
        ConfigError: an unknown key (the nearest is named) or a value that cannot be.
    """
    entry = MODELS[name]
    known = [each.name for each in fields(entry.model.config_type)]
    for key in config:
        if key not in known:
            raise ConfigError(f"the model {name} has no option {key!r}: {nearest(key, known)}")
    hints = get_type_hints(entry.model.config_type)
    checked = {key: _checked(key, value, hints[key]) for key, value in config.items()}
    return entry.model.config_type(**{**entry.defaults, **checked})


def create_model(name: str, **config: Any) -> FusionModel:
    """Build a model with fresh weights. Options and errors: see `model_config`."""
    resolved = model_config(name, **config)
    model = MODELS[name].model(resolved)
    model.name = name
    return model


def _checked(key: str, value: Any, hint: Any) -> Any:
    """A value as its field's type wants it: YAML and JSON have lists for tuples, and 1 for 1.0."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{key} is {value!r}; it must be one of {', '.join(map(repr, get_args(hint)))}")
        return value
    if get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        return tuple(_checked(key, each, get_args(hint)[0]) for each in value)
    if get_origin(hint) is Mapping and isinstance(value, Mapping):
        return {str(name): _checked(f"{key}.{name}", each, get_args(hint)[1]) for name, each in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = get_origin(hint) or hint
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{key} is {value!r}; it must be of type {wanted.__name__}")
    return value
