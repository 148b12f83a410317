"""What a training has reached: `training.csv`, one line an epoch, and its plot."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from reunet.io.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

F1 = "f1_mean of modalities"  # the figure that the best checkpoint is chosen by
Row = dict[str, float]


class TrainingLog:
    """The table of a fold's folder, kept over interruptions."""

    def __init__(self, folder: Path) -> None:
        self.table, self.plot = folder / "training.csv", folder / "training.png"

    def rows(self) -> list[Row]:
        """The epochs so far; a figure that an epoch lacks is not in its row."""
        if not self.table.exists():
            return []
        with self.table.open(newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]

    def add(self, figures: Row) -> bool:
        """Add an epoch, in place of one of its number and any after it: those were lost with an
        interruption. Returns whether its F1 is the best so far."""
        earlier = [row for row in self.rows() if row["epoch"] < figures["epoch"]]
        self._write([*earlier, figures])
        best = max((row[F1] for row in earlier if F1 in row), default=-1.0)
        return figures.get(F1, -1.0) > best

    def _write(self, rows: list[Row]) -> None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with replacing(self.table) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        self._draw(rows)

    def _draw(self, rows: list[Row]) -> None:
        import matplotlib.pyplot as plt

        with plt.style.context("default"):  # nnU-Net's plot leaves huge fonts behind
            figure = self._figure(rows)
        figure.savefig(self.plot, dpi=90, bbox_inches="tight")
        plt.close(figure)

    def _figure(self, rows: list[Row]) -> "Figure":
        import matplotlib.pyplot as plt

        figure, (losses, scores) = plt.subplots(2, 1, figsize=(8, 8), sharex=True)
        for name in ("train_loss", "val_loss"):
            losses.plot([row["epoch"] for row in rows], [row[name] for row in rows], label=name)
        names = sorted({name for row in rows for name in row if name.startswith("f1_")})
        if len(names) == 2:  # a single modality is its mean
            names = [F1]
        for name in names:
            known = [row for row in rows if name in row]
            style = {"linewidth": 3, "color": "black"} if name == F1 else {}
            points = [r["epoch"] for r in known], [r[name] for r in known]
            scores.plot(*points, marker="o", label=name[3:], **style)
        losses.set_ylabel("loss")
        scores.set(xlabel="epoch", ylabel="instance F1 at IoU 0.5", ylim=(0, 1))
        for axes in (losses, scores):
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend()
        return figure


def epoch_line(figures: dict[str, float]) -> str:
    """An epoch in one line: its losses, and the instance F1 where it was looked at."""
    losses = f"loss {figures['train_loss']:.3f}, held out {figures['val_loss']:.3f}"
    line = f"epoch {figures['epoch']:.0f}: {losses}"
    scores = {name[3:]: f1 for name, f1 in figures.items() if name.startswith("f1_")}
    if not scores:
        return line
    mean = scores.pop(F1[3:])
    parts = ", ".join(f"{modality} {f1:.3f}" for modality, f1 in scores.items())
    return f"{line}, F1 {mean:.3f}" + (f" ({parts})" if len(scores) > 1 else "")
