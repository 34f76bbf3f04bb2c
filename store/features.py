"""The feature store: shards, in one folder for each feature, which any number of processes may write into.

Writers never meet, because a shard's name is the hash of its bytes; readers see a shard when its sidecar is there and
never before. Nothing but sidecars is read to know what the store holds, and where its rows lie.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import system_error, taken_over
from .._vocabulary import FeatureArray, FeatureSpec, FrameloomError, InputError, IntegrityError, Outcome, Status
from .formats import (
    FORMATS,
    REMEDY,
    SUFFIX,
    Contents,
    Entry,
    Part,
    Rows,
    Sample,
    ShardFile,
    ShardGoneError,
    ShardInfo,
    Sidecar,
    bytes_of,
    check_samples,
    encode_sidecar,
    read_sample,
    read_sidecar,
    times_part,
    values_part,
)
from .places import FEATURE_NAME, OURS, Listed, open_place

_log = logging.getLogger(__name__)
_TRIES = 3
_BEST_FIRST = (Outcome.INDEXED, Outcome.PARTIAL, Outcome.REJECTED, Outcome.QUARANTINED, Outcome.PENDING)
_PLACE_BITS = 32
_Stamp = tuple[str, int, int]  # of a sidecar, its size, and its shard's size


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the store that is not what was written."""

    path: Path  # of the file, or where a remote file's copy would lie
    message: str  # with the file's address
    refusal: FrameloomError | None = None  # the system's, where the file may well be whole


class Index:
    """Where the sample of every fingerprint is, and which one counts where there are several.

    One integer for each: of integers Python's garbage collector keeps no account, and of as many pairs it would.
    """

    def __init__(self) -> None:
        self.located: dict[str, int] = {}
        self.sidecars: list[Sidecar] = []

    def where(self, located: int) -> tuple[Sidecar, int]:
        """The sidecar of a sample, and its place there."""
        return self.sidecars[located >> _PLACE_BITS], located & ~(-1 << _PLACE_BITS)

    def add(self, sidecar: Sidecar) -> None:
        """Add a sidecar's samples. Of a fingerprint that is there twice, the better outcome stays."""
        first = len(self.sidecars) << _PLACE_BITS
        self.sidecars.append(sidecar)
        names = sidecar.column("fingerprint")
        news = zip(names, range(first, first + len(sidecar)), strict=True)
        if self.located.keys().isdisjoint(names):  # as it is but for retries
            self.located.update(news)
            return
        for fingerprint, located in news:
            known = self.located.get(fingerprint)
            if known is None or self._rank(located) < self._rank(known):
                self.located[fingerprint] = located

    def _rank(self, located: int) -> tuple[int, str]:
        sidecar, place = self.where(located)
        return _BEST_FIRST.index(Status(sidecar.column("status")[place]).outcome), sidecar.shard.name


