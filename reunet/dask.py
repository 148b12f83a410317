"""Arrays of Dask that need not fit in memory: their cells as another (extra `dask`).

>>> from reunet.dask import segment_dask
>>> labels = segment_dask(dask.array.from_zarr("slide.zarr/0"), load_model(), axes="CYX")

A slide is read in bands of rows, and only the networks' work goes to workers, a tile a task. Sums
over tiles and the cells are made where this is called, exactly as for an image in memory: labels
are the same to the bit, and no cell ends at the edge of a block. Legend: H, W pixels.
"""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from reunet.errors import ReUNetWarning
from reunet.io.images import Picture, as_picture
from reunet.io.scratch import zeros as scratch
from reunet.io.source import Source, hold, is_large
from reunet.model import Model
from reunet.options import Options
from reunet.pipeline import (
    asked_pixel_size,
    find_cells,
    keep_wanted,
    least_area,
    region_of,
    see,
    what_fits,
)
from reunet.run.tiles import on_workers
from reunet.survey import survey

if TYPE_CHECKING:
    from dask.array import Array
    from distributed import Client

ROWS = 256  # px, of a band at least


def segment_dask(
    array: "Array",
    model: Model,
    options: Options | None = None,
    *,
    axes: str | None = None,
    client: "Client | None" = None,
    **choices: Any,
) -> "Array":
    """Find the cells of one image that is an array of Dask.

    array: (H, W), (H, W, C), or with `axes`, such as "CYX", of these letters in any order, real
    values. options, choices: as for `reunet.segment`; a budget is not kept. client: whose workers
    do the networks' work (None: the current one, or else this process). Returns (H, W) int32 in
    blocks like the image's: 0 background, cells 1..N; they are computed when this returns, and lie
    in memory up to 2^27 pixels, above in a nameless temporary file of this machine. Besides are
    held: a band of the image, or all of one that is no slide, and class map, field and foreground,
    a byte a pixel each, on the same terms. What is assumed about the image is a ReUNetWarning.
    Raises ValueError for other axes.
    """
    import dask.array

    options = replace(options or Options(), **choices)
    pixels = _last_channels(array, axes)
    region, part = region_of(options), None
    shown = pixels
    if region:
        part = region.on((pixels.shape[0], pixels.shape[1]))
        shown = pixels[part.rows, part.columns]
    size = asked_pixel_size(options)
    least_area(options, size)  # what cannot be done is told before the image is read
    source = replace(_source(shown), part=part)
    client = client or _current_client()
    remote = on_workers(model, client) if client else model
    view = survey(source, remote, options)
    few, asked, told = what_fits(view, remote, replace(options, budget=None), 0.0, {})
    seen = see(view, few, asked, scratch)
    for note in (*view.notes, *told, *(part.notes if part else ()), *seen.notes):
        warnings.warn(note, ReUNetWarning, stacklevel=2)
    labels, _ = find_cells(seen, model.bundle, options, scratch)
    keep_wanted(labels, options, size)
    return dask.array.from_array(labels, chunks=pixels.chunks[:2])


def _last_channels(array: "Array", axes: str | None) -> "Array":
    """(H, W) or (H, W, C), still lazy."""
    letters = (axes or "YXC"[: array.ndim]).upper()
    order = [letters.index(axis) for axis in "YXC" if axis in letters]
    if sorted(letters) not in (sorted("YX"), sorted("YXC")) or len(letters) != array.ndim:
        raise ValueError(f"axes {letters!r} do not fit {array.shape}: index it to Y, X and C")
    return array.transpose(order)


def _source(pixels: "Array") -> Source:
    """Held as a whole, or in bands, as `segment` would read a file of its size."""
    shape = pixels.shape[0], pixels.shape[1]
    if is_large(shape):
        return Source(shape, lambda: _bands(pixels))
    return hold(as_picture(np.asarray(pixels)))


def _bands(pixels: "Array") -> Iterator[Picture]:
    """The image from top to bottom, whole blocks at a time, ROWS at least."""
    top = 0
    ends = np.cumsum(pixels.chunks[0]).tolist()
    for end in ends:
        if end - top >= ROWS or end == ends[-1]:
            yield as_picture(np.asarray(pixels[top:end].compute()))
            top = end


def _current_client() -> "Client | None":
    try:
        from distributed import get_client

        return get_client()
    except (ImportError, ValueError):
        return None
