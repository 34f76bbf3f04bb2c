"""The pictures of the laboratory's clips: flat shapes that wander over a textured ground.

Everything that captions may name comes from the clip's attributes; everything else (places, small motions, the ground's
phase, shades, camera noise) is drawn from the clip's own random numbers and says nothing about them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

_COLOURS = {
    "red": (230, 20, 20),
    "yellow": (245, 225, 20),
    "green": (20, 170, 30),
    "cyan": (20, 215, 225),
    "blue": (20, 30, 230),
    "pink": (240, 40, 220),
}
_GROUNDS = {"night": (40, 40, 44), "slate": (90, 92, 96), "sand": (165, 142, 98), "snow": (195, 197, 199)}
# Lengths are fractions of the picture's side.
_RADII = {"small": 0.08, "large": 0.15}
_GRID = 3
_CELL = 1.0 / _GRID
_TEXTURE_STEP = 1 / 16
_TEXTURE_CONTRAST = 44.0
_CROSSING_SECONDS = 3.0
_EVENT_SECONDS = (0.2, 0.5, 0.8)  # Fractions of the clip: the first event, the middle between them, the second's end.
# The effect of an event on the objects: a factor on their size, and whitening.
_EVENTS = {"flash": (1.0, 0.8), "shrink": (0.5, 0.0), "hide": (0.0, 0.0)}
_STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}


def render_frames(
    traits: Mapping[str, str],
    *,
    size: int,
    num_frames: int,
    fps: float,
    rng: np.random.Generator,
    start: Sequence[float] | None = None,
    frames_before: int = 0,
) -> Iterator[NDArray[np.uint8]]:
    """The frames of one clip, (size, size, 3) RGB, from its value of every attribute and its own random numbers.

    Args:
        traits: the values.
        size: pixels of a side.
        num_frames: how many.
        fps: frames a second.
        rng: the clip's own.
        start: how far moving objects are from their grid in the beginning, (x, y) as fractions of the side; None: drawn
            evenly, so that a single frame shows nothing of the direction.
        frames_before: how many of them the objects have moved when the clip begins.
    """
    # One colour under a regular texture of random phase, which keeps its mean: half above, half below its brightness.
    base = np.array(_GROUNDS[traits["background"]]) + rng.uniform(-4, 4)
    periods = np.arange(size) / (size * _TEXTURE_STEP)
    shift = rng.uniform(0, 1, 2)
    rows, columns = np.broadcast_arrays(
        (periods[:, None] + shift[1]) % 1 < 0.5, (periods[None, :] + shift[0]) % 1 < 0.5
    )
    halves = {"striped": rows, "barred": columns, "checked": rows ^ columns}.get(traits["texture"])
    texture = np.zeros(rows.shape) if halves is None else halves - 0.5
    ground = (base + _TEXTURE_CONTRAST * texture[..., None]).astype(np.float32)
    colour = np.clip(np.array(_COLOURS[traits["colour"]]) + rng.uniform(-5, 5, 3), 0, 255).astype(np.float32)
    things = _Things(traits, rng, start)
    noise = rng.normal(0, 1.5, (size, size, 1)).astype(np.float32)
    for index in range(num_frames):
        progress, (first, middle, last) = (index + 0.5) / num_frames, _EVENT_SECONDS
        scale, whitening = 1.0, 0.0
        if traits["order"] != "none" and first <= progress < last:
            scale, whitening = _EVENTS[traits["order"].split("-")[0 if progress < middle else 1]]
        moved = frames_before + index
        cover = _cover(traits["shape"], things.places((moved + 0.5) / fps), things.radius * scale, size)[..., None]
        frame = ground + cover * (colour + (255 - colour) * np.float32(whitening) - ground)
        frame += np.roll(noise, (7 * moved, 11 * moved), axis=(0, 1))
        yield np.clip(frame, 0, 255).astype(np.uint8)


def displacement(direction: str, seconds: float) -> NDArray[np.float64]:
    """How far objects have moved, (x, y) as fractions of the side."""
    return np.array(_STEPS[direction]) * seconds / _CROSSING_SECONDS


class _Things:
    """Where a clip's objects are: one a cell of a grid, so that they never overlap, each wandering a little.

    The grid of moving objects begins anywhere: on a known one, the distance to it would give the direction away.
    """

    def __init__(self, traits: Mapping[str, str], rng: np.random.Generator, start: Sequence[float] | None) -> None:
        number = int(traits["number"])
        self.radius = _RADII[traits["size"]] * float(rng.uniform(0.97, 1.03))
        self._direction = traits["direction"]
        cells = rng.permutation(_GRID * _GRID)[:number]
        slack = max(0.0, _CELL / 2 - self.radius - 0.02)
        jitter = rng.uniform(-slack, slack, (number, 2))
        self._centres = np.stack([cells % _GRID + 0.5, cells // _GRID + 0.5], axis=1) * _CELL + jitter
        self._phase = rng.uniform(0, 2 * np.pi, (number, 2))
        self._drift_hz = rng.uniform(0.2, 0.5, (number, 2))
        if self._direction != "still":
            drawn = rng.uniform(0, 1, 2)
            self._centres = self._centres + (drawn if start is None else np.array(start))

    def places(self, seconds: float) -> NDArray[np.float64]:
        """The centres at one instant, (number, 2) as fractions of the side."""
        wander = 0.02 * np.sin(self._phase + 2 * np.pi * self._drift_hz * seconds)
        return np.asarray((self._centres + wander + displacement(self._direction, seconds)) % 1.0)


def _cover(shape: str, places: NDArray[np.float64], radius: float, size: int) -> Image:
    """How much of each pixel is covered by objects, (size, size) in [0, 1], with soft edges.

    What leaves on one side comes in on the other. Places (number, 2) and radius are fractions of the side; a radius of
    0 covers nothing at all.
    """
    reach = int(np.ceil(radius * size * 1.3)) + 2
    span = np.arange(-reach, reach + 1, dtype=np.float32)
    corners = np.floor(places * size).astype(int)
    inside = (places * size - corners).astype(np.float32)[:, :, None, None]
    distance = _distance(shape, span[None, None, :] - inside[:, 0], span[None, :, None] - inside[:, 1], radius * size)
    edges = np.clip(np.float32(radius * size) - distance + np.float32(0.5), 0, 1) if radius else 0 * distance
    canvas = np.zeros((size + 2 * reach, size + 2 * reach), np.float32)
    for (x, y), edge in zip(corners, edges, strict=True):
        canvas[y : y + len(span), x : x + len(span)] += edge
    # Neighbours may touch where shapes are wide.
    return np.minimum(_folded(_folded(canvas, reach).T, reach).T, 1)


def _folded(canvas: Image, margin: int) -> Image:
    """Add the margins above and below to the opposite sides of what is between them."""
    middle = canvas[margin:-margin].copy()
    middle[-margin:] += canvas[:margin]
    middle[:margin] += canvas[-margin:]
    return middle


def _distance(shape: str, dx: Image, dy: Image, radius: float) -> Image:
    """A measure of each pixel that is below ``radius`` inside the shape; the shapes have about equal area."""
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) * np.float32(1.13)
    if shape == "triangle":
        return np.maximum(dy, np.abs(dx) * np.float32(0.866) - dy / 2) * np.float32(1.29) + np.float32(0.1 * radius)
    distance = np.hypot(dx, dy)
    if shape == "ring":
        return np.abs(distance - np.float32(0.85 * radius)) * np.float32(2.86)
    return distance
