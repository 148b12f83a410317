"""Which cells a teacher finds again when an image is shown larger and smaller (beyond the paper).

Cells of a kind that a teacher has not learnt are mostly found in part, or several as one, and as
other ones at each size: a student must not learn them. What is found again is most often right.
docs/experiments.md says what that wins. Legend: h, w pixels of an image as it is stored.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from reunet.inference.ensemble import Network
from reunet.inference.scale import scale_labels, scaled_shape
from reunet.inference.tiles import Tiling
from reunet.instances.overlap import best_ious
from reunet.training.selftrain.teacher import BAND_PIXELS, Opinion, look_at

SCALES = (1.3, 1 / 1.3)  # that an image is shown at beside its own
SAME = 0.6  # IoU from which a cell of one scale is that of another

Cells = Callable[[Opinion], np.ndarray]  # what is seen -> cells, (h, w) int32


def without_unsteady(
    seen: Opinion, content: Any, networks: Sequence[Network], tiling: Tiling, cells_of: Cells
) -> Opinion:
    """The opinion with its cells, and the pixels marked on which the scales differ (`differing`).

    content: (3, 1, h, w) float32 as stored, or what can be sliced like one; above BAND_PIXELS,
    where the other scales had no room in memory, nothing is marked.
    """
    if prod(content.shape[-2:]) > BAND_PIXELS:
        return seen
    cells, whole = cells_of(seen), np.asarray(content[:, 0])
    others = [
        scale_labels(cells_of(look_at(at_scale(whole, scale), networks, tiling)), cells.shape)
        for scale in SCALES
    ]
    return replace(seen, unsteady=differing(cells, others), cells=cells)


def at_scale(content: np.ndarray, scale: float) -> np.ndarray:
    """An image with its edges `scale` times as long. (3, h, w) float32 -> (3, 1, h', w')."""
    shape = scaled_shape(content.shape[-2:], scale)
    pixels = torch.from_numpy(np.ascontiguousarray(content))[None]
    scaled = F.interpolate(pixels, shape, mode="bilinear", antialias=True)
    return scaled[0].numpy()[:, np.newaxis]


def differing(cells: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Pixels that are a cell's at some scale, but of no cell that two scales agree on.

    cells: (h, w) int32, 0 background. others: the cells of the other scales, as large. A cell is
    steady if one of the others has it with an IoU of SAME or more. Returns (h, w) bool.
    """
    best = np.zeros(int(cells.max(initial=0)) + 1)
    for other in others:
        areas = np.bincount(cells.ravel()), np.bincount(other.ravel())
        for of_ids in areas:
            of_ids[0] = 0
        best = np.maximum(best, best_ious(cells, other, areas)[0])
    steady = (best >= SAME)[cells]
    unsteady: np.ndarray = np.any([cells, *others], axis=0) & ~steady
    return unsteady
