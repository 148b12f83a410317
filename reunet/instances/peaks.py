"""Cells at the peaks of the distance field: watershed by steepest ascent, merged by persistence.

The network's fourth output says how deep a pixel lies in its cell: 1 at the centre, 0 outside
(`encode.distance_field`). Smoothed, and cut to where the classes see cells, it is the relief.
Every pixel climbs to its highest neighbour; those that end at the same peak are a basin. Two basins
are one cell where the pass between them lies less than a share of PERSISTENCE below the lower of
their peaks: in pictures unlike those of the training the network's peaks are low, and what parts
two of them is shallow (the h-maxima transform and the watershed of its markers in one, but that h
goes with the peak).

It works in bands of rows, two at a time: it takes time in proportion to the pixels, however many
cells there are. The result is the same for every height of the bands. Legend: H, W pixels.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from reunet.inference.scale import scale_labels
from reunet.inference.sliding_window import FIELD_LEVELS
from reunet.inference.smoothing import gaussian
from reunet.instances.decode import in_order
from reunet.instances.encode import BACKGROUND, dilate
from reunet.instances.regions import UNSEEN, cut, measure
from reunet.options import SMALLEST_CELL

# Chosen on validation images, cells of 30 px as in training, and on sources that a network has not
# learnt from: their cells are often seen too large, and what is seen too large has more peaks.
SIGMA = 2.0  # px of the Gaussian that takes the noise off the field
HALO = 8  # rows that the Gaussian looks at on either side
PERSISTENCE = 0.35  # of the lower of two peaks: how far the pass lies below it at least
LOWEST_PEAK = 0.3  # of the field: a cell's peak is at least as high
# How probable a cell's pixels are a cell's, in the mean, as a share of what the median cell of the
# image has: cells below are dropped. docs/experiments.md says what that wins.
SURE = 0.9
# Of the field: up to OUTSIDE a pixel is no cell's, whatever its class, nor are the outermost of
# what is left up to EDGE. By the classes alone cells would be drawn an eighth too large.
OUTSIDE = 0.03
EDGE = 0.1
# (rows, columns) to the neighbours in the order of their flat index: the first of equal ones wins
CLIMB = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0), (0, 1), (1, -1), (1, 0), (1, 1))
FORWARD = ((0, 1), (1, -1), (1, 0), (1, 1))  # every pair of 8-neighbours once
THREADS = 2  # bands at a time; each needs a few tens of megabytes, and NumPy runs beside itself
T = TypeVar("T")


def decode_field(
    classes: np.ndarray,
    field: np.ndarray,
    foreground: np.ndarray | None = None,
    *,
    shape: tuple[int, int] | None = None,
    out: np.ndarray | None = None,
    band: int | None = None,
) -> np.ndarray:
    """Cells of a class map and a distance field.

    classes: (h, w) uint8, of which the background counts. field: (h, w) uint8, FIELD_LEVELS for 1.
    foreground: (h, w) uint8, how probable each pixel is a cell's, 255 for 1; where it is given,
    cells are dropped that are less sure than SURE of the median one: the network is not as sure of
    every image, but of debris it is less so than of the cells beside it.
    shape: (H, W) of the image, where that is larger; cells are then drawn with its pixels. out:
    where to write the result. band: rows to work on at a time (None: a suitable number); makes no
    difference to the result. Returns (H, W) int32, `out` if given: 0 background, cells 1..N in the
    order of their first pixels; cells under SMALLEST_CELL px are dropped.
    """
    height = relief(classes, field, cut(field.shape, band))
    if shape and shape != field.shape:
        height = _enlarged(height, shape)
    if out is None:
        out = np.empty(height.shape, np.int32)
    if out.size:
        watershed(height, out, cut(height.shape, band), foreground)
    return out


def relief(classes: np.ndarray, field: np.ndarray, bands: list[tuple[int, int]]) -> np.ndarray:
    """The field, smoothed, 1 at least in cells and 0 outside of them: (h, w) uint8."""
    height = np.empty(field.shape, np.uint8)

    def smooth(top: int, bottom: int) -> None:
        height[top:bottom] = _smoothed(classes, field, top, bottom)

    _of_each(bands, smooth)
    return height


def watershed(
    height: np.ndarray,
    out: np.ndarray,
    bands: list[tuple[int, int]],
    foreground: np.ndarray | None = None,
) -> None:
    """The cells of a relief.

    height: (H, W) uint8. out: (H, W) int32 in C order, receives the cells. bands: first row and
    end of each. foreground: see `decode_field`.
    """
    peaks = _of_each(bands, lambda top, bottom: _climb(height, top, bottom, out))
    before = 0  # basins of the bands above; they count from 1
    for (top, bottom), found in zip(bands, peaks, strict=True):
        rows = out[top:bottom]
        np.add(rows, before, out=rows, where=rows > 0)
        before += found.size
    for top, bottom in bands:
        _follow(out, top, bottom)
    passes = _of_each(bands, lambda top, bottom: _passes(height, out, top, bottom))
    heights = np.append(0, height.ravel()[np.concatenate(peaks)].astype(np.int64))
    cell = _merged(heights, np.concatenate(passes, axis=1))
    _number(out, cell, heights, bands, foreground)


def _of_each(bands: Sequence[tuple[int, int]], work: Callable[[int, int], T]) -> list[T]:
    """What some work on each band returns, in their order."""
    if len(bands) == 1:
        return [work(*bands[0])]
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(work, *zip(*bands, strict=True)))


def _smoothed(classes: np.ndarray, field: np.ndarray, top: int, bottom: int) -> np.ndarray:
    """Some rows of the field, smoothed; 0 outside of cells. Returns (bottom - top, W) uint8."""
    start, stop = max(top - HALO, 0), bottom + HALO
    level = field[start:stop]
    rows = gaussian(level, SIGMA, HALO)
    outside = (classes[start:stop] == BACKGROUND) | (level <= OUTSIDE * FIELD_LEVELS)
    rim = dilate(outside) & (level <= EDGE * FIELD_LEVELS)
    height: np.ndarray = np.maximum(rows.round(), 1).astype(np.uint8)
    height[outside | rim] = 0
    inner: np.ndarray = height[top - start :][: bottom - top]
    return inner


def _enlarged(height: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A relief with more pixels, both its heights and its outlines interpolated bilinearly."""
    from PIL import Image

    def grown(values: np.ndarray) -> np.ndarray:
        how = Image.Resampling.BILINEAR
        return np.asarray(Image.fromarray(values).resize(shape[::-1], how))

    cells = grown(np.where(height > 0, 255, 0).astype(np.uint8)) >= 128
    larger: np.ndarray = np.where(cells, np.maximum(grown(height), 1), 0).astype(np.uint8)
    return larger


