"""Looking on while an image goes through the networks: how far they are, what they say of a pixel.

Legend: V voters, C channels (3 classes first), h, w pixels of what the networks are shown, H, W
pixels of the image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Tell = Callable[[int, int], None]  # (tiles done, tiles in all)

CLASSES = 3  # background, interior, boundary


@dataclass
class Watch:
    """Is told of every tile and of every finished band of logits.

    tell: called with the number of tiles that are done, and of all. probabilities: (3, h, w)
    float16 of `nothing_yet`, filled from the bands; None: they are not kept. tiles, empty: how many
    there are, and how many of them show nothing and were not given to the networks.
    """

    tell: Tell | None = None
    probabilities: np.ndarray | None = None
    tiles: int = 0
    empty: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken for granted of tiles that show nothing."""
        if not self.empty:
            return ()
        some = f"{self.empty} of {self.tiles}"
        return (f"tiles that show nothing: {some}, taken for background (--all-tiles: not)",)

    def tile(self, done: int, total: int) -> None:
        """A tile is through the networks, or was found empty."""
        self.tiles = total
        if self.tell:
            self.tell(done, total)

    def band(self, rows: slice, columns: slice, logits: np.ndarray, voters: int) -> None:
        """Rows of the map are finished. logits: (V * C, rows, columns)."""
        if self.probabilities is not None:
            mean = logits.reshape(voters, -1, *logits.shape[1:])[:, :CLASSES].mean(axis=0)
            self.probabilities[:, rows, columns] = softmax(mean)


def nothing_yet(shape: tuple[int, int]) -> np.ndarray:
    """Probabilities of an image of which nothing is known but that it is dark: background."""
    probabilities = np.zeros((CLASSES, *shape), np.float16)
    probabilities[0] = 1
    return probabilities


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of classes, the first axis; float32."""
    powers = np.exp(logits - logits.max(axis=0))
    shares: np.ndarray = powers / powers.sum(axis=0)
    return shares


def at_shape(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Probabilities with (H, W) pixels: bilinear, or means over areas where they shrink.

    probabilities: (3, h, w) float16. Returns (3, H, W) float16, of each pixel still 1 in sum.
    """
    if probabilities.shape[1:] == shape:
        return probabilities
    from PIL import Image  # not imported where nothing is scaled

    shrinks = shape[0] * shape[1] < probabilities[0].size
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    size = shape[1], shape[0]
    resized = np.empty((CLASSES, *shape), np.float16)
    for before, after in zip(probabilities, resized, strict=True):
        after[:] = np.asarray(Image.fromarray(before.astype(np.float32)).resize(size, how))
    return resized


def confidence_of(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """How probable it is, on the mean over a cell's pixels, that they belong to a cell.

    labels: (H, W) integers, 0 background, cells 1..N. probabilities: (3, H, W). Returns
    (N + 1,) float32 by the cell's number, 0 for the background.
    """
    of_a_cell = 1 - probabilities[0].astype(np.float32)
    sums = np.bincount(labels.ravel(), of_a_cell.ravel())
    sums[0] = 0
    confidence: np.ndarray = (sums / np.maximum(np.bincount(labels.ravel()), 1)).astype(np.float32)
    return confidence.clip(0, 1)
