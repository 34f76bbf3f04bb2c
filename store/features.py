"""The feature store: shards, in one folder for each feature, which any number of processes may write into.

Writers never meet, because a shard's name is the hash of its bytes; readers see a shard when its sidecar is there and
never before. Nothing but sidecars is read to know what the store holds.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import taken_over
from .._vocabulary import FeatureArray, FeatureSpec, FrameloomError, InputError, IntegrityError, Status
from .formats import (  # noqa: F401 - members of FORMATS
    FORMATS,
    FROM_SIDECARS,
    REMEDY,
    SETTLED_SECONDS,
    SUFFIX,
    Entry,
    Known,
    PageSums,
    Sample,
    SampleChecks,
    ShardFormat,
    ShardGoneError,
    ShardInfo,
    Sidecar,
    Stamp,
    check_mark,
    check_samples,
    encode_sidecar,
    hash_with_sums,
    hdf5,
    promised_mark,
    read_sidecar,
    recall,
    remember,
    webdataset,
)
from .index import Index, keep_best
from .places import FEATURE_NAME, OURS, Listed, open_place

_log = logging.getLogger(__name__)
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the store that is not what was written: which file, and what is wrong with it.

    The path is that of the file, or where a remote file's copy would lie; the message has the address.
    """

    path: Path
    message: str


