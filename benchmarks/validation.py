"""Official F1 on the validation images: the network with both decoders, and the classical floor.

    python benchmarks/validation.py DATA [--weights BUNDLE] [--out DIR] [--card]

DATA is a folder with images/, labels/ and a meta.csv whose column split says `val`. Prints a table
of mean / median F1 by modality with bootstrap intervals of the mean, keeps the label images in
DIR/<method>, and with --card writes the figures into the bundle's card. No figure of it steers
anything within the run.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import classical_floor
import numpy as np

from reunet.images import read_image, read_label
from reunet.instances import DECODERS
from reunet.labels import label_path, write_label
from reunet.metric import read_meta, score_pair
from reunet.pipeline import (
    Model,
    default_weights,
    find_instances,
    load_model,
    predict_classes,
)
from reunet.weights import write_card

FLOOR = "classical floor"
RESAMPLES, SEED = 2000, 0
Scores = dict[str, dict[str, float]]  # method -> image -> F1


def main() -> None:
    """Run, print, and keep what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-tta", action="store_true")
    parser.add_argument("--every", type=int, default=1, help="only every n-th image: a quick look")
    parser.add_argument("--out", type=Path, default=Path("runs/validation"))
    parser.add_argument("--tile", type=int, help="px, instead of the bundle's")
    parser.add_argument("--card", action="store_true", help="write the figures into the card")
    options = parser.parse_args()
    if options.card and (options.every > 1 or options.tile):
        parser.error("--card takes the figures of all images with the bundle's own tile")
    modality = {n: r["modality"] for n, r in read_meta(options.data).items() if r["split"] == "val"}
    if not modality:
        sys.exit(f"{options.data}: no meta.csv with split == val there")
    model = load_model(options.weights or default_weights(), options.device)
    if options.tile:
        smallest = min(model.bundle.smallest, options.tile)
        bundle = replace(model.bundle, tile=options.tile, smallest=smallest)
        model = replace(model, bundle=bundle)
    names = sorted(modality)[:: options.every]
    started = time.monotonic()
    scores = score(options.data, names, model, not options.no_tta, options.out)
    print(f"{len(names)} images in {time.monotonic() - started:.0f} s, {model.bundle.folder}")
    figures = {method: by_modality(f1, modality) for method, f1 in scores.items()}
    print(table(figures))
    if options.card:
        command = f"python benchmarks/validation.py DATA{' --no-tta' * options.no_tta}"
        validation = {"images": len(names), "command": command, "f1": figures}
        card = {**model.bundle.about, "validation": validation}
        write_card(model.bundle.folder, card)


def score(data: Path, names: list[str], model: Model, tta: bool, out: Path) -> Scores:
    """F1 of every image with every method."""
    scores: Scores = {}
    for name in names:
        image = data / "images" / f"{name}.png"
        truth = read_label(data / "labels" / f"{name}_label.tiff")
        for method, instances in segmentations(image, model, tta):
            folder = out / method.replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            write_label(label_path(image, folder), instances)
            scores.setdefault(method, {})[name] = score_pair(truth, instances).f1
    return scores


def segmentations(image: Path, model: Model, tta: bool) -> Iterator[tuple[str, np.ndarray]]:
    """The label images of each method; the network runs once for both decoders."""
    picture = read_image(image)
    class_maps = predict_classes(picture, model, tta=tta)
    for decoder in DECODERS:
        yield f"network {decoder}", find_instances(class_maps, decoder, model.bundle.encoding)
    yield FLOOR, classical_floor.segment(picture.pixels)


def by_modality(f1: dict[str, float], modality: dict[str, str]) -> dict[str, dict[str, float]]:
    """Mean, its bootstrap interval and median: by modality, over all images, over modalities."""
    groups = {m: np.array([f1[n] for n in f1 if modality[n] == m]) for m in set(modality.values())}
    groups = {m: values for m, values in sorted(groups.items()) if values.size}
    rng = np.random.default_rng(SEED)
    drawn = {
        m: values[rng.integers(0, values.size, (RESAMPLES, values.size))].mean(axis=1)
        for m, values in groups.items()
    }
    every = np.concatenate(list(groups.values()))
    weights = [values.size / every.size for values in groups.values()]
    figures = {m: _figures(values, drawn[m]) for m, values in groups.items()}
    figures["all images"] = _figures(every, np.average(list(drawn.values()), 0, weights))
    means = np.array([values.mean() for values in groups.values()])
    figures["mean of modalities"] = _figures(means, np.mean(list(drawn.values()), axis=0))
    return figures


def _figures(values: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(drawn, (2.5, 97.5))
    figures = {"mean": values.mean(), "low": low, "high": high, "median": np.median(values)}
    return {name: round(float(value), 4) for name, value in figures.items()}


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """The figures as Markdown: mean [95 % interval] / median."""
    columns = list(next(iter(figures.values())))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method, row in figures.items():
        cells = [
            f"{f['mean']:.3f} [{f['low']:.3f}, {f['high']:.3f}] / {f['median']:.3f}"
            for f in row.values()
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
