"""A TIFF's pixels in bands of rows, so that a slide need not be in memory.

Every strip and tile is decoded once, and only one row of them is kept. Legend: H, W pixels.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from tifffile import TiffFrame, TiffPage

from reunet.io.planes import steps
from reunet.io.region import Window
from reunet.io.tiff_pages import page_numbers, read_planes, whole_page

if TYPE_CHECKING:
    from reunet.io.tiff import Plane

ROWS = 256  # px, of a band: large enough for array operations to pay, small beside a slide

Rows = Callable[[int, int], np.ndarray]  # (top, bottom) -> these rows, in the file's order of axes


def read_bands(plane: "Plane", window: Window | None = None) -> Iterator[np.ndarray]:
    """The pixels of an open plane from top to bottom, in bands of up to ROWS rows.

    window: rows and columns that are wanted (None: all). Yields (rows, W) or (rows, W, channels)
    without alpha in the file's dtype: put together, what `read_tiff` returns. What cannot be had in
    parts is decoded as a whole (a single compressed strip, rows that lie on pages of their own).
    Raises as `read_tiff`.
    """
    height, width = plane.shape
    rows, columns = window or (slice(0, height), slice(0, width))
    step, read = _rows_of_pages(plane, columns) or _rows_of_series(plane)
    for part in steps(rows, step):
        top = part.start // step * step  # strips and tiles come from their first row
        band = plane.finish(read(top, part.stop))[part.start - top :, columns]
        for start in range(0, len(band), ROWS):
            yield band[start : start + ROWS]


def _rows_of_series(plane: "Plane") -> tuple[int, Rows]:
    """How many rows to read at once, and how."""
    paged = page_numbers(plane.series, plane.index(slice(None))) is not None
    step = plane.shape[0] if paged or plane.series.dataoffset is None else ROWS
    return step, lambda top, bottom: read_planes(plane.series, plane.index(slice(top, bottom)))


def _rows_of_pages(plane: "Plane", columns: slice) -> tuple[int, Rows] | None:
    """The same for a page, or one a channel. None: rows lie elsewhere, or come only as a whole.

    columns: those that matter; what rows hold besides may be left out.
    """
    wanted = plane.index(slice(None))
    numbers = page_numbers(plane.series, wanted)
    page = plane.series.keyframe.aspage()
    lead = len(wanted) - len(page.shape)
    axes = plane.axes[lead:]
    deep = max(page.imagedepth, page.tiledepth) > 1
    if numbers is None or "Y" not in axes or "X" not in axes or deep:
        return None
    pages = [whole_page(plane.series, int(n)) for n in numbers.flat]
    shape = [-1 if axis == "Y" else n for axis, n in zip(axes, page.shape, strict=True)]
    edge = 1 if page.is_final else _segment(page)[0]
    read_page = _mapped_rows if page.is_final else partial(_decoded_rows, columns)

    def read(top: int, bottom: int) -> np.ndarray:
        read = (read_page(page, part, top, bottom).reshape(shape) for part in pages)
        parts = [rows[tuple(wanted[lead:])] for rows in read]
        return parts[0] if numbers.ndim == 0 else np.stack(parts)

    return edge * max(1, ROWS // edge), read


def _mapped_rows(
    keyframe: TiffPage, page: TiffPage | TiffFrame, top: int, bottom: int
) -> np.ndarray:
    """Uncompressed rows, copied: of a mapping that lives on, all that was read stays in memory."""
    dtype = np.dtype(keyframe.dtype).newbyteorder(keyframe.parent.byteorder)
    file = keyframe.parent.filehandle
    mapped = file.memmap_array(dtype, keyframe.shaped, page.dataoffsets[0])
    return np.array(mapped[:, :, top:bottom])


def _decoded_rows(
    columns: slice, keyframe: TiffPage, page: TiffPage | TiffFrame, top: int, bottom: int
) -> np.ndarray:
    """Rows of strips or tiles, from the first row of one. Returns (planes, 1, rows, W, samples).

    columns: tiles beside them are not decoded.
    """
    planes, _, height, width, samples = keyframe.shaped
    tall, wide = _segment(keyframe)
    down, across = -(-height // tall), -(-width // wide)
    numbers = np.arange(planes * down * across).reshape(planes, down, across)
    numbers = numbers[:, top // tall : -(-bottom // tall)]
    wanted = numbers[..., columns.start // wide : -(-columns.stop // wide)].ravel().tolist()
    segments = keyframe.parent.filehandle.read_segments(
        [page.dataoffsets[n] for n in wanted], [page.databytecounts[n] for n in wanted], wanted
    )
    tables = {"jpegtables": page.jpegtables} if page.jpegtables else {}
    rows = np.full((planes, 1, bottom - top, width, samples), keyframe.nodata, keyframe.dtype)
    for data, number in segments:
        segment, (plane, _, y, x, _), (_, tall, wide, _) = keyframe.decode(data, number, **tables)
        if segment is not None:  # a tile that was never written holds nothing
            inside = rows[plane, :, y - top : y - top + tall, x : x + wide]
            inside[:] = segment[:, : inside.shape[1], : inside.shape[2]]
    return rows


def _segment(page: TiffPage) -> tuple[int, int]:
    """Rows and columns of a strip or tile."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return page.rowsperstrip, page.imagewidth
