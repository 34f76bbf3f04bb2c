"""Features that were made elsewhere, taken into a store: matched to videos, checked, and kept under an honest identity.

What is stored is named by the content of the video, the backbone's specification, and the weights. Only the first is
known here; the others are what the configuration says. So numbers of unknown making belong under
``weights: imported:NAME``, an identity that claims nothing and that nothing else shares. To put them under the identity
of real weights takes `vouch`, except for exports of ours, which carry the identity that they were stored under.

Rows are compared with the length of their video before they are read (`lengths.py`), and what is stored already with
what is stored. An import that was killed and is run again leaves the store as one that was not killed: what the killed
one had begun is swept away, and what it had finished is read again and compared. Its record is written last.

One array is in memory at a time, with the copies by which its values are checked and cast: the peak is at most four
times the larger of its bytes as they were and as they are stored (measured: 3.4 times 384 MB of float16), besides 64 MB
of arrays that wait for their shard to be full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import computed_field, field_serializer

from ..._files import is_temporary
from ..._settings import Settings
from ..._vocabulary import ConfigError, ExitCode, FeatureSpec, Modality, digest_of
from ...extract import Decoder
from ...store import code_version, writer_lock
from ..console import Console
from ..project import (
    ALLOWED_SECONDS,
    PREFIX,
    FeatureRequest,
    ImportRecord,
    Project,
    imported_weights,
    readable_path,
)
from ..sync import fingerprint_of, survey, text_digest
from .ingest import Rules, check_rate, import_features
from .layouts import Choice, Offers, find_offers
from .lengths import Lengths, compare_with_stored
from .matching import Target, match, read_mapping
from .records import chosen_features

_SHOWN = 10


class ImportReport(Settings):
    """The result of an import; with `dry_run`, the expected result.

    Attributes:
        feature: the project's name for it.
        identity: backbone and weights that it is stored under.
        imported: keys that were stored.
        already: how many were in the store, with the same numbers.
        absent: keys that were recorded as having none.
        refused: (origin, reason) of what was not taken.
        unmatched: origins that fit nothing in the collection.
        without: keys of the collection that nothing fits.
        unreadable: videos of the collection that could not be read, so that their content has no name.
        ignored: files in the folder that are not of this feature.
        unfit: (origin, sentence) of rows that were taken and end long before or after their video.
        unmeasured: keys of videos of unknown length, so that no rows were too many for them.
        dry_run: whether nothing was written.
    """

    feature: str
    identity: str
    imported: tuple[str, ...] = ()
    already: int = 0
    absent: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    unmatched: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    unfit: tuple[tuple[str, str], ...] = ()
    unmeasured: tuple[str, ...] = ()
    dry_run: bool = False

    @computed_field  # type: ignore[prop-decorator]
    @property
    def exit_code(self) -> int:
        """3 when something was refused, else 0."""
        return int(ExitCode.FAILURES if self.refused else ExitCode.OK)

    @field_serializer("refused", "unfit")
    def _as_objects(self, pairs: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
        return [{"path": origin, "message": reason} for origin, reason in pairs]

    def lines(self) -> Iterator[str]:
        """The report as text."""
        for origin, reason in self.refused[:_SHOWN]:
            yield f"  refused: {origin}: {reason}"
        if len(self.refused) > _SHOWN:
            yield f"  and {len(self.refused) - _SHOWN} more were refused (--json names all)"
        verb = "would import" if self.dry_run else "imported"
        yield f"{verb} {len(self.imported)} as features.{self.feature} ({self.identity}); {self.already} were there"
        sides = (
            (self.absent, f"{'would be ' if self.dry_run else ''}recorded as having none"),
            (self.unmatched, "fit nothing in the collection"),
            (self.without, "of the collection have nothing here"),
            (self.unreadable, "of the collection cannot be read, and only their content names them"),
            (self.ignored, "are files of another kind"),
            (self.unmeasured, "are of unknown length, and any number of rows is taken for them"),
        )
        for names, what in sides:
            if names:
                yield f"  {len(names)} {what}, such as {names[0]!r}"
        if self.unfit:
            origin, reason = self.unfit[0]
            taken = "would be" if self.dry_run else "were"
            yield f"  {len(self.unfit)} {taken} taken and are not as long as their video, such as {origin!r}: {reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest(Choice):
    """The request for an import: which numbers of a layout, and what becomes of them.

    Attributes:
        path: the folder or file.
        layout: one of `layouts.LAYOUTS`.
        feature: the project's name for it, or its backbone's.
        mapping: a .csv or .jsonl file with the columns ``file`` and ``video``, where names do not say it.
        rate_hz: rows a second, or
        seconds_per_row: its inverse; both None for the specification's.
        transposed: see `Rules`.
        cast: see `Rules`.
        allow_length: how many seconds after their video rows may end.
        vouch: whether the user confirms that the configured weights made these numbers.
        absent: whether videos without an offer are recorded as having none.
        dry_run: read and check everything, and write nothing.
    """

    path: Path
    layout: str
    feature: str
    mapping: Path | None = None
    rate_hz: float | None = None
    seconds_per_row: float | None = None
    transposed: bool = False
    cast: bool = False
    allow_length: float = ALLOWED_SECONDS
    vouch: bool = False
    absent: bool = False
    dry_run: bool = False


def import_into(project: Project, request: ImportRequest, console: Console) -> ImportReport:
    """Take features into a project's store, where `sync` then finds them.

    Raises:
        ConfigError: the request does not fit the configuration, or nothing matches.
        InputError: the layout's own file (a pickle, a manifest) cannot be trusted.
        LockedError: another process writes to the store.
        OutOfSpaceError: the disk is full; what was stored stays, and the same command goes on.
    """
    chosen = chosen_features(project, [request.feature])
    if len(chosen) > 1:
        raise ConfigError(f"--feature {request.feature}: it is both of {', '.join(chosen)}: name one of these")
    ((name, feature),) = chosen.items()
    spec, rules = feature.spec, _rules(request, feature.spec)
    found = find_offers(request.path, request.layout, replace(request, identity=feature.identity()))
    is_vouched = _check_claim(name, feature, found, vouch=request.vouch)
    targets, paths, unreadable = _targets(project, feature)
    matching = match(found.offers, targets, None if request.mapping is None else read_mapping(request.mapping))
    if not matching.pairs and not matching.refused:
        raise ConfigError(_nothing_matches(request, found, targets))
    with Decoder() as decoder, nullcontext() if request.dry_run else project.locked(writer_lock):
        if not request.dry_run:
            _sweep(project, console)
        lengths = Lengths(spec=spec, rules=rules, paths=paths, decoder=decoder, allow_seconds=request.allow_length)
        guarded = lengths.guarded(matching)
        num_same, others = compare_with_stored(project.store, feature, guarded, rules, console)
        result = import_features(
            project.store,
            spec,
            lambda digest: fingerprint_of(digest, feature),
            guarded,
            rules,
            console,
            dry_run=request.dry_run,
        )
        absent = _absent(project, feature, matching.without) if request.absent else {}
        if not request.dry_run and (result.imported or num_same or absent):
            _write_record(project, name, feature, request, rules, vouched=is_vouched, absent=absent)
    return ImportReport(
        feature=name,
        identity=f"{spec.name}, {feature.weights_digest:.24}",
        imported=tuple(result.imported),
        already=result.already - len(others),
        absent=tuple(absent),
        refused=(*matching.refused, *others, *result.refused),
        unmatched=matching.unmatched,
        without=tuple(target.key for target in matching.without if target.key not in absent),
        unreadable=unreadable,
        ignored=tuple(found.ignored),
        unfit=tuple(lengths.unfit.items()),
        unmeasured=tuple(lengths.unmeasured),
        dry_run=request.dry_run,
    )


def _sweep(project: Project, console: Console) -> None:
    """Take away what an import that was killed had begun, as `sync` does."""
    for line in project.store.sweep():
        console.say(line)
    folder = ImportRecord.folder(project.root)
    for path in [one for one in folder.glob(".*") if is_temporary(one.name)]:
        path.unlink(missing_ok=True)
    project.store.refresh()


def _rules(request: ImportRequest, spec: FeatureSpec) -> Rules:
    """Raises ConfigError for a rate that is not the specification's, which is part of the features' identity."""
    rate, seconds = request.rate_hz, request.seconds_per_row
    if rate is not None and seconds is not None:
        raise ConfigError("--rate-hz and --seconds-per-row say the same: give one")
    if any(one is not None and not (np.isfinite(one) and one > 0) for one in (rate, seconds)):
        raise ConfigError("--rate-hz and --seconds-per-row must be more than 0")
    if not (np.isfinite(request.allow_length) and request.allow_length >= 0):
        raise ConfigError(f"--allow-length {request.allow_length}: seconds, 0 or more, are allowed")
    seconds = 1 / rate if rate is not None else seconds
    if seconds is not None and spec.rate_hz is not None:
        check_rate(seconds, spec)
    source = "" if request.layout == "frameloom" else request.layout
    return Rules(seconds_per_row=seconds, transposed=request.transposed, cast=request.cast, source=source)


def _check_claim(name: str, feature: FeatureRequest, found: Offers, *, vouch: bool) -> bool:
    """Whether the import relies on the user's confirmation of the weights. Raises ConfigError where it is missing."""
    if imported_weights(feature.weights_digest) is not None:
        return False
    if found.identity is not None and digest_of(dict(found.identity)) == digest_of(feature.identity()):
        return False
    if vouch:
        return True
    made = ""
    if found.identity is not None:
        spec, weights = found.identity.get("spec"), found.identity.get("weights")
        made = f" (the export says {spec.get('name') if isinstance(spec, dict) else '?'}, {str(weights)[:24]})"
    raise ConfigError(
        f"nothing says that these numbers were made by {feature.name} with {feature.weights_digest:.24}{made}:"
        f" write `weights: {PREFIX}NAME` under features.{name}, which gives them an identity of their own,"
        " or give --trust-weights where exactly these made them"
    )


