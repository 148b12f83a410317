"""An image on its way in: held in memory, or read in bands of rows as often as needed.

Its size decides which, and nothing else: what follows goes one way. Legend: H, W pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reunet.io.images import (
    ENDINGS,
    Picture,
    as_picture,
    decoding,
    format_of,
    native,
    open_planes,
    read_image,
)
from reunet.io.planes import selected_bands
from reunet.io.region import Part, Region
from reunet.io.selection import EVERYTHING, Selection

SLIDE_PIXELS = 16_000_000  # from here on the arrays of a whole image weigh gigabytes
ROWS = 256  # px, of the bands of an image that is held


@dataclass(frozen=True)
class Source:
    """An image that can be read from top to bottom, as often as needed.

    shape: (H, W). bands: of rows; put together, what `read_image` returns. picture: all of it,
    where it is held. has_alpha: an alpha channel is left out, as `read_image` does. part: of a
    larger image, which this is; None: it is all of one.
    """

    shape: tuple[int, int]
    bands: Callable[[], Iterator[Picture]]
    picture: Picture | None = None
    has_alpha: bool = False
    part: Part | None = None

    @property
    def is_slide(self) -> bool:
        """Whether it is worked on in bands of rows, because it is so large."""
        return is_large(self.shape)

    @property
    def whole(self) -> tuple[int, int]:
        """(H, W) of the image that it is part of, or itself."""
        return self.part.of if self.part else self.shape


def is_large(shape: tuple[int, int]) -> bool:
    """Whether arrays of (H, W) pixels are better not held by the dozen."""
    return shape[0] * shape[1] >= SLIDE_PIXELS


def hold(picture: Picture) -> Source:
    """A picture as a source."""
    height, width = picture.pixels.shape[:2]

    def bands() -> Iterator[Picture]:
        for top in range(0, height, ROWS):
            yield Picture(picture.pixels[top : top + ROWS], picture.notes)

    return Source((height, width), bands, picture)


def part_of(source: Source, region: Region | None) -> Source:
    """What is to be looked at of an image that is held. Raises NotThere where that lies outside."""
    if region is None:
        return source
    assert source.picture is not None, "it is held"
    part = region.on(source.shape)
    pixels = np.ascontiguousarray(source.picture.pixels[part.rows, part.columns])
    picture = Picture(pixels, (*source.picture.notes, *part.notes))
    return replace(hold(picture), has_alpha=source.has_alpha, part=part)


def open_source(
    path: Path, selection: Selection = EVERYTHING, region: Region | None = None
) -> Source:
    """An image file. Of SLIDE_PIXELS or more, and of a format that allows it, it is streamed, any
    other image is read and held. selection: which of its channels and planes. region: which part.

    Raises ImageError as `read_image`, and where the region lies outside.
    """
    if slide_shape(path) is not None:
        source = stream(path, selection, region)
        return source if source.is_slide else _held(source)
    with decoding(path):
        return part_of(hold(read_image(path, selection)), region)


def _held(source: Source) -> Source:
    """A part of a slide that is small enough to be held."""
    bands = [*source.bands()]
    notes = tuple(dict.fromkeys(note for band in bands for note in band.notes))
    picture = Picture(np.concatenate([band.pixels for band in bands]), notes)
    return replace(hold(picture), has_alpha=source.has_alpha, part=source.part)


def slide_shape(path: Path) -> tuple[int, int] | None:
    """(H, W) of a file of SLIDE_PIXELS or more that can be streamed; None for any other.

    Raises ImageError as `read_image`.
    """
    if not _comes_in_parts(path):
        return None
    with open_planes(path) as planes:
        shape = planes.shape
    return shape if is_large(shape) else None


def stream(path: Path, selection: Selection = EVERYTHING, region: Region | None = None) -> Source:
    """A TIFF or OME-Zarr, read in bands wherever its strips, tiles and chunks allow it; other
    images are held. Of a region nothing else is read.

    Raises ImageError as `open_source`.
    """
    if not _comes_in_parts(path):
        with decoding(path):
            return part_of(hold(read_image(path, selection)), region)
    with open_planes(path) as planes:
        selected_bands(planes, selection)  # a plane that is not there shows here
        part = region.on(planes.shape) if region else None
        shape, has_alpha = part.shape if part else planes.shape, planes.has_alpha
    return Source(shape, lambda: _bands(path, selection, part), has_alpha=has_alpha, part=part)


def _comes_in_parts(path: Path) -> bool:
    if path.suffix.lower() not in ENDINGS:
        return False  # `read_image` has words for it
    with decoding(path):
        return format_of(path).parts


def _bands(path: Path, selection: Selection, part: Part | None) -> Iterator[Picture]:
    window = (part.rows, part.columns) if part else None
    with open_planes(path) as planes:
        notes, bands = selected_bands(planes, selection, window)
        notes = [*notes, *(part.notes if part else ())]
        for band in bands:
            yield as_picture(native(path, band), notes)
