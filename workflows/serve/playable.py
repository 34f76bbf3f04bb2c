"""A video in H.264 and AAC, for browsers that lack the codec of its file: MPEG-4 part 2, WMV, HEVC and others.

The decoder subprocess reads the file under its limits; what is written here is made of its pictures and samples alone.
Pictures keep their instants and a key picture comes every second, so that a player can go to any moment.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ...extract.decode import AudioWanted, DecodedFrames, Decoder, FramesChunk, FramesWanted, SamplesChunk
from .security import Refused, busy

LONGEST_SECONDS = 600.0
SHORT_SIDE = 360
PICTURES_A_SECOND = 25
SAMPLES_A_SECOND = 44_100
_OPTIONS = {"preset": "veryfast", "crf": "26", "g": str(PICTURES_A_SECOND)}


def write_playable(path: Path, target: Path, decoder: Decoder, *, is_stopped: Callable[[], bool]) -> None:
    """Write the pictures and the sound of a file as MP4.

    Args:
        path: the file.
        target: is written.
        decoder: reads the file; in use until this returns.
        is_stopped: whether to give it up.

    Raises:
        MediaError: the file cannot be read.
        Refused: (404) it shows no pictures, or it is longer than `LONGEST_SECONDS`; (503) it was given up.
    """
    import av

    info = decoder.probe(path)
    if info.video is None:
        raise Refused(404, "this file shows no pictures")
    if (info.duration_seconds or 0.0) > LONGEST_SECONDS:
        raise Refused(404, f"this video is longer than {LONGEST_SECONDS / 60:.0f} minutes: too long to be converted")
    side = min(SHORT_SIDE, info.video.width, info.video.height)
    if side < 2:
        raise Refused(404, "H.264 has no pictures of one pixel")
    wanted = [FramesWanted(PICTURES_A_SECOND, side)]
    sound = None if info.audio is None else AudioWanted(SAMPLES_A_SECOND)
    with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as file:
        pictures: Any = file.add_stream("libx264", rate=PICTURES_A_SECOND, options=_OPTIONS)
        pictures.pix_fmt = "yuv420p"
        samples: Any = None if sound is None else file.add_stream("aac", rate=SAMPLES_A_SECOND, layout="mono")
        done = 0
        with closing(decoder.decode(path, frames=wanted, audio=sound)) as chunks:
            for chunk in chunks:
                if is_stopped():
                    raise busy("the server ends")
                if isinstance(chunk, FramesChunk):
                    for frame in _video_frames(chunk.frames):
                        if not pictures.codec_context.is_open:
                            pictures.width, pictures.height = frame.width, frame.height
                        file.mux(pictures.encode(frame))
                elif isinstance(chunk, SamplesChunk) and len(chunk.samples):
                    frame = av.AudioFrame.from_ndarray(chunk.samples[None], format="fltp", layout="mono")
                    frame.sample_rate, frame.time_base = SAMPLES_A_SECOND, Fraction(1, SAMPLES_A_SECOND)
                    frame.pts = round(chunk.start_seconds * SAMPLES_A_SECOND) + done
                    done += len(chunk.samples)
                    file.mux(samples.encode(frame))
        if not pictures.codec_context.is_open:
            raise Refused(404, "no picture of this file can be decoded")
        for stream in filter(None, (pictures, samples)):
            file.mux(stream.encode(None))


def _video_frames(decoded: DecodedFrames) -> Any:
    """Pictures with even sides, at the instants of their cells."""
    import av

    for cell, picture in zip(decoded.cell_indices().tolist(), decoded.frames, strict=True):
        height, width = (length // 2 * 2 for length in picture.shape[:2])
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        frame.pts, frame.time_base = cell, Fraction(1, PICTURES_A_SECOND)
        yield frame
