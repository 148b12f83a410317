"""How much every pixel counts in the loss: w = w_c + w0 · exp(−(d1 + d2)² / 2σ²) (paper §2.4).

w_c brings rare classes up, the second term the narrow gaps between two cells; d1 and d2 are the
distances to the nearest and the second-nearest cell. The paper leaves open how w_c is scaled: see
`class_weights` for our reading, and `weight_map` for its parameters.

How: a distance splits into a gap along the column and a shift along the row. The column step keeps,
for every pixel, the nearest cell of its column and the nearest other one. The row step then needs
only those two of each column: were a cell third there, two others would be nearer to the pixel too.
Its cost is O(pixels × σ), however many cells there are. Legend: H, W pixels; d² in whole pixels.
"""

from collections.abc import Iterator

import numpy as np

CUT = 5  # σ; a term past d1 + d2 = 5 σ is under 4e-6 · w0 and set to 0
TILE = 256  # px, edge of what is worked on at a time: fits the cache, and passes empty parts over
HEAT_TOP = 10.0  # weight that `heat_map` draws reddest: w0
HEAT_COLOURS = (  # place on the scale 0..1 and its red, green, blue: dark blue to dark red
    (0.0, (0, 0, 140)),
    (0.12, (0, 0, 255)),
    (0.38, (0, 255, 255)),
    (0.62, (255, 255, 0)),
    (0.88, (255, 0, 0)),
    (1.0, (140, 0, 0)),
)


def weight_map(
    instances: np.ndarray,
    classes: np.ndarray,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    max_class_weight: float = 10.0,
    mean_one: bool = True,
) -> np.ndarray:
    """Weights of an image: w_c + w0 · exp(−(d1 + d2)² / 2σ²) (paper §2.4).

    instances: (H, W) integer, 0 background. classes: (H, W) uint8 of `encode.encode`. w0: height
    of the second term, no unit. sigma: px. max_class_weight, mean_one: our readings of w_c, see
    `class_weights`. Returns (H, W) float32. See `closeness` for the second term. Raises ValueError
    for shapes that differ.
    """
    if instances.ndim != 2 or instances.shape != classes.shape:
        raise ValueError(f"instances {instances.shape} and classes {classes.shape}: not one (H, W)")
    weights = closeness(instances, sigma)
    weights *= np.float32(w0)
    weights += class_weights(classes, max_class_weight, mean_one)
    return weights


def class_weights(classes: np.ndarray, at_most: float = 10.0, mean_one: bool = True) -> np.ndarray:
    """w_c of every pixel: 1 / (C · f_c), capped.

    classes: (H, W) uint8. f_c: share of the area that the pixel's class takes; C: number of classes
    present. Without the cap the mean over the image is 1; mean_one False leaves C out, and it
    is C. Returns (H, W) float32.
    """
    sizes = np.bincount(classes.ravel())
    present = np.count_nonzero(sizes) if mean_one else 1
    weights = classes.size / (present * np.maximum(sizes, 1))
    of_pixels: np.ndarray = np.minimum(weights, at_most).astype(np.float32)[classes]
    return of_pixels


