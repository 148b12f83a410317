"""Images of small cells are looked at once more, enlarged (beyond the paper).

Where cells are few pixels wide the boundary between two that touch is nearly as wide as they are,
and the network merges them. Seen larger, they come apart. Larger cells gain nothing, or lose:
SMALL and FACTOR were chosen on training images (README, "How well").
"""

from dataclasses import replace

import numpy as np

from reunet.inference.ensemble import Ensemble
from reunet.inference.scale import typical_diameter
from reunet.inference.sliding_window import CLASSES, most_probable, predict_logits
from reunet.inference.tiles import WIDE_STEP, Tiling

SMALL = 25.0  # px: diameter of the typical cell below which a second pass pays
FACTOR = 2**0.5  # of the image's edges in the second pass
STRETCH = 1.5  # of a tile: longest axis that gets one; 512 px become 724, one tile instead of four
# px of an image that gets a second pass, and of one whose folds vote: the logits of such a pass
# take 40 bytes for each, the votes of three folds about as many
LARGEST = 10_000_000


def are_small(instances: np.ndarray) -> bool:
    """Whether the typical cell measures less than SMALL px; no cells are not small."""
    return 0 < typical_diameter(instances) < SMALL


def enlarged(shape: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of an image in the second pass."""
    height, width = (round(FACTOR * length) for length in shape)
    return height, width


def few_tiles(tiling: Tiling) -> Tiling:
    """The tiling of the second pass, with fewer tiles than that of the first, `tiling`."""
    return replace(tiling, stretch=STRETCH, step=max(tiling.step, WIDE_STEP))


def classify_enlarged(image: np.ndarray, ensemble: Ensemble, tiling: Tiling) -> np.ndarray:
    """Class map by the logits of the enlarged image, brought back to its size; both bilinearly.

    image: (H, W, 3) uint8 from `normalise_channels`. tiling: of the first pass. Returns (H, W)
    uint8.
    """
    from PIL import Image

    shape = image.shape[0], image.shape[1]
    large = Image.fromarray(image).resize(enlarged(shape)[::-1], Image.Resampling.BILINEAR)
    logits = predict_logits(np.asarray(large), ensemble, few_tiles(tiling))
    small = [
        np.asarray(Image.fromarray(of_class).resize(shape[::-1], Image.Resampling.BILINEAR))
        for of_class in logits
    ]
    return most_probable(small[:CLASSES])
