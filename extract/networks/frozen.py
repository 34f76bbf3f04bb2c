"""A frozen network: its weights by their authors' key names, its device and its precision; and what has no network."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, Status
from ..weights import digest_of_weights, load_into, read_state_dict, weights_file

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)


class OfficialWeights:
    """A backbone that takes its authors' published weights.

    Members say how their network comes to be (`random_network`) and, where the authors' key names differ from the
    network's, how they are turned into them (`official_names`).

    Attributes:
        spec: what it computes.
        weights_digest: which weights it computes it with.
        network: the torch module.
    """

    ignored_keys: tuple[str, ...] = ()
    """Beginnings of official key names that the network has no use for, such as a classifier's."""

    spec: FeatureSpec
    weights_digest: str
    network: Any  # a torch.nn.Module, of which members read what they made themselves

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Self:
        """Take the authors' weights, by their key names.

        Args:
            state_dict: the authors' tensors, by their key names.
            config: the authors' constructor arguments, as models take them. Not read: a backbone's shape follows from
                its options, and every shape is checked.

        Raises:
            InputError: keys, shapes or values do not fit. The backbone is left as it was.
        """
        del config
        self.load_official(state_dict)
        self.weights_digest = digest_of_weights(state_dict)
        return self

    def load_official(self, state_dict: Mapping[str, Any]) -> Self:
        """`from_official` for the tensors of a file, whose digest the backbone has already."""
        named = self.official_names(state_dict)
        network = self.fitted(named)
        load_into(network, named, ignored_prefixes=self.ignored_keys)
        self.network = network
        self.after_load()
        return self

    def official_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """The authors' key names turned into the network's. By default they are the same."""
        return state_dict

    def fitted(self, weights: Mapping[str, Any]) -> Any:
        """The network for weights by its own key names: a new one where their sizes differ from its options'."""
        del weights
        return self.network

    def after_load(self) -> None:
        """Make the network ready to compute."""


class FrozenNetwork(OfficialWeights):
    """A network on a device, in the precision that its specification names, without gradients.

    Raises:
        ConfigError: the device cannot compute in that precision.
    """

    def __init__(self, spec: FeatureSpec, network: torch.nn.Module, *, device: str, weights_digest: str) -> None:
        import torch

        self.spec = spec
        self.weights_digest = weights_digest
        self.network = network
        self._device = torch.device(device)
        if spec.precision == "float16" and self._device.type == "cpu":
            raise ConfigError(f"the backbone {spec.name!r} in float16 needs a GPU: use precision bfloat16 or float32")
        has_bfloat16 = self._device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2"
        if spec.precision == "bfloat16" and not has_bfloat16:
            _log.warning(
                "%s: this processor has no instructions for bfloat16: float32 is several times as fast", spec.name
            )
        self.after_load()

    @classmethod
    def build(cls, spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str) -> Self:
        """The backbone of a specification, with the weights of a file, or random ones that the seed alone decides."""
        if weights is not None:
            cls.check_weights(spec, weights)
        network = seeded_network(lambda: cls.random_network(spec), seed=seed)
        backbone = cls(spec, network, device=device, weights_digest=weights_digest)
        return backbone if weights is None else backbone.load_official(read_state_dict(weights_file(weights)))

    @classmethod
    def random_network(cls, spec: FeatureSpec) -> Any:
        """The network of a specification, with new random weights."""
        raise NotImplementedError

    @classmethod
    def check_weights(cls, spec: FeatureSpec, weights: Path) -> None:
        """Raise InputError where a file or a folder says that it holds another network."""

    def after_load(self) -> None:
        self.network = self.network.to(self._device).eval().requires_grad_(False)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients, in the specification's precision."""
        import torch

        precision = getattr(torch, self.spec.precision)
        mixed = torch.autocast(self._device.type, dtype=precision, enabled=precision is not torch.float32)
        with torch.inference_mode(), mixed:
            yield

    def stored(self, rows: torch.Tensor) -> NDArray[Any]:
        """Rows in the type that they are stored in. Values beyond its range become infinite."""
        with np.errstate(over="ignore"):
            values: NDArray[Any] = rows.cpu().numpy().astype(self.spec.dtype)
        return values


class Transform:
    """A backbone without weights: a fixed transform, computed where its input is."""

    def __init__(self, spec: FeatureSpec, *, weights_digest: str) -> None:
        self.spec = spec
        self.weights_digest = weights_digest

    @classmethod
    def build(cls, spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str) -> Self:
        """The backbone of a specification, which alone decides its numbers."""
        del weights, seed, device
        return cls(spec, weights_digest=weights_digest)


def checked_rows(
    spec: FeatureSpec, values: NDArray[Any] | Sequence[NDArray[Any]], times: NDArray[np.float64]
) -> FeatureArray:
    """Rows as a feature, or its refusal where a value is not finite.

    Args:
        spec: what the rows are.
        values: (W, D), or (W, P, D) where each window gives P rows: they follow one another at the window's time. Where
            P differs from window to window, a sequence of (P, D).
        times: (W, 2), or (W, P, 2) where every row has its own. Rows of an empty time are of repeated frames,
            and are left out.
    """
    if times.ndim == 3:
        times = times.reshape(-1, 2)
        is_kept = times[:, 0] < times[:, 1]
        values, times = np.asarray(values).reshape(len(times), -1)[is_kept], times[is_kept]
    if not isinstance(values, np.ndarray):
        times = np.repeat(times, [len(rows) for rows in values], axis=0)
        values = np.concatenate(values)
    elif values.ndim == 3:
        times = np.repeat(times, values.shape[1], axis=0)
        values = values.reshape(-1, values.shape[2])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return FeatureArray.empty(spec, Status.NON_FINITE, f"the network gave values that {spec.dtype} cannot hold")
    return FeatureArray(values, times)


def seeded_network(build: Any, *, seed: int) -> Any:
    """``build()`` with random weights that the seed alone decides; torch's own generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
