"""Fusion models by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .._registry import Registry
from .._vocabulary import ConfigError, UnknownNameError
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
        if model.scores and not name.startswith("test_"):
            FusionModel.joint_models.add(name)
        return model

    return decorate


def list_models(pattern: str = "*") -> list[str]:
    """The names of the models that match a shell pattern, sorted."""
    return MODELS.names(pattern)


def model_description(name: str) -> dict[str, Any]:
    """Describe a model as plain data: name, paper, a line about it, whether it is trained, its default configuration.

    Raises:
        UnknownNameError: no such model; the nearest names are listed.
    """
    entry = MODELS[name]
    return {
        "name": name,
        "paper": entry.model.paper,
        "summary": entry.summary,
        "trains": entry.model.trains,
        "config": model_config(name).model_dump(),
    }


def model_type(name: str) -> type[FusionModel]:
    """The class of a model. Raises UnknownNameError; the nearest names are listed."""
    return MODELS[name].model


def model_config(name: str, **config: Any) -> ModelConfig:
    """The resolved configuration of a model, without building it.

    Raises:
        UnknownNameError: no such model; the nearest names are listed.
        ConfigError: an unknown key (the nearest is named) or a value that cannot be.
    """
    entry = MODELS[name]
    try:
        return entry.model.config_type(**{**entry.defaults, **config})
    except UnknownNameError:
        raise
    except ConfigError as error:
        raise ConfigError(f"the model {name}: {error}") from None


def create_model(name: str, **config: Any) -> FusionModel:
    """Build a model with fresh weights. Options and errors: see `model_config`."""
    resolved = model_config(name, **config)
    model = MODELS[name].model(resolved)
    model.name = name
    return model
