"""Accuracy over IoU thresholds, against the official F1 and against counting pair by pair."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from reunet.iou_range import parse_range, score_range, summary_table, write_range_csv
from reunet.metric import score_pair

RANGE = parse_range("0.5:0.95:0.05")


def blobs(seed: int, shift: int = 0) -> np.ndarray:
    """Discs, those of a pair of seeds shifted against each other by up to `shift` pixels."""
    rng, noise = np.random.default_rng(seed), np.random.default_rng(seed + 99)
    y, x = np.mgrid[:160, :200]
    labels = np.zeros((160, 200), np.uint16)
    for cell in range(1, 40):
        cy, cx, r = rng.integers(0, 160), rng.integers(0, 200), rng.integers(3, 14)
        dy, dx = noise.integers(-shift, shift + 1, 2)
        labels[(y - cy - dy) ** 2 + (x - cx - dx) ** 2 < r * r] = cell
    return labels


def reference(gt: np.ndarray, seg: np.ndarray, threshold: float) -> tuple[int, int, int, float]:
    """N, M, TP and the sum of IoU, by a full table and the Hungarian method."""

    def inner(labels: np.ndarray) -> list[np.ndarray]:
        frame = np.ones(labels.shape, bool)
        frame[2:-2, 2:-2] = False
        cut = set(np.unique(labels[frame])) | {0}
        return [labels == cell for cell in np.unique(labels) if cell not in cut]

    true, predicted = inner(gt), inner(seg)
    iou = np.array([[(t & p).sum() / (t | p).sum() for p in predicted] for t in true])
    rows, columns = linear_sum_assignment(-1.0 * (iou >= threshold) - iou / (2 * min(iou.shape)))
    matched = [v for v in iou[rows, columns] if v >= threshold]
    return len(true), len(predicted), len(matched), sum(matched)


@pytest.mark.parametrize("seed", range(4))
def test_against_the_reference(seed: int) -> None:
    gt, seg = blobs(seed), blobs(seed, shift=3)
    score = score_range(gt, seg, RANGE)
    for n, threshold in enumerate(RANGE):
        true, predicted, tp, shared = reference(gt, seg, threshold)
        assert (score.n_true, score.n_pred, score.correct[n]) == (true, predicted, tp)
        fp, fn = predicted - tp, true - tp
        assert score.precision[n] == pytest.approx(tp / predicted)
        assert score.recall[n] == pytest.approx(tp / true)
        assert score.ap[n] == pytest.approx(tp / (tp + fp + fn))
        assert score.pq[n] == pytest.approx(shared / (tp + fp / 2 + fn / 2))


@pytest.mark.parametrize("shape", [(160, 200), (5000, 5100)])
def test_f1_at_a_half_is_the_official_one(shape: tuple[int, int]) -> None:
    """The larger one is scored tile by tile."""
    gt, seg = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)
    for top in range(0, shape[0] - 159, 2000):
        gt[top : top + 160, :200] = blobs(top)
        seg[top : top + 160, :200] = blobs(top, shift=4)
    official, ours = score_pair(gt, seg), score_range(gt, seg, (0.5,))
    assert official.tp > 5
    assert (ours.n_true, ours.n_pred, ours.correct[0]) == (
        official.n_true, official.n_pred, official.tp,
    )  # fmt: skip
    assert ours.f1[0] == pytest.approx(official.f1, abs=1e-4)


def test_the_same_scores_one_and_nothing_scores_zero() -> None:
    gt = blobs(1)
    same, none = score_range(gt, gt, RANGE), score_range(gt, np.zeros_like(gt), RANGE)
    for name in ("precision", "recall", "f1", "ap", "pq"):
        assert getattr(same, name) == pytest.approx(np.ones(len(RANGE)))
        assert getattr(none, name) == pytest.approx(np.zeros(len(RANGE)))


def test_a_range_is_read() -> None:
    assert RANGE == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert parse_range("0.75,0.5") == (0.5, 0.75)
    assert parse_range("1") == (1.0,)


@pytest.mark.parametrize(
    "text", ["", "a", "0:1:0.1", "0.5:0.9", "0.9:0.5:0.1", "0.5:0.9:0", "0.5:1.5:0.5", "nan", "2"]
)
def test_what_is_no_range_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"write 0\.5:0\.95:0\.05"):
        parse_range(text)


def test_csv_and_summary_hold_images_and_means(tmp_path: Path) -> None:
    scores = {f"i{n}": score_range(blobs(n), blobs(n, shift=3), (0.5, 0.75)) for n in range(3)}
    modalities = {"i0": "bf", "i1": "fluo", "i2": "fluo"}
    write_range_csv(scores, modalities, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 + 3 * 2
    fluo = [
        float(r["ap"]) for r in rows if r["modality"] == "fluo" and r["name"] and r["iou"] == "0.75"
    ]
    (mean,) = (r for r in rows if r["modality"] == "fluo" and not r["name"] and r["iou"] == "0.75")
    assert float(mean["ap"]) == pytest.approx(np.mean(fluo), abs=1e-4)
    assert "all images" in summary_table(scores, modalities)
