"""The numbers behind the plots: loss curves, and attention between modalities.

Legend: H heads, N tokens of one clip, D width, M modalities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, InputError
from ...train import read_checkpoint
from ...train.data import stored_clips
from ..project import Project, in_split
from ..search import trained
from ..sync import ClipState, loaded_model, take_state

CLASS_TOKEN = "cls"  # noqa: S105 - a name of a token


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """A training's loss.

    Attributes:
        folder: of the training.
        steps: (step from 1, loss) of every step; empty for a checkpoint that kept only the means of its epochs.
        terms: the loss of every step by term.
        epochs: mean loss of every epoch that is done.
        steps_per_epoch: steps of one epoch.
    """

    folder: Path
    steps: tuple[tuple[int, float], ...]
    terms: Mapping[str, tuple[tuple[int, float], ...]]
    epochs: tuple[float, ...]
    steps_per_epoch: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "steps": [list(point) for point in self.steps],
            "terms": {name: [list(point) for point in points] for name, points in self.terms.items()},
            "epoch_means": list(self.epochs),
            "steps_per_epoch": self.steps_per_epoch,
        }


def training_losses(folder: Path) -> Losses:
    """The loss curve of a checkpoint's folder, or of the training that is under way there.

    Raises:
        ConfigError: there is no training, or none that kept its losses.
    """
    from ...train import read_losses

    try:
        read = read_losses(folder)
    except ConfigError:
        return epoch_losses(folder)
    if not read:
        return epoch_losses(folder)
    by_epoch: dict[int, list[float]] = {}
    terms: dict[str, list[tuple[int, float]]] = {}
    for one in read:
        by_epoch.setdefault(one.epoch, []).append(one.loss)
        for name, value in one.terms.items():
            terms.setdefault(name, []).append((one.step, value))
    longest = max(map(len, by_epoch.values()))
    return Losses(
        folder=folder,
        steps=tuple((one.step, one.loss) for one in read),
        terms={name: tuple(points) for name, points in terms.items()},
        epochs=tuple(float(np.mean(losses)) for losses in by_epoch.values() if len(losses) == longest),
        steps_per_epoch=longest,
    )


def epoch_losses(folder: Path) -> Losses:
    """The mean loss of each epoch, which a finished checkpoint keeps.

    Raises:
        ConfigError: no checkpoint, or one that was not trained here.
    """
    run = read_checkpoint(folder).provenance.get("training") or {}
    epochs = tuple(run.get("epoch_losses", ()))
    if not epochs:
        raise ConfigError(f"the checkpoint in {folder} was not trained here: it keeps no losses")
    return Losses(folder=folder, steps=(), terms={}, epochs=epochs, steps_per_epoch=run["step"] / len(epochs))


# --- attention -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityAttention:
    """How much the tokens of each modality attend to those of each (figure 3 of Everything at Once).

    Attributes:
        modalities: in the order of rows and columns.
        weights: (H, M, M), head, modality of the query, modality of the key: what a query gives to all keys of a
            modality together, averaged over its queries and then over clips. Rows sum to 1.
        tokens: mean number of tokens of each modality in a clip. Attention that told no tokens apart would be in
            proportion to them.
        num_clips: how many clips were averaged.
        block: of the transformer, from 1.
    """

    modalities: tuple[str, ...]
    weights: Float[np.ndarray, "H M M"]
    tokens: tuple[float, ...]
    num_clips: int
    block: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "modalities": list(self.modalities),
            "heads": self.weights.tolist(),
            "mean": self.weights.mean(axis=0).tolist(),
            "tokens": list(self.tokens),
            "clips": self.num_clips,
            "block": self.block,
        }


def project_attention(project: Project, *, num_clips: int, split: str | None, block: int = 1) -> ModalityAttention:
    """Attention in the project's model over the first clips (by hash of their names) that have all modalities.

    Raises:
        FrameloomError: no model yet.
        InputError: a model without fused attention, no such block, or no clip that has all its modalities.
    """
    from ...train.data import ClipDataset, collate

    if split not in (None, "train", "val", "test"):
        raise InputError(f"split {split!r}: allowed are train, val, test")
    checkpoint = trained(project)
    model = loaded_model(str(checkpoint.folder), checkpoint.digest, project.config.run.device)
    check_fuses(model, block)

    def has_all(clip: ClipState) -> bool:
        return all(clip.inputs.has(name) for name in model.modalities)

    state = take_state(project)
    having = [clip for clip in state.clips if (split is None or in_split(clip.clip.split, split)) and has_all(clip)]
    if not having:
        where = "" if split is None else f" of the split {split!r}"
        raise InputError(f"no clip{where} has all of {', '.join(model.modalities)}: attention needs at least one")
    chosen = sorted(having, key=lambda clip: clip.clip.clip_id)[:num_clips]
    examples = stored_clips(project.store, [clip.inputs for clip in chosen])
    dataset = ClipDataset(examples, **state.resolved.limits, training=False)
    # A batch of one clip each, so that no token is padding.
    batches = (collate([dataset[index]]) for index in range(len(dataset)))
    return mean_attention(model, batches, block=block)


def check_fuses(model: Any, block: int) -> None:
    """Raises InputError for a model whose modalities do not attend to each other, or that has no such block."""
    fusion = getattr(model, "fusion", None)
    if fusion is None or getattr(model.config, "transformer", "shared") != "shared" or not len(fusion.blocks):
        raise InputError(
            f"the model {model.name} has no transformer that fuses modalities: there is no attention to plot"
        )
    if not 1 <= block <= len(fusion.blocks):
        raise InputError(f"block {block}: this model has blocks 1 to {len(fusion.blocks)}")


def mean_attention(model: Any, batches: Iterator[Mapping[str, Any]], *, block: int = 1) -> ModalityAttention:
    """Attention between modalities, averaged over batches of one clip each."""
    found, counts, names = [], [], list[str]()
    for batch in batches:
        groups = clip_tokens(model, batch)
        names = list(groups)
        sizes = [len(rows) for rows in groups.values()]
        weights = attention_weights(model.fusion, list(groups.values()), block=block)
        found.append(_between(weights, sizes))
        counts.append(sizes)
    return ModalityAttention(
        modalities=tuple(names),
        weights=np.mean(found, axis=0),
        tokens=tuple(np.mean(counts, axis=0).tolist()),
        num_clips=len(found),
        block=block,
    )


def clip_tokens(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens (N, D) that enter the transformer for a batch of one clip, by modality, the class token first."""
    import torch

    device = next(model.parameters()).device
    moved = {name: type(each)(*(part.to(device) for part in each)) for name, each in batch.items()}
    with torch.inference_mode():
        made, _ = model.tokens(moved)
    groups = {
        name: each.values.reshape(-1, each.values.shape[-1])[: int(each.mask.sum())] for name, each in made.items()
    }
    cls = model.fusion.cls_token
    return groups if cls is None else {CLASS_TOKEN: cls[0], **groups}


