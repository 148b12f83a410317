"""Cells as COCO annotations: `coco.json`, all images of a run in one file.

A COCO polygon knows parts but no holes: cells with holes are stored as run lengths instead, column
by column, as the format allows for every annotation.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reunet.io.export.contours import Polygon, polygons
from reunet.io.export.segmented import Segmented
from reunet.io.export.stream import Stream

NAME = "coco.json"
CATEGORY = {"id": 1, "name": "cell", "supercategory": "cell"}


class Coco:
    """Writer of `coco.json`, image by image."""

    def __init__(self, folder: Path) -> None:
        self._file = Stream(folder / NAME)
        self._images: list[dict[str, object]] = []
        self._count = 0
        self._file.append('{"annotations": [\n')

    def add(self, found: Segmented) -> None:
        """Append the annotations of one image. Raises ImageError."""
        height, width = found.labels.shape
        number = len(self._images) + 1
        lines = [
            json.dumps({"id": self._count + n, "image_id": number, **annotation})
            for n, annotation in enumerate(annotations(found), 1)
        ]
        self._file.append((",\n" if self._count and lines else "") + ",\n".join(lines))
        self._count += len(lines)
        image = {"id": number, "file_name": found.name, "width": width, "height": height}
        self._images.append(image if found.plane is None else {**image, "plane": found.plane})

    def close(self) -> None:
        """End the file and give it its name. Raises ImageError."""
        rest = json.dumps({"images": self._images, "categories": [CATEGORY]}, indent=1)
        self._file.append("\n],\n" + rest[1:] + "\n")
        self._file.close()


def annotations(found: Segmented) -> Iterator[dict[str, object]]:
    """One annotation a cell, without the numbers that a file gives it."""
    cells = found.cells
    rows = zip(polygons(found.rings), cells.area.tolist(), cells.box.tolist(), strict=True)
    for (cell, parts), area, (left, top, right, bottom) in rows:
        yield {
            "category_id": 1,
            "segmentation": _segmentation(found.labels, cell, parts),
            "area": area,
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": 0,
            "cell": cell,
        }


def _segmentation(
    labels: np.ndarray, cell: int, parts: list[Polygon]
) -> list[list[int]] | dict[str, object]:
    if all(len(part) == 1 for part in parts):
        return [part[0].ravel().tolist() for part in parts]
    outer = np.concatenate([part[0] for part in parts])
    (left, top), (right, bottom) = outer.min(axis=0), outer.max(axis=0)
    inside = labels[top:bottom, left:right] == cell
    return {
        "size": [*labels.shape],
        "counts": run_lengths(inside, int(left), int(top), labels.shape),
    }


def run_lengths(inside: np.ndarray, left: int, top: int, shape: tuple[int, ...]) -> list[int]:
    """Lengths of runs of 0 and 1 by turns, from 0 on, down one column after the other.

    inside: (h, w) bool, the part of a mask of `shape` (H, W) that begins at left, top.
    """
    height, width = shape
    column, row = np.nonzero(inside.T)
    places = (column + left) * height + row + top
    first = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    ends = np.append(places[first[1:] - 1], places[-1]) + 1
    edges = np.stack([places[first], ends], axis=1).ravel()
    lengths: list[int] = np.diff(edges, prepend=0, append=height * width).tolist()
    return lengths
