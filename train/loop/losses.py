"""The loss curve of a training: a line of JSON for every step, exact to the bit.

While training lasts it grows in ``progress/losses.jsonl``; the checkpoint keeps it as ``losses-<first digits of its
SHA-256>.jsonl``, named, with its whole hash, in ``model.json``. A saved state says how many bytes of it are its own:
what a killed training had written after that is cut off, so that a resumed curve is the bytes of an uninterrupted one.

Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..._files import fail_point, publish, write_errors
from ..._vocabulary import ConfigError, IntegrityError
from .checkpoints import META_NAME, read_checkpoint

GROWING = Path("progress") / "losses.jsonl"
RUN = "training"
"""Under which name a checkpoint's provenance keeps the training that it came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoss:
    """One step of a training.

    Attributes:
        step: from 1, over all epochs.
        epoch: from 1.
        loss: of the whole batch, over all processes.
        terms: of the loss, by name.
        learning_rate: of this step.
    """

    step: int
    epoch: int
    loss: float
    terms: Mapping[str, float]
    learning_rate: float


def read_losses(folder: Path) -> tuple[StepLoss, ...]:
    """The loss curve of the checkpoint in a folder, or of the training that is under way there.

    Raises:
        ConfigError: there is neither, or a checkpoint that keeps no curve.
        IntegrityError: the curve is damaged.
    """
    if (folder / GROWING).is_file():
        # A step that is being written has no end of its line yet.
        return _parsed((folder / GROWING).read_bytes().rpartition(b"\n")[0], where=folder / GROWING)
    if not (folder / META_NAME).is_file():
        raise ConfigError(
            f"no training in {folder}: it has neither a checkpoint nor a saved state. Name another folder"
        )
    run = read_checkpoint(folder).provenance.get(RUN) or {}
    if "losses_sha256" not in run:
        raise ConfigError(f"the checkpoint in {folder} keeps no loss curve. Train it anew to have one")
    path = folder / final_name(run["losses_sha256"])
    if not path.is_file():
        raise IntegrityError(f"{path} is missing. Restore it, or train again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != run["losses_sha256"]:
        raise IntegrityError(f"{path} is damaged: its SHA-256 is not the one recorded. Restore it, or train again")
    return _parsed(data, where=folder)


def _parsed(data: bytes, *, where: Path) -> tuple[StepLoss, ...]:
    try:
        return tuple(StepLoss(**json.loads(line)) for line in data.splitlines())
    except (ValueError, TypeError) as problem:
        raise IntegrityError(f"the loss curve in {where} is damaged ({problem}). Train again to have one") from problem


def final_name(sha256: str) -> str:
    """The name under which a checkpoint keeps its curve."""
    return f"losses-{sha256[:16]}.jsonl"


class LossCurve:
    """The curve of a training under way, kept open.

    Args:
        folder: of the training.
        num_bytes: of the curve that belong to the saved state; what follows is cut off.
        sha256: of those bytes.

    Raises:
        IntegrityError: the bytes of the saved state are not there.
        OutOfSpaceError, ConfigError: the file cannot be written.
    """

    def __init__(self, folder: Path, *, num_bytes: int = 0, sha256: str = "") -> None:
        self.path = folder / GROWING
        with write_errors(self.path, num_bytes=0):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)
            self._file.seek(0)
            kept = self._file.read(num_bytes) or b""
        self._hash = hashlib.sha256(kept)
        if num_bytes and self._hash.hexdigest() != sha256:
            self.close()
            raise IntegrityError(f"{self.path} is damaged: begin anew with resume=False")
        self._file.truncate(num_bytes)
        self.num_bytes = num_bytes

    def add(self, step: StepLoss) -> None:
        """Write a step, so that others see it, and a kill of this process does not lose it."""
        line = (json.dumps(asdict(step)) + "\n").encode()
        with write_errors(self.path, num_bytes=len(line)):
            fail_point("losses.step")
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
        self._hash.update(line)
        self.num_bytes += len(line)

    def sync(self) -> str:
        """Make what was written durable. Returns its SHA-256."""
        with write_errors(self.path, num_bytes=self.num_bytes):
            os.fsync(self._file.fileno())
        return self._hash.hexdigest()

    def publish(self) -> None:
        """Publish the whole curve next to the checkpoint that will name it."""
        publish(self.path.parent.parent / final_name(self._hash.hexdigest()), self.path.read_bytes(), kind="checkpoint")

    def close(self) -> None:
        """Close the file. It stays where it is."""
        self._file.close()
