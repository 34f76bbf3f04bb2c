"""Text that goes into a LanceDB filter: quoted by one function, and looked over before it is run.

A filter is raw SQL to LanceDB, which has no parameters. A filter that a user writes is used for reading only, in which
every word must be a column, one of SQL's own or a function of a short list; every filter that deletes is built here
from quoted values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import accumulate

from ..._registry import nearest
from ..._vocabulary import InputError

MAX_FILTER_CHARACTERS = 10_000
MAX_FILTER_DEPTH = 20  # at 50, LanceDB's parser of 0.40 takes for ever
MAX_FILTER_SIGNS = 250  # a chain of 1,000 additions ends its process
MAX_FILTER_JOINS = 8  # each makes a text of every row longer
IDS_A_STATEMENT = 500
_SHOWN_CHARACTERS = 80  # of a filter in a message
_PARTS = re.compile(
    r"""(?P<text>'(?:[^']|'')*')|(?P<column>"(?:[^"]|"")*"|`[^`]*`)|(?P<number>\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"""
    r"""|(?P<word>[^\W\d]\w*)|(?P<comment>--|/\*)|(?P<sign>\|\||[<>!]=|<>|[-+*/%=<>])|(?P<mark>[(),\[\]])|(?P<wrong>\S)"""
)
_WORDS = frozenset(["AND", "BETWEEN", "ESCAPE", "FALSE", "ILIKE", "IN", "IS", "LIKE", "NOT", "NULL", "OR", "TRUE"])
_HIDDEN = ("vector", "vector_checksum", "row_checksum")  # columns that say nothing to a user
_OPERATORS = _WORDS - {"ESCAPE", "FALSE", "NULL", "TRUE"}
# Functions whose cost grows with the row alone, and which say nothing of the machine.
_FUNCTIONS = frozenset(["abs", "array_has", "array_length", "contains", "length", "lower", "starts_with", "upper"])


def quoted(text: str) -> str:
    """A text as an SQL literal: the only character that can end one is doubled."""
    return "'" + text.replace("'", "''") + "'"


def id_filters(ids: Sequence[str]) -> Iterator[str]:
    """Filters that together match exactly these ids, a bounded number in each."""
    for start in range(0, len(ids), IDS_A_STATEMENT):
        yield f"id IN ({', '.join(map(quoted, ids[start : start + IDS_A_STATEMENT]))})"


def shown(where: str) -> str:
    """A filter as a message shows it: cut where it is long."""
    return repr(where if len(where) <= _SHOWN_CHARACTERS else where[: _SHOWN_CHARACTERS - 3] + "...")


def check_filter(where: str, columns: Sequence[str]) -> None:
    """Refuse a filter that is more than one condition on these columns, or costs more than to look at each row.

    LanceDB's parser passes over what follows a whole condition: the filter is run as `bracketed`.

    Raises:
        InputError: names what is wrong: a column, with near matches, a function, a sign, the length or the depth.
    """
    if not where.strip():
        raise InputError("the filter is empty; write a condition such as \"split = 'test'\", or leave it out")
    if len(where) > MAX_FILTER_CHARACTERS:
        raise InputError(f"the filter has {len(where):,} characters; {MAX_FILTER_CHARACTERS:,} are allowed")
    parts = [(found.lastgroup, found.group()) for found in _PARTS.finditer(where)]
    brackets = [(part in ("(", "[")) - (part in (")", "]")) for _, part in parts]
    # A bracket that closes more than was opened before it could leave the conditions around the filter.
    depths = list(accumulate(brackets))
    if min(depths) < 0 or depths[-1] != 0:
        raise InputError(f"the brackets of the filter {shown(where)} do not match; close every one that is opened")
    if max(*depths, sum(part.upper() == "NOT" for _, part in parts)) > MAX_FILTER_DEPTH:
        raise InputError(f"the filter is nested too deeply; at most {MAX_FILTER_DEPTH} brackets or NOTs are allowed")
    # Each may nest what comes before it, and each takes of the parser's stack.
    if (num_signs := sum(kind == "sign" or part.upper() in _OPERATORS for kind, part in parts)) > MAX_FILTER_SIGNS:
        raise InputError(
            f"the filter has {num_signs:,} comparisons, sums and words between conditions; {MAX_FILTER_SIGNS} are"
            " allowed: compare with many values by IN (...)"
        )
    if sum(part == "||" for _, part in parts) > MAX_FILTER_JOINS:
        raise InputError(f"the filter joins texts too often; at most {MAX_FILTER_JOINS} || are allowed")
    known = {name.casefold(): name for name in columns if name not in _HIDDEN}
    for (kind, part), (_, after) in zip(parts, [*parts[1:], (None, "")], strict=True):
        name = part[1:-1] if kind == "column" else part
        if kind == "wrong" and part in "'\"`":
            raise InputError(f"the filter {shown(where)} has a quote that is not closed; one inside of text is doubled")
        if kind in ("comment", "wrong"):
            raise InputError(f"the filter holds {part!r} outside quotes; write one condition, no comments")
        if kind == "word" and after == "(" and part.upper() not in _WORDS:
            if part.lower() not in _FUNCTIONS:
                raise InputError(f"the filter calls {part!r:.40}; allowed functions: {', '.join(sorted(_FUNCTIONS))}")
        elif name.casefold() not in known and (kind == "column" or (kind == "word" and part.upper() not in _WORDS)):
            names = list(known.values())
            close = get_close_matches(name[:_SHOWN_CHARACTERS], names, n=1)
            hint = f": did you mean {close[0]}?" if close else "."
            problem = f"no column is called {shown(name)}{hint} Columns: {', '.join(names)}"
            raise InputError(f"the filter {shown(where)}: {problem}")


def bracketed(where: str | None) -> str | None:
    """A checked filter as it is run: what follows a whole condition is an error then."""
    return None if where is None else f"({where})"


def check_columns(columns: Sequence[str], known: Sequence[str]) -> None:
    """Raises InputError naming the first column that does not exist, with near matches."""
    for column in columns:
        if column not in known:
            raise InputError(f"no column is called {column!r}: {nearest(column, list(known))}")
