"""Identity: what a file, a feature and an embedding are called, so that nothing is recomputed whose name stands.

A fingerprint never contains a path, a date or a position: two files with the same bytes have the same features, and a
renamed or touched file keeps its own.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from .._vocabulary import FeatureSpec, MediaError, Status, digest_of


def feature_fingerprint(source_digest: str, spec: FeatureSpec, weights_digest: str) -> str:
    """The name of one feature of one source, as 32 hexadecimal digits.

    Args:
        source_digest: `Ledger.digests_of_files` of the media file, or the digest of a caption.
        spec: the backbone's specification; only its `identity` counts.
        weights_digest: what the backbone's weights hash to.
    """
    return digest_of(["feature", source_digest, spec.identity(), weights_digest])


def embedding_fingerprint(feature_fingerprints: Mapping[str, str], checkpoint_digest: str, **how: Any) -> str:
    """The name of one embedding, as 32 hexadecimal digits.

    Args:
        feature_fingerprints: fingerprint of the feature that went in, by the name of the model's input.
        checkpoint_digest: digest of the fusion model's weights and configuration.
        **how: JSON-ready facts that also decide the numbers, such as the span and the combination of modalities.
    """
    return digest_of(["embedding", dict(feature_fingerprints), checkpoint_digest, how])


def open_regular_file(path: Path) -> BufferedReader:
    """Open a file for reading without ever waiting on a pipe. Raises MediaError or OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MediaError(Status.NOT_REGULAR_FILE, f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def media_error(path: Path, error: OSError) -> MediaError:
    """The status under which a file that the operating system refuses is recorded."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MediaError(Status.MISSING, f"{path} does not exist")
    if error.errno in (errno.ENXIO, errno.ENODEV, errno.EISDIR):  # a socket, or a device without a driver
        return MediaError(Status.NOT_REGULAR_FILE, f"{path} is not a regular file")
    return MediaError(Status.UNREADABLE, f"{path} cannot be read: {error.strerror or error}")
