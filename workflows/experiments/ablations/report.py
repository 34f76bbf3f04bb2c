"""The report of an ablation: means and deviations over seeds, every order of the paper compared seed by seed.

Rows of one seed see the same clips in the same order with the same captions, so rows are compared within a seed and the
differences averaged. Orders are judged by the mean of R@1, R@5 and R@10 of text -> media ("mean recall").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Literal

from pydantic import computed_field

from ...._settings import Settings
from .run import Metrics
from .studies import Table

RECALLS = ("r1", "r5", "r10")
JUDGED = "text->media"
_DIRECTIONS = {"text->media": "t ->", "media->text": "-> t"}
_SHOWN = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "medr": "MedR"}

Verdict = Literal["as published", "opposite", "not settled"]


class Spread(Settings):
    """A number over seeds."""

    seeds: tuple[float, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean(self) -> float:
        return mean(self.seeds)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def deviation(self) -> float | None:
        """The standard deviation (n - 1); None for a single seed."""
        return stdev(self.seeds) if len(self.seeds) > 1 else None

    def shown(self, *, signed: bool = False) -> str:
        """Such as `41.3 ± 0.8`."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        return f"{self.mean:{'+' if signed else ''}.1f}{spread}"


class Comparison(Settings):
    """One order of the paper, tried here."""

    better: str
    worse: str
    published_differences: Mapping[str, float]
    """Of the mean of R@5 and R@10, by data set; empty for an order that the paper does not have."""
    mean_recall_difference: Spread
    """Here, better less worse, by seed."""
    differences: Mapping[str, Spread]
    """The same for R@1, R@5 and R@10 alone."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def seeds_in_favour(self) -> int:
        return sum(value > 0 for value in self.mean_recall_difference.seeds)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Verdict:
        """Settled only where every seed agrees, there are two at least, and the mean exceeds the deviation."""
        signs = {(value > 0) - (value < 0) for value in self.mean_recall_difference.seeds}
        deviation = self.mean_recall_difference.deviation
        if deviation is None or len(signs) > 1 or abs(self.mean_recall_difference.mean) <= deviation:
            return "not settled"
        return "as published" if signs == {1} else "opposite"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableResult:
    """One table, and the metrics of each of its rows, one for each seed."""

    table: Table
    found: Mapping[str, Sequence[Metrics]]

    def spread(self, row: str, direction: str, metric: str) -> Spread:
        return Spread(seeds=tuple(one[direction][metric] for one in self.found[row]))

    @property
    def directions(self) -> list[str]:
        """Those that its rows were judged in."""
        first = next(iter(self.found.values()))[0]
        return [one for one in _DIRECTIONS if one in first]

    def comparisons(self) -> list[Comparison]:
        found = []
        for order in self.table.orders:
            pairs = list(zip(self.found[order.better], self.found[order.worse], strict=True))
            by_name = {name: [a[JUDGED][name] - b[JUDGED][name] for a, b in pairs] for name in RECALLS}
            better, worse = (self.table.row(key).published for key in (order.better, order.worse))
            found.append(
                Comparison(
                    better=order.better,
                    worse=order.worse,
                    published_differences={
                        name: mean(better[name]) - mean(worse[name]) for name in better if name in worse
                    },
                    mean_recall_difference=Spread(
                        seeds=tuple(mean(each) for each in zip(*by_name.values(), strict=True))
                    ),
                    differences={name: Spread(seeds=tuple(values)) for name, values in by_name.items()},
                )
            )
        return found

    def lines(self) -> Iterator[str]:
        data_sets = list(dict.fromkeys(name for row in self.table.rows for name in row.published))
        ways = self.directions
        columns = [f"{_DIRECTIONS[way]} {name}" for way in ways for name in _SHOWN.values()]
        yield f"## Table {self.table.number}: {self.table.title}"
        yield ""
        yield _cells("configuration", *columns, *(f"{name}: R@5, R@10" for name in data_sets))
        yield _cells("---", *["---:"] * (len(columns) + len(data_sets)))
        for row in self.table.rows:
            here = [self.spread(row.key, way, name).shown() for way in ways for name in _SHOWN]
            pairs = [row.published.get(name) for name in data_sets]
            yield _cells(row.label, *here, *("" if pair is None else "{:.1f}, {:.1f}".format(*pair) for pair in pairs))
        yield ""
        yield _cells("order", *(f"{name} (R@5, R@10)" for name in data_sets), "here (mean recall)", "seeds", "verdict")
        yield _cells("---", *["---:"] * (len(data_sets) + 2), "---")
        comparisons = self.comparisons()
        for one in comparisons:
            claim = f"{self.table.row(one.better).label} **over** {self.table.row(one.worse).label}"
            there = [
                f"{one.published_differences[name]:+.1f}" if name in one.published_differences else ""
                for name in data_sets
            ]
            seeds = f"{one.seeds_in_favour} of {len(one.mean_recall_difference.seeds)}"
            # An order of our own is not "as published".
            words = {
                "as published": "as published" if one.published_differences else "holds",
                "opposite": "**the other way round**",
            }
            verdict = words.get(one.verdict, one.verdict)
            yield _cells(claim, *there, one.mean_recall_difference.shown(signed=True), seeds, verdict)
        yield ""
        verdicts = Counter(one.verdict for one in comparisons if one.published_differences)
        yield (
            f"Of {verdicts.total()} orders of the paper {verdicts['as published']} come out as published,"
            f" {verdicts['opposite']} the other way round, {verdicts['not settled']} are not settled."
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "table": self.table.number,
            "title": self.table.title,
            "rows": [
                {
                    "row": row.key,
                    "label": row.label,
                    "published": {name: list(pair) for name, pair in row.published.items()},
                    "metrics": {
                        direction: {name: self.spread(row.key, direction, name).as_dict() for name in _SHOWN}
                        for direction in self.directions
                    },
                }
                for row in self.table.rows
            ],
            "orders": [one.as_dict() for one in self.comparisons()],
        }


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
