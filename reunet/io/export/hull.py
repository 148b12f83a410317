"""Areas of convex hulls of many cells at once (for solidity).

A hull is what lies between two envelopes, x over y: the convex one of the leftmost points and the
concave one of the rightmost. A point that lies on or behind the line through its neighbours is on
no envelope, so all such points go at once, again and again until none is left: Andrew's monotone
chain (1979) for all cells together. Legend: P points, N cells.
"""

import numpy as np


def hull_areas(cell: np.ndarray, y: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Area of the convex hull of each cell.

    cell, y: (P,) integers, in ascending order of cell, then of y, none twice; cells are 0..N-1 and
    each has at least two points. left, right: (P,) least and greatest x there.
    Returns (N,) float64, px².
    """
    areas: np.ndarray = -_beside(*_envelope(cell, y, -right)) - _beside(*_envelope(cell, y, left))
    return areas


def _envelope(
    cell: np.ndarray, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The points of the greatest convex function x(y) below all points, cell by cell."""
    cell, y, x = (values.astype(np.int64) for values in (cell, y, x))
    done: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while cell.size:
        keep = np.ones(cell.size, bool)
        inner = (cell[:-2] == cell[1:-1]) & (cell[1:-1] == cell[2:])
        to, across = y[1:-1] - y[:-2], y[2:] - y[:-2]
        keep[1:-1] = ~inner | ((x[1:-1] - x[:-2]) * across < (x[2:] - x[:-2]) * to)
        changed = np.zeros(int(cell[-1]) + 1, bool)
        changed[cell[~keep]] = True
        again = changed[cell]
        done.append((cell[~again], y[~again], x[~again]))
        cell, y, x = (values[keep & again] for values in (cell, y, x))
    cell, y, x = (np.concatenate(parts) for parts in zip(*done, strict=True))
    order = np.argsort(cell, kind="stable")  # the points of a cell were done together, in order
    return cell[order], y[order], x[order]


def _beside(cell: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Integral of x over y along the points of each cell. (N,) float64."""
    same = cell[1:] == cell[:-1]
    strips = (x[1:] + x[:-1]) / 2 * (y[1:] - y[:-1])
    return np.bincount(cell[1:][same], strips[same])
