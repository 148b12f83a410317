"""What TIFF files need beyond a decoder: axes, stacks, palettes, truncation.

Imported by `images` when it meets a TIFF: tifffile takes its time to load. Legend: H, W pixels.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from tifffile import TiffFrame, TiffPage, TiffPageSeries

from reunet.tiffchecks import (
    UNUSED_FORMATS,
    TiffError,
    bytes_to_decode,
    check_compression,
    check_description,
    check_directories,
)

MAX_LAST_AXIS = 7  # an unnamed last axis up to this long holds channels: no image is so narrow
WHITE_IS_ZERO, PALETTE, INKS = 0, 3, 5  # PhotometricInterpretation, TIFF 6.0 p. 37
CMYK = 4  # inks that a printer has, where the file does not say otherwise
ALPHA = (1, 2)  # ExtraSamples: associated and unassociated alpha, TIFF 6.0 p. 31


CheckSize = Callable[[int, int, int], None]  # (H, W, bytes of a pixel), from the header; may raise


def read_tiff(path: Path, as_shown: bool, check_size: CheckSize) -> tuple[np.ndarray, list[str]]:
    """One plane of the first series at full size, and what was assumed on the way.

    Returns (H, W) or (H, W, channels) without alpha in the file's dtype. as_shown: translate
    palettes and white-is-zero; otherwise the numbers stay as stored. check_size: called before
    anything is decoded. Raises TiffError for a file that lacks pixels or is not safe to decode,
    and whatever tifffile raises for a damaged one.
    """
    with open_plane(path, as_shown, check_size) as plane:
        return plane.finish(read_planes(plane.series, plane.index(slice(None)))), plane.notes


@dataclass(frozen=True)
class Plane:
    """The plane of an open file that counts, and how its numbers become pixels."""

    series: TiffPageSeries  # at full size
    axes: str  # of the series, one letter an axis
    as_shown: bool  # translate palettes and white-is-zero

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
        """What was assumed about the axes that a picture lacks."""
        lengths = zip(self.axes, self.series.shape, strict=True)
        stacked = [(axis, n) for axis, n in lengths if axis not in self.kept and n > 1]
        notes = [f"axis {axis} holds {n} planes, the first is used" for axis, n in stacked]
        page = self.series.keyframe.aspage()
        if self.as_shown and not page.is_contiguous and (missing := page.databytecounts.count(0)):
            total, value = len(page.databytecounts), page.nodata
            notes.append(f"{missing} of its {total} parts were never written, they are {value}")
        return notes

    def index(self, rows: slice) -> list[slice | int]:
        """Where these rows lie in the series."""
        kept = {"Y": rows} | {axis: slice(None) for axis in self.kept[1:]}
        return [kept.get(axis, 0) for axis in self.axes]

    def finish(self, stored: np.ndarray) -> np.ndarray:
        """What `index` took out of the series as (rows, W) or (rows, W, channels) without alpha."""
        # The axes come out in the file's order, channels perhaps first.
        order = sorted(self.kept, key=self.axes.index)
        pixels = stored.transpose([order.index(axis) for axis in self.kept])
        page = self.series.keyframe.aspage()
        if self.kept[-1] == "S" and page.extrasamples and page.extrasamples[-1] in ALPHA:
            pixels = pixels[..., :-1]
        return _as_shown(pixels, page) if self.as_shown else pixels


@contextlib.contextmanager
def open_plane(path: Path, as_shown: bool, check_size: CheckSize) -> Iterator[Plane]:
    """The plane of a file that counts, for as long as the file is open. Raises as `read_tiff`."""
    # What tifffile logs about a bad file, ImageError says; what it logs about a good one is noise.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="tifffile")
    with path.open("rb") as file:
        check_directories(file)
    unused: dict[str, Any] = {f"is_{name}": False for name in UNUSED_FORMATS}
    with tifffile.TiffFile(path, _multifile=False, **unused) as tif:
        check_description(tif)
        if not tif.series:
            raise TiffError("holds no image", "check or re-export the file")
        series = tif.series[0].levels[0]
        _check_channels(tif, series)
        plane = Plane(series, _named_axes(series.axes, series.shape), as_shown)
        page = series.keyframe.aspage()
        channels = series.shape[plane.axes.index("C")] if plane.kept[-1] == "C" else 1
        height, width = plane.shape
        check_size(height, width, -(-bytes_to_decode(page) * channels // max(1, height * width)))
        check_compression(page)
        yield plane


def _check_channels(tif: tifffile.TiffFile, series: TiffPageSeries) -> None:
    """Where ImageJ's channels are cut off, tifffile would make do with the first."""
    told = (tif.imagej_metadata or {}).get("channels", 1) if tif.is_imagej else 1
    if told > 1 and series.kind in ("generic", "uniform") and len(series.pages) < told:
        raise TiffError(f"some of its {told} channels are missing", "copy or export it again")


