"""Channel normalisation (paper §2.1, "Preprocessing") and the network's own z-score.

Legend: H, W pixels; C = 3 channels.
"""

import numpy as np

LOW_PERCENTILE, HIGH_PERCENTILE = 1, 99  # of a channel's non-zero pixels, the challenge's script
FLAT_RANGE = 1e-3  # a channel whose percentiles lie closer than this holds no contrast to stretch


def normalise_channels(pixels: np.ndarray) -> np.ndarray:
    """Rescale every channel linearly to 0..255.

    pixels: (H, W, 3), any real dtype, finite. Returns (H, W, 3) uint8.

    A channel is stretched from the 1st and 99th percentile of its non-zero pixels and clipped.
    An empty channel stays empty. A constant channel keeps its value where 0..255 can hold it and
    is clipped otherwise, so 16-bit input never wraps around.
    """
    return np.stack([_normalise_channel(pixels[..., c]) for c in range(pixels.shape[-1])], axis=-1)


def _normalise_channel(channel: np.ndarray) -> np.ndarray:
    values = channel[channel != 0]
    if values.size == 0:
        return np.zeros(channel.shape, np.uint8)
    low, high = np.percentile(values, (LOW_PERCENTILE, HIGH_PERCENTILE))
    if high - low <= FLAT_RANGE:
        clipped: np.ndarray = np.clip(channel, 0, 255)
        return clipped.astype(np.uint8)
    if channel.dtype == np.uint8:
        levels = np.arange(256, dtype=np.float64)  # 256 values: look the answer up, pixel by pixel
        looked_up: np.ndarray = _stretch(levels, low, high)[channel]
        return looked_up
    return _stretch(channel.astype(np.float64), low, high)


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled: np.ndarray = (np.clip(values, low, high) - low) / (high - low) * 255
    return scaled.astype(np.uint8)  # truncates, as scikit-image's rescale_intensity does


def z_score(image: np.ndarray) -> np.ndarray:
    """nnU-Net's normalisation: zero mean and unit variance for every channel of the whole image.

    image: (3, H, W), any dtype. Returns (3, H, W) float32. A constant channel becomes zero.
    """
    return np.stack([_z_score_channel(channel) for channel in image])


def _z_score_channel(channel: np.ndarray) -> np.ndarray:
    # nnU-Net's arithmetic to the bit: float32, and in C order, because numpy adds up in pairs only
    # along contiguous memory; value by value, a float32 sum of millions stops growing.
    values = np.array(channel, dtype=np.float32, order="C")
    if values.min() == values.max():  # the rounding error of the mean is no contrast
        return np.zeros_like(values)
    mean, std = values.mean(), values.std()
    values -= mean
    values /= max(std, np.float32(1e-8))
    return values
