"""Small worlds to train on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Samples = list[dict[str, Any]]


@pytest.fixture(scope="session")
def make_samples() -> Callable[..., Samples]:
    """Clips for the test models. Each has a hidden number that its rows show, in every modality, under some noise."""

    def make(num_clips: int = 40, *, seed: int = 0, num_captions: int = 2) -> Samples:
        rng = np.random.default_rng(seed)
        shown = {"video": rng.normal(size=(num_clips, 24)), "text": rng.normal(size=(num_clips, 12))}
        tones = rng.normal(size=(num_clips, 40))

        def rows(mean: np.ndarray, count: int) -> np.ndarray:
            return (mean + 0.3 * rng.normal(size=(count, len(mean)))).astype(np.float16)

        return [
            {
                "video": rows(shown["video"][i], int(rng.integers(1, 7))),
                "audio": rows(tones[i], int(rng.integers(8, 33))),
                "text": [rows(shown["text"][i], int(rng.integers(1, 6))) for _ in range(num_captions)],
            }
            for i in range(num_clips)
        ]

    return make
