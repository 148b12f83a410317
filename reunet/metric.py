"""The challenge's instance metric: F1 of cells matched at an intersection over union of 0.5.

Same numbers as the organisers' `compute_metric.py`, but linear in the number of pixels: no table
of all true × all predicted cells is ever built.

Legend: H, W pixels; N true cells, M predicted cells; IoU intersection over union.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from reunet.instances.overlap import overlapping_pairs
from reunet.io.atomic import replacing
from reunet.io.collection import LABEL_WORDS, Labels
from reunet.io.images import read_label

FRAME = 2  # px; a cell reaching into this frame is cut by the picture's edge and not counted
TILED_FROM = 25_000_000  # px; from this size on the organisers score tile by tile
TILE = 2000  # px, edge of such a tile
PREDICTION_SUFFIX = "_label.tiff"
COUNT_COLUMNS = ("true_num", "pred_num", "correct_num(TP)", "missed_num(FN)", "wrong_num(FP)")
COLUMNS = ("names", *COUNT_COLUMNS, "precision", "recall", "dice", "F1")


@dataclass(frozen=True)
class Score:
    """One image's result, field by field what the organisers' table prints (4 digits).

    `fn` is 0 for an image (or tile) without any predicted cell: a slip of the official program,
    kept because it shows in its table. `f1` does not depend on it.
    """

    n_true: int
    n_pred: int
    tp: int
    fn: int
    fp: int
    precision: float
    recall: float
    dice: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """A folder's result, keyed by image name without suffix.

    Only `scores` enters means. `missing` are truths without a prediction, which the official
    program passes over in silence. `failed` maps a prediction to the reason it has no score.
    """

    scores: dict[str, Score]
    missing: list[str]
    failed: dict[str, str]
    hints: tuple[str, ...] = ()  # on truths that are hardly meant as they are


@dataclass(frozen=True)
class F1Summary:
    """Mean and median F1 of a number of images."""

    images: int
    mean: float
    median: float


@dataclass(frozen=True)
class Summary:
    """F1 of all images and of each modality.

    `modality_mean` is the mean of the modalities' means, each counting the same however many
    images it has; None where no modality is known.
    """

    overall: F1Summary
    by_modality: dict[str, F1Summary]
    modality_mean: float | None

    def __str__(self) -> str:
        """A table in plain text, one line for each modality and the totals below."""
        rows = {**self.by_modality, "all images": self.overall}
        lines = [f"{'':<20}{'images':>8}{'mean F1':>10}{'median F1':>11}"]
        lines += [f"{k:<20}{v.images:>8}{v.mean:>10.4f}{v.median:>11.4f}" for k, v in rows.items()]
        if self.modality_mean is not None:
            lines.append(f"{'mean of modalities':<28}{self.modality_mean:>10.4f}")
        return "\n".join(lines)


def score_pair(gt: np.ndarray, seg: np.ndarray, threshold: float = 0.5) -> Score:
    """Score one predicted label map against the truth, as the official program does.

    gt, seg: (H, W) integer, 0 background; ids need not be consecutive, and all pixels of
    an id are one cell, connected or not. A pair matches from IoU = threshold (0 < threshold <= 1,
    inclusive) on. Raises ValueError for anything else.

    Cells with a pixel in the 2-px frame are left out, as a whole. From 25 Mpx on the picture is
    padded with background to multiples of 2000 and the counts of its 2000×2000 tiles are added
    up; the frame then applies to every tile. Dice is that of the two foregrounds, frame included.

    Notes: nothing correct gives F1 0, so an empty truth scores 0 even if found empty.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is no IoU: choose one above 0 and up to 1")
    check_pair(gt, seg)
    dice = _dice(gt > 0, seg > 0)
    counts = sum((_count(*tile, threshold) for tile in tiles(gt, seg)), np.zeros(5, np.int64))
    n_true, n_pred, tp, fn, fp = counts.tolist()
    precision = tp / n_pred if tp else 0.0
    recall = tp / n_true if tp else 0.0
    f1 = 2 * (precision * recall) / (precision + recall) if tp else 0.0
    ratios = (float(np.round(ratio, 4)) for ratio in (precision, recall, dice, f1))
    return Score(n_true, n_pred, tp, fn, fp, *ratios)


