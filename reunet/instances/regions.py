"""Connected regions of pictures that are worked through in bands of rows, from the top.

What a seam cuts is put together again by union–find, so that regions, sizes and first pixels do
not depend on the height of the bands. Legend: H, W pixels of the picture.
"""

from typing import NamedTuple

import cc3d
import numpy as np

BAND = 2**21  # px; its work arrays are a few tens of megabytes
MIN_ROWS = 128  # of a band, so that the seams of very wide pictures do not cost more than the rest
MOST = np.iinfo(np.int32).max
UNSEEN = np.iinfo(np.int64).max  # first pixel of a region that has none


def cut(shape: tuple[int, ...], rows: int | None = None) -> list[tuple[int, int]]:
    """First row and end of every band.

    shape: (H, W). rows: of a band (None: a suitable number). Raises ValueError for less than one.
    """
    height, width = shape
    if rows is not None and rows < 1:
        raise ValueError(f"a band has one row at least, not {rows}")
    rows = rows or max(MIN_ROWS, BAND // max(width, 1))
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


class Merged(NamedTuple):
    """Regions put together across the seams, 1..N; entry 0 of each array: no region."""

    number: np.ndarray  # (provisional numbers + 1,) int32: the region that each is part of
    sizes: np.ndarray  # (N + 1,) int64, px
    first: np.ndarray  # (N + 1,) int64: flat index of the first pixel, row by row


class Regions:
    """Connected regions (4-neighbours) of a mask that comes in bands.

    A region bears another provisional number in every band that it crosses; `merged` tells which
    belong together.
    """

    def __init__(self) -> None:
        self.before = self.count = 0  # provisional numbers given before and with the last band
        self._sizes = [np.zeros(1, np.int64)]
        self._first = [np.full(1, UNSEEN)]
        self._joined = [np.zeros((2, 0), np.int32)]
        self._above: np.ndarray | None = None

    @property
    def sizes(self) -> np.ndarray:
        """Sizes in px of the last band's parts: (parts,) int64, those of `before + 1` first."""
        return self._sizes[-1]

    def label(self, mask: np.ndarray, top: int) -> np.ndarray:
        """Number the next band.

        mask: (rows, W) bool; its first row is row `top` of the picture. Returns (rows, W) int32,
        0 outside the mask. Raises ValueError when int32 cannot hold the numbers.
        """
        # cc3d 4.1.1 mislabels some pictures of odd width with 8-connectivity: 4 only, see `join`
        parts, count = cc3d.connected_components(
            mask, connectivity=4, out_dtype=np.uint32, return_N=True
        )
        if self.count + count > MOST:
            raise ValueError(f"the class map has over {MOST} regions: decode it in pieces")
        numbers: np.ndarray = parts.view(np.int32)
        sizes, first = np.zeros(count + 1, np.int64), np.full(count + 1, UNSEEN)
        measure(numbers, top, sizes, first)
        self._sizes.append(sizes[1:])
        self._first.append(first[1:])
        if self.count:
            np.add(numbers, self.count, out=numbers, where=mask)
        self.before, self.count = self.count, self.count + count
        if self._above is not None:
            both = (self._above > 0) & mask[0]
            self.join(distinct(self._above[both], numbers[0][both]))
        self._above = numbers[-1].copy()
        return numbers

    def join(self, pairs: np.ndarray) -> None:
        """Take the regions of each pair of provisional numbers for one. pairs: (2, N) int32."""
        self._joined.append(pairs)

    def merged(self) -> Merged:
        """The regions of the whole picture, 1..N, once all bands are there."""
        root = unite(self.count + 1, *np.concatenate(self._joined, axis=1))
        number = (np.cumsum(root == np.arange(root.size)) - 1)[root]
        count = int(number.max()) + 1
        sizes, first = np.zeros(count, np.int64), np.full(count, UNSEEN)
        np.add.at(sizes, number, np.concatenate(self._sizes))
        np.minimum.at(first, number, np.concatenate(self._first))
        return Merged(number.astype(np.int32), sizes, first)


def measure(numbers: np.ndarray, top: int, sizes: np.ndarray, first: np.ndarray) -> None:
    """Enter a band into the tables of sizes and first pixels, in place.

    numbers: (rows, W) int32 from 0; its first row is row `top` of the picture. sizes, first:
    (N + 1,) int64; their entry 0, of no region, is left alone.
    """
    flat = numbers.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    starts = np.append(0, ends[:-1])
    values = flat[starts]
    run = values > 0
    starts, values = starts[run], values[run]
    np.add.at(sizes, values, ends[run] - starts)
    np.minimum.at(first, values, starts + top * numbers.shape[1])


def unite(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Union–find over all pairs at once.

    count: of members 0..count-1. first, second: (pairs,) members that belong together. Returns
    (count,) int64: for every member the smallest of its set.
    """
    root = np.arange(count)
    while first.size:
        first, second = root[first], root[second]
        apart = first != second
        first, second = first[apart], second[apart]
        np.minimum.at(root, np.maximum(first, second), np.minimum(first, second))
        while (root[root] != root).any():  # halve the way to the root
            root = root[root]
    return root


def distinct(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Every pair once. first, second: (pairs,) int32 from 0. Returns (2, N) int32."""
    keys = first.astype(np.int64) << 32 | second
    keys = np.unique(keys[np.append(True, keys[1:] != keys[:-1])] if keys.size else keys)
    return np.stack([keys >> 32, keys & MOST]).astype(np.int32)


def across_corners(cells: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Pairs of numbers that meet at a corner, and have no pixel in common beside them.

    cells: (rows, W) bool. numbers: (rows, W) int32, positive where `cells`. Returns (2, N) int32.
    """
    upper, lower = cells[:-1], cells[1:]
    falling = upper[:, :-1] & lower[:, 1:] & ~(upper[:, 1:] | lower[:, :-1])
    rising = upper[:, 1:] & lower[:, :-1] & ~(upper[:, :-1] | lower[:, 1:])
    above = np.append(numbers[:-1, :-1][falling], numbers[:-1, 1:][rising])
    below = np.append(numbers[1:, 1:][falling], numbers[1:, :-1][rising])
    return distinct(above, below)


def touching(signed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours on either side of zero.

    signed: (rows, W) int32 without zeros: cells positive, what is none negative. Returns numbers
    of the regions that are no cell, made positive, and of the cells that they touch (4
    neighbours), each (pairs,) int32, with repetitions.
    """
    outside, cells = [], []
    for one, other in ((signed[:-1], signed[1:]), (signed[:, :-1], signed[:, 1:])):
        edge = (one ^ other) < 0
        one, other = one[edge], other[edge]
        outside.append(-np.minimum(one, other))
        cells.append(np.maximum(one, other))
    return np.concatenate(outside), np.concatenate(cells)
