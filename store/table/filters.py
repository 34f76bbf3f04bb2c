"""Text that goes into a LanceDB filter: quoted by one function, and looked over before it is run.

A filter is raw SQL to LanceDB, which has no parameters. A filter that a user writes is used for reading only; every
filter that deletes is built here from quoted values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

from ..._registry import nearest
from ..._vocabulary import InputError

MAX_FILTER_CHARACTERS = 10_000
MAX_FILTER_DEPTH = 50
IDS_A_STATEMENT = 500
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`")
_FORBIDDEN = re.compile(r";|--|/\*")


def quoted(text: str) -> str:
    """A text as an SQL literal: the only character that can end one is doubled."""
    return "'" + text.replace("'", "''") + "'"


def id_filters(ids: Sequence[str]) -> Iterator[str]:
    """Filters that together match exactly these ids, a bounded number in each."""
    for start in range(0, len(ids), IDS_A_STATEMENT):
        yield f"id IN ({', '.join(map(quoted, ids[start : start + IDS_A_STATEMENT]))})"


def check_filter(where: str) -> None:
    """Refuse a filter that is empty, endless, deeply nested, or more than one expression. Raises InputError."""
    bare = _QUOTED.sub("''", where)
    if not where.strip():
        raise InputError("the filter is empty; write a condition such as \"split = 'test'\", or leave it out")
    if len(where) > MAX_FILTER_CHARACTERS:
        raise InputError(f"the filter has {len(where):,} characters; {MAX_FILTER_CHARACTERS:,} are allowed")
    if bare.count("(") > MAX_FILTER_DEPTH or bare.upper().count("NOT") > MAX_FILTER_DEPTH:
        raise InputError(f"the filter is nested too deeply; at most {MAX_FILTER_DEPTH} brackets or NOTs are allowed")
    # A bracket that closes more than was opened before it could leave the conditions around the filter.
    depths = list(accumulate((one == "(") - (one == ")") for one in bare))
    if min(depths) < 0 or depths[-1] != 0:
        raise InputError(f"the brackets of the filter {where!r} do not match; close every one that is opened")
    if found := _FORBIDDEN.search(bare):
        raise InputError(f"the filter holds {found.group()!r} outside quotes; write one condition, no comments")


def check_columns(columns: Sequence[str], known: Sequence[str]) -> None:
    """Raises InputError naming the first column that does not exist, with near matches."""
    for column in columns:
        if column not in known:
            raise InputError(f"no column is called {column!r}: {nearest(column, list(known))}")
