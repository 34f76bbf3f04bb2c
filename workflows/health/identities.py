"""What a project knows of its features beside the store: whose they are, and which of them came by an import.

A fingerprint is made from the digest of a source. So a project that can name a stored fingerprint knows that source,
whatever has become of the sidecar that said it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..._vocabulary import FrameloomError
from ...store import Identity, Repaired
from ..exchange import ALLOWED_SECONDS
from ..project import FeatureRequest, ImportRecord, Project, imported_weights
from ..sync import fingerprint_of, survey, text_digest

# The message of an imported feature whose own is lost, with rows and without.
_INSTEAD = ("imported; its message was lost with its sidecar",) * 2


def identities_of(project: Project) -> dict[str, Identity]:
    """Every feature that the collection may have, by fingerprint: what proves a damaged sidecar right."""
    try:
        found = survey(project)
        text, captions = project.features().text, project.texts()
    except FrameloomError:  # then sidecars are proven by what else is known
        return {}
    known = {
        stream.fingerprint: _identity(state.name, state.file.digest, stream.request)
        for state in found.videos
        for stream in state.streams
        if state.file.digest is not None
    }
    for caption in captions if text is not None else ():
        digest = text_digest(caption)
        assert text is not None
        known[fingerprint_of(digest, text)] = _identity(caption, digest, text)
    return known


def _identity(key: str, digest: str, want: FeatureRequest) -> Identity:
    is_imported = imported_weights(want.weights_digest) is not None
    return Identity(key, digest, _INSTEAD if is_imported else None)


def imports_of_lost(
    project: Project, repaired: Iterable[Repaired], identities: Mapping[str, Identity]
) -> Iterator[str]:
    """A sentence for each import that brings back what is lost: `sync` makes nothing that came from elsewhere.

    A sample that the collection does not know any more may have come by any import of its feature.
    """
    lost: dict[str, int] = {}
    for one in repaired:
        for _, fingerprint in one.lost:
            known = identities.get(fingerprint)
            if known is None or known.instead is not None:
                feature = Path(one.path).parent.name
                lost[feature] = lost.get(feature, 0) + 1
    for feature, count in sorted(lost.items()):
        commands = sorted({_command(record) for record in _records(project, feature)})
        if commands:
            told = " or ".join(f"`{command}`" for command in commands)
            yield f"next: {told} brings back what was imported of {feature} ({count} lost): sync cannot make it"
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
    if record.allow_length not in (None, ALLOWED_SECONDS):
        words += ["--allow-length", f"{record.allow_length:g}"]
    flags = {"transposed": record.transposed, "cast": record.cast, "trust-weights": record.vouched}
    return shlex.join([*words, *(f"--{name}" for name, value in flags.items() if value)])
