"""The distance field: what the network's fourth output learns beside the three classes."""

import edt
import numpy as np


def distance_field(instances: np.ndarray) -> np.ndarray:
    """How deep every pixel lies in its cell: 1 at the cell's centre, down to 0 outside.

    The Euclidean distance to the next pixel that is not of the cell, as a share of the largest
    such distance in it. The picture's frame is no edge: a cell cut by it goes on.
    instances: (H, W) integer, 0 background. Returns (H, W) float32 in 0..1.
    """
    cells = instances.astype(np.uint32)
    depth: np.ndarray = edt.edt(cells, black_border=False)
    np.minimum(depth, max(cells.shape), out=depth)  # infinite where one cell is all there is
    deepest = np.zeros(int(cells.max(initial=0)) + 1, np.float32)
    np.maximum.at(deepest, cells.ravel(), depth.ravel())
    return np.where(cells > 0, depth / np.maximum(deepest, 1)[cells], 0).astype(np.float32)
