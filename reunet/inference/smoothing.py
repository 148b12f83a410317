"""Box means and Gaussians of a picture, to the bit those of `scipy.ndimage`.

To import that takes as long as to segment a small image, and the way from an image to its label
needs nothing else of SciPy. Legend: H, W pixels of a picture.
"""

import numpy as np

ROWS = 32  # smoothed at a time: the work arrays fit into a processor's cache


def box_means(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mean of the box around every pixel, what lies outside of the picture being 0.

    values: (H, W) float32. size: height and width of the box, up to H and W; where one is even, the
    box reaches further up, or left. Returns (H, W) float32.
    """
    for axis, length in enumerate(size):
        if length > 1:  # a running sum would add rounding errors to the values themselves
            lines = np.moveaxis(values, axis, 0)
            values = np.moveaxis(_running_means(lines, length), 0, axis)
    return values


def _running_means(values: np.ndarray, length: int) -> np.ndarray:
    """Means of `length` rows each. (H, W) to (H, W) float32."""
    before = length // 2
    padded = np.pad(values.astype(np.float64), ((before, length - 1 - before), (0, 0)))
    first = np.cumsum(padded[:length], axis=0)[-1:]  # one by one, as all that is added later
    changes = padded[length:] - padded[:-length]
    sums = np.cumsum(np.concatenate([first, changes]), axis=0)
    means: np.ndarray = (sums / length).astype(np.float32)
    return means


def gaussian(values: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """A picture, continued by reflection, smoothed by a Gaussian that is cut at a radius.

    values: (H, W), integers or float32. sigma, radius: px. Returns (H, W) float32.
    """
    kernel = np.exp(-0.5 / sigma**2 * np.arange(-radius, radius + 1) ** 2)
    kernel /= kernel.sum()
    smoothed = np.empty(values.shape, np.float32)
    tall = np.pad(values, ((radius, radius), (0, 0)), mode="symmetric")
    for top in range(0, len(values), ROWS):
        part = tall[top : top + ROWS + 2 * radius].astype(np.float64)
        lines = _weighted(part, kernel, 0)
        wide = np.pad(lines, ((0, 0), (radius, radius)), mode="symmetric").astype(np.float64)
        smoothed[top : top + ROWS] = _weighted(wide, kernel, 1)
    return smoothed


def _weighted(padded: np.ndarray, kernel: np.ndarray, axis: int) -> np.ndarray:
    """Weighted sums along an axis, which becomes shorter by the kernel but for one pixel.

    padded: (H, W) float64. kernel: symmetric. Returns float32. The middle comes first, then pairs
    from the outermost on: added up in another order, sums would be rounded otherwise.
    """
    radius = len(kernel) // 2
    length = padded.shape[axis] - 2 * radius

    def shifted(by: int) -> np.ndarray:
        return padded[by : by + length] if axis == 0 else padded[:, by : by + length]

    total: np.ndarray = shifted(radius) * kernel[radius]
    pair = np.empty_like(total)
    for n in range(radius):
        np.add(shifted(n), shifted(2 * radius - n), out=pair)
        pair *= kernel[n]
        total += pair
    return total.astype(np.float32)
