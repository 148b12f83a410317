"""F1 of many images in tables: means with bootstrap intervals by modality and by source."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES, SEED = 2000, 0
EVERY, HEADLINE = "all images", "mean of modalities"
Scores = Mapping[str, float]  # image -> F1


class Interval(NamedTuple):
    """Mean of a group of images, its 95 % bootstrap interval, and the median."""

    mean: float
    low: float
    high: float
    median: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] / {self.median:.3f}"


def by_modality(f1: Scores, modality: Mapping[str, str]) -> dict[str, Interval]:
    """A figure for each modality, for all images, and for the mean over modalities.

    The interval of that mean comes from images drawn anew within each modality; its median is that
    of the modalities' means.
    """
    groups = grouped(f1, modality)
    rng = np.random.default_rng(SEED)
    drawn = {name: resampled_means(values, rng) for name, values in groups.items()}
    every = np.concatenate(list(groups.values()))
    shares = [values.size / every.size for values in groups.values()]
    figures = {name: interval(values, drawn[name]) for name, values in groups.items()}
    figures[EVERY] = interval(every, np.average(list(drawn.values()), axis=0, weights=shares))
    means = np.array([values.mean() for values in groups.values()])
    figures[HEADLINE] = interval(means, np.mean(list(drawn.values()), axis=0))
    return figures


def by_group(f1: Scores, group: Mapping[str, str]) -> dict[str, tuple[int, Interval]]:
    """Number of images and figure of each group, such as a source."""
    rng = np.random.default_rng(SEED)
    return {
        name: (values.size, interval(values, resampled_means(values, rng)))
        for name, values in grouped(f1, group).items()
    }


def grouped(f1: Scores, group: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The F1 of the images of each group, groups in alphabetical order."""
    names = sorted({group[image] for image in f1})
    return {name: np.array([f1[image] for image in f1 if group[image] == name]) for name in names}


def resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of samples of the same size, drawn with replacement. Returns (RESAMPLES,)."""
    means: np.ndarray = values[rng.integers(0, values.size, (RESAMPLES, values.size))].mean(axis=1)
    return means


def interval(values: np.ndarray, drawn: np.ndarray) -> Interval:
    """The figures of some values whose resampled means are `drawn`."""
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(*(round(float(v), 4) for v in (values.mean(), low, high, np.median(values))))


def markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def change(before: Scores, after: Scores) -> str:
    """How many images another way changes, and their mean F1 before and after, in words."""
    pairs = np.array([(before[image], after[image]) for image in before])
    changed = pairs[pairs[:, 0] != pairs[:, 1]]
    if not len(changed):
        return "no image changes"
    better = int((changed[:, 1] > changed[:, 0]).sum())
    means = " -> ".join(f"{mean:.3f}" for mean in changed.mean(axis=0))
    return f"{len(changed)} images change, {better} of them to the better; their mean F1: {means}"
