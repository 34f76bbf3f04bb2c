"""The decoder subprocess: it opens media files for its parent, under limits of memory and time.

It imports NumPy and PyAV and nothing heavier, reads requests from standard input, answers on standard output, and ends
when its parent does: by end of input, by a watch on the pipe while it is busy, and on Linux by the parent-death signal.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import select
import signal
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import MediaError, Status
from ..types import AudioWanted, DecodedFrames, FramesWanted, Limits
from .memory import needs_restart
from .probe import probe_media
from .walk import decode, decode_frame
from .wire import receive, send

_PR_SET_PDEATHSIG = 1
_MAX_STDERR_BYTES = 1 << 20
_MAX_OPEN_FILES = 64


class _EndOfInputError(Exception):
    """The parent has closed the pipe."""


class _PipeSink:
    """Sends decoded chunks to the parent."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def frames(self, index: int, frames: DecodedFrames) -> None:
        """Send pictures for the request of this index."""
        arrays: dict[str, NDArray[Any]] = {
            "frames": frames.frames,
            "times": frames.times,
            "cells": frames.cell_indices(),
        }
        send(self._stream, {"kind": "frames", "index": index}, arrays)

    def samples(self, samples: NDArray[np.float32], start_seconds: float) -> None:
        """Send (N,) samples of the sound track."""
        send(self._stream, {"kind": "samples", "start_seconds": start_seconds}, {"samples": samples})


def main() -> None:
    """Serve requests until the input ends."""
    source, target = os.dup(0), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the pipes are for messages; what else prints goes to standard error
    os.dup2(2, 1)
    _end_with_parent(source)
    av.logging.set_level(None)
    gc.freeze()  # what is loaded stays: `_serve` need not look through it
    send(target, {"kind": "ready", "pid": os.getpid()})
    while True:
        try:
            request, _ = receive(lambda view: _read_exactly(source, view), max_array_bytes=0)
        except _EndOfInputError:
            return
        if not _serve(request, target):
            return


def _serve(request: dict[str, Any], target: BinaryIO) -> bool:
    """Answer one request. False when this process should be replaced by a fresh one."""
    limits = Limits(**request["limits"])
    # The parent keeps the wall clock.
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(usage.ru_utime + usage.ru_stime + limits.seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    send(target, {"kind": "begun"})
    try:
        _answer(request, limits, target)
    except MediaError as error:
        send(target, {"kind": "rejected", "status": error.status.value, "message": error.message})
    except MemoryError:
        message = f"decoding needs more than {limits.memory_bytes} bytes of memory (memory_bytes)"
        send(target, {"kind": "rejected", "status": Status.OUT_OF_MEMORY.value, "message": message})
        return False
    except OSError as error:
        message = f"the file cannot be read: {error.strerror or error}"
        send(target, {"kind": "rejected", "status": Status.UNREADABLE.value, "message": message})
    gc.collect()  # a walk over a file and its takers hold each other, with the decoder's pictures among them
    return not needs_restart(limits)


def _answer(request: dict[str, Any], limits: Limits, target: BinaryIO) -> None:
    path = Path(request["path"])
    if request["op"] == "probe":
        send(target, {"kind": "info", "info": probe_media(path, limits=limits).as_dict()})
        return
    if request["op"] == "frame":
        wanted = FramesWanted(**request["wanted"])
        decode_frame(path, wanted=wanted, limits=limits, sink=_PipeSink(target))
        send(target, {"kind": "end"})
        return
    audio = request["audio"]
    video_outcome, audio_outcome = decode(
        path,
        frames=[FramesWanted(**wanted) for wanted in request["frames"]],
        audio=None if audio is None else AudioWanted(**audio),
        limits=limits,
        sink=_PipeSink(target),
        is_picture=request["is_picture"],
    )
    send(
        target,
        {
            "kind": "end",
            "video": [video_outcome.status.value, video_outcome.message],
            "audio": [audio_outcome.status.value, audio_outcome.message],
            "video_extent": video_outcome.extent,
        },
    )


def _read_exactly(source: int, view: memoryview) -> None:
    while view:
        count = os.readv(source, [view])
        if count == 0:
            raise _EndOfInputError
        view = view[count:]


def _end_with_parent(source: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the parent, which ends us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_STDERR_BYTES, _MAX_STDERR_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_OPEN_FILES, _MAX_OPEN_FILES))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        """End the process as soon as the other end of the pipe is closed, even in the middle of a file."""
        poller = select.poll()
        poller.register(source, 0)  # hang-up and error are always reported
        while True:
            for _, event in poller.poll():
                if event & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                    os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
