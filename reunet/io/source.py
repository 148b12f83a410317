"""An image on its way in: held in memory, or read in bands of rows as often as needed.

Its size decides which, and nothing else: what follows goes one way. Legend: H, W pixels.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reunet.errors import ImageError, TiffError, one_line
from reunet.io.images import (
    ENDINGS,
    TIFF,
    Picture,
    as_picture,
    check_size,
    decoding,
    native,
    read_head,
    read_image,
)

if TYPE_CHECKING:
    from reunet.io.tiff import Plane

SLIDE_PIXELS = 16_000_000  # from here on the arrays of a whole image weigh gigabytes
ROWS = 256  # px, of the bands of an image that is held


@dataclass(frozen=True)
class Source:
    """An image that can be read from top to bottom, as often as needed.

    shape: (H, W). bands: of rows; put together, what `read_image` returns. picture: all of it,
    where it is held. has_alpha: an alpha channel is left out, as `read_image` does.
    """

    shape: tuple[int, int]
    bands: Callable[[], Iterator[Picture]]
    picture: Picture | None = None
    has_alpha: bool = False

    @property
    def is_slide(self) -> bool:
        """Whether it is worked on in bands of rows, because it is so large."""
        return self.shape[0] * self.shape[1] >= SLIDE_PIXELS


def hold(picture: Picture) -> Source:
    """A picture as a source."""
    height, width = picture.pixels.shape[:2]

    def bands() -> Iterator[Picture]:
        for top in range(0, height, ROWS):
            yield Picture(picture.pixels[top : top + ROWS], picture.notes)

    return Source((height, width), bands, picture)


def open_source(path: Path) -> Source:
    """An image file. A TIFF of SLIDE_PIXELS or more is streamed, any other image is read and held.

    Raises ImageError as `read_image`.
    """
    return stream(path) if slide_shape(path) else hold(read_image(path))


def slide_shape(path: Path) -> tuple[int, int] | None:
    """(H, W) of a TIFF of SLIDE_PIXELS or more; None for any other file.

    Raises ImageError as `read_image`.
    """
    if not _is_tiff(path):
        return None
    with _plane(path) as plane:
        height, width = plane.shape
    return (height, width) if height * width >= SLIDE_PIXELS else None


def stream(path: Path) -> Source:
    """A TIFF, read in bands wherever its strips and tiles allow it; other images are held.

    Raises ImageError as `read_image`.
    """
    if not _is_tiff(path):
        return hold(read_image(path))
    with _plane(path) as plane:
        shape, has_alpha = plane.shape, bool(plane.colour.alpha)
    return Source(shape, lambda: _tiff_bands(path), has_alpha=has_alpha)


def _is_tiff(path: Path) -> bool:
    if path.suffix.lower() not in ENDINGS:
        return False
    with decoding(path):
        return read_head(path).startswith(TIFF)


def _tiff_bands(path: Path) -> Iterator[Picture]:
    from reunet.io.tiff_rows import read_bands

    with _plane(path) as plane:
        for band in read_bands(plane):
            yield as_picture(native(path, band), plane.notes)


@contextlib.contextmanager
def _plane(path: Path) -> "Iterator[Plane]":
    from reunet.io.tiff import open_plane

    with decoding(path):
        try:
            with open_plane(path, as_shown=True, check_size=partial(check_size, path)) as plane:
                yield plane
        except TiffError as error:
            raise ImageError(one_line(f"{path}: {error}")) from error
