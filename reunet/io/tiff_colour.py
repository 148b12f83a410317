"""What the numbers of a TIFF stand for (PhotometricInterpretation): grey or RGB of them, or no.

Only what is listed here is read; the rest is refused by name. Legend: H, W pixels; a sample is one
number of a pixel, extra samples are those beyond its colour.
"""

from typing import NamedTuple

import numpy as np
from tifffile import COMPRESSION, TiffPage

from reunet.errors import TiffError

# PhotometricInterpretation, TIFF 6.0 p. 37 and its supplements.
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
COLOURS = {PALETTE: 1, INKS: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}  # samples that make up a colour
REFUSED = {
    4: "a transparency mask, no picture",
    10: "in ITU L*a*b* colours",
    32803: "the raw mosaic of a camera",
    32844: "in logarithms of luminance",
    32845: "in logarithms of luminance",
    34892: "raw values of a camera",
    51177: "a depth map",
    52527: "a semantic mask, no picture",
}
NO_DATA_TAG = 42113  # GDAL_NODATA: the value of pixels that were never measured
ALPHA = (1, 2)  # ExtraSamples: associated and unassociated alpha, TIFF 6.0 p. 31
PHOTOMETRIC_TAG, INK_SET, COEFFICIENTS, BLACK_WHITE = 262, 332, 529, 532
CMYK = 1  # InkSet: the four inks that a printer has, and what it is where the file does not say
JPEGS = (COMPRESSION.JPEG, COMPRESSION.ALT_JPEG, COMPRESSION.JPEG_LOSSY)  # decoded to RGB
MOST_SAMPLES = 2**16 - 1  # what a tag of two bytes tells
LUMA = (0.299, 0.587, 0.114)  # YCbCrCoefficients, their default
FULL_RANGE = (0, 255, 128, 255, 128, 255)  # ReferenceBlackWhite of YCbCr, its default
WAY_OUT = "export it as RGB or grey"


class Colour(NamedTuple):
    """How the samples of a page become grey or RGB."""

    model: int  # PhotometricInterpretation
    samples: list[int]  # those that are used
    alpha: list[int]
    notes: list[str]  # what was assumed


def colour_of(page: TiffPage, as_shown: bool) -> Colour:
    """The colour model of a page, checked.

    as_shown: translate colours; otherwise numbers stay as stored, whatever they mean. Alpha is left
    out either way. Raises TiffError for a model that is not understood.
    """
    count = page.samplesperpixel
    if count > MOST_SAMPLES:
        raise TiffError(f"is said to have {count} samples a pixel", WAY_OUT)
    extra = range(count - len(page.extrasamples), count)
    alpha = {n for n, kind in zip(extra, page.extrasamples, strict=True) if kind in ALPHA}
    samples = [n for n in range(count) if n not in alpha]
    if not as_shown or page.dtype is None:  # of no dtype: refused before it is decoded
        return Colour(BLACK_IS_ZERO, samples, sorted(alpha), [])
    model, notes = _model(page)
    if page.is_subsampled and page.compression not in JPEGS:
        raise TiffError("is in YCbCr colours, thinned out, but no JPEG", WAY_OUT)
    if model in COLOURS:
        _check(page, model)
        surplus = len(samples) - COLOURS[model]
        samples = samples[: COLOURS[model]]
        if surplus > 0:
            notes.append(f"{surplus} further sample{'s' * (surplus > 1)} of a pixel left out")
    elif model == RGB and count < 3:
        notes.append(f"is said to be RGB, but has {count} of the 3 colours")
    if page.dtype.kind == "f" and NO_DATA_TAG in page.tags and page.nodata:
        notes.append(f"pixels of {page.nodata:g}, which its tags call no data, were set to 0")
    return Colour(model, samples, sorted(alpha), notes)


def _model(page: TiffPage) -> tuple[int, list[str]]:
    model = int(page.photometric)
    if page.compression == COMPRESSION.APERIO_JP2000_YCBC:
        return YCBCR, []
    if PHOTOMETRIC_TAG not in page.tags and model == WHITE_IS_ZERO:  # tifffile's choice
        return BLACK_IS_ZERO, ["does not say what its numbers stand for: 0 is taken for black"]
    if model == WHITE_IS_ZERO and page.dtype is not None and page.dtype.kind == "f":
        return model, ["0 stands for white: its values were negated"]
    if model in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, *COLOURS):
        return model, []
    called = REFUSED.get(model, f"of photometric interpretation {model}")
    raise TiffError(f"is {called}", WAY_OUT)


def _check(page: TiffPage, model: int) -> None:
    """Refuse variants of a colour model that are not understood."""
    if page.samplesperpixel < COLOURS[model]:
        raise TiffError(f"has {page.samplesperpixel} of {COLOURS[model]} colours", WAY_OUT)
    if model == PALETTE:
        if page.colormap is None:
            raise TiffError("its palette is missing", WAY_OUT)
        if page.colormap.dtype.kind != "u":
            raise TiffError("its palette is not of whole numbers", WAY_OUT)
    if model == INKS:
        if page.tags.valueof(INK_SET, CMYK) != CMYK:
            raise TiffError("is in inks other than those of CMYK", WAY_OUT)
        _check_type(page, "CMYK", "u1", "u2", "u4")
    if model == YCBCR and not _decoder_converts(page):
        _check_type(page, "YCbCr", "u1")
        _check_default(page, COEFFICIENTS, LUMA)
        _check_default(page, BLACK_WHITE, FULL_RANGE)
    if model in (CIELAB, ICCLAB):
        _check_type(page, "L*a*b*", "u1", "i1", "u2", "i2")


