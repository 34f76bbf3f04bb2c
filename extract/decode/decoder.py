"""Parent side of the decoder subprocess: start, request, time out, reap, restart.

A subprocess and not a `multiprocessing` process, because the workers of a Dask cluster are daemonic and may not have
children of that kind.
"""

from __future__ import annotations

import fcntl
import functools
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import MediaError, ProcessStartError, Status
from ..types import DEFAULT_LIMITS, AudioWanted, DecodedFrames, FramesWanted, Limits, MediaInfo
from .wire import Arrays, WireError, receive, send

_CHILD_MODULE = f"{__package__}.child"
_START_SECONDS = 60.0
_CHILD_ENVIRONMENT = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "MALLOC_ARENA_MAX": "1",  # each further one takes 64 MB of the address space, which is limited
}
_STDERR_BYTES = 2000
_PIPE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FramesChunk:
    """Pictures for the request of this index. Chunks of one request follow one another."""

    index: int
    frames: DecodedFrames


@dataclass(frozen=True, slots=True)
class SamplesChunk:
    """(N,) samples that follow those of the chunk before; the track begins at ``start_seconds``."""

    samples: NDArray[np.float32]
    start_seconds: float


@dataclass(frozen=True, slots=True)
class DecodeEnd:
    """The last thing that decoding a file gives: how its pictures and its sound went."""

    video_status: Status
    video_message: str
    audio_status: Status
    audio_message: str
    video_extent: tuple[float, float] | None = None


class _ChildGoneError(Exception):
    """The child closed its end of the pipe."""


class _OutOfTimeError(Exception):
    """The child has used up the time for this file."""


