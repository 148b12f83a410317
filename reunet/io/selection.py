"""What of a file is looked at: `--channels` and `--plane`.

Both count from 0. A plane is one picture of a stack: Z, time, position, whatever axis a file has
beside rows, columns and channels; planes count in the order of the file, the last axis fastest.
Legend: H, W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from reunet.errors import NotThere

MIDDLE, BRIGHTEST, ALL = "middle", "max", "all"
WORDS = (MIDDLE, BRIGHTEST, ALL)
MOST_CHANNELS = 3  # that the networks are shown
NAMED_AT_MOST = 12  # channels listed in an error

Place = tuple[int, ...]  # of a plane, one number an axis


@dataclass(frozen=True)
class Selection:
    """channels: numbers or names, in the order in which they become red, green, blue (none: the
    first three). plane: a number, `middle`, or `max` for the brightest value of all planes (None:
    the first, with a note)."""

    channels: tuple[int | str, ...] = ()
    plane: int | str | None = None

    def __bool__(self) -> bool:
        """Whether anything is selected."""
        return bool(self.channels) or self.plane is not None

    def __str__(self) -> str:
        """In the words of the command line; "" for nothing."""
        parts = [f"channels {','.join(map(str, self.channels))}"] * bool(self.channels)
        return ", ".join(parts + [f"plane {self.plane}"] * (self.plane is not None))


EVERYTHING = Selection()


def parse_channels(text: str) -> tuple[int | str, ...]:
    """`2`, `0,2` or `DAPI,GFP`. Raises ValueError for none, or more than MOST_CHANNELS."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"channels {text!r}: name them as 2, as 0,2 or as DAPI,GFP")
    if len(parts) > MOST_CHANNELS:
        raise ValueError(f"channels {text!r}: name {MOST_CHANNELS} at most")
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def parse_plane(text: str) -> int | str:
    """A number from 0, or one of WORDS. Raises ValueError for anything else."""
    if text in WORDS:
        return text
    if text.isdecimal():
        return int(text)
    raise ValueError(f"plane {text!r}: give a number from 0, or one of {', '.join(WORDS)}")


def selection_of(channels: str | None, plane: str | int | None) -> Selection:
    """What somebody typed. Raises ValueError as `parse_channels` and `parse_plane`."""
    numbers = parse_channels(channels) if channels is not None else ()
    return Selection(numbers, parse_plane(str(plane)) if plane is not None else None)


class Places(NamedTuple):
    """The planes that make up the picture: one, or those whose brightest values count."""

    places: list[Place]
    chosen: bool  # by the user, not assumed
    notes: list[str]


def places_of(axes: Mapping[str, int], first: Place, plane: int | str | None) -> Places:
    """Which planes of a file are wanted.

    axes: the file's, beside rows, columns and channels, with their lengths. first: the plane that
    counts if nobody says which. Raises NotThere for a plane that it lacks.
    """
    lengths = [*axes.values()]
    count = prod(lengths)
    if plane is None:
        return Places([first], False, [])
    if plane == BRIGHTEST:
        return Places([*np.ndindex(*lengths)], True, [])
    if plane == MIDDLE:
        place = tuple(n // 2 for n in lengths)
        number = int(np.ravel_multi_index(place, lengths)) if lengths else 0
        note = f"plane {number} of 0 to {count - 1} is used, the middle one"
        return Places([place], True, [note] if count > 1 else [])
    number = int(plane)
    if number >= count:
        has = f"has planes 0 to {count - 1}" if count > 1 else "has a single plane"
        raise NotThere(f"{has}, there is no plane {number}", "choose another --plane")
    return Places([tuple(int(n) for n in np.unravel_index(number, lengths))], True, [])


def pick_channels(
    pixels: np.ndarray, channels: Sequence[int | str], names: Sequence[str] = ()
) -> np.ndarray:
    """The channels that are wanted, in their order.

    pixels: (H, W) or (H, W, C). channels: as in Selection. names: of the file's channels, as far as
    it names them; upper and lower case are one where that leaves no doubt. Returns (H, W) or
    (H, W, C). Raises NotThere for a channel that is not there.
    """
    if not channels:
        return pixels
    count = 1 if pixels.ndim == 2 else pixels.shape[2]
    numbers = [_number(channel, count, names) for channel in channels]
    if pixels.ndim == 2:
        return pixels if len(numbers) == 1 else np.stack([pixels] * len(numbers), axis=2)
    return pixels[..., numbers[0]] if len(numbers) == 1 else pixels[..., numbers]


def _number(channel: int | str, count: int, names: Sequence[str]) -> int:
    if isinstance(channel, int) and channel < count:
        return channel
    if isinstance(channel, str):
        alike = [n for n, name in enumerate(names[:count]) if name.lower() == channel.lower()]
        exact = [n for n in alike if names[n] == channel]
        if len(exact or alike) == 1:
            return (exact or alike)[0]
        if alike:
            raise NotThere(f"has {len(alike)} channels called {channel!r}", "give a number")
    listed = ", ".join(f"{n} {name}".strip() for n, name in enumerate(_all(names, count)))
    more = ", …" * (count > NAMED_AT_MOST)
    raise NotThere(f"has no channel {channel!s} (it has {listed}{more})", "choose one of these")


def _all(names: Sequence[str], count: int) -> list[str]:
    return [names[n] if n < len(names) else "" for n in range(min(count, NAMED_AT_MOST))]
