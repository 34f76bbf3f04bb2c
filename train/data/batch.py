"""Several clips in one padded array for each feature, and where that array lies.

Legend: B clips, T rows of the longest of them, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from ...fuse import Tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureBatch:
    """Clips that were read at once.

    Attributes:
        index: of the clips in their data set, (B,).
        values: by feature, (B, T, D) as stored, zeros after a clip's last row. T is 0 where all clips lack the feature.
        num_rows: by feature, the rows of each clip, (B,); 0 where it lacks the feature.
    """

    index: NDArray[np.int64]
    values: dict[str, NDArray[Any]]
    num_rows: dict[str, NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.index)

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Which rows (B, T) of a feature are real."""
        mask: NDArray[np.bool_] = np.arange(self.values[name].shape[1]) < self.num_rows[name][:, None]
        return mask

    def tokens(self) -> dict[str, Tokens]:
        """What a model takes: values and mask of each feature that any clip has, of the type that they are stored in.

        Nothing is copied: change them, and `values` change.
        """
        import torch

        from ...fuse import Tokens

        return {
            name: Tokens(_tensor_of(values), torch.from_numpy(self.mask(name)))
            for name, values in self.values.items()
            if values.shape[1]
        }


def shared_array(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """An array with any content, in memory that other processes are given without a copy by way of `tokens`."""
    import torch

    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if not num_bytes:
        return np.empty(shape, dtype)
    # As torch's own `default_collate` does it in a worker; there is no public name for it.
    storage = torch.UntypedStorage._new_shared(num_bytes)  # type: ignore[no-untyped-call]
    array: NDArray[Any] = torch.empty(0, dtype=torch.uint8).set_(storage).numpy().view(dtype).reshape(shape)
    return array


def _tensor_of(values: NDArray[Any]) -> Tensor:
    """A tensor of the same memory, and of the tensor that the memory belongs to, where it is a `shared_array`."""
    import torch

    tensor, owner = torch.from_numpy(values), cast(Any, values.base)
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, torch.Tensor) and owner.data_ptr() == tensor.data_ptr() and owner.nbytes == tensor.nbytes:
        tensor = owner.view(tensor.dtype).view(tensor.shape)
    return tensor
