"""Weights: published ones by tag, files and folders of them, and loading them into a network."""

from .files import digest_of_weights, load_into, read_state_dict
from .folders import check_configuration, folder_sha256, weights_file
from .published import (
    cached_weights,
    fetch_weights,
    find_source,
    known_sha256,
    local_weights,
    weights_sha256,
)

__all__ = [
    "cached_weights",
    "check_configuration",
    "digest_of_weights",
    "fetch_weights",
    "find_source",
    "folder_sha256",
    "known_sha256",
    "load_into",
    "local_weights",
    "read_state_dict",
    "weights_file",
    "weights_sha256",
]
