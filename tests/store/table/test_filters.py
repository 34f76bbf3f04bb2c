"""What a filter may cost: its words are of a short list, and its length, depth and parts have limits."""

from __future__ import annotations

import pytest
from frameloom._vocabulary import InputError
from frameloom.store import ClipTable
from frameloom.store.table.filters import check_filter
from helpers.stores import DIM, METADATA, make_row

COLUMNS = ("id", "split", "captions", "take", "indoors", "vector", "row_checksum")


@pytest.mark.parametrize(
    "where",
    [
        "+".join(["1"] * 2500) + " > 1",
        " AND ".join(["true"] * 500),
        "take" + " IS NULL" * 500,
        "take" + " IN (1)" * 500,
        "take" + " BETWEEN 1 AND 2" * 300,
        "take > " + "- " * 300 + "1",
        "(" * 200 + "true" + ")" * 200,
        "[" * 200 + "1" + "]" * 200 + " IS NULL",
        "NOT " * 200 + "true",
        "upper(" * 200 + "id" + ")" * 200 + " = 'A'",
        "||".join(["id"] * 50) + " = 'a'",
        "array_length(array_repeat(1, 1000000000)) > 1",
        "repeat(id, 1000000000) = 'a'",
        "CASE WHEN true THEN 1 ELSE 2 END = 1",
        "take = (SELECT 1)",
        "CAST(id AS BIGINT) = 1",
        "EXISTS (SELECT 1)",
        "vector IS NOT NULL",
        "row_checksum = 1",
        "id = '" + "x" * 10_000 + "'",
    ],
    ids=lambda where: where[:24],
)
def test_what_costs_too_much_or_is_unknown_is_refused(where: str) -> None:
    with pytest.raises(InputError):
        check_filter(where, COLUMNS)


def test_what_is_allowed_at_the_limits_runs(tmp_path) -> None:
    table = ClipTable(tmp_path)
    table.create(DIM, METADATA)
    table.apply([make_row(serial) for serial in range(8)])
    for where, number in [
        ("+".join(["1"] * 249) + " > 1", 8),
        (" AND ".join(["true"] * 249), 8),
        ("(" * 20 + "take = 3" + ")" * 20, 1),
        ("upper(" * 19 + "split" + ")" * 19 + " = 'TEST'", 4),
        ("||".join(["split"] * 9) + f" = '{'test' * 9}'", 4),
        ("take IN (" + ",".join(map(str, range(2000))) + ")", 8),
        ("id LIKE '" + "%_" * 4000 + "'", 0),
    ]:
        assert table.count(where) == number, where
