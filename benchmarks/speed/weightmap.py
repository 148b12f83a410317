"""Time of the weight map's distance term by cells and pixels, against the definition's.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.weightmap [--repeats 3] [--no-reference]

Prints Markdown tables of processor seconds (the best of the repeats) on discs of one size that lie
at random places of a grid: any number of cells on any number of pixels, and as many cells a pixel
everywhere. The definition is one distance transform of the whole picture for every cell.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from reunet.instances.weight_map import closeness

CELLS = (100, 400, 1600)
MEGAPIXELS = (1, 4, 16)
DENSITY = 400  # cells a megapixel, for the table of one density
RADIUS = 10  # px
REFERENCE_CELLS = 300
SEED = 0


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-reference", action="store_true", help="skip the definition: a minute")
    options = parser.parse_args()
    print_by_cells(options.repeats)
    print_by_density(options.repeats)
    if not options.no_reference:
        print_against_reference(options.repeats)


def print_by_cells(repeats: int) -> None:
    """Seconds for every number of cells and of megapixels."""
    print("| cells | " + " | ".join(f"{mpx} Mpx" for mpx in MEGAPIXELS) + " |")
    print("|---" * (len(MEGAPIXELS) + 1) + "|")
    for cells in CELLS:
        times = [seconds(closeness, discs(cells, edge(mpx)), repeats) for mpx in MEGAPIXELS]
        print(f"| {cells} | " + " | ".join(f"{t:.2f}" for t in times) + " |", flush=True)


def print_by_density(repeats: int) -> None:
    """Seconds where cells and pixels grow together: time goes with the area of the cells."""
    print("\n| Mpx | cells | area of the cells, Mpx | seconds | seconds a Mpx of cells |")
    print("|---" * 5 + "|")
    for mpx in MEGAPIXELS:
        labels = discs(DENSITY * mpx, edge(mpx))
        area = np.count_nonzero(labels) / 1e6
        t = seconds(closeness, labels, repeats)
        print(f"| {mpx} | {DENSITY * mpx} | {area:.2f} | {t:.2f} | {t / area:.2f} |", flush=True)


def print_against_reference(repeats: int) -> None:
    """Ours and the definition's seconds for one picture, and how far apart their results are."""
    labels = discs(REFERENCE_CELLS, edge(1))
    ours = seconds(closeness, labels, repeats)
    theirs = seconds(reference, labels, 1)
    apart = float(np.abs(closeness(labels) - reference(labels)).max())
    print(
        f"\n{REFERENCE_CELLS} cells, 1 Mpx: {ours:.3f} s, the definition {theirs:.1f} s: "
        f"{theirs / ours:.0f} times; w0 = 10 times the terms are at most {10 * apart:.1e} apart"
    )


def edge(megapixels: int) -> int:
    """Edge in px of a square picture of so many binary megapixels."""
    return int(1024 * megapixels**0.5)


def discs(cells: int, size: int, radius: int = RADIUS) -> np.ndarray:
    """Discs that do not overlap, each at a random place of its square of a grid.

    Returns (size, size) int32 with labels 1..cells.
    """
    rng = np.random.default_rng(SEED)
    squares = int(np.ceil(cells**0.5))
    pitch = size // squares
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = y**2 + x**2 <= radius**2
    labels = np.zeros((size, size), np.int32)
    for cell in range(cells):
        corner = np.array(divmod(cell, squares)) * pitch
        top, left = corner + rng.integers(0, pitch - 2 * radius, 2)
        labels[top : top + len(disc), left : left + len(disc)][disc] = cell + 1
    return labels


def seconds(
    function: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, repeats: int
) -> float:
    """Processor seconds of one call, the best of the repeats: other programs matter least."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        function(labels)
        times.append(time.process_time() - started)
    return min(times)


def reference(labels: np.ndarray, sigma: float = 5.0) -> np.ndarray:
    """The definition: every cell's own distance transform. Returns (H, W) float64."""
    d1 = np.full(labels.shape, np.inf)
    d2 = d1.copy()
    for cell in np.unique(labels[labels > 0]):
        distance = ndimage.distance_transform_edt(labels != cell)
        d2 = np.minimum(d2, np.maximum(d1, distance))
        d1 = np.minimum(d1, distance)
    term: np.ndarray = np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return term


if __name__ == "__main__":
    main()
