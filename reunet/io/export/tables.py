"""Tables of measurements (CSV): cells.csv, a line a cell, and images.csv, a line an image.

Every column is named here once, with its unit; `docs/outputs.md` explains them. Columns in µm stay
empty where the size of a pixel is not known, as do those that an image has nothing for.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reunet.io.export.segmented import Segmented
from reunet.io.export.stream import Stream

CELLS, IMAGES = "cells.csv", "images.csv"
CHANNELS = 3  # of a picture; of a grey one only the first is filled
DIGITS = 4  # behind the point

INTENSITIES = tuple(
    f"{kind}_{c}" for c in range(1, CHANNELS + 1) for kind in ("mean", "min", "max")
)
CELL_COLUMNS = (
    *("image", "plane", "id", "x_px", "y_px", "left_px", "top_px", "right_px", "bottom_px"),
    *("area_px", "diameter_px", "perimeter_px", "eccentricity", "solidity", "on_frame"),
    *("x_um", "y_um", "area_um2", "diameter_um", "perimeter_um"),
    *INTENSITIES,
    "agreement",
)
IMAGE_COLUMNS = (
    *(
        "image",
        "plane",
        "label",
        "height_px",
        "width_px",
        "cells",
        "cells_per_mpx",
        "cells_per_mm2",
    ),
    *("median_diameter_px", "median_diameter_um", "pixel_width_um", "pixel_height_um"),
    *("pixel_size_from", "seconds", "notes"),
)

Column = Iterable[float | int | str | None]


class Tables:
    """Writer of `cells.csv` and `images.csv`, image by image."""

    def __init__(self, folder: Path) -> None:
        self._files = [Stream(folder / name) for name in (CELLS, IMAGES)]
        for file, columns in zip(self._files, (CELL_COLUMNS, IMAGE_COLUMNS), strict=True):
            file.append(_lines([columns]))

    def add(self, found: Segmented) -> None:
        """Append the lines of one image. Raises ImageError."""
        cells, images = self._files
        columns = cell_columns(found)
        cells.append(_lines(zip(*(columns[name] for name in CELL_COLUMNS), strict=True)))
        images.append(_lines([[image_row(found)[name] for name in IMAGE_COLUMNS]]))

    def close(self) -> None:
        """Give the tables their names. Raises ImageError."""
        for file in self._files:
            file.close()


def cell_columns(found: Segmented) -> dict[str, Column]:
    """The columns of `cells.csv` for one image, by CELL_COLUMNS."""
    cells, size = found.cells, found.pixel_size
    columns: dict[str, Column] = dict.fromkeys(CELL_COLUMNS, [None] * len(cells))
    columns["image"] = [found.name] * len(cells)
    columns["plane"] = [found.plane] * len(cells)
    columns["id"] = cells.ids.tolist()
    columns |= zip(
        ("left_px", "top_px", "right_px", "bottom_px"), cells.box.T.tolist(), strict=True
    )
    columns |= zip(("x_px", "y_px"), _rounded(cells.centroid.T), strict=True)
    columns["area_px"] = cells.area.tolist()
    for name in ("perimeter", "diameter"):
        columns[f"{name}_px"] = _rounded(getattr(cells, name))
    for name in ("eccentricity", "solidity"):
        columns[name] = _rounded(getattr(cells, name))
    columns["on_frame"] = cells.on_frame.astype(int).tolist()
    if size:
        columns |= zip(
            ("x_um", "y_um"), _rounded(cells.centroid.T * [[size.x], [size.y]]), strict=True
        )
        columns["area_um2"] = _rounded(cells.area * size.area)
        columns["diameter_um"] = _rounded(cells.diameter * size.length)
        columns["perimeter_um"] = _rounded(cells.perimeter * size.length)
    if found.agreement is not None:
        columns["agreement"] = _rounded(found.agreement[cells.ids])
    return columns | _intensities(found)


def _intensities(found: Segmented) -> dict[str, Column]:
    cells = found.cells
    columns: dict[str, Column] = {}
    for c in range(0 if is_grey(found) else cells.mean.shape[1]) or range(
        min(1, cells.mean.shape[1])
    ):
        for kind, values in (("mean", cells.mean), ("min", cells.low), ("max", cells.high)):
            columns[f"{kind}_{c + 1}"] = _rounded(values[:, c])
    return columns


def is_grey(found: Segmented) -> bool:
    """Whether all channels show the same of the cells."""
    tables = found.cells.mean, found.cells.low, found.cells.high
    return all(bool((table == table[:, :1]).all()) for table in tables)


def image_row(found: Segmented) -> dict[str, float | int | str | None]:
    """The line of `images.csv` for one image, by IMAGE_COLUMNS."""
    height, width = found.labels.shape
    count, size = len(found.cells), found.pixel_size
    median = float(np.median(found.cells.diameter)) if count else None
    return {
        "image": found.name,
        "plane": found.plane,
        "label": (found.place / found.label.name).as_posix(),
        "height_px": height,
        "width_px": width,
        "cells": count,
        "cells_per_mpx": round(count / (height * width) * 1e6, DIGITS),
        "cells_per_mm2": round(count / (height * width * size.area) * 1e6, DIGITS)
        if size
        else None,
        "median_diameter_px": _round(median),
        "median_diameter_um": _round(median * size.length) if size and median else None,
        "pixel_width_um": size.x if size else None,
        "pixel_height_um": size.y if size else None,
        "pixel_size_from": size.source if size else None,
        "seconds": _round(found.seconds),
        "notes": "; ".join(found.notes),
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _rounded(values: np.ndarray) -> Any:
    rounded: Any = np.round(values.astype(np.float64), DIGITS).tolist()
    return rounded


def _lines(rows: Iterable[Sequence[object]] | Iterator[tuple[object, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
