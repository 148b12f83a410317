"""From cell instances to the three classes the network learns (paper §2.1).

Two encodings, each a matched pair with a decoder of `instances`:

`paper`: the challenge's own: inner boundary of every instance, dilated by a 3×3 cross.
`thin`:  the one-pixel inner boundary alone; keeps cells of a few pixels width alive.
"""

from collections.abc import Callable

import cc3d
import numpy as np

from reunet.options import ENCODINGS

BACKGROUND, INTERIOR, BOUNDARY = 0, 1, 2
CLASSES = ("background", "interior", "boundary")
MIN_INTERIOR = 16  # px; smaller interiors are dropped by the challenge's script


def encode(instances: np.ndarray, encoding: str = "paper") -> np.ndarray:
    """Three classes of an instance label map.

    instances: (H, W) integer, 0 background. Returns (H, W) uint8: 0 background, 1 interior,
    2 boundary. Where a dilated ring and an interior meet, the boundary wins.
    Raises ValueError for an encoding that does not exist.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding {encoding!r} does not exist: choose from {ENCODINGS}")
    return _ENCODERS[encoding](instances)


def inner_boundary(instances: np.ndarray) -> np.ndarray:
    """Pixels of an instance with a 4-neighbour that is not of it. Returns (H, W) bool.

    The picture's frame is no neighbour: a cell cut by it has no boundary there.
    """
    edge = np.zeros(instances.shape, bool)
    rows = instances[1:] != instances[:-1]
    columns = instances[:, 1:] != instances[:, :-1]
    edge[1:] |= rows
    edge[:-1] |= rows
    edge[:, 1:] |= columns
    edge[:, :-1] |= columns
    return edge & (instances > 0)


def dilate(mask: np.ndarray) -> np.ndarray:
    """Dilation by the 3×3 cross. mask: (H, W) bool. Returns (H, W) bool."""
    wider = mask.copy()
    wider[1:] |= mask[:-1]
    wider[:-1] |= mask[1:]
    wider[:, 1:] |= mask[:, :-1]
    wider[:, :-1] |= mask[:, 1:]
    return wider


def _paper(instances: np.ndarray) -> np.ndarray:
    boundary = dilate(inner_boundary(instances))
    interior = (instances > 0) & ~boundary
    interior = cc3d.dust(interior, threshold=MIN_INTERIOR, connectivity=4)
    return _classes(interior, boundary)


def _thin(instances: np.ndarray) -> np.ndarray:
    boundary = inner_boundary(instances)
    return _classes((instances > 0) & ~boundary, boundary)


def _classes(interior: np.ndarray, boundary: np.ndarray) -> np.ndarray:
    classes = np.where(interior, INTERIOR, BACKGROUND).astype(np.uint8)
    classes[boundary] = BOUNDARY
    return classes


_ENCODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = dict(
    zip(ENCODINGS, (_paper, _thin), strict=True)
)
