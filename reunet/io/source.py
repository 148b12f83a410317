"""An image on its way in: held in memory, or read in bands of rows as often as needed.

Its size decides which, and nothing else: what follows goes one way. Legend: H, W pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
from reunet.io.selection import EVERYTHING, Selection

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


def open_source(path: Path, selection: Selection = EVERYTHING) -> Source:
    """An image file. Of SLIDE_PIXELS or more, and of a format that allows it, it is streamed, any
    other image is read and held. selection: which of its channels and planes.

    Raises ImageError as `read_image`.
    """
    large = slide_shape(path) is not None
    return stream(path, selection) if large else hold(read_image(path, selection))


def slide_shape(path: Path) -> tuple[int, int] | None:
    """(H, W) of a file of SLIDE_PIXELS or more that can be streamed; None for any other.

    Raises ImageError as `read_image`.
    """
    if not _comes_in_parts(path):
        return None
    with open_planes(path) as planes:
        height, width = planes.shape
    return (height, width) if height * width >= SLIDE_PIXELS else None


def stream(path: Path, selection: Selection = EVERYTHING) -> Source:
    """A TIFF or OME-Zarr, read in bands wherever its strips, tiles and chunks allow it; other
    images are held.

    Raises ImageError as `read_image`.
    """
    if not _comes_in_parts(path):
        return hold(read_image(path, selection))
    with open_planes(path) as planes:
        selected_bands(planes, selection)  # a plane that is not there shows here
        shape, has_alpha = planes.shape, planes.has_alpha
    return Source(shape, lambda: _bands(path, selection), has_alpha=has_alpha)


def _comes_in_parts(path: Path) -> bool:
    if path.suffix.lower() not in ENDINGS:
        return False  # `read_image` has words for it
    with decoding(path):
        return format_of(path).parts


def _bands(path: Path, selection: Selection) -> Iterator[Picture]:
    with open_planes(path) as planes:
        notes, bands = selected_bands(planes, selection)
        for band in bands:
            yield as_picture(native(path, band), notes)
