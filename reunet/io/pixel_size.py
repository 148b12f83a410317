"""How large a pixel is: physical pixel size in micrometres, from OME, ImageJ, Aperio or TIFF tags.

A file is asked in the order of how sure its statement is: OME-XML, ImageJ's calibration, Aperio's
MPP, and the plain resolution tags last, which programs also fill with what a printer would use
(72 or 300 dots an inch). From those, a pixel above PRINTED is not believed.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tifffile import TiffFile

PRINTED = 20.0  # µm a pixel; 1270 dots an inch: what is coarser comes from a printer's setting
LARGEST = 1e4  # µm a pixel; what says more is no picture of cells
SQUARE = 0.01  # share that two axes may differ by and still count as one
MICROMETRES = {  # of one unit, as OME, ImageJ and people spell them
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("å", "angstrom"), 1e-4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("inch", "in", "inches"), 25_400.0),
}
TAGS = "resolution tags"
TAG_UNITS = {2: "inch", 3: "cm"}  # ResolutionUnit, TIFF 6.0 p. 38
CM = 3


@dataclass(frozen=True)
class PixelSize:
    """Width and height of a pixel in µm, both above 0, and where they come from."""

    x: float
    y: float
    source: str  # OME, ImageJ, Aperio, resolution tags, or who else said so

    @property
    def area(self) -> float:
        """Area of a pixel in µm²."""
        return self.x * self.y

    @property
    def length(self) -> float:
        """Edge of the square of the same area in µm: what lengths in pixels are multiplied by."""
        return math.sqrt(self.area)

    def times(self, factor: float) -> "PixelSize":
        """That of a picture with so many times fewer pixels a side."""
        return PixelSize(self.x * factor, self.y * factor, self.source)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is assumed of a source that may err, and where the two axes differ."""
        notes = []
        if self.source == TAGS:
            notes.append(f"a pixel is taken for {self.x:.4g} µm wide, as its {TAGS} say")
        if abs(self.x - self.y) > SQUARE * max(self.x, self.y):
            axes = f"pixels are not square ({self.x:.4g} × {self.y:.4g} µm)"
            notes.append(f"{axes}: lengths in µm are taken with {self.length:.4g} µm a pixel")
        return tuple(notes)


def parse_pixel_size(text: str) -> PixelSize:
    """The size somebody typed: µm, as `0.5` or, for x and y, `0.5,0.6`.

    Raises ValueError for anything but one or two numbers above 0.
    """
    parts = text.lower().removesuffix("um").removesuffix("µm").split(",")
    with contextlib.suppress(ValueError):
        values = [float(part) for part in parts]
        if len(values) in (1, 2) and all(0 < value <= LARGEST for value in values):
            return PixelSize(values[0], values[-1], "given")
    raise ValueError(f"pixel size {text!r} is no size in µm above 0: write 0.5, or 0.5,0.6")


def read_pixel_size(path: Path) -> PixelSize | None:
    """Pixel size of an image or label file that can be read; None where the file does not tell.

    A size of 0, or one that no microscope has, counts as not told. PNG, JPEG and BMP tell the
    density of a print if anything: they are not asked. Raises nothing: whoever wants the pixels
    finds out what is wrong with the file.
    """
    from reunet.io.images import format_of

    with contextlib.suppress(Exception):
        form = format_of(path)
        if form.name == "TIFF":
            with _open_tiff(path) as tiff:
                return tiff_pixel_size(tiff)
        if form.reader:
            size: PixelSize | None = form.reader().pixel_size(path)
            return size
    return None


def tiff_pixel_size(tiff: "TiffFile") -> PixelSize | None:
    """Pixel size that an open TIFF file tells, see `read_pixel_size`."""
    readers: tuple[Callable[[Any], PixelSize | None], ...] = (_ome, _imagej, _aperio, _tags)
    for read in readers:
        with contextlib.suppress(ValueError, ZeroDivisionError, KeyError, TypeError):
            if size := read(tiff):
                return size
    return None


@contextlib.contextmanager
def _open_tiff(path: Path) -> Iterator["TiffFile"]:
    """The file behind the plane that `open_plane` finds safe to read."""
    from reunet.io.tiff import open_plane

    with open_plane(path, True, lambda *_: None) as plane:
        yield plane.series.keyframe.parent


def _size(x: float, y: float, source: str, largest: float = LARGEST) -> PixelSize | None:
    return PixelSize(x, y, source) if 0 < x <= largest and 0 < y <= largest else None


def in_micrometres(unit: str) -> float:
    """Micrometres of a unit, as people spell it. Raises KeyError for one that is no length."""
    return MICROMETRES[unit.strip().replace("\\u00B5", "µ").lower()]


def _ome(tiff: "TiffFile") -> PixelSize | None:
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


def _imagej(tiff: "TiffFile") -> PixelSize | None:
    """ImageJ names the unit in its description and stores pixels a unit in the tags."""
    told = tiff.imagej_metadata if tiff.is_imagej else None
    if not told or "unit" not in told:
        return None
    unit = in_micrometres(str(told["unit"]))
    x, y = _pixels_a_unit(tiff)
    return _size(unit / x, unit / y, "ImageJ")


def _aperio(tiff: "TiffFile") -> PixelSize | None:
    """`|MPP = 0.4990|`: micrometres a pixel."""
    description = tiff.pages.first.description
    told = re.search(r"\bMPP\s*=\s*([\d.]+)", description) if "Aperio" in description else None
    return _size(float(told[1]), float(told[1]), "Aperio") if told else None


def _tags(tiff: "TiffFile") -> PixelSize | None:
    unit = in_micrometres(TAG_UNITS[int(tiff.pages.first.tags["ResolutionUnit"].value)])
    x, y = _pixels_a_unit(tiff)
    return _size(unit / x, unit / y, TAGS, PRINTED)


def _pixels_a_unit(tiff: "TiffFile") -> tuple[float, float]:
    tags = tiff.pages.first.tags
    (x, x_divisor), (y, y_divisor) = tags["XResolution"].value, tags["YResolution"].value
    return x / x_divisor, y / y_divisor


def tiff_resolution(size: PixelSize | None) -> dict[str, Any]:
    """What `tifffile` has to be told so that a file bears this pixel size; {} for None."""
    if size is None:
        return {}
    return {"resolution": (1e4 / size.x, 1e4 / size.y), "resolutionunit": CM}


def ome_pixel_size(size: PixelSize | None) -> dict[str, Any]:
    """The same in the words of an OME description; {} for None."""
    if size is None:
        return {}
    x = {"PhysicalSizeX": size.x, "PhysicalSizeXUnit": "µm"}
    return {**x, "PhysicalSizeY": size.y, "PhysicalSizeYUnit": "µm"}
