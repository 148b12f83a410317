"""The teacher of a round: trained folds, whose averaged soft output labels images (paper §2.6)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reunet.inference.ensemble import Average, Network
from reunet.inference.sliding_window import predict_scaled
from reunet.inference.tiles import Tiling
from reunet.network.unet import UNet
from reunet.training import layout
from reunet.training.data.dataset import read_json
from reunet.training.presets import PRESETS
from reunet.training.release.history import load_checkpoint, unique_tensors

BAND_PIXELS = 16_000_000  # of an image that is predicted in one go: 0.6 GB of logits and sums


def find_teacher(
    root: Path, preset: str, folds: Sequence[int | str], start: str
) -> dict[str, Path]:
    """The checkpoints of a teacher by fold.

    start: path with `{fold}` for the fold. Raises FileNotFoundError where a fold is not trained
    yet, ValueError for a teacher of other classes, encoding or preset than the data set's.
    """
    checkpoints = {str(fold): Path(start.format(fold=fold)) for fold in folds}
    for path in checkpoints.values():
        if not path.exists():
            raise FileNotFoundError(f"{path}: train that stage first, all folds to the end")
        check_teacher(path, read_json(layout.description(root)), preset)
    return checkpoints


def check_teacher(checkpoint: Path, data: dict[str, Any], preset: str) -> None:
    """Raises ValueError where a checkpoint does not fit a data set (its dataset.json)."""
    place = layout.trained(checkpoint)
    learnt, job = read_json(place.data), read_json(place.plans).get("reunet", {})
    pairs = {
        "classes": (learnt["labels"], data["labels"]),
        "encoding": (learnt.get("encoding"), data["encoding"]),
        "preset": (job.get("preset"), preset),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ValueError(
                f"{checkpoint}: a teacher of {what} {theirs}, the data set's are {ours}: "
                f"prepare or name another --root"
            )


def load_network(checkpoint: Path, preset: str) -> UNet:
    """The runtime's network with a checkpoint's weights. Raises ValueError if they do not fit."""
    with torch.device("meta"):
        network = UNet(PRESETS[preset].architecture)
    tensors = unique_tensors(load_checkpoint(checkpoint)["network_weights"])
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint}: not the network of preset {preset}") from error
    return network.eval().requires_grad_(False)


def soft_classes(
    content: Any, networks: Sequence[Network], tiling: Tiling
) -> tuple[np.ndarray, np.ndarray]:
    """Most probable class of every pixel, and how probable it is.

    content: (3, 1, h, w) float32 as stored, an array or what can be sliced like one. The soft
    output is the softmax of the networks' mean logits. Returns (h, w) uint8 and (h, w) float16 in
    0..1. Large images are predicted in bands: nothing but the two results is held for all of it.
    """
    height, width = content.shape[-2:]
    classes, confidence = np.empty((height, width), np.uint8), np.empty((height, width), np.float16)
    for outer, inner in bands(height, width, tiling.tile):
        piece = np.ascontiguousarray(content[:, 0, outer])  # (3, rows, w)
        logits = predict_scaled(piece, Average(networks), tiling)
        logits = logits[:, inner.start - outer.start : inner.stop - outer.start]
        classes[inner] = logits.argmax(axis=0)
        confidence[inner] = 1 / np.exp(logits - logits.max(axis=0)).sum(axis=0)
    return classes, confidence


def bands(height: int, width: int, tile: int) -> Iterator[tuple[slice, slice]]:
    """Rows to predict and the rows of them to keep: a tile's height further in on either side."""
    rows = height if height * width <= BAND_PIXELS else max(tile, BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        yield slice(max(0, top - tile), min(height, bottom + tile)), slice(top, bottom)
