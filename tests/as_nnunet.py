"""nnU-Net's sums put together from our parts: what shows that these are nnU-Net's to the bit.

The whole image at once, fold by fold, full tiles only and in half precision; the product adds up
bands in single precision. Legend: h, w pixels; C outputs of the network.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from reunet.inference.ensemble import Average, Network
from reunet.inference.tiles import (
    FLIPS,
    STEP,
    Window,
    centred_padding,
    gaussian_importance,
    tile_starts,
)


def tile_windows(
    shape: tuple[int, int], tile: tuple[int, int], step: float = STEP
) -> Iterator[Window]:
    """Tiles of an image, row by row. shape: (H, W); tile: (h, w), no larger than the image."""
    rows, columns = (tile_starts(n, t, step) for n, t in zip(shape, tile, strict=True))
    for y, x in product(rows, columns):
        yield slice(y, y + tile[0]), slice(x, x + tile[1])


def logits_as_nnunet(
    content: np.ndarray, networks: Sequence[Network], patch: int, mirror: bool = True
) -> np.ndarray:
    """Logits of an image that is cropped and z-scored already.

    content: (3, h, w) float32. patch: px, edge of the tiles. Returns (C, h, w) float32, whose
    values are of half precision.
    """
    _, h, w = content.shape
    (above, _), (left, _) = margins = centred_padding((h, w), (patch, patch))
    data = np.pad(content, ((0, 0), *margins))
    weight = gaussian_importance(patch, patch).astype(np.float16)
    folds = [_of_fold(data, Average([fold]), weight, mirror) for fold in networks]
    total = np.zeros_like(folds[0])
    for logits in folds:
        total += logits
    total /= len(folds)
    return np.asarray(total[:, above : above + h, left : left + w], np.float32)


def _of_fold(data: np.ndarray, fold: Average, weight: np.ndarray, mirror: bool) -> np.ndarray:
    logits = np.zeros((3, *data.shape[1:]), np.float16)
    weights = np.zeros(data.shape[1:], np.float16)
    flips = FLIPS if mirror else FLIPS[:1]
    for rows, columns in tile_windows(data.shape[1:], weight.shape):
        # Multiplied in single precision and rounded when added: nnU-Net's order.
        logits[:, rows, columns] += (
            fold.mean_logits(data[None, :, rows, columns], flips, 1)[0] * weight
        )
        weights[rows, columns] += weight
    divided: np.ndarray = logits / weights
    return divided
