"""`--plane all`: every plane of a stack is an image of its own, and their labels are a stack."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from reunet.io.labels import write_label_stack
from reunet.io.pixel_size import PixelSize
from reunet.io.scratch import zeros
from reunet.model import Model
from reunet.options import Options
from reunet.pipeline import predict


def segment_planes(
    image: Path,
    label: Path,
    model: Model,
    options: Options,
    axes: Mapping[str, int],
    origin: str,
    size: PixelSize | None,
) -> tuple[int, tuple[str, ...]]:
    """Write the labels of all planes of a file, wholly or not at all.

    axes: those of its planes, from `images.planes_of`. Cells count from 1 in every plane: nothing
    follows them from one to the next. origin, size: as for `labels.write_label`. Returns the number
    of cells of all planes, and notes, each once. Raises ImageError as `predict` and `write_label`.
    """
    count, cells = prod(axes.values()), 0
    notes: dict[str, None] = {}
    stack: np.ndarray | None = None
    for plane in range(count):
        result = predict(image, model, replace(options, plane=plane))
        notes.update(dict.fromkeys(result.notes))
        height, width = result.labels.shape
        if stack is None:
            stack = zeros((count * height, width), np.int32, label)
        stack[plane * height : (plane + 1) * height] = result.labels
        cells += int(result.labels.max(initial=0))
    assert stack is not None, "a file has one plane at least"
    shape = (*axes.values(), len(stack) // count, stack.shape[1])
    layout = options.labels
    write_label_stack(label, stack.reshape(shape), "".join(axes) + "YX", origin, size, layout)
    return cells, tuple(notes)
