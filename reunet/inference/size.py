"""How large the cells of an image are: the diameter of the typical one, estimated from the picture.

A network of its own, the U-Net read out at an eighth of the resolution, says for every place
whether there is a cell and how large it is. It is asked of the whole picture, reduced; then, unless
cells had about the size that it knows best there, of the part with most of them, brought to that
size. Legend: H, W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from reunet.inference.scale import MAX_ZOOM, MIN_ZOOM, scale_image, scaled_shape
from reunet.inference.smoothing import box_means

VIEW = 448  # px, edge of what the network is shown at a time
SMALLEST = 256  # px, its training patch: smaller views are padded to it
MULTIPLE = 32  # px: edges that the network takes
STRIDE = 8  # px of the view for one of its places
REFERENCE = 30.0  # px: the diameter that its output 0 stands for
SURE = 0.5  # probability from which a place counts as a cell's …
LEAST = 0.2  # … and below which, everywhere, there is none
NEAR = 1.3  # factor from REFERENCE up to which cells of a first look need no second …
DETAIL = 0.5  # … if it saw the whole picture at this zoom or more
APART = 1.5  # factor between two estimates from which a third is made
WHOLE = 5 * VIEW  # px: longest edge of a picture that is looked at as a whole
PART = 1024  # px, edge of the parts that are looked at of a larger one …
PARTS = 4  # … and how many: those of most contrast of a grid of GRID × GRID
GRID = 3

SizeNetwork = Callable[[np.ndarray], np.ndarray]  # (1, 3, h, w) -> (1, 2, h / 8, w / 8) float32
Seen = tuple[np.ndarray, np.ndarray]  # of one view: probability of a cell, log2 of its diameter


@dataclass(frozen=True)
class Estimate:
    """The size of the cells, and where most of them are.

    diameter: px, of the typical cell. middles: of the windows of VIEW px with most cells in each
    view when these are brought to REFERENCE px, as shares of its edges.
    """

    diameter: float
    middles: Sequence[tuple[float, float]]


def estimate_size(views: Sequence[np.ndarray], network: SizeNetwork) -> Estimate | None:
    """The diameter of the typical cell, or None where no cell is seen.

    views: parts of one image at its own scale, (H, W, 3) uint8 of `normalise_channels`, see
    `views_of`. Half of the cells' area lies in cells no larger than that, as in
    `scale.typical_diameter`.
    """
    statistics = _statistics(views)
    zoom = min(1.0, VIEW / max(max(view.shape[:2]) for view in views))
    seen = [_look(view, zoom, network, statistics) for view in views]
    found = _typical(seen, zoom)
    if found is None:
        return None
    middles = [_densest(presence, zoom, REFERENCE / found) for presence, _ in seen]
    if _seen_well(found, zoom, len(views)):
        return Estimate(found, middles)
    refined = _closer(views, middles, found, network, statistics)
    if max(refined / found, found / refined) > APART:
        refined = _closer(views, middles, refined, network, statistics)
    return Estimate(refined, middles)


def _seen_well(diameter: float, zoom: float, views: int) -> bool:
    """Whether a look at this zoom has shown cells at about the size that the network knows best.

    On 240 training images a second look then makes the estimate no better (docs/experiments.md).
    """
    shown = diameter * zoom / REFERENCE
    return views == 1 and zoom >= DETAIL and 1 / NEAR <= shown <= NEAR


def views_of(image: np.ndarray) -> list[np.ndarray]:
    """The picture, or parts of a large one. image: (H, W, 3) uint8."""
    parts = [image[window] for window in windows(image.shape)]
    parts.sort(key=lambda part: -float(part[::4, ::4].std()))
    return parts[:PARTS]


def windows(shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """Places of the parts of a large picture, a grid of windows of PART px; of another all of it.

    shape: (H, W, …).
    """
    if max(shape[:2]) <= WHOLE:
        return [(slice(0, shape[0]), slice(0, shape[1]))]
    rows, columns = (
        [slice(start, start + PART) for start in _starts(length)] for length in shape[:2]
    )
    return [(row, column) for row in rows for column in columns]


def _starts(length: int) -> list[int]:
    room = max(0, length - PART)
    return sorted({round(room * (n + 0.5) / GRID) for n in range(GRID)})


def _statistics(views: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, (3,) float32 each."""
    pixels = np.concatenate([view[::4, ::4].reshape(-1, 3) for view in views]).astype(np.float32)
    return pixels.mean(axis=0), np.maximum(pixels.std(axis=0), 1)


