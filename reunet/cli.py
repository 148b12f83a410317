"""The command `reunet`.

Exit codes: 0 all done; 1 some images failed, or the report could not be written; 2 nothing could
be started; 130 interrupted by Ctrl-C, SIGTERM, SIGHUP or SIGQUIT: labels finished by then are kept.

Slow imports (torch above all) wait until a command needs them: start-up counts in the challenge.
"""

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reunet import cli_doctor, cli_evaluate, cli_outputs, cli_train
from reunet.cli_help import Taught
from reunet.cli_inputs import find_inputs, input_options
from reunet.cli_machines import Machines, run
from reunet.cli_outputs import (
    FOLDER,
    CannotStart,
    label_options,
    makers_of,
    output_options,
)
from reunet.cli_talk import Manner, Talk, show, talk_options
from reunet.options import DECODERS, DEVICES, ENCODINGS, PRECISIONS, QUALITIES, Options
from reunet.streams import never_fail

if TYPE_CHECKING:
    from reunet.model import Model
    from reunet.run.batch import Outcome

ENDING = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK")  # signals, where they exist
MAP_ENDINGS = (".tif", ".tiff", ".png")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="reunet", prog_name="reunet")
def main() -> None:
    """Cell instance segmentation in microscope images of any modality."""
    never_fail()
    atexit.register(gc.freeze)  # else Python looks through all objects twice at the end: 0.04 s


main.add_command(cli_outputs.export)
main.add_command(cli_outputs.report)
main.add_command(cli_evaluate.evaluate)
main.add_command(cli_train.train)
main.add_command(cli_doctor.doctor)


def check_budget(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """`challenge` or seconds. Raises click.BadParameter for anything else."""
    if value is not None:
        from reunet.inference.budget import allowance

        try:
            allowance(value, (1, 1))
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
    return value


GROUPS = {  # of the options of `reunet predict`, in its help
    "Cells": ("diameter", "min_area", "drop_edge_cells", "decoder", "enlarge", "vote"),
    "Quality against time": ("quality", "budget", "tta", "skip_empty"),
    "Network": ("weights", "folds", "device", "precision"),
    "Written beside the labels": ("overlays", "table", "html", "formats", "report"),
    "Files": ("channels", "plane", "region", "recursive", "labels", "pixel_size", "resume"),
    "Many machines": ("scheduler", "workers"),
    "Told on the way": ("quiet", "verbose", "log_json"),
}
EXAMPLES = (
    "reunet predict images labels                        # a folder",
    "reunet predict slide.tif labels --quality fast      # faster, nearly as good",
    "reunet predict images labels --diameter 42          # where the size is misjudged",
    "reunet predict images labels --overlays --table     # look at them, and measure",
)


@main.command(cls=Taught, groups=GROUPS, examples=EXAMPLES)
@click.argument("sources", metavar="INPUT...", type=FOLDER, nargs=-1, required=True)
@click.argument("output", metavar="OUTPUT", type=FOLDER)
@input_options
@click.option(
    "--weights", type=FOLDER, help="Folder of a weight bundle.  [default: the shipped one]"
)
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="Where the network computes; auto takes the fastest there is.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="Of products in the network; auto is bf16 on CPUs that compute in it, twice as fast.",
)
@click.option(
    "--decoder",
    type=click.Choice(DECODERS),
    help="Cells by the peaks of the distance field, by regrown interiors, or by interiors alone "
    "(the paper's).  [default: the bundle's]",
)
@click.option("--folds", help="Folds to use, such as 0,2.  [default: all]")
@click.option(
    "--vote/--average",
    default=True,
    show_default=True,
    help="Folds vote on cells, or their logits are averaged (as in the paper).",
)
@click.option(
    "--quality",
    type=click.Choice(QUALITIES),
    default="standard",
    show_default=True,
    help="fast: one network, no mirror images: F1 0.820, a smear in 1.6 s. standard: the student "
    "of the folds (without one: all folds), two views, at the surest scale: 0.823, 2.7 s. best: "
    "all folds vote, four views, tiles overlap by half: 0.821, 4.9 s. Of the shipped weights: "
    "docs/results.md, docs/speed.md.",
)
@click.option(
    "--tta/--no-tta",
    default=None,
    help="Average over all four mirror images, or none, whatever the quality.",
)
@click.option(
    "--skip-empty/--all-tiles",
    default=True,
    show_default=True,
    help="Take tiles on which nothing is to be seen for background.",
)
@click.option(
    "--enlarge/--one-scale",
    default=True,
    show_default=True,
    help="Of weights without a size of cells: look at images of small cells once more, enlarged.",
)
@click.option(
    "--diameter",
    type=click.FloatRange(0, min_open=True),
    metavar="PX",
    help="Of the typical cell. The one setting that can mend a whole image.  "
    "[default: estimated for every image]",
)
@click.option(
    "--budget",
    metavar="challenge|SECONDS",
    callback=check_budget,
    help="Time an image may take; folds and mirroring are cut to fit.",
)
@click.option(
    "--resume", is_flag=True, help="Keep labels made from the same image, weights and settings."
)
@click.option(
    "--report", is_flag=True, envvar="REUNET_REPORT", help="Also write OUTPUT/report.json."
)
@click.option("--scheduler", metavar="ADDRESS", help="Have the workers of Dask do it.")
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Have N worker processes do it."
)
@label_options
@output_options
@talk_options
def predict(
    sources: Sequence[Path],
    output: Path,
    weights: Path | None,
    device: str,
    precision: str,
    folds: str | None,
    resume: bool,
    report: bool,
    recursive: bool,
    scheduler: str | None,
    workers: int | None,
    overlays: bool,
    table: bool,
    html: bool,
    formats: Sequence[str] | None,
    quiet: bool,
    verbose: bool,
    log_json: bool,
    **choices: Any,
) -> None:
    """Segment INPUT (images, folders of images) into label images in the folder OUTPUT."""
    options = Options(**choices)
    makers = makers_of(overlays, table, html, formats)
    done: list[Outcome] = []
    with interruptible(done), one_line_warnings() as warned:
        found = find_inputs(sources, output, recursive, quiet)
        images = found.images
        model = start(output, weights, device, folds, precision)
        make_folders(found.labels.values())
        talk = Talk(Manner(quiet, verbose, log_json), len(images), done, output)
        started = time.monotonic()
        machines = Machines(scheduler, workers, device)
        outcomes = run(found, output, model, options, resume, machines, talk.tile)
        if makers:
            from reunet.io.selection import selection_of
            from reunet.pipeline import asked_pixel_size
            from reunet.run.outputs import with_outputs

            size = asked_pixel_size(options)
            selection = selection_of(options.channels, options.plane)
            outcomes = with_outputs(outcomes, output, makers, size, selection)
        if report or verbose or log_json:
            from reunet.run.report import REPORT, describe, reporting

            settings: dict[str, str | bool] = {
                "input": " ".join(map(str, sources)),
                "device": device,
                "precision": precision,
                "resume": resume,
            }
            about = describe(model, options, settings)
            talk.start(about)
            if report:
                outcomes = reporting(outcomes, output / REPORT, len(images), about, warned)
        complete = show(outcomes, talk)
    talk.end(model.device, time.monotonic() - started, complete)


