"""Cells as GeoJSON (RFC 7946) for QuPath: a detection a cell, with its measurements.

Coordinates are pixels of the image at full size, as QuPath has them. Features are written as they
are made, one a line: a slide's 100 000 cells never lie in memory as text.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reunet.io.export.contours import polygons
from reunet.io.export.segmented import Segmented
from reunet.io.export.stream import Stream
from reunet.io.export.tables import cell_columns

AT_ONCE = 2000  # features a piece of text
# QuPath's own names and units for what it measures as well, so that its tables line up.
MEASURED = {
    "area_px": "Area px^2",
    "diameter_px": "Diameter px",
    "perimeter_px": "Perimeter px",
    "area_um2": "Area µm^2",
    "diameter_um": "Diameter µm",
    "perimeter_um": "Perimeter µm",
    "eccentricity": "Eccentricity",
    "solidity": "Solidity",
    **{
        f"{kind}_{c}": f"Channel {c}: {kind.title()}"
        for c in (1, 2, 3)
        for kind in ("mean", "min", "max")
    },
    "agreement": "Agreement",
}


class GeoJson:
    """Writer of `NAME.geojson`, a file an image."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, found: Segmented) -> None:
        """Write the file of one image, wholly or not at all. Raises ImageError."""
        file = Stream(found.beside(self._folder, ".geojson"))
        try:
            file.append('{"type": "FeatureCollection", "features": [\n')
            before = ""
            for piece in _pieces(found):
                file.append(before + ",\n".join(piece))
                before = ",\n"
            file.append("\n]}\n")
        except BaseException:
            file.discard()
            raise
        file.close()

    def close(self) -> None:
        """Every file is closed already."""


def _pieces(found: Segmented) -> Iterator[list[str]]:
    piece: list[str] = []
    for feature in features(found):
        piece.append(json.dumps(feature, ensure_ascii=False, separators=(",", ":")))
        if len(piece) == AT_ONCE:
            yield piece
            piece = []
    if piece:
        yield piece


def features(found: Segmented) -> Iterator[dict[str, object]]:
    """One GeoJSON feature a cell: (Multi)Polygon, closed rings, holes after the outer ring."""
    columns = cell_columns(found)
    names = [name for name in MEASURED if any(value is not None for value in columns[name])]
    measured = zip(*(columns[name] for name in names), strict=True)
    keys = [MEASURED[name] for name in names]
    for (cell, parts), values in zip(polygons(found.rings), measured, strict=True):
        coordinates = [[closed(ring) for ring in part] for part in parts]
        alone = len(coordinates) == 1
        yield {
            "type": "Feature",
            "geometry": {
                "type": "Polygon" if alone else "MultiPolygon",
                "coordinates": coordinates[0] if alone else coordinates,
            },
            "properties": {
                "objectType": "detection",
                "name": str(cell),
                "measurements": dict(zip(keys, values, strict=True)),
            },
        }


def closed(ring: np.ndarray) -> list[list[int]]:
    """Points of a ring with the first once more at the end."""
    points: list[list[int]] = ring.tolist()
    return [*points, points[0]]
