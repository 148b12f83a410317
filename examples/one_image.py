"""One image: its labels, how sure each cell is, and the probability of a cell at every pixel.

    python examples/one_image.py IMAGE OUT

Writes OUT/labels.tif (one number a cell), OUT/cells.csv and OUT/probability.png.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

import reunet


def main(image: Path, out: Path) -> None:
    """Segment an image and write what is known of its cells."""
    out.mkdir(parents=True, exist_ok=True)
    result = reunet.predict(image, reunet.load_model(), probabilities=True)
    for note in result.notes:
        print("note:", note)
    assert result.probabilities is not None
    assert result.confidence is not None

    tifffile.imwrite(out / "labels.tif", result.labels.astype(np.uint32), compression="zlib")
    of_a_cell = 1 - result.probabilities[0].astype(np.float32)
    Image.fromarray((255 * of_a_cell).clip(0, 255).astype(np.uint8)).save(out / "probability.png")
    areas = np.bincount(result.labels.ravel())
    with (out / "cells.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "area_px", "confidence"])
        for cell in range(1, len(areas)):
            table.writerow([cell, areas[cell], f"{result.confidence[cell]:.3f}"])
    print(f"{len(areas) - 1} cells, typically {result.diameter or 0:.0f} px wide")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
