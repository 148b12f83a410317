"""How long the decoders and the weight map take, and how much memory, on many cells.

    python -m benchmarks.speed.cells [--side 2500 5000 10000] [--cells 1000 10000 100000]

The images hold discs of various sizes, many of which touch, encoded as for the training. Every
figure is from a process of its own; `field` works on two bands at a time, the others on one core.
Extra memory is what the work adds to the process at its peak, the result included and what it is
given not. The weight map is made for training images alone: larger ones than WEIGHTED px are left
out.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.speed.timing import machine, print_table
from reunet.inference.sliding_window import stored_field
from reunet.instances.decode import decode
from reunet.instances.encode import encode
from reunet.instances.peaks import decode_field
from reunet.instances.weight_map import closeness

TILE = 1000  # px, about: side of the piece that is drawn, and repeated
SMALLEST = 16  # px from cell to cell; closer, few discs have an interior
WEIGHTED = 2500  # px, side of the largest image that gets a weight map
SEEN = ("classes", "field", "foreground")
WORK: dict[str, Callable[..., np.ndarray]] = {  # of the arrays of `draw`
    "decoder `field`": lambda given: decode_field(*(given[name] for name in SEEN)),
    "decoder `regrow`": lambda given: decode(given["classes"], "regrow", "paper"),
    "decoder `paper`": lambda given: decode(given["classes"], "paper", "paper"),
    "weight map": lambda given: closeness(given["cells"]),
}
T = TypeVar("T")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--side", type=int, nargs="+", default=[2500, 5000, 10000])
    parser.add_argument("--cells", type=int, nargs="+", default=[1000, 10000, 100000])
    options = parser.parse_args()
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for side in options.side:
            for cells in (n for n in options.cells if side / n**0.5 >= SMALLEST):
                drawn = alone(draw, Path(folder), side, cells)
                for work in WORK:
                    if work != "weight map" or side <= WEIGHTED:
                        wall, cpu, extra = alone(measure, Path(folder), work)
                        figures = f"{wall:.2f}", f"{cpu:.2f}", f"{1e9 * cpu / side**2:.0f}"
                        rows.append((side**2 / 1e6, drawn, work, *figures, f"{extra / 1e6:.0f}"))
    heads = ("megapixels", "cells", "", "seconds", "processor s", "ns a pixel", "extra MB")
    print_table(heads, rows)


def alone(function: Callable[..., T], *arguments: object) -> T:
    """What the function returns in a new process, whose peak of memory is nobody else's."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def draw(folder: Path, side: int, cells: int) -> int:
    """Store cells, and maps of them, of side × side px with about so many cells; how many."""
    from reunet.training.data.field import distance_field

    pitch = side / cells**0.5
    piece = discs(np.random.default_rng(0), max(1, round(TILE / pitch)), round(pitch))
    repeats = -(-side // len(piece))
    every = np.arange(repeats**2, dtype=np.int32).reshape(repeats, repeats) * piece.max()
    numbered = np.tile(piece, (repeats, repeats)) + np.kron(every, piece > 0)
    classes = np.tile(encode(piece, "paper"), (repeats, repeats))
    arrays = {
        "cells": numbered,
        "classes": classes,
        "foreground": np.where(classes, 255, 0).astype(np.uint8),
        "field": np.tile(stored_field(distance_field(piece)), (repeats, repeats)),
    }
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values[:side, :side])
    return len(np.unique(numbered[:side, :side])) - 1


def discs(rng: np.random.Generator, count: int, pitch: int) -> np.ndarray:
    """A field of count × count discs in squares of pitch px, cut where they leave their square."""
    y, x = np.mgrid[:pitch, :pitch] + 0.5
    field = np.zeros((count * pitch, count * pitch), np.int32)
    for number, (row, column) in enumerate(np.ndindex(count, count), start=1):
        centre = pitch * rng.uniform(0.4, 0.6, 2)
        inside = np.hypot(y - centre[0], x - centre[1]) < pitch * rng.uniform(0.3, 0.6)
        field[row * pitch :, column * pitch :][:pitch, :pitch][inside] = number
    return field


def measure(folder: Path, work: str) -> tuple[float, float, float]:
    """Seconds, processor seconds and extra bytes of one piece of work."""
    given = {name: np.load(folder / f"{name}.npy") for name in ("cells", *SEEN)}
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    WORK[work](given)
    return time.perf_counter() - wall, time.process_time() - cpu, peak() - before


def peak() -> float:
    """The most memory in bytes that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
