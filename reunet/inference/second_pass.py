"""Images of small cells are looked at once more, enlarged (beyond the paper).

Where cells are few pixels wide the boundary between two that touch is nearly as wide as they are,
and the network merges them. Seen larger, they come apart. Larger cells gain nothing, or lose:
SMALL and FACTOR were chosen on training images (README, "How well").
"""

from collections.abc import Sequence
from dataclasses import replace
from math import pi

import numpy as np

from reunet.inference.sliding_window import CLASSES, Network, most_probable, predict_logits
from reunet.inference.tiles import WIDE_STEP, Tiling

SMALL = 25.0  # px: diameter of the typical cell below which a second look pays
FACTOR = 2**0.5  # of the image's edges in the second look
STRETCH = 1.5  # of a tile: longest axis that gets one; 512 px become 724, one tile instead of four
# px of an image that gets a second look, and of one whose folds vote: the logits of such a look
# take 40 bytes for each, the votes of three folds about as many
LARGEST = 10_000_000


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


def are_small(instances: np.ndarray) -> bool:
    """Whether the typical cell measures less than SMALL px; no cells are not small."""
    return 0 < typical_diameter(instances) < SMALL


def enlarged(shape: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of an image in the second look."""
    height, width = (round(FACTOR * length) for length in shape)
    return height, width


def few_tiles(tiling: Tiling) -> Tiling:
    """The tiling of the second look, with fewer tiles than that of the first, `tiling`."""
    return replace(tiling, stretch=STRETCH, step=max(tiling.step, WIDE_STEP))


def classify_enlarged(image: np.ndarray, networks: Sequence[Network], tiling: Tiling) -> np.ndarray:
    """Class map by the logits of the enlarged image, brought back to its size; both bilinearly.

    image: (H, W, 3) uint8 from `normalise_channels`. tiling: of the first look. Returns (H, W)
    uint8. Raises ValueError where there is no network.
    """
    from PIL import Image

    shape = image.shape[0], image.shape[1]
    large = Image.fromarray(image).resize(enlarged(shape)[::-1], Image.Resampling.BILINEAR)
    logits = predict_logits(np.asarray(large), networks, few_tiles(tiling))
    small = [
        np.asarray(Image.fromarray(of_class).resize(shape[::-1], Image.Resampling.BILINEAR))
        for of_class in logits
    ]
    return most_probable(small[:CLASSES])
