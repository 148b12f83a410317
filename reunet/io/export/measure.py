"""Cell measurements (region properties) of a label image, in time linear in its pixels.

Labels are taken in bands of rows, and a band as runs: stretches of a row that bear one label. Of
these a cell has a few dozen, so sums over them cost little, however many cells there are.
Legend: H, W pixels; N cells; C channels; R runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reunet.io.export.hull import hull_areas

BAND = 2**22  # pixels of the labels that are looked at together
Rows = Callable[[int, int], np.ndarray]  # (top, bottom) -> (bottom - top, W, C) of an image


@dataclass(frozen=True)
class Cells:
    """What is known of the N cells of an image, in px; one entry a cell, by ascending id.

    Coordinates are of pixel edges: the first pixel spans 0..1, its centre is at 0.5.
    """

    ids: np.ndarray  # (N,) as in the label image
    area: np.ndarray  # (N,) int64, pixels
    box: np.ndarray  # (N, 4) int64: left, top, right, bottom edges
    centroid: np.ndarray  # (N, 2) float64: x, y
    perimeter: np.ndarray  # (N,) by the formula of Cauchy and Crofton, four directions
    eccentricity: np.ndarray  # (N,) of the ellipse with the same second moments, 0 (circle) to 1
    solidity: np.ndarray  # (N,) area over that of the convex hull of the pixels' squares, up to 1
    on_frame: np.ndarray  # (N,) bool: it touches the image's edge
    mean: np.ndarray  # (N, C) float64 intensity, as the file stores it; C is 0 without an image
    low: np.ndarray  # (N, C) the least
    high: np.ndarray  # (N, C) the greatest

    @property
    def diameter(self) -> np.ndarray:
        """Of the circle of the same area, px. (N,) float64."""
        diameter: np.ndarray = np.sqrt(4 / np.pi * self.area)
        return diameter

    def __len__(self) -> int:
        return len(self.ids)


class Runs(NamedTuple):
    """Stretches of a row with one label; right lies one outside. (R,) each."""

    label: np.ndarray
    row: np.ndarray
    left: np.ndarray
    right: np.ndarray
    levels: np.ndarray  # (R, 3, C) float64: sum, least and greatest intensity


def measure(labels: np.ndarray, rows: Rows | None = None) -> Cells:
    """Measure every cell of a label image.

    labels: (H, W) integers, 0 background; an id may lie in several parts, which count together.
    rows: gives rows of the image, (h, W, C) of any real dtype, asked from top to bottom once
    (None: no intensities).
    """
    dense, ids = _dense(labels)
    bands = [_runs(dense, rows, top, bottom) for top, bottom in _bands(labels.shape)]
    runs = Runs(*(np.concatenate(parts) for parts in zip(*bands, strict=True)))
    order = np.argsort(runs.label, kind="stable")  # rows stay in order within a label
    runs = Runs(*(values[order] for values in runs))
    exits = np.zeros((4, int(dense.max(initial=0)) + 1), np.int64)
    for top, bottom in _bands(labels.shape):
        exits += _exits(dense, top, bottom, exits.shape[1])
    cells = _cells(runs, exits, labels.shape)
    return cells if ids is None else _renamed(cells, ids)


def _dense(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels that may index an array, and what they stand for if they are not the image's own."""
    if labels.max(initial=0) <= max(2**20, labels.size):
        return labels, None
    ids, dense = np.unique(np.append(labels.ravel(), 0), return_inverse=True)
    return dense[:-1].reshape(labels.shape), ids


def _renamed(cells: Cells, ids: np.ndarray) -> Cells:
    from dataclasses import replace

    return replace(cells, ids=ids[cells.ids])


