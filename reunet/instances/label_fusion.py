"""Label fusion: folds vote on cells (beyond the paper, which averages their logits, §2.7).

In a mean of logits one fold that is very sure makes a cell that the others do not see, and a
boundary that the folds see a few pixels apart disappears, so that cells merge. Here every fold's
cells are found on their own and make up a candidate segmentation. A cell that the candidates agree
on stays as one of them drew it; what few of them saw is dropped. AGREEMENT and FREE were chosen on
training images (docs/experiments.md). Legend: H, W pixels.
"""

from collections.abc import Sequence

import numpy as np

from reunet.instances.decode import in_order
from reunet.instances.overlap import best_ious
from reunet.instances.regions import UNSEEN, measure
from reunet.options import SMALLEST_CELL

AGREEMENT = 0.65  # mean over all candidates of a cell's best IoU with a cell of theirs
FREE = 0.8  # of a cell's pixels that no cell with more agreement has


def fuse(candidates: Sequence[np.ndarray]) -> np.ndarray:
    """The cells that the candidates agree on.

    candidates: (H, W) int32 each, 0 background, cells 1..N; at least one. Cells are taken in the
    order of their agreement, ties in that of the candidates, and get those of their pixels that are
    free. Returns (H, W) int32, cells numbered in the order of their first pixels; a single
    candidate as it is.
    """
    return fuse_with_agreement(candidates)[0]


def fuse_with_agreement(candidates: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """`fuse`, and the agreement on each cell: by its number, (N + 1,) float64, 0 to 1.

    None where a single candidate leaves nothing to agree on.
    """
    if len(candidates) == 1:
        return candidates[0], None
    pixels = [_pixels_by_cell(candidate) for candidate in candidates]
    fused = np.zeros(candidates[0].size, np.int32)
    agreement = agreements(candidates)
    told = [0.0]  # by cell, the background first
    for voter, cell in _ranking(agreement):
        own = pixels[voter][cell]
        free = own[fused[own] == 0]
        if free.size >= SMALLEST_CELL and free.size >= FREE * own.size:
            fused[free] = len(told)
            told.append(float(agreement[voter][cell]))
    number = _numbers(fused.reshape(candidates[0].shape), len(told) - 1)
    in_new_order = np.zeros(len(told))
    in_new_order[number] = told
    return number[fused].reshape(candidates[0].shape), in_new_order


def agreements(candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
    """How far the candidates agree on each cell: for every candidate (N + 1,) float64, 0 to 1.

    That is the mean, over all candidates, of a cell's best IoU with one of the candidate's cells;
    with its own it is 1. candidates: as for `fuse`.
    """
    areas = [np.bincount(candidate.ravel()) for candidate in candidates]
    for area in areas:
        area[0] = 0
    total = [(area > 0).astype(np.float64) for area in areas]
    for second in range(len(candidates)):
        for first in range(second):
            pair = candidates[first], candidates[second]
            of_first, of_second = best_ious(*pair, (areas[first], areas[second]))
            total[first] += of_first
            total[second] += of_second
    return [summed / len(candidates) for summed in total]


def _pixels_by_cell(candidate: np.ndarray) -> list[np.ndarray]:
    """Pixels of cells 0..N, as places in the flat candidate; none are listed of the background."""
    cells = candidate.ravel()
    places = np.flatnonzero(cells)
    # 16 bits are sorted several times as fast
    short = np.uint16 if cells.max(initial=0) < 2**16 else np.int32
    places = places[np.argsort(cells[places].astype(short), kind="stable")]
    areas = np.bincount(cells)
    areas[0] = 0
    return np.split(places, np.cumsum(areas)[:-1])


def _ranking(agreement: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Candidate and number of every cell with enough agreement, the one with the most first."""
    voters = np.repeat(np.arange(len(agreement)), [values.size for values in agreement])
    cells = np.concatenate([np.arange(values.size) for values in agreement])
    values = np.concatenate(agreement).round(9)  # ties remain ties, in whatever order sums are made
    enough = np.flatnonzero(values >= AGREEMENT)
    best = enough[np.argsort(-values[enough], kind="stable")]
    return list(zip(voters[best].tolist(), cells[best].tolist(), strict=True))


def _numbers(labels: np.ndarray, count: int) -> np.ndarray:
    """New numbers of cells 0..count, in the order of their first pixels. (count + 1,) int32."""
    sizes, first = np.zeros(count + 1, np.int64), np.full(count + 1, UNSEEN)
    measure(labels, 0, sizes, first)
    return in_order(first)
