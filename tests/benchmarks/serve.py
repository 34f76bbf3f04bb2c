"""Load on `frameloom serve`: latency, memory, overload, a sync meanwhile, the first answer, a large table.

    python tests/benchmarks/serve.py PROJECT [--requests 2000] [--clients 32] [--long 20000] [--rows 100000]

PROJECT is a folder with frameloom.yaml that was synced with words. It is copied, but not its videos, of which `sync`
has three moved away and back. The load goes over loopback from a process of its own. Memory is the resident set of the
server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import psutil

SUBJECTS = ("a dog", "a cat", "a man", "two women", "a car", "water", "a ball", "a bear")
SCENES = ("in a room", "outside", "does a trick", "and a toy", "in the snow", "close to the camera")
QUESTIONS = [f"{subject} {scene}" for subject in SUBJECTS for scene in SCENES]


@contextmanager
def server(project: Path, *options: str) -> Iterator[tuple[str, psutil.Process, float]]:
    """A server of its own: its address, its process, and when it was started."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "frameloom", "serve", "-c", f"p={project / 'frameloom.yaml'}", "--port", "0"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip().rstrip("/"), psutil.Process(process.pid), started
    finally:
        process.terminate()
        process.wait(60)


class Connection:
    """One connection that is kept. httpx's pool, with 96 of them on a busy machine, lets a request wait for 20 s."""

    def __init__(self, url: str) -> None:
        self.port, self.streams = int(url.rpartition(":")[2]), None

    async def get(self, target: str) -> tuple[int, str, bytes]:
        """Status, head in lower case and body."""
        reader, writer = self.streams = self.streams or await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        body = await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
        if "connection: close" in head:
            writer.close()
            self.streams = None
        return int(head.split()[1]), head, body


async def load(url: str, number: int, clients: int, *, pause: float = 0.0) -> dict[str, Any]:
    """Ask so many questions from so many clients; each asks the next when it has its answer."""
    left, seconds, codes, versions = iter(range(number)), [], Counter[int](), Counter[tuple[int, str]]()
    retry_after, slowest = 0, (0.0, 0.0)

    async def ask() -> None:
        nonlocal retry_after, slowest
        connection = Connection(url)
        for place in left:
            started = time.perf_counter()
            asked = urlencode({"q": QUESTIONS[place % 48], "top": 10})
            status, head, text = await connection.get(f"/api/v1/projects/p/search?{asked}")
            took = time.perf_counter() - started
            seconds.append(took)
            codes[status] += 1
            retry_after += "retry-after:" in head
            if status == 200:
                body = json.loads(text)
                slowest = max(slowest, (took, body["seconds"]))
                answer = json.dumps([body["pool"], [one["clip"] for one in body["results"]]])
                versions[body["version"], f"{place % 48}:{answer}"] += 1
            if pause:
                await asyncio.sleep(pause)

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(clients)))
    wall = time.perf_counter() - began
    millis = sorted(1000 * one for one in seconds)
    quantiles = {name: round(millis[min(len(millis) - 1, int(part * len(millis)))], 1)
                 for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("most", 1.0))}  # fmt: skip
    asked = Counter((version, text.partition(":")[0]) for version, text in versions)
    return {
        "requests": number, "clients": clients, "seconds": round(wall, 1), "a_second": round(number / wall, 1),
        "codes": dict(codes), "with_retry_after": retry_after, "milliseconds": quantiles,
        "slowest_seconds": {"client": round(slowest[0], 2), "server": round(slowest[1], 2)},
        "versions": sorted({version for version, _ in versions}),
        "answers_that_differ_within_a_version": sum(count > 1 for count in asked.values()),
    }  # fmt: skip


def wait(url: str) -> None:
    """Until a question is answered: on a busy machine loading takes longer than the deadline of a request."""
    for _ in range(10):
        found = httpx.get(f"{url}/api/v1/projects/p/search", params={"q": "a dog"}, timeout=300, trust_env=False)
        if found.status_code != 503:
            break
    found.raise_for_status()


