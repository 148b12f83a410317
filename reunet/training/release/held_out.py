"""What a training brought: F1 on images that it has not seen, before and after, as users segment.

`evaluation.csv` in the bundle has a line an image.
"""

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from reunet import load_model
from reunet.io.atomic import replacing
from reunet.metric import score_pair
from reunet.network.bundle import CARD, Bundle
from reunet.pipeline import predict
from reunet.training.data.labels import read_instances
from reunet.training.data.survey import Pair

TABLE = "evaluation.csv"
FAR = 1.4  # factor by which sizes of cells may be misjudged: the training zooms by about as much


@dataclass(frozen=True)
class Scores:
    """One image. diameter: px of its typical cell; estimated: what it was taken for
    (0: nothing); before: F1 of the weights started from (-1: none)."""

    image: str
    cells: int
    diameter: float
    estimated: float
    before: float
    after: float


@dataclass(frozen=True)
class Comparison:
    """The held-out images."""

    images: tuple[Scores, ...]

    def mean(self, which: str) -> float:
        """Mean F1 `before` or `after`."""
        return float(np.mean([getattr(scores, which) for scores in self.images]))

    def lines(self) -> list[str]:
        """What there is to say, and a warning where weights became worse or sizes are misjudged."""
        count = f"{len(self.images)} held-out image" + "s" * (len(self.images) > 1)
        before, after = self.mean("before"), self.mean("after")
        if before < 0:
            lines = [f"F1 on {count}: {after:.3f}"]
        else:
            lines = [f"F1 on {count}: {before:.3f} before, {after:.3f} after"]
        if after < before:
            lines.append("warning: worse than before: label more images, or train for longer")
        errors = [scores.estimated / scores.diameter for scores in self.images if scores.estimated]
        if errors and not 1 / FAR < (error := float(np.median(errors))) < FAR:
            typical = np.median([scores.diameter for scores in self.images])
            lines.append(
                f"warning: the size of cells is estimated {error:.2g} times as large as it is: "
                f"use reunet predict --diameter {typical:.0f}"
            )
        return lines


def compare(pairs: list[Pair], before: Bundle | None, after: Path) -> Comparison:
    """Segment held-out images with both bundles. A table that is there already is read."""
    table = after / TABLE
    if table.exists() and table.stat().st_mtime_ns > (after / CARD).stat().st_mtime_ns:
        return _read(table)
    new = load_model(after, "cpu")
    old = load_model(before.folder, "cpu") if before else None
    rows = []
    for pair in pairs:
        truth = read_instances(pair.label)
        found = predict(pair.image, new)
        first = score_pair(truth, predict(pair.image, old).labels).f1 if old else -1.0
        f1 = score_pair(truth, found.labels).f1
        figures = (pair.diameter, found.diameter or 0.0, first, f1)
        rows.append(Scores(pair.image.name, pair.cells, *(round(n, 4) for n in figures)))
    _write(table, rows)
    return Comparison(tuple(rows))


def _write(table: Path, rows: list[Scores]) -> None:
    with (
        replacing(table) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, [field.name for field in fields(Scores)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _read(table: Path) -> Comparison:
    with table.open(newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    return Comparison(
        tuple(
            Scores(row.pop("image"), int(row.pop("cells")), **{k: float(v) for k, v in row.items()})
            for row in rows
        )
    )
