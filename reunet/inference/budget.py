"""How much of the ensemble an image's time allows (paper §2.7, "Predict").

The challenge gives an image 10 s up to a megapixel and 10 s for each megapixel beyond. How many
folds, mirror images and tiles fit is found from the time of one pass of one network over a tile.
"""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reunet.inference.second_pass import LARGEST, enlarged, few_tiles
from reunet.inference.tiles import FLIPS, STEP, WIDE_STEP, tile_starts
from reunet.options import Options

if TYPE_CHECKING:
    from reunet.inference.tiles import Tiling
    from reunet.model import Model

CHALLENGE = "challenge"
SECONDS_PER_MEGAPIXEL = 10.0  # and for any image smaller than that
RESERVE = 0.2  # share kept back: instances, writing, and machines that slow down under load
Tile = tuple[int, int]  # px, (h, w)
TileSeconds = dict[Tile, float]  # seconds of a pass of one network, by tile


@dataclass(frozen=True)
class Plan:
    """What an image gets: the first `folds` networks, so many `views` of each tile (itself and
    mirror images), tiles `step` apart, and a second pass if its cells are small."""

    folds: int
    views: int
    step: float = STEP
    second_pass: bool = False

    def pixels(self, shape: tuple[int, int], tiling: "Tiling") -> int:
        """Pixels that go through a network for an image of (H, W), those of the second pass too:
        whether cells are small shows after the first."""
        first = replace(tiling, step=self.step)
        pixels = self._pixels(shape, first)
        if self.second_pass:
            pixels += self._pixels(enlarged(shape), few_tiles(first))
        return pixels

    def _pixels(self, shape: tuple[int, int], tiling: "Tiling") -> int:
        tile = tiling.edge(shape[0]), tiling.edge(shape[1])
        rows, columns = (
            len(tile_starts(max(n, edge), edge, tiling.step))
            for n, edge in zip(shape, tile, strict=True)
        )
        return rows * columns * prod(tile) * self.folds * self.views

    def __str__(self) -> str:
        mirrors = f"{self.views} views of a tile" if self.views > 1 else "no mirroring"
        return f"{self.folds} fold{'s' * (self.folds > 1)}, {mirrors}, tiles {self.step:g} apart"


def plans(
    folds: int, views: int = len(FLIPS), second_pass: bool = True, step: float = STEP
) -> Iterator[Plan]:
    """Plans from the best to the cheapest.

    By what each gives on the validation images (docs/experiments.md): the second pass more than
    mirroring, folds that vote more than either, overlap the least.
    views: of a tile, and step: of tiles, where time allows them. second_pass: whether there may be
    one at all.
    """
    whole = [Plan(folds, views, step)] if views > 1 else []
    whole += [Plan(folds, 1, s) for s in dict.fromkeys((step, max(step, WIDE_STEP)))]
    if second_pass:
        yield from (replace(plan, second_pass=True) for plan in whole)
    yield from whole
    for count in range(folds - 1, 0, -1):
        yield Plan(count, 1, WIDE_STEP)


def allowance(budget: str, shape: tuple[int, int]) -> float:
    """Seconds that an image of (H, W) pixels may take. budget: CHALLENGE or a number of seconds.

    Raises ValueError for anything else.
    """
    if budget == CHALLENGE:
        return SECONDS_PER_MEGAPIXEL * max(1.0, shape[0] * shape[1] / 1e6)
    try:
        seconds = float(budget)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"budget {budget!r}: give {CHALLENGE} or seconds above 0 for each image")
    return seconds


def choose(
    seconds: float,
    per_pixel: float,
    shape: tuple[int, int],
    tiling: "Tiling",
    candidates: Iterable[Plan],
) -> tuple[Plan, bool]:
    """The first plan that fits into `seconds`, and whether it does; if none does, the last one.

    per_pixel: seconds of one network for each pixel of a tile.
    """
    for plan in candidates:
        if plan.pixels(shape, tiling) * per_pixel <= seconds * (1 - RESERVE):
            return plan, True
    return plan, False


def fit(
    model: "Model",
    options: Options,
    shape: tuple[int, int],
    seconds: float,
    tile_seconds: TileSeconds,
) -> tuple["Model", Options, str]:
    """The folds and the options to predict an image of (H, W) pixels with, and a word on them.

    seconds: until the label has to be written. options: what they rule out is not done.
    tile_seconds: which the first image of a run fills in.
    """
    started = time.perf_counter()
    tiling = model.tiling(options)
    tile = tiling.edge(shape[0]), tiling.edge(shape[1])
    if tile not in tile_seconds:
        tile_seconds[tile] = seconds_per_pass(model, tile)
    seconds -= time.perf_counter() - started
    per_pixel = tile_seconds[tile] / prod(tile)
    second_pass = model.looks_twice(options) and prod(shape) <= LARGEST
    candidates = plans(len(model.folds), options.views, second_pass, tiling.step)
    plan, fits = choose(seconds, per_pixel, shape, tiling, candidates)
    needed = plan.pixels(shape, tiling) * per_pixel
    note = f"{plan}: about {needed:.1f} s of {max(seconds, 0):.1f} s"
    if second_pass and not plan.second_pass:
        note = f"{note}; no second pass if cells are small"
    if not fits:
        note = f"{note}, the least there is; it may take longer than allowed"
    tta = options.tta if plan.views == options.views else False
    asked = replace(options, tta=tta, step=plan.step, enlarge=plan.second_pass)
    return model.first(plan.folds), asked, f"time allows {note}"


def seconds_per_pass(model: "Model", tile: Tile) -> float:
    """Seconds of the first network over a tile of (h, w), within a batch as large as it takes."""
    tiles = np.zeros((model.batch, 3, *tile), np.float32)
    model.networks[0](tiles)  # the first call compiles
    started = time.perf_counter()
    model.networks[0](tiles)
    return (time.perf_counter() - started) / model.batch


def seconds_since_start() -> float:
    """Age of this process: its start-up counts in the challenge. 0 where it is unknown."""
    try:
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        return max(0.0, uptime - started / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):  # not Linux
        return 0.0
