"""What a project knows of its features beside the store: whose they are, and which of them came by an import.

A fingerprint is made from the digest of a source. So a project that can name a stored fingerprint knows that source,
whatever has become of the sidecar that said it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..._vocabulary import FrameloomError
from ...store import Identity, Repaired
from ..exchange import NOTHING
from ..project import FeatureRequest, Project, imported_weights
from ..sync import fingerprint_of, survey, text_digest

# What is said of an imported feature whose own message is lost, with rows and without. The other one is what says of a
# video that an import had nothing for it, and a later import may take it back.
_INSTEAD = ("imported; what else was said of it was lost with its sidecar", NOTHING)


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


def _records(project: Project, feature: str) -> Iterator[dict[str, Any]]:
    """What `import` has noted of the imports of one feature."""
    for path in sorted((Path(project.root) / "imports").glob("*.json")):
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            record = json.loads(path.read_bytes())
            if record["identity"]["spec"]["name"] == feature:
                yield {name: record[name] for name in ("path", "layout", "feature")} | record


def _command(record: Mapping[str, Any]) -> str:
    """The command that made an import, as far as it was noted."""
    words = ["frameloom", "import", str(record["path"]), "--layout", str(record["layout"])]
    words += ["--feature", str(record["feature"])]
    for name in ("array", "suffix"):
        words += [f"--{name}", str(record[name])] if record.get(name) else []
    words += [f"--{flag}" for flag, name in _FLAGS.items() if record.get(name) is True]
    return shlex.join(words)


_FLAGS = {"transposed": "transposed", "cast": "cast", "trust-weights": "vouched"}
