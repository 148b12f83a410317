"""From the three classes to cell instances (paper §2.7, "Result conversion").

`paper`:  connected interiors, with the steps and numbers of the challenge's own program. The
          boundary class only separates: a cell loses its rim.
`regrow`: interiors are seeds that grow back through the boundary class, so a cell gets its rim
          back and cells that touch stay apart.

Both work in bands of rows: they take time in proportion to the pixels, however many cells there
are, and besides the result little more memory than a band. The result, numbers included, is the
same for every height of the bands. Until its last pass the result holds provisional numbers:
cells' are positive, those of regions that are no cell negative. Legend: H, W pixels.
"""

import numpy as np

from reunet.inference.scale import scale_labels
from reunet.instances.encode import BACKGROUND, BOUNDARY, INTERIOR, MIN_INTERIOR, dilate
from reunet.instances.growth import FREE, grow_bands
from reunet.instances.regions import (
    MOST,
    UNSEEN,
    Merged,
    Regions,
    across_corners,
    cut,
    distinct,
    measure,
    touching,
    unite,
)
from reunet.options import SMALLEST_CELL

MIN_HOLE = 64  # px; `paper` fills smaller holes (scikit-image's default, which the challenge uses)
FEWEST = 4  # px; of an image that was enlarged: what a bacterium of 2 px still has
CLASS_DECODERS = ("regrow", "paper")
RING_OUTSIDE = {"paper": 1, "thin": 0}  # px by which an encoding's ring lies outside the cell
MIN_SEED = {"paper": MIN_INTERIOR, "thin": 4}  # px; thin: the interior of a cell of 16 px


def decode(
    classes: np.ndarray,
    decoder: str = "regrow",
    encoding: str = "paper",
    *,
    out: np.ndarray | None = None,
    band: int | None = None,
) -> np.ndarray:
    """Cell instances of a class map.

    classes: (H, W) uint8 of `targets`: 0 background, 1 interior, 2 boundary; may be a memory map.
    encoding: the one that the network was trained with. out: where to write the result, a memory
    map for instance; it is worked in, so a failure leaves it half-done. band: rows to work on at a
    time (None: a suitable number); makes no difference to the result.
    Returns (H, W) int32, `out` if given: 0 background, cells 1..N in the order of their first
    pixels, row by row. Raises ValueError for a decoder or an encoding that does not exist, a class
    map of the wrong shape, a band of no rows, and an `out` that is not (H, W) int32 in C order.
    """
    if decoder not in CLASS_DECODERS:
        raise ValueError(f"decoder {decoder!r} does not exist: choose from {CLASS_DECODERS}")
    if encoding not in MIN_SEED:
        raise ValueError(f"encoding {encoding!r} does not exist: choose from {sorted(MIN_SEED)}")
    if classes.ndim != 2:
        raise ValueError(f"a class map has shape (H, W), not {classes.shape}")
    if out is None:
        out = np.empty(classes.shape, np.int32)
    elif out.shape != classes.shape or out.dtype != np.int32 or not out.flags.c_contiguous:
        raise ValueError(f"out must be {classes.shape} int32 in C order: {out.shape} {out.dtype}")
    rows, result, bands = np.asarray(classes), np.asarray(out), cut(classes.shape, band)
    if not out.size:
        return out
    if decoder == "paper":
        decode_paper(rows, result, bands)
    else:
        decode_regrow(rows, encoding, result, bands)
    return out


def decode_paper(classes: np.ndarray, out: np.ndarray, bands: list[tuple[int, int]]) -> None:
    """Connected interiors: holes under 64 px filled, objects under 16 px dropped (4-neighbours),
    then labelled (8-neighbours).

    classes: (H, W) uint8. out: (H, W) int32, receives the cells. bands: first row and end of each.
    """
    inside, outside = Regions(), Regions()
    beside, corners = [], []
    for top, bottom in bands:
        interior = classes[top:bottom] == INTERIOR
        out[top:bottom] = inside.label(interior, top)
        out[top:bottom] -= outside.label(~interior, top)
        seen = out[max(top - 1, 0) : bottom]
        beside.append(_holes_beside(seen, outside, outside.sizes >= MIN_HOLE))
        corners.append(across_corners(seen > 0, seen))
    cells, others = inside.merged(), outside.merged()
    hole, cell = np.concatenate(beside, axis=1)
    numbers = _number_interiors(
        cells,
        others,
        np.stack([cells.number[cell], others.number[hole] + cells.sizes.size - 1]),
        cells.number[np.concatenate(corners, axis=1)],
    )
    of_cells, of_others = np.split(numbers, [cells.sizes.size])
    _renumber(out, of_cells[cells.number], np.append(0, of_others)[others.number], bands)


