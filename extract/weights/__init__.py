"""Weights: published ones by tag, files and folders of them, and loading them into a network."""

from .files import digest_of_weights, known_file_sha256, load_into, read_state_dict
from .folders import check_configuration, folder_sha256, weights_file
from .models import ModelFolder, model_folder
from .packages import READY_ADVICE
from .published import (
    cached_weights,
    fetch_weights,
    find_source,
    is_at_hand,
    known_sha256,
    local_weights,
    num_bytes,
    origin,
    weights_sha256,
)

__all__ = [
    "READY_ADVICE",
    "ModelFolder",
    "cached_weights",
    "check_configuration",
    "digest_of_weights",
    "fetch_weights",
    "find_source",
    "folder_sha256",
    "is_at_hand",
    "known_file_sha256",
    "known_sha256",
    "load_into",
    "local_weights",
    "model_folder",
    "num_bytes",
    "origin",
    "read_state_dict",
    "weights_file",
    "weights_sha256",
]
