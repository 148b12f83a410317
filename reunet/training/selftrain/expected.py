"""Which pseudo-labels cannot be right, by what the labelled images of the modality hold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reunet.io.images import read_label
from reunet.training import layout
from reunet.training.data.dataset import read_cases

LEAST_KEPT = 0.5  # share of confident pixels under which an image is rejected
MOST_CELLS = 5000  # a megapixel: the densest labelled image has 2836, noise decodes to 10 000
CROWDED = 3.0  # times as many cells a megapixel as the densest labelled image of the modality …
FEW = 10  # … and so many more, which says nothing in a small image
SPECKS, SMALL = 50, 0.5  # so many cells, of this share of the smallest labelled median diameter
LEAST_IMAGES = 3  # labelled ones of a modality, under which all of them are looked at


@dataclass(frozen=True)
class Expected:
    """Of labelled images: the most cells a megapixel, and the smallest median diameter (px)."""

    densest: float
    smallest: float


def median_diameter(instances: np.ndarray) -> float:
    """Diameter in px of the disk as large as the median cell, each counted once; 0 without one."""
    areas = np.bincount(instances.ravel())[1:]
    areas = areas[areas > 0]
    return float(np.sqrt(4 / np.pi * np.median(areas))) if areas.size else 0.0


def expectations(root: Path) -> dict[str, Expected]:
    """What the labelled cases hold, by modality; "" stands for all of them.

    At the size that training sees them at, which is the size of the pseudo-labels, too.
    """
    seen: dict[str, list[tuple[float, float]]] = {"": []}
    for case, about in read_cases(root).items():
        instances = read_label(layout.instances_file(root, case))
        cells = len(np.unique(instances)) - (not instances.all())
        figures = cells / instances.size * 1e6, median_diameter(instances)
        for name in ("", about["modality"]):
            seen.setdefault(name, []).append(figures)
    return {
        name: Expected(max(d for d, _ in figures), min(m for _, m in figures))
        for name, figures in seen.items()
        if len(figures) >= LEAST_IMAGES or not name
    }


def why_rejected(row: dict[str, Any], pixels: int, known: Expected | None) -> str:
    """Why a pseudo-label would mislead, or nothing.

    Rejected are images with less than half of their pixels confident, without a cell, with more
    cells than there is room for, and with many more or far smaller cells than any labelled image
    of the modality. row: `cells`, `median_diameter` (px), `kept_share`. known: None: nothing is.
    """
    cells, megapixels = row["cells"], pixels / 1e6
    if row["kept_share"] < LEAST_KEPT:
        return f"only {row['kept_share']:.0%} of the pixels are confident"
    if cells == 0:
        return "no cell was found"
    if cells > MOST_CELLS * megapixels + 1:
        return f"{cells} cells have no room in {megapixels:.2f} megapixels"
    if known is None:
        return ""
    if cells > (most := CROWDED * known.densest * megapixels + FEW):
        return f"{cells} cells, where by the labelled images {most:.0f} would be many"
    if cells >= SPECKS and row["median_diameter"] < SMALL * known.smallest:
        return (
            f"{cells} specks of {row['median_diameter']:.1f} px: "
            f"labelled cells measure {known.smallest:.1f} px at least"
        )
    return ""
