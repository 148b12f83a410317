"""What each stage of the training gave: official F1 on the validation images, stage by stage.

    python benchmarks/results.py DATA STAGE=BUNDLE [STAGE=BUNDLE ...] [--card]

DATA is a folder with images/, labels/ and a meta.csv whose column split says `val`. The bundles are
exports of the stages, in their order; the last is the one that ships. For every stage: the mean of
its folds on their own and the mean of their logits; for the last also its best fold, the votes of
its folds, mirroring, and what ships, a second look at small cells. Figures of an image are kept
below DIR, so an interrupted run goes on and a new stage costs only itself; they hold for the code
that they were made with.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import classical_floor
import numpy as np
from validation import by_modality, table

from reunet.images import read_image, read_label
from reunet.metric import read_meta, score_pair
from reunet.normalise import normalise_channels
from reunet.pipeline import Model, find_instances, load_model
from reunet.predict import most_probable, predict_logits
from reunet.small_cells import LARGEST, are_small, classify_enlarged
from reunet.weights import write_card

AVERAGE, VOTES = "logits averaged", "votes"  # of the folds
LOOKED_TWICE = "votes, second look at small cells"
TOGETHER = (AVERAGE, VOTES, LOOKED_TWICE)
FLOOR = "classical floor"
PAPER = {"tuning set": 0.61, "test set": 0.44}  # Re-UNet's mean F1, on the challenge's own images
F1 = dict[str, dict[str, float]]  # fold or a way of TOGETHER -> image -> F1


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("stages", nargs="+", metavar="STAGE=BUNDLE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    parser.add_argument("--card", action="store_true", help="write the table into the last card")
    options = parser.parse_args()
    modality = {n: r["modality"] for n, r in read_meta(options.data).items() if r["split"] == "val"}
    if not modality:
        sys.exit(f"{options.data}: no meta.csv with split == val there")
    options.out.mkdir(parents=True, exist_ok=True)
    stages = [text.partition("=")[::2] for text in options.stages]
    names = sorted(modality)
    rows: F1 = {}
    changes: list[str] = []
    for stage, bundle in stages[:-1]:
        model = load_model(bundle, options.device)
        rows |= rows_of(stage, measure(options.data, names, model, options.out, (AVERAGE,)))
    stage, bundle = stages[-1]
    model = load_model(bundle, options.device)
    for name, ways in ((stage, (AVERAGE, VOTES)), (f"{stage} + mirroring", TOGETHER)):
        f1 = measure(options.data, names, model, options.out, ways)
        rows |= rows_of(name, f1) | best_fold(name, f1, modality)
        changes += [change(name, f1, *pair) for pair in pairwise(ways)]
    rows[FLOOR] = floor(options.data, names, options.out)
    figures = {row: by_modality(scores, modality) for row, scores in rows.items()}
    print(table(figures), *changes, sep="\n\n")
    quoted = ", ".join(f"{f1} on the challenge's {images}" for images, f1 in PAPER.items())
    print(f"\nThe paper's own mean F1, measured on other images: {quoted}.")
    if options.card:
        command = "python benchmarks/results.py DATA STAGE=BUNDLE ..."
        results = {"images": len(modality), "command": command, "f1": figures}
        write_card(model.bundle.folder, {**model.bundle.about, "results": results})


def rows_of(stage: str, f1: F1) -> F1:
    """The mean of the folds on their own, and each way of taking several together."""
    folds = [scores for name, scores in f1.items() if name not in TOGETHER]
    single = {image: float(np.mean([scores[image] for scores in folds])) for image in folds[0]}
    if len(folds) == 1:
        return {stage: single}
    together = {f"{stage}, {way}": scores for way, scores in f1.items() if way in TOGETHER}
    return {f"{stage}, mean of {len(folds)} folds": single, **together}


def best_fold(stage: str, f1: F1, modality: dict[str, str]) -> F1:
    """A row for the fold with the highest mean of modalities; none where there is one fold."""
    folds = {name: scores for name, scores in f1.items() if name not in TOGETHER}
    if len(folds) == 1:
        return {}
    headline = {n: by_modality(s, modality)["mean of modalities"]["mean"] for n, s in folds.items()}
    best = max(headline, key=lambda name: headline[name])
    return {f"{stage}, best fold ({best})": folds[best]}


def change(stage: str, f1: F1, before: str, after: str) -> str:
    """How many images another way changes, and their F1 before and after, in words."""
    pairs = [(f1[before][image], f1[after][image]) for image in f1[before]]
    changed = np.array([pair for pair in pairs if pair[0] != pair[1]])
    better = int((changed[:, 1] > changed[:, 0]).sum()) if len(changed) else 0
    means = " -> ".join(f"{f:.3f}" for f in changed.mean(axis=0)) if len(changed) else "the same"
    return (
        f"{stage}, from {before} to {after}: {len(changed)} images change, {better} of them to the "
        f"better; their mean F1: {means}."
    )


def measure(data: Path, names: list[str], model: Model, out: Path, ways: Sequence[str]) -> F1:
    """F1 of every image with every fold and by each of `ways`; mirrored if LOOKED_TWICE is one."""
    bundle = model.bundle
    identity = "-".join(digest[:12] for digest in bundle.about["sha256"].values())
    kept = out / f"{identity}{'-mirrored' * (LOOKED_TWICE in ways)}.csv"
    f1 = read_kept(kept)
    wanted = {*model.folds, *ways}
    for name in names:
        if all(name in f1.get(method, {}) for method in wanted):
            continue
        truth = read_label(data / "labels" / f"{name}_label.tiff")
        image = normalise_channels(read_image(data / "images" / f"{name}.png").pixels)
        found = {
            method: find_instances(class_maps, bundle.decoder, bundle.encoding)
            for method, class_maps in all_class_maps(image, model, ways).items()
        }
        for method, instances in found.items():
            f1.setdefault(method, {})[name] = score_pair(truth, instances).f1
        keep(kept, name, f1)
    return {method: f1[method] for method in (*model.folds, *ways)}


def all_class_maps(
    image: np.ndarray, model: Model, ways: Sequence[str]
) -> dict[str, Sequence[np.ndarray]]:
    """The class map of every fold and those that each way makes cells of.

    image: (H, W, 3) uint8.
    """
    tiling = model.tiling(tta=LOOKED_TWICE in ways)
    logits = [predict_logits(image, [fold], tiling) for fold in model.networks]
    class_maps = [most_probable(of_fold) for of_fold in logits]
    found = {name: [classes] for name, classes in zip(model.folds, class_maps, strict=True)}
    found[AVERAGE] = [most_probable(np.mean(logits, axis=0))]
    if VOTES in ways:
        found[VOTES] = class_maps
    if LOOKED_TWICE in ways:
        found[LOOKED_TWICE] = class_maps
        first = find_instances(class_maps[:1], model.bundle.decoder, model.bundle.encoding)
        if are_small(first) and first.size <= LARGEST:
            found[LOOKED_TWICE] = [classify_enlarged(image, [f], tiling) for f in model.networks]
    return found


def floor(data: Path, names: list[str], out: Path) -> dict[str, float]:
    """F1 of every image by the classical way."""
    kept = out / "classical_floor.csv"
    f1 = read_kept(kept)
    for name in names:
        if name in f1.get(FLOOR, {}):
            continue
        found = classical_floor.segment(read_image(data / "images" / f"{name}.png").pixels)
        truth = read_label(data / "labels" / f"{name}_label.tiff")
        f1.setdefault(FLOOR, {})[name] = score_pair(truth, found).f1
        keep(kept, name, f1)
    return f1[FLOOR]


def read_kept(path: Path) -> F1:
    """Figures of an earlier run."""
    f1: F1 = {}
    if path.exists():
        with path.open(newline="") as file:
            for image, method, value in csv.reader(file):
                f1.setdefault(method, {})[image] = float(value)
    return f1


def keep(path: Path, image: str, f1: F1) -> None:
    """Add the figures of one image, in one write."""
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([image, method, scores[image]] for method, scores in f1.items())


if __name__ == "__main__":
    main()
