"""Channel normalisation (paper §2.1, "Preprocessing") and the network's own z-score.

Legend: H, W pixels; C = 3 channels.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reunet.inference.percentiles import PercentileSearch
from reunet.inference.tiles import Window

PERCENTILES = 0, 1, 99, 100  # of a channel's non-zero pixels; 1 and 99: the challenge's script
CHANNELS = 3
COUNTED_AT_ONCE = 2**18  # px; numpy widens what it counts to 8 bytes a pixel
FLAT_RANGE = 1e-3  # a channel whose percentiles lie closer than this holds no contrast to stretch

VISIBLE = 3  # levels of 255; tiles that span less are taken for empty (`sliding_window.is_empty`)


class Stretch(NamedTuple):
    """The values of a channel that become 0 and 255; of one without contrast, all but equal."""

    low: float
    high: float


def normalise_channels(pixels: np.ndarray) -> np.ndarray:
    """Rescale every channel linearly to 0..255.

    pixels: (H, W, 3), any real dtype, finite. Returns (H, W, 3) uint8.

    A channel is stretched from the 1st and 99th percentile of its non-zero pixels and clipped.
    An empty channel stays empty. One whose percentiles are equal keeps its values where 0..255 can
    hold them and is clipped otherwise, so 16-bit input never wraps around; what would be lost by
    that, such as a mask of 0 and 1, is stretched too (`_keep_contrast`).
    """
    if pixels.dtype.itemsize > 8:
        pixels = pixels.astype(np.float64)  # extended precision
    return stretch_channels(pixels, find_stretches(lambda: [pixels]))


def find_stretches(bands: Callable[[], Iterable[np.ndarray]]) -> list[Stretch]:
    """The stretch of every channel of an image, which need not be in memory as a whole.

    bands: gives the image anew in bands of rows, each (rows, W, 3) of one real dtype, finite. It is
    called once for values of 8 and 16 bits, twice for 32 and four times for 64.
    """
    searches: list[PercentileSearch] = []
    zeros = [False] * CHANNELS
    while not searches or searches[0].unknown:
        for band in bands():
            if not searches:
                searches = [PercentileSearch(band.dtype, PERCENTILES) for _ in range(CHANNELS)]
            for c, search in enumerate(searches):
                channel = band[..., c]
                values = channel[channel != 0]
                search.count(values)
                zeros[c] |= values.size < channel.size
        for search in searches:
            search.refine()
    channels = (Values(*(search.values() or (0, 0, 0, 0))) for search in searches)
    return _keep_contrast([*channels], zeros)


class Values(NamedTuple):
    """Of the non-zero pixels of a channel: PERCENTILES."""

    least: float
    low: float
    high: float
    greatest: float


def _keep_contrast(channels: Sequence[Values], zeros: Sequence[bool]) -> list[Stretch]:
    """Stretches that lose nothing where clipping would. zeros: whether a channel has any.

    Percentiles of a channel's non-zero pixels are equal where it is two-valued: a mask, or a few
    pixels on an even ground. The challenge's script leaves such a channel as it is. That is kept
    where something remains to be seen; a channel that would become even, and all channels of an
    image that would keep less than VISIBLE levels, are stretched between their value and their
    ground (0, or without zeros all that differs).
    """
    grounds = [
        (0.0,) if zero else (of.least, of.greatest)
        for of, zero in zip(channels, zeros, strict=True)
    ]
    kept = [_levels(of.high, *ground) for of, ground in zip(channels, grounds, strict=True)]
    flat = [_is_flat(of.low, of.high) for of in channels]
    faint = all(flat) and max(kept) < VISIBLE
    return [
        Stretch(min(of.low, *ground), max(of.high, *ground))
        if even and (faint or not levels)
        else Stretch(of.low, of.high)
        for of, ground, levels, even in zip(channels, grounds, kept, flat, strict=True)
    ]


def _levels(*values: float) -> int:
    """Levels of 0..255 that these values span if they are clipped."""
    clipped = [int(min(max(value, 0), 255)) for value in values]
    return max(clipped) - min(clipped)


def stretch_channels(pixels: np.ndarray, stretches: Sequence[Stretch]) -> np.ndarray:
    """Stretch an image or a band of it. (H, W, 3) of any real dtype to (H, W, 3) uint8."""
    stretched = np.empty(pixels.shape, np.uint8)
    for c, stretch in enumerate(stretches):
        stretched[..., c] = _stretch(pixels[..., c], *stretch)
    return stretched


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    size = values.dtype.itemsize
    if values.dtype.kind in "iu" and 2 ** (8 * size) < values.size:
        # Fewer possible values than pixels: look the answers up.
        every = np.arange(2 ** (8 * size)).astype(f"u{size}")
        return np.take(_stretch(every.view(values.dtype), low, high), values.view(every.dtype))
    if _is_flat(low, high):
        clipped: np.ndarray = np.clip(values, 0, 255)
        return clipped.astype(np.uint8)
    if high - low == np.inf:  # the range of all doubles is none
        return _stretch(values / 2, low / 2, high / 2)
    scaled: np.ndarray = (np.clip(values.astype(np.float64), low, high) - low) / (high - low) * 255
    return scaled.astype(np.uint8)  # truncates, as scikit-image's rescale_intensity does


def _is_flat(low: float, high: float) -> bool:
    # The challenge's integers: 0.001. Floats may be small as a whole, such as shares of a sum.
    return high - low <= FLAT_RANGE * min(1, max(abs(low), abs(high)))


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


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of every channel, (3,) float32 each: what z-scores a tile."""

    mean: np.ndarray
    std: np.ndarray


def scaling_of(image: np.ndarray, box: Window) -> Scaling:
    """Scaling of the pixels within the content box. image: (H, W, 3) uint8."""
    return scaling_from(histogram(image[box]))


def histogram(pixels: np.ndarray) -> np.ndarray:
    """How often each value occurs. pixels: (h, w, 3) uint8. Returns (3, 256) int64.

    Histograms of parts add up to that of the whole, so a slide need not be held in memory.
    """
    counts = np.zeros((3, 256), np.int64)
    rows = max(1, COUNTED_AT_ONCE // max(1, pixels.shape[1]))
    for top in range(0, len(pixels), rows):
        for c in range(3):
            counts[c] += np.bincount(pixels[top : top + rows, :, c].ravel(), minlength=256)
    return counts


def scaling_from(histograms: np.ndarray) -> Scaling:
    """Exact mean and standard deviation of the channels. histograms: (3, 256) int64."""
    values = np.arange(256.0)
    counts = histograms.sum(axis=1, keepdims=True)
    mean = (histograms * values).sum(axis=1, keepdims=True) / counts
    variance = (histograms * np.square(values - mean)).sum(axis=1) / counts[:, 0]
    return Scaling(mean[:, 0].astype(np.float32), np.sqrt(variance).astype(np.float32))


def z_score_pixels(pixels: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Part of an image, z-scored by the scaling of the whole.

    pixels: (h, w, 3) uint8. Returns (3, h, w) float32. A constant channel becomes zero.
    """
    constant = scaling.std == 0
    factor = np.where(constant, 0, 1 / np.where(constant, 1, scaling.std)).astype(np.float32)
    scaled = np.empty((3, *pixels.shape[:2]), np.float32)
    for c in range(3):
        np.subtract(pixels[..., c], scaling.mean[c], out=scaled[c])
        scaled[c] *= factor[c]
    return scaled