def _climb(height: np.ndarray, top: int, bottom: int, out: np.ndarray) -> np.ndarray:
    """Enter in some rows where each pixel's way up ends.

    out: receives the number of the basin, from 1, where the way ends in these rows, and -1 - the
    flat index of the pixel that it leads to where it leaves them. Returns the flat indices of the
    basins' peaks.
    """
    width = height.shape[1]
    target = _uphill(height, top, bottom)  # flat, relative to the first of these rows
    inside = np.flatnonzero(height[top:bottom])
    leaves = (target < 0) | (target >= target.size)
    way = np.where(leaves, np.arange(target.size, dtype=np.int32), target)
    end = way[inside]
    while True:
        further = way[end]
        if np.array_equal(further, end):
            break
        way[inside] = end = further
    code = np.zeros(target.size, np.int32)
    tops = inside[(end == inside) & ~leaves[inside]]
    code[tops] = np.arange(1, 1 + tops.size)
    exits = inside[leaves[inside]]
    code[exits] = -1 - (target[exits] + top * width)
    out[top:bottom] = 0
    out[top:bottom].reshape(-1)[inside] = code[end]
    return np.asarray(tops.astype(np.int64) + top * width)


def _uphill(height: np.ndarray, top: int, bottom: int) -> np.ndarray:
    """Each pixel's highest neighbour, itself included: flat index, relative to row `top`."""
    rows, width = bottom - top, height.shape[1]
    framed = np.zeros((rows + 2, width + 2), np.uint8)
    start, stop = max(top - 1, 0), min(bottom + 1, len(height))
    framed[start - top + 1 : stop - top + 1, 1:-1] = height[start:stop]
    best = np.zeros((rows, width), np.uint8)
    step = np.zeros((rows, width), np.int32)
    for down, right in CLIMB:
        seen = framed[1 + down :, 1 + right :][:rows, :width]
        higher = seen > best
        np.copyto(step, down * width + right, where=higher)
        np.maximum(best, seen, out=best)
    step += np.arange(step.size, dtype=np.int32).reshape(step.shape)
    targets: np.ndarray = step.reshape(-1)
    return targets


