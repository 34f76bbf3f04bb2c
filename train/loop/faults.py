"""Bad data in a batch, traced to the sample that holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..._vocabulary import InputError
from ...fuse import FusionModel
from ..data import Positioned, TrainingData, collate

_MOST_NAMED = 5


@contextmanager
def attribute_to_sample(dataset: TrainingData, loader: Positioned, *, model: FusionModel) -> Iterator[None]:
    """Raise an InputError of the block again with the names of the samples at fault, and their numbers in the data.

    A batch says at which position something is wrong at best, and when it cannot even be put together, not so much. So
    each sample is read and computed alone, which costs nothing until something is wrong. The model takes no step.
    """
    try:
        yield
    except InputError as problem:
        faults = [(index, fault) for index in loader.clips if (fault := _fault_of(dataset, index, model=model))]
        if not faults:
            raise
        key = getattr(dataset, "key", None)
        named = [f"sample {index} ({key(index)})" if key else f"sample {index}" for index, _ in faults[:_MOST_NAMED]]
        more = f" and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
        raise InputError(f"{', '.join(named)}{more}: {faults[0][1]}. No step was taken with this batch") from problem


def _fault_of(dataset: TrainingData, index: int, *, model: FusionModel) -> str:
    training = model.training
    device = next(model.parameters()).device
    try:
        batch = getattr(dataset, "collate", collate)([dataset[index]])
        with torch.no_grad():
            read = [name for name in batch if name in (*model.modalities, *model.extra_inputs)]
            moved = {name: type(batch[name])(*(part.to(device) for part in batch[name])) for name in read}
            # What a task asks besides is checked by its loss alone.
            (model.eval().loss if moved.keys() - {*model.modalities} else model.eval().embeddings)(moved)
    except InputError as problem:
        return str(problem)
    finally:
        model.train(training)
    return ""
