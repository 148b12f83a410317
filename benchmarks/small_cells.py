"""What a second, enlarged look gives by the size of the cells: on training images.

    python benchmarks/small_cells.py DATA [--weights BUNDLE] [--each 4] [--factors 1.41,2]

DATA is a folder with images/, labels/ and a meta.csv; --each images of every source whose split is
not `val` are segmented once and enlarged, by the first fold, without mirroring. The table has a row
for each range of the typical cell's diameter as the first look finds it. By it SMALL and FACTOR of
`reunet/inference/second_pass.py` were chosen: on images that were trained on, at all zooms from 0.5
to 2.
"""

import argparse
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
from timing import print_table

from reunet.inference import second_pass
from reunet.inference.normalise import normalise_channels
from reunet.inference.sliding_window import classify
from reunet.instances.decode import decode
from reunet.io.images import read_image, read_label
from reunet.metric import read_meta, score_pair
from reunet.pipeline import Model, default_weights, load_model

EDGES = (0, 15, 20, 25, 30, 40, 60, 1000)  # px, of the ranges of diameters
MOST_PIXELS = 600_000  # of an image
SEED = 0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, default=default_weights())
    parser.add_argument("--each", type=int, default=4, help="images of a source")
    parser.add_argument("--factors", default="1.41,2")
    options = parser.parse_args()
    factors = [float(factor) for factor in options.factors.split(",")]
    model = load_model(options.weights, "cpu", ["0"])
    found = [look(options.data, name, model, factors) for name in draw(options.data, options.each)]
    rows = []
    for low, high in pairwise(EDGES):
        f1 = [scores for diameter, scores in found if low <= diameter < high]
        if f1:
            rows.append((f"{low} to {high}", len(f1), *(f"{s:.3f}" for s in np.mean(f1, axis=0))))
    names = [f"F1 at {factor:g}" for factor in (1, *factors)]
    print_table(("typical diameter, px", "images", *names), rows)


def draw(data: Path, each: int) -> list[str]:
    """Names of training images, as many of every source."""
    sources = defaultdict(list)
    for name, row in sorted(read_meta(data).items()):
        if row["split"] != "val" and int(row["height"]) * int(row["width"]) <= MOST_PIXELS:
            sources[row["source"]].append(name)
    rng = np.random.default_rng(SEED)
    return [names[i] for names in sources.values() for i in rng.permutation(len(names))[:each]]


def look(data: Path, name: str, model: Model, factors: list[float]) -> tuple[float, list[float]]:
    """Typical diameter in px as seen in the first look, and the F1 of all looks."""
    image = normalise_channels(read_image(data / "images" / f"{name}.png").pixels)
    truth = read_label(data / "labels" / f"{name}_label.tiff")
    tiling = model.tiling(tta=False)
    maps = [classify(image, model.networks, tiling)]
    for factor in factors:
        second_pass.FACTOR = factor
        maps.append(second_pass.classify_enlarged(image, model.networks, tiling))
    labels = [decode(m, model.bundle.decoder, model.bundle.encoding) for m in maps]
    diameter = second_pass.typical_diameter(labels[0])
    return diameter, [score_pair(truth, found).f1 for found in labels]


if __name__ == "__main__":
    main()