def closeness(instances: np.ndarray, sigma: float = 5.0) -> np.ndarray:
    """exp(−(d1 + d2)² / 2σ²) of every pixel, and 0 where d1 + d2 > 5σ (the term is 4e-6 there).

    instances: (H, W) integer, 0 background; all parts of a number are one cell. d1, d2: Euclidean
    distances in px between pixel centres to the nearest and second-nearest cell, 0 inside a cell.
    Returns (H, W) float32, all 0 for fewer than two cells. Raises ValueError unless sigma > 0.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0 px, not {sigma}")
    term = np.zeros(instances.shape, np.float32)
    reach = int(CUT * sigma)  # d2 counts up to here, d1 ≤ d2 up to half of it
    for labels, place in _tiles(instances, reach):
        d1, d2 = _two_distances(*_two_in_column(labels, reach), reach)
        total = np.sqrt(d1, dtype=np.float32) + np.sqrt(d2, dtype=np.float32)
        near = total <= CUT * sigma
        term[place][near] = np.exp(total[near] ** 2 / np.float32(-2 * sigma**2))
    return term


def heat_map(weights: np.ndarray, top: float = HEAT_TOP) -> np.ndarray:
    """Weights as colours, from blue (0) over cyan and yellow to red (`top` and above).

    As the figure of a weight map in the U-Net paper (Ronneberger et al. 2015, figure 3d).
    weights: (H, W) float. Returns (H, W, 3) uint8, RGB.
    """
    places, colours = zip(*HEAT_COLOURS, strict=True)
    steps = np.linspace(0, 1, 256)
    channels = [np.interp(steps, places, channel) for channel in zip(*colours, strict=True)]
    table = np.stack(channels, axis=1).round().astype(np.uint8)  # (256, 3)
    drawn: np.ndarray = table[(np.clip(weights / top, 0, 1) * 255).round().astype(np.uint8)]
    return drawn


def _tiles(instances: np.ndarray, reach: int) -> Iterator[tuple[np.ndarray, tuple[slice, slice]]]:
    """Pieces with `reach` px more on every side, and where they belong; none without cells."""
    framed = np.pad(instances, reach)
    height, width = instances.shape
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            piece = framed[top : bottom + 2 * reach, left : right + 2 * reach]
            if piece.any():
                yield piece, (slice(top, bottom), slice(left, right))


def _two_in_column(labels: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d² to the nearest cell of the column, its label, d² to the column's nearest other cell.

    labels: (H + 2 reach, W); returns three arrays (H, W): the extra rows are only looked at.
    """
    above, label_above, above_other = _looking_up(labels, reach)
    below, label_below, below_other = (a[::-1] for a in _looking_up(labels[::-1], reach))
    up = above <= below
    nearest_other = np.where(up, above_other, below_other)
    across = np.where(up, below_other, above_other)
    np.copyto(across, np.maximum(above, below), where=label_above != label_below)
    return (
        np.minimum(above, below),
        np.where(up, label_above, label_below),
        np.minimum(nearest_other, across),
    )


def _looking_up(labels: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`_two_in_column` for a pixel's own row and those above; gaps count up to reach + 1."""
    rows = np.arange(len(labels), dtype=np.int32)[:, np.newaxis]
    never = np.int32(-reach - 1)
    last = np.maximum.accumulate(np.where(labels > 0, rows, never), axis=0)
    label = np.take_along_axis(labels, np.maximum(last, 0), axis=0)
    # Where the label changes, the row that was last until now is the last one of another cell.
    other = np.full_like(last, never)
    np.copyto(other[1:], last[:-1], where=(labels[1:] > 0) & (labels[1:] != label[:-1]))
    other = np.maximum.accumulate(other, axis=0)
    kept = slice(reach, len(labels) - reach)
    small = np.min_scalar_type(2 * (reach + 1) ** 2)  # narrow integers: twice as fast
    last, other = (
        (np.minimum(rows - row, reach + 1) ** 2)[kept].astype(small) for row in (last, other)
    )
    return last, label[kept], other


def _two_distances(
    near: np.ndarray, label: np.ndarray, other: np.ndarray, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """d1² and d2² from what `_two_in_column` found, exact where d1 ≤ reach / 2 and d2 ≤ reach.

    near, label, other: (H, W + 2 reach). Returns (H, W) twice.
    """
    width = near.shape[1] - 2 * reach

    def shifted(array: np.ndarray, by: int) -> np.ndarray:
        return array[:, reach + by : reach + by + width]

    d1, nearest = shifted(near, 0).copy(), shifted(label, 0).copy()
    for by in range(-(reach // 2), reach // 2 + 1):
        candidate = shifted(near, by) + by**2
        np.copyto(nearest, shifted(label, by), where=candidate < d1)
        np.minimum(d1, candidate, out=d1)
    d2 = np.full_like(d1, np.iinfo(d1.dtype).max)
    for by in range(-reach, reach + 1):
        own = shifted(label, by) == nearest
        candidate = np.where(own, shifted(other, by), shifted(near, by)) + by**2
        np.minimum(d2, candidate, out=d2)
    return d1, d2
