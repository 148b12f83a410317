"""The metric against the organisers' own figures and against a dense brute force."""

import csv
import time
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import tifffile
from imagecodecs import png_encode
from scipy.optimize import linear_sum_assignment

from conftest import DATA, ROOT
from reunet.io.meta import read_modalities
from reunet.metric import (
    Score,
    score_folder,
    score_pair,
    summarise,
    write_csv,
)

CASES = DATA / "metric"
ALL_CASES = ROOT.parent / "shared/data/metric_cases"
FOLDERS = [folder for folder in (CASES, ALL_CASES) if folder.is_dir()]


def official_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "official-0.5.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def official_cases() -> list[object]:
    return [
        pytest.param(folder, row, id=f"{folder.name}-{row['names'].removesuffix('_label.tiff')}")
        for folder in FOLDERS
        for row in official_rows(folder)
    ]


@pytest.mark.parametrize(("folder", "row"), official_cases())
def test_every_column_equals_the_official_program(folder: Path, row: dict[str, str]) -> None:
    name = row["names"].removesuffix("_label.tiff")
    gt = tifffile.imread(folder / "gt" / f"{name}.tif")
    seg = tifffile.imread(folder / "seg" / row["names"])
    assert list(astuple(score_pair(gt, seg))) == [float(v) for k, v in row.items() if k != "names"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_folder_gives_the_official_table(folder: Path, tmp_path: Path) -> None:
    evaluation = score_folder(folder / "gt", folder / "seg")
    write_csv(evaluation, tmp_path / "mine.csv")
    assert not evaluation.missing
    assert not evaluation.failed
    assert (tmp_path / "mine.csv").read_text() == (folder / "official-0.5.csv").read_text()


def test_27_megapixels_take_seconds() -> None:
    gt = tifffile.imread(CASES / "gt" / "large_5200.tif")
    seg = tifffile.imread(CASES / "seg" / "large_5200_label.tiff")
    start = time.perf_counter()
    score_pair(gt, seg)
    assert time.perf_counter() - start < 15


# --- brute force: dense table, full assignment with the official cost ---


def inner_cells(labels: np.ndarray) -> list[np.ndarray]:
    inside = np.zeros(labels.shape, bool)
    inside[2:-2, 2:-2] = True
    masks = [labels == cell for cell in np.unique(labels) if cell != 0]
    return [mask for mask in masks if not (mask & ~inside).any()]


def brute_force(gt: np.ndarray, seg: np.ndarray, threshold: float) -> tuple[int, int, int]:
    """N, M and TP, cell by cell."""
    true, pred = inner_cells(gt), inner_cells(seg)
    if not true or not pred:
        return len(true), len(pred), 0
    iou = np.array([[(t & p).sum() / (t | p).sum() for p in pred] for t in true])
    cost = -(iou >= threshold).astype(float) - iou / (2 * min(iou.shape))
    rows, columns = linear_sum_assignment(cost)
    return len(true), len(pred), int((iou[rows, columns] >= threshold).sum())


def random_rectangles(rng: np.random.Generator, cells: int) -> np.ndarray:
    labels = np.zeros((40, 48), np.uint16)
    for cell in rng.choice(np.arange(1, 500), cells, replace=False):  # ids with gaps
        top, left = rng.integers(0, 36), rng.integers(0, 44)
        height, width = rng.integers(2, 9, 2)
        labels[top : top + height, left : left + width] = cell
    return labels


def disturbed(rng: np.random.Generator, gt: np.ndarray) -> np.ndarray:
    """Shift by a pixel or two, cut cells in half, drop some."""
    seg = np.roll(gt, rng.integers(-2, 3, 2), (0, 1)).astype(np.int32)
    for cell in np.unique(seg)[1:]:
        rows, columns = np.nonzero(seg == cell)
        fate = rng.integers(4)
        if fate == 0:
            seg[rows, columns] = 0
        elif fate == 1:
            half = rows < rows.mean()
            seg[rows[half], columns[half]] += 1000
    return seg


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.75, 0.9, 1.0])
def test_equals_brute_force_on_random_maps(threshold: float) -> None:
    rng = np.random.default_rng(int(threshold * 100))
    for _ in range(30):
        gt = random_rectangles(rng, int(rng.integers(0, 25)))
        seg = disturbed(rng, gt)
        score = score_pair(gt, seg, threshold)
        assert (score.n_true, score.n_pred, score.tp) == brute_force(gt, seg, threshold)
        assert score.fp == score.n_pred - score.tp
        assert score.fn == (score.n_true - score.tp if score.n_pred else 0)


