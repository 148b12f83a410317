"""Pixel size that a TIFF tells, by OME, ImageJ, Aperio or its plain tags.

A file is asked in the order of how sure its statement is: OME-XML, ImageJ's calibration, Aperio's
MPP, and the plain resolution tags last, which programs also fill with what a printer would use
(72 or 300 dots an inch). From those, a pixel above PRINTED is not believed.
"""

import contextlib
import re
from collections.abc import Callable
from typing import Any

from tifffile import TiffFile

from reunet.io.pixel_size import LARGEST, TAGS, PixelSize, in_micrometres

PRINTED = 20.0  # µm a pixel; 1270 dots an inch: what is coarser comes from a printer's setting
TAG_UNITS = {2: "inch", 3: "cm"}  # ResolutionUnit, TIFF 6.0 p. 38


def tiff_pixel_size(tiff: TiffFile) -> PixelSize | None:
    """Pixel size that an open TIFF file tells, see `read_pixel_size`."""
    readers: tuple[Callable[[Any], PixelSize | None], ...] = (_ome, _imagej, _aperio, _tags)
    for read in readers:
        with contextlib.suppress(ValueError, ZeroDivisionError, KeyError, TypeError):
            if size := read(tiff):
                return size
    return None


def _size(x: float, y: float, source: str, largest: float = LARGEST) -> PixelSize | None:
    return PixelSize(x, y, source) if 0 < x <= largest and 0 < y <= largest else None


def _ome(tiff: TiffFile) -> PixelSize | None:
    """PhysicalSizeX and Y of the first Pixels element; their unit is µm unless told otherwise."""
    element = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", tiff.ome_metadata or "")
    if not element:
        return None
    told = dict(re.findall(r'(PhysicalSize\w+)\s*=\s*"([^"]*)"', element[0]))
    x, y = (
        float(told[f"PhysicalSize{axis}"])
        * in_micrometres(told.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "XY"
    )
    return _size(x, y, "OME")


def _imagej(tiff: TiffFile) -> PixelSize | None:
    """ImageJ names the unit in its description and stores pixels a unit in the tags."""
    told = tiff.imagej_metadata if tiff.is_imagej else None
    if not told or "unit" not in told:
        return None
    unit = in_micrometres(str(told["unit"]))
    x, y = _pixels_a_unit(tiff)
    return _size(unit / x, unit / y, "ImageJ")


def _aperio(tiff: TiffFile) -> PixelSize | None:
    """`|MPP = 0.4990|`: micrometres a pixel."""
    description = tiff.pages.first.description
    told = re.search(r"\bMPP\s*=\s*([\d.]+)", description) if "Aperio" in description else None
    return _size(float(told[1]), float(told[1]), "Aperio") if told else None


def _tags(tiff: TiffFile) -> PixelSize | None:
    unit = in_micrometres(TAG_UNITS[int(tiff.pages.first.tags["ResolutionUnit"].value)])
    x, y = _pixels_a_unit(tiff)
    return _size(unit / x, unit / y, TAGS, PRINTED)


def _pixels_a_unit(tiff: TiffFile) -> tuple[float, float]:
    tags = tiff.pages.first.tags
    (x, x_divisor), (y, y_divisor) = tags["XResolution"].value, tags["YResolution"].value
    return x / x_divisor, y / y_divisor
