"""What TIFF files need beyond a decoder: axes, stacks, truncation.

Imported by `images` when it meets a TIFF: tifffile takes its time to load. Legend: H, W pixels.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from tifffile import TiffPageSeries

from reunet.errors import TiffError
from reunet.io.alpha import ALPHA_ONLY, only_alpha
from reunet.io.pixel_size import PixelSize
from reunet.io.region import Window
from reunet.io.scanners import OVERLAPS, XMP
from reunet.io.selection import Place
from reunet.io.tiff_colour import COLOURS, Colour, colour_of, measured, shown
from reunet.io.tiff_limits import (
    UNUSED_FORMATS,
    bytes_to_decode,
    check_compression,
    check_description,
    check_directories,
)
from reunet.io.tiff_pages import read_planes
from reunet.io.tiff_pixel_size import tiff_pixel_size
from reunet.io.tiff_rows import read_bands
from reunet.io.tiff_series import Choice, channel_names, first_page, main_picture

UNNAMED = "QI"  # tifffile's letters for an axis that the file does not name
MAX_LAST_AXIS = 7  # an unnamed last axis up to this long holds channels: no image is so narrow

CheckSize = Callable[[int, int, int], None]  # (H, W, bytes of a pixel), from the header; may raise


def read_tiff(path: Path, as_shown: bool, check_size: CheckSize) -> tuple[np.ndarray, list[str]]:
    """One plane of the first series at full size, and what was assumed on the way.

    Returns (H, W) or (H, W, channels) without alpha in the file's dtype. as_shown: translate
    palettes and white-is-zero; otherwise the numbers stay as stored. check_size: called before
    anything is decoded. Raises TiffError for a file that lacks pixels or is not safe to decode,
    and whatever tifffile raises for a damaged one.
    """
    with open_plane(path, as_shown, check_size) as plane:
        stored = read_planes(plane.series, plane.index(slice(None)))
        return plane.finish(stored), plane.notes + plane.notes_on(stored)


@dataclass(frozen=True)
class Plane:
    """The plane of an open file that counts, and how its numbers become pixels."""

    axes: str  # of the series, one letter an axis
    colour: Colour
    choice: Choice
    as_shown: bool  # translate colours
    chosen: Place | None = None  # the plane that was asked for, not assumed

    @property
    def series(self) -> TiffPageSeries:
        """The planes, at full size."""
        return self.choice.series

    @property
    def kept(self) -> str:
        """The axes that a picture has: rows, columns, channels if there are any."""
        return "YX" + next((axis for axis in "SC" if axis in self.axes), "")

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the plane."""
        height, width = (self.series.shape[self.axes.index(axis)] for axis in "YX")
        return height, width

    @property
    def notes(self) -> list[str]:
        """What was assumed about pages, colours, and the axes that a picture lacks.

        Of labels only what speaks of other planes: which of them was meant is not to be guessed.
        """
        lengths = zip(self.axes, self.series.shape, strict=True)
        stacked = [(axis, n) for axis, n in lengths if axis not in self.kept and n > 1]
        used = f"number {self.first + 1}" if self.first else "the first"
        notes = [f"axis {axis} holds {n} planes, {used} is used" for axis, n in stacked]
        notes = notes if self.chosen is None else []
        notes = [*self.choice.left_out, *notes]
        if not self.as_shown:
            return notes
        more = [*self._never_written(), *self._not_stitched()]
        return [*self.choice.disbelieved, *notes, *self.colour.notes, *more]

    def _never_written(self) -> list[str]:
        page = self.series.keyframe.aspage()
        if page.is_contiguous or not (missing := page.databytecounts.count(0)):
            return []
        total, value = len(page.databytecounts), page.nodata
        return [f"{missing} of its {total} parts were never written, they are {value}"]

    def _not_stitched(self) -> list[str]:
        """Ventana's tiles overlap, which OpenSlide knows what to do with (`slides`)."""
        told = self.series.keyframe.aspage().tags.valueof(XMP, b"")
        told = told.encode() if isinstance(told, str) else bytes(told)
        if OVERLAPS not in told:
            return []
        return ["its tiles overlap and are not stitched: pip install 'reunet[slides]' does it"]

    @property
    def first(self) -> int:
        """The plane of a stack that counts."""
        single = len(self.axes) - len(self.kept) == 1 and self.axes[0] in UNNAMED
        return first_page(self.series) if single else 0

    @property
    def stacked(self) -> dict[str, int]:
        """The axes that a picture lacks, with their lengths."""
        lengths = zip(self.axes, self.series.shape, strict=True)
        return {axis: n for axis, n in lengths if axis not in self.kept}

    @property
    def place(self) -> Place:
        """Where it stands in the stack."""
        first = (self.first if n == 0 else 0 for n, axis in enumerate(self.axes)
                 if axis not in self.kept)  # fmt: skip
        return tuple(first) if self.chosen is None else self.chosen

    def at(self, place: Place) -> "Plane":
        """The same file at another of its planes."""
        return replace(self, chosen=place)

    @property
    def has_alpha(self) -> bool:
        """Whether an alpha channel is left out."""
        return bool(self.colour.alpha)

    @property
    def names(self) -> tuple[str, ...]:
        """What an OME description calls the channels of this picture."""
        tif = self.series.keyframe.parent
        pictures = enumerate(tif.series)
        own = (n for n, each in pictures if any(level is self.series for level in each.levels))
        return channel_names(tif.ome_metadata, next(own, 0))

    def bands(self, window: Window | None = None) -> Iterator[np.ndarray]:
        """The plane in bands of rows, see `tiff_rows.read_bands`."""
        return read_bands(self, window)

    def index(self, rows: slice) -> list[slice | int]:
        """Where these rows lie in the series."""
        kept = {"Y": rows} | {axis: slice(None) for axis in self.kept[1:]}
        numbers = dict(zip(self.stacked, self.place, strict=True))
        return [kept[axis] if axis in kept else numbers[axis] for axis in self.axes]

    def finish(self, stored: np.ndarray) -> np.ndarray:
        """What `index` took out of the series as (rows, W) or (rows, W, channels) without alpha."""
        pixels = self.arrange(stored)
        page = self.series.keyframe.aspage()
        if self.has_samples:
            used = self.colour.samples
            pixels = pixels if len(used) == pixels.shape[2] else pixels[..., used]
        elif pixels.ndim == 3 and self.colour.model in COLOURS:
            return pixels  # channels of their own: each is a grey picture
        return shown(measured(pixels, page), page, self.colour.model)

    def notes_on(self, stored: np.ndarray) -> list[str]:
        """A note where all that is to be seen is the alpha channel."""
        alpha = self.colour.alpha if self.as_shown and self.has_samples else []
        if not alpha:
            return []
        pixels = self.arrange(stored)
        return (
            [ALPHA_ONLY] if only_alpha(pixels[..., self.colour.samples], pixels[..., alpha]) else []
        )

    def arrange(self, stored: np.ndarray) -> np.ndarray:
        """The same with all samples as they are stored; the file's order may put them first."""
        order = sorted(self.kept, key=self.axes.index)
        return stored.transpose([order.index(axis) for axis in self.kept])

    @property
    def has_samples(self) -> bool:
        """Whether the last axis of the picture holds the samples of a pixel."""
        samples = self.series.keyframe.aspage().samplesperpixel
        last = self.kept[2:]
        return bool(last) and samples == self.series.shape[self.axes.index(last)] > 1


