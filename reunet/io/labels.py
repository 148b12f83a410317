"""What is written: label images, their names, and files that are there wholly or not at all.

Legend: H, W pixels. Nothing slow is imported at the top.
"""

import contextlib
import html
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reunet.io.atomic import replacing
from reunet.io.pixel_size import PixelSize, ome_pixel_size, tiff_resolution

if TYPE_CHECKING:
    from tifffile import TiffFile

# Integers of labels, the first that fits; ImageJ shows signed ones with a background of 32768.
LABEL_LAYOUTS: Mapping[str, Sequence[type[np.integer]]] = {
    "viewer": (np.uint16, np.uint32),
    "challenge": (np.int16, np.uint16, np.int32),
}
PYRAMID_FROM = 16_000_000  # px; viewers load a smaller label image as a whole
STRIP_BYTES = 2**18  # of a label TIFF, before compression


def label_path(image: Path, folder: Path) -> Path:
    """Where the label of an image goes: its name up to the first dot, as the organisers cut it."""
    return folder / f"{image.name.split('.')[0]}_label.tiff"


def write_label(
    path: Path,
    instances: np.ndarray,
    origin: str = "",
    *,
    layout: str = "viewer",
    pixel_size: PixelSize | None = None,
) -> None:
    """Write an instance label image, wholly or not at all.

    instances: (H, W), integers from 0 (background). origin: what it was made from (`resume`).
    layout: of LABEL_LAYOUTS. For a `viewer` the labels are uint16 or, where they do not fit,
    uint32, bear the pixel size, and form a pyramid (`io.pyramid`) from PYRAMID_FROM pixels on. For
    the `challenge` they are the first of int16, uint16 and int32 that fits, in strips and nothing
    else: the official metric copies large predictions into the dtype of its truth, int16.
    Raises ImageError if the file cannot be written and ValueError for any other array.
    """
    if instances.ndim != 2 or instances.size == 0 or instances.dtype.kind not in "biu":
        raise ValueError(f"labels must be (H, W) integers, not {instances.shape} {instances.dtype}")
    dtypes = LABEL_LAYOUTS[layout]
    dtype = np.dtype(_label_dtype(int(instances.min()), int(instances.max()), dtypes))
    size = pixel_size if layout == "viewer" else None
    with replacing(path) as temporary:
        if layout == "viewer" and instances.size >= PYRAMID_FROM:
            from reunet.io.pyramid import write_pyramid

            write_pyramid(temporary, instances, dtype, origin, size)
        else:
            _write_strips(temporary, instances, dtype, origin, size)


def write_label_stack(
    path: Path,
    stack: np.ndarray,
    axes: str,
    origin: str,
    pixel_size: PixelSize | None,
    layout: str = "viewer",
) -> None:
    """Write labels of several planes as one OME-TIFF, wholly or not at all.

    stack: (…, H, W) integers from 0. axes: a letter for each, ending in YX. origin, layout: as for
    `write_label`. Raises ImageError if the file cannot be written.
    """
    import tifffile

    dtype = np.dtype(_label_dtype(0, int(stack.max()), LABEL_LAYOUTS[layout]))
    size = pixel_size if layout == "viewer" else None
    with replacing(path) as temporary:
        tifffile.imwrite(
            temporary,
            (plane.astype(dtype) for plane in stack.reshape(-1, *stack.shape[-2:])),
            shape=stack.shape,
            dtype=dtype,
            photometric="minisblack",
            compression="zlib",
            ome=True,
            metadata={"axes": axes, "Description": origin, **ome_pixel_size(size)},
            **tiff_resolution(size),
        )


def _write_strips(
    path: Path, instances: np.ndarray, dtype: np.dtype[Any], origin: str, size: PixelSize | None
) -> None:
    import tifffile

    height, width = instances.shape
    rows = min(height, max(1, STRIP_BYTES // (width * dtype.itemsize)))
    tifffile.imwrite(
        path,
        # Strip by strip: a slide's labels may lie on disk, a copy would not fit the memory.
        (
            zlib.compress(instances[top : top + rows].astype(dtype).tobytes())
            for top in range(0, height, rows)
        ),
        shape=instances.shape,
        dtype=dtype,
        rowsperstrip=rows,
        photometric="minisblack",
        compression="zlib",
        metadata={"origin": origin} if origin else {},
        **tiff_resolution(size),
    )


def label_origin(tiff: "TiffFile") -> str | None:
    """What `write_label` wrote as origin into an open label file; None where there is nothing."""
    if tiff.ome_metadata:
        told = re.search(r"<Description>(.*?)</Description>", tiff.ome_metadata, re.DOTALL)
        return html.unescape(told[1]) if told else None
    origin = (tiff.shaped_metadata or ({},))[0].get("origin")
    return origin if isinstance(origin, str) else None


def read_origin(path: Path) -> str:
    """What a label file of `write_label` was made from; nothing for any other file."""
    import tifffile

    with contextlib.suppress(Exception), tifffile.TiffFile(path) as tiff:
        return label_origin(tiff) or ""
    return ""


def write_values(path: Path, values: np.ndarray) -> None:
    """Write (H, W) real values as a float32 zlib TIFF, wholly or not at all.

    Raises ImageError if the file cannot be written.
    """
    import tifffile

    stored = values.astype(np.float32, copy=False)
    with replacing(path) as temporary:
        tifffile.imwrite(temporary, stored, photometric="minisblack", compression="zlib")


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as a PNG, wholly or not at all.

    Raises ImageError if the file cannot be written.
    """
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def _label_dtype(lowest: int, highest: int, dtypes: Sequence[type[np.integer]]) -> type[np.integer]:
    for dtype in dtypes:
        if lowest >= 0 and highest <= np.iinfo(dtype).max:
            return dtype
    raise ValueError(f"labels must lie in 0..{np.iinfo(dtypes[-1]).max}, not {lowest}..{highest}")
