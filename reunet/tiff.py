"""What TIFF files need beyond a decoder: axes, stacks, palettes, truncation.

Imported by `images` when it meets a TIFF: tifffile takes its time to load. Legend: H, W pixels.
"""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tifffile
from tifffile import TiffPage, TiffPageSeries

MAX_LAST_AXIS = 7  # an unnamed last axis up to this long holds channels: no image is so narrow
WHITE_IS_ZERO, PALETTE = 0, 3  # PhotometricInterpretation, TIFF 6.0 p. 37
ALPHA = (1, 2)  # ExtraSamples: associated and unassociated alpha, TIFF 6.0 p. 31


class TiffError(Exception):
    """A file that decodes but is not a whole image."""

    def __init__(self, cause: str, way_out: str) -> None:
        super().__init__(f"{cause}; {way_out}")
        self.cause, self.way_out = cause, way_out


def read_tiff(
    path: Path, as_shown: bool, check_size: Callable[[int, int], None]
) -> tuple[np.ndarray, list[str]]:
    """One plane of the first series at full size, and what was assumed on the way.

    Returns (H, W) or (H, W, channels) without alpha in the file's dtype. as_shown: translate
    palettes and white-is-zero; otherwise the numbers stay as stored. check_size: called with the
    height and width of the header before anything is decoded; may raise. Raises TiffError for a
    file that lacks pixels, and whatever tifffile raises for a damaged one.
    """
    # What tifffile logs about a bad file, ImageError says; what it logs about a good one is noise.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    with tifffile.TiffFile(path) as tif:
        if not tif.series:
            raise TiffError("holds no image", "check or re-export the file")
        series = tif.series[0].levels[0]
        axes = _named_axes(series.axes, series.shape)
        check_size(*(series.shape[axes.index(axis)] for axis in "YX"))
        kept = "YX" + next((axis for axis in "SC" if axis in axes), "")
        pixels = _read_planes(series, [slice(None) if a in kept else 0 for a in axes])
        # The axes come out in the file's order, channels perhaps first.
        pixels = pixels.transpose([sorted(kept, key=axes.index).index(axis) for axis in kept])
        page = series.keyframe.aspage()
        if kept[-1] == "S" and page.extrasamples and page.extrasamples[-1] in ALPHA:
            pixels = pixels[..., :-1]
        if as_shown:
            pixels = _as_shown(pixels, page)
    lengths = zip(axes, series.shape, strict=True)
    stacked = [(axis, length) for axis, length in lengths if axis not in kept and length > 1]
    return pixels, [f"axis {axis} holds {n} planes, the first is used" for axis, n in stacked]


def _named_axes(axes: str, shape: Sequence[int]) -> str:
    """Tell channels last from a stack where the file names no axes (tifffile's Q and I).

    The official programs take the last axis for channels; here it also has to be short.
    """
    unnamed = len(axes) == 3 and axes[0] in "QI"
    return "YXC" if unnamed and shape[2] < min(MAX_LAST_AXIS + 1, *shape[:2]) else axes


def _read_planes(series: TiffPageSeries, wanted: Sequence[slice | int]) -> np.ndarray:
    """series[wanted], without decoding the pages it leaves out where there is a choice."""
    page_shape = series.keyframe.shape
    lead = len(series.shape) - len(page_shape)
    if series.shape[lead:] != page_shape or math.prod(series.shape[:lead]) != len(series.pages):
        # One page stands for a contiguous stack (ImageJ): mapped, only what is used is read.
        return np.array(series.asarray(out="memmap")[tuple(wanted)])
    numbers = np.arange(len(series.pages)).reshape(series.shape[:lead])[tuple(wanted[:lead])]
    numbers = np.asarray(numbers)
    planes = [_read_page(series, int(n))[tuple(wanted[lead:])] for n in numbers.flat]
    return planes[0] if numbers.ndim == 0 else np.stack(planes)


def _read_page(series: TiffPageSeries, number: int) -> np.ndarray:
    page = series.pages[number]
    if page is None:
        raise TiffError("its pixels lie in another file", "export it as one file")
    # tifffile fills what a truncated file lacks with zeros; we do not want half a picture.
    ends = (at + n for at, n in zip(page.dataoffsets, page.databytecounts, strict=True))
    if max(ends, default=0) > page.parent.filehandle.size:
        raise TiffError("the file is truncated", "copy or export it again")
    return page.asarray()


def _as_shown(pixels: np.ndarray, page: TiffPage) -> np.ndarray:
    if page.photometric == PALETTE and page.colormap is not None and pixels.ndim == 2:
        return _apply_palette(pixels, page.colormap)
    if page.photometric == WHITE_IS_ZERO and pixels.dtype.kind in "bui":
        return _invert(pixels, page.bitspersample)
    return pixels


def _apply_palette(indices: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """colours: (3, entries) uint16, spread over 0..65535 or, by some writers, 0..255."""
    if indices.dtype == np.uint8 and colours.max() > 255:
        colours = colours >> 8
    table = colours.T.astype(np.uint8 if colours.max() <= 255 else np.uint16)
    return np.take(table, indices, axis=0)


def _invert(pixels: np.ndarray, bits: int) -> np.ndarray:
    inverted: np.ndarray = np.invert(pixels)
    if pixels.dtype.kind == "u":  # 12 bits in a uint16: the 4 unused ones stay 0
        inverted &= pixels.dtype.type(2**bits - 1)
    return inverted
