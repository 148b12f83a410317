"""Pseudo-labels: what the teacher sees in an unlabelled image, as a case to train on (§2.6)."""

import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reunet.errors import ImageError
from reunet.inference.normalise import normalise_channels
from reunet.inference.scale import scale_labels
from reunet.instances.decode import at_size, decode
from reunet.instances.encode import BOUNDARY, INTERIOR, encode, inner_boundary
from reunet.instances.weight_map import weight_map
from reunet.io.images import read_image
from reunet.io.labels import label_path, write_label, write_png
from reunet.metric import score_pair
from reunet.training import layout
from reunet.training.data.dataset import read_json, with_maps, write_blosc, write_json
from reunet.training.data.field import distance_field
from reunet.training.data.labels import find_label, read_instances
from reunet.training.fit.loss import IGNORE
from reunet.training.presets import PRESETS, REJECT, THRESHOLD
from reunet.training.selftrain.expected import Expected, median_diameter, why_rejected
from reunet.training.selftrain.steady import without_unsteady
from reunet.training.selftrain.teacher import Opinion, agreed_cells, look_at
from reunet.training.selftrain.unlabelled import UnlabelledImage

LOCATIONS = 10_000  # pixels of a class to choose patches by, nnU-Net's least
OVERLAY = 1024  # px, largest edge of the part of an image that an overlay shows
OUTLINE = (255, 220, 0)  # yellow


@dataclass(frozen=True)
class Labelling:
    """How a teacher's labels are made.

    vote: by the cells that its folds agree on, instead of the classes of their mean. threshold:
    confidence under which a pixel is ignored. steady: ignore cells that are not found again when
    the image is shown larger or smaller, and what is found then alone. reject: leave images out by
    `expected.why_rejected`. tta: average over mirror images. truth: folder of true labels by name,
    to be scored against.
    """

    vote: bool = False
    threshold: float = THRESHOLD
    steady: bool = False
    reject: bool = REJECT
    tta: bool = True
    truth: Path | None = None


@dataclass(frozen=True)
class Round:
    """One round's labelling, as it travels to the processes that do it.

    images: folder of the unlabelled ones. teacher: checkpoints by fold. expected: what labelled
    images hold, by modality.
    """

    how: Labelling
    root: Path
    preset: str
    stage: str
    encoding: str
    images: Path
    teacher: dict[str, Path]
    device: str
    expected: dict[str, Expected]

    @property
    def folder(self) -> Path:
        """Labels, overlays and rows."""
        return layout.round_folder(self.root, self.stage)

    @property
    def target(self) -> Path:
        """nnU-Net's folder of the round's cases."""
        return layout.round_cases(self.root, self.preset, self.stage)


def is_labelled(folder: Path, image: UnlabelledImage) -> bool:
    """Whether a round has done an image, and this very one."""
    row = layout.row_file(folder, image.case)
    return row.exists() and read_json(row)["digest"] == image.digest


def label_images(task: Round, images: list[UnlabelledImage]) -> None:
    """Label images, one at a time. Raises OSError where something cannot be written."""
    import blosc2
    import torch

    from reunet.training.fit.device import as_network
    from reunet.training.fit.start import load_network

    blosc2.set_nthreads(1)
    preset, device = PRESETS[task.preset], torch.device(task.device)
    outputs = preset.architecture.outputs
    folds = (load_network(path, task.preset) for path in task.teacher.values())
    networks = [as_network(fold, device, outputs) for fold in folds]
    tiling = replace(preset.tiling(task.how.tta), outputs=outputs)
    for image in images:
        store = layout.unlabelled_folder(task.root)
        content = blosc2.open(str(store / f"{image.case}.b2nd"), mode="r")
        try:
            seen = look_at(content, networks, tiling)
            if task.how.steady:
                seen = without_unsteady(seen, content, networks, tiling, partial(cells_of, task))
            row = store_label(task, image, seen)
        except MemoryError:
            row = {"rejected": "too large for the memory"}
        about = {"image": image.name, **asdict(image)}
        write_json(layout.row_file(task.folder, image.case), about | row)


