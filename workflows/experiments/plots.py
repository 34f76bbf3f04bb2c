"""Plots as PNG files of 1000 pixels width, drawn without a display."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..._files import publish
from ..._vocabulary import InputError
from ...train.evaluate import ModalityAttention
from ..search import Alignment, Timeline
from .plots_data import Losses

DPI = 100
WIDTH_INCHES = 10.0
_SHOWN_HEADS = 4
# With more modalities than this, labels are upright and numbers are small.
_ROOMY = 3
_INK, _ACCENT, _FAINT = "#1f3b57", "#c8553d", "#9fb3c8"
_LETTERS = {"text": "t", "video": "v", "audio": "a", "cls": "[cls]"}


def check_target(path: Path) -> None:
    """Raises InputError for a path that no PNG can be written to."""
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: plots are written as PNG: give a name that ends in .png")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.absolute().parent} is not there: make it first")
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    from io import BytesIO

    buffer = BytesIO()
    with warnings.catch_warnings():
        # A question in a script that the font lacks is drawn as boxes; the numbers are right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    publish(path, buffer.getvalue(), kind="text")


def draw_losses(losses: Losses) -> Figure:
    """The loss of every step and its mean over each epoch; below, the terms that it is made of."""
    many = len(losses.terms) > 1
    figure = Figure(figsize=(WIDTH_INCHES, 7.0 if many else 5.0), layout="constrained")
    axes = figure.subplots(2 if many else 1, 1, sharex=True, squeeze=False)[:, 0]
    if losses.steps:
        axes[0].plot(*zip(*losses.steps, strict=True), color=_FAINT, linewidth=1, label="each step")
    middles = losses.steps_per_epoch * (0.5 + np.arange(len(losses.epoch_means))) + 0.5
    if len(middles):
        style = {"color": _ACCENT, "linewidth": 2, "marker": "o", "markersize": 3}
        axes[0].plot(middles, losses.epoch_means, label="mean of an epoch", **style)
    axes[0].set_ylabel("loss (nats)")
    axes[0].legend(loc="upper right", frameon=False)
    if many:
        # Each term as a mean over an epoch's worth of steps, so that six of them can be distinguished.
        width = max(1, round(losses.steps_per_epoch))
        for number, (name, points) in enumerate(losses.terms.items()):
            curve = np.array(points)
            means = [part.mean(axis=0) for part in np.array_split(curve, max(1, len(curve) // width))]
            x, _, y = name.partition("|")
            label = f"{_short(x)} against {_short(y)}" if y else name
            axes[1].plot(*zip(*means, strict=True), linewidth=1.5, color=f"C{number}", label=label)
        axes[1].set_ylabel("terms (nats), unweighted")
        axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    for each in axes:
        _plain(each)
    axes[-1].set_xlabel("step")
    steps = losses.steps[-1][0] if losses.steps else round(len(losses.epoch_means) * losses.steps_per_epoch)
    figure.suptitle(f"Training loss, {steps} steps in {len(losses.epoch_means)} whole epochs", color=_INK)
    return figure


def draw_attention(attention: ModalityAttention) -> Figure:
    """All heads at the left, a row each; matrices of the mean and of some heads at the right."""
    heads = len(attention.weights)
    shown = np.unique(np.linspace(0, heads - 1, min(heads, _SHOWN_HEADS - 1)).round().astype(int))
    crowded = len(attention.modalities) > _ROOMY
    figure = Figure(figsize=(WIDTH_INCHES, 8.0 if crowded else 6.0), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(0.8 if crowded else 1.15, 1.0))[0]
    axes, letters = left.subplots(), [_short(name) for name in attention.modalities]
    rows = attention.weights.reshape(heads, -1)
    image = axes.imshow(rows, vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
    pairs = [f"{query}→{key}" for query in letters for key in letters]
    axes.set_xticks(range(len(pairs)), pairs, rotation=90 if crowded else 0)
    ticks = np.unique(np.linspace(0, heads - 1, min(heads, 16)).round().astype(int))
    axes.set_yticks(ticks, [str(head + 1) for head in ticks])
    axes.set_xlabel("modality of the query → of the keys")
    axes.set_ylabel("head")
    for place in range(len(letters), len(pairs), len(letters)):
        axes.axvline(place - 0.5, color="white", linewidth=2)
    panels = right.subplots(2, 2).ravel()
    matrices = [("mean of all heads", attention.weights.mean(axis=0))]
    matrices += [(f"head {head + 1}", attention.weights[head]) for head in shown]
    for axes, (title, matrix) in zip(panels, matrices, strict=False):
        _draw_matrix(axes, title, matrix, attention.modalities)
    for axes in panels[len(matrices) :]:
        axes.set_visible(False)
    figure.colorbar(image, ax=panels.tolist(), label="share of a query's attention", shrink=0.8)
    shares = ", ".join(
        f"{_short(name)} {count:.0f}" for name, count in zip(attention.modalities, attention.tokens, strict=True)
    )
    figure.suptitle(
        f"Attention between modalities, {attention.num_clips} clips, block {attention.block}"
        f" (mean tokens of a clip: {shares})",
        color=_INK,
    )
    return figure


def _draw_matrix(axes: Any, title: str, matrix: Any, modalities: Sequence[str]) -> None:
    letters = [_short(name) for name in modalities]
    axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    crowded = len(letters) > _ROOMY
    for (row, column), value in np.ndenumerate(matrix):
        colour = "black" if value > 0.6 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7 if crowded else 10)
    axes.set_xticks(range(len(letters)), letters, rotation=90 if crowded else 0)
    axes.set_yticks(range(len(letters)), letters)
    axes.set_xlabel("keys")
    axes.set_ylabel("queries")
    axes.set_title(title, fontsize=10)


def draw_timeline(timeline: Timeline) -> Figure:
    """Similarity at the middle of each window, each window as wide as it is, the best one marked."""
    figure = Figure(figsize=(WIDTH_INCHES, 5.0), layout="constrained")
    axes = figure.subplots()
    middles = timeline.windows.mean(axis=1)
    best = int(timeline.similarities.argmax())
    start, end = timeline.windows[best].tolist()
    axes.axvspan(start, end, color=_ACCENT, alpha=0.15, label=f"best window, {start:.1f} to {end:.1f} s")
    axes.hlines(timeline.similarities, *timeline.windows.T, color=_FAINT, linewidth=2, label="each window")
    axes.plot(middles, timeline.similarities, color=_INK, marker="o", markersize=4, linewidth=1.5)
    axes.set_xlim(0, float(timeline.windows.max()))
    axes.set_xlabel("time in the video (s)")
    axes.set_ylabel("cosine similarity with the question")
    # No less than 0.1 is shown, so that noise does not look like mountains; above, there is room for the legend.
    low, high = float(timeline.similarities.min()), float(timeline.similarities.max())
    spare = max(0.1 - (high - low), 0.0) / 2
    height = high - low + 2 * spare
    axes.set_ylim(low - spare - 0.1 * height, high + spare + 0.25 * height)
    axes.legend(loc="upper right", frameon=False, ncols=2)
    _plain(axes)
    question = textwrap.shorten(timeline.question, 150, placeholder=" ...")
    title = "\n".join(textwrap.wrap(f'"{question}"', 90))
    video = timeline.video if len(timeline.video) <= 80 else f"...{timeline.video[-77:]}"
    figure.suptitle(f"{title}\n{video} ({timeline.modalities})", color=_INK, fontsize=11, parse_math=False)
    return figure


def draw_alignment(alignment: Alignment) -> Figure:
    """The frames, and below them a row for each word: bright where patches go with it, on one scale for the word."""
    rows, columns = 1 + len(alignment.words), len(alignment.frames)
    cell = WIDTH_INCHES / (columns + 1)
    figure = Figure(figsize=(WIDTH_INCHES, cell * rows + 1.0), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    side = alignment.frames.shape[1]
    for column, frame in enumerate(alignment.frames):
        panels[0, column].imshow(frame)
        panels[0, column].set_title(f"frame {column + 1}", fontsize=9)
        for row, (word, weights) in enumerate(zip(alignment.words, alignment.weights, strict=True), start=1):
            panels[row, column].imshow(frame, alpha=0.5)
            scale = {"vmin": float(weights.min()), "vmax": float(weights.max()) + 1e-9}
            panels[row, column].imshow(
                weights[column], extent=(-0.5, side - 0.5, side - 0.5, -0.5), cmap="inferno", alpha=0.6, **scale
            )
            if column == 0:
                panels[row, 0].set_ylabel(word, rotation=0, ha="right", va="center", parse_math=False)
    question = textwrap.shorten(alignment.question, 100, placeholder=" ...")
    video = alignment.video if len(alignment.video) <= 80 else f"...{alignment.video[-77:]}"
    figure.suptitle(f'"{question}"\n{video} ({alignment.model})', color=_INK, fontsize=11, parse_math=False)
    return figure


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e6e9ed", linewidth=0.8)
    axes.set_axisbelow(True)


def _short(name: str) -> str:
    """`text+video` as the papers write it: tv."""
    parts = name.split("+")
    return "".join(_LETTERS[part] for part in parts) if set(parts) <= _LETTERS.keys() else name
