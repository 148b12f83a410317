"""Which tiles show nothing, so that the networks need not look at them (`--skip-empty`)."""

import numpy as np

from reunet.options import SMALLEST_CELL

FLAT = 2  # of 255 levels of contrast: a tile that spans no more holds nothing to see
WHITE = 235  # of 255: paler than any stain


def is_empty(tile: np.ndarray) -> bool:
    """Whether a tile can hold no cell. tile: (h, w, 3) uint8 from `normalise_channels`.

    Either it spans at most FLAT levels in every channel, less than 1 % of the image's contrast:
    instance norm would blow its noise up to a picture. Or it is the white glass of a slide: fewer
    than SMALLEST_CELL pixels are darker than WHITE in any channel. Noise, uneven light and faint
    stains fail both tests, such a tile is predicted. The price: inside a single cell that fills
    the tile evenly, that part of it is lost.
    """
    if int(tile.max()) - int(tile.min()) <= FLAT:
        return True
    if (tile[::16, ::16] < WHITE).mean() < 0.5:  # a coarse look that spares most tiles the count
        return int((tile < WHITE).any(axis=2).sum()) < SMALLEST_CELL
    return all(int(np.ptp(tile[..., c])) <= FLAT for c in range(tile.shape[-1]))  # most fail soon