def _check_type(page: TiffPage, name: str, *types: str) -> None:
    if page.dtype is None or page.dtype.str[1:] not in types:
        raise TiffError(f"is in {name} colours of {page.dtype}", WAY_OUT)


def _check_default(page: TiffPage, tag: int, default: tuple[float, ...]) -> None:
    told = page.tags.valueof(tag)
    if told is None:
        return
    numbers = np.asarray(told, np.float64).ravel()
    if len(numbers) == 2 * len(default):  # rationals
        numbers = numbers[::2] / np.where(numbers[1::2], numbers[1::2], np.inf)
    if numbers.shape != (len(default),) or np.abs(numbers - default).max() > 0.005 * max(default):
        raise TiffError("is in YCbCr colours with coefficients of its own", WAY_OUT)


def _decoder_converts(page: TiffPage) -> bool:
    return page.compression in JPEGS and page.planarconfig == 1 and not page.extrasamples


def measured(pixels: np.ndarray, page: TiffPage) -> np.ndarray:
    """Floats with those set to 0 that the file says are no data; other numbers as they are."""
    if pixels.dtype.kind != "f" or NO_DATA_TAG not in page.tags or not page.nodata:
        return pixels
    return np.where(pixels == pixels.dtype.type(page.nodata), pixels.dtype.type(0), pixels)


def shown(pixels: np.ndarray, page: TiffPage, model: int) -> np.ndarray:
    """Stored samples as grey or RGB.

    pixels: (H, W) or (H, W, samples), those of a `Colour`. Returns (H, W) or (H, W, channels).
    """
    if model == PALETTE:
        return _apply_palette(pixels if pixels.ndim == 2 else pixels[..., 0], page.colormap)
    if model == WHITE_IS_ZERO:
        return _invert(pixels, page.bitspersample)
    if model == INKS:
        return _mix(pixels, page.bitspersample)
    if model == YCBCR and not _decoder_converts(page):
        return _from_ycbcr(pixels)
    if model in (CIELAB, ICCLAB):
        return _from_lab(pixels, offset=128 if model == ICCLAB else 0)
    return pixels


def _apply_palette(indices: np.ndarray, colours: np.ndarray | None) -> np.ndarray:
    """colours: (3, entries) uint16, spread over 0..65535 or, by some writers, 0..255."""
    assert colours is not None
    if indices.dtype == np.uint8 and colours.max() > 255:
        colours = colours >> 8
    table = colours.T.astype(np.uint8 if colours.max() <= 255 else np.uint16)
    return np.take(table, indices, axis=0)


def _invert(pixels: np.ndarray, bits: int) -> np.ndarray:
    if pixels.dtype.kind == "f":
        return -pixels
    if pixels.dtype.kind == "c":
        return pixels
    inverted: np.ndarray = np.invert(pixels)
    if pixels.dtype.kind == "u":  # 12 bits in a uint16: the 4 unused ones stay 0
        inverted &= pixels.dtype.type(2**bits - 1)
    return inverted


def _mix(inks: np.ndarray, bits: int) -> np.ndarray:
    """What ink and black leave of the paper's white. (H, W, 4) to (H, W, 3), unsigned integers."""
    full = 2**bits - 1
    left = (full - inks).astype(np.float64)
    mixed: np.ndarray = np.floor(left[..., :3] * left[..., 3:] / full + 0.5).astype(inks.dtype)
    return mixed


def _from_ycbcr(pixels: np.ndarray) -> np.ndarray:
    """The full range of 8 bits, as in a JPEG. (H, W, 3) uint8 to RGB."""
    from PIL import Image

    height, width = pixels.shape[:2]
    stored = np.ascontiguousarray(pixels).tobytes()
    converted = Image.frombytes("YCbCr", (width, height), stored).convert("RGB")
    return np.asarray(converted)


def _from_lab(pixels: np.ndarray, offset: int) -> np.ndarray:
    """CIE L*a*b* under D50 to sRGB of the same size of numbers. (H, W, 3).

    8 bits: L* 0..255, a* and b* signed (CIELAB) or with an offset of 128 (ICCLAB). 16 bits: the
    same times 256, but a CIELAB L* up to 65535 (TIFF Technical Note 4, ICC specification).
    """
    import imagecodecs

    wide = pixels.dtype.itemsize == 2
    unsigned = pixels.view(f"u{pixels.dtype.itemsize}").astype(np.float64)
    signed = pixels.view(f"i{pixels.dtype.itemsize}").astype(np.float64)
    lightness = unsigned[..., 0] * (257 if not wide else 65535 / 65280 if offset else 1)
    ab = unsigned[..., 1:] if offset else signed[..., 1:]
    ab = ab / 256 if wide else ab
    # Little CMS takes 16 bits: L* 0..65535, a* and b* -128 at 0, each 257 to the unit.
    ab = (ab if offset else ab + 128) * 257
    lab = np.concatenate([lightness[..., np.newaxis], ab], axis=-1)
    profiles = imagecodecs.cms_profile("lab4"), imagecodecs.cms_profile("srgb")
    stored = np.clip(np.round(lab), 0, 65535).astype(np.uint16)
    rgb = imagecodecs.cms_transform(stored, *profiles, colorspace="lab", outcolorspace="rgb")
    converted: np.ndarray = rgb if wide else np.round(rgb / 257).astype(np.uint8)
    return converted
