"""Outputs beside labels: overlays, tables, polygons, the page.

They are made from files, the label's and the image's, once the label is written. So a run that
writes labels, one that keeps them (`--resume`) and `reunet export`, which has them from elsewhere,
go one way, and nothing that goes wrong here costs a label.
"""

import json
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from reunet.errors import ImageError, image_error
from reunet.inference.scale import windows
from reunet.io.collection import case_names, place_of
from reunet.io.export.measure import Rows
from reunet.io.export.segmented import Segmented
from reunet.io.export.writers import Writer, unexpected, writing
from reunet.io.images import list_images, planes_of, read_label, read_pixel_size
from reunet.io.labels import read_origin
from reunet.io.pixel_size import PixelSize
from reunet.io.selection import ALL, EVERYTHING, Selection
from reunet.io.source import Source, stream
from reunet.run.batch import Outcome
from reunet.run.report import REPORT

# What programs add to an image's name for its cells; the first that fits is taken off.
LABEL_SUFFIXES = ("_label", "_labels", "_cp_masks", "_masks", "_mask")
THRESHOLD = 0.5  # of IoU, from which a cell counts as found
Makers = Mapping[str, Callable[[Path], Writer]]


@dataclass(frozen=True)
class Pair:
    """A label file and the image that it belongs to, if there is one."""

    label: Path
    image: Path | None
    selection: Selection = EVERYTHING  # which of its channels and planes the label is of
    plane: int | None = None  # of a label file that is a stack


def with_outputs(
    outcomes: Iterable[Outcome],
    folder: Path,
    makers: Makers,
    pixel_size: PixelSize | None,
    selection: Selection = EVERYTHING,
) -> Generator[Outcome]:
    """Pass on the outcomes of a run, once the outputs of each are written to the folder.

    makers: of `io.export.writers.WRITERS`. pixel_size: as given for all images (None: that of each
    file). What cannot be written is told in `Outcome.unwritten`. Raises ImageError where a file on
    several images cannot be begun or finished.
    """
    with writing(makers, folder) as add:
        for outcome in outcomes:
            if outcome.error:
                yield outcome
                continue
            seconds = sum(outcome.seconds.values()) or None
            try:
                for found in planes_segmented(
                    Pair(outcome.label, outcome.image, selection), pixel_size
                ):
                    found = replace(
                        found,
                        notes=tuple(dict.fromkeys((*outcome.notes, *found.notes))),
                        seconds=None if outcome.kept or not seconds else seconds / found.planes,
                        agreement=outcome.agreement,
                        place=place_of(outcome.label, folder),
                    )
                    outcome.unwritten += add(found)
            except ImageError as error:
                outcome.unwritten += (str(error),)
            except Exception as error:  # whatever it is, the next image has its turn
                outcome.unwritten += (str(unexpected(outcome.label, error)),)
            yield outcome


def planes_segmented(pair: Pair, pixel_size: PixelSize | None = None) -> Iterator[Segmented]:
    """`segmented`, once for each plane where planes are labelled each (`--plane all`).

    Raises ImageError as `segmented`.
    """
    if pair.selection.plane != ALL:
        yield segmented(pair, pixel_size)
        return
    count = prod(planes_of(pair.label).values())
    for plane in range(count):
        one = replace(pair, selection=replace(pair.selection, plane=plane), plane=plane)
        found = segmented(one, pixel_size)
        yield replace(found, plane=plane, planes=count) if count > 1 else found


def segmented(pair: Pair, pixel_size: PixelSize | None = None) -> Segmented:
    """What writers are given about a label file and its image.

    pixel_size: overrides that of the files. Raises ImageError where one cannot be read, or they
    have not the same size.
    """
    labels = read_label(pair.label, pair.plane)
    origin = read_origin(pair.label).partition(", ")[2]  # behind the image's hash
    if pair.image is None:
        size = pixel_size or _size_of_label(pair.label)
        image = pair.label.with_name(_stem(pair.label))  # as it may have been called
        return Segmented(image, pair.label, labels, pixel_size=size, origin=origin)
    source = stream(pair.image, pair.selection)
    if source.shape != labels.shape:
        sizes = f"is {_size(labels.shape)} px, the image {_size(source.shape)} px (height × width)"
        raise image_error(pair.label, sizes, f"give the labels of {pair.image.name}")
    size = pixel_size or read_pixel_size(pair.image) or _size_of_label(pair.label)
    notes = size.notes if size else ()
    return Segmented(
        pair.image, pair.label, labels, lambda: _rows(source), size, notes, origin=origin
    )


def _size_of_label(label: Path) -> PixelSize | None:
    """The size that a label bears: somebody knew it when it was written, so it needs no note."""
    size = read_pixel_size(label)
    return replace(size, source="its label") if size else None


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _rows(source: Source) -> Rows:
    return windows(picture.pixels for picture in source.bands())


