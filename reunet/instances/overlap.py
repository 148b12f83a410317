"""Intersection over union (IoU) of the cells of two label maps: of each pair, and in all."""

import numpy as np


def overlapping_pairs(
    first: np.ndarray, second: np.ndarray, areas: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every cell of `first` with every cell of `second` that it shares a pixel with.

    first, second: (H, W) integers, ids from 0. areas: pixels of each id of both; ids whose area is
    0 there, such as the background's, are left out. Returns ids of first, ids of second and their
    IoU, (pairs,) each. No table of all × all cells is ever built.
    """
    ids = areas[1].size
    pixels = first.ravel().astype(np.int64) * ids + second.ravel()
    ends = np.append(np.flatnonzero(pixels[1:] != pixels[:-1]) + 1, pixels.size)
    starts = np.append(0, ends[:-1])  # of runs of pixels that are alike: far fewer than pixels
    pairs, member = np.unique(pixels[starts], return_inverse=True)
    shared = np.zeros(pairs.size, np.int64)
    np.add.at(shared, member, ends - starts)
    one, other = np.divmod(pairs, ids)
    both = (areas[0][one] > 0) & (areas[1][other] > 0)
    one, other, shared = one[both], other[both], shared[both]
    return one, other, shared / (areas[0][one] + areas[1][other] - shared)


def best_ious(
    first: np.ndarray, second: np.ndarray, areas: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each id of two label maps the best IoU with one of the other's, 0 where it meets none.

    As `overlapping_pairs`; returns float64, by id of first and by id of second.
    """
    one, other, iou = overlapping_pairs(first, second, areas)
    best = np.zeros(areas[0].size), np.zeros(areas[1].size)
    np.maximum.at(best[0], one, iou)
    np.maximum.at(best[1], other, iou)
    return best


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """How far two label maps show the same cells, 0..1; 0 where neither has any.

    The mean, over the cells of both, of the IoU with the cell of the other map that it shares most
    with. first, second: integers of one shape, 0 background.
    """
    areas = np.bincount(first.ravel()), np.bincount(second.ravel())
    for of_ids in areas:
        of_ids[:1] = 0
    cells = sum(int(np.count_nonzero(of_ids)) for of_ids in areas)
    of_first, of_second = best_ious(first, second, areas)
    return float(of_first.sum() + of_second.sum()) / max(1, cells)
