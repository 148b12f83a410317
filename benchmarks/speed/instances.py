"""How long the decoders take, and how much memory, on large class maps of 1e3, 1e4 and 1e5 cells.

    python -m benchmarks.speed.instances [--side 2500 5000] [--cells 1000 10000] [--noise]

The maps hold discs of various sizes, many of which touch, encoded as for the training. Every figure
is from a process of its own, of which decoding is all that counts: it runs on one core, so the
processor seconds are the clock's where nothing else runs. Extra memory is what decoding adds to the
process at its peak, the result (4 bytes a pixel) included and the class map not. --noise adds maps
of white noise, the worst there can be.
"""

import argparse
import multiprocessing
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from benchmarks.speed.timing import cores, print_table, processor, version
from reunet.instances.decode import DECODERS, decode
from reunet.instances.encode import encode

TILE = 1000  # px, about: side of the piece that is drawn, and repeated
SMALLEST = 16  # px from cell to cell; closer, few discs have an interior
PACKAGES = ("numpy", "connected-components-3d")
T = TypeVar("T")


class Figures(NamedTuple):
    """Of decoding one map."""

    cells: int
    wall: float  # seconds
    cpu: float  # seconds
    extra: float  # MB


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--side", type=int, nargs="+", default=[2500, 5000, 10000])
    parser.add_argument("--cells", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--encoding", default="paper")
    parser.add_argument("--noise", action="store_true")
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"* {processor()}, {cores()} cores, {platform.system()}")
    print(f"* Python {platform.python_version()}, {versions}, encoding {options.encoding}\n")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classes.npy"
        for side in options.side:
            for cells in [*options.cells, *[None] * options.noise]:
                if cells and side / cells**0.5 < SMALLEST:
                    continue
                alone(draw, path, side, cells, options.encoding)
                for decoder in DECODERS:
                    figures = alone(measure, path, decoder, options.encoding)
                    rows.append(row(side, decoder, figures, noise=cells is None))
                    print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    heads = ("megapixels", "cells", "decoder", "seconds", "processor s", "ns a pixel", "extra MB")
    print_table(heads, rows)


def alone(function: Callable[..., T], *arguments: object) -> T:
    """What the function returns in a new process, whose peak of memory is nobody else's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def draw(path: Path, side: int, cells: int | None, encoding: str) -> None:
    """Store a class map of side × side px with about so many cells (None: white noise)."""
    rng = np.random.default_rng(0)
    if cells is None:
        np.save(path, rng.integers(0, 3, (side, side), np.uint8))
        return
    pitch = side / cells**0.5
    instances = discs(rng, max(1, round(TILE / pitch)), round(pitch))
    repeats = -(-side // len(instances))
    np.save(path, np.tile(encode(instances, encoding), (repeats, repeats))[:side, :side])


def discs(rng: np.random.Generator, count: int, pitch: int) -> np.ndarray:
    """A field of count × count discs in squares of pitch px, cut where they leave their square."""
    y, x = np.mgrid[:pitch, :pitch] + 0.5
    field = np.zeros((count * pitch, count * pitch), np.int32)
    for number, (row, column) in enumerate(np.ndindex(count, count), start=1):
        centre = pitch * rng.uniform(0.4, 0.6, 2)
        inside = np.hypot(y - centre[0], x - centre[1]) < pitch * rng.uniform(0.3, 0.6)
        square = field[row * pitch :, column * pitch :][:pitch, :pitch]
        square[inside] = number
    return field


def measure(path: Path, decoder: str, encoding: str) -> Figures:
    """Decode a stored class map."""
    classes = np.load(path)
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    instances = decode(classes, decoder, encoding)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    extra = peak() - before
    return Figures(int(instances.max()), wall, cpu, extra)


def peak() -> float:
    """The most memory in MB that this process has held so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


def row(side: int, decoder: str, figures: Figures, *, noise: bool) -> tuple[str, ...]:
    """The cells of a row of the table."""
    cells, wall, cpu, extra = figures
    found = f"{cells:,}".replace(",", " ") + (" in noise" if noise else "")
    each = cpu / side**2 * 1e9
    size = f"{side**2 / 1e6:g}"
    return (size, found, decoder, f"{wall:.2f}", f"{cpu:.2f}", f"{each:.0f}", f"{extra:.0f}")


if __name__ == "__main__":
    main()