def test_equals_brute_force_where_many_pairs_tie_at_half() -> None:
    rng = np.random.default_rng(5)
    ties = 0
    for _ in range(60):
        gt, seg = np.zeros((2, 20, 40), np.uint8)
        for cell, left in enumerate(range(4, 34, 6), start=1):
            gt[4:8, left : left + 4] = cell
            # Halves of a cell on either side: each has an IoU of exactly 0.5 with it.
            first, second = rng.choice([0, cell, 20 + cell, cell], 2)
            seg[4:8, left : left + 2] = first
            seg[4:8, left + 2 : left + 4] = second
            ties += int(first != second and first > 0 and second > 0)
        for pair in ((gt, seg), (seg, gt)):
            score = score_pair(*pair)
            assert (score.n_true, score.n_pred, score.tp) == brute_force(*pair, 0.5)
    assert ties > 20


def test_a_chain_of_ties_is_matched_to_the_last_pair() -> None:
    # true 1 | 2, pred a | b | c: only a greedy choice of 1-b and no further pair goes wrong.
    gt, seg = np.zeros((2, 10, 30), np.uint8)
    gt[3:6, 4:8], gt[3:6, 8:12] = 1, 2
    seg[3:6, 4:6], seg[3:6, 6:10], seg[3:6, 10:12] = 1, 2, 3
    for threshold in (0.3, 0.5):
        assert score_pair(gt, seg, threshold).tp == brute_force(gt, seg, threshold)[2] == 2


def test_ids_beyond_the_number_of_pixels_count_like_any_other() -> None:
    rng = np.random.default_rng(1)
    gt = random_rectangles(rng, 12)
    seg = disturbed(rng, gt)
    huge = np.where(seg > 0, seg.astype(np.int64) + 2**40, 0)
    full = np.full(gt.shape, 2**40)  # not a single background pixel
    assert score_pair(gt, huge) == score_pair(gt, seg)
    assert score_pair(gt, full).n_pred == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (4, 4), (5, 5)])
def test_tiny_pictures(shape: tuple[int, int]) -> None:
    empty = np.zeros(shape, np.uint8)
    full = empty + 1
    assert score_pair(empty, empty) == Score(0, 0, 0, 0, 0, 0.0, 0.0, 1.0, 0.0)
    assert score_pair(full, full) == Score(0, 0, 0, 0, 0, 0.0, 0.0, 1.0, 0.0)


def test_70000_cells_are_scored_within_seconds() -> None:
    cells = np.arange(1, 70_001, dtype=np.int32).reshape(250, 280)
    gt = np.pad(np.kron(np.pad(cells, 1), np.ones((4, 4), np.int32)), 3)
    seg = np.roll(gt, 1, axis=1)  # 12 of 16 pixels shared by a pair, IoU 0.6
    seg[seg % 2 == 0] = 0
    start = time.perf_counter()
    score = score_pair(gt, seg)
    assert time.perf_counter() - start < 5
    assert (score.n_true, score.n_pred, score.tp) == (70_000, 35_000, 35_000)


def test_tiles_ignore_cells_on_their_borders() -> None:
    gt = np.zeros((5000, 5000), np.uint16)
    gt[100:110, 100:110] = 1  # within the first tile
    gt[1995:2005, 100:110] = 2  # across two tiles
    gt[300:310, 2001:2011] = 3  # reaches into a tile's frame
    gt[4990:5000, 4990:5000] = 4  # at the picture's edge, which padding moves away
    assert score_pair(gt, gt) == Score(2, 2, 2, 0, 0, 1.0, 1.0, 1.0, 1.0)


def test_large_prediction_must_fit_the_type_of_the_truth() -> None:
    gt = np.zeros((5000, 5000), np.int16)
    seg = np.full((5000, 5000), 40_000, np.int32)
    with pytest.raises(ValueError, match="40000 does not fit the ground truth's int16"):
        score_pair(gt, seg)


