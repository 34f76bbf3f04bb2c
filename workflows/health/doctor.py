"""Check this machine's requirements for frameloom: libraries that work, decoders, folders with room.

A finding is ``ok``, a ``warning`` (something works less well, or not for every file) or a ``problem`` (a command will
fail). What is tried on a disk leaves nothing behind.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import computed_field

from ..._environment import broken_environment, broken_libraries, version_of
from ..._files import cache_folder, disk_problem
from ..._settings import Settings
from ..._version import __version__
from ..._vocabulary import ConfigError, ExitCode, FrameloomError, MediaError, Status
from ..console import readable_bytes

Verdict = Literal["ok", "warning", "problem"]

CODECS = {
    "h264": "h264",
    "hevc": "hevc",
    "vp9": "vp9",
    "av1": "libdav1d",  # FFmpeg's own av1 decoder works on some GPUs alone
    "mpeg2": "mpeg2video",
    "mpeg4": "mpeg4",
    "prores": "prores",
    "aac": "aac",
    "mp3": "mp3",
    "opus": "opus",
    "vorbis": "vorbis",
    "flac": "flac",
    "pcm": "pcm_s16le",
}
"""Codec: the decoder of FFmpeg that reads it."""
SMALL_DISK_BYTES = 5e9
SMALL_MEMORY_BYTES = 4e9


class Finding(Settings):
    """The result of one check, with the remedy where one is needed."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


class Examination(Settings):
    """All findings of one examination."""

    findings: tuple[Finding, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether everything that is needed works."""
        return not any(finding.verdict == "problem" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        return ExitCode.OK if self.ok else ExitCode.USAGE

    def lines(self) -> Iterator[str]:
        """A line for each finding, and below it what to do."""
        for finding in self.findings:
            yield f"{finding.verdict:8} {finding.check:22} {finding.found}"
            if finding.advice:
                yield f"{'':8} {'':22} -> {finding.advice}"
        counts = {verdict: sum(one.verdict == verdict for one in self.findings) for verdict in ("warning", "problem")}
        yield ", ".join(f"{count} {verdict}{'' if count == 1 else 's'}" for verdict, count in counts.items())


def examine(config: Path) -> Examination:
    """Examine this machine, for the project of a configuration file where there is one."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        libraries,
        decoders,
        decoder_process,
        devices,
        lambda: folders(config),
    )
    return Examination(findings=tuple(finding for check in checks for finding in _run(check)))


def libraries() -> Iterator[Finding]:
    """The versions, and whether each library imports and works."""
    yield Finding(check="python", verdict="ok", found=platform.python_version())
    yield Finding(check="frameloom", verdict="ok", found=__version__)
    broken: dict[str, str | None] = {}
    for name, line in broken_libraries():
        broken[name] = broken.get(name) or line
    for name, line in broken.items():
        if line is None:
            yield Finding(check=name, verdict="ok", found=str(version_of(name)))
        else:
            found, _, command = line.partition(" Type: ")
            yield Finding(check=name, verdict="problem", found=found, advice=command)


def decoders() -> Iterator[Finding]:
    """Whether the FFmpeg of PyAV has the needed decoders."""
    import av
    from av.codec.codec import UnknownCodecError

    missing = []
    for codec, decoder in CODECS.items():
        try:
            av.Codec(decoder, "r")
        except UnknownCodecError:
            missing.append(codec)
    versions = [f"{name} {'.'.join(map(str, number))}" for name, number in av.library_versions.items()]
    yield Finding(check="FFmpeg of PyAV", verdict="ok", found=", ".join(versions[:3]))
    yield Finding(check="decoders", verdict="ok", found=", ".join(codec for codec in CODECS if codec not in missing))
    if missing:
        advice = "files of these kinds are listed as codec_missing; install PyAV's own wheel (pip install av)"
        yield Finding(check="decoders missing", verdict="warning", found=", ".join(missing), advice=advice)


def decoder_process() -> Iterator[Finding]:
    """Whether the decoder subprocess starts within its limits and looks into a file: this one, which is not a video."""
    from ...extract import Decoder

    try:
        with Decoder() as decoder:
            decoder.probe(Path(__file__))
    except (FrameloomError, RuntimeError, OSError) as error:
        if not isinstance(error, MediaError) or error.status is not Status.NOT_MEDIA:
            advice = "nothing can be extracted; the message is the last output of the process"
            yield Finding(check="decoder process", verdict="problem", found=str(error), advice=advice)
            return
    yield Finding(check="decoder process", verdict="ok", found="starts and reads files")


def devices() -> Iterator[Finding]:
    """The devices on which models can run, and the memory that a container leaves them."""
    import torch
    from dask.system import cpu_count  # both know what a container allows
    from distributed.system import memory_limit

    yield Finding(check="cpu", verdict="ok", found=f"{cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}")
    size, advice = memory_limit(), "set run.workers to 1: each worker holds the networks and a batch"
    verdict: Verdict = "warning" if size < SMALL_MEMORY_BYTES else "ok"
    yield Finding(check="memory", verdict=verdict, found=readable_bytes(size), advice=advice * (verdict != "ok"))
    try:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        cards = [torch.cuda.get_device_properties(number) for number in range(count)]
    except RuntimeError as error:
        advice = "set run.device to cpu, or repair the driver (nvidia-smi should list the cards)"
        yield Finding(check="gpu", verdict="warning", found=" ".join(str(error).split()), advice=advice)
        return
    found = ", ".join(f"{card.name} ({readable_bytes(card.total_memory)})" for card in cards)
    yield Finding(check="gpu", verdict="ok", found=found or "none: everything runs on the CPU")


def folders(config: Path) -> Iterator[Finding]:
    """The configuration, and whether there is room where the project, weights and temporary files are kept."""
    from ..project.config import StoreConfig, load_config
    from ..project.project import CONFIG_NAME

    path = config / CONFIG_NAME if config.is_dir() else config
    store = StoreConfig().path
    if path.exists():
        try:
            store = load_config(path).store.path
            yield Finding(check="configuration", verdict="ok", found=str(path))
        except ConfigError as error:
            yield Finding(check="configuration", verdict="problem", found=str(error), advice=f"correct {path}")
    for name, folder, setting in (
        ("store", path.absolute().parent / Path(store).expanduser(), f"store.path of {CONFIG_NAME}"),
        ("weights", cache_folder("weights"), "FRAMELOOM_CACHE"),
        ("temporary files", Path(tempfile.gettempdir()).absolute(), "TMPDIR"),
    ):
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(place).free
        verdict: Verdict = "ok"
        found, advice = f"{readable_bytes(free)} free: {folder}", ""
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            verdict, found = "problem", f"{place} is not a folder that you may write to"
            advice = f"name another folder in {setting}"
        elif name == "store" and (problem := _of_disk(place)):
            verdict, found = "problem", problem
            advice = f"name a folder on another disk in {setting}; shards may lie on this one, as store.features"
        elif free < SMALL_DISK_BYTES:
            verdict, advice = "warning", f"free some space, or name a folder on another disk in {setting}"
        yield Finding(check=f"folder for {name}", verdict=verdict, found=found, advice=advice)


def _of_disk(place: Path) -> str:
    """What the disk of a store cannot do; empty where it can do all that is needed."""
    try:
        problem = disk_problem(place)
    except FrameloomError as error:
        return str(error)
    return "" if problem is None else f"the disk of {place} has {problem}, which the table needs"


def _run(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; none where it needs a library that is broken, which has a finding of its own."""
    try:
        yield from check()
    except Exception as error:
        if broken_environment(error) is None:
            raise
