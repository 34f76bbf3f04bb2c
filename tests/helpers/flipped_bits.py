"""A small store, flipped bits in it, and which samples a reader refuses. Run as a program: of each store that is named.

python -m helpers.flipped_bits ROOT ...     prints a JSON list of lists of keys
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from frameloom import IntegrityError
from frameloom.store import FeatureStore

from .stores import make_sample, make_spec

SPEC = make_spec(dim=96)
SAMPLES = [make_sample(f"{number}.mp4", rows, spec=SPEC) for number, rows in enumerate((3, 0, 70, 800, 1, 12, 33))]


def flip(path, place, bit):
    """Change one bit in place, as a disk does it: a file that is open shows it."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ bit]))


def damaged_samples(store):
    """The keys of the samples that a reader refuses. What it returns in any way must be what was written."""
    found = set()
    for sample in SAMPLES:
        feature = sample.feature
        if sample.fingerprint not in store:
            found.add(sample.key)
            continue
        entry, half = store.entry(sample.fingerprint), len(feature.values) // 2
        assert (entry.num_rows, entry.status, entry.key) == (len(feature.values), feature.status, sample.key)
        target = np.zeros((half, SPEC.dim), SPEC.dtype)
        span = (entry.first_row, entry.first_row + half)

        def whole(sample=sample, feature=feature):
            read = store.read(sample.fingerprint)
            np.testing.assert_array_equal(read.values, feature.values)
            np.testing.assert_array_equal(read.times, feature.times)

        def window(sample=sample, feature=feature, half=half):
            read = store.read_span(sample.fingerprint, half, half + 5)
            np.testing.assert_array_equal(read.values, feature.values[half : half + 5])

        def rows(entry=entry, feature=feature, half=half, span=span, target=target):
            store.read_rows_into(entry.shard.path, [span], [target.reshape(-1).view(np.uint8).data])
            np.testing.assert_array_equal(target, feature.values[:half])

        for read in (whole, window, rows):
            try:
                read()
            except IntegrityError:
                found.add(sample.key)
    return found


if __name__ == "__main__":
    print(json.dumps([sorted(damaged_samples(FeatureStore(Path(root)))) for root in sys.argv[1:]]))
