"""Which features of a project were imported, and the commands that bring lost ones back."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..._vocabulary import FrameloomError
from ...store.health import Repaired
from ..project import ALLOWED_SECONDS, ImportRecord, Project, imported_weights
from ..sync import fingerprint_of, survey, text_digest


def imported_features(project: Project) -> dict[str, bool]:
    """Every feature that the collection may have, by fingerprint: whether it was imported."""
    try:
        found = survey(project)
        text, captions = project.features().text, project.texts()
    except FrameloomError:
        return {}
    known = {
        stream.fingerprint: imported_weights(stream.request.weights_digest) is not None
        for state in found.videos
        for stream in state.streams
        if state.file.digest is not None
    }
    if text is not None:
        is_imported = imported_weights(text.weights_digest) is not None
        known |= {fingerprint_of(text_digest(caption), text): is_imported for caption in captions}
    return known


def imports_of_lost(project: Project, repaired: Iterable[Repaired], known: Mapping[str, bool]) -> Iterator[str]:
    """A sentence for each import that brings back what is lost: `sync` makes nothing that came from elsewhere.

    A sample that the collection does not know any more may have come by any import of its feature.
    """
    lost: dict[str, int] = {}
    for one in repaired:
        for _, fingerprint in one.lost:
            if known.get(fingerprint, True):
                feature = Path(one.path).parent.name
                lost[feature] = lost.get(feature, 0) + 1
    for feature, count in sorted(lost.items()):
        commands = sorted({_command(record) for record in _records(project, feature)})
        if commands:
            remedy = " or ".join(f"`{command}`" for command in commands)
            yield f"next: {remedy} brings back what was imported of {feature} ({count} lost): sync cannot make it"
        elif any(want.spec.name == feature and imported_weights(want.weights_digest) for want in project.media):
            yield f"next: `frameloom import` what was imported of {feature} again ({count} lost): sync cannot make it"


def _records(project: Project, feature: str) -> Iterator[ImportRecord]:
    """The records of the imports of one feature."""
    for record in ImportRecord.all_in(project.root):
        spec = record.identity.get("spec")
        if isinstance(spec, dict) and spec.get("name") == feature:
            yield record


def _command(record: ImportRecord) -> str:
    """The command that made an import, as far as it was noted."""
    words = ["frameloom", "import", record.path, "--layout", record.layout, "--feature", record.feature]
    options = {"array": record.array, "suffix": record.suffix, "id-key": record.id_key, "mapping": record.mapping}
    for name, value in options.items():
        words += [f"--{name}", value] if value else []
    if record.seconds_per_row is not None:
        words += ["--seconds-per-row", repr(record.seconds_per_row)]
    if record.allow_length not in (None, ALLOWED_SECONDS):
        words += ["--allow-length", f"{record.allow_length:g}"]
    flags = {"transposed": record.transposed, "cast": record.cast, "trust-weights": record.vouched}
    return shlex.join([*words, *(f"--{name}" for name, value in flags.items() if value)])
