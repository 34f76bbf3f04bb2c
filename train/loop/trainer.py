"""The training loop, on accelerate: devices, precision and several processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from ..._files import make_folder
from ..._vocabulary import ConfigError, InputError, IntegrityError, digest_of
from ..._weights import check_device
from ...fuse import FusionModel, Tokens
from ...fuse.objectives import whole_batch
from ..data import EpochOrder, FeatureLoader, Positioned, ShardBatchSampler, Together, TrainingData
from ..recipes import Recipe
from .checkpoints import META_NAME, load_weights, plain, read_checkpoint, read_weights, save_checkpoint, sweep
from .distributed import equal_shapes, synchronised_batch_norm
from .faults import attribute_to_sample
from .losses import RUN, LossCurve, StepLoss, final_name
from .progress import FOLDER_NAME, Position, check_identity, forget_progress, load_progress, save_progress
from .recompute import recomputed
from .result import DivergedError, FitResult, TrainProgress
from .schedule import epoch_order, learning_rate, num_epochs


@dataclass(eq=False)
class Trainer:
    """One training, from its beginning or its last saved state to a checkpoint. See `fit`."""

    model: FusionModel
    dataset: TrainingData
    recipe: Recipe
    folder: Path
    device: str
    provenance: Mapping[str, Any]
    on_progress: Callable[[TrainProgress], None] | None
    validate: Callable[[FusionModel], Mapping[str, float]] | None
    num_workers: int

    def __post_init__(self) -> None:
        self.provenance = plain(dict(self.provenance))

    def run(self, *, resume: bool) -> FitResult:
        """Train, or take up what the folder holds."""
        if not len(self.dataset):
            raise ConfigError("there are no clips to train on: training needs clips that have captions, video or audio")
        check_device(self.device)
        if self.device == "cpu" and self.recipe.precision == "fp16":
            raise ConfigError(f"recipe {self.recipe.name}: precision fp16 needs a GPU; on a CPU set it to no or bf16")
        with _accelerator(self.recipe, device=self.device) as self.accelerator:
            self.loader = self._loader()
            self.steps_per_epoch = len(self.loader)
            self.epochs = num_epochs(self.recipe, steps_per_epoch=self.steps_per_epoch)
            facts = {
                "recipe": {name: one for name, one in self.recipe.identity().items() if name not in _NO_NUMBERS},
                "model": [self.model.name, digest_of(plain(vars(self.model.config)))],
                "number of clips": len(self.dataset),
                "provenance": self.provenance,
                "number of processes": self._num_processes,
            }
            self.identity = plain(facts)
            if resume and (finished := self._finished()):
                return finished
            with torch.random.fork_rng():
                torch.manual_seed(self.recipe.seed)
                return self._train(resume=resume)

    # --- what the folder holds ---------------------------------------------------------------------------------------

    @property
    def _num_processes(self) -> int:
        return int(self.accelerator.num_processes)

    def _finished(self) -> FitResult | None:
        """The result of a training that ended here before, its weights put into the model.

        None where another one has begun since, which overwrites it at its end.
        """
        if not (self.folder / META_NAME).exists() or (self.folder / FOLDER_NAME).exists():
            return None
        meta = read_checkpoint(self.folder)
        run = meta.provenance.get(RUN)
        if run is None:
            raise ConfigError(f"{self.folder} holds a model that was not trained here. Use another folder")
        check_identity(run["identity"], self.identity, folder=self.folder)
        weights = read_weights(self.folder / meta.weights_file, sha256=meta.weights_sha256)
        load_weights(self.model, weights, where=self.folder)
        return self._result(Position(**run), digest=meta.digest, resumed_at=run["step"])

    def _result(self, position: Position, *, digest: str, resumed_at: int) -> FitResult:
        done = position.step - resumed_at
        return FitResult(
            folder=self.folder,
            digest=digest,
            steps=position.step,
            loss=position.epoch_losses[-1],
            epoch_losses=tuple(position.epoch_losses),
            metrics=position.metrics,
            resumed_at=resumed_at,
            samples_per_second=done * self._batch_size / (time.monotonic() - self.began) if done else 0.0,
        )

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _train(self, *, resume: bool) -> FitResult:
        make_folder(self.folder)
        self.model.to(self.accelerator.device)
        kind = torch.optim.Adam if self.recipe.optimizer == "adam" else torch.optim.AdamW
        # Always the fused one, on a CPU too: another would round in another way, and resume to other bits.
        rate, betas = self.recipe.learning_rate, cast(tuple[float, float], self.recipe.betas)
        self.optimizer = kind(self._groups(), lr=rate, betas=betas, fused=True)
        position, saved = Position(identity=self.identity), None
        if resume:
            saved = load_progress(self.folder, self.identity, model=self.model, optimizer=self.optimizer)
        elif self.accelerator.is_main_process:
            forget_progress(self.folder)
        if saved:
            position, groups = saved
            self.loader.regroup(groups, self._order)
        self.parallel, prepared = self.accelerator.prepare(self.model, self.optimizer)
        self.prepared = cast(Optimizer, prepared)
        if position.scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(position.scaler)
        if position.loader:
            self.loader.load_state_dict(position.loader)
        resumed_at, self.began = position.step, time.monotonic()
        with ExitStack() as stack:
            if self._num_processes > 1 and self.recipe.sync_batch_norm:
                stack.enter_context(synchronised_batch_norm(self.model))
            if self.recipe.gradient_checkpointing:
                stack.enter_context(recomputed(self.model))
            self.curve: LossCurve | None = None
            if self.accelerator.is_main_process:
                self.curve = LossCurve(self.folder, num_bytes=position.losses_bytes, sha256=position.losses_sha256)
                stack.callback(self.curve.close)
            while self.loader.epoch < self.epochs:
                self._train_epoch(position, resumed_at=resumed_at)
            return self._end(position, resumed_at=resumed_at)

    def _train_epoch(self, position: Position, *, resumed_at: int) -> None:
        self.parallel.train(not self.recipe.freeze_batch_norm)
        epoch, batches = self.loader.epoch, iter(self.loader)
        self.dataset.set_epoch(epoch)
        had_terms = self.loader.batch > 0  # the part of an epoch before a kill had some
        while self.loader.batch < self.steps_per_epoch:
            rate = learning_rate(self.recipe, step=position.step, steps_per_epoch=self.steps_per_epoch)
            with attribute_to_sample(self.dataset, self.loader, model=self.model):
                loss, terms = self._step(next(batches), rate=rate, step=position.step)
            position.step += 1
            position.loss_sum += loss
            had_terms |= bool(terms) or loss != 0.0
            step = StepLoss(step=position.step, epoch=epoch + 1, loss=loss, terms=terms, learning_rate=rate)
            if self.curve is not None:
                self.curve.add(step)
            self._report(position, step, resumed_at=resumed_at)
            every = self.recipe.checkpoint_steps
            if every and position.step % every == 0 and self.loader.batch < self.steps_per_epoch:
                self._save(position)
        if not had_terms:
            raise InputError(
                f"no term of the objective of {self.model.name} applies to any of these clips, so it learns nothing:"
                " give what they lack, such as captions, or weights to the terms that apply, such as model.config:"
                " {lambda_va: 1} for clips without captions"
            )
        self.model.epoch_ended()
        self.loader.set_epoch(epoch + 1)
        position.epoch_losses.append(position.loss_sum / self.steps_per_epoch)
        position.loss_sum = 0.0
        if self.validate is not None:
            position.metrics = {name: float(value) for name, value in self.validate(self.model.eval()).items()}
            if bad := [f"{name} {value}" for name, value in position.metrics.items() if not math.isfinite(value)]:
                what = f"validate gave {', '.join(bad)} after epoch {epoch + 1}: metrics are finite numbers"
                raise InputError(f"{what}. Correct it and train again, from the last saved state in {self.folder}")
        self._save(position)

    def _step(
        self, given: Mapping[str, Tokens] | tuple[Mapping[str, Tokens], ...], *, rate: float, step: int
    ) -> tuple[float, dict[str, float]]:
        """One step on a batch, or on a batch of each kind of clip, whose losses are added."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        if not isinstance(given, tuple):
            loss, terms = self._loss(given)
        else:
            found = [self._loss(batch) for batch in given]
            loss = cast(Tensor, sum(each for each, _ in found))
            terms = {f"{name} ({kind})": one for kind, (_, some) in enumerate(found) for name, one in some.items()}
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._diverged(f"the loss of step {step + 1} is {value}")
        self.accelerator.backward(loss)
        if self.recipe.clip_gradient:
            self.accelerator.clip_grad_norm_(self.parallel.parameters(), self.recipe.clip_gradient)
        self.prepared.step()
        self.prepared.zero_grad()
        return value, {name: float(term) for name, term in terms.items()}

    def _loss(self, batch: Mapping[str, Tokens]) -> tuple[Tensor, Mapping[str, Tensor]]:
        # Data may have more than a model reads: the sound of a text-video model's clips.
        device, names = self.accelerator.device, (*self.model.modalities, *self.model.extra_inputs)
        batch = {
            name: Tokens(*(part.to(device, non_blocking=True) for part in each))
            for name, each in batch.items()
            if name in names
        }
        with self.accelerator.autocast(), whole_batch() if self._num_processes > 1 else nullcontext():
            if self._num_processes > 1:
                batch = equal_shapes(batch, modalities=names)
            return cast(tuple[Tensor, Mapping[str, Tensor]], self.parallel(batch))

    def _groups(self) -> list[dict[str, Any]]:
        """Weights by how they decay, and those of heads apart where these have a rate of their own."""
        decay, scale, heads = self.recipe.weight_decay, self.recipe.head_rate, self.model.head_names
        named = [(name, one) for name, one in self.model.named_parameters() if one.requires_grad]
        kinds: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, one in named:
            key = (decay if self.recipe.decay_all or one.dim() > 1 else 0.0, scale if name.startswith(heads) else 1.0)
            kinds.setdefault(key, []).append(one)
        # Matrices, then vectors, as saved states number them.
        ordered = sorted(kinds.items(), key=lambda kind: (kind[0][1] != 1.0, -kind[0][0]))
        return [
            {"params": each, "weight_decay": weight} | ({} if rate == 1.0 else {"scale": rate})
            for (weight, rate), each in ordered
        ]

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"training of {self.model.name} diverged: {what}. The last good state is kept in {self.folder}. "
            f"Lower the recipe's learning_rate (it is {self.recipe.learning_rate:g}) or set clip_gradient, and train "
            "anew with resume=False or in another folder"
        )

    def _report(self, position: Position, step: StepLoss, *, resumed_at: int) -> None:
        if self.on_progress is None or not self.accelerator.is_main_process:
            return
        steps = self.epochs * self.steps_per_epoch
        pace = (time.monotonic() - self.began) / (position.step - resumed_at)
        self.on_progress(
            TrainProgress(
                **asdict(step),
                epochs=self.epochs,
                steps=steps,
                seconds_left=pace * (steps - step.step),
                samples_per_second=self._batch_size / pace,
                metrics=position.metrics,
            )
        )

    def _save(self, position: Position) -> None:
        position.loader = self.loader.state_dict()
        if self.accelerator.scaler is not None:
            position.scaler = self.accelerator.scaler.state_dict()
        if self.curve is not None:
            position.losses_bytes, position.losses_sha256 = self.curve.num_bytes, self.curve.sync()
            try:
                groups = self.loader.groups
                save_progress(self.folder, position, model=self.model, optimizer=self.optimizer, groups=groups)
            except IntegrityError as problem:
                raise self._diverged(str(problem)) from problem
        self.accelerator.wait_for_everyone()

    def _end(self, position: Position, *, resumed_at: int) -> FitResult:
        """Leave the checkpoint first, then remove the saved states."""
        if self.curve is not None:
            run = plain(vars(position))
            self.curve.publish()
            save_checkpoint(
                self.model,
                self.folder,
                recipe=self.recipe.model_dump(),
                provenance={**self.provenance, RUN: run},
            )
            sweep(self.folder, "losses-*.jsonl", keep=final_name(position.losses_sha256))
            forget_progress(self.folder)
        self.accelerator.wait_for_everyone()
        self.model.eval()
        return self._result(position, digest=read_checkpoint(self.folder).digest, resumed_at=resumed_at)

    def _loader(self) -> Positioned:
        """Each process reads an equal share of every batch. An incomplete last batch is dropped, unless it is alone."""
        self._batch_size = 0
        loaders = [self._loader_of(part) for part in getattr(self.dataset, "parts", [self.dataset])]
        return loaders[0] if len(loaders) == 1 else Together(loaders)

    def _loader_of(self, dataset: TrainingData) -> Positioned:
        known = getattr(dataset, "shard_groups", None)
        groups = known() if known else np.zeros(len(dataset), np.int64)
        what = f"cannot be shared evenly by {self._num_processes} processes"
        if self.recipe.batch_size % self._num_processes:
            raise ConfigError(f"batch_size {self.recipe.batch_size} {what}: set it to a multiple of their number")
        size = min(self.recipe.batch_size, len(groups)) // self._num_processes
        if not size:
            raise ConfigError(f"{len(groups)} clips {what}: give as many, or start fewer processes")
        self._batch_size += size * self._num_processes
        share = (self.accelerator.process_index, self._num_processes)
        order = replace(self._order(groups), lanes=getattr(dataset, "lanes", 1))
        sampler = ShardBatchSampler(order, batch_size=size, drop_last=True, share=share)
        own = getattr(dataset, "loader", None)
        make = own if own is not None else partial(FeatureLoader, dataset)
        return cast(Positioned, make(sampler, num_workers=self.num_workers))

    def _order(self, groups: NDArray[Any]) -> EpochOrder:
        return epoch_order(groups, batch_size=self.recipe.batch_size, seed=self.recipe.seed)


_NO_NUMBERS = {"name", "checkpoint_steps", "gradient_checkpointing"}
"""Fields of a recipe that change no number of the training."""


@contextmanager
def _accelerator(recipe: Recipe, *, device: str) -> Iterator[Accelerator]:
    """An accelerator of our own: its process-wide state is put away afterwards, so that the next may differ."""
    number = device.partition(":")[2]
    with torch.cuda.device(int(number)) if number else nullcontext():
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision=recipe.precision,
            # A batch without a modality leaves that modality's weights without a gradient.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        try:
            if number and accelerator.num_processes > 1:
                raise ConfigError(f"device {device}: each of several processes has a GPU of its own; say cuda")
            yield accelerator
        finally:
            accelerator.free_memory()
            # The processes' connection stays for the next; the precision does not.
            AcceleratorState._reset_state(reset_partial_state=accelerator.num_processes == 1)
