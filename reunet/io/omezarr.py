"""OME-Zarr (NGFF 0.4 and 0.5): a folder of chunks. Images in, label images out.

What it says of itself is a few lines of JSON, read here; chunks are decoded by `zarr` (extra
`zarr`). Legend: H, W pixels.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reunet.errors import image_error
from reunet.io.pixel_size import PixelSize, in_micrometres
from reunet.io.planes import ROWS, CheckSize, Stack

if TYPE_CHECKING:
    import zarr

ENDING = ".zarr"
CHUNK = 1024  # px a side, of label images
SMALLEST = 1024  # px; levels go down until the longer side is no longer than this
INSTALL = "pip install 'reunet[zarr]', or export the image as TIFF"
DAMAGED = "copy or export it again"


@contextlib.contextmanager
def open_plane(path: Path, as_shown: bool, check_size: CheckSize) -> Iterator[Stack]:  # noqa: ARG001
    """The full-size level of the first image of an OME-Zarr.

    Raises ImageError for what is none, for one that lacks its full size, and, on reading, for a
    chunk that is missing its bytes.
    """
    zarr = _library(path)
    about = _attributes(path)
    axes, level, _ = _described(path, about)
    with _telling(path):
        array = zarr.open_array(path / level, mode="r")
    if len(axes) != array.ndim or not {"Y", "X"} <= set(axes):
        raise image_error(path, f"axes {axes} do not fit its shape {array.shape}", DAMAGED)

    def read(index: tuple[Any, ...]) -> np.ndarray:
        with _telling(path):
            return np.asarray(array[index])

    stack = Stack(axes, array.shape, read, _rows(axes, array), _names(about))
    if 0 not in array.shape:
        check_size(*stack.shape, stack.channels * array.dtype.itemsize)
    yield stack


def pixel_size(path: Path) -> PixelSize | None:
    """Width and height of a pixel of the full size; None where the file does not tell."""
    about = _attributes(path)
    axes, _, scale = _described(path, about)
    told = {axis["name"].upper(): axis for axis in _multiscale(path, about)["axes"]}
    with contextlib.suppress(KeyError, ValueError, TypeError, IndexError):
        x, y = (
            float(scale[axes.index(axis)]) * in_micrometres(str(told[axis]["unit"]))
            for axis in "XY"
        )
        return PixelSize(x, y, "OME") if x > 0 and y > 0 else None
    return None


def _library(path: Path) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise image_error(path, "OME-Zarr needs the package zarr", INSTALL) from error
    return zarr


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Whatever decoders raise names the file and what may have happened."""
    try:
        yield
    except Exception as error:
        cause = f"a part of it is missing or damaged ({' '.join(str(error).split())[:100]})"
        raise image_error(path, cause, DAMAGED) from error


def _attributes(path: Path) -> Mapping[str, Any]:
    """What an OME-Zarr says of itself: of Zarr 3 below `ome`, of Zarr 2 in a file of its own."""
    for name, keys in (("zarr.json", ("attributes", "ome")), (".zattrs", ())):
        file = path / name
        if file.is_file():
            try:
                about = json.loads(file.read_bytes())
                for key in keys:
                    about = about[key]
                _ = about["multiscales"]
            except (ValueError, KeyError, TypeError) as error:
                raise image_error(path, f"{name} tells of no image", "name the image") from error
            return dict(about)
    raise image_error(path, "is no OME-Zarr image", "name a folder that is one (0.4, 0.5)")


def _multiscale(path: Path, about: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        first = about["multiscales"][0]
        _ = [axis["name"] for axis in first["axes"]], first["datasets"][0]["path"]
    except (KeyError, IndexError, TypeError) as error:
        raise image_error(path, "its description is incomplete", DAMAGED) from error
    return dict(first)


def _described(path: Path, about: Mapping[str, Any]) -> tuple[str, str, Sequence[float]]:
    """Letters of the axes, name of the full size, and its scale, one number an axis if told."""
    multiscale = _multiscale(path, about)
    letters = "".join(str(axis["name"])[:1].upper() for axis in multiscale["axes"])
    full = multiscale["datasets"][0]
    name = str(full["path"])
    if not (path / name).resolve().is_relative_to(path.resolve()):
        raise image_error(path, f"its pixels lie elsewhere ({name})", DAMAGED)
    steps = full.get("coordinateTransformations", [])
    scale: Sequence[float] = next(
        (step.get("scale", []) for step in steps if step.get("type") == "scale"), []
    )
    return letters, name, scale


def _rows(axes: str, array: "zarr.Array[Any]") -> int:
    """Rows of a band: whole chunks, ROWS at least."""
    chunk = int((array.shards or array.chunks)[axes.index("Y")])
    return chunk * max(1, ROWS // chunk)


def _names(about: Mapping[str, Any]) -> tuple[str, ...]:
    channels = (about.get("omero") or {}).get("channels", [])
    return tuple(str(channel.get("label", "")) for channel in channels)


def write_labels(path: Path, labels: np.ndarray, origin: str, size: PixelSize | None) -> None:
    """Write a label image as an OME-Zarr 0.5 (Zarr 3) of its own, pyramid and all.

    labels: (H, W) integers, 0 background; they may lie on disk. path: a folder that is not there
    yet. origin: what they were made from. Raises OSError, or ImageError where zarr is missing.
    """
    zarr = _library(path)
    levels = [labels]
    while max(levels[-1].shape) > SMALLEST:
        levels.append(levels[-1][::2, ::2])
    dtype = np.uint16 if labels.max(initial=0) < 2**16 else np.uint32
    group = zarr.open_group(path, mode="w", zarr_format=3)
    for number, level in enumerate(levels):
        chunks = tuple(min(CHUNK, n) for n in level.shape)
        array = group.create_array(str(number), shape=level.shape, dtype=dtype, chunks=chunks)
        for top in range(0, level.shape[0], CHUNK):
            array[top : top + CHUNK] = level[top : top + CHUNK].astype(dtype)
    group.attrs["ome"] = _description(path.name, len(levels), size)
    if origin:
        group.attrs["reunet"] = {"origin": origin}


def _description(name: str, levels: int, size: PixelSize | None) -> dict[str, Any]:
    unit = {"unit": "micrometer"} if size else {}
    y, x = (size.y, size.x) if size else (1.0, 1.0)
    datasets = [
        {
            "path": str(n),
            "coordinateTransformations": [{"type": "scale", "scale": [y * 2**n, x * 2**n]}],
        }
        for n in range(levels)
    ]
    axes = [{"name": axis, "type": "space", **unit} for axis in "yx"]
    image = {"name": name, "axes": axes, "datasets": datasets}
    return {"version": "0.5", "multiscales": [image], "image-label": {"version": "0.5"}}
