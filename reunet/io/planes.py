"""What readers of stacks give: planes of one size, read in bands of rows. One way for all formats.

Legend: H, W pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from reunet.io.region import Window
from reunet.io.selection import Place, Selection, pick_channels, places_of

ROWS = 256  # px, of a band: large enough for array operations to pay, small beside a slide

CheckSize = Callable[[int, int, int], None]  # (H, W, bytes of a pixel), from the header; may raise


class Planes(Protocol):
    """An open file. It stands at one of its planes, from the start at the one that counts."""

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of a plane."""

    @property
    def stacked(self) -> Mapping[str, int]:
        """Axes beside rows, columns and channels, with their lengths, in the file's order."""

    @property
    def place(self) -> Place:
        """Of the plane it stands at."""

    @property
    def names(self) -> Sequence[str]:
        """What the file calls its channels, as far as it does."""

    @property
    def has_alpha(self) -> bool:
        """Whether an alpha channel is left out."""

    @property
    def notes(self) -> list[str]:
        """What was assumed about the file and, unless it was moved by `at`, about the plane."""

    def at(self, place: Place) -> Self:
        """The same file at another plane."""

    def bands(self, window: Window | None = None) -> Iterator[np.ndarray]:
        """The plane from top to bottom, (rows, W) or (rows, W, channels), without alpha.

        window: all that is wanted of it, and all that is decoded as far as the file allows.
        """


# (path, as_shown, check_size) -> Planes; what each module of `images.FORMATS` calls `open_plane`
OpenPlanes = Callable[[Path, bool, CheckSize], AbstractContextManager[Planes]]


def selected_bands(
    planes: Planes, selection: Selection, window: Window | None = None
) -> tuple[list[str], Iterator[np.ndarray]]:
    """Notes on an open file, and what is selected of it, in bands of rows.

    window: rows and columns (None: all). Bands: (rows, W) or (rows, W, channels). Raises NotThere
    for a plane that the file lacks, at once, or for a channel, with the first band.
    """
    places, chosen, told = places_of(planes.stacked, planes.place, selection.plane)
    at = [planes.at(place) for place in places] if chosen else [planes]

    def bands() -> Iterator[np.ndarray]:
        for parts in zip(*(plane.bands(window) for plane in at), strict=True):
            brightest = parts[0] if len(parts) == 1 else np.maximum.reduce(parts)
            yield pick_channels(brightest, selection.channels, planes.names)

    return [*at[0].notes, *told], bands()


@dataclass(frozen=True)
class Stack:
    """Planes of an array that is read part by part.

    axes: a letter for each axis of the array; Y and X are rows and columns, C or S channels.
    read: gives what an index with a slice or number for every axis takes out of the array.
    step: rows that are as cheap to read as one. names: of channels. told: notes on the file.
    """

    axes: str
    lengths: tuple[int, ...]
    read: Callable[[tuple[Any, ...]], np.ndarray]
    step: int = ROWS
    names: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    chosen: Place | None = None
    has_alpha: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of a plane."""
        return self._length("Y"), self._length("X")

    @property
    def channels(self) -> int:
        """Their number, 1 where there is no such axis."""
        return self._length(self._last) if self._last else 1

    @property
    def _last(self) -> str:
        """The letter of the axis of channels; of two, the one that is longer than 1."""
        letters = [axis for axis in "SC" if axis in self.axes]
        return next((axis for axis in letters if self._length(axis) > 1), "".join(letters[:1]))

    def _length(self, axis: str) -> int:
        return self.lengths[self.axes.index(axis)]

    @property
    def stacked(self) -> dict[str, int]:
        """Axes that a picture lacks, with their lengths."""
        pairs = zip(self.axes, self.lengths, strict=True)
        return {axis: n for axis, n in pairs if axis not in "YX" + self._last}

    @property
    def place(self) -> Place:
        """Of the plane it stands at."""
        return self.chosen if self.chosen is not None else (0,) * len(self.stacked)

    @property
    def notes(self) -> list[str]:
        """What was assumed."""
        if self.chosen is not None:
            return [*self.told]
        more = [(axis, n) for axis, n in self.stacked.items() if n > 1]
        return [*self.told, *(f"axis {a} holds {n} planes, the first is used" for a, n in more)]

    def at(self, place: Place) -> "Stack":
        """The same array at another plane."""
        return replace(self, chosen=place)

    def bands(self, window: Window | None = None) -> Iterator[np.ndarray]:
        """The plane from top to bottom, (rows, W) or (rows, W, channels). window: see `Planes`."""
        rows, columns = window or (slice(0, self.shape[0]), slice(None))
        numbers = dict(zip(self.stacked, self.place, strict=True))
        kept = [axis for axis in self.axes if axis not in numbers]
        order = [kept.index(axis) for axis in "YX" + self._last]
        for part in steps(rows, self.step):
            places = {"Y": part, "X": columns, **numbers}
            index = (places.get(axis, slice(None)) for axis in self.axes)
            yield self.read(tuple(index)).transpose(order)


def steps(rows: slice, step: int) -> Iterator[slice]:
    """Rows cut at the multiples of a step."""
    for top in range(rows.start // step * step, rows.stop, step):
        yield slice(max(top, rows.start), min(top + step, rows.stop))