class FeatureStore:
    """Features by fingerprint.

    Args:
        root: the store's folder, or an address that fsspec knows, as ``s3://bucket/prefix``. It need not exist: the
            first write makes it. A bucket must exist, and its credentials are those of its service's own variables
            and files. See `places` for what is kept where.

    Attributes:
        root: the folder as a path, or the address as text.
        place: where the shards lie.

    Raises:
        ConfigError: the address cannot be one of a store. Whether it can be reached shows when it is first used, and so
            does whether it is of a format that this version reads.
    """

    def __init__(self, root: Path | str) -> None:
        self.place = open_place(root)
        self.root = self.place.root
        self._loaded: dict[Path, tuple[_Stamp, Sidecar]] = {}
        self._index: Index | None = None
        self._problems: list[Problem] = []
        self._refreshing = threading.RLock()
        self._files = self.place.shard_files()
        self._by_shard: dict[Path, Sidecar] = {}

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r})"

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path | str]]:  # a copy elsewhere opens its own files
        return FeatureStore, (self.root,)

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
            InputError: a sample must not be stored (wrong width or type, NaN, a duplicate fingerprint).
            LockedError: another process has taken the store over and swept this shard away before it was complete.
            UnknownNameError: there is no such format.
            OutOfSpaceError: the disk is full; nothing that was committed is lost.
            FrameloomError: a remote store cannot be reached, or refuses; nothing that was committed is lost.
        """
        if not FEATURE_NAME.fullmatch(feature):
            allowed = "letters, digits, '_', '.' and '-' are allowed, starting with a letter or digit"
            raise InputError(f"feature name {feature!r}: {allowed}")
        shard_format = FORMATS[format]
        samples = check_samples(samples, spec=spec)
        contents: Contents | None = None

        def write(target: io.RawIOBase) -> None:
            nonlocal contents
            contents = shard_format.write(target, samples, spec=spec)

        num_bytes = sum(sample.feature.values.nbytes + sample.feature.times.nbytes for sample in samples)
        for _ in range(_TRIES):
            published = self.place.publish_by_content(
                feature, shard_format.suffix, write, num_bytes=num_bytes, kind="shard", token=token
            )
            path = published.path.with_suffix(SUFFIX)
            sidecar = self._committed_sidecar(published.path)
            if sidecar is None:
                if not self.place.has(published.path):
                    raise taken_over(published.path)
                assert contents is not None
                data = encode_sidecar(contents, num_bytes=published.num_bytes, sha256=published.sha256)
                sidecar = read_sidecar(self.place.address(path), shard_path=published.path, data=data)
                self.place.publish(path, data, kind="sidecar", token=token)
            # A sweep may have taken the shard for a dead writer's. Then it is written again: the store's new owner,
            # who has the same bytes, may rely on the sidecar by now.
            if self.place.has(published.path) and self.place.has(path):
                with self._refreshing:
                    if self._index is not None:
                        self._index.add(sidecar)
                return sidecar.shard
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
        """Remove what dead writers left behind: temporary files, and shards without sidecar that are not whole.

        A whole shard stays: its sidecar may be what was lost, and a repair writes it again. So does a sidecar without
        shard, for a writer commits it last: it says what was lost.

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
        files = list(self.place.files())
        paired = {file.path for pair in pairs_of(files) for file in pair if file is not None and None not in pair}
        lone = sorted((file for file in files if file.path not in paired), key=lambda file: file.path)
        old = [file.path for file in lone if file.age_seconds >= least or not least]
        removed = [path for path in old if not self._is_evidence(path) and self.place.remove_lone(path)]
        names = [self.place.address(path) for path in removed] + self.place.abandon(least)
        return [f"removed {name}, which a writer that was killed left unfinished" for name in names]

    def _is_evidence(self, path: Path) -> bool:
        """Whether a lone file is more than what a writer left unfinished."""
        try:
            is_shard = OURS.fullmatch(path.name) and path.suffix != SUFFIX
            return self.place.sha256(path).startswith(path.stem) if is_shard else path.suffix == SUFFIX
        except OSError:  # it has just been completed or removed, or cannot be read
            return True

    # Knowing

    def refresh(self) -> None:
        """See what other processes have committed since. Sidecars that have not changed are not read again."""
        with self._refreshing:
            pairs = pairs_of(self.place.files())
            committed = {sidecar.path: (sidecar, shard) for sidecar, shard in pairs if sidecar and shard}
            loaded: dict[Path, tuple[_Stamp, Sidecar]] = {}
            news: dict[Path, _Stamp] = {}
            for path, (sidecar, shard) in committed.items():
                stamp, known = (sidecar.stamp, sidecar.size, shard.size), self._loaded.get(path)
                if known is not None and known[0] == stamp:
                    loaded[path] = known
                else:
                    news[path] = stamp
            problems = self._read_new(news, committed, loaded)
            index = Index()
            for path in sorted(loaded):
                index.add(loaded[path][1])
            # Whole or not at all: another thread that reads meanwhile sees the state before or the one after.
            self._loaded, self._problems, self._index = loaded, problems, index
            self._by_shard = {sidecar.shard.path: sidecar for _, sidecar in loaded.values()}

    def _read_new(
        self,
        news: Mapping[Path, _Stamp],
        committed: Mapping[Path, tuple[Listed, Listed]],
        loaded: dict[Path, tuple[_Stamp, Sidecar]],
    ) -> list[Problem]:
        """Read sidecars into ``loaded``. Returns those that cannot be trusted."""
        problems: list[Problem] = []
        fetched = self.place.contents([committed[path][0] for path in news])
        for path, stamp in news.items():
            shard, data = committed[path][1], fetched.get(path)
            try:
                data = self.place.read_bytes(path) if data is None else data
                sidecar = read_sidecar(self.place.address(path), shard_path=shard.path, data=data)
                if sidecar.shard.num_bytes != shard.size:
                    sizes = f"{shard.size:,} bytes, {sidecar.shard.num_bytes:,} were written"
                    raise IntegrityError(f"shard {self.place.address(shard.path)} has {sizes}; {REMEDY}")
                loaded[path] = (stamp, sidecar)
            except FileNotFoundError:  # discarded by another process between the listing and now
                continue
            except OSError as error:
                name = f"sidecar {self.place.address(path)}"
                problems.append(Problem(path, f"{name} cannot be read: {error}", system_error(error, name)))
            except IntegrityError as error:
                problems.append(Problem(path, str(error)))
        for problem in problems:
            _log.warning("%s", problem.message)
        return problems

    @property
    def _entries(self) -> Index:
        if self._index is None:
            with self._refreshing:
                if self._index is None:
                    self.refresh()
        assert self._index is not None
        return self._index

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

    def sidecar(self, shard: Path) -> Sidecar:
        """What the sidecar of a shard says, by the shard's path. Raises IntegrityError where there is none."""
        found = self._by_shard.get(shard)
        if found is None:  # a copy of this store in another process has not listed what there is
            path = shard.with_suffix(SUFFIX)
            try:
                data = self.place.read_bytes(path)
            except FileNotFoundError as error:
                raise ShardGoneError(f"shard {shard} is gone; run sync again to make it anew") from error
            found = self._by_shard[shard] = read_sidecar(self.place.address(path), shard_path=shard, data=data)
        return found

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

        def read(entry: Entry) -> FeatureArray:
            values, times = self._use(entry, lambda file: read_sample(file, entry))
            return FeatureArray(values, times, entry.status, entry.message)

        return self._found(fingerprint, read)

    def read_span(self, fingerprint: str, start_seconds: float, end_seconds: float) -> FeatureArray:
        """The rows whose interval's middle lies in ``[start_seconds, end_seconds)``.

        A span that no row falls into gives no rows and the status ``too_short``. Of what lies outside of the span no
        more is read than the blocks that it begins and ends in.

        Raises:
            InputError: the fingerprint is not in the store.
            IntegrityError: what was read is not what was written.
        """
        return self._found(fingerprint, lambda entry: self._read_span(entry, start_seconds, end_seconds))

    def _read_span(self, entry: Entry, start_seconds: float, end_seconds: float) -> FeatureArray:
        times = np.empty((entry.num_rows, 2))
        self._use(entry, lambda file: file.read([times_part(entry, times)]))
        twice = times[:, 0] + times[:, 1]  # the middles, without halving each
        inside = ((twice >= 2.0 * float(start_seconds)) & (twice < 2.0 * float(end_seconds))).nonzero()[0]
        if not len(inside):
            span = f"[{start_seconds:.3f}, {end_seconds:.3f}) s"
            return _no_rows(entry, Status.TOO_SHORT, f"no row of {entry.feature} lies in {span}")
        first, last = int(inside[0]), int(inside[-1]) + 1
        values = np.empty((last - first, entry.shard.dim), entry.shard.dtype)
        self._use(entry, lambda file: file.read([values_part(entry, values, first)]))
        kept = inside - first if len(inside) < len(values) else slice(None)
        return FeatureArray(values[kept], times[inside], entry.status, entry.message)

    def _found(self, fingerprint: str, read: Callable[[Entry], FeatureArray]) -> FeatureArray:
        """What is read; also when its shard has gone because it was merged with others meanwhile."""
        try:
            return self._known(fingerprint, read)
        except ShardGoneError:
            self._files.close()
            self.refresh()
            if fingerprint not in self:
                raise
            return self._known(fingerprint, read)

    def _known(self, fingerprint: str, read: Callable[[Entry], FeatureArray]) -> FeatureArray:
        entry = self.entry(fingerprint)
        if entry is None:
            raise InputError(f"no feature {fingerprint} in {self.root}; run extract, or refresh this reader")
        return read(entry) if entry.num_rows else _no_rows(entry, entry.status, entry.message)

    def _use(self, entry: Entry, read: Callable[[ShardFile], Any]) -> Any:
        """What ``read`` returns, given the open shard of a sample. Raises IntegrityError naming both."""
        try:
            return self._files.use(entry.shard.path, read)
        except IntegrityError as error:
            if error.__cause__ is None or isinstance(error, ShardGoneError):  # of the whole shard
                raise
            shard = self.place.address(entry.shard.path)
            name = f"sample {entry.key!r} ({entry.fingerprint}) in shard {shard}"
            raise IntegrityError(f"{name} is damaged ({error.__cause__}); {REMEDY}") from error

    def read_rows(self, shard: Path, first: int, last: int) -> NDArray[Any]:
        """Rows ``[first, last)`` of a shard's values (T, D), for readers that keep a plan of their own.

        Args:
            shard: `ShardInfo.path`.
            first: as `Entry.first_row` counts.
            last: the row after the last.

        Raises:
            IntegrityError: the shard is gone, or not what was written.
        """
        sidecar = self.sidecar(shard)
        return self._new_rows(shard, sidecar.values, first, last, sidecar.shard.dim, sidecar.shard.dtype, ahead=True)

    def read_rows_into(self, shard: Path, spans: Sequence[tuple[int, int]], targets: Sequence[memoryview]) -> None:
        """Rows ``[first, last)`` of a shard's values for each span, straight into memory that is already there.

        Args:
            shard: `ShardInfo.path`.
            spans: as `Entry.first_row` counts. Those that follow each other in the file are read at once.
            targets: for each span the bytes of a writable array, contiguous in C order, that holds exactly these rows.

        Raises:
            IntegrityError: the shard is gone, or not what was written, or has no such rows. Targets are then undefined.
        """
        parts = self._parts(shard, self.sidecar(shard).values, spans, targets)
        self._files.use(shard, methodcaller("read", parts, ahead=True))

    def read_times(self, shard: Path, first: int, last: int) -> NDArray[np.float64]:
        """Rows ``[first, last)`` of a shard's times (T, 2). Raises IntegrityError as `read_rows` does."""
        return self._new_rows(shard, self.sidecar(shard).times, first, last, 2, "float64", ahead=False)

    def _new_rows(
        self, shard: Path, rows: Rows, first: int, last: int, width: int, dtype: str, *, ahead: bool
    ) -> NDArray[Any]:
        if not 0 <= first <= last <= rows.first_rows[-1]:  # before memory is taken for them
            asked = f"rows {first} to {last} of {rows.first_rows[-1]} were asked for"
            raise IntegrityError(f"shard {self.place.address(shard)}: {asked}")
        found = np.empty((last - first, width), dtype)
        parts = self._parts(shard, rows, [(first, last)], [bytes_of(found)])
        self._files.use(shard, methodcaller("read", parts, ahead=ahead))
        return found

    def _parts(
        self, shard: Path, rows: Rows, spans: Sequence[tuple[int, int]], targets: Sequence[memoryview]
    ) -> list[Part]:
        try:
            return rows.parts(spans, targets)
        except ValueError as error:
            raise IntegrityError(f"shard {self.place.address(shard)}: {error}") from error

    def close(self) -> None:
        """Close open shards. They open again when they are read."""
        self._files.close()


def pairs_of(files: Iterable[Listed]) -> list[tuple[Listed | None, Listed | None]]:
    """Every sidecar with its shard, by path; None for one that is not there."""
    found: dict[tuple[str, str], dict[bool, Listed]] = {}
    for file in files:
        if OURS.fullmatch(file.path.name):
            found.setdefault((file.path.parent.name, file.path.stem), {})[file.path.suffix == SUFFIX] = file
    return [(found[name].get(True), found[name].get(False)) for name in sorted(found)]


def _no_rows(entry: Entry, status: Status, message: str) -> FeatureArray:
    return FeatureArray(np.zeros((0, entry.shard.dim), entry.shard.dtype), np.zeros((0, 2)), status, message)
