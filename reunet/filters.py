"""Cells that somebody does not want: too small ones, and those that the image's edge cuts.

Legend: H, W pixels; N cells.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

BAND = 2**22  # pixels of the labels that are looked at together


@dataclass(frozen=True)
class MinArea:
    """The least area of a cell, in pixels or in µm²."""

    value: float
    micrometres: bool = False

    def in_pixels(self, pixel_area: float | None) -> float:
        """In pixels. pixel_area: of a pixel, µm². Raises ValueError where it is needed but None."""
        if not self.micrometres:
            return self.value
        if pixel_area is None:
            raise ValueError(
                f"an area of {self} needs the size of a pixel, which the file does not tell; "
                "give it with --pixel-size, or the area in pixels"
            )
        return self.value / pixel_area

    def __str__(self) -> str:
        return f"{self.value:g} {'µm²' if self.micrometres else 'px'}"


def parse_min_area(text: str) -> MinArea:
    """An area somebody typed: `30` or `30px`, or `20um2` or `20µm²`. Raises ValueError."""
    told = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|px|[uµμ]m(?:2|\^2|²))", text.strip().lower())
    if not told:
        raise ValueError(f"{text!r} is no area: write 30 for pixels, or 20um2")
    return MinArea(float(told[1]), told[2] not in ("", "px"))


def filter_cells(
    labels: np.ndarray, min_area: float = 0, drop_edge_cells: bool = False
) -> np.ndarray:
    """Remove cells from a label image, in place, and number the others 1..N in their order.

    labels: (H, W) integers, 0 background, cells numbered without large gaps; it may lie on disk.
    min_area: pixels that a cell must have. drop_edge_cells: remove those with a pixel in the first
    or last row or column. Returns the former ids of the cells that are left, (N,) ascending.
    """
    area = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    for rows in _bands(labels):
        area += np.bincount(rows.ravel(), minlength=area.size)
    kept = (area > 0) & (area >= min_area)
    if drop_edge_cells:
        for strip in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            kept[strip] = False
    kept[0] = False
    renumbered = (np.cumsum(kept) * kept).astype(labels.dtype)
    for rows in _bands(labels):
        rows[:] = renumbered[rows]
    return np.flatnonzero(kept)


def keep_inside(labels: np.ndarray, contains: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Remove cells from a label image, in place, whose centres do not lie where they should.

    labels: as for `filter_cells`. contains: which of points (N, 2), x and y of pixel edges, do;
    (N,) bool. Returns the former numbers of the others, 0 first, (N + 1,) ascending.
    """
    cells = int(labels.max(initial=0)) + 1
    sums, top = np.zeros((3, cells)), 0  # of x and y of the pixels, and their number
    for rows in _bands(labels):
        y, x = np.nonzero(rows)
        numbers = rows[y, x]
        for total, values in zip(sums, (x, y + top, None), strict=True):
            total += np.bincount(numbers, values, minlength=cells)
        top += len(rows)
    centres = (sums[:2] / np.maximum(sums[2], 1)).T + 0.5
    kept = (sums[2] > 0) & contains(centres)
    renumbered = (np.cumsum(kept) * kept).astype(labels.dtype)
    for rows in _bands(labels):
        rows[:] = renumbered[rows]
    return np.append(0, np.flatnonzero(kept))


def _bands(labels: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, BAND // labels.shape[1])
    return (labels[top : top + step] for top in range(0, labels.shape[0], step))
