"""Pictures of every awkward shape, and small networks that were trained on two of them.

Random weights give logits so close to each other that arg-max agreement means little.
"""

import numpy as np
import pytest
import torch
from imagecodecs import imread
from scipy import ndimage

from conftest import PICTURES
from reunet.inference.ensemble import Ensemble
from reunet.inference.normalise import normalise_channels, scaling_of, z_score
from reunet.inference.sliding_window import map_image
from reunet.inference.tiles import Tiling, content_box
from reunet.network.unet import Architecture

PATCH = 64
ARCH = Architecture(features=(8, 16, 32), dropout=0.0)
DEFAULT = Tiling(tile=PATCH, smallest=PATCH, divisor=ARCH.divisor, stretch=1)  # nnU-Net's tiles
THRIFTY = Tiling(tile=PATCH, smallest=16, divisor=ARCH.divisor)


def picture(name: str) -> np.ndarray:
    pixels = np.asarray(imread(PICTURES / f"{name}.png"))
    return normalise_channels(pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1))


def with_margins(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((7, 20), (0, 31), (0, 0)))


NUCLEI, BLOOD = picture("nuclei"), picture("blood")
IMAGES = {
    "grey": NUCLEI,  # 140 × 176
    "colour, odd size": BLOOD,  # 131 × 151
    "one tile": BLOOD[:64, :64],
    "smaller than a tile": NUCLEI[20:61, 100:133],
    "narrower than a tile": BLOOD[:, :37],
    "black margins": with_margins(BLOOD[:80, :101]),
    "one pixel high": BLOOD[50:51],
    "one pixel wide": NUCLEI[:40, 9:10],
    "one pixel": BLOOD[:1, :1],
    "all black": np.zeros((70, 30, 3), np.uint8),
}
each_image = pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())


def rough_classes(image: np.ndarray) -> np.ndarray:
    """Something to learn: the brighter or darker blobs and their rims. Returns (H, W) int64."""
    grey = ndimage.gaussian_filter(image.mean(axis=-1), 1)
    blobs = np.abs(grey - np.median(grey)) > 40
    rims = blobs & ~ndimage.binary_erosion(blobs, iterations=2)
    return np.where(rims, 2, blobs).astype(np.int64)


def train(network: torch.nn.Module, seed: int, steps: int = 150) -> None:
    rng = np.random.default_rng(seed)
    cases = [(z_score(i.transpose(2, 0, 1)), rough_classes(i)) for i in (NUCLEI, BLOOD)]
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        scaled, classes = cases[rng.integers(2)]
        y, x = (rng.integers(n - PATCH + 1) for n in classes.shape)
        patch = slice(y, y + PATCH), slice(x, x + PATCH)
        logits = network(torch.from_numpy(scaled[:, *patch])[None])
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(classes[patch])[None])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def scaled_content(image: np.ndarray) -> np.ndarray:
    channels = image.transpose(2, 0, 1)
    return z_score(channels[:, *content_box(channels)])


def classify(image: np.ndarray, ensemble: Ensemble, tiling: Tiling) -> np.ndarray:
    """Class map of an image in memory, as `segment` makes it: (H, W, 3) uint8 to (H, W) uint8."""
    box = content_box(image.transpose(2, 0, 1))
    scaling, shape = scaling_of(image, box), (image.shape[0], image.shape[1])
    maps = map_image(lambda top, bottom: image[top:bottom], shape, scaling, [ensemble], tiling, box)
    return np.asarray(maps.classes[0])
