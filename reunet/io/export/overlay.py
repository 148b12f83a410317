"""Overlays: contours of the cells in distinct colours over the contrast-stretched image.

A picture small enough is shown as it is, or enlarged where contours would hide its cells; of a
slide there is a reduced picture, and a few crops at full size where most cells lie.
Legend: H, W pixels; h, w of the picture that is made; k pixels of the image a side in one of it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reunet.io.atomic import replacing
from reunet.io.export.measure import Rows
from reunet.io.export.segmented import Segmented

LONGEST = 4096  # px of an overlay; larger images are reduced, and crops show what that hides
SLIDE_LONGEST = 2048  # px of such a reduced picture
CROPS, CROP = 3, 1024  # how many, and px a side
SMALL = 600  # px; what is shorter on both sides is enlarged until contours no longer hide its cells
BAND = 2**22  # pixels that are read at once
STRETCH = (0.5, 99.5)  # percentiles of a channel that become black and white
SAMPLE = 2**20  # pixels that percentiles are taken of
GOLDEN = 0.618034  # of a turn of hue from one id to the next: neighbours differ, however many
Colours = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (ids, on what is bright) -> (n, 3)


class View(NamedTuple):
    """What a picture is painted from."""

    pixels: np.ndarray  # (h, w, 3), any real dtype
    labels: np.ndarray  # (h, w) integers


class Overlays:
    """Writer of `NAME_overlay.png`, and of slides `NAME_overlay_1.png` … too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, found: Segmented) -> None:
        """Write the pictures of one image. Raises ImageError."""
        large = max(found.labels.shape) > LONGEST
        whole = view(found, SLIDE_LONGEST if large else LONGEST)
        limits = stretch_limits(whole.pixels)
        self._write(found, "", paint(whole, limits))
        for number, window in enumerate(crop_windows(found) if large else [], 1):
            self._write(found, f"_{number}", paint(crop(found, *window), limits))

    def _write(self, found: Segmented, suffix: str, picture: np.ndarray) -> None:
        write_picture(found.beside(self._folder, f"_overlay{suffix}.png"), picture)

    def close(self) -> None:
        """Every file is closed already."""


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write (h, w, 3) uint8 as PNG, wholly or not at all, fast rather than small.

    Raises ImageError.
    """
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", compress_level=1)


def view(found: Segmented, longest: int) -> View:
    """The whole image, reduced by a whole factor k where a side has more than `longest` pixels.

    Pixels are means of k × k, labels those in the middle of them. Without an image all is black.
    """
    k = -(-max(found.labels.shape) // longest)
    labels = found.labels[k // 2 :: k, k // 2 :: k]
    if found.open_rows is None:
        return View(np.zeros((*labels.shape, 3), np.uint8), labels)
    reduced = _reduce(found.open_rows(), found.labels.shape, k)
    return View(reduced[: labels.shape[0], : labels.shape[1]], labels)


def _reduce(rows: Rows, shape: tuple[int, ...], k: int) -> np.ndarray:
    """Means of k × k pixels, in the image's dtype; what is left over at the edges is dropped."""
    height, width = shape
    if k == 1:
        return rows(0, height)
    k_high, k_wide = min(k, height), min(k, width)
    step = max(1, BAND // width // k) * k
    bands = []
    for top in range(0, height - k_high + 1, step):
        band = rows(top, min(top + step, height))
        h, w = len(band) // k_high, width // k_wide
        whole = band[: h * k_high, : w * k_wide]
        blocks = whole.reshape(h, k_high, w, k_wide, -1)
        bands.append(blocks.mean(axis=(1, 3), dtype=np.float32).astype(band.dtype))
    return np.concatenate(bands)


def crop(found: Segmented, left: int, top: int) -> View:
    """CROP × CROP pixels of the image and its labels, fewer at its edges."""
    labels = found.labels[top : top + CROP, left : left + CROP]
    if found.open_rows is None:
        return View(np.zeros((*labels.shape, 3), np.uint8), labels)
    return View(found.open_rows()(top, top + len(labels))[:, left : left + CROP], labels)


def crop_windows(found: Segmented) -> list[tuple[int, int]]:
    """Left and top of the CROPS squares of a grid that hold most centres of cells."""
    places = (found.cells.centroid // CROP).astype(np.int64)
    squares, count = np.unique(places, axis=0, return_counts=True)
    best = np.argsort(-count, kind="stable")[:CROPS]
    return [(int(x) * CROP, int(y) * CROP) for x, y in squares[best]]


def stretch_limits(pixels: np.ndarray) -> np.ndarray:
    """What becomes black and white in each channel. (h, w, 3) to (2, 3) float64.

    On a bright ground (a stained section) it is the same in all, which keeps the colours.
    """
    every = max(1, int((pixels.shape[0] * pixels.shape[1] / SAMPLE) ** 0.5))
    sample = pixels[::every, ::every].astype(np.float64)
    low, high = np.percentile(sample, STRETCH)
    if np.median(sample) > (low + high) / 2:
        return np.array([[low] * 3, [high] * 3])
    return np.percentile(sample, STRETCH, axis=(0, 1))


def stretch(pixels: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Channels between their limits as 0..255. (h, w, 3) of any real dtype to uint8."""
    low, high = limits.astype(np.float32)
    scale = np.where(high > low, 255 / np.maximum(high - low, 1e-12), 0).astype(np.float32)
    stretched: np.ndarray = np.clip((pixels - low) * scale, 0, 255).astype(np.uint8)
    return stretched


def distinct(ids: np.ndarray, bright: np.ndarray) -> np.ndarray:
    """A colour an id, far from that of the ids next to it. (n,) to (n, 3) uint8.

    bright: (n,) bool, what the colour has to stand out from: it is dark or else light.
    """
    hue = (ids * GOLDEN % 1)[:, np.newaxis] * 6
    ramp = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    colours = np.where(bright[:, np.newaxis], ramp * 190, 70 + ramp * 185)
    painted: np.ndarray = colours.astype(np.uint8)
    return painted


def paint(
    shown: View, limits: np.ndarray, colours: Colours = distinct, on: np.ndarray | None = None
) -> np.ndarray:
    """The stretched picture with a contour along the inner edge of every cell.

    Small pictures are enlarged by a whole factor. on: a picture painted before, of the same view,
    that more contours are added to. Returns (h', w', 3) uint8.
    """
    factor = max(1, min(4, SMALL // max(1, *shown.labels.shape)))
    picture = _enlarged(stretch(shown.pixels, limits), factor) if on is None else on.copy()
    labels = _enlarged(shown.labels, factor)
    edge = outline(labels, width=1 + (factor > 2) + (max(labels.shape) > 2 * CROP))
    ids, cell = np.unique(labels[edge], return_inverse=True)
    light = np.bincount(cell, picture[edge].mean(axis=1)) / np.maximum(np.bincount(cell), 1)
    picture[edge] = colours(ids, light > 127)[cell]
    return picture


def _enlarged(values: np.ndarray, factor: int) -> np.ndarray:
    return values.repeat(factor, axis=0).repeat(factor, axis=1)


def outline(labels: np.ndarray, width: int = 1) -> np.ndarray:
    """Pixels of cells with another label in less than `width` + 1 steps. (h, w) to (h, w) bool."""
    from scipy.ndimage import maximum_filter, minimum_filter

    size = 2 * width + 1
    edge: np.ndarray = maximum_filter(labels, size, mode="nearest") != minimum_filter(
        labels, size, mode="nearest"
    )
    return edge & (labels > 0)
