"""Files of the collection as browsers want them: ranges of bytes, pictures of moments, sheets of them with WebVTT, and
videos in a codec that they have.

Pictures are decoded by the decoder subprocess, under limits, once: a folder of the cache keeps them, bounded in bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from starlette.datastructures import Headers
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from ..._files import file_stamp, make_folder, temporary_path
from ..._vocabulary import MediaError
from ...extract.decode import Decoder, FramesChunk, FramesWanted, Limits, check_file, frame_at
from .playable import write_playable
from .security import IS_HEAD, Refused

MEDIA_TYPES = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".qt": "video/quicktime",
    ".webm": "video/webm", ".mkv": "video/x-matroska", ".avi": "video/x-msvideo", ".ogv": "video/ogg",
    ".mpg": "video/mpeg", ".mpeg": "video/mpeg", ".ts": "video/mp2t", ".wmv": "video/x-ms-wmv", ".flv": "video/x-flv",
    ".3gp": "video/3gpp", ".gif": "image/gif", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg",
    ".webp": "image/webp", ".bmp": "image/bmp",
}  # fmt: skip
UNKNOWN_TYPE = "application/octet-stream"
SIDES = (96, 240, 480)
"""Shortest sides of pictures that can be asked for, so that the cache is not filled with every size."""
TILES = 60
TILE_SIDE = 72
TILE_COLUMNS = 10
_ONE_PASS_SECONDS = 300.0  # a longer video is sought instant by instant
_QUALITY = 80
_RANGE_CHARACTERS = 100


class MediaFile(FileResponse):
    """A whole file, one range of it, or its head alone. Several ranges at once are answered with the whole file."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope).get("range", "")
        if "," in asked or len(asked) > _RANGE_CHARACTERS:
            kept = [(name, value) for name, value in scope["headers"] if name != b"range"]
            scope = {**scope, "headers": kept}
        if IS_HEAD in scope:  # so that the file is not read
            scope = {**scope, "method": "HEAD"}
        await super().__call__(scope, receive, send)


def media_file(path: Path) -> MediaFile:
    """The answer with a file of the collection. Raises Refused (404) where it is gone, or not a regular file."""
    kind = MEDIA_TYPES.get(path.suffix.lower(), UNKNOWN_TYPE)
    try:
        state = check_file(path)
    except MediaError as error:
        raise gone(error) from None
    return MediaFile(path, media_type=kind, stat_result=state, headers={"cache-control": "private, no-cache"})


def gone(error: MediaError) -> Refused:
    """For a file that is not there as it was indexed."""
    return Refused(404, f"the file of this clip cannot be read ({error.status.value}): run `frameloom sync`")


