"""What fine-tuning on a dozen images brings: F1 on other images of their source, before and after.

    python -m benchmarks.accuracy.finetune DATA SOURCE WORK [OPTIONS]

DATA: images/, labels/ and meta.csv. Images of the training part of SOURCE, drawn with a seed, are
given to `reunet train`, which holds some of them out itself. Scored are images of the source that
it never saw: its validation part, or where it has none other images and groups.
"""

import shutil
import time
import warnings
from pathlib import Path

import click
import numpy as np

from reunet import ReUNetWarning, load_model, segment
from reunet.io.images import read_label
from reunet.io.meta import read_meta
from reunet.metric import score_pair
from reunet.model import default_weights
from reunet.training.lab import SHIPPED, Lab, train_lab

FOLDER = click.Path(path_type=Path)


def choose(data: Path, source: str, images: int, score: int) -> tuple[list[str], list[str]]:
    """Names of images to learn from, and of others to be judged by; no group is in both."""
    rows = [row for row in read_meta(data / "images").values() if row["source"] == source]
    rows = [rows[n] for n in np.random.default_rng(0).permutation(len(rows))]
    learnt = [row for row in rows if row["split"] == "train"][:images]
    groups = {row["group"] for row in learnt}
    others = [row for row in rows if row["group"] not in groups]
    judged = [row for row in others if row["split"] == "val"] or others
    return [row["name"] for row in learnt], [row["name"] for row in judged[:score]]


def copy(data: Path, names: list[str], work: Path) -> tuple[Path, Path]:
    """Folders with the images and the labels of these names."""
    folders = work / "images", work / "masks"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(next((data / "images").glob(f"{name}.*")), folders[0])
        shutil.copy(data / "labels" / f"{name}_label.tiff", folders[1])
    return folders


def scores(data: Path, names: list[str], bundle: Path) -> list[float]:
    """Official F1 of each image, as users segment."""
    warnings.simplefilter("ignore", ReUNetWarning)
    model, found = load_model(bundle, "cpu"), []
    for name in names:
        image = next((data / "images").glob(f"{name}.*"))
        truth = read_label(data / "labels" / f"{name}_label.tiff")
        found.append(score_pair(truth, segment(image, model)).f1)
    return found


@click.command()
@click.argument("data", type=FOLDER)
@click.argument("source")
@click.argument("work", type=FOLDER)
@click.option("--images", default=12, show_default=True)
@click.option("--hours", default=0.5, show_default=True)
@click.option("--score", default=12, show_default=True)
@click.option("--start", default=SHIPPED, show_default=True)
def main(
    data: Path, source: str, work: Path, images: int, hours: float, score: int, start: str
) -> None:
    """Train, score before and after, and print one line for docs/training.md."""
    learnt, judged = choose(data, source, images, score)
    started = time.monotonic()
    train_lab(Lab(*copy(data, learnt, work), work / "bundle", start, hours), click.echo)
    minutes = (time.monotonic() - started) / 60
    first = default_weights("cpu") if start == SHIPPED else Path(start)
    before, after = (scores(data, judged, bundle) for bundle in (first, work / "bundle"))
    better = sum(b > a for a, b in zip(before, after, strict=True))
    cells = f"{len(judged)} | {np.mean(before):.3f} | {np.mean(after):.3f} | {better}"
    click.echo(f"| {source} | {len(learnt)} | {hours * 60:.0f} ({minutes:.0f}) | {cells} |")


if __name__ == "__main__":
    main()
