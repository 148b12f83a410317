"""Accuracy beyond IoU 0.5: precision, recall, F1, AP and PQ over a range of thresholds.

The cells that count are those of the official metric (`metric`): none in the 2-px frame, and tile
by tile from 25 Mpx on. So F1 at 0.5 is the official F1. Per threshold, with the matched pairs TP,
and the cells FP and FN that are left:

    AP = TP / (TP + FP + FN)         average precision as in the 2018 Data Science Bowl, Cellpose
    PQ = Σ IoU of pairs / (TP + FP/2 + FN/2)        panoptic quality, Kirillov et al. 2019, eq. 1

Legend: H, W pixels; N true cells, M predicted cells; T thresholds.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reunet.instances.overlap import overlapping_pairs
from reunet.io.atomic import replacing
from reunet.metric import check_pair, compact, inner_areas, match, tiles

MOST = 1000  # thresholds in a range
COLUMNS = (
    *("name", "modality", "iou", "true", "predicted", "correct"),
    *("precision", "recall", "f1", "ap", "pq"),
)


@dataclass(frozen=True)
class RangeScore:
    """How two label maps agree at each of T thresholds. (T,) float64 each, 0 to 1."""

    thresholds: tuple[float, ...]
    n_true: int
    n_pred: int
    correct: np.ndarray  # (T,) int64: matched pairs
    shared: np.ndarray  # (T,) sum of their IoU

    @property
    def precision(self) -> np.ndarray:
        """Share of the predicted cells that are matched."""
        return _share(self.correct, self.n_pred)

    @property
    def recall(self) -> np.ndarray:
        """Share of the true cells that are matched."""
        return _share(self.correct, self.n_true)

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall."""
        return _share(2 * self.correct, self.n_true + self.n_pred)

    @property
    def ap(self) -> np.ndarray:
        """Matched pairs over all cells, paired or not."""
        return _share(self.correct, self.n_true + self.n_pred - self.correct)

    @property
    def pq(self) -> np.ndarray:
        """F1 times the mean IoU of the matched pairs."""
        return _share(2 * self.shared, self.n_true + self.n_pred)


def parse_range(text: str) -> tuple[float, ...]:
    """Thresholds of `0.5:0.95:0.05` (the end belongs to it), `0.5,0.75` or `0.5`.

    Raises ValueError for anything but thresholds above 0 and up to 1.
    """
    try:
        parts = [float(part) for part in text.split(":")] if ":" in text else []
        if parts:
            first, last, step = parts
            values = [round(first + n * step, 6) for n in range(_steps(first, last, step))]
        else:
            values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value <= 1 for value in values):
        raise ValueError(
            f"{text!r} is no range of IoU above 0 and up to 1: write 0.5:0.95:0.05, or 0.5,0.75"
        )
    return tuple(sorted(set(values)))


def _steps(first: float, last: float, step: float) -> int:
    if step <= 0 or not 0 <= (last - first) / step < MOST:
        raise ValueError
    return int((last - first) / step + 1e-6) + 1


def score_range(gt: np.ndarray, seg: np.ndarray, thresholds: Sequence[float]) -> RangeScore:
    """Score one predicted label map against the truth at several thresholds.

    gt, seg: as for `metric.score_pair`, which raises the same. Below 0.5, where a cell may have
    several partners, as many pairs as can be are matched.
    """
    check_pair(gt, seg)
    n_true = n_pred = 0
    correct, shared = np.zeros(len(thresholds), np.int64), np.zeros(len(thresholds))
    for true, predicted in tiles(gt, seg):
        true, predicted = compact(true), compact(predicted)
        areas = inner_areas(true), inner_areas(predicted)
        n_true += int(np.count_nonzero(areas[0]))
        n_pred += int(np.count_nonzero(areas[1]))
        pairs = overlapping_pairs(true, predicted, areas)
        for n, threshold in enumerate(thresholds):
            matched = match(*pairs, threshold)
            correct[n] += matched.size
            shared[n] += pairs[2][matched].sum()
    return RangeScore(tuple(thresholds), n_true, n_pred, correct, shared)


def _share(part: np.ndarray, whole: np.ndarray | int) -> np.ndarray:
    """part / whole, 0 where there is nothing."""
    whole = np.broadcast_to(np.asarray(whole, np.float64), part.shape)
    share: np.ndarray = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    return share


def means(scores: Sequence[RangeScore]) -> dict[str, np.ndarray]:
    """Mean over images of each ratio, (T,) each; every image counts the same."""
    names = ("precision", "recall", "f1", "ap", "pq")
    return {name: np.mean([getattr(score, name) for score in scores], axis=0) for name in names}


def groups(
    scores: Mapping[str, RangeScore], modalities: Mapping[str, str]
) -> dict[str, list[RangeScore]]:
    """Scores of the images of each known modality, and of all images."""
    by_modality: dict[str, list[RangeScore]] = {}
    for name, score in scores.items():
        if name in modalities:
            by_modality.setdefault(modalities[name], []).append(score)
    return {**dict(sorted(by_modality.items())), "all images": [*scores.values()]}


def summary_table(scores: Mapping[str, RangeScore], modalities: Mapping[str, str]) -> str:
    """Means over images in plain text: a line a threshold and one for their mean, by group."""
    lines = [f"{'':<20}{'IoU':>6}" + "".join(f"{n:>11}" for n in COLUMNS[6:])]
    for group, members in groups(scores, modalities).items():
        mean = means(members)
        for n, threshold in enumerate(members[0].thresholds):
            row = "".join(f"{values[n]:>11.4f}" for values in mean.values())
            lines.append(f"{group:<20}{threshold:>6g}{row}")
        over_all = "".join(f"{values.mean():>11.4f}" for values in mean.values())
        lines.append(f"{group:<20}{'mean':>6}{over_all}")
    return "\n".join(lines)


def write_range_csv(
    scores: Mapping[str, RangeScore], modalities: Mapping[str, str], path: Path
) -> None:
    """Write a line for each image and threshold, then the means by modality and of all images.

    Lines of means have no name and no counts. Raises ImageError.
    """
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, score in scores.items():
            writer.writerows(_rows(name, modalities.get(name, ""), score))
        for group, members in groups(scores, modalities).items():
            ratios = zip(*means(members).values(), strict=True)
            for threshold, values in zip(members[0].thresholds, ratios, strict=True):
                writer.writerow(["", group, threshold, "", "", "", *_digits(values)])


def _rows(name: str, modality: str, score: RangeScore) -> Iterator[list[object]]:
    ratios = zip(*means([score]).values(), strict=True)
    for threshold, correct, values in zip(score.thresholds, score.correct, ratios, strict=True):
        counts = score.n_true, score.n_pred, int(correct)
        yield [name, modality, threshold, *counts, *_digits(values)]


def _digits(values: Sequence[float]) -> list[float]:
    return [round(float(value), 4) for value in values]
