"""The command line: thin functions over the Python calls. Answers go to standard output, progress to standard error."""

from __future__ import annotations

import io
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ..._files import system_error
from ..._version import __version__
from ..._vocabulary import ExitCode, Outcome, Status
from ..console import Console, count_of
from . import ablations, data, health, laboratory, plots, search
from . import serve as serving
from .options import (
    DEFAULT_CONFIG,
    AsJson,
    Commands,
    ConfigPath,
    Pattern,
    Quiet,
    answer,
    open_project,
    say,
    show,
    tell,
    without_tests,
)
from .weights import weights_app

app = typer.Typer(
    name="frameloom",
    cls=Commands,
    help="From a folder of videos to answers: extract, train, embed, search, and redo only what changed.",
    epilog="Start with `frameloom demo`, or `frameloom init DIR` and `frameloom sync` for videos of your own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="A running Dask scheduler, such as tcp://10.0.0.1:8786.")
]
AllowDelete = Annotated[
    bool, typer.Option("--allow-delete", help="Delete the rows of videos that are gone, however many they are.")
]


def _version(wanted: bool) -> None:
    if wanted:
        tell(f"frameloom {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo lives. Made if missing; a second run goes on.")] = Path(
        "frameloom-demo"
    ),
    seed: Annotated[int, typer.Option(help="Another seed makes another collection and another model.")] = 0,
    num_train: Annotated[int, typer.Option(min=20, help="Clips to train on.")] = 600,
    num_test: Annotated[int, typer.Option(min=10, help="Held-out clips.")] = 150,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a small captioned audio-visual collection, run every stage on it, and ask it three questions.

    Some of what a caption says can only be seen and some can only be heard, so searching in both at once must beat
    searching in either. The table shows by how much, on clips that the model was not trained on.
    """
    from ..experiments.demo import run_demo

    result = run_demo(folder, seed=seed, num_train=num_train, num_test=num_test, console=Console(quiet=quiet))
    answer(result, as_json=as_json)


@app.command()
def init(
    folders: Annotated[
        list[str] | None, typer.Argument(metavar="[DIR]...", help="Folders of videos, globs or manifests. [default: .]")
    ] = None,
    captions: Annotated[
        str | None, typer.Option(help="A .jsonl, .csv or .parquet file with the columns `video` and `captions`.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="What to search with: `ready` (published weights, no training); `clip`, `siglip2` (pictures) or `clap`"
            " (sound), models that you give; `everything_at_once` (trained on your captions). [default: the last with"
            " captions; else the first, where its weights are installed]"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The model of `clip`, `siglip2` or `clap`: a folder, or hf://OWNER/NAME@REVISION."
        ),
    ] = None,
) -> None:
    """Write a commented frameloom.yaml here for a folder of videos."""
    from ..project.collection import discover
    from ..project.config import write_template
    from ..project.presets import default_preset, list_presets

    sources = folders or ["."]
    found = discover(sources, captions=captions, base=Path.cwd())
    captioned = sum(any(span.captions for span in video.spans) for video in found.videos)
    chosen, reason = (preset, "") if preset is not None else default_preset(has_captions=captioned > 0)
    write_template(DEFAULT_CONFIG, videos=sources, captions=captions, preset=chosen, weights=weights)
    if reason:
        tell(f"preset {chosen}: {reason} (others: {', '.join(one for one in list_presets() if one != chosen)})")
    tell(f"wrote {DEFAULT_CONFIG}: {len(found.videos)} videos, {captioned} of them with captions")
    for note in found.notes:
        tell(f"note: {note}")
    tell("next: read it, then run `frameloom sync`")


@app.command()
def probe(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, or folders of videos.")],
    as_json: AsJson = False,
) -> None:
    """Say what is in these files, and whether they can be read. Exit code 3 when one cannot."""
    from ...extract import Decoder
    from ...extract import probe as probe_file
    from ..project.collection import discover

    files: list[Path] = []
    for path in paths:
        folder = discover([str(path)], captions=None, base=Path.cwd()) if path.is_dir() else None
        files += [path] if folder is None else [video.path for video in folder.videos]
    with Decoder() as decoder:
        found = [probe_file(path, decoder=decoder) for path in files]
    show(found, (_probe_line(info.as_dict()) for info in found), as_json=as_json)
    failed = any(info.status.outcome in (Outcome.REJECTED, Outcome.QUARANTINED) for info in found)
    raise typer.Exit(ExitCode.FAILURES if failed else ExitCode.OK)


def _probe_line(info: dict[str, Any]) -> str:
    if info["video"] is None and info["audio"] is None:
        return f"{info['path']}: {info['status']}: {info['message']}"
    picture, sound = info["video"], info["audio"]
    parts = [f"{info['path']}: {info['status']}", f"{info['duration_seconds'] or 0:.2f} s"]
    chosen = "" if info["num_streams"] == bool(picture) + bool(sound) else " (stream {} of {})"
    if picture:
        which = chosen.format(picture["stream_index"], info["num_streams"])
        parts.append(f"{picture['width']}x{picture['height']} {picture['codec']}{which}")
    which = chosen.format(sound["stream_index"], info["num_streams"]) if sound else ""
    parts.append(f"{sound['codec']} {sound['sample_rate_hz']} Hz{which}" if sound else "no sound")
    return ", ".join(parts) + (f" ({info['message']})" if info["status"] != Status.OK else "")


@app.command()
def extract(
    config: ConfigPath = DEFAULT_CONFIG, scheduler: Scheduler = None, as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """Turn the collection into features: decode every new or changed video once, commit shards."""
    from ..sync.sync import extract_only

    report = extract_only(open_project(config, scheduler=scheduler), Console(quiet=quiet))
    answer(report, as_json=as_json)


@app.command()
def train(
    config: ConfigPath = DEFAULT_CONFIG,
    recipe: Annotated[
        str | None, typer.Option(help="Try a recipe other than the configuration's, which sync and query keep to.")
    ] = None,
    scheduler: Scheduler = None,
    force: Annotated[bool, typer.Option(help="Train even when the model is up to date.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train the fusion model on the extracted features. An interrupted training goes on where it stopped."""
    from ..sync.sync import train_only

    project = open_project(config, recipe=recipe, scheduler=scheduler)
    checkpoint, is_new = train_only(project, Console(quiet=quiet), force=force, renew_vectors=recipe is None)
    if not project.trains:
        found = {"checkpoint": str(checkpoint.folder), "digest": checkpoint.digest, "trained": False}
        show(found, [f"{checkpoint.folder}: {project.model_name} has nothing to train"], as_json=as_json)
        return
    found = {"checkpoint": str(checkpoint.folder), "digest": checkpoint.digest, "trained": is_new}
    verb = "trained" if is_new else "up to date, nothing trained (--force trains anew)"
    show(found, [f"{checkpoint.folder}: {verb}"], as_json=as_json)


