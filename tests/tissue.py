"""What `--skip-empty` spares and costs on slides: tiles that show nothing, and true cells in them.

    python -m tests.tissue IMAGES LABELS [--sources monuseg,consep,…] [--glass 243]

Of each source (the name's beginning, up to `__`) a slide is laid out: its images side by side, and
as much glass below, grey with a noise of 2 levels. It is seen as the networks see it, with the true
size of the cells. No network runs: a cell is lost if no tile that is looked at shows a pixel of it.
"""

import argparse
from itertools import groupby, product
from math import ceil
from pathlib import Path

import numpy as np

from benchmarks.speed.timing import print_table
from reunet.inference.empty import is_empty
from reunet.inference.normalise import normalise_channels
from reunet.inference.scale import scale_image, scale_labels, scaled_shape, typical_diameter
from reunet.inference.tiles import WIDE_STEP, tile_starts
from reunet.io.images import list_images, read_image, read_label

TILE, DIAMETER, AT_MOST = 256, 30, 25  # px of a tile, of a cell as it is seen; images of a source


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--sources")
    parser.add_argument("--glass", type=int, default=243, help="its grey, of 255")
    options = parser.parse_args()
    wanted, rows = (options.sources or "").split(","), []
    for source, files in groupby(
        list_images(options.images), lambda path: path.name.split("__")[0]
    ):
        if not options.sources or source in wanted:
            rows.append((source, *of_slide([*files][:AT_MOST], options.labels, options.glass)))
    heads = ("source", "images", "tiles of glass skipped", "others skipped", "cells", "lost")
    print_table(heads, rows)


def of_slide(files: list[Path], labels: Path, glass: int) -> tuple[object, ...]:
    """The figures of a slide of these images."""
    pictures = [(read_image(f).pixels, read_label(labels / f"{f.stem}_label.tiff")) for f in files]
    tall, wide = (max(truth.shape[axis] for _, truth in pictures) for axis in (0, 1))
    across = ceil(len(files) ** 0.5)
    height = ceil(len(files) / across) * tall
    noise = np.random.default_rng(0).normal(glass, 2, (2 * height, across * wide, 3))
    slide, cells = noise.clip(0, 255).astype(np.uint8), np.zeros(noise.shape[:2], np.int32)
    for n, (pixels, truth) in enumerate(pictures):
        top, left = n // across * tall, n % across * wide
        there = slice(top, top + len(truth)), slice(left, left + truth.shape[1])
        slide[there], cells[there] = pixels, np.where(truth > 0, truth + cells.max(), 0)
    shape = scaled_shape(cells.shape, DIAMETER / typical_diameter(cells))
    seen, cells = scale_image(normalise_channels(slide), shape), scale_labels(cells, shape)
    looked_at = np.zeros(shape, bool)
    skipped: dict[bool, list[bool]] = {True: [], False: []}  # by whether it is glass
    edges = [min(TILE, n) for n in shape]
    starts = [tile_starts(n, edge, WIDE_STEP) for n, edge in zip(shape, edges, strict=True)]
    for top, left in product(*starts):
        rows, columns = slice(top, top + edges[0]), slice(left, left + edges[1])
        empty = is_empty(seen[rows, columns])
        skipped[rows.start >= ceil(shape[0] / 2)].append(empty)
        looked_at[rows, columns] |= not empty
    count, found = (len(np.unique(part[part > 0])) for part in (cells, cells[looked_at]))
    shares = (f"{sum(skipped[kind])} of {len(skipped[kind])}" for kind in (True, False))
    return len(files), *shares, count, count - found


if __name__ == "__main__":
    main()
