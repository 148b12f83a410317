"""Images too large to hold in memory: read, predicted and written in bands of rows.

The labels are those of `pipeline.segment` for so large an image. In memory at a time: the rows
that tiles still touch, and, up to a size, one class and one label a pixel; beyond it these lie on
disk. An image is read several times, first for its statistics, then for the network. Legend: H, W
pixels.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from reunet.images import (
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
from reunet.labels import write_label
from reunet.normalise import (
    Scaling,
    Stretch,
    find_stretches,
    histogram,
    scaling_from,
    stretch_channels,
)
from reunet.tiles import Window, bounding_box

if TYPE_CHECKING:
    from reunet.pipeline import Model
    from reunet.tiff import Plane

SLIDE_PIXELS = 16_000_000  # from here on the arrays of a whole image weigh gigabytes
IN_MEMORY = 2**29  # bytes, of a class map or a label map; larger ones lie on disk
ROWS = 256  # px, of the bands of an image that is held
LABEL_SHARE = 1 / 8  # bytes a pixel that a compressed label image may take: 0.02 to 0.1 is usual


@dataclass(frozen=True)
class Slide:
    """An image that is read band by band, from top to bottom, as often as needed."""

    path: Path
    shape: tuple[int, int]  # H, W
    bands: Callable[[], Iterator[Picture]]  # of rows: put together, what `read_image` returns


class Survey(NamedTuple):
    """What has to be known of a whole image before its first tile can be predicted."""

    stretches: list[Stretch]  # normalise the channels
    scaling: Scaling  # of the normalised content
    box: Window  # the content
    notes: tuple[str, ...]  # what was assumed about channels and planes, for the log


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
    with (
        scratch(slide.shape, np.uint8, label) as classes,
        scratch(slide.shape, np.int32, label) as instances,
    ):
        check_room(label, int(classes.size * LABEL_SHARE))
        about = survey(slide)
        classify(slide, about, model, classes, tta=tta)
        from reunet.instances import decode  # not needed before the first tile

        encoding = model.bundle.encoding
        decode(classes, decoder or model.bundle.decoder, encoding, out=instances)
        if write:
            return len(write(label, instances)) - 1, about.notes
        write_label(label, instances)
        return int(instances.max()), about.notes


def open_slide(path: Path) -> Slide:
    """An image that is read band by band.

    TIFFs are, wherever their strips and tiles allow it; other images are decoded here and held.
    Raises ImageError as `read_image`.
    """
    if _is_tiff(path):
        return Slide(path, _tiff_shape(path), lambda: _tiff_bands(path))
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
    from reunet.tiffbands import read_bands

    with _plane(path) as plane:
        for band in read_bands(plane):
            yield as_picture(native(path, band), plane.notes)


@contextlib.contextmanager
def _plane(path: Path) -> "Iterator[Plane]":
    from reunet.tiff import open_plane
    from reunet.tiffchecks import TiffError

    with decoding(path):
        try:
            with open_plane(path, as_shown=True, check_size=partial(check_size, path)) as plane:
                yield plane
        except TiffError as error:
            raise ImageError(one_line(f"{path}: {error}")) from error


def survey(slide: Slide) -> Survey:
    """Read a slide for its statistics: the very numbers that `normalise_channels` stretches the
    whole image by, and `content_box` and `scaling_of` find in the result."""
    notes: dict[str, None] = {}  # a set that keeps its order

    def pixels() -> Iterator[np.ndarray]:
        for picture in slide.bands():
            notes.update(dict.fromkeys(picture.notes))
            yield picture.pixels

    stretches = find_stretches(pixels)
    counts = np.zeros((3, 256), np.int64)
    rows, columns = [], np.zeros(slide.shape[1], bool)
    for band in pixels():
        stretched = stretch_channels(band, stretches)
        counts += histogram(stretched)
        rows.append(stretched.any(axis=(1, 2)))
        columns |= np.any(stretched.any(axis=0), axis=1)
    box = bounding_box(np.concatenate(rows), columns)
    inside = (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
    counts[:, 0] -= slide.shape[0] * slide.shape[1] - inside  # black, as all outside the box
    return Survey(stretches, scaling_from(counts), box, tuple(notes))


def classify(
    slide: Slide, about: Survey, model: "Model", classes: np.ndarray, *, tta: bool = True
) -> None:
    """Most probable class of every pixel.

    classes: (H, W) uint8, receives them: background, interior, boundary.
    """
    from reunet.predict import predict_bands

    stretched = (stretch_channels(band.pixels, about.stretches) for band in slide.bands())
    for rows, values in predict_bands(
        windows(stretched),
        slide.shape,
        about.scaling,
        model.networks,
        model.tiling(tta),
        about.box,
    ):
        classes[rows] = values


def windows(bands: Iterator[np.ndarray]) -> Callable[[int, int], np.ndarray]:
    """Bands of rows as a function `read(top, bottom)` that returns any rows.

    Its tops must not decrease from call to call: what lies above is forgotten.
    """
    live: deque[np.ndarray] = deque()
    first = end = 0  # of the rows that are live

    def read(top: int, bottom: int) -> np.ndarray:
        """Rows top..bottom, (bottom - top, W, 3)."""
        nonlocal first, end
        while end < bottom or first + len(live[0]) <= top:
            if live and first + len(live[0]) <= top:
                first += len(live.popleft())
            else:
                live.append(next(bands))
                end += len(live[-1])
        rows = live[0] if len(live) == 1 else np.concatenate(live)
        return rows[top - first : bottom - first]

    return read


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
