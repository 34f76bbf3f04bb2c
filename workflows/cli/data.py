"""The commands `export`, `import` and `manifest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import Console
from ..project import ALLOWED_SECONDS
from .options import DEFAULT_CONFIG, AsJson, ConfigPath, Quiet, answer, open_project, show


def export(
    out: Annotated[Path, typer.Argument(help="A new or empty folder. An unfinished export of the same is continued.")],
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="npy, parquet or webdataset.", show_default=True)
    ] = "npy",
    feature: Annotated[
        list[str] | None,
        typer.Option("--feature", metavar="NAME", help="video, audio, text, or a backbone. Repeatable. [default: all]"),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only train, val or test. [default: all]")] = None,
    per: Annotated[
        str, typer.Option(metavar="UNIT", help="What one WebDataset sample holds: video or clip.")
    ] = "video",
    shard_mb: Annotated[
        int, typer.Option(min=1, max=100_000, help="Size of one Parquet or WebDataset file, about.")
    ] = 128,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the stored features for other programs to read.

    npy: FEATURE/VIDEO.npy (T, D) and FEATURE/VIDEO.times.npy (T, 2), in folders like those of the collection.
    parquet: one row for each row of a feature (video, feature, index, start_seconds, end_seconds, values).
    webdataset: one sample for each video or clip, with all of its features, captions and metadata.
    In each, manifest.jsonl lists every video with its status, also those that have no numbers.

    Exit codes: 0 all exported, 3 some were not extracted yet (the others are there).

    Example: frameloom export features --format webdataset --per clip --split train

    Then in Python: webdataset.WebDataset("features/shard-{000000..000003}.tar", shardshuffle=False).decode()
    """
    from ..exchange.exporting import export as export_features

    project, console = open_project(config, read_only=True), Console(quiet=quiet)
    report = export_features(
        project, out, format=format, features=feature, split=split, unit=per, shard_mb=shard_mb, console=console
    )
    answer(report, as_json=as_json)


def import_(
    path: Annotated[Path, typer.Argument(help="The folder, or for --layout pickle the file.")],
    layout: Annotated[
        str, typer.Option("--layout", metavar="NAME", help="npy, pickle, video_features or frameloom (an npy export).")
    ],
    feature: Annotated[str, typer.Option("--feature", metavar="NAME", help="video, audio, text, or a backbone.")],
    array: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which array: a key in .npz files or a pickle, or an ending (resnet, rgb)."),
    ] = None,
    suffix: Annotated[str, typer.Option(help="What file names have after the video's id, such as _2d.")] = "",
    id_key: Annotated[str | None, typer.Option(metavar="KEY", help="The key of a pickled dict that is the id.")] = None,
    mapping: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .csv or .jsonl with `file` and `video`, where names differ.")
    ] = None,
    rate_hz: Annotated[float | None, typer.Option(help="Rows a second. [default: the backbone's]")] = None,
    seconds_per_row: Annotated[float | None, typer.Option(help="The same, the other way round.")] = None,
    transposed: Annotated[bool, typer.Option("--transposed", help="Arrays are (D, T): AVLnet's spectrograms.")] = False,
    cast: Annotated[bool, typer.Option("--cast", help="Values may lose digits, as float32 does in float16.")] = False,
    trust_weights: Annotated[
        bool, typer.Option("--trust-weights", help="Exactly the configured backbone and weights made these.")
    ] = False,
    allow_length: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long after their video rows may end.")
    ] = ALLOWED_SECONDS,
    absent: Annotated[
        bool, typer.Option("--absent", help="Record of videos without one that they have none, so that sync goes on.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything; store nothing.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Take features that you already have, so that they need not be extracted again.

    The configuration says what they are: the backbone gives width, type and rate, which are checked. Numbers that this
    program did not make go under `weights: imported:NAME` (any name), an identity that nothing else shares.

    npy: a folder with ID.npy or ID.npz for each video. pickle: one file with a list of dicts or a dict of videos, read
    without running anything in it. video_features: ID_resnet.npy with ID_timestamps_ms.npy. frameloom: our npy exports.

    Files whose rows end more than a minute (--allow-length) after their video are refused before they are read. Rows
    whose end is more than a tenth off are imported and listed, with the rate that would fit: the videos may have been
    cut. Where the length of a video is unknown any number is taken, and that is listed.

    What is stored already is compared: other numbers are refused, and what is stored stays. An import that was stopped
    goes on when it is run again.

    Exit codes: 0 nothing was wrong, 2 the request or its one file is wrong, 3 some files were refused (and listed).

    Example, with `video: {backbone: resnet152, weights: "imported:howto100m"}` in frameloom.yaml:

    frameloom import features_2d --layout npy --feature video --suffix _2d --dry-run

    Spectrograms: frameloom import audio --layout npy --feature audio --suffix _spec --transposed
    """
    from ..exchange.importing import ImportRequest, import_into

    request = ImportRequest(
        path=path,
        layout=layout,
        feature=feature,
        array=array,
        suffix=suffix,
        id_key=id_key,
        mapping=mapping,
        rate_hz=rate_hz,
        seconds_per_row=seconds_per_row,
        transposed=transposed,
        cast=cast,
        allow_length=allow_length,
        vouch=trust_weights,
        absent=absent,
        dry_run=dry_run,
    )
    report = import_into(open_project(config, read_only=dry_run), request, Console(quiet=quiet))
    answer(report, as_json=as_json)


def manifest(
    kind: Annotated[str, typer.Argument(help="What the list is: msrvtt, youcook2 or howto100m.")],
    path: Annotated[Path, typer.Argument(help="The list, as it was published.")],
    out: Annotated[Path, typer.Argument(help="The manifest to write, a .jsonl file. Replaced if it is there.")],
    videos: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Find each video's file in this folder; leave out rows of those not there."),
    ] = None,
    suffix: Annotated[
        str, typer.Option(metavar="ENDING", help="Ending of the videos' files, which are in the manifest's folder.")
    ] = ".mp4",
    split: Annotated[str | None, typer.Option(help="train, val or test for all rows. [default: as the list]")] = None,
    as_json: AsJson = False,
) -> None:
    """Turn the published list of a data set into a manifest of videos, spans, captions and splits.

    msrvtt: msrvtt_test.csv (video_id, sentence) or MSRVTT_data.json. youcook2: validation_youcook.csv (video_id, start,
    end, text) or youcookii_annotations_trainval.json. howto100m: the narration, caption.json or caption.pickle (by
    video start, end, text), or one video's .csv. Give the manifest as `captions` in frameloom.yaml.

    Example: frameloom manifest youcook2 validation_youcook.csv youcook2.jsonl --videos youcook2/videos --split test
    """
    from ..project.published_lists import write_published_manifest

    report = write_published_manifest(kind, path, out, videos=videos, suffix=suffix, split=split)
    answer(report, as_json=as_json)


def import_model(
    path: Annotated[Path, typer.Argument(help="The authors' file: .pt, .pth, .bin or .safetensors.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for the checkpoint.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="A name that `frameloom models` lists.")],
    model_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The authors' configuration as JSON. [default: that in the file, or MODEL's]"
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of the model, for weights alone. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a checkpoint for `model.checkpoint` of a published model's file. Nothing in the file is executed.

    Example: frameloom import-model latest_model.pth everything --model everything_at_once
    """
    from ..exchange.models import import_model as take

    found = take(path, folder, model=model, config=model_config, options=option or ())
    show(found, found.lines(), as_json=as_json)