def find_pairs(labels: Path, images: Path | None) -> list[Pair]:
    """The label files of a folder (or a single one), each with its image.

    Where some names end as LABEL_SUFFIXES, the others are images and no labels. images: a folder or
    a file (None: there are no images). Raises ImageError where a folder cannot be listed or holds
    no labels.
    """
    files = [labels] if labels.is_file() else list_images(labels)
    named = [file for file in files if _stem(file) != file.name.split(".")[0]]
    found = named or files
    if not found:
        raise image_error(labels, "holds no labels", "name the folder that reunet predict wrote to")
    by_name = _by_name(images, found) if images else {}
    return [Pair(file, by_name.get(_long(file)) or by_name.get(_stem(file))) for file in found]


def _by_name(images: Path, labels: Sequence[Path]) -> dict[str, Path]:
    files = [images] if images.is_file() else list_images(images)
    taken = {file.absolute() for file in labels} if files != [images] else set()
    names = case_names([file for file in files if file.absolute() not in taken])
    return {name: file for file, name in names.items()}


def _long(label: Path) -> str:
    """The whole stem of the image that a label file is named after."""
    return next(
        (label.stem.removesuffix(s) for s in LABEL_SUFFIXES if label.stem.endswith(s)), label.stem
    )


def _stem(label: Path) -> str:
    name = label.name.split(".")[0]
    for suffix in LABEL_SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def export_files(
    pairs: Sequence[Pair],
    folder: Path,
    makers: Makers,
    pixel_size: PixelSize | None = None,
    *,
    needed: bool = True,
) -> Generator[tuple[str, ...]]:
    """Write outputs for label files, and yield for each pair what went wrong, a line each.

    needed: a label without an image is an error. Raises ImageError as `with_outputs`.
    """
    told = told_by_report(pairs[0].label.parent)
    with writing(makers, folder) as add:
        for pair in pairs:
            try:
                if needed and pair.image is None:
                    way_out = "name the folder of the images, or rename one of the two"
                    raise image_error(pair.label, "there is no image of its name", way_out)
                seconds, told_notes = told.get(pair.label.name, (None, ()))
                failures: tuple[str, ...] = ()
                for found in planes_segmented(as_labelled(pair), pixel_size):
                    notes = tuple(dict.fromkeys((*told_notes, *found.notes)))
                    each = seconds / found.planes if seconds else None
                    failures += add(replace(found, seconds=each, notes=notes))
                yield failures
            except ImageError as error:
                yield (str(error),)


def as_labelled(pair: Pair) -> Pair:
    """The pair, all planes of it where its label is a stack. Raises ImageError."""
    if prod(planes_of(pair.label).values()) == 1:
        return pair
    return replace(pair, selection=Selection(plane=ALL))


def write_verdicts(
    truths: Path, predictions: Path, names: Collection[str], folder: Path, images: Path | None
) -> Iterator[str]:
    """Write `NAME_evaluation.png` for the named predictions and yield what fails, a line each.

    names: of images that can be scored. images: folder of the images (None: contours are drawn on
    black).
    """
    from reunet.io.export.verdict import write_verdict
    from reunet.metric import compact, pair_files, read_pair

    found = {pair.label: pair.image for pair in find_pairs(predictions, images)}
    for name, (truth, prediction) in pair_files(truths, predictions).items():
        if name not in names:
            continue
        try:
            gt, seg = map(compact, read_pair(truth, prediction))
            pair = segmented(Pair(prediction, found.get(prediction)))
            picture = folder / f"{name}_evaluation.png"
            write_verdict(picture, replace(pair, labels=seg), gt, hits(gt, seg))
        except ValueError as error:  # an ImageError is one
            yield str(error)


def hits(gt: np.ndarray, seg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the true and of the predicted cells that are matched, those at the frame included.

    gt, seg: (H, W) integer, of small ids (`metric.compact`).
    """
    from reunet.instances.overlap import overlapping_pairs
    from reunet.metric import inner_areas, match

    areas = inner_areas(gt, frame=0), inner_areas(seg, frame=0)
    true, predicted, iou = overlapping_pairs(gt, seg, areas)
    hit = match(true, predicted, iou, THRESHOLD)
    return true[hit], predicted[hit]


def told_by_report(folder: Path) -> dict[str, tuple[float | None, tuple[str, ...]]]:
    """Seconds and notes of each label file by name, where a run left its `report.json`."""
    try:
        entries = json.loads((folder / REPORT).read_bytes())["images"]
        return {
            entry["label"]: (
                sum(entry["seconds"].values()) if entry["status"] == "done" else None,
                (*entry["notes"],),
            )
            for entry in entries
            if entry["label"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
