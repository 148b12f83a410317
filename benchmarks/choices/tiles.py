"""How far apart tiles may lie, and in which precision: F1 and seconds of choices of `segment`.

    python -m benchmarks.choices.tiles DATA [--each 12] [--weights BUNDLE] [--ways 0.75,1.0]

DATA is a folder with images/, labels/ and a meta.csv; of each modality so many validation images,
evenly spread over the sources, are segmented by every way, one after the other. The table has the
mean F1 of each modality, their mean, that of the images of which not all ways make the same, and
the seconds in the network. By it the step was chosen: the widest that costs less than 0.002.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.summary import markdown
from reunet import load_model, predict
from reunet.io.images import read_label
from reunet.io.meta import read_meta
from reunet.metric import score_pair
from reunet.network.precision import cpu_precision

WAYS: dict[str, tuple[str, dict[str, Any]]] = {  # precision, choices of `predict`
    "0.75": ("auto", {"step": 0.75}),
    "0.5": ("auto", {"step": 0.5}),
    "1.0": ("auto", {"step": 1.0}),
    "f32": ("f32", {"step": 0.75}),
}
Seen = dict[str, dict[str, tuple[float, float]]]  # way -> image -> F1, seconds in the network


def main() -> None:
    """Segment, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--each", type=int, default=12, help="images of a modality")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--ways", default=",".join(WAYS), help=f"[{','.join(WAYS)}]")
    options = parser.parse_args()
    ways = {name: WAYS[name] for name in options.ways.split(",")}
    models = {p: load_model(options.weights, "cpu", precision=p) for p, _ in ways.values()}
    meta = draw(options.data, options.each, val=True, column="modality")
    images = {path.stem: path for path in (options.data / "images").iterdir()}
    seen: Seen = {way: {} for way in ways}
    several = set()
    for name in meta:
        truth = read_label(options.data / "labels" / f"{name}_label.tiff")
        for way, (precision, choices) in ways.items():
            found = predict(images[name], models[precision], **choices)
            f1 = score_pair(truth, found.labels).f1
            seen[way][name] = f1, found.seconds["network"]
        if len({of_way[name][0] for of_way in seen.values()}) > 1:
            several.add(name)
    print(f"{len(meta)} images; auto is {cpu_precision()} here\n")
    print(table(seen, {name: row["modality"] for name, row in meta.items()}, several))


def draw(data: Path, each: int, *, val: bool, column: str) -> dict[str, dict[str, str]]:
    """Rows of meta.csv by name: so many of each value of a column, evenly spread over sources.

    val: of the validation images, else of all others.
    """
    groups = defaultdict(list)
    for name, row in read_meta(data).items():
        if (row["split"] == "val") == val:
            groups[row[column]].append((row["source"], name, row))
    drawn = {}
    for rows in groups.values():
        rows.sort(key=lambda entry: entry[:2])
        for index in np.linspace(0, len(rows) - 1, min(each, len(rows))).round().astype(int):
            drawn[rows[index][1]] = rows[index][2]
    return drawn


def table(seen: Seen, modality: dict[str, str], several: set[str]) -> str:
    """A row a way. modality: by image. several: images that not all ways see alike."""
    kinds = sorted({*modality.values()})
    groups = [[name for name in modality if modality[name] == kind] for kind in kinds]
    rows = []
    for way, of_way in seen.items():
        *means, differing = (
            np.mean([of_way[name][0] for name in group]) if group else np.nan
            for group in (*groups, several)
        )
        seconds = sum(spent for _, spent in of_way.values())
        figures = (*means, np.mean(means), differing)
        rows.append((way, *(f"{figure:.4f}" for figure in figures), f"{seconds:.1f}"))
    heads = ("way", *kinds, "mean of modalities", f"{len(several)} images that differ", "seconds")
    return markdown(heads, rows)


if __name__ == "__main__":
    main()
