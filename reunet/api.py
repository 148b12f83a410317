"""What is called from Python: `segment` for labels, of a stack too; `predict_many` for lists.

>>> from reunet import load_model, segment
>>> labels = segment("image.png", load_model())  # (H, W) int32, 0 background, cells 1..N
"""

import warnings
from collections.abc import Generator, Iterable
from typing import Any

import numpy as np

from reunet.errors import ReUNetWarning
from reunet.io.arrays import check_axes
from reunet.model import Model
from reunet.options import Options
from reunet.pipeline import STACK, Result, predict


def segment(
    image: Any,
    model: Model,
    options: Options | None = None,
    *,
    axes: str | None = None,
    **choices: Any,
) -> np.ndarray:
    """Find the cells of one image, as `predict`, or of each image of a stack.

    axes: of an array; with an N, such as "NYX", it is a stack of images.
    Returns (H, W) int32, of a stack (N, H, W): 0 background, cells 1..N, of each image anew. What
    is assumed about the image is a ReUNetWarning. Raises as `predict`.
    """
    if axes and STACK in axes.upper():
        labels, notes = segment_stack(image, model, options, axes=axes, **choices)
    else:
        result = predict(image, model, options, axes=axes, **choices)
        labels, notes = result.labels, result.notes
    for note in notes:
        warnings.warn(note, ReUNetWarning, stacklevel=2)
    return labels


def predict_many(
    images: Iterable[Any],
    model: Model,
    options: Options | None = None,
    *,
    axes: str | None = None,
    **choices: Any,
) -> Generator[Result]:
    """`predict` of one image after the other.

    images: a list of what `predict` takes, of any sizes, or a stack. axes: of a stack, with an N
    for its images, such as "NYX"; or of each array of a list. Raises as `predict`, at the image
    that is at fault.
    """
    if axes and STACK in axes.upper():
        images, axes = unstacked(images, axes)
    for image in images:
        yield predict(image, model, options, axes=axes, **choices)


def segment_stack(
    images: Any, model: Model, options: Options | None = None, *, axes: str, **choices: Any
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N, H, W) int32 of a stack, and what was assumed about its images, each note once."""
    apart, others = unstacked(images, axes)
    labels: list[np.ndarray] = []
    notes: dict[str, None] = {}
    for number, image in enumerate(apart, 1):
        result = predict(image, model, options, axes=others, **choices)
        labels.append(result.labels)
        notes |= dict.fromkeys(f"image {number}: {note}" for note in result.notes)
    if not labels:
        height, width = (apart.shape[1 + others.index(axis)] for axis in "YX")
        return np.zeros((0, height, width), np.int32), ()
    return np.stack(labels), tuple(notes)


def unstacked(images: Any, axes: str) -> tuple[np.ndarray, str]:
    """An array with its images along the first axis, and the axes of each of them.

    Raises ValueError for axes that do not fit, or images of several sizes.
    """
    try:
        stack = np.asarray(images)
    except ValueError as error:
        raise ValueError(
            "images of several sizes make no stack: give predict_many a list"
        ) from error
    letters = axes.upper()
    check_axes(letters, stack.shape)
    place = letters.index(STACK)
    return np.moveaxis(stack, place, 0), letters.replace(STACK, "")
