"""Arrays that are handed over instead of files: their axes, byte order and kind.

Legend: H, W pixels. Nothing is guessed: an array whose axes its shape leaves open is an error that
names the way out, `axes`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reunet.io.images import Picture, as_picture

CHANNELS = "CS"  # letters of an axis of channels; Y and X: rows and columns; others: planes
MOST_CHANNELS = 7  # as in a TIFF that names no axes
PLAIN_MODES = ("1", "L", "I", "F", "RGB", "I;16", "I;16B", "I;16L", "I;16N")  # PIL's, as they are
USUAL_CHANNELS = (1, 3, 4)  # of the last axis, however small the others are
WAYS = 'axes="YXC" for channels last, "CYX" for channels first, "ZYX" for a stack'


def picture_of(image: Any, axes: str | None = None) -> Picture:
    """The picture in an array, or in what can be made one.

    image: an array (H, W) or (H, W, channels) of any real dtype and byte order, or of other axes
    that `axes` names, one letter each; a list, a PIL image, or an array of dask, zarr, xarray or
    (on the CPU) PyTorch. axes: Y and X, C (or S) for channels, any other letter for planes of which
    the first counts. Raises ValueError for what is no image, or of unclear axes.
    """
    array, notes = _as_array(image)
    axes = axes or _axes_of_dims(image, array.ndim)
    if axes:
        pixels, of_axes = _by_axes(array, axes.upper())
        return as_picture(pixels, [*notes, *of_axes])
    return as_picture(_by_shape(array), notes)


def _as_array(image: Any) -> tuple[np.ndarray, list[str]]:
    if isinstance(image, np.ma.MaskedArray):
        array, notes = image.filled(0), ["masked values were set to 0"] if image.mask.any() else []
    else:
        try:
            array, notes = np.asarray(_shown(image)), []
        except Exception as error:  # a tensor on a GPU, a ragged list, whatever libraries raise
            cause = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{type(image).__name__} cannot be made a NumPy array ({cause}); pass one"
            ) from error
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"{type(image).__name__} of {array.dtype} is no image; pass an array of real numbers, "
            "a path or a PIL image"
        )
    return array, notes


def _shown(image: Any) -> Any:
    """A PIL image as a viewer shows it, without alpha: its array may hold indices of a palette."""
    if not type(image).__module__.startswith("PIL.") or image.mode in PLAIN_MODES:
        return image
    return image.convert("L" if image.mode in ("LA", "La") else "RGB")


def _axes_of_dims(image: Any, count: int) -> str | None:
    """What xarray calls its dimensions, if these are single letters."""
    dims = getattr(image, "dims", None)
    if not isinstance(dims, tuple) or len(dims) != count:
        return None
    letters = "".join(str(dim) for dim in dims)
    return letters if len(letters) == count and {"Y", "X"} <= set(letters.upper()) else None


def _by_axes(array: np.ndarray, axes: str) -> tuple[np.ndarray, list[str]]:
    """(H, W) or (H, W, channels), and notes on what is left out."""
    channels = [letter for letter in axes if letter in CHANNELS]
    check_axes(axes, array.shape)
    if len(channels) > 1:
        raise ValueError(f"axes {axes!r} name two of channels: name one C, and index the other")
    planes = {a: n for a, n in zip(axes, array.shape, strict=True) if a not in "YXCS"}
    first = tuple(0 if axis in planes else slice(None) for axis in axes)
    kept = [axis for axis in axes if axis not in planes]
    pixels = array[first] if array.size else array.reshape((0,) * len(kept))
    notes = [f"axis {a} holds {n} planes, the first is used" for a, n in planes.items() if n > 1]
    return pixels.transpose([kept.index(axis) for axis in ("Y", "X", *channels)]), notes


def check_axes(axes: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError for letters that do not name each axis of a shape once, Y and X too."""
    if len(axes) != len(shape) or len(set(axes)) < len(axes) or not {"Y", "X"} <= set(axes):
        raise ValueError(
            f"axes {axes!r} do not fit an array of shape {shape}: name each once, Y and X too"
        )


def _by_shape(array: np.ndarray) -> np.ndarray:
    """The same where the shape leaves no doubt. Raises ValueError where it does."""
    shape: Sequence[int] = array.shape
    if array.ndim == 2 or array.size == 0:
        return array
    if array.ndim == 3:
        *edges, last = shape
        if last in USUAL_CHANNELS or last < min(MOST_CHANNELS + 1, *edges):
            return array
        if shape[0] == 1:
            plane: np.ndarray = array[0]
            return plane
    raise ValueError(f"an array of shape {tuple(shape)} may mean many things: say {WAYS}")
