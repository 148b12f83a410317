"""Contours of cells as polygons on pixel edges: vectorised masks that can be rasterised exactly.

Only corners are kept, points on a straight line are not. Every corner knows in which direction the
contour comes and goes, with the cell on its right hand as seen on a screen, and a stretch that
leaves a corner ends at the next corner of the label in that row or column that one arrives at. So
all contours of an image are linked by two sorts. Legend: H, W pixels; P corners; R rings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

EAST, SOUTH, WEST, NORTH = range(4)
BAND = 2**22  # pixels of the labels that are looked at together
# Of the four pixels around a corner, northwest, northeast, southwest, southeast: which share a row
# and a column with it, which lies opposite.
AROUND = ((1, 2, 3), (0, 3, 2), (3, 0, 1), (2, 1, 0))
# How a contour comes and goes where a pixel stands alone, and where only its opposite is missing.
CONVEX = ((SOUTH, WEST), (WEST, NORTH), (EAST, SOUTH), (NORTH, EAST))
CONCAVE = ((WEST, SOUTH), (NORTH, WEST), (SOUTH, EAST), (EAST, NORTH))

Polygon = list[np.ndarray]  # its outer ring, then its holes; (K, 2) int32 x, y, not closed


@dataclass(frozen=True)
class Rings:
    """The R closed lines around all cells, and around the holes in them."""

    label: np.ndarray  # (R,) of the cell, ascending
    points: np.ndarray  # (P, 2) int32: x, y of pixel edges; no three in a line
    start: np.ndarray  # (R + 1,) int64: where the points of each ring begin, and P
    area: np.ndarray  # (R,) int64 px²; negative around a hole

    def ring(self, number: int) -> np.ndarray:
        """Points of a ring, (K, 2) int32; the first is not repeated."""
        return self.points[self.start[number] : self.start[number + 1]]


@dataclass(frozen=True)
class _Corners:
    """Corners in the order of label, y, x. (P,) each."""

    label: np.ndarray
    y: np.ndarray
    x: np.ndarray
    comes: np.ndarray  # direction
    goes: np.ndarray


def trace(labels: np.ndarray) -> Rings:
    """The contours of all cells.

    labels: (H, W) integers, 0 background. Pixels of a cell that touch at a corner alone lie in two
    parts. No ring touches itself; two rings may touch at a corner (valid by OGC's Simple Features).
    """
    corners = _corners(labels)
    follows = _links(corners)
    order, start = _walk(follows)
    if _untie(corners, follows, order, start):
        order, start = _walk(follows)
    points = np.stack([corners.x[order], corners.y[order]], axis=1).astype(np.int32)
    return Rings(corners.label[order[start[:-1]]], points, start, _areas(points, start))


def polygons(rings: Rings) -> Iterator[tuple[int, list[Polygon]]]:
    """Every cell's id and parts, each an outer ring and the holes in it."""
    changes = np.flatnonzero(rings.label[1:] != rings.label[:-1]) + 1
    ends = [0, *changes.tolist(), len(rings.label)]
    for begin, end in pairwise(ends if len(rings.label) else []):
        numbers = range(begin, end)
        outer = [n for n in numbers if rings.area[n] > 0]
        parts = {n: [rings.ring(n)] for n in outer}
        for n in numbers:
            if rings.area[n] < 0:
                parts[_around(rings, n, outer)].append(rings.ring(n))
        yield int(rings.label[begin]), list(parts.values())


def _corners(labels: np.ndarray) -> _Corners:
    height, width = labels.shape
    step = max(1, BAND // max(1, width))
    found = [
        _corners_in(labels, top, min(top + step, height + 1)) for top in range(0, height + 1, step)
    ]
    label, y, x, comes, goes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((x, y, label))
    return _Corners(label[order], y[order], x[order], comes[order], goes[order])


def _corners_in(labels: np.ndarray, top: int, bottom: int) -> tuple[np.ndarray, ...]:
    """Corners on the lines top..bottom-1 between rows: label, y, x, comes, goes; (p,) each."""
    block = np.zeros((bottom - top + 1, labels.shape[1] + 2), labels.dtype)
    rows = labels[max(0, top - 1) : bottom]
    at = 1 if top == 0 else 0
    block[at : at + len(rows), 1:-1] = rows
    windows = block[:-1, :-1], block[:-1, 1:], block[1:, :-1], block[1:, 1:]
    mixed = np.zeros(windows[0].shape, bool)
    for other in windows[1:]:
        mixed |= windows[0] != other
    y, x = np.nonzero(mixed)
    pixels = [window[y, x] for window in windows]
    found = []
    for n, (beside, below, opposite) in enumerate(AROUND):
        own = pixels[n]
        alone = (own != 0) & (pixels[beside] != own) & (pixels[below] != own)
        middle = (
            (pixels[beside] == own)
            & (pixels[below] == own)
            & (pixels[opposite] != own)
            & (own != 0)
        )
        for where, (comes, goes) in ((alone, CONVEX[n]), (middle, CONCAVE[n])):
            p = np.flatnonzero(where)
            ways = np.full(p.size, comes, np.int8), np.full(p.size, goes, np.int8)
            found.append((own[p], y[p] + top, x[p], *ways))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _links(corners: _Corners) -> np.ndarray:
    """The corner that follows each one on its contour. (P,) int64."""
    follows = np.empty(corners.label.size, np.int64)
    by_column = np.lexsort((corners.y, corners.x, corners.label))
    for way in (EAST, SOUTH, WEST, NORTH):
        # On a line the stretches of a label in one direction are disjoint, so the first that
        # begins is the first that ends.
        order = by_column if way in (SOUTH, NORTH) else np.arange(follows.size)
        follows[order[corners.goes[order] == way]] = order[corners.comes[order] == way]
    return follows


def _walk(follows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners ring by ring, (P,), and where each ring begins, (R + 1,)."""
    link = follows.tolist()
    seen = bytearray(len(link))
    order, start = [], [0]
    for first in range(len(link)):
        corner = first
        while not seen[corner]:
            seen[corner] = 1
            order.append(corner)
            corner = link[corner]
        if len(order) > start[-1]:
            start.append(len(order))
    return np.array(order, np.int64), np.array(start, np.int64)


def _untie(corners: _Corners, follows: np.ndarray, order: np.ndarray, start: np.ndarray) -> bool:
    """Where a ring passes a point twice, let it be two rings. Changes `follows`; tells whether.

    Contours do not cross, so such points nest: to cut at one leaves the others in one piece each.
    """
    ring = np.empty(order.size, np.int64)
    ring[order] = np.repeat(np.arange(start.size - 1), np.diff(start))
    same = np.ones(max(0, order.size - 1), bool)
    for values in (corners.label, corners.y, corners.x, ring):
        same &= values[1:] == values[:-1]
    one = np.flatnonzero(same)
    follows[one], follows[one + 1] = follows[one + 1], follows[one]
    return one.size > 0


def _areas(points: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Signed area of each ring by the shoelace formula; clockwise on a screen is positive."""
    if not len(points):
        return np.zeros(0, np.int64)
    following = np.arange(1, len(points) + 1)
    following[start[1:] - 1] = start[:-1]
    x, y = points.T.astype(np.int64)
    area: np.ndarray = np.add.reduceat(x * y[following] - x[following] * y, start[:-1]) // 2
    return area


def _around(rings: Rings, hole: int, outer: list[int]) -> int:
    """The outer ring that a hole lies in: the smallest that holds the pixel above its first."""
    if len(outer) == 1:
        return outer[0]
    points = rings.ring(hole)
    x, y = points[np.lexsort((points[:, 0], points[:, 1]))[0]]
    around = [n for n in outer if _holds(rings.ring(n), x + 0.5, y - 0.5)]
    return min(around, key=lambda n: int(rings.area[n]))


def _holds(ring: np.ndarray, x: float, y: float) -> bool:
    """Whether a point lies in a ring: a ray to the left meets its upright sides an odd number of
    times."""
    x1, y1 = ring.T
    y2 = np.roll(y1, -1)
    crossed = (np.minimum(y1, y2) < y) & (y < np.maximum(y1, y2)) & (x1 < x)
    return bool(np.count_nonzero(crossed) % 2)