def store_label(task: Round, image: UnlabelledImage, seen: Opinion) -> dict[str, Any]:
    """Write what the teacher sees in an image: the case, its instances and an overlay.

    seen: in the content box of the image as it is stored. Instances and overlay have the size of
    the image itself. Returns the image's row of the table. A rejected image leaves no case.
    """
    with (layout.unlabelled_folder(task.root) / f"{image.case}.pkl").open("rb") as file:
        about = pickle.load(file)
    box = tuple(slice(*edges) for edges in about["bbox_used_for_cropping"][1:])
    shape = about["shape_before_cropping"][1:]
    instances, whole = labels_of(seen, shape, box, task)
    kept = np.zeros(whole.shape, bool)
    kept[box] = seen.confidence >= task.how.threshold
    if seen.unsteady is not None:
        kept[box] &= ~seen.unsteady
        instances[box][seen.unsteady] = 0
        _, numbers = np.unique(np.append(0, instances), return_inverse=True)  # 0 stays 0
        instances = numbers[1:].reshape(instances.shape).astype(np.int32)
    shown = show(task, image, instances, ~kept, box)
    row: dict[str, Any] = {
        "cells": int(instances.max()),
        "median_diameter": round(median_diameter(instances), 1),
        "mean_confidence": round(float(seen.confidence.mean(dtype=np.float64)), 4),
        "kept_share": round(float(kept[box].mean()), 4),
        "f1": truth_f1(task, image, shown),
    }
    known = task.expected.get(image.modality) or task.expected.get("")
    row["rejected"] = why_rejected(row, whole.size, known) if task.how.reject else ""
    if not row["rejected"]:
        weights, field = weight_map(instances, whole)[box], distance_field(instances)[box]
        targets = np.where(kept[box], whole[box], IGNORE).astype(np.int16)
        edge = PRESETS[task.preset].patch
        seg = task.target / f"{image.case}_seg.b2nd"
        write_blosc(seg, with_maps(targets, weights, field), (edge, edge))
        about["class_locations"] = class_locations(targets)
        (task.target / f"{image.case}.pkl").write_bytes(pickle.dumps(about))
    return row


def labels_of(
    seen: Opinion, shape: Sequence[int], box: tuple[slice, ...], task: Round
) -> tuple[np.ndarray, np.ndarray]:
    """Instances and classes of an image of `shape`, of which `seen` is the content box.

    Returns (H, W) int32 and (H, W) uint8: classes of the folds' mean and the cells in them, or,
    where folds vote, the cells that they agree on and their classes.
    """
    if task.how.vote:
        instances = np.zeros(shape, np.int32)
        instances[box] = cells_of(task, seen)
        return instances, encode(instances, task.encoding)
    classes = np.zeros(shape, np.uint8)
    classes[box] = seen.classes
    return decode(classes, "regrow", task.encoding), classes


def cells_of(task: Round, seen: Opinion) -> np.ndarray:
    """The cells in what a teacher sees, (h, w) int32: by vote, or in the classes of the mean."""
    if seen.cells is not None:
        return seen.cells
    if task.how.vote:
        return agreed_cells(seen.maps, task.encoding)
    return decode(seen.classes, "regrow", task.encoding)


def show(
    task: Round,
    image: UnlabelledImage,
    instances: np.ndarray,
    unsure: np.ndarray,
    box: tuple[slice, ...],
) -> np.ndarray:
    """Write label and overlay at the image's own size. Returns the instances of that size.

    unsure: (h, w) bool, true outside the box, too, where nothing was asked.
    """
    shape, path = (image.height, image.width), task.images / image.name
    ignored = np.zeros(instances.shape, bool)
    ignored[box] = unsure[box]
    if instances.shape != shape:
        drawn = np.empty(shape, np.int32)
        at_size(instances, drawn)
        instances, ignored = drawn, scale_labels(ignored, shape)
    write_label(label_path(path, task.folder / "labels"), instances, layout="challenge")
    write_overlay(task.folder / "overlays" / f"{image.case}.png", path, instances, ignored)
    return instances


def class_locations(targets: np.ndarray) -> dict[int, np.ndarray]:
    """Some pixels of interior and boundary, by which nnU-Net chooses patches with cells in them.

    targets: (h, w). Returns (n, 4) int64 by class: 0, 0, row, column; n up to LOCATIONS.
    """
    rng = np.random.default_rng(0)
    found = {}
    for label in (INTERIOR, BOUNDARY):
        flat = np.flatnonzero(targets == label)
        if flat.size > LOCATIONS:
            flat = rng.choice(flat, LOCATIONS, replace=False)
        rows, columns = np.unravel_index(flat, targets.shape)
        found[label] = np.stack([np.zeros_like(rows), np.zeros_like(rows), rows, columns], axis=1)
    return found


def truth_f1(task: Round, image: UnlabelledImage, instances: np.ndarray) -> float | None:
    """Official F1 against a true label, where there is one."""
    if task.how.truth is None:
        return None
    try:
        truth = read_instances(find_label(task.how.truth, task.images / image.name))
        return round(score_pair(truth, instances).f1, 4)
    except ValueError:  # none, or none of this image: the figure is an extra
        return None


def write_overlay(path: Path, image: Path, instances: np.ndarray, ignored: np.ndarray) -> None:
    """Outlines over the middle of an image, up to OVERLAY px; ignored pixels are dimmed."""
    middle = tuple(
        slice(max(0, n - OVERLAY) // 2, max(0, n - OVERLAY) // 2 + min(n, OVERLAY))
        for n in instances.shape
    )
    try:
        pixels = normalise_channels(read_image(image).pixels)[middle]
    except ImageError:  # it has gone since it was stored: the label is what counts
        return
    shown = pixels.copy()
    shown[ignored[middle]] //= 2
    shown[inner_boundary(instances[middle])] = OUTLINE
    write_png(path, shown)
