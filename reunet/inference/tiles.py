"""How an image is cut into tiles, where they lie and what they weigh (paper §2.7, "Predict").

The rules are nnU-Net's, which the paper predicts with. Legend: H, W pixels of an image; h, w
pixels of a tile. 2-D is the product of two axes, so most functions know one axis only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

STEP = 0.5  # of a tile: neighbours overlap by half
STRETCH_OF_SIZED = 1.0  # of weights that bring cells to a size: one graph serves all tiles
WIDE_STEP = 0.75  # … or by a quarter: 2.25 times fewer tiles on large images
STRETCH = 1.25  # a 640×640 image costs 1.6 tiles of 512×512 instead of 4, cells as good
SIGMA = 1 / 8  # of a tile: width of the weight map
PEAK = 10.0  # weight at a tile's centre; 10·e^-16 at its corner

Window = tuple[slice, slice]  # rows, columns
Margins = tuple[tuple[int, int], tuple[int, int]]  # (above, below), (left, right)
Flip = tuple[int, ...]  # axes of (…, h, w)
FLIPS: Sequence[Flip] = ((), (-2,), (-1,), (-2, -1))  # none, upside down, left to right, both
VIEWS = {1: FLIPS[:1], 2: (FLIPS[0], FLIPS[-1]), 4: FLIPS}  # by how many: 2 are turned by 180°


@dataclass(frozen=True)
class Tiling:
    """How an image is cut for the network, and how the pieces are added up."""

    tile: int  # px, edge of a tile; a multiple of divisor
    smallest: int  # px, shortest edge an image is padded to: the training patch
    divisor: int  # px, edges that the network takes are multiples (`Architecture.divisor`)
    views: int = len(FLIPS)  # of VIEWS: average over so many mirror images, itself counted
    step: float = STEP  # of a tile: distance of neighbours
    stretch: float = STRETCH  # of a tile: longest axis that gets one that holds it, not two
    batch: int = 1  # tiles × mirror images that the network is given at once
    skip: bool = False  # spare the network the tiles that `is_empty`
    outputs: int = 3  # channels of the network's output (`Architecture.outputs`)

    def __post_init__(self) -> None:
        """Raises ValueError for edges that the network cannot take and views that there are not."""
        if self.views not in VIEWS:
            raise ValueError(f"views is {self.views}: choose from {[*VIEWS]}")
        if self.stretch < 1:
            raise ValueError(f"stretch is {self.stretch}: a tile's edge times 1 or more")
        if not 1 <= self.smallest <= self.tile:
            raise ValueError(f"smallest edge {self.smallest} is not within 1..{self.tile} (tile)")
        if self.tile % self.divisor or self.smallest % self.divisor:
            raise ValueError(
                f"tile {self.tile} and smallest {self.smallest} have to be multiples of "
                f"{self.divisor}, the network's divisor"
            )

    @property
    def longest(self) -> int:
        """Longest edge of a tile in px."""
        return int(self.stretch * self.tile) // self.divisor * self.divisor

    def edge(self, length: int) -> int:
        """Edge of the tiles along an axis of `length` pixels.

        An axis up to `longest` gets a tile that just holds it. nnU-Net pads a short axis to the
        full tile, which changes the logits, as instance norm sees the padding; and one that is a
        little longer it predicts twice, with two tiles that share nearly all of it.
        """
        if length > self.longest:
            return self.tile
        return max(self.smallest, -(-length // self.divisor) * self.divisor)

    @property
    def flips(self) -> Sequence[Flip]:
        """The mirror images to average over."""
        return VIEWS[self.views]


def tile_starts(length: int, tile: int, step: float = STEP) -> list[int]:
    """First pixels of the tiles along an axis, evenly spread from border to border.

    length, tile: pixels; step: largest distance of neighbours as a share of the tile, in (0, 1].
    The starts ascend from 0 to length - tile, so every pixel is covered. Halves round to even.
    Raises ValueError for an axis shorter than the tile (pad it first) and for another step.
    """
    if not 1 <= tile <= length:
        raise ValueError(f"a tile of {tile} pixels does not fit an axis of {length}: pad it first")
    if not 0 < step <= 1:
        raise ValueError(f"step is {step}: choose a share of the tile, above 0 and up to 1")
    room = length - tile
    gaps = ceil(room / (step * tile))
    return [round(room / gaps * n) for n in range(gaps + 1)] if gaps else [0]


def gaussian_importance(height: int, width: int) -> np.ndarray:
    """Weight of every pixel of a tile: 10·exp(-d²/2), d in sigmas of an eighth of the tile.

    Returns (height, width) float32, all > 0. The centre is pixel (height // 2, width // 2), as in
    nnU-Net, which filters an impulse there; the closed form gives the same bits.
    """
    return (PEAK * np.outer(_bell(height), _bell(width))).astype(np.float32)


def _bell(length: int) -> np.ndarray:
    sigmas = (np.arange(length) - length // 2) / (length * SIGMA)
    bell: np.ndarray = np.exp(-0.5 * np.square(sigmas))
    return bell


def content_box(image: np.ndarray) -> Window:
    """Bounding box of the pixels that are not zero in every channel.

    image: (3, H, W), any dtype. An image that is all zero counts as all content.
    """
    rows, columns = (np.asarray(image.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    return bounding_box(rows, columns)


def bounding_box(rows: np.ndarray, columns: np.ndarray) -> Window:
    """Box around the rows (H,) and columns (W,) that are true; around all where none is."""
    if not rows.any():
        return slice(0, rows.size), slice(0, columns.size)
    vertical, horizontal = np.flatnonzero(rows), np.flatnonzero(columns)
    return (
        slice(int(vertical[0]), int(vertical[-1]) + 1),
        slice(int(horizontal[0]), int(horizontal[-1]) + 1),
    )


def centred_padding(shape: tuple[int, int], least: tuple[int, int]) -> Margins:
    """Pixels to add around an (H, W) image so that it measures `least` or more.

    An odd pixel goes below or to the right. An axis that is long enough gets (0, 0).
    """
    missing = [max(0, goal - length) for length, goal in zip(shape, least, strict=True)]
    vertical, horizontal = ((n // 2, n - n // 2) for n in missing)
    return vertical, horizontal
