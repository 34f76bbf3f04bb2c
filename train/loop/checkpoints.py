"""Trained models on disk: safetensors and JSON, never pickle.

A checkpoint is a folder with ``model.json`` (what the model is, how it was made, the SHA-256 of its weights) and
the weights that this file names, ``model-<first digits of their SHA-256>.safetensors``. The weights are written first;
the rename of ``model.json`` is the commit, so that a kill at any instant leaves the checkpoint that was there before.

Nothing here imports torch until weights are read or written: `checkpoint_digest` and `read_checkpoint` are fast.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..._files import is_temporary, make_folder, publish
from ..._settings import Settings
from ..._vocabulary import ConfigError, InputError, IntegrityError, canonical_json, digest_of
from ...store import code_version

if TYPE_CHECKING:
    from torch import Tensor

    from ...fuse import FusionModel

FORMAT = 1
META_NAME = "model.json"


class CheckpointMeta(Settings):
    """The content of ``model.json``."""

    model: str
    """The model's registered name."""
    config: dict[str, Any]
    """Its resolved configuration."""
    weights_sha256: str
    """Hash of the weights' file."""
    weights_file: str
    """Its name."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """The recipe that trained it, empty when none did."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """Whatever the caller wants kept: features, collection, metrics."""
    code_version: str = ""
    """frameloom's version."""
    format: int = FORMAT
    """Version of this layout."""

    @property
    def digest(self) -> str:
        """The model's identity, 32 hexadecimal digits: the hash of its name, configuration and weights."""
        return digest_of([self.model, self.config, self.weights_sha256])


def save_checkpoint(
    model: FusionModel,
    folder: str | Path,
    *,
    recipe: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> CheckpointMeta:
    """Write a model to a folder, in place of the one that was there.

    Raises:
        IntegrityError: the model has weights that are not finite; nothing is written.
        OutOfSpaceError: the disk is full; the checkpoint that was there is intact.
    """
    folder = Path(folder)
    make_folder(folder)
    weights = weights_bytes(model)
    sha256 = hashlib.sha256(weights).hexdigest()
    meta = CheckpointMeta(
        model=model.name,
        config=plain(model.config.model_dump()),
        weights_sha256=sha256,
        weights_file=f"model-{sha256[:16]}.safetensors",
        recipe=plain(dict(recipe or {})),
        provenance=plain(dict(provenance or {})),
        code_version=code_version(),
    )
    publish(folder / meta.weights_file, weights, kind="checkpoint")
    document = json.dumps(meta.model_dump(), indent=1, sort_keys=True) + "\n"
    publish(folder / META_NAME, document.encode(), kind="checkpoint")
    sweep(folder, "model-*.safetensors", keep=meta.weights_file)
    return meta


def sweep(folder: Path, pattern: str, *, keep: str) -> None:
    """Remove what an earlier save left: everything that matches ``pattern`` but ``keep``, and temporary files."""
    for path in [*folder.glob(pattern), *(one for one in folder.iterdir() if is_temporary(one.name))]:
        if path.name == keep:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def read_checkpoint(folder: str | Path) -> CheckpointMeta:
    """A checkpoint's description; its weights are not read.

    Raises:
        ConfigError: there is no checkpoint.
        IntegrityError: there is one, and it cannot be read.
    """
    path = Path(folder) / META_NAME
    if Path(folder).is_file():
        raise ConfigError(
            f"{folder} is a file, and not the folder of a checkpoint: make one of a published model's file with"
            f" `frameloom import-model {folder} FOLDER --model NAME`, and name FOLDER"
        )
    if not path.is_file():
        raise ConfigError(f"no trained model in {folder}: it has no {META_NAME}. Train one, or name another folder")
    try:
        document = json.loads(path.read_text())
        version = document.get("format", FORMAT)
        meta = CheckpointMeta(**document) if version == FORMAT else None  # fields of another format are no damage
    except (ValueError, TypeError, AttributeError, ConfigError) as problem:
        raise IntegrityError(f"{path} is damaged ({problem}). Restore it, or train again") from problem
    if meta is None:
        writer = document.get("code_version") or "in that version"
        raise ConfigError(
            f"{path} has format {version}, and this frameloom reads format {FORMAT}. Install frameloom {writer}"
            ", which wrote it, or a newer one"
        )
    if Path(meta.weights_file).name != meta.weights_file:
        raise IntegrityError(f"{path} names weights outside its folder: {meta.weights_file!r}")
    return meta


def checkpoint_digest(folder: str | Path) -> str:
    """The trained model's identity, 32 hexadecimal digits: part of every embedding's fingerprint.

    Errors: see `read_checkpoint`.
    """
    return read_checkpoint(folder).digest


def load_checkpoint(
    folder: str | Path, *, device: str = "cpu", expected_digest: str | None = None
) -> tuple[FusionModel, CheckpointMeta]:
    """The model of a checkpoint, in evaluation mode, and what the checkpoint says about itself.

    Args:
        folder: of the checkpoint.
        device: where the model is put.
        expected_digest: the checkpoint that the caller means, where it knows.

    Raises:
        ConfigError: there is no checkpoint, or it is of a model that this frameloom does not have.
        IntegrityError: the weights are not those that were written, are not finite, or are of another checkpoint than
            the one expected.
    """
    from ...fuse import create_model

    meta = read_checkpoint(folder)
    if expected_digest not in (None, meta.digest):
        raise IntegrityError(
            f"{folder} holds checkpoint {meta.digest}, and {expected_digest} was expected: one of the two is damaged."
            " Run `frameloom repair`, then `frameloom sync`"
        )
    folder = Path(folder)
    weights = read_weights(folder / meta.weights_file, sha256=meta.weights_sha256)
    model = create_model(meta.model, **meta.config)
    load_weights(model, weights, where=folder)
    return model.to(device).eval(), meta


def weights_bytes(model: FusionModel) -> bytes:
    """A model's weights as the bytes of a safetensors file. Raises IntegrityError when they are not finite."""
    from safetensors.torch import save

    # Cloned: safetensors refuses tensors that share memory, as those of a module under two names do.
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    bad = [name for name, value in state.items() if not value.isfinite().all()]
    if bad:
        raise IntegrityError(f"the model's weights are not finite: {', '.join(sorted(bad)[:5])}. Nothing was saved")
    data: bytes = save(state)
    return data


def load_weights(model: FusionModel, weights: Mapping[str, Tensor], *, where: Path) -> None:
    """Put weights into a model. Raises IntegrityError when they are not all that the model needs, or not finite."""
    from ...fuse import load_weights as load_exactly

    try:
        load_exactly(model, weights)
    except InputError as problem:
        raise IntegrityError(f"the checkpoint in {where} does not fit its own configuration: {problem}") from problem


def read_weights(path: Path, *, sha256: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, after its hash was checked. Raises IntegrityError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not path.is_file():
        raise IntegrityError(f"{path} is missing. Restore it, or train again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IntegrityError(f"{path} is damaged: its SHA-256 is not the one recorded. Restore it, or train again")
    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as problem:
        raise IntegrityError(f"{path} is not a safetensors file ({problem})") from problem
    return tensors


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """The same data as JSON gives it back, so that what is compared later compares equal. Raises ConfigError."""
    try:
        document: dict[str, Any] = json.loads(canonical_json(value))
    except (TypeError, ValueError) as problem:
        raise ConfigError(f"a checkpoint keeps values for JSON only: {problem}") from problem
    return document