def _targets(project: Project, feature: FeatureRequest) -> tuple[list[Target], Mapping[str, Path], tuple[str, ...]]:
    """The targets of a feature, the files of videos, and the videos that cannot be read."""
    if feature.modality is Modality.TEXT:
        return [Target(key=one, source_digest=text_digest(one)) for one in project.texts()], {}, ()
    files = [state.file for state in survey(project).videos]
    known = [Target(key=file.video.video, source_digest=file.digest) for file in files if file.digest is not None]
    paths = {file.video.video: file.video.path for file in files}
    return known, paths, tuple(file.video.video for file in files if file.digest is None)


def _nothing_matches(request: ImportRequest, found: Offers, targets: Sequence[Target]) -> str:
    key = repr(targets[0].key) if targets else "none that can be read"
    hint = "name the ending that follows the id with --suffix, or give --mapping"
    if request.layout == "frameloom":
        hint = "an export fits the very files that it was made from, by their content"
    return (
        f"{request.path}: none of its {len(found.offers)} features, such as {found.offers[0].name!r}, fits a video of"
        f" the collection, such as {key}: {hint}"
    )


def _absent(project: Project, feature: FeatureRequest, without: Sequence[Target]) -> dict[str, str]:
    """Fingerprints of what has no such feature, by key: nothing is offered for it, and nothing is stored."""
    named = {target.key: fingerprint_of(target.source_digest, feature) for target in without}
    return {key: name for key, name in named.items() if name not in project.store}


def _write_record(
    project: Project,
    name: str,
    feature: FeatureRequest,
    request: ImportRequest,
    rules: Rules,
    *,
    vouched: bool,
    absent: Mapping[str, str],
) -> None:
    """Keep what was imported or is the same as what was. What is stored by now is absent in no record any more."""
    as_asked = ("layout", "array", "suffix", "id_key", "cast", "transposed", "allow_length")
    new = ImportRecord(
        **{key: getattr(request, key) for key in as_asked},
        feature=name,
        identity=feature.identity(),
        path=readable_path(request.path.absolute()),
        mapping=None if request.mapping is None else readable_path(request.mapping.absolute()),
        seconds_per_row=rules.seconds_per_row,
        vouched=vouched,
        code_version=code_version(),
    )
    for record in ImportRecord.all_in(project.root):
        kept = {key: one for key, one in record.absent.items() if one not in project.store}
        if record.model_copy(update={"absent": {}}) == new:  # the same import, made again
            absent = {**kept, **absent}
        elif kept != record.absent:
            record.model_copy(update={"absent": kept}).write(project.root)
    new.model_copy(update={"absent": absent}).write(project.root)
