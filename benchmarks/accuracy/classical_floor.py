"""The floor: what Otsu's threshold and a watershed reach without learning anything.

`accuracy/results.py` scores it beside the network. No truth is looked at; the constants below were
chosen on training images.
"""

import numpy as np
from scipy import ndimage
from skimage import filters, measure, morphology, segmentation

from reunet.inference.normalise import normalise_channels

IMAGE_SIGMA = 1  # px, takes the camera noise off before the threshold
DISTANCE_SIGMA = 2  # px, takes the ragged outline's ridges off the distance map
PEAK_HEIGHT = 0.75  # px a peak of the distance map must stand out to be a cell of its own
MIN_CELL = 16  # px, the smallest object the challenge's own scripts keep


def segment(pixels: np.ndarray) -> np.ndarray:
    """Cells of one picture. pixels: (H, W, 3), any real dtype. Returns (H, W) int32."""
    grey = normalise_channels(pixels).mean(axis=-1)  # (H, W)
    return split_touching(find_foreground(grey))


def find_foreground(grey: np.ndarray) -> np.ndarray:
    """The side of Otsu's threshold that covers less of the picture. Returns (H, W) bool.

    Cells may be brighter than their surroundings (fluorescence) or darker (stains). In most
    pictures they fill less than half, so the smaller side is taken for them, the brighter one
    where both are alike.
    """
    smooth = ndimage.gaussian_filter(grey, IMAGE_SIGMA)
    if smooth.min() == smooth.max():
        return np.zeros(grey.shape, bool)
    bright: np.ndarray = smooth > filters.threshold_otsu(smooth)
    return bright if bright.mean() <= 0.5 else ~bright


def split_touching(foreground: np.ndarray) -> np.ndarray:
    """Watershed from the peaks of the distance to the background. Returns (H, W) int32."""
    filled = ndimage.binary_fill_holes(foreground)
    solid = morphology.remove_small_objects(filled, max_size=MIN_CELL - 1)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(solid), DISTANCE_SIGMA)
    markers = measure.label(morphology.h_maxima(distance, PEAK_HEIGHT))
    cells: np.ndarray = segmentation.watershed(-distance, markers, mask=solid)
    return cells.astype(np.int32)
