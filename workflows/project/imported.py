"""Weights of features that were made elsewhere: an identity of their own, which claims nothing.

``weights: imported:NAME`` says that a feature's numbers came from another program, under a name that the user chose.
They never count as features of published weights, and nothing is ever extracted under that identity.
"""

from __future__ import annotations

import re

from ..._vocabulary import ConfigError

PREFIX = "imported:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def imported_weights(weights: str | None) -> str | None:
    """The weights' digest for a fingerprint when they are ``imported:NAME``; None for any others.

    Raises ConfigError for a name with other characters than letters, digits, ``.``, ``_`` and ``-``.
    """
    if weights is None or not weights.startswith(PREFIX):
        return None
    if not _NAME.fullmatch(weights.removeprefix(PREFIX)):
        raise ConfigError(
            f"weights: {weights!r:.100}: after {PREFIX!r} goes a name of at most 64 letters, digits, '.', '_' and '-'"
        )
    return weights


def refuse_imported(weights: str | None, backbone: str) -> None:
    """Raises ConfigError where a backbone is to run with weights that are elsewhere."""
    if imported_weights(weights) is not None:
        raise ConfigError(
            f"{backbone} with weights: {weights} takes features from `frameloom import` and cannot make any: import"
            " those that lack (--absent records the videos that have none), or name weights that are here"
        )
