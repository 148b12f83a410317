"""A folder of images: label files, and how many cells of which size there are in all.

    python examples/folder.py IMAGES LABELS

Run again, it goes on where it was.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import tifffile

import reunet


def show(progress: reunet.Progress) -> None:
    """Tell how far it is, on one line of the terminal."""
    line = f"{progress.number} of {progress.images}, tile {progress.tile} of {progress.tiles}"
    print(f"\r{line}", end="", file=sys.stderr)


def main(images: Path, labels: Path) -> None:
    """Segment a folder, and count."""
    failed, sizes = 0, Counter[int]()
    for image in reunet.segment_folder(images, labels, resume=True, tta=False, progress=show):
        if image.label is None:
            failed += 1
            print(f"\r{image.error}")
            continue
        print(f"\r{image.path.name}: {image.cells} cells")
        areas = np.bincount(tifffile.imread(image.label).ravel())[1:]
        sizes.update((2 * np.sqrt(areas / np.pi) // 10 * 10).astype(int).tolist())
    for size in sorted(sizes):
        print(f"{size:4d} to {size + 10} px: {sizes[size]}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
