"""Labels that grow pixel by pixel through a mask, on pictures of any size.

A step moves every front by one pixel, so what a pixel becomes within `HALO` steps depends on the
`HALO` rows around it alone: bands with that many rows more on either side take these steps one by
one. What is still moving then (a boundary thicker than any cell's) goes on across all bands.
"""

from collections.abc import Callable

import numpy as np

FREE = -1  # of a label map: open to growth and not reached
HALO = 16  # steps; even, as two kinds of step take turns
# (rows, columns) to the pixels that a step reaches; who comes first in here wins a tie
STRAIGHT = ((-1, 0), (0, -1), (0, 1), (1, 0))
AROUND = (*STRAIGHT, (-1, -1), (-1, 1), (1, -1), (1, 1))


def grow(seeds: np.ndarray, through: np.ndarray, steps: int | None = None) -> np.ndarray:
    """Extend labels pixel by pixel into a mask.

    seeds: (H, W) int32, 0 where unlabelled. through: (H, W) bool, where labels may grow. steps:
    how far (None: until nothing is left to reach). Returns (H, W) int32: labels, FREE where none
    got to, 0 elsewhere. Steps go to 4 and to 8 neighbours in turn, which keeps fronts round; a
    pixel that two labels reach in the same step goes to the one below, right, left, above, then
    to those across the corners. Takes time in proportion to the pixels of `through`.
    """
    # a frame of one pixel that never grows spares all bound checks
    labels = np.zeros((seeds.shape[0] + 2, seeds.shape[1] + 2), np.int32)
    inner = labels[1:-1, 1:-1]
    inner[:] = seeds
    np.copyto(inner, FREE, where=through & (seeds == 0))
    _advance(labels, _front(labels), steps, framed=True)
    return inner


def grow_bands(
    labels: np.ndarray,
    seeds: Callable[[np.ndarray], np.ndarray],
    through: Callable[[int, int], np.ndarray],
    bands: list[tuple[int, int]],
) -> None:
    """`grow` until nothing is left to reach, in place and in bands of rows.

    labels: (H, W) int32, C-contiguous. seeds: makes seeds of rows of it. through: gives the rows
    between two of the mask that labels may grow in. bands: first row and end of each.
    """
    height, width = labels.shape
    above = np.zeros((0, width), np.int32)  # seeds of rows that hold grown labels by now
    for top, bottom in bands:
        start, stop = top - len(above), min(bottom + HALO, height)
        window = np.concatenate([above, seeds(labels[top:stop])])
        grown = grow(window, through(start, stop), HALO if len(bands) > 1 else None)
        labels[top:bottom] = grown[top - start : bottom - start]
        above = window[: bottom - start][-HALO:].copy()
    if len(bands) > 1:
        fronts = [_front(labels, top, bottom) for top, bottom in bands]
        _advance(labels, np.concatenate(fronts), None, framed=False)


def _front(labels: np.ndarray, top: int = 0, bottom: int | None = None) -> np.ndarray:
    """Flat indices of the labels in some rows that have a free pixel beside them."""
    bottom = labels.shape[0] if bottom is None else bottom
    start = max(top - 1, 0)
    free = labels[start : bottom + 1] == FREE
    near = free.copy()
    near[1:] |= free[:-1]
    near[:-1] |= free[1:]
    beside = near.copy()
    beside[:, 1:] |= near[:, :-1]
    beside[:, :-1] |= near[:, 1:]
    front = np.flatnonzero(beside[top - start :][: bottom - top] & (labels[top:bottom] > 0))
    front += top * labels.shape[1]
    return front


def _advance(labels: np.ndarray, front: np.ndarray, steps: int | None, *, framed: bool) -> None:
    """Move the front, given as flat indices, until it stops or the steps are done, in place.

    framed: no pixel of the outermost rows and columns is free or labelled.
    """
    flat = labels.reshape(-1)
    step = 0
    while front.size and step != steps:
        reached = []
        for move in AROUND if step % 2 else STRAIGHT:
            source = front if framed else front[_stays_inside(front, move, labels.shape)]
            target = source + (move[0] * labels.shape[1] + move[1])
            open_ = flat[target] == FREE
            target = target[open_]
            flat[target] = flat[source[open_]]
            reached.append(target)
        # a pixel stays in the front until a step to all 8 neighbours has passed it
        front = np.concatenate(reached if step % 2 else [front, *reached])
        step += 1


def _stays_inside(pixels: np.ndarray, move: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    row, column = np.divmod(pixels, shape[1])
    row, column = row + move[0], column + move[1]
    inside: np.ndarray = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    return inside
