"""A map that is kept band by band while it is made, and gone on with after an interruption.

Legend: V voters, C channels, h, w pixels of the map.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

Zeros = Callable[[tuple[int, ...], type[np.integer]], np.ndarray]  # such as np.zeros


@dataclass(frozen=True)
class Maps:
    """What networks see in an image: V maps of h × w pixels, one of each voter.

    classes: (V, h, w) uint8: background, interior, boundary. fields: (V, h, w) uint8, the distance
    field, `sliding_window.FIELD_LEVELS` for 1; None of networks without one. foreground: (V, h, w)
    uint8, how probable it is that a pixel is a cell's, 255 for 1; there where fields are.
    """

    classes: np.ndarray
    fields: np.ndarray | None = None
    foreground: np.ndarray | None = None

    @classmethod
    def blank(cls, shape: tuple[int, int, int], with_fields: bool, zeros: Zeros = np.zeros) -> Self:
        """Maps (V, h, w) of an image in which no cell is seen yet. zeros: makes the arrays."""
        if not with_fields:
            return cls(zeros(shape, np.uint8))
        return cls(zeros(shape, np.uint8), zeros(shape, np.uint8), zeros(shape, np.uint8))

    def named(self) -> dict[str, np.ndarray]:
        """The arrays that are there, by their names."""
        return {name: array for name, array in vars(self).items() if array is not None}

    def of(self, voter: int) -> tuple[np.ndarray, ...]:
        """Classes, field and foreground of one voter, (h, w) each, as far as they are there."""
        return tuple(array[voter] for array in self.named().values())

    def enter(self, rows: slice, band: Mapping[str, np.ndarray]) -> None:
        """Fill in some rows. band: of `named`. Raises KeyError where it lacks an array."""
        for name, array in self.named().items():
            array[:, rows] = band[name]


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
