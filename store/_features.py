"""The feature store: a folder of shards, one folder for each feature, which any number of processes may write into.

Writers never meet, because a shard's name is the hash of its bytes; readers see a shard when its sidecar is there and
never before. Nothing but sidecars is read to know what the store holds.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._vocabulary import FeatureArray, FeatureSpec, FrameloomError, InputError, IntegrityError, Outcome, Status
from . import hdf5
from ._commit import make_folder, publish, publish_by_content, sync_folder
from ._sidecar import SUFFIX, Entry, ShardInfo, encode_sidecar, read_sidecar
from .hdf5 import Sample, ShardReader, check_samples, sample_checksum, write_shard_file

_log = logging.getLogger(__name__)
_FEATURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
# Other files may stand in the store's folders; only these are ours to read or to remove.
_OURS = re.compile(r"[0-9a-f]{32}\.(h5|parquet)")
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.(h5|parquet)\..*\.tmp")
_BEST_FIRST = (Outcome.INDEXED, Outcome.PARTIAL, Outcome.REJECTED, Outcome.QUARANTINED, Outcome.PENDING)
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the store that is not what was written: which file, and what is wrong with it."""

    path: Path
    message: str


class FeatureStore:
    """Features by fingerprint.

    Args:
        root: the store's folder. It need not exist: the first write makes it.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._loaded: dict[Path, tuple[_Stamp, list[Entry]]] = {}
        self._index: dict[str, Entry] | None = None
        self._problems: list[Problem] = []
        self._refreshing = threading.RLock()
        self._reader = ShardReader(self._check_shard)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r})"

    def __getstate__(self) -> dict[str, Path]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]  # a copy in another process opens its own files

    # Writing

    def write_shard(self, feature: str, samples: Sequence[Sample], *, spec: FeatureSpec, token: str = "") -> ShardInfo:
        """Commit samples as one shard: its file, then its sidecar, each written aside, synced and renamed.

        Any number of processes may do so at once. The same samples in the same order give the same bytes under the
        same name, so a repeated call leaves what it finds.

        Args:
            feature: name of the feature and of its folder.
            samples: what to store. A sample without rows keeps its status and message.
            spec: what the samples were computed by.
            token: names the writer in temporary files' names.

        Raises:
            InputError: a sample must not be stored (wrong width or type, NaN, a fingerprint that is there twice).
            OutOfSpaceError: the disk is full; nothing that was committed is lost.
        """
        _check_feature_name(feature)
        check_samples(samples, spec=spec)
        folder = self.root / feature
        make_folder(folder)
        published = publish_by_content(
            folder,
            hdf5.SUFFIX,
            lambda target: write_shard_file(target, samples, spec=spec),
            num_bytes=sum(sample.feature.values.nbytes + sample.feature.times.nbytes for sample in samples),
            kind="shard",
            token=token,
        )
        path = published.path
        if not _is_committed(path):
            sidecar = encode_sidecar(samples, spec=spec, num_bytes=published.num_bytes, sha256=published.sha256)
            publish(path.with_suffix(SUFFIX), sidecar, kind="sidecar", token=token)
        entries = read_sidecar(path.with_suffix(SUFFIX), shard_path=path)
        with self._refreshing:
            if self._index is not None:
                _keep_best(self._index, entries)
        return entries[0].shard

    def discard(self, shard: ShardInfo) -> None:
        """Remove one shard, its sidecar first, so that no instant shows a sidecar without its shard's samples."""
        path = shard.path.with_suffix(SUFFIX)
        for doomed in (path, shard.path):
            doomed.unlink(missing_ok=True)
            sync_folder(doomed.parent)
        self.refresh()

    def sweep(self) -> list[str]:
        """Remove what dead writers left behind: temporary files, shards without sidecar and the reverse.

        Only for the holder of the writer lock, before it starts workers.

        Returns:
            a sentence for each file removed.
        """
        removed = [path for folder in self._folders() for path in _litter(folder)]
        for path in removed:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in removed}:
            sync_folder(folder)
        return [f"removed {path}, which a writer that was killed left unfinished" for path in removed]

    # Knowing

    def refresh(self) -> None:
        """See what other processes have committed since. Sidecars that have not changed are not read again."""
        with self._refreshing:
            before, loaded, problems = self._loaded, dict[Path, tuple[_Stamp, list[Entry]]](), list[Problem]()
            for path, stamp in self._committed():
                known = before.get(path)
                try:
                    loaded[path] = known if known and known[0] == stamp else (stamp, self._load(path, stamp))
                except FileNotFoundError:  # discarded by another process between the listing and now
                    continue
                except IntegrityError as error:
                    problems.append(Problem(path, str(error)))
                    _log.warning("%s", error)
            index: dict[str, Entry] = {}
            for path in sorted(loaded):
                _keep_best(index, loaded[path][1])
            # Whole or not at all: another thread that reads meanwhile sees the state before or the one after.
            self._loaded, self._problems, self._index = loaded, problems, index

    def _load(self, path: Path, stamp: _Stamp) -> list[Entry]:
        entries = read_sidecar(path, shard_path=path.with_suffix(hdf5.SUFFIX))
        shard_bytes = stamp[2]
        if entries[0].shard.num_bytes != shard_bytes:
            expected = f"{shard_bytes:,} bytes, {entries[0].shard.num_bytes:,} were written"
            raise IntegrityError(f"shard {entries[0].shard.path} has {expected}; {hdf5.REMEDY}")
        return entries

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if path.is_dir() and _FEATURE_NAME.fullmatch(path.name))

    def _committed(self) -> Iterator[tuple[Path, _Stamp]]:
        """Every sidecar whose shard is there, with its size and change time and the shard's size."""
        for folder in self._folders():
            with os.scandir(folder) as listing:
                files = {item.name: item for item in listing if _OURS.fullmatch(item.name)}
            for name, item in sorted(files.items()):
                shard = files.get(name.removesuffix(SUFFIX) + hdf5.SUFFIX)
                if not name.endswith(SUFFIX) or shard is None:
                    continue
                status = item.stat()
                yield Path(item.path), (status.st_size, status.st_mtime_ns, shard.stat().st_size)

    @property
    def _entries(self) -> dict[str, Entry]:
        index = self._index
        if index is None:
            with self._refreshing:
                if self._index is None:
                    self.refresh()
                index = self._index
        assert index is not None
        return index

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Sidecars and shards that the last `refresh` could not trust. They count as absent."""
        return tuple(self._problems)

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, fingerprint: str) -> Entry | None:
        """What is known of one fingerprint; None when it is not in the store."""
        return self._entries.get(fingerprint)

    def entries(self, feature: str | None = None) -> Iterator[Entry]:
        """Every sample of one feature, or of all. Of a fingerprint that is there twice, the better outcome."""
        return (entry for entry in list(self._entries.values()) if feature in (None, entry.feature))

    def shards(self) -> list[ShardInfo]:
        """Every committed shard."""
        assert self._entries is not None
        return [entries[0].shard for _, entries in self._loaded.values()]

    def num_bytes(self) -> int:
        """Size of all committed shards and their sidecars."""
        assert self._entries is not None
        return sum(stamp[0] + stamp[2] for stamp, _ in self._loaded.values())

    # Reading

    def read(self, fingerprint: str) -> FeatureArray:
        """One feature: values (T, D), times (T, 2), status and message.

        Raises:
            InputError: the fingerprint is not in the store.
            IntegrityError: the shard or the sample is not what was written; names both.
        """
        entry = self._known(fingerprint)
        if not entry.num_rows:
            return _no_rows(entry, entry.status, entry.message)
        last = entry.first_row + entry.num_rows
        values, times = self._reader.read(entry.shard.path, first=entry.first_row, last=last)
        if sample_checksum(values, times) != entry.checksum:
            raise IntegrityError(
                f"sample {entry.key!r} ({fingerprint}) in shard {entry.shard.path} is damaged; {hdf5.REMEDY}"
            )
        return FeatureArray(values, times, entry.status, entry.message)

    def read_span(self, fingerprint: str, start_seconds: float, end_seconds: float) -> FeatureArray:
        """The rows whose interval's middle lies in ``[start_seconds, end_seconds)``.

        A span that no row falls into gives no rows and the status ``too_short``. Chunks outside the span are not read;
        those inside are checked by HDF5's own checksums.

        Raises:
            InputError: the fingerprint is not in the store.
            IntegrityError: the shard is not what was written.
        """
        entry = self._known(fingerprint)
        if not entry.num_rows:
            return _no_rows(entry, entry.status, entry.message)
        path, last = entry.shard.path, entry.first_row + entry.num_rows
        middles = self._reader.read_times(path, first=entry.first_row, last=last).mean(axis=1)
        inside = np.flatnonzero((middles >= start_seconds) & (middles < end_seconds))
        if not len(inside):
            span = f"[{start_seconds:.3f}, {end_seconds:.3f}) s"
            return _no_rows(entry, Status.TOO_SHORT, f"no row of {entry.feature} lies in {span}")
        first, last = entry.first_row + int(inside[0]), entry.first_row + int(inside[-1]) + 1
        values, times = self._reader.read(path, first=first, last=last)
        kept = inside - inside[0]
        return FeatureArray(values[kept], times[kept], entry.status, entry.message)

    def _known(self, fingerprint: str) -> Entry:
        entry = self.entry(fingerprint)
        if entry is None:
            raise InputError(f"no feature {fingerprint} in {self.root}; run extract, or refresh this reader")
        return entry

    def close(self) -> None:
        """Close open shards. They open again when they are read."""
        self._reader.close()

    # Checking

    def _check_shard(self, path: Path) -> None:
        """Refuse a shard that is not, byte for byte, the one that was committed."""
        found = _sha256(path)
        if found[: len(path.stem)] != path.stem:
            raise IntegrityError(f"shard {path} is not what was written (SHA-256 {found}); {hdf5.REMEDY}")

    def verify(self) -> Iterator[Problem]:
        """Read every byte of the store and yield what is not as it was written."""
        self.refresh()
        yield from self._problems
        for shard in self.shards():
            try:
                self._check_shard(shard.path)
            except FrameloomError as error:
                yield Problem(shard.path, str(error))
            except OSError as error:
                yield Problem(shard.path, f"shard {shard.path} cannot be read: {error}")


def _is_committed(path: Path) -> bool:
    try:
        read_sidecar(path.with_suffix(SUFFIX), shard_path=path)
    except (OSError, IntegrityError):  # absent or damaged: either way it is written anew
        return False
    return True


def _check_feature_name(feature: str) -> None:
    if not _FEATURE_NAME.fullmatch(feature):
        raise InputError(
            f"feature name {feature!r}: letters, digits, '_', '.' and '-' are allowed, starting with a letter or digit"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _litter(folder: Path) -> list[Path]:
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    partner = {hdf5.SUFFIX: SUFFIX, SUFFIX: hdf5.SUFFIX}
    return [
        path
        for name, path in sorted(files.items())
        if _UNFINISHED.fullmatch(name) or (_OURS.fullmatch(name) and path.stem + partner[path.suffix] not in files)
    ]


def _keep_best(index: dict[str, Entry], entries: Sequence[Entry]) -> None:
    for entry in entries:
        known = index.get(entry.fingerprint)
        if known is None or _rank(entry) < _rank(known):
            index[entry.fingerprint] = entry


def _rank(entry: Entry) -> tuple[int, str]:
    return _BEST_FIRST.index(entry.status.outcome), entry.shard.name


def _no_rows(entry: Entry, status: Status, message: str) -> FeatureArray:
    return FeatureArray(np.zeros((0, entry.shard.dim), entry.shard.dtype), np.zeros((0, 2)), status, message)