def _follow(out: np.ndarray, top: int, bottom: int) -> None:
    """Put the number of the basin in place of ways that lead out of some rows."""
    rows, flat = out[top:bottom], out.reshape(-1)
    leaves = rows < 0
    places, which = np.unique(-1 - rows[leaves].astype(np.int64), return_inverse=True)
    found = flat[places]
    while (found < 0).any():
        found = np.where(found < 0, flat[np.where(found < 0, -1 - found, 0)], found)
    rows[leaves] = found[which]


def _passes(height: np.ndarray, out: np.ndarray, top: int, bottom: int) -> np.ndarray:
    """The highest pass between every two basins that touch in some rows and the one above.

    Returns (3, N) int64: height of the pass, the lower and the higher number.
    """
    start = max(top - 1, 0)
    basin, level = out[start:bottom], height[start:bottom]
    keys = []
    for down, right in FORWARD:
        here = (slice(0, len(basin) - down), slice(max(-right, 0), basin.shape[1] - max(right, 0)))
        there = (slice(down, None), slice(max(right, 0), basin.shape[1] - max(-right, 0)))
        one, other = basin[here], basin[there]
        apart = (one != other) & (one > 0) & (other > 0)
        one, other = one[apart].astype(np.int64), other[apart].astype(np.int64)
        saddle = np.minimum(level[here][apart], level[there][apart]).astype(np.int64)
        keys.append(np.stack([saddle, np.minimum(one, other), np.maximum(one, other)]))
    return _highest(np.concatenate(keys, axis=1))


def _highest(passes: np.ndarray) -> np.ndarray:
    """Of all passes between two basins the highest. passes: (3, N). Returns the same."""
    passes = passes[:, np.lexsort((-passes[0], passes[2], passes[1]))]
    new = np.append(True, (passes[1:, 1:] != passes[1:, :-1]).any(axis=0))[: passes.shape[1]]
    return passes[:, new]


def _merged(heights: np.ndarray, passes: np.ndarray) -> np.ndarray:
    """The cell of every basin: the number of the basin with its highest peak.

    heights: (basins + 1,) of the peaks. passes: (3, N), see `_passes`. Basins are joined from the
    highest pass down, while it lies above a share of 1 - PERSISTENCE of the lower of the two peaks.
    """
    passes = _highest(passes)
    deepest = (1 - PERSISTENCE) * heights
    passes = passes[:, passes[0] > np.minimum(deepest[passes[1]], deepest[passes[2]])]
    passes = passes[:, np.argsort(-passes[0], kind="stable")]
    parent = list(range(heights.size))

    def root(basin: int) -> int:
        """The basin with the highest peak of a cell."""
        while parent[basin] != basin:
            parent[basin] = basin = parent[parent[basin]]
        return basin

    for saddle, one, other in passes.T.tolist():
        low, high = sorted((root(one), root(other)), key=lambda basin: (heights[basin], -basin))
        if saddle > deepest[low]:
            parent[low] = high
    return np.array([root(basin) for basin in range(heights.size)])


def _number(
    out: np.ndarray,
    cell: np.ndarray,
    heights: np.ndarray,
    bands: list[tuple[int, int]],
    foreground: np.ndarray | None,
) -> None:
    """Number the cells in the order of their first pixels, in place; small, low and unsure ones are
    dropped."""
    sizes, first = np.zeros(cell.size, np.int64), np.full(cell.size, UNSEEN)
    sureness = np.zeros(cell.size)  # summed over a cell's pixels
    for top, bottom in bands:
        rows = out[top:bottom]
        rows[:] = cell[rows]
        measure(rows, top, sizes, first)
        if foreground is not None:
            level = scale_labels(foreground, (out.shape[0], out.shape[1]), slice(top, bottom))
            sureness += np.bincount(rows.ravel(), level.ravel(), cell.size)
    kept = (sizes >= SMALLEST_CELL) & (heights >= LOWEST_PEAK * FIELD_LEVELS)
    kept[0] = False
    if foreground is not None and kept.any():
        mean = sureness / np.maximum(sizes, 1)
        kept &= mean >= SURE * np.median(mean[kept])
    numbers = in_order(np.where(kept, first, UNSEEN))
    for top, bottom in bands:
        out[top:bottom] = numbers[out[top:bottom]]
