"""The command `reunet`. Exit codes: 0 all done, 1 some images failed, 2 nothing could be started.

Slow imports (torch above all) wait until a command needs them: start-up counts in the challenge.
"""

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from reunet.batch import Outcome

DEVICES = ("auto", "cpu", "cuda", "mps")
DECODERS = ("regrow", "paper")
ENCODINGS = ("paper", "thin")
MAP_ENDINGS = (".tif", ".tiff", ".png")
FOLDER = click.Path(path_type=Path)
NAMED_AT_MOST = 5  # files named in a message about many


class CannotStart(click.ClickException):
    """Nothing was done: one line says why, and the exit code is 2."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="reunet", prog_name="reunet")
def main() -> None:
    """Cell instance segmentation in microscope images of any modality."""


@main.command()
@click.argument("source", metavar="INPUT", type=FOLDER)
@click.argument("output", metavar="OUTPUT", type=FOLDER)
@click.option(
    "--weights", type=FOLDER, help="Folder of a weight bundle.  [default: the shipped one]"
)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option("--decoder", type=click.Choice(DECODERS), help="[default: the bundle's]")
@click.option("--folds", help="Folds to average, such as 0,2.  [default: all]")
@click.option("--tta/--no-tta", default=True, show_default=True, help="Average over mirror images.")
def predict(
    source: Path,
    output: Path,
    weights: Path | None,
    device: str,
    decoder: str | None,
    folds: str | None,
    tta: bool,
) -> None:
    """Segment INPUT (an image or a folder of images) into label images in the folder OUTPUT."""
    images = find_images(source, output)
    from reunet.batch import segment_files
    from reunet.pipeline import load_model

    try:
        model = load_model(weights, device, folds.split(",") if folds else None)
        output.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    except OSError as error:
        raise CannotStart(f"{output}: cannot be created: {error.strerror}") from error
    started = time.monotonic()
    outcomes = show(segment_files(images, output, model, tta=tta, decoder=decoder), len(images))
    failed = sum(outcome.error is not None for outcome in outcomes)
    cells = sum(outcome.cells for outcome in outcomes)
    seconds = time.monotonic() - started
    done = f"{len(images) - failed} of {len(images)} images, {cells} cells"
    click.echo(f"{done}, {seconds:.1f} s on {model.device.type}")
    if failed:
        click.echo(f"{failed} of {len(images)} images failed, see above", err=True)
        sys.exit(1)


def find_images(source: Path, output: Path) -> list[Path]:
    """The images to segment. Raises CannotStart where there are none or OUTPUT is in INPUT."""
    from reunet.images import ENDINGS, ImageError, list_images

    endings = ", ".join(ENDINGS)
    try:
        if not source.exists():
            raise CannotStart(f"{source}: no such file or folder")
        if output.exists() and not output.is_dir():
            raise CannotStart(f"{output}: is a file: name a folder for the labels")
        if source.is_file():
            if source.suffix.lower() not in ENDINGS:
                raise CannotStart(f"{source}: is no image ({endings}): convert it")
            return [source]
        if output.resolve().is_relative_to(source.resolve()):
            raise CannotStart(f"{output}: lies inside the input folder: name one outside it")
        images = list_images(source)
    except (ImageError, OSError) as error:
        raise CannotStart(str(error)) from error
    if not images:
        raise CannotStart(f"{source}: holds no images ({endings})")
    return images


def show(outcomes: Iterable["Outcome"], total: int) -> list["Outcome"]:
    """Run through the outcomes and print what they have to say, one line a message.

    On a terminal a bar tells how many images are done and how long the others will take.
    """
    done = []
    quiet = not sys.stderr.isatty()
    with click.progressbar(
        outcomes, total, "segmenting", show_pos=True, file=sys.stderr, hidden=quiet
    ) as bar:
        for outcome in bar:
            messages = [f"note: {outcome.image}: {note}" for note in outcome.notes]
            if outcome.error:
                messages.append(f"error: {outcome.error}")
            for message in messages:
                click.echo(message if quiet else f"\r\033[K{message}", err=True)
            done.append(outcome)
    return done


@main.command()
@click.option("--gt", "truths", required=True, type=FOLDER, help="Folder of true labels.")
@click.option(
    "--seg", "predictions", required=True, type=FOLDER, help="Folder of predicted labels."
)
@click.option("--csv", "table", type=FOLDER, help="Also write the official program's table there.")
def evaluate(truths: Path, predictions: Path, table: Path | None) -> None:
    """Score predicted labels with the challenge's official metric (F1 at IoU 0.5).

    Where a meta.csv beside the true labels has columns name and modality, figures by modality
    and their mean are shown too.
    """
    from reunet.metric import read_modalities, score_folder, summarise, write_csv

    try:
        evaluation = score_folder(truths, predictions)
        modalities = read_modalities(truths)
        summary = summarise(evaluation.scores, modalities) if evaluation.scores else None
        if table:
            write_csv(evaluation, table)
    except (ValueError, OSError) as error:
        raise CannotStart(str(error)) from error
    for name, score in evaluation.scores.items():
        click.echo(
            f"{name:<50} {modalities.get(name, ''):<6} F1 {score.f1:.4f}  "
            f"true {score.n_true}  predicted {score.n_pred}  correct {score.tp}"
        )
    if summary:
        click.echo(f"\n{summary}")
    if evaluation.missing:
        click.echo(f"note: not predicted, not scored: {some(evaluation.missing)}", err=True)
    for reason in evaluation.failed.values():
        click.echo(f"error: {reason}", err=True)
    if evaluation.failed:
        sys.exit(1)


def some(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


@main.command()
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
    from reunet.images import ImageError, read_label, write_png, write_values
    from reunet.targets import encode
    from reunet.weightmap import heat_map, weight_map

    try:
        instances = read_label(label)
        weights = weight_map(instances, encode(instances, encoding))
        if ending == ".png":
            write_png(output, heat_map(weights))
        else:
            write_values(output, weights)
    except ImageError as error:
        raise CannotStart(str(error)) from error