class FeatureStore:
    """Features by fingerprint.

    Args:
        root: the store's folder, or an address that fsspec knows, as ``s3://bucket/prefix``. It need not exist: the
            first write makes it. A bucket must exist, and its credentials are those of its service's own variables
            and files. See `_places` for what is kept where.

    Attributes:
        root: the folder as a path, or the address as text.
        place: where the shards lie.

    Raises:
        ConfigError: the address cannot be one of a store. Whether it can be reached shows when it is first used.
    """

    def __init__(self, root: Path | str) -> None:
        self.place = open_place(root)
        self.root = self.place.root
        self._loaded = Known()
        self._index: Index | None = None
        self._problems: list[Problem] = []
        self._refreshing = threading.RLock()
        self._reader = self.place.reader(self._check_shard)
        self._checks = SampleChecks()
        self._marks: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r})"

    def __getstate__(self) -> dict[str, Any]:
        marks = {sidecar.shard.name: promised_mark(sidecar) for _, sidecar in self._loaded.values()}
        return {"root": self.root, "marks": self._marks | marks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]  # a copy in another process opens its own files
        self._marks = state["marks"]  # and parses no sidecar to know what they must be

    # Writing

    def write_shard(
        self, feature: str, samples: Sequence[Sample], *, spec: FeatureSpec, token: str = "", format: str = "hdf5"
    ) -> ShardInfo:
        """Commit samples as one shard: its file, then its sidecar, each of which is there whole or not at all.

        Any number of processes may do so at once. The same samples in the same order give the same bytes under the
        same name, so a repeated call leaves what it finds.

        Args:
            feature: name of the feature and of its folder.
            samples: what to store. A sample without rows keeps its status and message.
            spec: what the samples were computed by.
            token: names the writer in temporary files' names; this process, where none is given.
            format: name of a member of `FORMATS`. A store may hold shards of several.

        Raises:
            InputError: a sample must not be stored (wrong width or type, NaN, a fingerprint that is there twice).
            LockedError: another process has taken the store over and swept this shard away before it was complete.
            UnknownNameError: there is no such format.
            OutOfSpaceError: the disk is full; nothing that was committed is lost.
            FrameloomError: a remote store cannot be reached, or refuses; nothing that was committed is lost.
        """
        _check_feature_name(feature)
        shard_format = FORMATS[format]
        samples = check_samples(samples, spec=spec)
        sidecar = self._publish(feature, samples, spec=spec, token=token, shard_format=shard_format)
        with self._refreshing:
            if self._index is not None:
                keep_best(self._index, sidecar)
        return sidecar.shard

    def _publish(
        self, feature: str, samples: Sequence[Sample], *, spec: FeatureSpec, token: str, shard_format: ShardFormat
    ) -> Sidecar:
        """Commit shard and sidecar, and look whether both are there: a sweep may have taken the shard for litter.

        Then it is written again: the store's new owner, who has the same bytes, may rely on the sidecar by now.
        """
        num_bytes = sum(sample.feature.values.nbytes + sample.feature.times.nbytes for sample in samples)
        for _ in range(_TRIES):
            published = self.place.publish_by_content(
                feature,
                shard_format.suffix,
                lambda target: shard_format.write(target, samples, spec=spec),
                num_bytes=num_bytes,
                kind="shard",
                token=token,
            )
            path, sidecar = published.path.with_suffix(SUFFIX), self._committed_sidecar(published.path)
            if sidecar is None:
                if not self.place.has(published.path):
                    raise taken_over(published.path)
                data = encode_sidecar(samples, spec=spec, num_bytes=published.num_bytes, sha256=published.sha256)
                sidecar = read_sidecar(self.place.address(path), shard_path=published.path, data=data)
                self.place.publish(path, data, kind="sidecar", token=token)
            if self.place.has(published.path) and self.place.has(path):
                return sidecar
        self.place.remove_lone(path)
        raise taken_over(published.path)

    def _committed_sidecar(self, shard: Path) -> Sidecar | None:
        """The sidecar of a shard; None where it is absent or damaged: either way it is written anew."""
        path = shard.with_suffix(SUFFIX)
        try:
            return read_sidecar(self.place.address(path), shard_path=shard, data=self.place.read_bytes(path))
        except (OSError, IntegrityError):
            return None

    def discard(self, shard: ShardInfo) -> None:
        """Remove one shard, its sidecar first, so that no instant shows a sidecar without its shard's samples."""
        self.place.remove([shard.path.with_suffix(SUFFIX), shard.path])
        self.refresh()

    def sweep(self, *, older_than_seconds: float | None = None) -> list[str]:
        """Remove what dead writers left behind: temporary files, shards without sidecar and the reverse.

        Only for the holder of the writer lock, before it starts workers. That lock is one of this machine. Others may
        write to the same remote store under locks of their own, so there only what is a day old is taken for dead.
        What is younger harms nobody: no reader sees it, and a rerun of the same work takes it up.

        Args:
            older_than_seconds: how long ago it must have been left; None takes what is right for the place: at once
                in a folder, a day in a remote store. Only who knows that nobody else writes gives less.

        Returns:
            a sentence for each file removed.
        """
        least = self.place.swept_seconds if older_than_seconds is None else older_than_seconds
        old = [file.path for file in _litter(self.place.files()) if file.age_seconds >= least or not least]
        removed = [path for path in old if self.place.remove_lone(path)]
        names = [self.place.address(path) for path in removed] + self.place.abandon(least)
        return [f"removed {name}, which a writer that was killed left unfinished" for name in names]

    # Knowing

    def refresh(self, *, remembered: bool = True) -> None:
        """See what other processes have committed since. Sidecars that have not changed are not read again.

        Args:
            remembered: whether what this machine has kept of a store of very many shards (`_remembered`) may be used.
        """
        with self._refreshing:
            committed = {sidecar.path: (sidecar, shard) for sidecar, shard in _committed(self.place.files())}
            before = self._loaded
            if remembered and not before and len(committed) >= FROM_SIDECARS:
                before = recall(self.root, self.place.folder)
            loaded, news = Known(), dict[Path, Stamp]()
            for path, (sidecar, shard) in committed.items():
                stamp, known = (sidecar.stamp, sidecar.size, shard.size), before.get(path)
                if known is not None and known[0] == stamp:
                    loaded[path] = known
                else:
                    news[path] = stamp
            problems = self._read_anew(news, committed, loaded)
            index = Index()
            for path in sorted(loaded):
                keep_best(index, loaded[path][1])
            # Whole or not at all: another thread that reads meanwhile sees the state before or the one after.
            self._loaded, self._problems, self._index = loaded, problems, index
            if len(news) >= FROM_SIDECARS:
                settled = {
                    path: known for path, known in loaded.items() if committed[path][0].age_seconds >= SETTLED_SECONDS
                }
                remember(self.root, settled)

    def _read_anew(
        self, news: Mapping[Path, Stamp], committed: Mapping[Path, tuple[Listed, Listed]], loaded: Known
    ) -> list[Problem]:
        """Read sidecars into ``loaded``. Returns those that cannot be trusted."""
        problems: list[Problem] = []
        fetched = self.place.contents([committed[path][0] for path in news])
        for path, stamp in news.items():
            try:
                loaded[path] = (stamp, self._load(path, committed[path][1], fetched.get(path)))
            except FileNotFoundError:  # discarded by another process between the listing and now
                continue
            except IntegrityError as error:
                problems.append(Problem(path, str(error)))
                _log.warning("%s", error)
        return problems

    def _load(self, path: Path, shard: Listed, data: bytes | None) -> Sidecar:
        name: Path | str = path if data is None else self.place.address(path)
        sidecar = read_sidecar(name, shard_path=shard.path, data=data)
        if sidecar.shard.num_bytes != shard.size:
            expected = f"{shard.size:,} bytes, {sidecar.shard.num_bytes:,} were written"
            raise IntegrityError(f"shard {self.place.address(shard.path)} has {expected}; {REMEDY}")
        return sidecar

    @property
    def _entries(self) -> Index:
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
        return fingerprint in self._entries.located

    def __len__(self) -> int:
        return len(self._entries.located)

    def entry(self, fingerprint: str) -> Entry | None:
        """What is known of one fingerprint; None when it is not in the store."""
        index = self._entries
        located = index.located.get(fingerprint)
        if located is None:
            return None
        sidecar, place = index.where(located)
        return sidecar[place]

    def entries(self, feature: str | None = None) -> Iterator[Entry]:
        """Every sample of one feature, or of all. Of a fingerprint that is there twice, the better outcome."""
        index = self._entries
        known = map(index.where, list(index.located.values()))
        return (sidecar[place] for sidecar, place in known if feature in (None, sidecar.shard.feature))

    def shards(self) -> list[ShardInfo]:
        """Every committed shard."""
        assert self._entries is not None
        return [sidecar.shard for _, sidecar in self._loaded.values()]

    def num_bytes(self) -> int:
        """Size of all committed shards and their sidecars."""
        assert self._entries is not None
        return sum(stamp[1] + stamp[2] for stamp, _ in self._loaded.values())

    # Reading

    def read(self, fingerprint: str) -> FeatureArray:
        """One feature: values (T, D), times (T, 2), status and message.

        Raises:
            InputError: the fingerprint is not in the store.
            IntegrityError: the shard or the sample is not what was written; names both.
        """
        return self._found(fingerprint, lambda: self._read(fingerprint))

    def _read(self, fingerprint: str) -> FeatureArray:
        entry = self._known(fingerprint)
        if not entry.num_rows:
            return _no_rows(entry, entry.status, entry.message)
        numbers = self._sample(entry)
        if numbers is None and self.place.forget(entry.shard.path):  # the copy on this machine may be what is damaged
            self._reader.close()
            numbers = self._sample(entry)
        if numbers is None:
            shard = self.place.address(entry.shard.path)
            raise IntegrityError(f"sample {entry.key!r} ({fingerprint}) in shard {shard} is damaged; {REMEDY}")
        return FeatureArray(*numbers, entry.status, entry.message)

    def _sample(self, entry: Entry) -> tuple[NDArray[Any], NDArray[np.float64]] | None:
        """A sample's values and times; None where they are not what was written."""
        last = entry.first_row + entry.num_rows
        values, times = self._reader.read(entry.shard.path, first=entry.first_row, last=last, verify=False)
        return (values, times) if self._checks.holds(entry.fingerprint, entry.checksum, values, times) else None

    def read_span(self, fingerprint: str, start_seconds: float, end_seconds: float) -> FeatureArray:
        """The rows whose interval's middle lies in ``[start_seconds, end_seconds)``.

        A span that no row falls into gives no rows and the status ``too_short``. What lies outside of the span is not
        read; what lies inside is compared with what the shard was when it was hashed.

        Raises:
            InputError: the fingerprint is not in the store.
            IntegrityError: the shard is not what was written.
        """
        return self._found(fingerprint, lambda: self._read_span(fingerprint, start_seconds, end_seconds))

    def read_rows(self, shard: Path, first: int, last: int, *, verify: bool = True) -> NDArray[Any]:
        """Rows ``[first, last)`` of a shard's values (T, D), for readers that keep a plan of their own.

        Args:
            shard: `ShardInfo.path`.
            first: as `Entry.first_row` counts.
            last: the row after the last.
            verify: whether they are compared with what the shard was when it was hashed.

        Raises:
            IntegrityError: the shard is gone, or not what was written.
        """
        return self._reader.read(shard, first=first, last=last, verify=verify)[0]

    def read_rows_into(
        self, shard: Path, spans: Sequence[tuple[int, int]], targets: Sequence[memoryview], *, verify: bool = True
    ) -> None:
        """Rows ``[first, last)`` of a shard's values for each span, straight into memory that is already there.

        Args:
            shard: `ShardInfo.path`.
            spans: as `Entry.first_row` counts. In ascending order they are read fastest.
            targets: for each span the bytes of a writable array, contiguous in C order, that holds exactly these rows.
            verify: whether they are compared with what the shard was when it was hashed. Whoever compares the rows
                with what they were when they were verified need not.

        Raises:
            IntegrityError: the shard is gone, or not what was written, or has no such rows. Targets are then undefined.
        """
        self._reader.read_into(shard, spans, targets, verify=verify)

    def read_times(self, shard: Path, first: int, last: int) -> NDArray[np.float64]:
        """Rows ``[first, last)`` of a shard's times (T, 2), verified; perhaps not to be written to.

        Raises IntegrityError as `read_rows` does.
        """
        return self._reader.read_times(shard, first=first, last=last)

    def _found(self, fingerprint: str, read: Callable[[], FeatureArray]) -> FeatureArray:
        """What is read; also when its shard has gone because it was merged with others meanwhile."""
        try:
            return read()
        except ShardGoneError:
            self._reader.close()
            self.refresh()
            if fingerprint not in self:
                raise
            return read()

    def _read_span(self, fingerprint: str, start_seconds: float, end_seconds: float) -> FeatureArray:
        entry = self._known(fingerprint)
        if not entry.num_rows:
            return _no_rows(entry, entry.status, entry.message)
        path, last = entry.shard.path, entry.first_row + entry.num_rows
        starts, ends = self._reader.read_times(path, first=entry.first_row, last=last).T
        twice = starts + ends  # the middles, without halving each
        inside = ((twice >= 2.0 * float(start_seconds)) & (twice < 2.0 * float(end_seconds))).nonzero()[0]
        if not len(inside):
            span = f"[{start_seconds:.3f}, {end_seconds:.3f}) s"
            return _no_rows(entry, Status.TOO_SHORT, f"no row of {entry.feature} lies in {span}")
        first, last = entry.first_row + int(inside[0]), entry.first_row + int(inside[-1]) + 1
        values, times = self._reader.read(path, first=first, last=last)
        if len(inside) < len(values):
            kept = inside - inside[0]
            values, times = values[kept], times[kept]
        return FeatureArray(values, times, entry.status, entry.message)

    def _known(self, fingerprint: str) -> Entry:
        entry = self.entry(fingerprint)
        if entry is None:
            raise InputError(f"no feature {fingerprint} in {self.root}; run extract, or refresh this reader")
        return entry

    def close(self) -> None:
        """Close open shards. They open again when they are read."""
        self._reader.close()

    # Checking

    def _check_shard(self, path: Path) -> PageSums:
        """Refuse a shard, or a copy, that is not, byte for byte, the one that was committed, or not its sidecar's."""
        sha256, sums = hash_with_sums(path)
        _check_hash(path, sha256, str(path))
        known = self._loaded.get(path.with_suffix(SUFFIX))
        promised = self._marks.get(path.stem) if known is None else promised_mark(known[1])
        if promised is not None:  # what this process has just written has no sidecar that it has read
            try:
                check_mark(path, promised)
            except IntegrityError as error:
                now = self._committed_sidecar(path)
                if now is None or promised_mark(now) == promised:
                    raise
                raise ShardGoneError(f"the sidecar of shard {path} was written anew: refresh this reader") from error
        return sums

    def verify(self) -> Iterator[Problem]:
        """Read every byte of the store and yield what is not as it was written."""
        with self._refreshing:
            self._loaded = Known()
            self.refresh(remembered=False)
        yield from self._problems
        for shard in self.shards():
            name = self.place.address(shard.path)
            try:
                _check_hash(shard.path, self.place.sha256(shard.path), name)
            except FrameloomError as error:
                yield Problem(shard.path, str(error))
            except OSError as error:
                yield Problem(shard.path, f"shard {name} cannot be read: {error}")


