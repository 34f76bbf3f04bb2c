"""Where the sample of every fingerprint is, and which one counts where there are several."""

from __future__ import annotations

from .._vocabulary import Outcome
from .formats import Sidecar

_BEST_FIRST = (Outcome.INDEXED, Outcome.PARTIAL, Outcome.REJECTED, Outcome.QUARANTINED, Outcome.PENDING)
_PLACE_BITS = 32


class Index:
    """Where the sample of every fingerprint is.

    One integer for each: of integers Python's collector of garbage keeps no account, and of as many pairs it would.
    """

    def __init__(self) -> None:
        self.located: dict[str, int] = {}
        self.sidecars: list[Sidecar] = []

    def where(self, located: int) -> tuple[Sidecar, int]:
        """The sidecar of a sample, and its place there."""
        return self.sidecars[located >> _PLACE_BITS], located & ~(-1 << _PLACE_BITS)


def keep_best(index: Index, sidecar: Sidecar) -> None:
    """Add a sidecar's samples. Of a fingerprint that is there twice, the better outcome stays."""
    first = len(index.sidecars) << _PLACE_BITS
    index.sidecars.append(sidecar)
    news = zip(sidecar.fingerprints, range(first, first + len(sidecar)), strict=True)
    if index.located.keys().isdisjoint(sidecar.fingerprints):  # as it is but for retries
        index.located.update(news)
        return
    for fingerprint, located in news:
        known = index.located.get(fingerprint)
        if known is None or _rank(*index.where(located)) < _rank(*index.where(known)):
            index.located[fingerprint] = located


def _rank(sidecar: Sidecar, place: int) -> tuple[int, str]:
    return _BEST_FIRST.index(sidecar.status(place).outcome), sidecar.shard.name
