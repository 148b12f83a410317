"""Images whose labels must not move: the samples, one of small cells, and a slide made of samples.

Nothing of `reunet` makes them, so that they are the same for every version of it.
"""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

SAMPLES = Path(__file__).resolve().parents[1] / "data" / "samples" / "images"
SMALL = "bbbc039__IXMtest_D20_s9.png"  # halved, its cells are a dozen pixels wide
ON_SLIDE = {"dsb2018__00ae65c1c6631ae6.png": (700, 900), "usiigaci__set26.png": (2600, 2300)}
SLIDE_SHAPE = 4100, 4000  # px; over the 16 million from which on images are streamed
GREY = 40  # of 255, around the samples on the slide: nothing to see, and no black margin

OPTIONS = {"samples": (), "small": (), "slide": ("--no-tta",)}  # a slide takes its time


def make_inputs(folder: Path) -> dict[str, Path]:
    """Write the images into `folder`: an input of `reunet predict` for every entry of OPTIONS."""
    small, slide = folder / "small.png", folder / "slide.tif"
    size = [length // 2 for length in _grey(SAMPLES / SMALL).shape]
    picture = Image.fromarray(_grey(SAMPLES / SMALL))
    picture.resize((size[1], size[0]), Image.Resampling.BOX).save(small)
    tifffile.imwrite(slide, _slide(), compression="zlib", rowsperstrip=64)
    return {"samples": SAMPLES, "small": small, "slide": slide}


def _slide() -> np.ndarray:
    pixels = np.full(SLIDE_SHAPE, GREY, np.uint8)
    for name, (top, left) in ON_SLIDE.items():
        sample = _grey(SAMPLES / name)
        pixels[top : top + sample.shape[0], left : left + sample.shape[1]] = sample
    return pixels


def _grey(path: Path) -> np.ndarray:
    """A sample as (H, W) uint8, spread over all of 0..255."""
    with Image.open(path) as picture:
        values = np.asarray(picture)
    grey = values.astype(np.float64)
    grey = grey if grey.ndim == 2 else grey[..., :3].mean(axis=2)
    return ((grey - grey.min()) / (grey.max() - grey.min()) * 255).round().astype(np.uint8)