def _bands(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    height, width = shape
    step = max(1, BAND // max(1, width))
    return ((top, min(top + step, height)) for top in range(0, height, step))


def _runs(labels: np.ndarray, rows: Rows | None, top: int, bottom: int) -> Runs:
    band = np.ascontiguousarray(labels[top:bottom])
    width = band.shape[1]
    first = np.ones(band.shape, bool)  # of its run
    first[:, 1:] = band[:, 1:] != band[:, :-1]
    starts = np.flatnonzero(first)
    label, ends = band.ravel()[starts], np.append(starts[1:], band.size)
    row, left = np.divmod(starts, width)
    levels = np.zeros((len(starts), 3, 0))
    if rows is not None:
        levels = _levels(rows(top, bottom), starts)
    cell = label > 0
    runs = Runs(label, row + top, left, left + ends - starts, levels)
    return Runs(*(values[cell] for values in runs))


def _levels(pixels: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sum, least and greatest of each channel from each start to the next. (R, 3, C) float64."""
    channels: list[np.ndarray] = []
    for c in range(pixels.shape[2]):
        if c and np.array_equal(pixels[..., c], pixels[..., c - 1]):  # grey, told three times
            channels.append(channels[-1])
            continue
        values = np.ascontiguousarray(pixels[..., c]).ravel()
        total = np.add.reduceat(values, starts, dtype=np.float64)
        low, high = (f.reduceat(values, starts) for f in (np.minimum, np.maximum))
        channels.append(np.stack([total, low, high], axis=1).astype(np.float64))
    return np.stack(channels, axis=2)


def _exits(labels: np.ndarray, top: int, bottom: int, size: int) -> np.ndarray:
    """How often a step leaves each label: to the right, down, down right, down left. (4, size)."""
    block = np.zeros((bottom - top + 1, labels.shape[1] + 2), labels.dtype)
    rows = labels[top : bottom + 1]
    block[: len(rows), 1:-1] = rows
    here = block[:-1, 1:-1]
    following = block[:-1, 2:], block[1:, 1:-1], block[1:, 2:], block[1:, :-2]
    return np.stack([np.bincount(here[here != there], minlength=size) for there in following])


def _cells(runs: Runs, exits: np.ndarray, shape: tuple[int, ...]) -> Cells:
    """runs: in the order of their labels, rows ascending within."""
    first = np.flatnonzero(
        np.append(True, runs.label[1:] != runs.label[:-1]) if len(runs.label) else []
    )
    ids = runs.label[first].astype(np.int64)
    cell = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(runs.label))))

    def over(function: np.ufunc, values: np.ndarray) -> np.ndarray:
        """One value a cell from those of its runs."""
        result: np.ndarray = function.reduceat(values, first) if len(first) else values[:0]
        return result

    area = over(np.add, runs.right - runs.left)
    left, right = over(np.minimum, runs.left), over(np.maximum, runs.right)
    box = np.stack(
        [left, over(np.minimum, runs.row), right, over(np.maximum, runs.row) + 1], axis=1
    )
    centroid, eccentricity = _moments(runs, cell, box, area, over)
    total, low, high = (
        over(np.add, runs.levels[:, 0]),
        *(over(f, runs.levels[:, n]) for n, f in ((1, np.minimum), (2, np.maximum))),
    )
    height, width = shape
    return Cells(
        ids,
        area,
        box,
        centroid,
        # Of lines in a direction, Δ apart, a cell with E exits has about Δ · E of width; the
        # perimeter is π times the mean width. Diagonals lie 1/√2 apart.
        np.pi / 4 * (np.array([1, 1, 0.5**0.5, 0.5**0.5]) @ exits[:, ids]),
        eccentricity,
        area / _hulls(runs, cell),
        (box[:, :2] == 0).any(axis=1) | (box[:, 2] == width) | (box[:, 3] == height),
        total / area[:, np.newaxis],
        low,
        high,
    )


def _moments(
    runs: Runs,
    cell: np.ndarray,
    box: np.ndarray,
    area: np.ndarray,
    over: Callable[[np.ufunc, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Centroid (N, 2) and eccentricity (N,), from the centres of the pixels."""
    length = (runs.right - runs.left).astype(np.float64)
    x = (runs.left + runs.right) / 2 - box[cell, 0]  # from the box: small numbers lose no digits
    y = runs.row + 0.5 - box[cell, 1]
    mean_x, mean_y = over(np.add, length * x) / area, over(np.add, length * y) / area
    # A run's pixels spread by (length² - 1) / 12 about its middle.
    xx = over(np.add, length * (x**2 + (length**2 - 1) / 12)) / area - mean_x**2
    yy = over(np.add, length * y**2) / area - mean_y**2
    xy = over(np.add, length * x * y) / area - mean_x * mean_y
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy**2)  # between the two axes of the ellipse
    major = xx + yy + spread
    ratio = np.divide(2 * spread, major, out=np.zeros(len(area)), where=major > 1e-9)
    return box[:, :2] + np.stack([mean_x, mean_y], axis=1), np.sqrt(np.clip(ratio, 0, 1))


def _hulls(runs: Runs, cell: np.ndarray) -> np.ndarray:
    """Area of each cell's convex hull, px². (N,) float64."""
    # The corners of a run's pixels lie above it and below it.
    cell, y = np.tile(cell, 2), np.concatenate([runs.row, runs.row + 1])
    left, right = np.tile(runs.left, 2), np.tile(runs.right, 2)
    order = np.lexsort((y, cell))
    cell, y, left, right = cell[order], y[order], left[order], right[order]
    if not len(cell):
        return np.zeros(0)
    first = np.flatnonzero(np.append(True, (cell[1:] != cell[:-1]) | (y[1:] != y[:-1])))
    outer = np.minimum.reduceat(left, first), np.maximum.reduceat(right, first)
    return hull_areas(cell[first], y[first], *outer)
