"""The clips of MSR-VTT and YouCook2 as the authors of Everything at Once publish them: pickles with everything in them.

Source: ninatu/everything_at_once@4daeab6, everything_at_once/dataset/msrvtt_dataset.py and youcook_dataset.py, and the
configurations, which name the keys. A pickle is a list with one dict for each clip:

    id              name of the clip
    2d, 3d          ResNet-152 and ResNeXt-101 rows (T, 2048); of YouCook2 ``2d_full`` and ``3d_full``
    clip, s3d       rows (T, 512) and (T, 1024), in pickles of their own that list the same clips in the same order
    audio           log-mel frames (mel bands, F)
    caption         MSR-VTT's training pickle: a list of sentences; YouCook2: one
    eval_caption    MSR-VTT's test pickle: the sentence that asks

Pickles are read by `read_pickle` of the store, which runs nothing of them; all of one is in memory at once.

Deviation: the two pickles of a clip must agree on its id where both have one; the authors join them by position alone.
A clip without one of the arrays is left out and counted; the authors do so for YouCook2 (11 clips) by the key 2d_full.

Legend: N clips, T rows, F frames, W words, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import InputError
from ...store.foreign import read_pickle
from ..data import ClipSample

VIDEO_KEYS: Mapping[str, tuple[str, ...]] = {
    "msrvtt": ("2d", "3d"),
    "youcook2": ("2d_full", "3d_full"),
    "clip": ("clip",),
    "s3d": ("s3d",),
}
"""Keys of the video features, in the order in which they are joined: of either set, or of the stronger backbones."""

_CAPTIONS = ("eval_caption", "caption")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedClip:
    """One clip: its id, its video features (T, D) in the order of the keys, its frames (F, mel bands), its captions."""

    id: str
    video: tuple[NDArray[Any], ...]
    audio: NDArray[Any] | None
    captions: tuple[str, ...]


class PublishedClips:
    """Clips with their captions as word vectors: what `ClipDataset` and `embed_test_clips` read.

    Args:
        clips: the clips.
        words: encodes one caption as word vectors (W, D).
    """

    def __init__(self, clips: Sequence[PublishedClip], *, words: Callable[[str], NDArray[Any]]) -> None:
        self.clips = list(clips)
        self.words = words

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> ClipSample:
        clip = self.clips[index]
        return {"video": list(clip.video), "audio": clip.audio, "text": _Captions(clip.captions, self.words)}


class _Captions(Sequence[NDArray[Any]]):
    """Captions as word vectors, each encoded when it is asked for."""

    def __init__(self, captions: Sequence[str], words: Callable[[str], NDArray[Any]]) -> None:
        self._captions, self._words = captions, words

    def __len__(self) -> int:
        return len(self._captions)

    def __getitem__(self, index: Any) -> Any:
        return self._words(self._captions[index])


def read_published_clips(
    path: Path,
    *,
    video: Sequence[str],
    video_path: Path | None = None,
    audio: str | None = "audio",
) -> tuple[list[PublishedClip], int]:
    """The clips of a pickle that have all of the wanted arrays, and the number of those that were left out.

    With features of a stronger backbone `path` is still the pickle of ResNet features, as published: it rules which
    clips count, and holds the sound and the captions.

    Args:
        path: the pickle that lists the clips.
        video: keys of the video features, see `VIDEO_KEYS`.
        video_path: the pickle that holds these; None: `path`.
        audio: key of the spectrogram; None to leave it.

    Raises:
        InputError: names the file and the clip.
    """
    clips = _records(path)
    others = clips if video_path is None else _records(video_path)
    if len(others) != len(clips):
        raise InputError(f"{video_path} lists {len(others)} clips and {path} lists {len(clips)}: they must be the same")
    rules = None
    if video_path is not None:  # the key of the ResNet features by which the authors decide that a clip counts
        rules = next((key for key in ("2d_full", "2d") if any(key in record for record in clips)), None)
    found = []
    for number, (record, other) in enumerate(zip(clips, others, strict=True)):
        where = f"{path}, clip {number}"
        if not isinstance(record.get("id"), str | int):
            raise InputError(f"{where}: it has no `id` that is a text or a number")
        name = str(record["id"])
        if "id" in other and str(other["id"]) != name:
            raise InputError(f"{where} is {name!r:.60} and {video_path} has {other['id']!r:.60} in its place")
        if (rules is None or rules in record) and all(key in other for key in video):
            streams = tuple(_array(other[key], f"{where}: {key}") for key in video)
            frames = None if audio is None or audio not in record else _array(record[audio], f"{where}: {audio}").T
            found.append(PublishedClip(id=name, video=streams, audio=frames, captions=_captions(record, where)))
    if not found:
        keys = ", ".join(repr(key) for key in others[0]) if others else "no clip"
        raise InputError(f"{video_path or path}: no clip has all of {', '.join(video)}; there are {keys:.200}")
    return found, len(clips) - len(found)


def _records(path: Path) -> list[Mapping[Any, Any]]:
    records = read_pickle(path)
    if not isinstance(records, list | tuple) or not all(isinstance(one, dict) for one in records):
        raise InputError(f"{path}: a list of dicts, one for each clip, is read")
    return list(records)


def _array(value: Any, where: str) -> NDArray[Any]:
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "fiu":
        shape = value.shape if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(f"{where} must be an array of numbers with two dimensions, found {shape}")
    return value


def _captions(record: Mapping[Any, Any], where: str) -> tuple[str, ...]:
    given: Any = next((record[key] for key in _CAPTIONS if key in record), [])
    captions = [given] if isinstance(given, str) else given
    if not isinstance(captions, list | tuple) or not all(isinstance(one, str) for one in captions):
        raise InputError(f"{where}: its caption must be a text or a list of texts, found {given!r:.60}")
    return tuple(captions)