def _number_interiors(
    cells: Merged, others: Merged, beside: np.ndarray, corners: np.ndarray
) -> np.ndarray:
    """Final number of every part: of the cells from 0, then of the others from 1.

    beside: (2, pairs) parts of cells, and of others, side by side. corners: (2, pairs) parts of
    cells that meet at a corner. Returns (cells + others + 1,) int32.
    """
    sizes = np.append(cells.sizes, others.sizes[1:])
    first = np.append(cells.first, others.first[1:])
    solid = sizes < MIN_HOLE
    solid[: cells.sizes.size] = True
    sizes[~solid] = 0
    beside = beside[:, solid[beside[1]]]
    object_ = unite(sizes.size, *beside)
    total = np.zeros_like(sizes)
    np.add.at(total, object_, sizes)
    kept = total[object_] >= SMALLEST_CELL
    corners = corners[:, kept[corners].all(axis=0)]
    instance = unite(sizes.size, *np.append(beside, corners, axis=1))
    earliest = np.full_like(first, UNSEEN)
    np.minimum.at(earliest, instance[kept], first[kept])
    numbers: np.ndarray = np.where(kept, in_order(earliest)[instance], 0)
    return numbers


def decode_regrow(
    classes: np.ndarray, encoding: str, out: np.ndarray, bands: list[tuple[int, int]]
) -> None:
    """Interiors grown back through the boundary class.

    Every 4-connected interior is one cell, no two are merged. A pixel that two cells reach in the
    same step goes to the one below, right, left, above, in this order. Rings that reach no interior
    are cells too small to have one, connected ones a single cell. Holes that one cell encloses
    become part of it; cells under 16 px are dropped.

    classes: (H, W) uint8. encoding: says which interiors are too small to be one and how far the
    ring lies outside the cell; that part is given back to the background. out: (H, W) int32,
    receives the cells. bands: first row and end of each.
    """
    seeds = Regions()
    for top, bottom in bands:
        out[top:bottom] = seeds.label(classes[top:bottom] == INTERIOR, top)
    found = seeds.merged()
    large = found.sizes >= MIN_SEED[encoding]
    numbers = np.where(large, np.cumsum(large), 0).astype(np.int32)[found.number]
    grow_bands(out, numbers.take, lambda top, bottom: _ring(classes, top, bottom, encoding), bands)
    _close(out, int(numbers.max()), bands)


def _ring(classes: np.ndarray, top: int, bottom: int, encoding: str) -> np.ndarray:
    """Boundary that cells may grow into, of some rows: (bottom - top, W) bool."""
    start = max(top - 1, 0)
    rows = classes[start : bottom + 1]
    ring: np.ndarray = rows == BOUNDARY
    if RING_OUTSIDE[encoding]:
        ring &= ~dilate(rows == BACKGROUND)
    return ring[top - start :][: bottom - top]


