"""Images and labels brought to another size, by the size of their cells.

A network that is trained on cells of one size sees every image with its cells at that size, in
training as at inference. Legend: H, W pixels before, h, w pixels after.
"""

from collections import deque
from collections.abc import Callable, Iterator
from math import pi

import numpy as np

Read = Callable[[int, int], np.ndarray]  # (top, bottom) -> rows, (bottom - top, W, 3)

MIN_ZOOM, MAX_ZOOM = 0.04, 4.0  # factors of the edges: cells of 750 px and of 7.5 px become 30 px
# An image with small cells grows to so many pixels, or to so many times its own, whichever is more:
# what keeps one of a megapixel within the challenge's ten seconds on two cores, and bounds memory.
MOST_PIXELS, MOST_GROWTH = 2_500_000, 2.25
MIN_EDGE = 8  # px: no edge becomes shorter
ROWS = 256  # px, of the bands of a large image


def typical_diameter(instances: np.ndarray) -> float:
    """Diameter in px of a disk as large as the typical cell; 0.0 where there is none.

    Half of the pixels of all cells lie in cells no larger than that: specks hardly count, however
    many. instances: (H, W) integers, 0 background, cells 1..N.
    """
    areas = np.sort(np.bincount(instances.ravel())[1:])
    if not areas.any():
        return 0.0
    reached = np.cumsum(areas)
    return float(np.sqrt(4 / pi * areas[np.searchsorted(reached, reached[-1] / 2)]))


def zoom_for(diameter: float | None, wanted: float, shape: tuple[int, int]) -> tuple[float, str]:
    """The factor that brings cells of `diameter` px to `wanted` px within bounds, and a note on it.

    shape: (H, W). diameter None: no cell was seen, the image keeps its size.
    """
    if diameter is None:
        return 1.0, "no cell to tell the size by: seen at its own size"
    zoom = min(max(wanted / diameter, MIN_ZOOM), MAX_ZOOM)
    bound = max(MOST_PIXELS / (shape[0] * shape[1]), MOST_GROWTH) ** 0.5
    note = f"cells of about {diameter:.3g} px"
    if zoom > bound:
        return bound, f"{note}: seen {bound:.3g} times as large, more would take too long"
    return zoom, f"{note}: seen {zoom:.3g} times as large"


def scaled_shape(shape: tuple[int, ...], zoom: float) -> tuple[int, int]:
    """(h, w) of an (H, W) image whose edges become `zoom` times as long, within the limits."""
    zoom = min(max(zoom, MIN_ZOOM), MAX_ZOOM)
    height, width = (max(MIN_EDGE, round(length * zoom)) for length in shape[:2])
    return height, width


def scale_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An image with (h, w) pixels: means over areas where it shrinks, bilinear where it grows.

    image: (H, W, 3) uint8. Returns (h, w, 3) uint8.
    """
    before = image.shape[0], image.shape[1]
    if before == shape:
        return image
    bands = _scaled(lambda top, bottom: image[top:bottom], before, shape)
    return np.concatenate(list(bands))


def scale_bands(
    bands: Iterator[np.ndarray], before: tuple[int, int], after: tuple[int, int]
) -> Iterator[np.ndarray]:
    """`scale_image`, to the bit, of an image that comes in bands of rows, from the top.

    bands: (rows, W, 3) uint8. before: (H, W). after: (h, w). Yields (rows, w, 3) uint8.
    """
    return bands if before == after else _scaled(windows(bands), before, after)


def _scaled(read: Read, before: tuple[int, int], after: tuple[int, int]) -> Iterator[np.ndarray]:
    """Bands of ROWS rows of the scaled image. read: gives rows of the image before."""
    from PIL import Image  # not imported where nothing is scaled

    factor = before[0] / after[0]
    grows = after[0] * after[1] > before[0] * before[1]
    how = Image.Resampling.BILINEAR if grows else Image.Resampling.BOX
    reach = int(max(factor, 1)) + 2  # rows beyond a band that the means and lines look at
    for top in range(0, after[0], ROWS):
        bottom = min(top + ROWS, after[0])
        start = max(0, int(top * factor) - reach)
        stop = min(before[0], int(bottom * factor) + reach)
        rows = Image.fromarray(np.ascontiguousarray(read(start, stop)))
        end = min(bottom * factor - start, stop - start)
        box = (0, top * factor - start, before[1], end)
        yield np.asarray(rows.resize((after[1], bottom - top), how, box=box))


def windows(bands: Iterator[np.ndarray]) -> Read:
    """Bands of rows as a function `read(top, bottom)` that returns any rows.

    Its tops must not decrease from call to call: what lies above is forgotten.
    """
    live: deque[np.ndarray] = deque()
    first = end = 0  # of the rows that are live

    def read(top: int, bottom: int) -> np.ndarray:
        """Rows top..bottom, (bottom - top, W, 3)."""
        nonlocal first, end
        while end < bottom or first + len(live[0]) <= top:
            if live and first + len(live[0]) <= top:
                first += len(live.popleft())
            else:
                live.append(next(bands))
                end += len(live[-1])
        rows = live[0] if len(live) == 1 else np.concatenate(live)
        return rows[top - first : bottom - first]

    return read


def scale_labels(
    instances: np.ndarray, shape: tuple[int, int], rows: slice = slice(None)
) -> np.ndarray:
    """Instances with (h, w) pixels, each that of the nearest pixel before.

    instances: (H, W) of any integer type. rows: of the result, if not all. Returns (h, w) of the
    same type, a view where nothing is scaled.
    """
    if instances.shape == shape:
        return instances[rows]
    down, across = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for new, old in zip(shape, instances.shape, strict=True)
    )
    return instances[np.ix_(down[rows], across)]