@pytest.mark.parametrize(
    ("gt", "seg", "message"),
    [
        (np.zeros((9, 9), int), np.zeros((9, 8), int), r"\(9, 9\), prediction \(9, 8\)"),
        (np.zeros((9, 9), int), np.zeros((9, 9, 3), int), "2-D label map"),
        (np.zeros((0, 9), int), np.zeros((0, 9), int), "2-D label map"),
        (np.zeros((9, 9)), np.zeros((9, 9), int), "ground truth is float64"),
        (np.zeros((9, 9), int), np.full((9, 9), -1), "prediction has negative ids"),
    ],
)
def test_unusable_input_is_named(gt: np.ndarray, seg: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_pair(gt, seg)


def test_threshold_must_be_an_iou() -> None:
    with pytest.raises(ValueError, match="threshold 0 is no IoU"):
        score_pair(np.zeros((9, 9), int), np.zeros((9, 9), int), 0)


# --- folders ---


def cell_map() -> np.ndarray:
    labels = np.zeros((20, 20), np.uint16)
    labels[5:10, 5:10] = 300
    return labels


def test_folder_lists_what_is_missing_and_what_failed(tmp_path: Path) -> None:
    gt_dir, seg_dir = tmp_path / "gt", tmp_path / "seg"
    gt_dir.mkdir()
    seg_dir.mkdir()
    for truth in ("a.tif", "b.tiff", "c_label.tiff", "d_label.tif", "wrong.tif", "broken.tif"):
        tifffile.imwrite(gt_dir / truth, cell_map())
    (gt_dir / "e.png").write_bytes(png_encode(cell_map()))
    (gt_dir / "c.png").write_bytes(b"the image itself, next to its label")
    tifffile.imwrite(gt_dir / "unpredicted.tif", cell_map())
    for name in ("a", "b", "c", "d", "e", "alone"):
        tifffile.imwrite(seg_dir / f"{name}_label.tiff", cell_map())
    tifffile.imwrite(seg_dir / "wrong_label.tiff", cell_map()[:9])
    (seg_dir / "broken_label.tiff").write_bytes(b"no TIFF")

    evaluation = score_folder(gt_dir, seg_dir)
    assert {name: score.f1 for name, score in evaluation.scores.items()} == dict.fromkeys(
        "abcde", 1.0
    )
    assert evaluation.missing == ["unpredicted"]
    assert list(evaluation.failed) == ["alone", "broken", "wrong"]
    assert "no ground truth" in evaluation.failed["alone"]
    assert "broken_label.tiff: not a PNG" in evaluation.failed["broken"]
    assert "wrong_label.tiff against" in evaluation.failed["wrong"]
    assert all("\n" not in reason for reason in evaluation.failed.values())


def test_folder_without_predictions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no"):
        score_folder(CASES / "gt", tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        score_folder(CASES / "gt", tmp_path / "absent")


def test_summary_weighs_modalities_alike(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "meta.csv").write_text("name,modality\na,fluo\nb,fluo\nc,fluo\nd,pc\n")
    modalities = read_modalities(tmp_path / "labels")
    assert modalities == {"a": "fluo", "b": "fluo", "c": "fluo", "d": "pc"}
    f1 = {"a": 1.0, "b": 0.8, "c": 0.3, "d": 0.1, "unknown": 0.5}
    scores = {name: Score(1, 1, 1, 0, 0, 1.0, 1.0, 1.0, value) for name, value in f1.items()}
    summary = summarise(scores, modalities)
    assert summary.overall.images == 5
    assert summary.overall.mean == pytest.approx(0.54)
    assert summary.overall.median == 0.5
    assert summary.by_modality["fluo"].mean == pytest.approx(0.7)
    assert summary.by_modality["fluo"].median == 0.8
    assert summary.modality_mean == pytest.approx(0.4)
    assert "fluo" in str(summary)


def test_summary_without_modalities_or_scores(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    assert read_modalities(tmp_path / "labels") == {}
    score = Score(1, 1, 1, 0, 0, 1.0, 1.0, 1.0, 1.0)
    assert summarise({"a": score}, {}).modality_mean is None
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise({}, {})
