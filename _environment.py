"""Which library of this environment does not work, in one line with the command that mends it.

A wheel names the libraries that it needs, not the builds that it was compiled for: torchaudio 2.11.1 installs next to
torch 2.11.0 and does not load. So each library is imported and called once, in a child process because a mismatch may
also crash, and an exception that a library raised during its import becomes the same line.

`python -m frameloom._environment` does it at the end of the set-up. No library is imported here: this has to work when
nothing else does.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from ._vocabulary import ProcessStartError

ROOT = Path(__file__).parent
CONSTRAINTS = ROOT / "constraints.txt"
CALLS: dict[str, Callable[[Any], object]] = {
    "numpy": lambda numpy: numpy.ones((2, 2)) @ numpy.ones((2, 2)),
    "xxhash": lambda xxhash: xxhash.xxh3_64_intdigest(b"frameloom"),
    "yaml": lambda yaml: yaml.safe_load("a: 1"),
    "pydantic": lambda pydantic: pydantic.TypeAdapter(int).validate_python("1"),
    "typer": lambda typer: typer.Typer(),
    "rich": lambda _rich: None,
    "torch": lambda torch: torch.ones(2, 2) @ torch.ones(2, 2),
    "torchvision.ops": lambda ops: ops.nms(_torch().zeros(1, 4), _torch().zeros(1), 0.5),
    "torchaudio": lambda torchaudio: torchaudio.functional.lfilter(*_torch().ones(3, 2)),
    "timm": lambda timm: timm.list_models("resnet18"),
    "tokenizers": lambda tokenizers: tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")).encode("a"),
    "transformers": lambda transformers: transformers.BertModel,  # loads what its models need
    "safetensors.torch": lambda safetensors: safetensors.save({"a": _torch().ones(1)}),
    "accelerate": lambda accelerate: accelerate.Accelerator,
    "gensim.models": lambda models: models.KeyedVectors(2).add_vectors(["a", "b"], [[0.0, 1.0], [1.0, 0.0]]),
    "av": lambda av: av.CodecContext.create("pcm_s16le", "w"),
    "cryptography.fernet": lambda fernet: fernet.Fernet.generate_key(),
    "h5py": lambda h5py: h5py.File("memory", "w", driver="core", backing_store=False).create_dataset("a", data=[1.0]),
    "pyarrow.compute": lambda compute: compute.sum([1, 2]),
    "pyarrow.parquet": lambda _parquet: None,
    "lancedb": lambda lancedb: lancedb.connect("memory://").create_table("a", [{"vector": [0.0, 1.0]}]),
    "webdataset": lambda webdataset: webdataset.WebDataset,
    "dask": lambda dask: dask.delayed(int)("1").compute(scheduler="sync"),
    "psutil": lambda psutil: psutil.Process().cpu_times(),
    "distributed": lambda distributed: distributed.Client,
    "fsspec": lambda fsspec: fsspec.filesystem("memory"),
    "huggingface_hub": lambda hub: hub.hf_hub_download,
    "requests": lambda requests: requests.Session(),
    "PIL.Image": lambda image: image.new("RGB", (8, 8)).save(io.BytesIO(), "JPEG"),
    "matplotlib.figure": lambda figure: figure.Figure().savefig(io.BytesIO()),
}
"""Module: a small call into its compiled part."""
COMPILED_FOR = {
    **dict.fromkeys(("torchvision", "torchaudio", "timm", "transformers", "safetensors", "accelerate"), "torch"),
    **dict.fromkeys(("torch", "h5py", "gensim", "pyarrow", "matplotlib", "scipy"), "numpy"),
    "lancedb": "pyarrow",
}
"""The library whose version decides whether another one loads."""
_REASON_CHARACTERS = 160


def broken_environment(error: BaseException) -> str | None:
    """The line for an exception that comes from a library that is missing or fails to load; None for any other.

    Only where a process did not start, whose exceptions are not here, is every library tried.
    """
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    for cause in reversed(causes):
        if isinstance(cause, Exception) and not isinstance(cause, MemoryError) and (name := _failed_library(cause)):
            return _line(name, cause)
    if any(isinstance(cause, ProcessStartError) for cause in causes):
        return next((line for _, line in broken_libraries() if line), None)
    return None


def broken_libraries() -> Iterator[tuple[str, str | None]]:
    """Every library of frameloom with the line that says what is wrong, or None where it works."""
    waiting = list(CALLS)
    while waiting:
        command = [sys.executable, "-m", f"{__package__}.{Path(__file__).stem}", *waiting]
        child = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        for row in child.stdout.splitlines():
            if row.startswith(f'["{waiting[0]}", ' if waiting else "\0"):
                yield json.loads(row)[0].partition(".")[0], json.loads(row)[1]
                waiting.pop(0)
        if waiting:  # the child ended in the middle
            reason = signal.strsignal(-child.returncode) if child.returncode < 0 else child.stderr.strip()[-80:]
            name = waiting.pop(0).partition(".")[0]
            yield name, _line(name, RuntimeError(f"it ends the process: {reason}"))


def version_of(library: str) -> str | None:
    """The installed version of the distribution that holds a module; None where it is not installed."""
    try:
        return metadata.version(_distribution(library))
    except metadata.PackageNotFoundError:
        return None


def main(modules: list[str]) -> int:
    """Check every library, or, in the child process, the given ones: a row of JSON for each on standard output."""
    if not modules:
        lines = {line: None for _, line in broken_libraries() if line}  # one that others need fails with each of them
        print("\n".join(lines) or f"{len(CALLS)} libraries work", file=sys.stderr if lines else sys.stdout)
        return 2 if lines else 0
    for module in modules:
        try:
            CALLS[module](importlib.import_module(module))
            line = None
        except Exception as error:  # noqa: BLE001  a library that does not fit may raise anything
            line = broken_environment(error) or _line(module.partition(".")[0], error)
        print(json.dumps([module, line]), flush=True)
    return 0


def _failed_library(error: Exception) -> str | None:
    """The library that was being imported, innermost first, when the exception was raised."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "<module>"]
    modules = [str(frame.f_globals.get("__name__")) for frame in frames]
    if isinstance(error, ImportError) and error.name:
        modules.append(error.name)
    names = [name for module in modules if (name := module.partition(".")[0]) not in (__package__, "__main__")]
    if not names:  # of most errors, and to list what is installed takes most of a second
        return None
    installed = {*metadata.packages_distributions(), *(module.partition(".")[0] for module in CALLS)}
    return next((name for name in reversed(names) if name in installed), None)


