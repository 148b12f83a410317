"""Part of an image that is to be looked at: `--region`, a rectangle or polygons drawn in QuPath.

Cells belong to the region that holds their centre, so that of regions side by side each cell is in
one. Hence MARGIN pixels around are read as well: cells at the edge are seen, and drawn, whole.
Coordinates are of pixel edges, as in QuPath: x to the right, y down, (0, 0) is the upper left
corner of the image and (0.5, 0.5) the centre of its first pixel. Legend: H, W pixels of the image.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reunet.errors import NotThere, image_error, reason

MARGIN = 64  # px around a region, twice the cells that the networks are trained on
AT_ONCE = 2**22  # pairs of a point and an edge that are looked at together
ENDINGS = (".geojson", ".json")
HASH_DIGITS = 16
DEEPEST = 20  # collections within collections

Window = tuple[slice, slice]  # rows, columns
Ring = np.ndarray  # (N, 2) float64: x, y of its corners
Polygon = tuple[Ring, ...]  # the outer ring, then holes


@dataclass(frozen=True)
class Region:
    """What somebody asked for. name: in words. origin: the same, with a hash of what a file says.

    polygons: one at least, each of an area.
    """

    name: str
    origin: str
    polygons: tuple[Polygon, ...]

    def on(self, shape: tuple[int, int]) -> "Part":
        """The region on an image of (H, W). Raises NotThere where it lies outside."""
        corners = np.concatenate([polygon[0] for polygon in self.polygons])
        (left, top), (right, bottom) = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
        height, width = shape
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            cause = f"{self.name} lies outside of the image, {width} × {height} px (width × height)"
            raise NotThere(cause, "give one inside of it, in its pixels")
        rows = slice(max(0, int(top) - MARGIN), min(height, int(bottom) + MARGIN))
        columns = slice(max(0, int(left) - MARGIN), min(width, int(right) + MARGIN))
        beyond = left < 0 or top < 0 or right > width or bottom > height
        return Part(self, shape, rows, columns, bool(beyond))


@dataclass(frozen=True)
class Part:
    """What is read of an image for a region: a rectangle around it.

    of: (H, W) of the image. rows, columns: of the image. beyond: the region reaches out of it.
    """

    region: Region
    of: tuple[int, int]
    rows: slice
    columns: slice
    beyond: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) that are read."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def notes(self) -> tuple[str, ...]:
        """What the region means for the labels."""
        cut = " as far as the image reaches" * self.beyond
        return (f"{self.region.name} alone{cut}: cells whose centre lies in it",)

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Which points lie in the region. points: (N, 2) x, y in what is read. Returns (N,) bool.

        One on an edge is in the polygon to the right of it or below: in one of two neighbours.
        """
        points = points + np.array([self.columns.start, self.rows.start])
        inside = np.zeros(len(points), bool)
        for polygon in self.region.polygons:
            edges = np.concatenate([_edges(ring) for ring in polygon])
            step = max(1, AT_ONCE // len(edges))
            for first in range(0, len(points), step):
                some = slice(first, first + step)
                inside[some] |= _is_odd(points[some], edges)
        return inside

    def is_near(self, rows: slice, columns: slice) -> bool:
        """Whether a pixel of a window of what is read lies within MARGIN of the region."""
        left, right = (self.columns.start + x for x in (columns.start, columns.stop))
        top, bottom = (self.rows.start + y for y in (rows.start, rows.stop))
        box = left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN
        rings = (ring for polygon in self.region.polygons for ring in polygon)
        if any(_crosses(_edges(ring), box) for ring in rings):
            return True
        return bool(self.contains(np.array([[columns.start, rows.start]], float))[0])


def _edges(ring: Ring) -> np.ndarray:
    """(N, 4): x, y of the upper end and of the lower one, the same for both directions."""
    both = np.hstack([ring, np.roll(ring, -1, axis=0)])
    falls = both[:, 1] > both[:, 3]
    both[falls] = both[falls][:, [2, 3, 0, 1]]
    return both


def _is_odd(points: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Whether a ray from each point to the left crosses an odd number of edges."""
    x, y = points[:, :1], points[:, 1:]
    x0, y0, x1, y1 = edges.T
    level = (y0 <= y) & (y < y1)
    slope = (x1 - x0) / np.where(y1 > y0, y1 - y0, 1)
    crossed: np.ndarray = level & (x0 + (y - y0) * slope <= x)
    odd: np.ndarray = np.count_nonzero(crossed, axis=1) % 2 == 1
    return odd


def _crosses(edges: np.ndarray, box: tuple[float, float, float, float]) -> bool:
    """Whether an edge has a point in a box (left, top, right, bottom)."""
    left, top, right, bottom = box
    x0, y0, x1, y1 = edges.T
    near = (np.minimum(x0, x1) <= right) & (np.maximum(x0, x1) >= left) & (y0 <= bottom)
    near &= y1 >= top
    sides = [(x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) for x in (left, right)
             for y in (top, bottom)]  # fmt: skip
    apart = (np.min(sides, axis=0) > 0) | (np.max(sides, axis=0) < 0)
    return bool((near & ~apart).any())


def parse_region(asked: str | Sequence[int]) -> Region:
    """`x,y,width,height` in px, or the name of a GeoJSON file.

    Raises ValueError, an ImageError where a file is at fault. One line.
    """
    text = asked if isinstance(asked, str) else ",".join(map(str, asked))
    numbers = [part.strip() for part in text.split(",")]
    if len(numbers) == 4 and all(re.fullmatch(r"-?\d+", number) for number in numbers):
        x, y, width, height = map(int, numbers)
        if width < 1 or height < 1:
            raise ValueError(f"region {text!r} is empty: x,y,width,height need a size above 0")
        ring = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], float)
        name = f"region {x},{y},{width},{height}"
        return Region(name, name, ((ring,),))
    if Path(text).suffix.lower() not in ENDINGS:
        raise ValueError(f"region {text!r}: give x,y,width,height in px, or a .geojson file")
    return _of_file(Path(text))


def region_origin(asked: str | Sequence[int] | None) -> str:
    """What labels depend on, in words; nothing for no region. Raises as `parse_region`."""
    return "" if asked is None else parse_region(asked).origin


def _of_file(path: Path) -> Region:
    try:
        content = path.read_bytes()
        polygons = tuple(_polygons(json.loads(content)))
    except OSError as error:
        raise image_error(
            path, reason(error), "name a GeoJSON file, as QuPath exports it"
        ) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        cause = f"is no GeoJSON ({type(error).__name__}: {error})"[:200]
        raise image_error(path, cause, "export the annotations from QuPath again") from error
    if not polygons:
        raise image_error(path, "holds no polygon", "draw an area, and export it as GeoJSON")
    digest = hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
    name = f"region {path.name} ({len(polygons)} polygon{'s' * (len(polygons) > 1)})"
    return Region(name, f"{name} {digest}", polygons)


def _polygons(found: Any, depth: int = 0) -> Iterator[Polygon]:
    """The polygons of a geometry, a feature, a collection, or a bare list of these, as QuPath
    writes it. What has no area (points, lines) is passed over."""
    if depth > DEEPEST:
        raise ValueError("too many collections within each other")
    parts = found if isinstance(found, list) else None
    kind = None if parts is not None else found["type"]
    if kind in ("FeatureCollection", "GeometryCollection"):
        parts = found["features" if kind == "FeatureCollection" else "geometries"]
    elif kind == "Feature":
        parts = [found["geometry"]] if found["geometry"] else []
    for part in parts or ():
        yield from _polygons(part, depth + 1)
    if kind in ("Polygon", "MultiPolygon"):
        coordinates = found["coordinates"]
        for rings in [coordinates] if kind == "Polygon" else coordinates:
            polygon = tuple(_ring(corners) for corners in rings)
            if polygon and _area(polygon[0]) > 0:
                yield polygon


def _ring(corners: Any) -> Ring:
    ring = np.array([(x, y) for x, y, *_ in corners], np.float64).reshape(-1, 2)
    if not np.isfinite(ring).all():
        raise ValueError("a corner is no number")
    return ring


def _area(ring: Ring) -> float:
    """By the shoelace formula, px²."""
    if not len(ring):
        return 0.0
    x, y = (ring - ring[0]).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
