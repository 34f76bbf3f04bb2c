"""Published weights for the command line: which there are, which of them are on this machine, and fetching them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from ..._registry import nearest
from ..._settings import Settings
from ..._vocabulary import ConfigError, UnknownNameError, WeightsSource
from ...extract import backbone_spec, list_backbones
from ...extract.weights import cached_weights, fetch_weights, find_source, known_sha256, num_bytes, origin
from ..console import LINE_EVERY_SECONDS, Console, readable_bytes, readable_seconds
from ..project import BackboneRequest

OnProgress = Callable[[int, "int | None"], None]


class PublishedWeights(Settings):
    """One published set of weights of one backbone.

    Attributes:
        sha256: as published, which may be the first digits alone, or None.
        file_sha256: the whole hash, None where neither the publisher nor a fetched file says it.
        size_bytes: as published, or of the file on this machine.
        path: the file on this machine, None where it was not fetched.
    """

    backbone: str
    tag: str
    url: str
    licence: str
    sha256: str | None
    file_sha256: str | None
    size_bytes: int | None
    path: str | None


def list_weights(pattern: str = "*") -> list[PublishedWeights]:
    """The published weights of the backbones whose names match a shell pattern, the default tag of each first.

    Raises:
        UnknownNameError: no backbone matches.
    """
    names = list_backbones(pattern)
    if not names:
        raise UnknownNameError(f"no backbone matches {pattern!r}: {nearest(pattern, list_backbones())}")
    return [_described(name, source) for name in names for source in backbone_spec(name).weights]


def weights_lines(found: Sequence[PublishedWeights]) -> Iterator[str]:
    """The list as text: a line for each, and beneath it its source and its terms."""
    for one in found:
        size = "size not published" if one.size_bytes is None else readable_bytes(one.size_bytes)
        place = "not fetched" if one.path is None else f"here: {one.path}"
        digest = "not published" if one.sha256 is None else f"{one.sha256}... published"
        if one.file_sha256 is not None:
            is_whole = one.sha256 == one.file_sha256
            digest = one.file_sha256 if is_whole else f"{one.file_sha256} (of the file here; {digest})"
        yield f"{one.backbone:18} {one.tag:18} {size:18} {place}"
        yield f"    source   {one.url}"
        yield f"    licence  {one.licence}"
        yield f"    sha256   {digest}"
    if not found:
        yield "none of these backbones has published weights; `frameloom weights` lists those of all"
    else:
        yield "fetch one with `frameloom weights fetch BACKBONE [TAG]`, use it with `weights: TAG` in frameloom.yaml"


def fetch(backbone: str, tag: str | None, console: Console) -> PublishedWeights:
    """Fetch weights, or check those that are here.

    Args:
        backbone: a registered name.
        tag: which of its published weights, or a model of the Hub (``hf://owner/name@revision``); None for the first.
        console: where progress is shown.

    Raises:
        UnknownNameError: no such backbone or tag.
        ConfigError, InputError, OutOfSpaceError: as `extract.fetch_weights` says.
    """
    sources = backbone_spec(backbone).weights
    source = next(iter(sources), None) if tag is None else find_source(sources, tag)
    if source is None and not sources:
        raise ConfigError(f"no tag names published weights of the backbone {backbone!r}: give {origin(backbone)}")
    if source is None:
        tags = [one.tag for one in sources]
        raise UnknownNameError(f"the backbone {backbone!r} has no weights {tag!r}: {nearest(str(tag), tags)}")
    with show_transfer(console, f"{backbone} {source.tag}") as on_progress:
        fetch_weights(source, on_progress=on_progress)
    return _described(backbone, source)


def fetch_requested(requests: Iterable[BackboneRequest], console: Console) -> None:
    """Fetch the published weights that are not on this machine here, with progress, rather than in each worker."""
    for request in requests:
        weights = request.weights
        source = None if weights is None else find_source(backbone_spec(request.name).weights, weights)
        if source is not None and cached_weights(source) is None:
            console.say(f"fetching the weights {source.tag} of {request.name}: {source.url}")
            fetch(request.name, source.tag, console)


def _described(backbone: str, source: WeightsSource) -> PublishedWeights:
    path = cached_weights(source)
    return PublishedWeights(
        backbone=backbone,
        tag=source.tag,
        url=source.url,
        licence=source.licence,
        sha256=source.sha256,
        file_sha256=known_sha256(source),
        size_bytes=source.size_bytes if path is None else num_bytes(path),
        path=None if path is None else str(path),
    )


@contextmanager
def show_transfer(console: Console, what: str) -> Iterator[OnProgress]:
    """Show bytes as they come: a bar on a terminal, elsewhere a line every few seconds."""
    if not console.quiet and console.stream.isatty():
        from rich import progress
        from rich.console import Console as RichConsole

        columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn())
        rates = (progress.TransferSpeedColumn(), progress.TimeRemainingColumn())
        with progress.Progress(*columns, *rates, console=RichConsole(file=console.stream)) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    begun = shown = time.monotonic()
    first: int | None = None

    def on_progress(done: int, total: int | None) -> None:
        nonlocal shown, first
        first = done if first is None else first
        now = time.monotonic()
        if done == total:
            console.say(f"{what}: {readable_bytes(done)} in {readable_seconds(now - begun)}")
        elif now - shown >= LINE_EVERY_SECONDS:
            shown = now
            rate = (done - first) / (now - begun)
            left = f", about {readable_seconds((total - done) / rate)} left" if total and rate else ""
            console.say(f"{what}: {readable_bytes(done)}{f' of {readable_bytes(total)}' if total else ''}{left}")

    yield on_progress
