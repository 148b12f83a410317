"""Images too large to hold in memory: read, predicted and written in bands of rows.

The labels are those of `pipeline.segment` for so large an image. In memory at a time: the rows
that tiles still touch, and, up to a size, one class and one label a pixel; beyond it these lie on
disk. An image is read several times, first for its statistics, then for the network. Legend: H, W
pixels.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from reunet.inference.normalise import (
    Scaling,
    Stretch,
    find_stretches,
    histogram,
    scaling_from,
    stretch_channels,
)
from reunet.inference.scale import scale_bands, scaled_shape, windows, zoom_for
from reunet.inference.size import PARTS, estimate_diameter
from reunet.inference.size import windows as windows_to_look_at
from reunet.inference.tiles import Window, bounding_box
from reunet.io.images import (
    ENDINGS,
    TIFF,
    ImageError,
    Picture,
    as_picture,
    check_size,
    decoding,
    native,
    one_line,
    read_head,
    read_image,
)
from reunet.io.labels import write_label

if TYPE_CHECKING:
    from reunet.io.tiff import Plane
    from reunet.pipeline import Model

SLIDE_PIXELS = 16_000_000  # from here on the arrays of a whole image weigh gigabytes
IN_MEMORY = 2**29  # bytes, of a class map or a label map; larger ones lie on disk
ROWS = 256  # px, of the bands of an image that is held
FLAT_WITH_ALPHA = "its colours are the same everywhere, and its alpha channel is left out"
LABEL_SHARE = 1 / 8  # bytes a pixel that a compressed label image may take: 0.02 to 0.1 is usual


@dataclass(frozen=True)
class Slide:
    """An image that is read band by band, from top to bottom, as often as needed."""

    path: Path
    shape: tuple[int, int]  # H, W
    bands: Callable[[], Iterator[Picture]]  # of rows: put together, what `read_image` returns
    has_alpha: bool = False  # left out, as `read_image` does


class Survey(NamedTuple):
    """What has to be known of a whole image before its first tile can be predicted."""

    stretches: list[Stretch]  # normalise the channels
    shape: tuple[int, int]  # (h, w) that the networks are shown it with
    scaling: Scaling  # of the normalised content, with that many pixels
    box: Window  # the content
    notes: tuple[str, ...]  # what was assumed about channels, planes and cells, for the log


def slide_shape(path: Path) -> tuple[int, int] | None:
    """(H, W) of a TIFF of SLIDE_PIXELS or more; None for any other file.

    Raises ImageError as `read_image`.
    """
    if not _is_tiff(path):
        return None
    height, width = _tiff_shape(path)
    return (height, width) if height * width >= SLIDE_PIXELS else None


def segment_slide(
    image: Path,
    label: Path,
    model: "Model",
    *,
    tta: bool = True,
    decoder: str | None = None,
    write: Callable[[Path, np.ndarray], np.ndarray] | None = None,
) -> tuple[int, tuple[str, ...]]:
    """Find the cells of an image of any size and write their label image, wholly or not at all.

    tta, decoder: as for `pipeline.segment`, whose labels these are if there folds do not vote and
    small cells get no second look. write: writes a label and returns the ids it holds, 0 among
    them (None: `labels.write_label`, all of them). Returns the number of cells and the notes on the
    image. The folder of the label needs room for 5 bytes a pixel beside it if the image has more
    than IN_MEMORY / 4 pixels. Raises ImageError for an image that cannot be read or a label that
    cannot be written, before the network starts where that shows.
    """
    slide = open_slide(image)
    about = survey(slide, model)
    decoder = decoder or model.bundle.decoder
    drawn = max(slide.shape, about.shape) if decoder == "field" else about.shape
    apart = (1, 1) if drawn == slide.shape else drawn
    with (
        scratch(apart, np.int32, label) as seen,
        scratch(slide.shape, np.int32, label) as instances,
    ):
        check_room(label, int(instances.size * LABEL_SHARE))
        same = drawn == slide.shape
        find_cells(slide, about, model, instances if same else seen, label, tta, decoder)
        if not same:
            from reunet.instances.decode import at_size

            at_size(seen, instances)
        if write:
            return len(write(label, instances)) - 1, about.notes
        write_label(label, instances)
        return int(instances.max()), about.notes


def find_cells(
    slide: Slide,
    about: Survey,
    model: "Model",
    out: np.ndarray,
    label: Path,
    tta: bool,
    decoder: str,
) -> None:
    """Cells of a slide. out: int32, receives them: with as many pixels as the networks are shown,
    or for decoder `field` with more."""
    has_field = model.bundle.architecture.field
    if decoder == "field" and not has_field:
        raise ValueError("these weights have no distance field: use --decoder regrow")
    field_shape = about.shape if decoder == "field" else (1, 1)
    with (
        scratch(about.shape, np.uint8, label) as classes,
        scratch(field_shape, np.uint8, label) as field,
    ):
        classify(slide, about, model, classes, field if decoder == "field" else None, tta=tta)
        if decoder == "field":  # neither is needed before the first tile
            from reunet.instances.peaks import decode_field

            shape = out.shape[0], out.shape[1]
            decode_field(classes, field, shape=shape, out=out)
        else:
            from reunet.instances.decode import decode

            decode(classes, decoder, model.bundle.encoding, out=out)


def open_slide(path: Path) -> Slide:
    """An image that is read band by band.

    TIFFs are, wherever their strips and tiles allow it; other images are decoded here and held.
    Raises ImageError as `read_image`.
    """
    if _is_tiff(path):
        with _plane(path) as plane:
            shape, has_alpha = plane.shape, bool(plane.colour.alpha)
        return Slide(path, shape, lambda: _tiff_bands(path), has_alpha)
    picture = read_image(path)
    height, width = picture.pixels.shape[:2]
    parts = range(0, height, ROWS)
    return Slide(
        path,
        (height, width),
        lambda: (Picture(picture.pixels[top : top + ROWS], picture.notes) for top in parts),
    )


def _is_tiff(path: Path) -> bool:
    if path.suffix.lower() not in ENDINGS:
        return False
    with decoding(path):
        return read_head(path).startswith(TIFF)


def _tiff_shape(path: Path) -> tuple[int, int]:
    with _plane(path) as plane:
        return plane.shape


def _tiff_bands(path: Path) -> Iterator[Picture]:
    from reunet.io.tiff_rows import read_bands

    with _plane(path) as plane:
        for band in read_bands(plane):
            yield as_picture(native(path, band), plane.notes)


@contextlib.contextmanager
def _plane(path: Path) -> "Iterator[Plane]":
    from reunet.io.tiff import open_plane
    from reunet.io.tiff_limits import TiffError

    with decoding(path):
        try:
            with open_plane(path, as_shown=True, check_size=partial(check_size, path)) as plane:
                yield plane
        except TiffError as error:
            raise ImageError(one_line(f"{path}: {error}")) from error


def survey(slide: Slide, model: "Model | None" = None) -> Survey:
    """Read a slide for its statistics: the very numbers that `normalise_channels` stretches the
    whole image by, the size of its cells, and what `content_box` and `scaling_of` find in the
    image with that many pixels. model: of whose bundle the size of cells is (None: as they are)."""
    notes: dict[str, None] = {}  # a set that keeps its order

    def pixels() -> Iterator[np.ndarray]:
        for picture in slide.bands():
            notes.update(dict.fromkeys(picture.notes))
            yield picture.pixels

    stretches = find_stretches(pixels)
    shape, told = _shape_to_see(slide, stretches, model)
    counts = np.zeros((3, 256), np.int64)
    rows, columns = [], np.zeros(shape[1], bool)
    for band in scale_bands(_stretched(slide, stretches), slide.shape, shape):
        counts += histogram(band)
        rows.append(band.any(axis=(1, 2)))
        columns |= np.any(band.any(axis=0), axis=1)
    if slide.has_alpha and np.count_nonzero(counts, axis=1).max() <= 1:
        told = (*told, FLAT_WITH_ALPHA)
    box = bounding_box(np.concatenate(rows), columns)
    inside = (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
    counts[:, 0] -= shape[0] * shape[1] - inside  # black, as all outside the box
    return Survey(stretches, shape, scaling_from(counts), box, (*notes, *told))


def _stretched(slide: Slide, stretches: list[Stretch]) -> Iterator[np.ndarray]:
    return (stretch_channels(band.pixels, stretches) for band in slide.bands())


def _shape_to_see(
    slide: Slide, stretches: list[Stretch], model: "Model | None"
) -> tuple[tuple[int, int], tuple[str, ...]]:
    """(h, w) that brings the cells to the bundle's diameter, where it has one, and a note on it."""
    wanted = model.bundle.diameter if model else None
    if model is None or wanted is None:
        return slide.shape, ()
    diameter = model.diameter
    if diameter is None and model.size_network:
        views = _views(_stretched(slide, stretches), slide.shape)
        diameter = estimate_diameter(views, model.size_network)
    zoom, note = zoom_for(diameter, wanted, slide.shape)
    return scaled_shape(slide.shape, zoom), (note,)


