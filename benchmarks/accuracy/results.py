"""What each stage of the training gave: official F1 on the validation images, by what ships.

    python -m benchmarks.accuracy.results DATA STAGE=BUNDLE [STAGE=BUNDLE ...] [--jobs 2] [--card]

DATA is a folder with images/, labels/ and a meta.csv (name, split, modality, source, and wave where
there are several). The bundles are exports of the stages, in their order; the last is the one that
ships. Every row is `reunet.segment` with choices of its own, the last row by its defaults. There
are tables by modality for each wave and for all, by source for what ships, and the worst images of
every modality. OUT/labels holds the labels of what ships, to look at; OUT/images.csv the F1 of
every image by every row; OUT/scores.csv all that was measured: an interrupted run goes on with it,
and a new stage costs only itself. The figures hold for the code that they were made with.

A quick look: --every 10. Levels of quality: --ways fast,best,ships. A part: --sources a,b.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from benchmarks.accuracy.scoring import FLOOR, Score, Way, score_all
from benchmarks.accuracy.summary import HEADLINE, Interval, by_group, by_modality, change, markdown
from reunet.io.meta import read_meta
from reunet.network.bundle import STUDENT, open_bundle, write_card

SHIPS = "what ships"
ONCE: dict[str, object] = {"enlarge": False, "tta": True}  # and all mirror images
TOGETHER: dict[str, tuple[str, dict[str, object]]] = {  # name, choices
    "paper": ("paper's way", {"decoder": "paper", "vote": False, **ONCE}),
    "averaged": ("averaged", {"vote": False, **ONCE}),
    "votes": ("votes", {**ONCE}),
    "fast": ("fast", {"quality": "fast"}),
    "best": ("best", {"quality": "best"}),
    "ships": (SHIPS, {}),
}
OF_FOLDS = ("paper", "averaged", "votes")
WAYS = ("floor", "folds", *TOGETHER)
EARLIER = ("averaged",)  # ways of the stages before the last
PAPER = "0.61 on the challenge's tuning set, 0.44 on its test set"  # Re-UNet's own mean F1
Meta = dict[str, dict[str, str]]  # image -> its row of meta.csv
Rows = dict[str, dict[str, Score]]  # row -> image -> score
Figures = dict[str, dict[str, Interval]]  # row -> column of a table


def main() -> None:
    """Measure what is not measured yet, and print the tables."""
    options = parse()
    meta = choose_images(options)
    labels: Path = options.out / "labels"
    labels.mkdir(parents=True, exist_ok=True)
    stages = [(text.partition("=")[0], Path(text.partition("=")[2])) for text in options.stages]
    ways = [way for stage in stages for way in ways_of(*stage, stage == stages[-1], options)]
    rows = score_all(options.data, sorted(meta), ways, options.out / "scores.csv", options.jobs)
    rows = with_folds_summed_up(rows, stages[-1][0], meta)
    write_images(options.out / "images.csv", rows, meta)
    figures: dict[str, Figures] = {}
    for wave, names in waves(meta).items():
        figures[wave] = {
            row: by_modality({n: scores[n].f1 for n in names}, column(meta, "modality"))
            for row, scores in rows.items()
        }
        print(f"## {wave}, {len(names)} images\n\n{by_row(figures[wave])}\n")
    print_changes(rows)
    last = list(rows)[-1]
    print_sources(last, rows[last], meta)
    print_worst(last, rows[last], meta, options.worst)
    print(f"The paper's own mean F1, measured on other images: {PAPER}.")
    if options.card:
        write_figures(stages[-1][1], len(meta), figures)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("stages", nargs="+", metavar="STAGE=BUNDLE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the cores")
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    parser.add_argument("--ways", default=",".join(WAYS), help=f"[{','.join(WAYS)}]")
    parser.add_argument("--no-tta", action="store_true", help="all but levels, unmirrored")
    parser.add_argument("--every", type=int, default=1, help="only every n-th image: a quick look")
    parser.add_argument("--split", default="val")
    parser.add_argument("--sources", help="only these, such as a,b")
    parser.add_argument("--worst", type=int, default=10, help="images shown of a modality")
    parser.add_argument("--card", action="store_true", help="write the figures into the last card")
    options = parser.parse_args()
    options.ways = options.ways.split(",")
    if unknown := {*options.ways} - {*WAYS}:
        parser.error(f"no way {', '.join(sorted(unknown))}: there are {', '.join(WAYS)}")
    if options.card and (options.every > 1 or options.sources or options.split != "val"):
        parser.error("--card takes the figures of the whole validation part")
    return options


def choose_images(options: argparse.Namespace) -> Meta:
    """The rows of meta.csv that are asked for, by modality and source, every n-th of them."""
    meta = {n: r for n, r in read_meta(options.data).items() if r["split"] == options.split}
    if options.sources:
        meta = {n: r for n, r in meta.items() if r["source"] in options.sources.split(",")}
    if not meta:
        sys.exit(f"{options.data}: no meta.csv there with such images of split {options.split}")
    names = sorted(meta, key=lambda name: (meta[name]["modality"], meta[name]["source"], name))
    return {name: meta[name] for name in names[:: options.every]}


def ways_of(stage: str, bundle: Path, last: bool, options: argparse.Namespace) -> Iterator[Way]:
    """The ways to use a bundle that are asked for; the floor comes with the last."""
    every = open_bundle(bundle).folds
    folds = tuple(fold for fold in every if fold != STUDENT)
    unmirrored: dict[str, object] = {"tta": False} if options.no_tta else {}
    if last and "floor" in options.ways:
        yield Way(FLOOR)
    if last and "folds" in options.ways and len(every) > 1:
        for fold in every:
            alone = tuple({**ONCE, **unmirrored}.items())
            yield Way(f"{stage}, fold {fold}", bundle, (fold,), alone, options.device)
    for key, (name, own) in TOGETHER.items():
        if key in (options.ways if last else EARLIER) and not (key == "votes" and len(folds) == 1):
            choices = own | (unmirrored if key in OF_FOLDS else {})
            labels = None if own else options.out / "labels"
            about = f"{stage}, {name}{', unmirrored' * (choices.get('tta') is False)}"
            used = folds if key in OF_FOLDS and folds != every else None  # not the student
            yield Way(about, bundle, used, tuple(choices.items()), options.device, labels)


def with_folds_summed_up(rows: Rows, stage: str, meta: Meta) -> Rows:
    """The best fold in place of all, by the mean of modalities over all images."""
    folds = {row: scores for row, scores in rows.items() if row.startswith(f"{stage}, fold ")}
    if not folds:
        return rows
    modality = column(meta, "modality")

    def headline(row: str) -> float:
        return by_modality(f1_of(rows[row]), modality)[HEADLINE].mean

    best = max(folds, key=headline)
    named = f"{stage}, best of {len(folds)} folds ({best.rpartition(' ')[2]})"
    others = {row: scores for row, scores in rows.items() if row not in folds}
    floor = {FLOOR: others.pop(FLOOR)} if FLOOR in others else {}
    return {**floor, named: folds[best], **others}


def waves(meta: Meta) -> dict[str, list[str]]:
    """Names of the images of each wave, and of all."""
    wave = {name: row.get("wave") or "1" for name, row in meta.items()}
    different = sorted({*wave.values()})
    parts = {f"wave {w}": [name for name in meta if wave[name] == w] for w in different}
    return parts if len(parts) == 1 else {**parts, "all waves": list(meta)}


def column(meta: Meta, name: str) -> dict[str, str]:
    """A column of meta.csv by image."""
    return {image: row[name] for image, row in meta.items()}


def f1_of(scores: dict[str, Score]) -> dict[str, float]:
    """The F1 alone."""
    return {image: score.f1 for image, score in scores.items()}


def by_row(figures: Figures) -> str:
    """A table of mean [95 % interval] / median."""
    columns = list(next(iter(figures.values())))
    return markdown(("", *columns), [(row, *values.values()) for row, values in figures.items()])


def print_changes(rows: Rows) -> None:
    """What each way of the last stage does to the one before it."""
    ways = [row for row in rows if any(f", {name}" in row for name, _ in TOGETHER.values())]
    for before, after in pairwise(ways):
        print(f"* {before} -> {after}: {change(f1_of(rows[before]), f1_of(rows[after]))}.")


def print_sources(row: str, scores: dict[str, Score], meta: Meta) -> None:
    """The table by source, worst first."""
    source = {name: f"{r['modality']} | {r['source']}" for name, r in meta.items()}
    groups = by_group(f1_of(scores), source).items()
    ordered = sorted(groups, key=lambda group: group[1][1].mean)
    print(f"\n## By source: {row}\n")
    heads = ("modality", "source", "images", "F1 [95 % interval] / median")
    print(markdown(heads, [(name, count, figure) for name, (count, figure) in ordered]))


def print_worst(row: str, scores: dict[str, Score], meta: Meta, number: int) -> None:
    """The worst images of every modality."""
    print(f"\n## Worst images of each modality: {row}\n")
    heads, lines = ("modality", "image", "source", "F1", "true", "predicted", "correct"), []
    for modality in sorted({*column(meta, "modality").values()}):
        names = [name for name in scores if meta[name]["modality"] == modality]
        for name in sorted(names, key=lambda name: scores[name].f1)[:number]:
            lines.append((modality, name, meta[name]["source"], *scores[name]))
    print(markdown(heads, lines), "\n")


def write_images(path: Path, rows: Rows, meta: Meta) -> None:
    """A line for every image with its F1 by every row."""
    about = ("wave", "modality", "source")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", *about, *rows))
        for name, row in meta.items():
            f1 = (scores[name].f1 for scores in rows.values())
            writer.writerow((name, *(row.get(key, "") for key in about), *f1))


def write_figures(bundle: Path, images: int, figures: dict[str, Figures]) -> None:
    """Put the figures into the bundle's card."""
    f1 = {
        wave: {
            row: {name: figure._asdict() for name, figure in values.items()}
            for row, values in of_wave.items()
        }
        for wave, of_wave in figures.items()
    }
    command = "python -m benchmarks.accuracy.results DATA STAGE=BUNDLE ..."
    results = {"images": images, "command": command, "f1": f1}
    write_card(bundle, {**open_bundle(bundle).about, "results": results})


if __name__ == "__main__":
    main()