def make_folders(labels: Iterable[Path]) -> None:
    """Folders for the labels, without what killed runs left there. Raises CannotStart."""
    from reunet.io.atomic import remove_leftovers

    for folder in {label.parent for label in labels}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotStart(f"{folder}: cannot be created: {error.strerror}") from error
        remove_leftovers(folder)


@contextlib.contextmanager
def interruptible(done: Sequence["Outcome"]) -> Iterator[None]:
    """End on Ctrl-C and ENDING with one line and exit code 130. done: the images done so far."""
    try:
        with signals_interrupt():
            yield
    except KeyboardInterrupt:
        labels = sum(outcome.error is None for outcome in done)
        click.echo(f"interrupted: {labels} labels are done; --resume makes the others", err=True)
        sys.exit(130)


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Have ENDING raise KeyboardInterrupt, but for what a parent ignores, as nohup does.

    Nothing is done where another thread than the main one calls: it gets no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    before = {n: signal.getsignal(n) for n in numbers}
    heard = [n for n in numbers if before[n] != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


@contextlib.contextmanager
def one_line_warnings() -> Iterator[list[str]]:
    """Python's warnings become one line each, are said once, and collected."""
    texts: list[str] = []

    def show_one(message: Warning | str, *_: object, **__: object) -> None:
        text = " ".join(str(message).split())
        if text not in texts:
            texts.append(text)
            click.echo(f"warning: {text}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show_one
        yield texts


def start(
    output: Path, weights: Path | None, device: str, folds: str | None, precision: str
) -> "Model":
    """The model, and a folder to write to. Raises CannotStart."""
    from reunet.io.atomic import remove_leftovers
    from reunet.model import load_model

    try:
        model = load_model(weights, device, folds.split(",") if folds else None, precision)
        output.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    except OSError as error:
        raise CannotStart(f"{output}: cannot be created: {error.strerror}") from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise CannotStart(f"{output}: cannot be written to: choose another folder")
    remove_leftovers(output)
    return model


@main.command(cls=Taught, examples=["reunet weightmap cells_label.tiff -o weights.png"])
@click.argument("label", metavar="LABEL", type=FOLDER)
@click.option("-o", "output", metavar="FILE", required=True, type=FOLDER, help="A .tif or .png.")
@click.option("--encoding", type=click.Choice(ENCODINGS), default="paper", show_default=True)
def weightmap(label: Path, output: Path, encoding: str) -> None:
    """Write how much every pixel of a label image counts in training.

    A TIFF holds the weights (float32). A PNG shows them from blue (0) to red (10 and above), as
    the figure in the U-Net paper does.
    """
    ending = output.suffix.lower()
    if ending not in MAP_ENDINGS:
        raise CannotStart(f"{output}: unsupported ending: use one of {' '.join(MAP_ENDINGS)}")
    if output.resolve() == label.resolve():
        raise CannotStart(f"{output}: is the label image itself: name another file")
    from reunet.errors import ImageError
    from reunet.instances.encode import encode
    from reunet.instances.weight_map import heat_map, weight_map
    from reunet.io.images import read_label
    from reunet.io.labels import write_png, write_values

    try:
        instances = read_label(label)
        weights = weight_map(instances, encode(instances, encoding))
        if ending == ".png":
            write_png(output, heat_map(weights))
        else:
            write_values(output, weights)
    except ImageError as error:
        raise CannotStart(str(error)) from error