def _close(out: np.ndarray, count: int, bands: list[tuple[int, int]]) -> None:
    """Make cells of unreached rings, fill holes, drop small cells and number the others, in place.

    out: (H, W) int32: grown cells 1..count, FREE, 0 for the rest.
    """
    grown = np.zeros(count + 1, np.int64), np.full(count + 1, UNSEEN)  # sizes and first pixels
    rings, empty = Regions(), Regions()
    beside, framed = [], []
    for top, bottom in bands:
        rows, seen = out[top:bottom], out[max(top - 1, 0) : bottom]
        free, bare = rows == FREE, rows == 0
        np.copyto(rows, 0, where=free)
        measure(rows, top, *grown)
        np.add(rings.label(free, top), count, out=rows, where=free)
        rings.join(across_corners(seen > count, seen) - count)
        rows -= empty.label(bare, top)
        framed.append(_on_frame(rows, top == 0, bottom == len(out)))
        open_ = np.zeros(empty.count - empty.before, bool)
        open_[framed[-1] - empty.before - 1] = True
        beside.append(_holes_beside(seen, empty, open_))
    lonely, holes = rings.merged(), empty.merged()
    cell_of = np.append(np.arange(count + 1), lonely.number[1:] + count)
    hole, cell = np.concatenate(beside, axis=1)
    encloser = _enclosers(holes.number[hole], cell_of[cell], holes.sizes.size)
    encloser[holes.number[np.concatenate(framed)]] = 0
    sizes, first = np.append(grown[0], lonely.sizes[1:]), np.append(grown[1], lonely.first[1:])
    np.add.at(sizes, encloser, holes.sizes)
    sizes[0] = 0  # of the holes that no cell encloses
    numbers = in_order(np.where(sizes >= SMALLEST_CELL, first, UNSEEN))
    _renumber(out, numbers[cell_of], numbers[encloser[holes.number]], bands)


def _on_frame(signed: np.ndarray, is_first: bool, is_last: bool) -> np.ndarray:
    """Numbers, made positive, of a band's regions of no cell that touch the picture's frame."""
    sides = [signed[:, 0], signed[:, -1]]
    sides += [signed[0]] if is_first else []
    sides += [signed[-1]] if is_last else []
    numbers = np.unique(np.concatenate(sides))
    return -numbers[numbers < 0]


def _holes_beside(signed: np.ndarray, regions: Regions, no_hole: np.ndarray) -> np.ndarray:
    """Pairs of a region that may be a hole and a cell beside it: (2, N) int32.

    signed: (rows, W) int32, a band of `regions` and the row above. no_hole: (parts,) bool for the
    band's own.
    """
    hole, cell = touching(signed)
    part = np.maximum(hole - regions.before, 0)  # 0: of the band above
    possible = ~np.append(False, no_hole)[part]
    return distinct(hole[possible], cell[possible])


def _enclosers(holes: np.ndarray, cells: np.ndarray, count: int) -> np.ndarray:
    """The only cell beside each of the regions 0..count-1, or 0. holes, cells: pairs of those."""
    lowest, highest = np.full(count, MOST, np.int64), np.zeros(count, np.int64)
    np.minimum.at(lowest, holes, cells)
    np.maximum.at(highest, holes, cells)
    return np.where(lowest == highest, highest, 0)


def at_size(labels: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Draw cells with another number of pixels and number them anew; those under FEWEST px go.

    labels: (h, w) int32, cells 1..N. out: (H, W) int32, receives them. Returns the old number of
    each new one, 0 of the background first.
    """
    count = int(labels.max(initial=0)) + 1
    sizes, first = np.zeros(count, np.int64), np.full(count, UNSEEN)
    bands = cut(out.shape)
    for top, bottom in bands:
        out[top:bottom] = scale_labels(labels, (out.shape[0], out.shape[1]), slice(top, bottom))
        measure(out[top:bottom], top, sizes, first)
    numbers = in_order(np.where(sizes >= FEWEST, first, UNSEEN))
    for top, bottom in bands:
        out[top:bottom] = numbers[out[top:bottom]]
    kept = np.zeros(int(numbers.max(initial=0)) + 1, np.int64)
    kept[numbers] = np.arange(count)
    kept[0] = 0
    return kept


def in_order(first: np.ndarray) -> np.ndarray:
    """Numbers 1..N in the order of first pixels, 0 where UNSEEN: int32."""
    numbers = np.zeros(first.size, np.int32)
    count = np.count_nonzero(first < UNSEEN)
    numbers[np.argsort(first)[:count]] = np.arange(1, count + 1)
    return numbers


def _renumber(
    out: np.ndarray, cells: np.ndarray, others: np.ndarray, bands: list[tuple[int, int]]
) -> None:
    """Final numbers for provisional ones, in place: `cells` for positive, `others` for negative."""
    table = np.append(cells, others[:0:-1]).astype(np.int32)  # negative ones count from the end
    for top, bottom in bands:
        out[top:bottom] = table[out[top:bottom]]
