"""Gradient checkpointing: memory for time, with the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..._vocabulary import ConfigError
from ...fuse import FusionModel
from ...fuse.layers import FusionBlock, ResidualBlock, SpaceTimeBlock, ViTBlock

BLOCKS = (FusionBlock, ResidualBlock, SpaceTimeBlock, ViTBlock)


@contextmanager
def recomputed(model: FusionModel) -> Iterator[None]:
    """Let every block of the model forget what it computed until backward, for the length of a block of code.

    Raises ConfigError when the model has no such blocks.
    """
    blocks = [module for module in model.modules() if isinstance(module, BLOCKS)]
    if not blocks:
        raise ConfigError(f"{model.name} has no blocks to compute again: set gradient_checkpointing to false")
    for block in blocks:
        # Contexts of a block's first computation and of its second.
        surround = partial(lambda block: (nullcontext(), _statistics_kept(block)), block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=surround)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch normalisation normalises as before, and counts the batch no second time."""
    with ExitStack() as stack:
        for module in block.modules():
            if isinstance(module, _BatchNorm):
                for name, value in (("momentum", 0.0), ("num_batches_tracked", None)):
                    stack.callback(setattr, module, name, getattr(module, name))
                    setattr(module, name, value)
        yield