class PictureCache:
    """Files by key below a folder, the least used ones deleted where all together exceed ``most_bytes``."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        make_folder(folder)
        self._folder, self._most_bytes = folder, most_bytes
        self._lock = threading.Lock()
        known = sorted(
            ((one.stat(), one.name) for one in folder.iterdir() if one.is_file()), key=lambda e: e[0].st_mtime
        )
        self._sizes = OrderedDict((name, state.st_size) for state, name in known)
        self._shrink()

    @property
    def num_bytes(self) -> int:
        return sum(self._sizes.values())

    def get(self, key: str) -> bytes | None:
        with suppress(OSError):  # somebody emptied the folder
            path = self.path(key)
            return None if path is None else path.read_bytes()
        return None

    def path(self, key: str) -> Path | None:
        """The file of a key, which is among those that are deleted last now."""
        with self._lock:
            if key not in self._sizes:
                return None
            self._sizes.move_to_end(key)
            try:
                os.utime(self._folder / key)
            except OSError:  # somebody emptied the folder
                self._sizes.pop(key, None)
                return None
            return self._folder / key

    def put(self, key: str, data: bytes) -> None:
        """Keep data; a disk that is full or fails costs the copy, and nothing else."""
        with self._lock, suppress(OSError):
            temporary = temporary_path(self._folder / key)
            temporary.write_bytes(data)  # not synced: it can be made again
            temporary.replace(self._folder / key)
            self._sizes[key] = len(data)
            self._sizes.move_to_end(key)
            self._shrink()

    def _shrink(self) -> None:
        while self.num_bytes > self._most_bytes:
            name, _ = self._sizes.popitem(last=False)
            with suppress(OSError):
                (self._folder / name).unlink()


class Pictures:
    """Pictures of files, from the cache or decoded. `make_*` are for one thread at a time, `kept` for any.

    Attributes:
        is_ending: the server ends, and does not wait for a conversion.
    """

    def __init__(self, cache: PictureCache, limits: Limits) -> None:
        self._cache = cache
        self._decoder = Decoder(limits=limits)
        self.is_ending = False

    def close(self) -> None:
        self._decoder.close()

    def kept(self, path: Path, *what: Any) -> tuple[str, bytes | None]:
        """The key of a picture and its bytes, if they were made before. Raises Refused (404) without the file."""
        key = key_of(path, *what)
        return key, self._cache.get(key)

    def check_media(self, path: Path) -> None:
        """Raise Refused (404) for what is no media: a link may lead anywhere since it was indexed. Once a file."""
        key, _ = self.kept(path, "media")
        try:
            self._decoder.probe(path)
        except MediaError as error:
            raise gone(error) from None
        self._cache.put(key, b"media")

    def kept_playable(self, path: Path) -> Path | None:
        """The file that `make_playable` made before. Raises Refused (404) without the video's file."""
        return self._cache.path(key_of(path, "playable"))

    def make_playable(self, path: Path) -> Path:
        """The file of a video as H.264 and AAC. Raises Refused (404) where none can be made."""
        if (found := self.kept_playable(path)) is not None:
            return found
        with tempfile.TemporaryDirectory(prefix="frameloom-playable-") as folder:
            target = Path(folder) / "playable.mp4"
            try:
                write_playable(path, target, self._decoder, is_stopped=lambda: self.is_ending)
            except MediaError as error:
                raise Refused(404, f"the file cannot be converted: {error.status.value}") from None
            self._cache.put(key_of(path, "playable"), target.read_bytes())
        if (found := self.kept_playable(path)) is None:
            raise Refused(404, "the converted file is larger than the server's cache: --cache-mb")
        return found

    def make_thumbnail(self, key: str, path: Path, seconds: float, side: int) -> bytes:
        """The picture on display at an instant, as JPEG. Raises Refused (404) where nothing can be shown."""
        try:
            frame = frame_at(path, seconds, short_side=side, decoder=self._decoder).frames[0]
        except MediaError as error:
            raise Refused(404, f"no picture can be shown: {error.status.value}") from None
        found = jpeg_of(frame)
        self._cache.put(key, found)
        return found

    def make_sprite(self, key: str, path: Path) -> bytes:
        """Up to 60 pictures over the whole video: a JPEG of tiles, with their times before it as one line of JSON.

        Raises Refused (404) where nothing can be shown.
        """
        try:
            info = self._decoder.probe(path)
            seconds = info.duration_seconds or 0.0
            count = max(1, min(TILES, int(seconds)))
            instants = [(number + 0.5) * seconds / count for number in range(count)]
            frames = self._sought(path, instants) if seconds > _ONE_PASS_SECONDS else self._walked(path, instants)
        except MediaError as error:
            raise Refused(404, f"no picture can be shown: {error.status.value}") from None
        if not frames:
            raise Refused(404, "no picture can be shown")
        height, width = next(iter(frames.values())).shape[:2]
        columns = min(TILE_COLUMNS, count)
        sheet = np.zeros((height * -(-count // columns), width * columns, 3), np.uint8)
        for place, frame in frames.items():
            if frame.shape[:2] == (height, width):
                top, left = place // columns * height, place % columns * width
                sheet[top : top + height, left : left + width] = frame
        times = {"seconds": seconds, "count": count, "columns": columns, "width": width, "height": height}
        found = json.dumps(times).encode() + b"\n" + jpeg_of(sheet)
        self._cache.put(key, found)
        return found

    def _walked(self, path: Path, instants: list[float]) -> dict[int, Any]:
        """Pictures by their place, from one pass over the file; a damaged one is left out."""
        wanted = FramesWanted(1.0, TILE_SIDE, at_seconds=tuple(instants))
        found: dict[int, Any] = {}
        for chunk in self._decoder.decode(path, frames=[wanted]):
            if isinstance(chunk, FramesChunk):
                frames = chunk.frames
                for cell, frame in zip(frames.cell_indices().tolist(), frames.frames, strict=True):
                    found[cell if frames.cells is not None else len(found)] = frame
        return found

    def _sought(self, path: Path, instants: list[float]) -> dict[int, Any]:
        found: dict[int, Any] = {}
        for place, instant in enumerate(instants):
            with suppress(MediaError):
                found[place] = frame_at(path, instant, short_side=TILE_SIDE, decoder=self._decoder).frames[0]
        return found


def key_of(path: Path, *what: Any) -> str:
    """The cache's key for something made of a file as it is now. Raises Refused (404) without the file."""
    try:
        stamp = file_stamp(path.stat())
    except OSError:
        raise Refused(404, "the file of this clip is gone: run `frameloom sync`") from None
    return hashlib.sha256(json.dumps([str(path), stamp, *what]).encode()).hexdigest()


def jpeg_of(picture: Any) -> bytes:
    """An (H, W, 3) uint8 picture as JPEG."""
    from PIL import Image

    found = io.BytesIO()
    Image.fromarray(picture).save(found, "JPEG", quality=_QUALITY)
    return found.getvalue()


def webvtt(times: dict[str, Any], address: str) -> str:
    """Which part of a sheet of pictures shows which seconds, as players read it (WebVTT with `#xywh`)."""

    def stamp(seconds: float) -> str:
        millis = round(seconds * 1000)
        return f"{millis // 3_600_000:02}:{millis // 60_000 % 60:02}:{millis // 1000 % 60:02}.{millis % 1000:03}"

    lines = ["WEBVTT", ""]
    each = times["seconds"] / times["count"]
    for place in range(times["count"]):
        left, top = place % times["columns"] * times["width"], place // times["columns"] * times["height"]
        part = f"{left},{top},{times['width']},{times['height']}"
        lines += [f"{stamp(place * each)} --> {stamp((place + 1) * each)}", f"{address}#xywh={part}", ""]
    return "\n".join(lines)