def _named_axes(axes: str, shape: Sequence[int]) -> str:
    """Tell channels last from a stack where the file names no axes (tifffile's Q and I).

    The official programs take the last axis for channels; here it also has to be short.
    """
    unnamed = len(axes) == 3 and axes[0] in "QI"
    return "YXC" if unnamed and shape[2] < min(MAX_LAST_AXIS + 1, *shape[:2]) else axes


def read_planes(series: TiffPageSeries, wanted: Sequence[slice | int]) -> np.ndarray:
    """series[wanted], without decoding the pages it leaves out where there is a choice."""
    numbers = page_numbers(series, wanted)
    if numbers is None:
        return np.array(_map_stack(series)[tuple(wanted)])
    lead = len(series.shape) - len(series.keyframe.shape)
    planes = [_read_page(series, int(n))[tuple(wanted[lead:])] for n in numbers.flat]
    return planes[0] if numbers.ndim == 0 else np.stack(planes)


def _map_stack(series: TiffPageSeries) -> np.ndarray:
    """All planes of a contiguous stack, mapped: only what is used is read."""
    page, offset = series.keyframe, series.dataoffset
    if offset is None:
        raise TiffError("its planes are not where it says", "export it again")
    file = page.parent.filehandle
    if offset + series.nbytes > file.size:
        raise TiffError("the file is truncated", "copy or export it again")
    dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    return file.memmap_array(dtype, series.shape, offset)


def page_numbers(series: TiffPageSeries, wanted: Sequence[slice | int]) -> np.ndarray | None:
    """The pages that hold series[wanted], () or by channel (C,).

    None where one page stands for a contiguous stack (ImageJ).
    """
    page_shape = series.keyframe.shape
    lead = len(series.shape) - len(page_shape)
    if series.shape[lead:] != page_shape or math.prod(series.shape[:lead]) != len(series.pages):
        return None
    numbers = np.arange(len(series.pages)).reshape(series.shape[:lead])
    return np.asarray(numbers[tuple(wanted[:lead])])


def _read_page(series: TiffPageSeries, number: int) -> np.ndarray:
    return whole_page(series, number).asarray()


def whole_page(series: TiffPageSeries, number: int) -> TiffPage | TiffFrame:
    """A page whose pixels are all in the file. Raises TiffError for another."""
    page = series.pages[number]
    if page is None:
        raise TiffError("its pixels lie in another file", "export it as one file")
    keyframe = series.keyframe
    if page.keyframe is None or page.keyframe.hash != keyframe.hash:
        raise TiffError("its channels are stored in different ways", "export it again")
    # tifffile fills what a truncated file lacks with zeros; we do not want half a picture.
    ends = [at + n for at, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if keyframe.is_contiguous:
        ends = [page.dataoffsets[0] + keyframe.nbytes]
        missing = 0 < sum(page.databytecounts) < keyframe.nbytes  # 0: some writers leave it out
    else:
        missing = len(ends) < math.prod(keyframe.chunked)
    if missing:
        raise TiffError("some of its pixels are missing", "copy or export it again")
    if max(ends, default=0) > page.parent.filehandle.size:
        raise TiffError("the file is truncated", "copy or export it again")
    return page


def _as_shown(pixels: np.ndarray, page: TiffPage) -> np.ndarray:
    if page.photometric == PALETTE and page.colormap is not None and pixels.ndim == 2:
        return _apply_palette(pixels, page.colormap)
    if page.photometric == WHITE_IS_ZERO and pixels.dtype.kind in "bui":
        return _invert(pixels, page.bitspersample)
    if page.photometric == INKS and pixels.shape[2:] == (CMYK,) and pixels.dtype.kind == "u":
        return _mix(pixels)
    return pixels


def _mix(inks: np.ndarray) -> np.ndarray:
    """What ink and black leave of the paper's white. (H, W, 4) to (H, W, 3), unsigned integers."""
    full = np.iinfo(inks.dtype).max
    left = (full - inks).astype(np.float64)
    mixed: np.ndarray = np.floor(left[..., :3] * left[..., 3:] / full + 0.5).astype(inks.dtype)
    return mixed


def _apply_palette(indices: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """colours: (3, entries) uint16, spread over 0..65535 or, by some writers, 0..255."""
    if colours.dtype.kind != "u":
        raise TiffError("its palette is not of whole numbers", "export it again")
    if indices.dtype == np.uint8 and colours.max() > 255:
        colours = colours >> 8
    table = colours.T.astype(np.uint8 if colours.max() <= 255 else np.uint16)
    return np.take(table, indices, axis=0)


def _invert(pixels: np.ndarray, bits: int) -> np.ndarray:
    inverted: np.ndarray = np.invert(pixels)
    if pixels.dtype.kind == "u":  # 12 bits in a uint16: the 4 unused ones stay 0
        inverted &= pixels.dtype.type(2**bits - 1)
    return inverted
