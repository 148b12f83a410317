"""Files of microscopes: Zeiss .czi, Nikon .nd2, Leica .lif, by the plug-ins of bioio (extra
`formats`). A plane is decoded as a whole. Legend: H, W pixels.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from reunet.errors import image_error
from reunet.io.pixel_size import PixelSize
from reunet.io.planes import CheckSize, Stack

PLUGINS: Mapping[str, Callable[[], Any]] = {
    ".czi": lambda: import_module("bioio_czi"),
    ".nd2": lambda: import_module("bioio_nd2"),
    ".lif": lambda: import_module("bioio_lif"),
}


@contextlib.contextmanager
def open_plane(path: Path, as_shown: bool, check_size: CheckSize) -> Iterator[Stack]:  # noqa: ARG001
    """The first scene of a file. Raises ImageError where a plug-in is missing, and whatever that
    raises for a file that it cannot read."""
    reader = _reader(path)
    scenes: Sequence[str] = reader.scenes
    told = (f"of {len(scenes)} scenes the first is used",) * (len(scenes) > 1)
    lazy = reader.dask_data
    axes = str(reader.dims.order)
    stack = Stack(
        axes,
        tuple(lazy.shape),
        lambda index: np.asarray(lazy[index].compute(scheduler="synchronous")),
        int(lazy.shape[axes.index("Y")]),
        tuple(str(name) for name in reader.channel_names or ()),
        told,
    )
    check_size(*stack.shape, stack.channels * lazy.dtype.itemsize)
    yield stack


def pixel_size(path: Path) -> PixelSize | None:
    """Width and height of a pixel in µm; None where the file does not tell."""
    size = _reader(path).physical_pixel_sizes
    return PixelSize(size.X, size.Y, "OME") if size.X and size.Y else None


def _reader(path: Path) -> Any:
    kind = path.suffix.lower()[1:]
    try:
        plugin = PLUGINS[f".{kind}"]()
    except ImportError as error:
        cause = f".{kind} needs the package bioio-{kind}"
        way_out = "pip install 'reunet[formats]', or export the image as TIFF"
        raise image_error(path, cause, way_out) from error
    for logger in ("bioio_base", f"bioio_{kind}", kind, f"{kind}file"):
        logging.getLogger(logger).setLevel(logging.CRITICAL + 1)  # what it logs, errors say
    return plugin.Reader(path)