def _check_hash(path: Path, found: str, name: str) -> None:
    if found[: len(path.stem)] != path.stem:
        raise IntegrityError(f"shard {name} is not what was written (SHA-256 {found}); {REMEDY}")


def _check_feature_name(feature: str) -> None:
    if not FEATURE_NAME.fullmatch(feature):
        raise InputError(
            f"feature name {feature!r}: letters, digits, '_', '.' and '-' are allowed, starting with a letter or digit"
        )


def _committed(files: Iterable[Listed]) -> Iterator[tuple[Listed, Listed]]:
    """Every sidecar whose shard is there, with its shard, by path."""
    for first, second in itertools.pairwise(sorted(_finished(files), key=_order)):
        if first.name.endswith(SUFFIX) and not second.name.endswith(SUFFIX) and _order(first)[:2] == _order(second)[:2]:
            yield first, second


def _litter(files: Iterable[Listed]) -> list[Listed]:
    """Temporary files, and sidecars and shards that stand alone."""
    files = list(files)
    paired = {file.path for pair in _committed(files) for file in pair}
    return sorted((file for file in files if file.path not in paired), key=lambda file: file.path)


def _finished(files: Iterable[Listed]) -> Iterator[Listed]:
    return (file for file in files if OURS.fullmatch(file.name))


def _order(file: Listed) -> tuple[str, str, bool]:
    """Each sidecar just before its shard."""
    return file.feature, file.name.partition(".")[0], not file.name.endswith(SUFFIX)


def _no_rows(entry: Entry, status: Status, message: str) -> FeatureArray:
    return FeatureArray(np.zeros((0, entry.shard.dim), entry.shard.dtype), np.zeros((0, 2)), status, message)