def measure_load(project: Path, args: argparse.Namespace) -> dict[str, Any]:
    with server(project) as (url, process, _):
        wait(url)
        found: dict[str, Any] = {"load": asyncio.run(load(url, args.requests, args.clients))}
        after = [round(process.memory_info().rss / 2**20, 1)]
        for _ in range(4):
            asyncio.run(load(url, max(1, args.long // 4), args.clients))
            after.append(round(process.memory_info().rss / 2**20, 1))
            print(after, found, flush=True)
        found["memory_mb"] = {
            "asked": [args.requests + step * (args.long // 4) for step in range(5)],
            "resident": after,
        }
    return found


def measure_overload(project: Path) -> dict[str, Any]:
    with server(project, "--queue", "4") as (url, _, _):
        wait(url)
        found = asyncio.run(load(url, 500, 96))
        recovered = asyncio.run(load(url, 50, 2))
    return {"overload": {**found, "versions": None}, "recovered_codes": recovered["codes"]}


def measure_sync(project: Path) -> dict[str, Any]:
    """Questions while `sync` takes clips away and brings them back."""
    import yaml

    config = yaml.safe_load((project / "frameloom.yaml").read_text())
    videos = Path(config["collection"]["videos"])
    chosen = sorted(one for one in videos.iterdir() if one.is_file())
    command = [sys.executable, "-m", "frameloom", "sync", "-q", "-c", str(project / "frameloom.yaml")]

    async def together(url: str) -> dict[str, Any]:
        asking = asyncio.create_task(load(url, 600, 4, pause=0.05))
        codes = []
        for step in range(2):
            for one in chosen[:3]:
                one.rename(one.with_suffix(".away")) if step == 0 else one.with_suffix(".away").rename(one)
            run = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
            codes.append(await run.wait())
        return {"sync_meanwhile": {**await asking, "sync_codes": codes}}

    with server(project) as (url, _, _):
        wait(url)
        return asyncio.run(together(url))


def measure_start(project: Path) -> dict[str, Any]:
    found = []
    for _ in range(3):
        with server(project) as (url, _, started):
            listening = time.perf_counter() - started
            wait(url)
            found.append((listening, time.perf_counter() - started))
    return {"start_seconds": [{"listening": round(one, 2), "first_answer": round(two, 2)} for one, two in found]}


def measure_large(project: Path, rows: int) -> dict[str, Any]:
    from frameloom.workflows.project import Project
    from frameloom.workflows.search import SearchSession

    session = SearchSession(Project.open(project))
    table, (kept,) = session.table, [session.table.get(columns=None)[:1]]
    template, dim = kept[0], table.dim()
    random = np.random.default_rng(0)
    for first in range(0, rows, 20_000):
        vectors = random.standard_normal((min(20_000, rows - first), dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        table.apply([
            {**template, "id": f"{number:032x}-video", "clip": f"{number:032x}", "vector": vector}
            for number, vector in enumerate(vectors, first)
        ])  # fmt: skip
    table.finish()
    with server(project) as (url, _, _):
        wait(url)
        wait(url)
        one = asyncio.run(load(url, 100, 1))
        many = asyncio.run(load(url, 640, 32))
    return {"large": {"rows": rows, "one_client": one, "32_clients": many}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--long", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--parts", default="start,load,overload,sync,large")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    parts, found = args.parts.split(","), {"command": sys.argv, "load_average": os.getloadavg()}
    with tempfile.TemporaryDirectory(prefix="frameloom-load-") as folder:
        project = Path(shutil.copytree(args.project, Path(folder) / "project"))
        os.environ["FRAMELOOM_CACHE"] = str(Path(folder) / "cache")
        for name, run in {
            "start": lambda: measure_start(project),
            "load": lambda: measure_load(project, args),
            "overload": lambda: measure_overload(project),
            "sync": lambda: measure_sync(project),
            "large": lambda: measure_large(project, args.rows),
        }.items():
            if name in parts:
                found |= run()
                print(json.dumps(found, indent=1), flush=True)
                if args.json:
                    args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
