"""What each stage of the training gave: official F1 on the validation images, stage by stage.

    python benchmarks/results.py DATA STAGE=BUNDLE [STAGE=BUNDLE ...] [--card]

DATA is a folder with images/, labels/ and a meta.csv whose column split says `val`. The bundles are
exports of the stages, in their order; the last is the one that ships. For every stage: the mean of
its folds on their own and their ensemble; for the last also its best fold, mirroring, and what
ships, a second look at small cells. Figures of an image are kept below DIR, so an interrupted run
goes on and a new stage costs only itself; they hold for the code that they were made with.
"""

import argparse
import csv
import sys
from pathlib import Path

import classical_floor
import numpy as np
from validation import by_modality, table

from reunet.images import read_image, read_label
from reunet.instances import decode
from reunet.metric import read_meta, score_pair
from reunet.normalise import normalise_channels
from reunet.pipeline import Model, load_model
from reunet.predict import Network, predict_logits
from reunet.small_cells import LARGEST, are_small, classify_enlarged
from reunet.weights import write_card

ENSEMBLE = "ensemble"
LOOKED_TWICE = "second look"  # the ensemble, where cells are small
FLOOR = "classical floor"
PAPER = {"tuning set": 0.61, "test set": 0.44}  # Re-UNet's mean F1, on the challenge's own images
F1 = dict[str, dict[str, float]]  # fold or ENSEMBLE -> image -> F1


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
    rows: F1 = {}
    for stage, _, bundle in (text.partition("=") for text in options.stages):
        model = load_model(bundle, options.device)
        f1 = measure(options.data, sorted(modality), model, options.out, mirror=False)
        rows |= single_and_together(stage, f1)
    mirrored = measure(options.data, sorted(modality), model, options.out, mirror=True)
    rows |= best_fold(stage, f1, modality)
    twice = mirrored.pop(LOOKED_TWICE)
    rows |= single_and_together(f"{stage} + mirroring", mirrored)
    rows |= best_fold(f"{stage} + mirroring", mirrored, modality)
    rows[f"{stage} + mirroring, ensemble, second look at small cells"] = twice
    rows[FLOOR] = floor(options.data, sorted(modality), options.out)
    figures = {row: by_modality(scores, modality) for row, scores in rows.items()}
    print(table(figures))
    quoted = ", ".join(f"{f1} on the challenge's {images}" for images, f1 in PAPER.items())
    print(f"\nThe paper's own mean F1, measured on other images: {quoted}.")
    if options.card:
        command = "python benchmarks/results.py DATA STAGE=BUNDLE ..."
        results = {"images": len(modality), "command": command, "f1": figures}
        write_card(model.bundle.folder, {**model.bundle.about, "results": results})


def single_and_together(stage: str, f1: F1) -> F1:
    """Two rows: the mean of the folds on their own, and the ensemble where there are several."""
    folds = [scores for name, scores in f1.items() if name != ENSEMBLE]
    single = {image: float(np.mean([scores[image] for scores in folds])) for image in folds[0]}
    if len(folds) == 1:
        return {stage: single}
    return {f"{stage}, mean of {len(folds)} folds": single, f"{stage}, ensemble": f1[ENSEMBLE]}


def best_fold(stage: str, f1: F1, modality: dict[str, str]) -> F1:
    """A row for the fold with the highest mean of modalities; none where there is one fold."""
    folds = {name: scores for name, scores in f1.items() if name != ENSEMBLE}
    if len(folds) == 1:
        return {}
    headline = {n: by_modality(s, modality)["mean of modalities"]["mean"] for n, s in folds.items()}
    best = max(headline, key=lambda name: headline[name])
    return {f"{stage}, best fold ({best})": folds[best]}


def measure(data: Path, names: list[str], model: Model, out: Path, mirror: bool) -> F1:
    """F1 of every image with every fold and with all of them together; mirrored, LOOKED_TWICE too.

    Of images without small cells the second look has the ensemble's figure.
    """
    bundle = model.bundle
    identity = "-".join(digest[:12] for digest in bundle.about["sha256"].values())
    kept = out / f"{identity}{'-mirrored' * mirror}.csv"
    f1 = read_kept(kept)
    for name in names:
        if all(name in scores for scores in f1.values()) and f1:
            continue
        image = normalise_channels(read_image(data / "images" / f"{name}.png").pixels)
        truth = read_label(data / "labels" / f"{name}_label.tiff")
        for method, logits in all_logits(image, model, mirror).items():
            classes = logits.argmax(axis=0).astype(np.uint8)
            found = decode(classes, bundle.decoder, bundle.encoding)
            f1.setdefault(method, {})[name] = score_pair(truth, found).f1
        if mirror:
            if are_small(found) and found.size <= LARGEST:
                classes = classify_enlarged(image, model.networks, model.tiling())
                found = decode(classes, bundle.decoder, bundle.encoding)
            f1.setdefault(LOOKED_TWICE, {})[name] = score_pair(truth, found).f1
        keep(kept, name, f1)
    return f1


def all_logits(image: np.ndarray, model: Model, mirror: bool) -> dict[str, np.ndarray]:
    """Logits of each fold and their mean. image: (H, W, 3) uint8."""
    networks: dict[str, Network] = dict(zip(model.folds, model.networks, strict=True))
    logits = {
        fold: predict_logits(image, [network], model.tiling(mirror))
        for fold, network in networks.items()
    }
    return {**logits, ENSEMBLE: np.mean(list(logits.values()), axis=0)}


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
