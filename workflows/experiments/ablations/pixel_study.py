"""Ablations of models of pixels: variants of one model, trained alike, judged by pairs of captions of test clips.

Everything is kept in a folder: frames, checkpoints, numbers. A second call does only what is missing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...._files import publish_text
from ...._registry import Registry
from ...._settings import Settings
from ...._vocabulary import digest_of
from ....train import Recipe, get_recipe
from ....train.data import TrainingSet
from ...console import Console, count_of, readable_seconds
from .pixel_world import MOST_JUDGED, STILL, TIME, PixelClips, PixelWorld, prepare_pixels
from .report import Comparison, Spread

KINDS: Mapping[str, tuple[str, ...]] = {"time": TIME, "one frame": STILL}
"""What captions name, by whether it needs time."""
# Raised whenever the same checkpoint would be judged differently.
_REVISION = 1

By = Literal["vectors", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model of a study.

    Attributes:
        label: what the table calls it.
        options: of the model, where they differ from the study's.
        frames: of the recipe's frames, where they differ.
        pictures: whether every step takes a batch of still pictures, too.
    """

    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    frames: Mapping[str, Any] = field(default_factory=dict)
    pictures: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An order that a paper states, or that we ask: one variant is better than another on captions of one kind."""

    better: str
    worse: str
    kind: str = "time"
    published: str = ""
    """Where, and by how much; empty for a question of our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelStudy:
    """Variants of one model, all trained by one recipe.

    Attributes:
        paper: where they are from.
        recipe: its name.
        overrides: fields of the recipe that differ here.
        options: of every variant's model.
        world: the clips, unless others are asked for.
        by: what chooses a caption: the cosine of vectors, or the logit of the joint head.
        variants: by name.
        claims: what is compared.
        notes: what differs from the paper, a sentence each.
    """

    paper: str
    recipe: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    world: PixelWorld = field(default_factory=PixelWorld)
    by: By = "vectors"
    variants: Mapping[str, Variant]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...] = ()

    def recipe_of(self, variant: Variant, seed: int) -> Recipe:
        """How a variant is trained."""
        frames = {**self.overrides.get("frames", {}), **variant.frames}
        frames |= {"pictures": "balanced"} if variant.pictures else {}
        options = {**self.options, **variant.options}
        given = {**self.overrides, "frames": frames, "seed": seed, "model_options": options}
        return get_recipe(self.recipe, **given)


PIXEL_STUDIES: Registry[PixelStudy] = Registry("study")