def attention_weights(fusion: Any, groups: Sequence[Any], *, block: int) -> NDArray[np.float64]:
    """softmax(q k^T / sqrt(D / H)) of one block, (H, N, N), for the tokens of one clip.

    The model's own attention never makes this matrix; it is computed here from the same weights, in float64.
    """
    import torch

    with torch.inference_mode():
        x_ND = torch.cat(list(groups)).double()
        for earlier in list(fusion.blocks)[: block - 1]:
            x_ND = _through(earlier, x_ND)
        q, k, _v = _queries_keys_values(fusion.blocks[block - 1], x_ND)
        weights: NDArray[np.float64] = _softmax(q, k).cpu().numpy()
    return weights


def _queries_keys_values(block: Any, x_ND: Any) -> tuple[Any, Any, Any]:
    """(H, N, D / H) each."""
    normed = _normed(block.norm1, x_ND)
    q, k, v = _linear(block.attn.qkv, normed).unflatten(-1, (3, block.attn.heads, -1)).permute(1, 2, 0, 3)
    return q, k, v


def _softmax(q: Any, k: Any) -> Any:
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)


def _through(block: Any, x_ND: Any) -> Any:
    """What a block makes of its tokens: x + attention(LN x), then x + MLP(LN x)."""
    from torch.nn import functional

    q, k, v = _queries_keys_values(block, x_ND)
    attended = (_softmax(q, k) @ v).transpose(0, 1).flatten(1)
    x_ND = x_ND + _linear(block.attn.proj, attended)
    hidden = functional.gelu(_linear(block.mlp.fc1, _normed(block.norm2, x_ND)))
    return x_ND + _linear(block.mlp.fc2, hidden)


def _linear(layer: Any, x: Any) -> Any:
    y = x @ layer.weight.double().T
    return y if layer.bias is None else y + layer.bias.double()


def _normed(layer: Any, x: Any) -> Any:
    from torch.nn import functional

    return functional.layer_norm(x, layer.normalized_shape, layer.weight.double(), layer.bias.double(), layer.eps)


def _between(weights: NDArray[np.float64], sizes: Sequence[int]) -> NDArray[np.float64]:
    """(H, N, N) to (H, M, M): summed over the keys of a modality, averaged over the queries of one."""
    starts = np.cumsum([0, *sizes[:-1]])
    by_key = np.add.reduceat(weights, starts, axis=2)
    by_both: NDArray[np.float64] = np.add.reduceat(by_key, starts, axis=1) / np.asarray(sizes)[None, :, None]
    return by_both