@contextlib.contextmanager
def open_plane(path: Path, as_shown: bool, check_size: CheckSize) -> Iterator[Plane]:
    """The plane of a file that counts, for as long as the file is open. Raises as `read_tiff`."""
    # What tifffile logs about a bad file, ImageError says; what it logs about a good one is noise.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="tifffile")
    with path.open("rb") as file:
        whole = check_directories(file)
    unused: dict[str, Any] = {f"is_{name}": False for name in UNUSED_FORMATS}
    with tifffile.TiffFile(path, _multifile=False, **unused) as tif:
        described = check_description(tif)
        if not tif.pages:
            raise TiffError("holds no image", "check or re-export the file")
        choice = main_picture(tif, whole, described)
        series = choice.series
        page = series.keyframe.aspage()
        axes = _named_axes(series.axes, series.shape)
        plane = Plane(axes, colour_of(page, as_shown), choice, as_shown)
        channels = series.shape[plane.axes.index("C")] if plane.kept[-1] == "C" else 1
        height, width = plane.shape
        check_size(height, width, -(-bytes_to_decode(page) * channels // max(1, height * width)))
        check_compression(page)
        yield plane


def pixel_size(path: Path) -> PixelSize | None:
    """Pixel size of a file that `open_plane` finds safe to read, where it tells one."""
    with open_plane(path, True, lambda *_: None) as plane:
        return tiff_pixel_size(plane.series.keyframe.parent)


def _named_axes(axes: str, shape: Sequence[int]) -> str:
    """Tell channels last from a stack where the file names no axes.

    The official programs take the last axis for channels; here it also has to be short.
    """
    unnamed = len(axes) == 3 and axes[0] in UNNAMED
    return "YXC" if unnamed and shape[2] < min(MAX_LAST_AXIS + 1, *shape[:2]) else axes
