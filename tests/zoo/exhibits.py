"""What an exhibit of the zoo is, the real pixels it shows, and what writes it."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

DATA = Path(__file__).resolve().parents[1] / "data"
H, W = 61, 53  # not square, odd, no multiple of a tile
LABELS, ERROR, PASSED_OVER = "labels", "error", "passed over"


@dataclass(frozen=True)
class Expectation:
    """What a file is, and what has to become of it."""

    group: str
    what: str
    outcome: str = LABELS
    plain: str = ""  # the PNG in OUT/plain that holds the same pixels
    error: str = ""  # that the message has to hold
    notes: int = 0  # how many assumptions the log has to name


@dataclass(frozen=True)
class Exhibit:
    """A file of the zoo. write: given the path to write to."""

    name: str
    write: Callable[[Path], object]
    expected: Expectation


def crop(name: str, top: int, left: int) -> np.ndarray:
    """H × W pixels of a real image."""
    return np.asarray(Image.open(DATA / name))[top : top + H, left : left + W]


COLOUR = crop("images/blood.png", 20, 30)  # (H, W, 3) uint8
GREY8 = crop("images/nuclei.png", 20, 30)  # (H, W) uint8, no zeros
SAMPLES = "samples/images"
PLANES = np.stack(  # (7, H, W) uint8, all different
    [
        *np.moveaxis(COLOUR, -1, 0),
        GREY8,
        crop(f"{SAMPLES}/baby_yeast_bf__prime95b_testC_tp3.png", 10, 5),
        crop(f"{SAMPLES}/usiigaci__set26.png", 100, 200),
        crop(f"{SAMPLES}/bbbc039__IXMtest_D20_s9.png", 100, 200),
    ]
)
ALPHA = PLANES[5]
BILEVEL = GREY8 > 60
INDEXED = Image.fromarray(COLOUR).quantize(200)
INDICES = np.asarray(INDEXED)  # (H, W) uint8 below 200
COLOURS = np.reshape(INDEXED.getpalette(), (-1, 3)).astype(np.uint8)
FEW = Image.fromarray(COLOUR).quantize(13)
FEW_INDICES, FEW_COLOURS = np.asarray(FEW), np.reshape(FEW.getpalette(), (-1, 3)).astype(np.uint8)


def levels(bits: int) -> np.ndarray:
    """Grey of so many bits, (H, W) uint8 below 2**bits."""
    return PLANES[4] >> (8 - bits)


def spread(bits: int) -> np.ndarray:
    """The same as a viewer shows it, 0..255."""
    return levels(bits) * np.uint8(255 // (2**bits - 1))


def first_of(count: int) -> np.ndarray:
    """The picture that the first channels make, (H, W) or (H, W, 3)."""
    if count == 1:
        return PLANES[0]
    padded = np.pad(PLANES[: min(count, 3)], ((0, max(0, 3 - count)), (0, 0), (0, 0)))
    return np.moveaxis(padded, 0, -1)


def from_cmyk(inks: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 ink, 255 for full, to RGB: what neither the ink nor the black takes away."""
    left = 255.0 - inks
    return np.floor(left[..., :3] * left[..., 3:] / 255 + 0.5).astype(np.uint8)


def inks_of(colour: np.ndarray) -> np.ndarray:
    """A separation with black, (H, W, 4) uint8."""
    black = 255 - colour.max(axis=-1, keepdims=True)
    light = np.maximum(255 - black.astype(float), 1)
    inks = 255 - np.round(colour * 255 / light)
    return np.concatenate([inks, black], axis=-1).astype(np.uint8)


PLAIN = {
    "colour": COLOUR,
    "grey": GREY8,
    "bilevel": BILEVEL.astype(np.uint8) * np.uint8(255),
    "bilevel-inverted": (~BILEVEL).astype(np.uint8) * np.uint8(255),
    "grey-inverted": 255 - GREY8,
    "palette": COLOURS[INDICES],
    "palette-13": FEW_COLOURS[FEW_INDICES],
    "levels-1": spread(1),
    "levels-2": spread(2),
    "levels-4": spread(4),
    "first-plane": PLANES[0],
    "two-channels": first_of(2),
    "colour-555": ((COLOUR >> 3).astype(np.uint16) * 255 // 31).astype(np.uint8),
    "cmyk": from_cmyk(inks_of(COLOUR)),
    "grey-halved": GREY8 >> 1,
    "grey-dark-spot": np.where(np.arange(H * W).reshape(H, W) < 3, 0, GREY8).astype(np.uint8),
    "sparse": np.where(
        np.arange(W)[None] < 32, np.where(np.arange(H)[:, None] < 32, 0, GREY8), GREY8
    ),
}


def put(content: bytes) -> Callable[[Path], object]:
    """Write these bytes."""
    return lambda path: path.write_bytes(content)


def pillow(image: Image.Image, kind: str, **options: Any) -> Callable[[Path], object]:
    """Have Pillow write a file of this kind, whatever its ending."""
    return lambda path: image.save(path, format=kind, **options)


def tiff(pixels: np.ndarray, **options: Any) -> Callable[[Path], object]:
    """Have tifffile write a TIFF; grey unless the options say otherwise, no metadata."""
    defaults = {"photometric": "minisblack", "metadata": None}
    return lambda path: tifffile.imwrite(path, pixels, **{**defaults, **options})


def rgb_tiff(**options: Any) -> Callable[[Path], object]:
    """The colour crop as TIFF."""
    return tiff(COLOUR, photometric="rgb", **options)


def as_bytes(write: Callable[[Path], object]) -> bytes:
    """What a writer writes."""
    buffer = io.BytesIO()
    write(buffer)  # type: ignore[arg-type]  # Pillow and tifffile take files, too
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    """Tells viewers how to turn the picture."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags
