"""Ways from what the network says to cells: F1 of every decoder on the same maps, not mirrored.

    python -m benchmarks.choices.decoders DATA [--every 3] [--weights BUNDLE]

DATA is a folder with images/, labels/ and a meta.csv, of whose validation images every n-th is
looked at. Beside the decoders of `reunet predict` there are seeds: peaks of the smoothed
probability of interiors in place of the distance field, by the same watershed within cells. Of the
numbers tried for them (SEEDS), all are shown, as are other numbers of the field's decoder (FIELD).
"""

import argparse
import warnings
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.accuracy.summary import by_modality, markdown
from benchmarks.choices.tiles import draw
from reunet import load_model
from reunet.inference.sliding_window import FIELD_LEVELS
from reunet.inference.watch import Watch, nothing_yet
from reunet.instances import peaks
from reunet.io.images import read_image, read_label
from reunet.io.source import hold
from reunet.metric import score_pair
from reunet.model import Model
from reunet.options import DECODERS, Options
from reunet.pipeline import find_cells, see
from reunet.survey import survey

FIELD = {  # row: what is otherwise
    "field, unsure cells kept": {"SURE": 0.0},
    "field, sure 0.85": {"SURE": 0.85},
    "field, persistence 0.2": {"PERSISTENCE": 0.2},
    "field, persistence 0.4": {"PERSISTENCE": 0.4},
}
SEEDS = [(sigma, persistence) for sigma in (1.5, 3.0) for persistence in (0.1, 0.2, 0.3)]


def main() -> None:
    """Measure, and print a table by decoder for each wave."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    meta = draw(options.data, 10**6, val=True, column="modality")
    model = load_model(options.weights, device="cpu")
    images = {path.stem: path for path in (options.data / "images").iterdir()}
    found: dict[str, dict[str, float]] = defaultdict(dict)
    warnings.simplefilter("ignore")
    for name in sorted(meta, key=lambda n: (meta[n]["modality"], meta[n]["source"], n))[
        :: options.every
    ]:
        truth = read_label(options.data / "labels" / f"{name}_label.tiff")
        for way, labels in decoded(images[name], model).items():
            found[way][name] = score_pair(truth, labels).f1
    for wave in ("1", "2"):
        rows = []
        for way, f1 in found.items():
            of_wave = {n: value for n, value in f1.items() if meta[n]["wave"] == wave}
            means = by_modality(of_wave, {n: meta[n]["modality"] for n in of_wave})
            rows.append((way, *(f"{mean.mean:.3f}" for mean in means.values())))
        print(f"wave {wave}\n\n{markdown(('decoder', *means), rows)}\n")


def decoded(image: Path, model: Model) -> dict[str, np.ndarray]:
    """The cells of an image by every decoder, (H, W) int32 each."""
    options = Options(tta=False)
    view = survey(hold(read_image(image)), model, options)
    watch = Watch(probabilities=nothing_yet(view.shape))
    seen = see(view, model, options, np.zeros, watch)
    assert watch.probabilities is not None
    cells = {
        name: find_cells(replace(seen, out=()), model.bundle, replace(options, decoder=name))[0]
        for name in DECODERS
    }
    for name, numbers in FIELD.items():
        with patch.multiple(peaks, **numbers):
            cells[name] = find_cells(replace(seen, out=()), model.bundle, options)[0]
    interiors = np.rint(watch.probabilities[1:2].astype(np.float32) * FIELD_LEVELS)
    seeds = replace(seen, out=(), maps=replace(seen.maps, fields=interiors.astype(np.uint8)))
    for sigma, persistence in SEEDS:
        with patch.multiple(
            peaks,
            SIGMA=sigma,
            HALO=round(4 * sigma),
            PERSISTENCE=persistence,
            OUTSIDE=-1,  # interiors have no probability at the rim of a cell
        ):
            name = f"seeds, sigma {sigma:g} px, persistence {persistence:g}"
            cells[name] = find_cells(seeds, model.bundle, options)[0]
    return cells


if __name__ == "__main__":
    main()
