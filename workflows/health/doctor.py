"""What this machine has of what frameloom needs: libraries, decoders, devices, memory, disks, and what to do about it.

A finding is ``ok``, a ``warning`` (something works less well, or not for every file) or a ``problem`` (a command will
fail). Nothing is written but a tenth of a second of sound in a temporary folder, which the decoding child reads.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import tempfile
import wave
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ..._version import __version__
from ..._vocabulary import ConfigError, ExitCode, MediaError, Status
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
LIBRARIES = (
    "torch",
    "torchvision",
    "torchaudio",
    "timm",
    "transformers",
    "gensim",
    "av",
    "h5py",
    "webdataset",
    "lancedb",
    "pyarrow",
    "dask",
    "distributed",
    "accelerate",
)
# A broken build of these is only seen when it is loaded.
_LOADED = ("torch", "torchvision", "torchaudio", "av", "h5py", "pyarrow", "lancedb")
_LITTLE_MEMORY_BYTES = 4e9
_LITTLE_DISK_BYTES = 5e9
_SOUND_RATE_HZ = 16_000
_MOUNTS = Path("/proc/self/mounts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of one thing, and what to do about it where something is to be done."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings of one examination."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """2 where something that is needed does not work."""
        has_problem = any(finding.verdict == "problem" for finding in self.findings)
        return ExitCode.USAGE if has_problem else ExitCode.OK

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"ok": self.exit_code == ExitCode.OK, "findings": [asdict(finding) for finding in self.findings]}

    def lines(self) -> Iterator[str]:
        """A line for each finding, and what to do beneath it."""
        for finding in self.findings:
            yield f"{finding.verdict:8} {finding.check:22} {finding.found}"
            if finding.advice:
                yield f"{'':8} {'':22} -> {finding.advice}"
        counts = {verdict: sum(one.verdict == verdict for one in self.findings) for verdict in ("warning", "problem")}
        yield ", ".join(f"{count} {verdict}{'' if count == 1 else 's'}" for verdict, count in counts.items())


def examine(config: Path) -> Examination:
    """Examine this machine, for the project of a configuration file where there is one."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _decoders,
        _decoding_child,
        _processor,
        _gpus,
        _memory,
        lambda: _disks(config),
        _cache,
    )
    return Examination(tuple(finding for check in checks for finding in check()))


def _versions() -> Iterator[Finding]:
    yield Finding(check="python", verdict="ok", found=platform.python_version())
    yield Finding(check="frameloom", verdict="ok", found=__version__)
    for name in LIBRARIES:
        yield _library(name, is_needed=name in _needed())


def _needed() -> set[str]:
    """The libraries that frameloom's own package says it needs; all of them where it is not installed as one."""
    try:
        lines = metadata.requires("frameloom") or []
    except metadata.PackageNotFoundError:
        return set(LIBRARIES)
    return {re.split(r"[^\w-]", line, maxsplit=1)[0].lower() for line in lines if "extra ==" not in line}


def _library(name: str, *, is_needed: bool) -> Finding:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        if not is_needed:
            return Finding(check=name, verdict="ok", found="not installed, and not needed")
        return Finding(check=name, verdict="problem", found="not installed", advice=f"pip install {name}")
    try:
        if name in _LOADED:
            importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        advice = f"install frameloom anew in a fresh environment, so that {name} fits the other libraries"
        return Finding(check=name, verdict="problem", found=f"{version} does not load: {reason}", advice=advice)
    return Finding(check=name, verdict="ok", found=version)


def _decoders() -> Iterator[Finding]:
    try:
        import av
    except (ImportError, OSError) as error:
        advice = "install PyAV: pip install av"
        yield Finding(check="decoders", verdict="problem", found=f"PyAV does not load: {error}", advice=advice)
        return
    versions = [f"{name} {'.'.join(map(str, number))}" for name, number in av.library_versions.items()]
    yield Finding(check="FFmpeg of PyAV", verdict="ok", found=", ".join(versions[:3]))
    missing = [codec for codec, decoder in CODECS.items() if not _has_decoder(decoder)]
    there = [codec for codec in CODECS if codec not in missing]
    yield Finding(check="decoders", verdict="ok" if there else "problem", found=", ".join(there) or "none")
    if missing:
        yield Finding(
            check="decoders missing",
            verdict="warning",
            found=", ".join(missing),
            advice="files of these kinds are listed as codec_missing; install PyAV's own wheel (pip install av)",
        )


def _has_decoder(name: str) -> bool:
    import av
    from av.codec.codec import UnknownCodecError

    try:
        av.Codec(name, "r")
    except UnknownCodecError:
        return False
    return True


def _decoding_child() -> Iterator[Finding]:
    """Let the child read a sound: that it starts, and that its limits leave it room."""
    from ...extract import Decoder

    check, advice = "decoding child", "nothing can be extracted; the message is the child's own last words"
    try:
        with tempfile.TemporaryDirectory() as folder, Decoder() as decoder:
            info = decoder.probe(_write_sound(Path(folder) / "silence.wav"))
    except MediaError as error:
        yield Finding(check=check, verdict="problem", found=f"{error.status.value}: {error.message}", advice=advice)
    except (RuntimeError, OSError) as error:
        yield Finding(check=check, verdict="problem", found=str(error), advice=advice)
    else:
        is_ok = info.status in (Status.OK, Status.NO_VIDEO) and info.audio is not None
        found = "starts and reads a file" if is_ok else f"{info.status.value}: {info.message}"
        yield Finding(check=check, verdict="ok" if is_ok else "problem", found=found, advice="" if is_ok else advice)