class Judged(Settings):
    """One claim, tried here."""

    better: str
    worse: str
    kind: str
    published: str
    difference: Spread
    """Accuracy in points, better less worse, by seed."""
    verdict: str
    """as published (or holds), the other way round, not settled, neither learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelResult:
    """The result of a study, and the file that the lines are in."""

    name: str
    study: PixelStudy
    recipe: Recipe
    clips: Mapping[str, int]
    limits: Mapping[str, tuple[float, float]]
    found: Mapping[str, tuple[Mapping[str, float], ...]]
    seconds: float
    document: Path

    @property
    def exit_code(self) -> int:
        """Always 0: an order that does not come out is a finding."""
        return 0

    def spread(self, variant: str, kind: str) -> Spread:
        return Spread(seeds=tuple(one[kind] for one in self.found[variant]))

    def has_learned(self, key: str, kind: str) -> bool:
        """Whether the mean over seeds is above chance by two standard errors: that of the pairs, and that of the seeds.

        The latter is the larger one of guesses: a bias decides alike about all clips of one value.
        """
        found = self.spread(key, kind)
        of_seeds = (found.deviation or 0.0) / math.sqrt(len(found.seeds))
        return found.mean > 50 + 2 * max(50 / math.sqrt(self.clips[kind]), of_seeds)

    def judged(self) -> list[Judged]:
        return [self._judged(claim) for claim in self.study.claims]

    def _judged(self, claim: Claim) -> Judged:
        pairs = zip(self.found[claim.better], self.found[claim.worse], strict=True)
        difference = Spread(seeds=tuple(a[claim.kind] - b[claim.kind] for a, b in pairs))
        found: str = Comparison(
            better=claim.better,
            worse=claim.worse,
            published_differences={},
            mean_recall_difference=difference,
            differences={},
        ).verdict
        if not any(self.has_learned(key, claim.kind) for key in (claim.better, claim.worse)):
            found = "neither learned"
        words = {"as published": "as published" if claim.published else "holds", "opposite": "**the other way round**"}
        return Judged(
            better=claim.better,
            worse=claim.worse,
            kind=claim.kind,
            published=claim.published,
            difference=difference,
            verdict=words.get(found, found),
        )

    def lines(self) -> Iterator[str]:
        recipe, variants = self.recipe, self.study.variants
        frames = recipe.frames
        assert frames is not None
        yield f"# Ablations: {self.name}, on the laboratory"
        yield ""
        yield f"Paper: {self.study.paper}. Command: `frameloom ablate {self.name}`."
        least = f", {recipe.min_steps} steps at least," if recipe.min_steps else ""
        yield (
            f"Every variant: recipe `{recipe.name}`, {count_of(recipe.epochs, 'epoch')}{least} of"
            f" {self.clips['training']} clips in batches of {recipe.batch_size}, {frames.num_frames} frames of"
            f" {frames.size} pixels; the same clips, order and captions for one seed. Judged on"
            f" {self.clips['testing']} other clips, each with a true and a false caption ({self.clips['time']} about"
            f" time), by {self.study.by}: accuracy in percent, 50 by chance; mean ± standard deviation over seeds."
        )
        yield (
            "Captions about time differ in the direction of motion or in the order of two events, the others in the"
            " colour of the ground. A verdict is given where one of the two learned something (its mean is over chance"
            " by two standard errors, of the pairs and of the seeds), every seed, of two at least, agrees and the mean"
            f" difference is above its deviation. Training and judging took {readable_seconds(self.seconds)}."
        )
        yield shown_limits(self.limits)
        yield from self.study.notes
        yield ""
        names = list(next(iter(self.found.values()))[0])
        yield f"| variant | {' | '.join(names)} |"
        yield f"| --- |{' ---: |' * len(names)}"
        for key, variant in variants.items():
            yield f"| {variant.label} | {' | '.join(self.spread(key, name).shown() for name in names)} |"
        yield ""
        yield "| claim | captions | published | here | verdict |"
        yield "| --- | --- | --- | ---: | --- |"
        for one in self.judged():
            claim = f"{variants[one.better].label} **over** {variants[one.worse].label}"
            shown = one.difference.shown(signed=True)
            yield f"| {claim} | {one.kind} | {one.published or '-'} | {shown} | {one.verdict} |"

    def as_dict(self) -> dict[str, Any]:
        return {
            "study": self.name,
            "paper": self.study.paper,
            "recipe": self.recipe.model_dump(),
            "clips": dict(self.clips),
            "best_judge_of_one_frame": {
                about: {"frame_at_random": drawn, "middle_frame": middle}
                for about, (drawn, middle) in self.limits.items()
            },
            "variants": {key: [dict(one) for one in several] for key, several in self.found.items()},
            "claims": [one.as_dict() for one in self.judged()],
            "seconds": self.seconds,
            "document": str(self.document),
        }


def run_pixel_study(
    name: str,
    folder: Path,
    *,
    seeds: int = 3,
    world: PixelWorld | None = None,
    overrides: Mapping[str, Any] | None = None,
    console: Console,
) -> PixelResult:
    """Do what is missing of a study, one training after another in this process, torch on one thread.

    Args:
        name: of the study.
        folder: where frames, checkpoints and numbers are kept.
        seeds: trainings of each variant.
        world: how many clips there are; None: the study's.
        overrides: fields of the recipe, for every variant.
        console: for progress.

    Raises:
        UnknownNameError: no such study.
    """
    study = PIXEL_STUDIES[name]
    if overrides:
        merged = {**study.overrides, **overrides}
        study = PixelStudy(**{key: getattr(study, key) for key in study.__slots__} | {"overrides": merged})
    world = world or study.world
    total = sum(map(len, (*world.videos(), world.pictures())))
    with console.progress("render", total, "clips") as advance:
        clips = prepare_pixels(folder, world, on_progress=advance)
    console.say(shown_limits(clips.limits))
    found: dict[str, list[Mapping[str, float]]] = {key: [] for key in study.variants}
    seconds = 0.0
    with one_thread(), console.progress("ablate", seeds * len(study.variants), "models") as advance:
        for seed in range(seeds):
            for key, variant in study.variants.items():
                judged = _trained_and_judged(study, variant, seed, clips, folder / name / f"{key}-seed{seed}")
                found[key].append({kind: value for kind, value in judged.items() if kind != "seconds"})
                seconds += judged["seconds"]
                console.say(f"  {key}, seed {seed}: {judged}")
                advance(1)
    result = PixelResult(
        name=name,
        study=study,
        recipe=study.recipe_of(next(iter(study.variants.values())), 0),
        clips={
            "training": len(clips.training),
            "pictures": len(clips.pictures),
            "testing": len(clips.testing),
            **{kind: sum(pair.about in things for pair in clips.pairs) for kind, things in KINDS.items()},
        },
        limits=clips.limits,
        found={key: tuple(several) for key, several in found.items()},
        seconds=seconds,
        document=folder / f"{name}.md",
    )
    publish_text(result.document, "\n".join(result.lines()) + "\n")
    console.say(f"the tables are in {result.document}")
    return result


def shown_limits(limits: Mapping[str, tuple[float, float]]) -> str:
    """What one frame can tell, as a sentence."""
    drawn, middle = (", ".join(f"{about} {each[kind]:.1f}" for about, each in limits.items()) for kind in (0, 1))
    return (
        f"The best judge who sees one frame, computed on the frames of {MOST_JUDGED} test clips at most: of a frame at"
        f" random, as the control learns, {drawn}; of the middle frame, its instant known, {middle}."
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread, and afterwards on as many as before: sums differ by how many share them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trained_and_judged(
    study: PixelStudy, variant: Variant, seed: int, clips: PixelClips, folder: Path
) -> dict[str, float]:
    """Accuracies by kind and thing, in percent, and the seconds that it took; from the folder where they are there."""
    import torch

    from ....fuse import create_model
    from ....train import fit
    from ....train.data import training_data

    recipe = study.recipe_of(variant, seed)
    frames = recipe.frames
    assert frames is not None
    sizes = {"image_size": frames.size, "vocab_size": clips.num_pieces, "num_frames": frames.most_frames()}
    config = {**sizes, "max_words": recipe.max_words, **recipe.model_options}
    identity = digest_of([_REVISION, clips.identity, study.by, recipe.identity(), config])
    kept = folder.with_name(f"{folder.name}-{identity[:12]}")
    path = kept / "judged.json"
    if path.is_file():
        judged: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return judged
    begun = time.monotonic()
    kept.mkdir(parents=True, exist_ok=True)
    examples = kept / "examples.parquet"
    TrainingSet(clips=clips.training + (clips.pictures if variant.pictures else ())).write(examples)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create_model(recipe.model, **config)
    data = training_data(
        examples, str(clips.store), limits=recipe.limits(), seed=seed, frames=frames.training(), pairs=variant.pictures
    )
    fit(model, data, recipe=recipe, folder=kept)
    judged = {**judge_pairs(model.eval(), clips, recipe, by=study.by), "seconds": time.monotonic() - begun}
    publish_text(path, json.dumps(judged))
    return judged


def judge_pairs(model: Any, clips: PixelClips, recipe: Recipe, *, by: By) -> dict[str, float]:
    """How often the true caption of a pair is chosen, in percent: by kind, then by what the captions differ in."""
    import torch

    from ....fuse import Tokens
    from ....train.data import clip_data, sample_batch

    limits = recipe.limits()
    data = clip_data(str(clips.store), clips.testing, limits)
    parts = [batch["video"] for batch in data.batches(range(len(clips.testing)))]
    video = Tokens(*(torch.cat(each) for each in zip(*parts, strict=True)))
    places = torch.tensor([pair.clip for pair in clips.pairs])
    scores = []
    with torch.inference_mode():
        vectors = model.encode(video=video) if by == "vectors" else None
        for side in (0, 1):
            given = [{"text": [pair.captions[side]]} for pair in clips.pairs]
            text = sample_batch(given, limits)["text"]
            if vectors is not None:
                scores.append((model.encode(text=text) * vectors[places]).sum(dim=1))
                continue
            asked = (
                model.score(
                    text=Tokens(text.values[rows], text.mask[rows]),
                    video=Tokens(video.values[places[rows]], video.mask[places[rows]]),
                )
                for rows in torch.arange(len(places)).chunk(1 + len(places) // 100)
            )
            scores.append(torch.cat(list(asked)))
    # A model that cannot tell two captions apart is right in half of the cases.
    right = (100 * ((scores[0] > scores[1]).double() + 0.5 * (scores[0] == scores[1]).double())).numpy()
    about = np.array([pair.about for pair in clips.pairs])
    kinds = {kind: float(right[np.isin(about, things)].mean()) for kind, things in KINDS.items()}
    return kinds | {thing: float(right[about == thing].mean()) for things in KINDS.values() for thing in things}
