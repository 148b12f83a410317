"""How large a pixel is, in micrometres; `images.read_pixel_size` asks a file for it."""

import contextlib
import math
from dataclasses import dataclass
from typing import Any

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


def in_micrometres(unit: str) -> float:
    """Micrometres of a unit, as people spell it. Raises KeyError for one that is no length."""
    return MICROMETRES[unit.strip().replace("\\u00B5", "µ").lower()]


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
