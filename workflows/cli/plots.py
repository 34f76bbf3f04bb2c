"""The commands that draw."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import DEFAULT_CONFIG, AsJson, ConfigPath, open_project, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Out = Annotated[Path, typer.Argument(metavar="OUT.png", help="The picture to write.")]


def plot() -> None:
    """Draw what a model learned, as a PNG: its losses, what it attends to, a question over the time of a video.

    With --json the numbers behind the picture are printed too.
    """


def losses(
    out: _Out,
    config: ConfigPath = DEFAULT_CONFIG,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A checkpoint's folder, finished or under way. [default: in use]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw the loss curve of the model's training: every step, the mean of every epoch, and each term of the loss.

    A term compares two embeddings, such as t against va: text with video and audio together.

    Example: frameloom plot losses losses.png
    """
    from ..experiments.plots import check_target, draw_losses
    from ..experiments.plots_data import training_losses
    from ..search import trained

    check_target(out)
    found = training_losses(
        checkpoint if checkpoint is not None else trained(open_project(config, read_only=True)).folder
    )
    _finish(draw_losses(found), out, found.as_dict(), as_json=as_json)


def attention(
    out: _Out,
    config: ConfigPath = DEFAULT_CONFIG,
    clips: Annotated[int, typer.Option(min=1, help="Clips that are averaged over.")] = 128,
    split: Annotated[str | None, typer.Option(help="train, val or test. [default: all clips]")] = None,
    block: Annotated[int, typer.Option(min=1, help="Which block of the transformer.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Draw how much text, video and audio attend to each other in the model, head by head.

    A cell is the share of its attention that a token of one modality gives to all tokens of another, averaged over
    tokens and clips (figure 3 of Everything at Once). A head that treated all tokens alike would give each modality a
    share as large as its share of the tokens, whose numbers are in the title.

    Example: frameloom plot attention attention.png --split test
    """
    from ..experiments.plots import check_target, draw_attention
    from ..experiments.plots_data import project_attention

    check_target(out)
    found = project_attention(open_project(config, read_only=True), num_clips=clips, split=split, block=block)
    _finish(draw_attention(found), out, found.as_dict(), as_json=as_json)


def timeline(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="Words.")],
    out: _Out,
    video: Annotated[
        str | None, typer.Option(metavar="FILE", help="A video of the collection. [default: the best answer's]")
    ] = None,
    window: Annotated[float, typer.Option(metavar="SECONDS", help="Length of a window.")] = 3.0,
    step: Annotated[float, typer.Option(metavar="SECONDS", help="From one window to the next.")] = 1.0,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Draw where in a video a question is answered: its similarity with one window after another.

    The video is read from its stored features; nothing is decoded. A window as long as the clips that the model was
    trained on is a good choice; the default is that of Everything at Once for finding steps in a video.

    Example: frameloom plot timeline "a dog does a trick" trick.png --video videos/dogs.mp4
    """
    from ..experiments.plots import check_target, draw_timeline
    from ..search import question_timeline

    check_target(out)
    found = question_timeline(
        open_project(config, read_only=True), question, video=video, window_seconds=window, step_seconds=step
    )
    _finish(draw_timeline(found), out, found.as_dict(), as_json=as_json)


def alignment(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="Words.")],
    out: _Out,
    video: Annotated[Path, typer.Option(metavar="FILE", help="A video, of the collection or not.")],
    start: Annotated[float, typer.Option(metavar="SECONDS", help="From where on it is looked at.")] = -math.inf,
    end: Annotated[float, typer.Option(metavar="SECONDS", help="Up to where.")] = math.inf,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Draw which patches of a video's frames go with which word of a question: a row for each word.

    Of MILES the cosine of a word with a patch (its figure 3), of All-in-one the share of the word that optimal
    transport moves to the patch (its figure 7). Other models do not compare single patches with words.

    Example: frameloom plot alignment "a red ball rolls" ball.png --video videos/ball.mp4
    """
    from ..experiments.plots import check_target, draw_alignment
    from ..search import question_alignment

    check_target(out)
    found = question_alignment(open_project(config, read_only=True), question, video, span=(start, end))
    _finish(draw_alignment(found), out, found.as_dict(), as_json=as_json)


def _finish(figure: Figure, out: Path, numbers: dict[str, Any], *, as_json: bool) -> None:
    from ..experiments.plots import save

    save(figure, out)
    show({**numbers, "file": str(out)}, [f"wrote {out}"], as_json=as_json)
