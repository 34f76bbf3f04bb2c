"""Dask's clients and clusters: how they start, what they print, and which signals reach their processes."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..._files import signals_deferred
from ..._vocabulary import ConfigError

# Dask gives these loggers levels and handlers of their own when it is imported, in every process, whatever they had
# before. Where a run is stopped, a heartbeat finds its connection closed, and Tornado prints that with a traceback.
DASK_LOGGERS = ("bokeh", "distributed", "distributed.client", "distributed.gc")
SHARED_LOGGERS = ("asyncio", "tornado", "tornado.application")

# Freed memory is kept by the worker: with glibc's defaults every large tensor is given back and page-faulted in again,
# which cost up to a third of the time of a backbone on CPU.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_TOP_PAD_": str(64 << 20),
    # Small pieces that a thread keeps for itself split what lies between them: at random a worker grew by a quarter.
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    # Threads that wait for one another sleep: spinning made a training three times slower next to one busy process.
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "DASK_DISTRIBUTED__LOGGING": repr(dict.fromkeys(DASK_LOGGERS + SHARED_LOGGERS, "critical")),
}

_DASK_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,  # a batch whose worker died is tried again by us, file by file
    "distributed.scheduler.no-workers-timeout": "300s",
    "distributed.scheduler.worker-ttl": "120s",
    "distributed.comm.retry.count": 5,
    # Sampling profilers that nobody looks at took a tenth of a core in each process.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.daemon": False,
    "distributed.worker.multiprocessing-method": "spawn",
}


class _NotOfDask(logging.Filter):
    """Drops what Dask's code makes others report. A user's own tasks of the same event loop go on being reported."""

    def filter(self, record: logging.LogRecord) -> bool:
        import distributed

        trace = record.exc_info[2] if record.exc_info else None
        folder = str(Path(distributed.__file__).parent)
        return folder not in "".join([record.getMessage(), *traceback.format_tb(trace)])


_not_of_dask = _NotOfDask()


def silence_dask() -> None:
    """Say nothing of Dask's affairs in this process: what fails is the outcome of a job."""
    import distributed  # noqa: F401 - which sets levels when it is imported

    for name in DASK_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in SHARED_LOGGERS:
        logging.getLogger(name).addFilter(_not_of_dask)


@contextmanager
def open_client(address: Any) -> Iterator[Any]:
    from dask import config
    from distributed import Client

    silence_dask()
    if isinstance(address, str):
        _check_address(address)
    with config.set(_DASK_SETTINGS):
        try:
            client = Client(address, timeout="30s", set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {address} ({error}): start one with `dask scheduler`, or leave"
                " run.scheduler out"
            ) from None
        with client:
            yield client


def _check_address(address: str) -> None:
    """Raises ConfigError, at once, for what no scheduler can listen at. Dask would try for a minute."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        if not parts.hostname or not parts.port:
            raise ValueError("it names no host and port")
        socket.getaddrinfo(parts.hostname, parts.port)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"run.scheduler: no Dask scheduler can be at {address!r} ({error}): give an address such as"
            " tcp://10.0.0.1:8786, or leave it out"
        ) from None


@contextmanager
def local_cluster(num_workers: int, resources: Mapping[str, float]) -> Iterator[Any]:
    from dask import config
    from distributed import LocalCluster, Security

    if multiprocessing.current_process().daemon:
        raise ConfigError("a daemonic process may not start workers: set run.workers to 0, or start it without daemon")
    silence_dask()
    settings = {**_DASK_SETTINGS, "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}
    with config.set(settings), _hidden_main(), ExitStack() as stack:
        with signals_deferred(), _terminal_signals_blocked():
            cluster = LocalCluster(
                n_workers=num_workers,
                resources=dict(resources),
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                protocol="tls://",
                security=Security.temporary(),  # other processes of this machine may not run functions on the workers
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
            stack.enter_context(cluster)
        yield cluster


@contextmanager
def _terminal_signals_blocked() -> Iterator[None]:
    """Keep what a terminal sends to all of a group from the threads and processes that begin meanwhile, for good.

    The process that leads ends its workers itself, also those that a nanny's thread starts later.
    """
    resource_tracker.ensure_running()  # which would end the blocking, had it to start for the first worker
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep worker processes from running the caller's script again.

    A spawned process imports the parent's main script first, so a script that calls `index.sync()` outside of
    `if __name__ == "__main__":` would start itself over and over. Tasks live in modules of ours: none needs it.
    """
    main = sys.modules["__main__"]
    names = [name for name in ("__file__", "__spec__") if name in main.__dict__]
    hidden: dict[str, Any] = {name: main.__dict__.pop(name) for name in names}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(hidden)
