"""Overlays of an evaluation: hits, misses and false cells in three colours over the image.

The colours are three of IBM's palette for the colour-blind; stains and dyes seldom have them.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from reunet.io.export.overlay import LONGEST, View, paint, stretch_limits, view, write_picture
from reunet.io.export.segmented import Segmented

HIT, MISS, FALSE = (100, 143, 255), (255, 176, 0), (220, 38, 127)  # blue, amber, magenta


def write_verdict(
    path: Path, predicted: Segmented, truth: np.ndarray, hits: tuple[np.ndarray, np.ndarray]
) -> None:
    """Write one picture. Raises ImageError.

    truth: (H, W) integers. hits: ids of the true and of the predicted cells that are matched. A hit
    shows the contour of the prediction, a miss that of the truth.
    """
    missed = np.where(np.isin(truth, hits[0]), 0, truth)
    found, missing = view(predicted, LONGEST), view(replace(predicted, labels=missed), LONGEST)
    limits = stretch_limits(found.pixels)

    def colours(ids: np.ndarray, _: np.ndarray) -> np.ndarray:
        """Of predicted cells."""
        return np.where(np.isin(ids, hits[1])[:, np.newaxis], HIT, FALSE).astype(np.uint8)

    def missed_colours(ids: np.ndarray, _: np.ndarray) -> np.ndarray:
        """Of true cells."""
        return np.tile(np.array(MISS, np.uint8), (len(ids), 1))

    below = paint(View(found.pixels, missing.labels), limits, missed_colours)
    # Contours of predicted cells are drawn last: where a miss and a false cell overlap both show.
    write_picture(path, paint(found, limits, colours, below))