def _views(bands: Iterator[np.ndarray], shape: tuple[int, int]) -> list[np.ndarray]:
    """The parts of a slide that its cells' size is estimated from: those of most contrast."""
    read, parts = windows(bands), []
    for rows, columns in windows_to_look_at(shape):
        bottom = min(rows.stop, shape[0])
        parts.append(read(rows.start, bottom)[:, columns].copy())
    parts.sort(key=lambda part: -float(part[::4, ::4].std()))
    return parts[:PARTS]


def classify(
    slide: Slide,
    about: Survey,
    model: "Model",
    classes: np.ndarray,
    field: np.ndarray | None = None,
    *,
    tta: bool = True,
) -> None:
    """Most probable class of every pixel that the networks are shown, and its distance field.

    classes: (h, w) uint8, receives them: background, interior, boundary. field: (h, w) uint8.
    """
    from reunet.inference.sliding_window import map_bands

    bands = scale_bands(_stretched(slide, about.stretches), slide.shape, about.shape)
    for rows, maps in map_bands(
        windows(bands), about.shape, about.scaling, [model.networks], model.tiling(tta), about.box
    ):
        classes[rows] = maps.classes[0]
        if field is not None:
            field[rows] = maps.fields[0] if maps.fields is not None else 0


@contextlib.contextmanager
def scratch(shape: tuple[int, int], dtype: type[np.integer], label: Path) -> Iterator[np.ndarray]:
    """An array of zeros: up to IN_MEMORY bytes in memory, above in a nameless file by the label.

    Raises ImageError where the disk has no room for it.
    """
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        yield np.zeros(shape, dtype)
        return
    with _nameless_file(label, size) as file:
        yield np.memmap(file, dtype, "r+", shape=shape)


def _nameless_file(label: Path, size: int) -> IO[bytes]:
    """It is gone when it is closed, and when the process is killed."""
    import tempfile  # not needed for small images, whose start-up counts

    check_room(label, size)
    with _writing(label), contextlib.ExitStack() as on_error:
        file = on_error.enter_context(tempfile.TemporaryFile(dir=label.parent))
        # Without it, a disk that fills up later would end the process at a write to the map.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        on_error.pop_all()
        return file


def check_room(label: Path, size: int) -> None:
    """Raise ImageError where the disk has no room for so many bytes beside the label."""
    import shutil

    with _writing(label):
        free = shutil.disk_usage(label.parent).free
    if free < size:
        cause = f"needs {size / 1e6:,.0f} MB of disk space beside it, {free / 1e6:,.0f} MB are free"
        raise ImageError(one_line(f"{label}: {cause}; choose a folder with space to write in"))


@contextlib.contextmanager
def _writing(label: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        message = f"{label}: {cause}; choose a folder with space to write in"
        raise ImageError(one_line(message)) from error