def check_file(path: Path) -> os.stat_result:
    """The file's state. Raises MediaError for what is not a readable regular file with something in it."""
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError(Status.MISSING, "no such file") from None
    except OSError as error:
        raise MediaError(Status.UNREADABLE, f"the file cannot be reached: {error.strerror}") from None
    except ValueError as error:
        raise MediaError(Status.MISSING, f"no file can have this name: {error}") from None
    if not stat.S_ISREG(state.st_mode):
        raise MediaError(Status.NOT_REGULAR_FILE, "not a regular file but a folder, a pipe, a device or a socket")
    if state.st_size == 0:
        raise MediaError(Status.EMPTY_FILE, "the file is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise MediaError(Status.UNREADABLE, "the file may not be read: permission denied")
    return state


class Decoder:
    """A child process that decodes files one after another, under limits, and is replaced when it dies.

    Use it as a context manager, from one thread at a time. A file that kills the child, or makes it too slow, becomes a
    `MediaError` for that file; the next one is decoded by a fresh child.
    """

    def __init__(self, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._seconds_left = 0.0
        self._is_busy = False

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def close(self) -> None:
        """End the child. The decoder can be used again afterwards."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):  # what was still buffered has nobody to read it
                    pipe.close()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def interrupt(self) -> None:
        """End what another thread is waiting for: the child dies, and the iterator there raises MediaError."""
        child = self._child
        if child is not None:
            child.kill()

    def probe(self, path: str | Path) -> MediaInfo:
        """Describe a file. Raises MediaError when it cannot be opened at all."""
        with closing(self._request({"op": "probe", "path": _absolute(path)})) as answers:
            header, _ = next(answers)
            info = MediaInfo.from_dict(header["info"])
            assert next(answers, None) is None
        return replace(info, path=str(path))

    def decode(
        self,
        path: str | Path,
        *,
        frames: Sequence[FramesWanted] = (),
        audio: AudioWanted | None = None,
        is_picture: bool = False,
    ) -> Generator[FramesChunk | SamplesChunk | DecodeEnd, None, None]:
        """Decode a file once, for all requests together.

        The child works ahead by about one chunk while the caller is busy with the last one; only the time spent waiting
        for the child counts against its limit. A still picture (PNG, JPEG, WebP, BMP) is a video of one frame, and is
        read only where `is_picture` says so.

        Returns:
            Chunks in order of time, then one `DecodeEnd`.

        Raises:
            MediaError: nothing of the file can be used, or the child was stopped by its limits.
        """
        request = {
            "op": "decode",
            "path": _absolute(path),
            "frames": [asdict(wanted) for wanted in frames],
            "audio": None if audio is None else asdict(audio),
            "is_picture": is_picture,
        }
        with closing(self._request(request)) as answers:
            for header, arrays in answers:
                if header["kind"] == "frames":
                    pictures = DecodedFrames(arrays["frames"], arrays["times"], arrays["cells"])
                    yield FramesChunk(header["index"], pictures)
                elif header["kind"] == "samples":
                    yield SamplesChunk(arrays["samples"], header["start_seconds"])
                else:
                    video, audio_end, extent = header["video"], header["audio"], header["video_extent"]
                    yield DecodeEnd(
                        Status(video[0]),
                        video[1],
                        Status(audio_end[0]),
                        audio_end[1],
                        None if extent is None else (extent[0], extent[1]),
                    )

    def frame_at(self, path: str | Path, seconds: float, *, short_side: int) -> DecodedFrames:
        """The one picture that is on display at an instant, with its own time; nothing after it is decoded.

        Args:
            path: the file.
            seconds: since the file's start.
            short_side: shortest side of the picture after scaling, in pixels.

        Raises:
            MediaError: the file cannot be used, shows no picture at that instant, or the child was stopped.
        """
        wanted = FramesWanted(1.0, short_side, at_seconds=(seconds,))
        request = {"op": "frame", "path": _absolute(path), "wanted": asdict(wanted)}
        with closing(self._request(request)) as answers:
            _, found = next(answers)
            assert next(answers)[0]["kind"] == "end"
            assert next(answers, None) is None
        return DecodedFrames(found["frames"], found["times"], found["cells"])

    def _request(self, request: dict[str, Any]) -> Generator[tuple[dict[str, Any], Arrays], None, None]:
        """Send a request and give its answers up to the last. A caller that stops early costs the child its life."""
        if self._is_busy:
            raise RuntimeError("a decoder reads one file at a time: finish or close the iterator of the last one first")
        finished, self._is_busy = False, True
        try:
            self._send({**request, "limits": asdict(self.limits)})
            while not finished:
                header, arrays = self._receive()
                finished = header["kind"] in ("end", "info", "rejected")
                if header["kind"] == "rejected":
                    status = Status(header["status"])
                    if status is Status.OUT_OF_MEMORY:
                        self.close()  # that child ends itself: a heap that was full is not used again
                    raise MediaError(status, header["message"])
                yield header, arrays
        except _OutOfTimeError:
            raise MediaError(
                Status.DEADLINE, f"decoding took longer than {self.limits.seconds:g} s (limits.seconds)"
            ) from None
        except (_ChildGoneError, WireError) as error:
            raise self._crash(error) from None
        finally:
            self._is_busy = False
            if not finished:
                self.close()

    def _send(self, request: dict[str, Any]) -> None:
        self._seconds_left = self.limits.seconds
        for is_last_try in (False, True):
            child = self._running_child()
            assert child.stdin is not None
            try:
                send(child.stdin, request)
                header, _ = self._receive()
            except (BrokenPipeError, _ChildGoneError):
                # The child ended before it began: it needed a restart, or was killed while idle. No fault of this file.
                if is_last_try:
                    raise _ChildGoneError from None
                self.close()
            else:
                assert header["kind"] == "begun"
                return

    def _receive(self) -> tuple[dict[str, Any], Arrays]:
        return receive(self._read_into, max_array_bytes=self.limits.memory_bytes)

    def _read_into(self, view: memoryview) -> None:
        assert self._child is not None
        assert self._child.stdout is not None
        source = self._child.stdout.fileno()
        poller = select.poll()
        poller.register(source, select.POLLIN)
        while view:
            began = time.monotonic()
            ready = poller.poll(max(0.0, self._seconds_left) * 1000)
            self._seconds_left -= time.monotonic() - began
            if not ready:
                raise _OutOfTimeError
            count = os.readv(source, [view])
            if count == 0:
                raise _ChildGoneError
            view = view[count:]

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is not None:
            return self._child
        try:
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        except OSError as error:
            raise ProcessStartError(
                f"no temporary file can be made ({error.strerror}): set TMPDIR to a folder that can be written"
            ) from None
        self._child = child = _spawner(os.getpid()).submit(_spawn, self._stderr).result()
        seconds, self._seconds_left = self._seconds_left, _START_SECONDS
        try:
            header, _ = self._receive()
        except (_ChildGoneError, _OutOfTimeError, WireError):
            reason = self._last_error_line()
            self.close()
            raise ProcessStartError(
                f"the decoder subprocess does not start: {reason}: `frameloom doctor` examines what it needs"
            ) from None
        assert header["kind"] == "ready"
        self._seconds_left = seconds
        return child

    def _crash(self, error: Exception) -> MediaError:
        """How a child that is gone is reported."""
        code = self._child.wait() if self._child is not None and isinstance(error, _ChildGoneError) else None
        if code == -signal.SIGXCPU:
            return MediaError(Status.DEADLINE, f"decoding took more than {self.limits.seconds:g} s of processor time")
        if code is not None and code < 0:
            return MediaError(Status.DECODER_CRASH, f"the decoder was killed by {signal.Signals(-code).name}")
        reason = self._last_error_line() or str(error) or f"exit code {code}"
        return MediaError(Status.DECODER_CRASH, f"the decoder failed: {reason}")

    def _last_error_line(self) -> str:
        """The last line that the child wrote to its standard error."""
        if self._stderr is None:
            return ""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_BYTES))
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _absolute(path: str | Path) -> str:
    return str(Path(path).absolute())


@functools.cache
def _spawner(_parent_pid: int) -> ThreadPoolExecutor:
    """The thread that starts children, which lives as long as this process.

    Linux sends the parent-death signal when the *thread* that started the child ends, so a child that a short-lived
    thread started would be killed under the feet of the others.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="frameloom-decoder-starter")


def _spawn(last_words: IO[bytes]) -> subprocess.Popen[bytes]:
    # -P: the working folder, which may be a folder of videos, is not searched for modules.
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", _CHILD_MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=last_words,
        env={**os.environ, **_CHILD_ENVIRONMENT},
    )
    assert child.stdout is not None
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # a larger pipe means fewer wake-ups; the system may allow none
            fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return child
