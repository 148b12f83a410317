"""Pseudo-labels: what the teacher sees in an unlabelled image, as a case to train on (§2.6)."""

import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reunet.errors import ImageError
from reunet.inference.normalise import normalise_channels
from reunet.instances.decode import decode
from reunet.instances.encode import BOUNDARY, INTERIOR, inner_boundary
from reunet.instances.weight_map import weight_map
from reunet.io.images import read_image
from reunet.io.labels import label_path, write_label, write_png
from reunet.metric import score_pair
from reunet.training import layout
from reunet.training.data.dataset import read_json, with_maps, write_blosc, write_json
from reunet.training.data.field import distance_field
from reunet.training.data.labels import find_label, read_instances
from reunet.training.fit.loss import IGNORE
from reunet.training.presets import PRESETS
from reunet.training.selftrain.unlabelled import UnlabelledImage

LEAST_KEPT = 0.5  # share of confident pixels under which an image is rejected
MOST_CELLS = 5000  # a megapixel: the densest labelled image has 2836, noise decodes to 10 000
LOCATIONS = 10_000  # pixels of a class to choose patches by, nnU-Net's least
OVERLAY = 1024  # px, largest edge of the part of an image that an overlay shows
OUTLINE = (255, 220, 0)  # yellow


@dataclass(frozen=True)
class Labelling:
    """How the images of a round are labelled; travels to the processes that do it.

    folder: of the round. target: nnU-Net's folder of the round's cases. threshold: confidence under
    which a pixel is ignored. reject: leave images out by `why_rejected`. tta: average over mirror
    images. truth: folder of true labels by name, to be scored against.
    """

    root: Path
    preset: str
    encoding: str
    images: Path
    folder: Path
    target: Path
    teacher: dict[str, Path]
    device: str
    threshold: float
    reject: bool
    tta: bool
    truth: Path | None


def is_labelled(folder: Path, image: UnlabelledImage) -> bool:
    """Whether a round has done an image, and this very one."""
    row = layout.row_file(folder, image.case)
    return row.exists() and read_json(row)["digest"] == image.digest


def label_images(how: Labelling, images: list[UnlabelledImage]) -> None:
    """Label images, one at a time. Raises OSError where something cannot be written."""
    import blosc2
    import torch

    from reunet.training.fit.device import as_network
    from reunet.training.selftrain.teacher import load_network, soft_classes

    blosc2.set_nthreads(1)
    preset, device = PRESETS[how.preset], torch.device(how.device)
    networks = [as_network(load_network(p, how.preset), device) for p in how.teacher.values()]
    tiling = preset.tiling(how.tta)
    for image in images:
        content = blosc2.open(
            str(layout.unlabelled_folder(how.root) / f"{image.case}.b2nd"), mode="r"
        )
        try:
            classes, confidence = soft_classes(content, networks, tiling)
            row = store_label(how, image, classes, confidence)
        except MemoryError:
            row = {"rejected": "too large for the memory"}
        about = {"image": image.name, **asdict(image)}
        write_json(layout.row_file(how.folder, image.case), about | row)


def store_label(
    how: Labelling, image: UnlabelledImage, classes: np.ndarray, confidence: np.ndarray
) -> dict[str, Any]:
    """Write what the teacher sees in an image: the case, its instances and an overlay.

    classes: (h, w) uint8, confidence: (h, w) float16, of the content box. Returns the image's row
    of the table. A rejected image leaves no case.
    """
    with (layout.unlabelled_folder(how.root) / f"{image.case}.pkl").open("rb") as file:
        about = pickle.load(file)
    box = tuple(slice(*edges) for edges in about["bbox_used_for_cropping"][1:])
    whole = np.zeros((image.height, image.width), np.uint8)
    whole[box] = classes
    instances = decode(whole, "regrow", how.encoding)
    kept = confidence >= how.threshold
    row: dict[str, Any] = {
        "cells": int(instances.max()),
        "mean_confidence": round(float(confidence.mean(dtype=np.float64)), 4),
        "kept_share": round(float(kept.mean()), 4),
        "f1": truth_f1(how, image, instances),
    }
    path = how.images / image.name
    write_label(label_path(path, how.folder / "labels"), instances, layout="challenge")
    ignored = np.zeros(whole.shape, bool)
    ignored[box] = ~kept
    write_overlay(how.folder / "overlays" / f"{image.case}.png", path, instances, ignored)
    row["rejected"] = why_rejected(row, image) if how.reject else ""
    if not row["rejected"]:
        weights = weight_map(instances, whole)[box]
        targets = np.where(kept, classes, IGNORE).astype(np.int16)
        patch = PRESETS[how.preset].patch
        seg = how.target / f"{image.case}_seg.b2nd"
        stored = with_maps(targets, weights, distance_field(instances)[box])
        write_blosc(seg, stored, (patch, patch))
        about["class_locations"] = class_locations(targets)
        (how.target / f"{image.case}.pkl").write_bytes(pickle.dumps(about))
    return row


def why_rejected(row: dict[str, Any], image: UnlabelledImage) -> str:
    """Why a pseudo-label would mislead, or nothing.

    Rejected are images with less than half of their pixels confident, without a cell, and with
    more cells than there is room for: MOST_CELLS a megapixel.
    """
    if row["kept_share"] < LEAST_KEPT:
        return f"only {row['kept_share']:.0%} of the pixels are confident"
    if row["cells"] == 0:
        return "no cell was found"
    if row["cells"] > MOST_CELLS * max(1, image.height * image.width) / 1e6 + 1:
        return f"{row['cells']} cells have no room in {image.height} × {image.width} px"
    return ""


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


def truth_f1(how: Labelling, image: UnlabelledImage, instances: np.ndarray) -> float | None:
    """Official F1 against a true label, where there is one."""
    if how.truth is None:
        return None
    try:
        truth = read_instances(find_label(how.truth, how.images / image.name))
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
