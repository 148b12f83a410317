"""From the three classes to cell instances (paper §2.7, "Result conversion").

`paper`:  connected interiors, with the steps and numbers of the challenge's own program. The
          boundary class only separates: a cell loses its rim.
`regrow`: interiors are seeds that grow back through the boundary class, so a cell gets its rim
          back and cells that touch stay apart.

Both take time in proportion to the pixels, however many cells there are. Legend: H, W pixels.
"""

from typing import Literal

import cc3d
import numpy as np
from scipy import ndimage

from reunet.targets import BACKGROUND, BOUNDARY, CROSS, INTERIOR, MIN_INTERIOR

MIN_HOLE = 64  # px; `paper` fills smaller holes (scikit-image's default, which the challenge uses)
MIN_OBJECT = 16  # px; smaller objects are dropped
DECODERS = ("regrow", "paper")
RING_OUTSIDE = {"paper": 1, "thin": 0}  # px by which an encoding's ring lies outside the cell
MIN_SEED = {"paper": MIN_INTERIOR, "thin": 4}  # px; thin: the interior of a cell of 16 px
_ALL, _HEAD, _TAIL = slice(None), slice(None, -1), slice(1, None)
NEIGHBOURS = (  # pairs of views that lay every pixel over its lower, upper, right, left neighbour
    ((_HEAD, _ALL), (_TAIL, _ALL)),
    ((_TAIL, _ALL), (_HEAD, _ALL)),
    ((_ALL, _HEAD), (_ALL, _TAIL)),
    ((_ALL, _TAIL), (_ALL, _HEAD)),
)


def decode(classes: np.ndarray, decoder: str = "regrow", encoding: str = "paper") -> np.ndarray:
    """Cell instances of a class map.

    classes: (H, W) uint8 of `targets`: 0 background, 1 interior, 2 boundary. encoding: the one
    that the network was trained with. Returns (H, W) int32: 0 background, cells 1..N.
    Raises ValueError for a decoder that does not exist.
    """
    if decoder == "paper":
        return decode_paper(classes)
    if decoder == "regrow":
        return decode_regrow(classes, encoding)
    raise ValueError(f"decoder {decoder!r} does not exist: choose from {DECODERS}")


def decode_paper(classes: np.ndarray) -> np.ndarray:
    """Connected interiors: holes under 64 px filled, objects under 16 px dropped (4-neighbours),
    then labelled (8-neighbours). classes: (H, W) uint8. Returns (H, W) int32."""
    interior = classes == INTERIOR
    interior = ~cc3d.dust(~interior, threshold=MIN_HOLE, connectivity=4)
    interior = cc3d.dust(interior, threshold=MIN_OBJECT, connectivity=4)
    return _connected(interior, connectivity=8)


def decode_regrow(classes: np.ndarray, encoding: str = "paper") -> np.ndarray:
    """Interiors grown back through the boundary class.

    classes: (H, W) uint8. encoding: says which interiors are too small to be one and how far the
    ring lies outside the cell; that part is given back to the background. Returns (H, W) int32.

    Every 4-connected interior is one cell, no two are merged. A pixel that two cells reach in the
    same step goes to the one below, right, left, above, in this order. Rings that reach no interior
    are cells too small to have one, connected ones a single cell. Holes that one cell encloses
    become part of it; cells under 16 px are dropped. Raises ValueError for an unknown encoding.
    """
    if encoding not in MIN_SEED:
        raise ValueError(f"encoding {encoding!r} does not exist: choose from {sorted(MIN_SEED)}")
    seeds = drop_small(_connected(classes == INTERIOR, connectivity=4), MIN_SEED[encoding])
    ring = classes == BOUNDARY
    if RING_OUTSIDE[encoding]:
        ring &= ~ndimage.binary_dilation(classes == BACKGROUND, CROSS)
    instances = grow(seeds, ring)
    lonely = _connected(ring & (instances == 0), connectivity=8)
    instances += np.where(lonely > 0, lonely + instances.max(), 0).astype(np.int32)
    return drop_small(fill_holes(instances), MIN_OBJECT)


def grow(seeds: np.ndarray, through: np.ndarray) -> np.ndarray:
    """Extend labels pixel by pixel into a mask until nothing is left to reach.

    seeds: (H, W) int32, 0 where unlabelled. through: (H, W) bool, where labels may grow.
    Returns (H, W) int32. Steps go to 4 and to 8 neighbours in turn, which keeps fronts round.
    Only the front is touched in a step: the whole costs O(pixels of `through`).
    """
    width = seeds.shape[1] + 2  # a frame of one pixel that never grows spares all bound checks
    labels = np.pad(seeds, 1).ravel()
    free = np.pad(through & (seeds == 0), 1).ravel()
    straight = np.array([-width, -1, 1, width])
    around = np.concatenate((straight, [-width - 1, -width + 1, width - 1, width + 1]))
    front = _beside(free, labels, around)
    use_diagonals = False
    while front.size:
        reached = []
        for offset in around if use_diagonals else straight:
            target = front + offset
            open_ = free[target]
            target = target[open_]
            labels[target] = labels[front[open_]]
            free[target] = False
            reached.append(target)
        # a pixel stays in the front until a step to all 8 neighbours has passed it
        front = np.concatenate(reached if use_diagonals else [front, *reached])
        use_diagonals = not use_diagonals
    return labels.reshape(-1, width)[1:-1, 1:-1]


def _beside(free: np.ndarray, labels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Flat indices of the labelled pixels with a free neighbour, in the picture's order."""
    gaps = np.flatnonzero(free)
    near = np.zeros(labels.shape, bool)
    for offset in offsets:
        near[gaps + offset] = True
    return np.flatnonzero(near & (labels > 0))


def fill_holes(instances: np.ndarray) -> np.ndarray:
    """Give every hole that a single instance encloses to that instance.

    instances: (H, W) int32. A hole is a 4-connected unlabelled region off the picture's frame.
    Returns (H, W) int32.
    """
    regions = _connected(instances == 0, connectivity=4)
    count = int(regions.max(initial=0)) + 1
    lowest = np.full(count, np.iinfo(np.int32).max, np.int32)
    highest = np.zeros(count, np.int32)
    for inside, outside in NEIGHBOURS:
        touching = (regions[inside] > 0) & (instances[outside] > 0)
        region, label = regions[inside][touching], instances[outside][touching]
        np.minimum.at(lowest, region, label)
        np.maximum.at(highest, region, label)
    enclosing = np.where(lowest == highest, highest, 0)
    for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        enclosing[edge] = 0
    enclosing[0] = 0  # region 0: the labelled pixels themselves
    filled: np.ndarray = instances + enclosing[regions]
    return filled


def drop_small(instances: np.ndarray, min_size: int) -> np.ndarray:
    """Remove instances under `min_size` px and number the others 1..N in their old order.

    instances: (H, W) int32. Returns (H, W) int32.
    """
    sizes = np.bincount(instances.ravel())
    keep = sizes >= min_size
    keep[0] = False
    numbers: np.ndarray = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    renumbered: np.ndarray = numbers[instances]
    return renumbered


def _connected(mask: np.ndarray, connectivity: Literal[4, 8]) -> np.ndarray:
    regions = cc3d.connected_components(mask, connectivity=connectivity)
    return regions.astype(np.int32)
