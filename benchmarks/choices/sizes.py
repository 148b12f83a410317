"""How well the size of cells is estimated, and what the search for the surest scale adds.

    python -m benchmarks.choices.sizes DATA [--val] [--weights BUNDLE] [--sources a,b]

DATA is a folder with images/, labels/ and a meta.csv; 60 training images of each modality
(--val: all validation images) are measured. The error is the factor between a diameter and that of
the typical cell, 9 where none was seen; the F1 is that with this diameter, without mirror images.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np

from benchmarks.accuracy.summary import HEADLINE, by_modality, markdown
from benchmarks.choices.tiles import draw
from reunet import load_model, segment
from reunet.inference.normalise import normalise_channels
from reunet.inference.scale import typical_diameter
from reunet.inference.size import estimate_size, views_of
from reunet.io.images import read_image, read_label
from reunet.metric import score_pair
from reunet.model import default_weights
from reunet.options import Options
from reunet.scale_search import search_scale

WAYS = ("estimate", "after the search", "true")
HEADS = ("diameter", "images", "median", "75 % within", "90 % within", "F1, mean of modalities")
Found = dict[str, tuple[float, float]]  # image -> error, F1


def main() -> None:
    """Measure, and print a table by way for all images and for each wave."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--val", action="store_true")
    parser.add_argument("--weights", type=Path, default=default_weights())
    parser.add_argument("--sources", default="")
    options = parser.parse_args()
    meta = draw(options.data, 10**6 if options.val else 60, val=options.val, column="modality")
    if options.sources:
        meta = {n: row for n, row in meta.items() if row["source"] in options.sources.split(",")}
    warnings.simplefilter("ignore")
    found = measure(options.data, meta, options.weights)
    for wave in ("12", "1", "2"):
        if names := [name for name in found[WAYS[0]] if meta[name]["wave"] in wave]:
            rows = [table_row(way, {n: found[way][n] for n in names}, meta) for way in WAYS]
            print(f"wave {' and '.join(wave)}\n\n{markdown(HEADS, rows)}\n")


def measure(data: Path, meta: dict[str, dict[str, str]], weights: Path) -> dict[str, Found]:
    """By way and image: error and F1. Images without cells are left out."""
    images = {path.stem: path for path in (data / "images").iterdir()}
    model = load_model(weights, device="cpu")
    assert model.size_network, "these weights estimate no sizes"
    found: dict[str, Found] = {way: {} for way in WAYS}
    for name in meta:
        label = read_label(data / "labels" / f"{name}_label.tiff")
        if not (truth := typical_diameter(label)):
            continue
        views = views_of(normalise_channels(read_image(images[name]).pixels))
        estimate = estimate_size(views, model.size_network)
        of = label.shape[0], label.shape[1]
        searched = search_scale(views, estimate, of, model, Options()) if estimate else None
        diameters = (estimate.diameter if estimate else None, searched, truth)
        for way, diameter in zip(WAYS, diameters, strict=True):
            error = max(diameter / truth, truth / diameter) if diameter else 9.0
            labels = segment(images[name], model, tta=False, diameter=diameter)
            found[way][name] = error, score_pair(label, labels).f1
    return found


def table_row(way: str, found: Found, meta: dict[str, dict[str, str]]) -> tuple[str, ...]:
    """A line of a table: how many images, quantiles of their errors, F1."""
    quantiles = np.quantile([error for error, _ in found.values()], (0.5, 0.75, 0.9))
    f1 = {name: f1 for name, (_, f1) in found.items()}
    mean = by_modality(f1, {name: meta[name]["modality"] for name in f1})[HEADLINE].mean
    return (way, str(len(found)), *(f"{value:.3f}" for value in (*quantiles, mean)))


if __name__ == "__main__":
    main()