def check_pair(gt: np.ndarray, seg: np.ndarray) -> None:
    """Raise ValueError for what `score_pair` cannot score."""
    for role, labels in (("ground truth", gt), ("prediction", seg)):
        if labels.ndim != 2 or labels.size == 0:
            raise ValueError(f"{role} has shape {labels.shape}: give a 2-D label map")
        if labels.dtype.kind not in "iu":
            raise ValueError(f"{role} is {labels.dtype}: give integer ids, 0 for background")
        if labels.min() < 0:
            raise ValueError(f"{role} has negative ids: number cells from 1, background is 0")
    if gt.shape != seg.shape:
        raise ValueError(
            f"ground truth is {gt.shape}, prediction {seg.shape} (rows, columns): "
            "predict at the image's own size"
        )


def _dice(gt: np.ndarray, seg: np.ndarray) -> float:
    area = np.count_nonzero(gt) + np.count_nonzero(seg)
    return 2 * np.count_nonzero(gt & seg) / area if area else 1.0


def tiles(gt: np.ndarray, seg: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What is scored on its own: the whole pair, or from 25 Mpx on its padded 2000×2000 tiles.

    Raises ValueError where the official program would garble the predicted ids.
    """
    if gt.size < TILED_FROM:
        yield gt, seg
        return
    if seg.max() > np.iinfo(gt.dtype).max:
        # The official program copies the prediction into an array of the truth's type.
        raise ValueError(
            f"id {seg.max()} does not fit the ground truth's {gt.dtype}, and the official program "
            "stores both alike from 25 Mpx on: renumber the cells of every 2000×2000 tile from 1"
        )
    for top in range(0, gt.shape[0], TILE):
        for left in range(0, gt.shape[1], TILE):
            tile = np.s_[top : top + TILE, left : left + TILE]
            yield _pad(gt[tile]), _pad(seg[tile])


def _pad(tile: np.ndarray) -> np.ndarray:
    height, width = tile.shape
    return np.pad(tile, ((0, TILE - height), (0, TILE - width)))


def _count(gt: np.ndarray, seg: np.ndarray, threshold: float) -> np.ndarray:
    """N, M, TP, FN, FP of a whole picture or of one tile. Returns (5,) int64."""
    gt, seg = compact(gt), compact(seg)
    area_gt, area_seg = inner_areas(gt), inner_areas(seg)
    n_true, n_pred = np.count_nonzero(area_gt), np.count_nonzero(area_seg)
    pairs = overlapping_pairs(gt, seg, (area_gt, area_seg))
    tp = match(*pairs, threshold).size
    fn = n_true - tp if n_pred else 0
    return np.array([n_true, n_pred, tp, fn, n_pred - tp], np.int64)


def compact(labels: np.ndarray) -> np.ndarray:
    """Keep ids small enough to index an array; gaps between them do no harm."""
    labels = labels.astype(np.int64)
    if labels.max() <= labels.size:
        return labels
    ids = np.unique(np.append(labels, 0))
    return np.searchsorted(ids, labels)


def inner_areas(labels: np.ndarray, frame: int = FRAME) -> np.ndarray:
    """Pixels of every id, (highest id + 1,); 0 for background and for cells in the frame."""
    areas = np.bincount(labels.ravel())
    if frame:
        rows, columns = (labels[:frame], labels[-frame:]), (labels[:, :frame], labels[:, -frame:])
        for strip in (*rows, *columns):
            areas[strip] = 0
    areas[0] = 0
    return areas


def match(true: np.ndarray, predicted: np.ndarray, iou: np.ndarray, threshold: float) -> np.ndarray:
    """Which of the overlapping pairs are matched one to one: as many with IoU >= threshold as can.

    true, predicted: ids; iou: of the pairs; (pairs,) each. Returns places in them.

    The official program minimises the sum of -[IoU >= threshold] - IoU / (2 min(N, M)) over a
    full assignment. The second terms add up to at most 1/2, less than one pair more: its count
    is the size of a maximum matching among the pairs that reach the threshold. That graph is
    sparse, and above 0.5 every cell has one partner at most.
    """
    enough = np.flatnonzero(iou >= threshold)
    if not enough.size:
        return enough
    one, other = true[enough], predicted[enough]
    shape = int(one.max()) + 1, int(other.max()) + 1
    graph = csr_array((np.ones(enough.size, np.int8), (one, other)), shape=shape)
    partner = maximum_bipartite_matching(graph, perm_type="column")
    matched: np.ndarray = enough[partner[one] == other]
    return matched


def score_folder(gt_dir: Path, seg_dir: Path) -> Evaluation:
    """Score every `NAME_label.tiff` of seg_dir against NAME's truth in gt_dir.

    Predictions may be called `NAME_masks` too, as Cellpose's are. The truth is the first that
    exists of `NAME_label`, `NAME_masks` and `NAME`, each .tiff, .tif or .png in any case; a NAME
    ends at the first dot, or before the ending where others begin alike (`io.collection`).
    A pair that cannot be scored is listed in `failed` and does not stop the others. Raises
    ValueError where a folder does not exist or nothing is predicted.
    """
    scores: dict[str, Score] = {}
    failed: dict[str, str] = {}
    pairs = pair_files(gt_dir, seg_dir)
    hints = []
    for name, files in pairs.items():
        try:
            gt, seg = read_pair(*files)
            scores[name] = score_pair(gt, seg)
            if is_mask(gt):
                hints.append(
                    f"{files[0]}: holds 0 and 255 alone, which is one cell: number its cells"
                )
        except ValueError as error:
            failed[name] = str(error)
    paired = {truth for truth, _ in pairs.values()}
    missing = [name for name, truth in Labels(gt_dir).by_name.items() if truth not in paired]
    return Evaluation(scores, sorted(missing), failed, tuple(hints))


def is_mask(labels: np.ndarray) -> bool:
    """Whether labels are a mask of 0 and 255, in which no cell can be told from another."""
    return bool(labels.max() == 255 and ((labels == 0) | (labels == 255)).all())


def pair_files(gt_dir: Path, seg_dir: Path) -> dict[str, tuple[Path, Path]]:
    """Truth and prediction of every image that is predicted, by name; the truth may be missing.

    Raises ValueError as `score_folder`.
    """
    for folder in (gt_dir, seg_dir):
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
    predictions = Labels(seg_dir, worded=True).by_name
    if not predictions:
        raise ValueError(
            f"{seg_dir}: holds no *{PREDICTION_SUFFIX} (nor *_masks.tif); "
            "give the prediction's folder"
        )
    truths = Labels(gt_dir)
    return {
        name: (truths.of(_stem(path)) or gt_dir / f"{name}.tif", path)
        for name, path in sorted(predictions.items())
    }


def _stem(label: Path) -> str:
    """The whole stem of the image that a label file is named after."""
    return next(
        (label.stem.removesuffix(w) for w in LABEL_WORDS if label.stem.endswith(w)), label.stem
    )


def read_pair(truth: Path, prediction: Path) -> tuple[np.ndarray, np.ndarray]:
    """The label maps of two files that can be scored. Raises ValueError naming both if not."""
    if not truth.exists():
        raise ValueError(
            f"{prediction}: no ground truth in {truth.parent}; "
            f"add {truth.name} or take the prediction away"
        )
    gt, seg = read_label(truth), read_label(prediction)
    try:
        check_pair(gt, seg)
        next(tiles(gt, seg))
    except ValueError as error:
        raise ValueError(f"{prediction} against {truth}: {error}") from error
    return gt, seg


def write_csv(evaluation: Evaluation, path: Path) -> None:
    """Write the scores as the official program's table: same columns, names and digits."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, score in evaluation.scores.items():
            writer.writerow([name + PREDICTION_SUFFIX, *astuple(score)])


def summarise(scores: Mapping[str, Score], modalities: Mapping[str, str]) -> Summary:
    """Mean and median F1 over all images, by modality, and the mean over modalities.

    Images without a known modality count in the overall figures alone. Raises ValueError where
    there is no score at all.
    """
    if not scores:
        raise ValueError("no image could be scored: nothing to summarise")
    groups: dict[str, list[float]] = {}
    for name, score in scores.items():
        if name in modalities:
            groups.setdefault(modalities[name], []).append(score.f1)
    by_modality = {modality: _f1_summary(groups[modality]) for modality in sorted(groups)}
    means = [group.mean for group in by_modality.values()]
    overall = _f1_summary([score.f1 for score in scores.values()])
    return Summary(overall, by_modality, float(np.mean(means)) if means else None)


def _f1_summary(values: list[float]) -> F1Summary:
    return F1Summary(len(values), float(np.mean(values)), float(np.median(values)))