def _closer(
    views: Sequence[np.ndarray],
    middles: Sequence[tuple[float, float]],
    diameter: float,
    network: SizeNetwork,
    statistics: tuple[np.ndarray, np.ndarray],
) -> float:
    """The estimate of the views around their middles, with cells of `diameter` at REFERENCE px."""
    zoom = min(max(REFERENCE / diameter, MIN_ZOOM), MAX_ZOOM)
    parts = [part_of(view, middle, zoom) for view, middle in zip(views, middles, strict=True)]
    refined = _typical([_look(part, zoom, network, statistics) for part in parts], zoom)
    return refined or diameter


def part_of(
    view: np.ndarray, middle: tuple[float, float], zoom: float, shown: int = VIEW
) -> np.ndarray:
    """What of a view fits into `shown` px when it is zoomed. middle: as shares of its edges."""
    edge = max(1, int(shown / zoom))
    top, left = (
        int(min(max(0, share * length - edge / 2), max(0, length - edge)))
        for share, length in zip(middle, view.shape[:2], strict=True)
    )
    return view[top : top + edge, left : left + edge]


def _densest(presence: np.ndarray, zoom: float, closer: float) -> tuple[float, float]:
    """Where most cells are, for a window of VIEW px at the zoom `closer`: shares of the edges."""
    edge = max(1, round(VIEW / STRIDE * zoom / closer))
    height, width = presence.shape
    place = np.argmax(box_means(presence, (min(edge, height), min(edge, width))))
    row, column = np.unravel_index(int(place), presence.shape)
    return (float(row) + 0.5) / presence.shape[0], (float(column) + 0.5) / presence.shape[1]


def _look(
    view: np.ndarray,
    zoom: float,
    network: SizeNetwork,
    statistics: tuple[np.ndarray, np.ndarray],
) -> Seen:
    """What the network says of a view at a zoom, its padding cut off."""
    scaled = scale_image(view, scaled_shape(view.shape, zoom))[:VIEW, :VIEW]
    mean, deviation = statistics
    pixels = (scaled.astype(np.float32) - mean) / deviation
    height, width = pixels.shape[:2]
    missing = [
        max(SMALLEST, -(-length // MULTIPLE) * MULTIPLE) - length for length in (height, width)
    ]
    before = [n // 2 // STRIDE * STRIDE for n in missing]
    margins = [(b, n - b) for b, n in zip(before, missing, strict=True)]
    padded = np.pad(pixels, [*margins, (0, 0)]).transpose(2, 0, 1)[np.newaxis]
    output = network(np.ascontiguousarray(padded, np.float32))[0]
    rows, columns = (
        slice(b // STRIDE, b // STRIDE + -(-length // STRIDE))
        for b, length in zip(before, (height, width), strict=True)
    )
    presence, log_size = output[:, rows, columns]
    return 1 / (1 + np.exp(-presence)), log_size


def _typical(seen: Sequence[Seen], zoom: float) -> float | None:
    """Median over the places that are surely a cell's, in px of the image; None where none is."""
    presence = np.concatenate([p.ravel() for p, _ in seen])
    log_size = np.concatenate([s.ravel() for _, s in seen])
    surest = float(presence.max())
    if surest < LEAST:
        return None
    weight = np.where(presence >= min(SURE, 0.7 * surest), presence, 0)
    order = np.argsort(log_size, kind="stable")
    reached = np.cumsum(weight[order])
    middle = log_size[order][np.searchsorted(reached, reached[-1] / 2)]
    return REFERENCE * float(2**middle) / zoom
