"""The systems next to each other: what each reads, what trains, and what a question, a clip and a step cost, measured.

Models have random weights and read noise of the sizes that they were published with, on one CPU thread: FLOPs are those
that torch's counter sees (products, convolutions, attention; two for a multiplication with its addition), seconds the
best of a few runs. What frozen backbones do before Everything at Once reads their rows is not in its figures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..._settings import Settings
from ..console import Console

if TYPE_CHECKING:
    from ...fuse import FusionModel, Tokens

SYSTEMS = ("everything_at_once", "miles", "all_in_one", "clover", "t2v2t")
_RUNS = 2
_BATCH = 2
_WORDS, _LOWEST_ID = 12, 1000


class Cost(Settings):
    """Of one thing that a model does."""

    gflop: float
    seconds: float


class System(Settings):
    """One model of one size."""

    name: str
    paper: str
    inputs: str
    """What a clip and a text are."""
    parameters: int
    trained: int
    """Parameters that a training changes."""
    objectives: tuple[str, ...]
    """The terms of the loss."""
    question: Cost
    """To embed a text."""
    clip: Cost
    """To embed a clip of the gallery."""
    pair: Cost | None
    """To judge a pair whose sides were encoded before; None without a joint head."""
    step: Cost
    """Forward, loss and backward of two clips with their texts, a clip's half of it."""


class Systems(Settings):
    """All of them."""

    systems: tuple[System, ...]
    size: str
    """published or tiny."""
    threads: int = 1

    def lines(self) -> Iterator[str]:
        """A table in Markdown."""
        titles = ("system", "inputs", "parameters", "trained", "objectives")
        costs = ("question", "clip", "pair", "training, a clip")
        yield _cells(*titles, *(f"{one}: GFLOP, s" for one in costs))
        yield _cells(*["---"] * (len(titles) + len(costs)))
        for one in self.systems:
            sizes = f"{one.parameters / 1e6:.1f} M", f"{one.trained / 1e6:.1f} M"
            figures = (
                "none" if cost is None else f"{cost.gflop:.2f}, {cost.seconds:.3f}"
                for cost in (one.question, one.clip, one.pair, one.step)
            )
            yield _cells(one.name, one.inputs, *sizes, ", ".join(one.objectives).replace("|", " with "), *figures)


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def measured_systems(names: Sequence[str] = SYSTEMS, *, tiny: bool = False, console: Console) -> Systems:
    """Build and measure models.

    Args:
        names: registered models.
        tiny: at the size of their tiny recipes, and not at the published one.
        console: for progress.

    Raises:
        UnknownNameError: no such model, or no tiny recipe of it.
        ConfigError: a model that is not trained.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = []
    try:
        with console.progress("measure", len(names), "models") as advance:
            for name in names:
                found.append(_measured(name, tiny))
                advance(1)
    finally:
        torch.set_num_threads(before)
    return Systems(systems=tuple(found), size="tiny" if tiny else "published")


def _measured(name: str, tiny: bool) -> System:
    import torch

    from ...fuse import create_model, model_type
    from ...train import get_recipe

    options: dict[str, Any] = {"word_masking": "random"} if model_type(name).__name__ == "Clover" else {}
    recipe = get_recipe(f"{name}_tiny") if tiny else None
    if recipe is not None:
        options |= recipe.model_options
        if recipe.frames is not None:
            options |= {"image_size": recipe.frames.size, "max_words": recipe.max_words}
    torch.manual_seed(0)
    model = create_model(name if recipe is None else recipe.model, **options)
    batch, inputs = _noise(model)
    text, video = ({one: _first(batch[one])} for one in ("text", "video"))
    media = {one: _first(tokens) for one, tokens in batch.items() if one != "text"}
    model.eval()
    with torch.no_grad():
        question = _cost(lambda: model.encode(**text))
        clip = _cost(lambda: model.encode(**media))
        pair = None
        if model.scores:
            sides = {one: model.states(one, given[one]) for one, given in (("text", text), ("video", video))}
            pair = _cost(lambda: model.score(**sides))
    model.train()
    terms: dict[str, Any] = {}

    def step() -> None:
        loss, found = model(batch)
        terms.update(found)
        loss.backward()
        model.zero_grad(set_to_none=True)

    whole = _cost(step, runs=1)
    return System(
        name=name,
        paper=model.paper,
        inputs=inputs,
        parameters=sum(each.numel() for each in model.parameters()),
        trained=sum(each.numel() for each in model.parameters() if each.requires_grad),
        objectives=tuple(terms),
        question=question,
        clip=clip,
        pair=pair,
        step=Cost(gflop=whole.gflop / _BATCH, seconds=whole.seconds / _BATCH),
    )


def _first(tokens: Tokens) -> Tokens:
    return tokens._replace(values=tokens.values[:1], mask=tokens.mask[:1])


def _cost(run: Callable[[], Any], *, runs: int = _RUNS) -> Cost:
    """Counted once, and timed apart: counting takes time of its own."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter knows neither oneDNN's products nor the kernels of attention on a CPU; as products it sees the latter.
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    known = {} if onednn is None else {onednn: _flops_of_product}
    with FlopCounterMode(display=False, custom_mapping=known) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    seconds = []
    for _ in range(runs):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return Cost(gflop=counter.get_total_flops() / 1e9, seconds=min(seconds))


def _flops_of_product(rows: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Of (M, K) rows and an (N, K) weight."""
    return 2 * math.prod(rows) * weight[0]


def _noise(model: FusionModel) -> tuple[dict[str, Tokens], str]:
    """A batch of noise as long as the model's configuration and the published recipes say, and what it is."""
    import torch

    from ...fuse import Tokens

    config: Any = model.config
    if model.takes_pixels:
        side, frames = config.image_size, config.num_frames
        lowest = min(_LOWEST_ID, config.vocab_size // 2)
        ids = torch.randint(lowest, config.vocab_size, (_BATCH, _WORDS))
        pictures = torch.randint(0, 256, (_BATCH, frames, 3, side, side), dtype=torch.uint8)
        batch = {
            "text": Tokens(ids, torch.ones(_BATCH, _WORDS)),
            "video": Tokens(pictures, torch.ones(_BATCH, frames)),
        }
        return batch, f"{frames} frames of {side} pixels, {_WORDS} word pieces"
    rows = {"text": (_WORDS, config.text_dim), "video": (12, config.video_dim), "audio": (768, 40)}
    batch = {
        name: Tokens(torch.randn(_BATCH, *shape), torch.ones(_BATCH, shape[0]))
        for name, shape in rows.items()
        if name in model.modalities
    }
    sound = ", 768 frames of log-mel" if "audio" in batch else ""
    return batch, f"12 rows of {config.video_dim} features{sound}, {_WORDS} word vectors"
