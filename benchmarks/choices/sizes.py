"""How well the size of cells is estimated, and what a second look and float32 would add.

    python -m benchmarks.choices.sizes DATA [--val]

DATA is a folder with images/, labels/ and a meta.csv; 60 training images of each modality
(--val: all validation images) are measured. The error is the factor between the estimate and the
true diameter of the typical cell, 9 where none was seen.
"""

import argparse
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.accuracy.summary import markdown
from benchmarks.choices.tiles import draw
from reunet import load_model
from reunet.inference import size
from reunet.inference.normalise import normalise_channels
from reunet.inference.scale import typical_diameter
from reunet.io.images import read_image, read_label

WAYS = {  # precision, and from which zoom on one look may be enough
    "what ships": ("auto", size.DETAIL),
    "always two looks": ("auto", 2.0),
    "f32": ("f32", size.DETAIL),
}
HEADS = ("way", "images", "median", "75 % within", "90 % within")


def main() -> None:
    """Measure, and print a table by way and one by wave."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--val", action="store_true")
    options = parser.parse_args()
    each = 10**6 if options.val else 60  # of a modality
    meta = draw(options.data, each, val=options.val, column="modality")
    images = {path.stem: path for path in (options.data / "images").iterdir()}
    networks = {p: load_model(device="cpu", precision=p) for p in ("auto", "f32")}
    errors: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    for name in meta:
        truth = typical_diameter(read_label(options.data / "labels" / f"{name}_label.tiff"))
        if not truth:
            continue
        views = size.views_of(normalise_channels(read_image(images[name]).pixels))
        for way, (precision, detail) in WAYS.items():
            network = networks[precision].size_network
            assert network, "these weights estimate no sizes"
            with mock.patch.object(size, "DETAIL", detail):
                found = size.estimate_diameter(views, network)
            errors[way][name] = max(found / truth, truth / found) if found else 9.0
    print(markdown(HEADS, [row(way, [*of_way.values()]) for way, of_way in errors.items()]), "\n")
    ours = errors["what ships"].items()
    waves = [row(f"wave {w}", [error for n, error in ours if meta[n]["wave"] == w]) for w in "12"]
    print(markdown(HEADS, waves))


def row(name: str, errors: list[float]) -> tuple[str, ...]:
    """A line of a table: how many, and quantiles of their errors."""
    quantiles = np.quantile(errors, (0.5, 0.75, 0.9))
    return (name, str(len(errors)), *(f"{value:.3f}" for value in quantiles))


if __name__ == "__main__":
    main()
