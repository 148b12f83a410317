"""A slide: cells per mm², with tiles and time left on the way.

    python examples/slide.py SLIDE LABEL.tiff

The slide is read, predicted and kept in bands: memory is bounded, whatever its size.
"""

import sys
import time
from pathlib import Path

import tifffile

import reunet


def main(slide: Path, label: Path) -> None:
    """Segment a slide without mirroring, which takes a quarter of the time."""
    started = time.monotonic()

    def show(tile: int, tiles: int) -> None:
        left = (time.monotonic() - started) * (tiles - tile) / tile
        print(f"\rtile {tile} of {tiles}, {left:.0f} s left ", end="", file=sys.stderr)

    result = reunet.predict(slide, reunet.load_model(), tta=False, progress=show)
    cells = int(result.labels.max())
    tifffile.imwrite(label, result.labels.astype("uint32"), compression="zlib", tile=(512, 512))
    print(f"\n{cells} cells in {result.labels.size / 1e6:.1f} megapixels")
    if result.pixel_size:
        area = result.labels.size * result.pixel_size.area / 1e6
        print(f"{cells / area:.0f} cells a mm²")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
