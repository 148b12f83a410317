"""What the commands of `reunet` share about outputs, and the commands that make nothing else."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reunet.cli_help import Taught
from reunet.options import LAYOUTS

if TYPE_CHECKING:
    from reunet.filters import MinArea
    from reunet.io.pixel_size import PixelSize
    from reunet.iou_range import RangeScore
    from reunet.run.outputs import Makers

FORMATS = ("geojson", "roi", "coco", "parquet", "zarr")  # of `--export`: for other programs
NEEDS = {
    "roi": "roifile",
    "parquet": "pyarrow",
    "zarr": "zarr",
}  # by extra
FOLDER = click.Path(path_type=Path)
RANGE = "0.5:0.95:0.05"  # of IoU, that a page shows


class CannotStart(click.ClickException):
    """Nothing was done: one line says why, and the exit code is 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        from reunet.errors import one_line

        super().__init__(one_line(message))  # it names files, and these may have any name


def checked(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """A click callback that leaves a value as text, and tells what is wrong with it."""

    def callback(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
        parsed(parse)(context, option, value)
        return value

    return callback


def parsed(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """A click callback that tells what is wrong with a value in the words of `parse`."""

    def callback(_: click.Context, __: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback


def _pixel_size(text: str) -> "PixelSize":
    from reunet.io.pixel_size import parse_pixel_size

    return parse_pixel_size(text)


def _formats(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(FORMATS)}")
    return names


def iou_range(text: str) -> tuple[float, ...]:
    """Thresholds somebody typed, see `parse_range`."""
    from reunet.iou_range import parse_range

    return parse_range(text)


def _min_area(text: str) -> "MinArea":
    from reunet.filters import parse_min_area

    return parse_min_area(text)


def label_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that decide which cells labels hold, and how they are stored."""
    options = (
        click.option(
            "--labels",
            type=click.Choice(LAYOUTS),
            default="viewer",
            show_default=True,
            help="For viewers: uint16, pixel size, pyramids; for the challenge: int16.",
        ),
        click.option(
            "--min-area",
            metavar="PX|AREAum2",
            callback=checked(_min_area),
            help="Drop cells that are smaller, such as 30 (pixels) or 20um2.",
        ),
        click.option("--drop-edge-cells", is_flag=True, help="Drop cells that touch the edge."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that ask for outputs beside labels."""
    options = (
        click.option("--overlays", is_flag=True, help="Write a picture of the cells' contours."),
        click.option("--table", is_flag=True, help="Measure cells: cells.csv and images.csv."),
        click.option("--html", is_flag=True, help="Write report.html, a page about all images."),
        click.option(
            "--export",
            "formats",
            metavar="FORMATS",
            callback=parsed(_formats),
            help=f"Write for other programs: some of {','.join(FORMATS)}.",
        ),
        click.option(
            "--pixel-size",
            metavar="µM[,µM]",
            callback=checked(_pixel_size),
            help="Size of a pixel, or width and height.  [default: what the file says]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def makers_of(overlays: bool, table: bool, html: bool, formats: Sequence[str] | None) -> "Makers":
    """The writers that are asked for, by name, in the order in which they write.

    Raises CannotStart where one lacks a package.
    """
    if not (overlays or table or html or formats):
        return {}
    from importlib.util import find_spec

    from reunet.io.export.writers import WRITERS

    wanted = {"overlays": overlays, "table": table, "html": html} | dict.fromkeys(
        formats or (), True
    )
    for name, package in NEEDS.items():
        if wanted.get(name) and not find_spec(package):
            raise CannotStart(f"--export {name} needs {package}: pip install 'reunet[{name}]'")
    return {name: make for name, make in WRITERS.items() if wanted.get(name)}


@click.command(
    cls=Taught,
    examples=[
        "reunet export labels images --table --export geojson,roi",
        "reunet export masks images -o tables --table        # masks of another program",
    ],
)
@click.argument("labels", metavar="LABELS", type=FOLDER)
@click.argument("images", metavar="IMAGES", type=FOLDER)
@click.option("-o", "--output", metavar="FOLDER", type=FOLDER, help="[default: that of the labels]")
@output_options
def export(
    labels: Path,
    images: Path,
    output: Path | None,
    overlays: bool,
    table: bool,
    html: bool,
    formats: Sequence[str] | None,
    pixel_size: str | None,
) -> None:
    """Make overlays, tables, polygons and a page for LABELS that exist already.

    LABELS and IMAGES are folders, or one file each. A label belongs to the image of the same name:
    a_label.tiff, a_masks.png, a_cp_masks.tif and a.tif to a.png.
    """
    makers = makers_of(overlays, table, html, formats)
    if not makers:
        raise CannotStart("nothing to write: ask for --overlays, --table, --html or --export")
    size = _pixel_size(pixel_size) if pixel_size else None
    _make(labels, images, output, makers, size, needed=True)


@click.command(
    cls=Taught, examples=["reunet report labels --images images --gt truth   # the worst first"]
)
@click.argument("folder", metavar="FOLDER", type=FOLDER)
@click.option("--images", type=FOLDER, help="Their images.  [default: what report.json names]")
@click.option("--gt", "truths", type=FOLDER, help="Folder of true labels: shows how well it went.")
@click.option(
    "--pixel-size", metavar="µM[,µM]", callback=parsed(_pixel_size), help="Size of a pixel."
)
def report(
    folder: Path, images: Path | None, truths: Path | None, pixel_size: "PixelSize | None"
) -> None:
    """Write FOLDER/report.html, a page about the labels in FOLDER.

    It opens without a network: overlays, numbers and sizes of cells, and with --gt the accuracy
    over a range of IoU, the worst images first.
    """
    from reunet.io.export.html import Accuracy, Html

    scores = score_pairs(truths, folder, iou_range(RANGE)) if truths else {}
    ratios = {
        name: {kind: getattr(score, kind).tolist() for kind in ("f1", "precision", "recall")}
        for name, score in scores.items()
    }
    accuracy = Accuracy(iou_range(RANGE), ratios) if scores else None
    images = images or _images_of_report(folder)
    makers = {"html": lambda place: Html(place, accuracy)}
    _make(folder, images, folder, makers, pixel_size, needed=False)


def _images_of_report(folder: Path) -> Path | None:
    """The images that a run's `report.json` was made from, if they are still there."""
    import json

    try:
        images = Path(json.loads((folder / "report.json").read_bytes())["settings"]["input"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return images if images.exists() else None


def _make(
    labels: Path,
    images: Path | None,
    output: Path | None,
    makers: "Makers",
    pixel_size: "PixelSize | None",
    *,
    needed: bool,
) -> None:
    """Write outputs for all labels. needed: a label without an image is an error."""
    from reunet.errors import ImageError, one_line
    from reunet.io.atomic import remove_leftovers
    from reunet.run.outputs import export_files, find_pairs

    for path in (labels, *([images] if images else [])):
        if not path.exists():
            raise CannotStart(f"{path}: no such file or folder")
    output = output or (labels.parent if labels.is_file() else labels)
    try:
        pairs = find_pairs(labels, images)
        output.mkdir(parents=True, exist_ok=True)
    except (ImageError, OSError) as error:
        raise CannotStart(str(error)) from error
    remove_leftovers(output)
    done = failed = 0
    try:
        for lines in export_files(pairs, output, makers, pixel_size, needed=needed):
            done += not lines
            failed += bool(lines)
            for line in lines:
                click.echo(one_line(f"error: {line}"), err=True)
    except ImageError as error:
        click.echo(f"error: {error}", err=True)
        failed += 1
    click.echo(f"{done} of {len(pairs)} labels, {', '.join(makers)} in {one_line(str(output))}")
    if failed:
        sys.exit(1)


def score_pairs(
    truths: Path, predictions: Path, thresholds: Sequence[float]
) -> "dict[str, RangeScore]":
    """Scores over a range of IoU, by name, of the images that can be scored.

    Raises CannotStart where a folder does not exist or nothing is predicted.
    """
    from reunet.iou_range import score_range
    from reunet.metric import pair_files, read_pair

    scores = {}
    try:
        pairs = pair_files(truths, predictions)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    for name, files in pairs.items():
        try:
            scores[name] = score_range(*read_pair(*files), thresholds)
        except ValueError:  # `evaluate` tells why an image has no score
            continue
    return scores
