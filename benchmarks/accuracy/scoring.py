"""Official F1 of many images by several ways, each of them `reunet.segment` as users call it."""

import csv
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accuracy import classical_floor
from reunet import Model, load_model, segment
from reunet.io.images import read_image, read_label
from reunet.io.labels import label_path, write_label
from reunet.metric import score_pair
from reunet.network.bundle import open_bundle

FLOOR = "classical floor"
COLUMNS = ("image", "way", "f1", "true", "predicted", "correct")
MODELS = 2  # held by a process; the images of one way follow each other


class Score(NamedTuple):
    """Of one image: the official F1, and the numbers of cells that count for it."""

    f1: float
    true: int
    predicted: int
    correct: int


@dataclass(frozen=True)
class Way:
    """How to segment: a bundle, some of its folds, and what `segment` is asked for.

    bundle: None is the classical floor. folds: None are all. labels: folder for what is found.
    """

    name: str
    bundle: Path | None = None
    folds: tuple[str, ...] | None = None
    choices: tuple[tuple[str, object], ...] = ()
    device: str = "auto"
    labels: Path | None = None

    def identity(self) -> str:
        """What the scores depend on and are kept by: weights, folds and choices."""
        if not self.bundle:
            return FLOOR
        hashes = open_bundle(self.bundle).about["sha256"].values()
        folds = ",".join(self.folds) if self.folds else "all"
        choices = (f"{name}={value}" for name, value in sorted(self.choices))
        return " ".join(("-".join(h[:8] for h in hashes), f"folds={folds}", *choices))


class Task(NamedTuple):
    """One image by one way."""

    way: Way
    image: Path
    truth: Path


def score_all(
    data: Path, names: Sequence[str], ways: Sequence[Way], kept: Path, jobs: int = 1
) -> dict[str, dict[str, Score]]:
    """Scores by the names of way and image. What the file `kept` holds is not made again.

    jobs: processes; they share the cores. Ends with the first image that cannot be read.
    """
    identities = {way: way.identity() for way in ways}
    scores = read_scores(kept)
    images = {path.stem: path for path in (data / "images").iterdir()}
    tasks = [
        Task(way, images[name], data / "labels" / f"{name}_label.tiff")
        for way, identity in identities.items()
        for name in names
        if (name, identity) not in scores
    ]
    with processes(jobs) as run:
        for task, score in zip(tasks, run(score_image, tasks), strict=True):
            key = task.image.stem, identities[task.way]
            scores[key] = score
            keep(kept, key, score)
    return {
        way.name: {name: scores[name, identity] for name in names}
        for way, identity in identities.items()
    }


@contextmanager
def processes(jobs: int) -> Iterator[Any]:
    """A `map` over some processes, each with its share of the cores; the plain one for one job."""
    if jobs == 1:
        yield map
        return
    context = get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(jobs):
        numbers.put(number)
    with ProcessPoolExecutor(jobs, context, take_cores, (numbers, jobs)) as pool:
        yield pool.map


def take_cores(numbers: Any, jobs: int) -> None:
    """Bind this process to every jobs-th core. Linux only; elsewhere they compete."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        number = numbers.get()
        os.sched_setaffinity(0, set(islice(cores, number, None, jobs)) or {*cores})


def score_image(task: Task) -> Score:
    """Segment one image and compare it with its truth."""
    way = task.way
    if way.bundle:
        model = load(way.bundle, way.device, way.folds)
        found = segment(task.image, model, **dict(way.choices))
    else:
        found = classical_floor.segment(read_image(task.image).pixels)
    if way.labels:
        write_label(label_path(task.image, way.labels), found)
    score = score_pair(read_label(task.truth), found)
    return Score(score.f1, score.n_true, score.n_pred, score.tp)


@lru_cache(MODELS)
def load(bundle: Path, device: str, folds: tuple[str, ...] | None) -> Model:
    """The model of a way; graphs and weights are kept from image to image."""
    return load_model(bundle, device, folds)


def read_scores(path: Path) -> dict[tuple[str, str], Score]:
    """Scores of earlier runs, by image and identity of the way."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {
            (row["image"], row["way"]): Score(float(row["f1"]), *(int(row[c]) for c in COLUMNS[3:]))
            for row in csv.DictReader(file)
        }


def keep(path: Path, key: tuple[str, str], score: Score) -> None:
    """Add a line, in one write."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([COLUMNS] * new + [(*key, *score)])