def _line(library: str, error: BaseException) -> str:
    name, version = _distribution(library), version_of(library)
    if version is None:
        return f"{name} is not installed. Type: {_install()}"
    partner = COMPILED_FOR.get(library)
    fails = f"does not work with {partner} {version_of(partner)}" if partner else "does not work"
    reason = " ".join(f"{error}".split())[:_REASON_CHARACTERS] or type(error).__name__
    if not partner and version == _known_version(name):  # the right version, and damaged
        return (
            f"{name} {version} {fails}: {reason}. Type: {_pip('--force-reinstall', '--no-deps', f'{name}=={version}')}"
        )
    return f"{name} {version} {fails}: {reason}. Type: {_install()}"


def _install() -> str:
    what = ("-e", str(ROOT)) if (ROOT / "pyproject.toml").exists() else (str(__package__),)
    return _pip("-c", str(CONSTRAINTS), *what)


def _pip(*arguments: str) -> str:
    return " ".join((sys.executable, "-m", "pip", "install", *arguments))


def _known_version(distribution: str) -> str | None:
    """The version with which the whole test suite has passed."""
    rows = CONSTRAINTS.read_text(encoding="utf-8") if CONSTRAINTS.exists() else ""
    match = re.search(rf"^{re.escape(distribution)}==(.+)$", rows, re.MULTILINE | re.IGNORECASE)
    return match[1] if match else None


def _torch() -> Any:
    return importlib.import_module("torch")


def _distribution(library: str) -> str:
    return metadata.packages_distributions().get(library, [library])[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
