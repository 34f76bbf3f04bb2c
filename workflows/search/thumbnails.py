"""Answers as a table of a notebook: a picture of each at the moment found. All text of files and manifests is escaped.

Pictures are decoded by the decoder subprocess, under limits, when a notebook first shows them, and the last ones are
kept in memory. A picture that cannot be had is its status; showing answers never fails.
"""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..._files import file_stamp
from ..._vocabulary import FrameloomError, MediaError
from .results import Result

MOST_SHOWN = 20
MOST_KEPT = 256
_SHORT_SIDE = 96
_SECONDS_A_FILE = 15.0
_MEMORY_BYTES = 2 * 10**9
_QUALITY = 80

_kept: OrderedDict[tuple[str, str, float], str] = OrderedDict()  # JPEG as a data URI, or the reason why not
_lock = threading.Lock()


def html_of(results: Sequence[Result]) -> str:
    """The first answers as an HTML table, with pictures."""
    if not results:
        return "<p>no answers</p>"
    shown = results[:MOST_SHOWN]
    rows = []
    for one, picture in zip(shown, pictures_of([(one.path, one.moment_seconds) for one in shown]), strict=True):
        image = f'<img alt="" src="{picture}"/>' if picture.startswith("data:") else f"<small>{escape(picture)}</small>"
        cells = (
            image,
            f'<span title="{escape(one.path)}">{escape(one.video)}</span>',
            f"{one.start_seconds:.1f} to {one.end_seconds:.1f} s",
            "<br/>".join(f"{escape(each.name)} {each.value:.3f}" for each in one.scores) or f"{one.score:.3f}",
            "<br/>".join(map(escape, one.captions)),
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("", "video", "seconds", "scores", "captions"))
    more = f"<p>and {len(results) - len(shown)} more</p>" if len(results) > len(shown) else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{more}"


def pictures_of(moments: Sequence[tuple[str, float]]) -> list[str]:
    """For each file and instant in seconds a JPEG as a data URI; or the reason why not."""
    from PIL import Image

    from ...extract.decode import Decoder, Limits, frame_at

    found: list[str] = []
    with _lock, Decoder(limits=Limits(seconds=_SECONDS_A_FILE, memory_bytes=_MEMORY_BYTES)) as decoder:
        for path, seconds in moments:
            try:
                key = path, file_stamp(Path(path).stat()), seconds
            except OSError:
                found.append("missing")
                continue
            if key not in _kept:
                try:
                    picture = frame_at(Path(path), seconds, short_side=_SHORT_SIDE, decoder=decoder).frames[0]
                    jpeg = io.BytesIO()
                    Image.fromarray(picture).save(jpeg, "JPEG", quality=_QUALITY)
                    _kept[key] = "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
                except MediaError as error:
                    _kept[key] = error.status.value
                except FrameloomError as error:
                    found.append(str(error))
                    continue
            _kept.move_to_end(key)
            found.append(_kept[key])
            while len(_kept) > MOST_KEPT:
                _kept.popitem(last=False)
    return found