def _write_sound(path: Path) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(_SOUND_RATE_HZ)
        sound.writeframes(bytes(2 * _SOUND_RATE_HZ // 10))
    return path


def _processor() -> Iterator[Finding]:
    cores, installed = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    found = f"{_processor_name()}, {cores} of {installed} cores usable"
    yield Finding(check="processor", verdict="ok", found=found)
    quota = _cores_by_quota()
    if quota is not None and quota < cores:
        yield Finding(
            check="processor quota",
            verdict="warning",
            found=f"this container may use {quota:.1f} cores of the {cores} that it sees",
            advice=f"set run.workers to {max(1, int(quota))} in frameloom.yaml",
        )
    try:
        import torch

        has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        found = f"{torch.backends.cpu.get_cpu_capability()}, bfloat16 {'' if has_bf16 else 'not '}supported"
    except (ImportError, OSError, RuntimeError, AttributeError):
        return  # the line about torch says what is wrong
    yield Finding(check="torch on processor", verdict="ok", found=f"{found}, {torch.get_num_threads()} threads")


def _processor_name() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def _cores_by_quota() -> float | None:
    """Processors that the container's quota allows; None where there is no quota."""
    quota, _, period = _text(Path("/sys/fs/cgroup/cpu.max")).strip().partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _gpus() -> Iterator[Finding]:
    try:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for number in range(count):
            card = torch.cuda.get_device_properties(number)
            memory = readable_bytes(card.total_memory)
            yield Finding(check=f"cuda:{number}", verdict="ok", found=f"{card.name}, {memory}")
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        advice = "set run.device to cpu, or mend the driver (nvidia-smi should list the cards)"
        yield Finding(check="cuda", verdict="warning", found=reason, advice=advice)
        return
    if count == 0:
        yield Finding(check="cuda", verdict="ok", found="no GPU: everything runs on the processor")


def _memory() -> Iterator[Finding]:
    fields = {
        name: 1024 * int(kilobytes)
        for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", _text(Path("/proc/meminfo")), re.MULTILINE)
    }
    if "MemTotal" not in fields or "MemAvailable" not in fields:
        return
    total, free = fields["MemTotal"], fields["MemAvailable"]
    limit = _text(Path("/sys/fs/cgroup/memory.max")).strip()
    if limit.isdecimal() and int(limit) < total:
        total = int(limit)
        used = _text(Path("/sys/fs/cgroup/memory.current")).strip()
        free = min(free, total - int(used)) if used.isdecimal() else min(free, total)
    is_little = free < _LITTLE_MEMORY_BYTES
    yield Finding(
        check="memory",
        verdict="warning" if is_little else "ok",
        found=f"{readable_bytes(max(0, free))} free of {readable_bytes(total)}",
        advice="use fewer workers (run.workers), or end other programs" if is_little else "",
    )


def _disks(config: Path) -> Iterator[Finding]:
    from ..._files import cache_folder

    store, found = _store_folder(config)
    yield from found
    for check, folder in (
        ("store", store),
        ("weights", cache_folder("weights")),
        ("temporary files", _temporary_folder()),
    ):
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(place).free
        is_little = free < _LITTLE_DISK_BYTES
        kind = _file_system(place)
        yield Finding(
            check=f"disk for {check}",
            verdict="warning" if is_little else "ok",
            found=f"{readable_bytes(free)} free{f' ({kind})' if kind else ''}: {folder}",
            advice="free some space, or use another disk" if is_little else "",
        )


def _store_folder(config: Path) -> tuple[Path, list[Finding]]:
    """Where the project keeps its store; without a project, where `frameloom init` would begin one here."""
    from ..project.config import StoreConfig, load_config
    from ..project.project import CONFIG_NAME

    path = config / CONFIG_NAME if config.is_dir() else config
    base, store, findings = path.absolute().parent, StoreConfig().path, []
    if path.exists():
        try:
            store = load_config(path).store.path
        except ConfigError as error:
            findings = [Finding(check="configuration", verdict="problem", found=str(error), advice=f"correct {path}")]
        else:
            findings = [Finding(check="configuration", verdict="ok", found=str(path))]
    return base / Path(store).expanduser(), findings


def _temporary_folder() -> Path:
    return Path(tempfile.gettempdir()).absolute()


def _file_system(path: Path) -> str:
    """The type of the file system that holds a path, such as ext4 or nfs4; empty where the system does not say."""
    rows = [line.split(" ") for line in _text(_MOUNTS).splitlines()]
    mounts = {row[1].replace("\\040", " "): row[2] for row in rows if len(row) > 2}
    resolved = path.resolve()
    return next((mounts[str(place)] for place in (resolved, *resolved.parents) if str(place) in mounts), "")


def _cache() -> Iterator[Finding]:
    from ..._files import cache_folder

    folder = cache_folder("weights")
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        yield Finding(check="weights folder", verdict="ok", found=f"can be written: {folder}")
        return
    reason = "cannot be written" if place.is_dir() else "is not a folder"
    advice = "name a folder that you may write to in FRAMELOOM_CACHE"
    yield Finding(check="weights folder", verdict="problem", found=f"{place} {reason}", advice=advice)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
