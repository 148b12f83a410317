"""Slides of scanners that our own TIFF reader cannot read, or only in part: by OpenSlide (extra
`slides`). They are Hamamatsu's .ndpi, and Ventana's .bif, whose tiles overlap.

OpenSlide decodes the tiles that a rectangle touches, so a slide is read in bands, and never held as
a whole. It is imported when such a file is met, and not before. Legend: H, W pixels.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reunet.errors import image_error
from reunet.io.pixel_size import LARGEST, PixelSize
from reunet.io.planes import CheckSize, Stack, steps
from reunet.io.scanners import HAMAMATSU, VENTANA, Scan, scan_of

if TYPE_CHECKING:
    from openslide import OpenSlide
    from PIL import Image

ROWS, COLUMNS = 256, 2048  # px, of what is read at once, as far as whole tiles allow
UNKNOWN_TILE = 1024  # px a side: taken for a tile where they overlap, as OpenSlide tells no size
MAX_TILE = 2**26  # px: OpenSlide decodes a tile as a whole, and ends the process without memory
RGB_BYTES, OPAQUE = 3, 255
WHITE = "FFFFFF"
DAMAGED = "copy it again, or export it as TIFF"


def is_for_openslide(path: Path) -> bool:
    """Whether a TIFF is read here. Ventana's is only where OpenSlide is installed: `tiff` reads it,
    too, but cannot stitch it. Raises OSError."""
    scan = scan_of(path)
    return scan is not None and (scan.maker == HAMAMATSU or is_installed())


def is_stitched(path: Path) -> bool:
    """Whether it depends on OpenSlide what becomes of a file, and it is here. Raises OSError."""
    scan = scan_of(path)
    return scan is not None and scan.maker == VENTANA and is_installed()


def is_installed() -> bool:
    """Whether the extra `slides` is here."""
    try:
        import openslide  # noqa: F401
    except ImportError:  # of the package, or of the library that it needs
        return False
    return True


@contextlib.contextmanager
def open_plane(path: Path, as_shown: bool, check_size: CheckSize) -> Iterator[Stack]:  # noqa: ARG001
    """The full size of a slide, RGB of 8 bits.

    Where nothing was scanned it has the colour that the slide names as its background, or white.
    Raises ImageError where OpenSlide is missing, for a file that it cannot read, and, on reading,
    for a part that is damaged.
    """
    scan = scan_of(path)
    for height, width in scan.sizes if scan else ():
        check_size(height, width, RGB_BYTES)  # before OpenSlide makes lists of so many tiles
    slide = _open(path, scan)
    with slide:
        width, height = slide.dimensions
        check_size(height, width, RGB_BYTES)
        tall, wide = _tile(slide.properties)
        if tall * wide > MAX_TILE:
            cause = f"its pixels are stored in pieces of {tall} × {wide} px"
            raise image_error(path, cause, "export it as TIFF")
        block = tall * max(1, ROWS // tall), wide * max(1, COLUMNS // wide)  # of whole tiles
        colour = _background(slide.properties)

        def read(index: tuple[Any, ...]) -> np.ndarray:
            rows, columns = (range(*part.indices(n)) for part, n in
                             zip(index[:2], (height, width), strict=True))  # fmt: skip
            with _telling(path):
                return _pixels(slide, rows, columns, block[1], colour)

        with _telling(path):
            told = [*_of_focal_planes(scan), *_of_background(slide, scan, colour)]
        names = ("red", "green", "blue")
        yield Stack("YXS", (height, width, RGB_BYTES), read, block[0], names, tuple(told))


def pixel_size(path: Path) -> PixelSize | None:
    """Width and height of a pixel of the full size; None where the file does not tell."""
    with _open(path, scan_of(path)) as slide:
        about = slide.properties
        x, y = (float(about.get(f"openslide.mpp-{axis}", 0)) for axis in "xy")
        told = 0 < x <= LARGEST and 0 < y <= LARGEST
        return PixelSize(x, y, about["openslide.vendor"].capitalize()) if told else None


def _open(path: Path, scan: Scan | None) -> "OpenSlide":
    """Raises ImageError as `open_plane`."""
    try:
        import openslide
    except ImportError as error:
        cause = f"a slide of {scan.maker if scan else 'this kind'} needs OpenSlide"
        way_out = "pip install 'reunet[slides]', or export it as TIFF"
        raise image_error(path, cause, way_out) from error
    with _telling(path):
        return openslide.OpenSlide(path)


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """What OpenSlide finds wrong names the file and the way out."""
    from openslide import OpenSlideError, OpenSlideUnsupportedFormatError

    try:
        yield
    except OpenSlideUnsupportedFormatError as error:
        cause = "OpenSlide does not know it for a slide, it is truncated or damaged"
        raise image_error(path, cause, DAMAGED) from error
    except OpenSlideError as error:
        cause = f"OpenSlide cannot read it, a part is damaged or missing ({str(error)[:100]})"
        raise image_error(path, cause, DAMAGED) from error


def _tile(properties: Any) -> tuple[int, int]:
    """Rows and columns that OpenSlide decodes at once."""
    told = (properties.get(f"openslide.level[0].tile-{edge}") for edge in ("height", "width"))
    tall, wide = (int(edge) if edge else UNKNOWN_TILE for edge in told)
    return tall, wide


def _background(properties: Any) -> str:
    """The colour of what was not scanned, as six hexadecimal digits."""
    told = properties.get("openslide.background-color", "")
    return told if re.fullmatch(r"[0-9A-Fa-f]{6}", told) else WHITE


def _pixels(slide: "OpenSlide", rows: range, columns: range, wide: int, colour: str) -> np.ndarray:
    """A rectangle of the full size, (rows, columns, 3) uint8."""
    pixels = np.empty((len(rows), len(columns), RGB_BYTES), np.uint8)
    for part in steps(slice(columns.start, columns.stop), wide):
        size = part.stop - part.start, len(rows)
        block = slide.read_region((part.start, rows.start), 0, size)
        left = part.start - columns.start
        pixels[:, left : left + size[0]] = np.asarray(_on(colour, block))
    return pixels


def _on(colour: str, block: "Image.Image") -> "Image.Image":
    """A picture with alpha on a ground of one colour."""
    from PIL import Image

    if _least_alpha(block) == OPAQUE:
        return block.convert("RGB")
    ground = Image.new("RGBA", block.size, f"#{colour}")
    return Image.alpha_composite(ground, block).convert("RGB")


def _least_alpha(block: "Image.Image") -> int:
    return int(np.asarray(block)[..., 3].min())


def _of_focal_planes(scan: Scan | None) -> Sequence[str]:
    """A note where the slide was scanned at several depths: OpenSlide reads that of the focus."""
    count = scan.focal_planes if scan else 1
    return [f"of {count} focal planes the one in focus is used"] if count > 1 else []


def _of_background(slide: "OpenSlide", scan: Scan | None, colour: str) -> Sequence[str]:
    """A note where something was not scanned, which the smallest level of a slide shows.

    A size of Hamamatsu's is one JPEG, which has no holes: it is not read for that.
    """
    if scan is not None and scan.maker == HAMAMATSU:
        return []
    level = slide.level_count - 1
    width, height = slide.level_dimensions[level]
    scale = slide.level_downsamples[level]
    for rows in steps(slice(0, height), UNKNOWN_TILE):
        for columns in steps(slice(0, width), COLUMNS):
            at = int(columns.start * scale), int(rows.start * scale)
            size = columns.stop - columns.start, rows.stop - rows.start
            if _least_alpha(slide.read_region(at, level, size)) == 0:
                shown = "white" if colour.upper() == WHITE else f"of the colour #{colour}"
                return [f"what was not scanned is {shown}"]
    return []