@app.command()
def embed(
    config: ConfigPath = DEFAULT_CONFIG,
    allow_delete: AllowDelete = False,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the embeddings of every extracted clip into LanceDB."""
    from ..sync.sync import embed_only

    project = open_project(config, scheduler=scheduler)
    report = embed_only(project, Console(quiet=quiet), allow_delete=allow_delete)
    answer(report, as_json=as_json)


@app.command()
def sync(
    config: ConfigPath = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost; do nothing.")] = False,
    allow_delete: AllowDelete = False,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Extract, train, embed: all of it, only what changed. Can be stopped at any moment and run again.

    Exit codes: 0 everything accounted for, 2 usage or configuration, 3 finished with failures, 4 integrity error,
    5 disk full, 6 another writer holds the store, 130 or 143 interrupted.
    """
    from ..sync.sync import make_plan
    from ..sync.sync import sync as sync_project

    if dry_run:
        plan = make_plan(open_project(config, read_only=True))
        show(plan, plan.lines(), as_json=as_json)
        return
    project = open_project(config, scheduler=scheduler)
    report = sync_project(project, Console(quiet=quiet), allow_delete=allow_delete)
    if report.did_nothing and not as_json:
        state = "everything that can be indexed is up to date" if report.is_up_to_date else "nothing could be done"
        tell(f"nothing to do: {count_of(report.discovered, 'video')}, {state}")
    answer(report, as_json=as_json)


app.command()(health.status)
app.command()(data.export)
app.command("import")(data.import_)
app.command("import-model")(data.import_model)
app.command()(data.manifest)
app.command()(health.verify)
app.command()(health.repair)
app.command()(health.compact)
app.command()(ablations.ablate)
app.command()(laboratory.laboratory)
app.command()(serving.serve)
app.command()(serving.mcp)

plot_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
plot_app.callback()(plots.plot)
app.add_typer(plot_app, name="plot")
for _command in (plots.losses, plots.attention, plots.timeline, plots.alignment):
    plot_app.command()(_command)


app.command()(search.query)
app.command()(search.evaluate)
app.command()(search.ask)


@app.command()
def backbones(pattern: Pattern = "*", as_json: AsJson = False) -> None:
    """List the backbones: what each reads, how wide its features are, and how many it gives a second."""
    from ...extract import backbone_spec, list_backbones

    specs = [backbone_spec(name) for name in without_tests(list_backbones(pattern), pattern)]
    widest = max((len(spec.name) for spec in specs), default=0)
    rates = ("" if spec.rate_hz is None else f"{spec.rate_hz:.3g}/s" for spec in specs)
    lines = (
        f"{spec.name:{widest}} {spec.modality.value:6} {spec.dim:7} wide  {rate:8} {spec.paper}"
        for spec, rate in zip(specs, rates, strict=True)
    )
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    cut = (line if len(line) <= room else f"{line[: room - 3]}..." for line in lines)
    show([spec.identity() | {"paper": spec.paper} for spec in specs], cut, as_json=as_json)


app.add_typer(weights_app, name="weights")


@app.command()
def doctor(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Examine this machine: libraries, decoders, processor, GPUs, folders. Says what to do about each problem.

    Exit code 0 when everything that is needed works, 2 otherwise.

    Example: frameloom doctor --json
    """
    from ..health.doctor import examine

    answer(examine(config), as_json=as_json)


@app.command()
def models(
    pattern: Pattern = "*",
    measure: Annotated[
        bool, typer.Option("--measure", help="Build those that match, by default the five systems, and measure them.")
    ] = False,
    tiny: Annotated[bool, typer.Option("--tiny", help="With --measure: at the size of their tiny recipes.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the fusion models with their published settings, or what they cost.

    With --measure a table in Markdown: inputs, parameters, objectives, and GFLOPs and seconds on one thread of this CPU
    for a question, a clip of the gallery, a pair for the joint head and a training step. At the published size this
    takes some minutes and 8 GB.

    Example: frameloom models --measure --tiny
    """
    if measure or tiny:
        from ...fuse import list_models
        from ..experiments.systems import SYSTEMS, measured_systems

        names = SYSTEMS if pattern == "*" else list_models(pattern)
        table = measured_systems(names, tiny=tiny, console=Console(quiet=quiet))
        show(table, table.lines(), as_json=as_json)
        return
    from ...fuse import list_models, model_description

    found = [model_description(name) for name in without_tests(list_models(pattern), pattern)]
    show(found, (f"{one['name']:28} {one['paper']}" for one in found), as_json=as_json)


@app.command()
def recipes(as_json: AsJson = False) -> None:
    """List the training recipes."""
    from ...fuse import model_description
    from ...train import get_recipe, list_recipes

    found = [get_recipe(name) for name in list_recipes()]
    lines = (
        f"{one.name:32} {one.epochs:4} epochs, batch {one.batch_size}, lr {one.learning_rate:g}"
        if model_description(one.model)["trains"]
        else f"{one.name:32} nothing is trained"
        for one in found
    )
    show(found, lines, as_json=as_json)


def main() -> None:
    """The `frameloom` command."""

    def end(number: int, _frame: Any) -> NoReturn:
        code, what = codes[signal.Signals(number)]
        say(f"{what}; the same command goes on from here")
        raise SystemExit(code)

    codes = {signal.SIGTERM: (ExitCode.TERMINATED, "terminated"), signal.SIGHUP: (ExitCode.HUNG_UP, "hung up")}
    for number in codes:
        if signal.getsignal(number) == signal.SIG_DFL:  # not under nohup
            signal.signal(number, end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names that are no UTF-8 are shown spelled out
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except OSError as error:  # of --help; commands explain theirs
        if system_error(error) is None:
            raise
        say(f"standard output cannot be written to: {error.strerror}")
        raise SystemExit(1) from None
