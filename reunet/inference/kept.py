"""A map that is kept band by band while it is made, and gone on with after an interruption.

Legend: V voters, C channels, h, w pixels of the map.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Maps:
    """What networks see in an image: V maps of h × w pixels, one of each voter.

    classes: (V, h, w) uint8: background, interior, boundary. fields: (V, h, w) uint8, the distance
    field, `sliding_window.FIELD_LEVELS` for 1; None of networks without one.
    """

    classes: np.ndarray
    fields: np.ndarray | None = None


@dataclass(frozen=True)
class Carry:
    """Where a map goes on: at the next row of tiles, from the sums that already reach into it.

    row: its number. sums: (V * C, rows, w) float32 of weighted logits. weights: (rows, w) float32.
    empty: tiles so far that show nothing.
    """

    row: int
    sums: np.ndarray
    weights: np.ndarray
    empty: int = 0


class Keeper(Protocol):
    """Keeps the bands of one image's map; where, is its affair."""

    def begun(self, maps: Maps) -> Carry | None:
        """Fill in the rows that are known already, and tell where to go on (None: at the top)."""

    def keep(self, rows: slice, maps: Maps, carry: Carry) -> None:
        """Keep finished rows. What it is given is overwritten later."""
