"""Large label images as tiled, pyramidal OME-TIFF: viewers of slides show them fluently.

Every level has half the rows and columns of the one before. Labels are no intensities, so a level
takes every second of them instead of means. Legend: H, W pixels.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reunet.io.pixel_size import PixelSize, ome_pixel_size, tiff_resolution

TILE = 512  # px a side
SMALLEST = 1024  # px; levels go down until the longer side is no longer than this
LEVEL = 6  # of zlib


def write_pyramid(
    path: Path, labels: np.ndarray, dtype: np.dtype[Any], origin: str, size: PixelSize | None
) -> None:
    """Write (H, W) labels tile by tile; they may lie on disk and are never copied as a whole.

    origin: becomes the description of the OME image. Raises OSError.
    """
    import tifffile

    metadata: dict[str, Any] = {"axes": "YX", "Description": origin, **ome_pixel_size(size)}
    levels = [labels]
    while max(levels[-1].shape) > SMALLEST:
        levels.append(levels[-1][::2, ::2])
    with tifffile.TiffWriter(path, ome=True, bigtiff=labels.nbytes > 2**31) as file:
        for number, level in enumerate(levels):
            first = number == 0
            file.write(
                _tiles(level, dtype),
                shape=level.shape,
                dtype=dtype,
                tile=(TILE, TILE),
                photometric="minisblack",
                compression="zlib",
                subifds=len(levels) - 1 if first else None,
                subfiletype=0 if first else 1,
                metadata=metadata if first else None,
                **tiff_resolution(size.times(2**number) if size else None),
            )


def _tiles(level: np.ndarray, dtype: np.dtype[Any]) -> Iterator[bytes]:
    """Compressed tiles, row by row; those at the edges are filled up with background."""
    height, width = level.shape
    for top in range(0, height, TILE):
        rows = np.asarray(level[top : top + TILE], dtype)
        for left in range(0, width, TILE):
            tile = np.zeros((TILE, TILE), dtype)
            part = rows[:, left : left + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            yield zlib.compress(tile.tobytes(), LEVEL)
