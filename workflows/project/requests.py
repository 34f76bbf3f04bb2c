"""What a project asks of its backbones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .imported import refuse_imported


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

    refuse_imported(request.weights, request.name)
    return create_backbone(
        request.name, weights=request.weights, seed=request.seed, device=request.device, **dict(request.options)
    )
