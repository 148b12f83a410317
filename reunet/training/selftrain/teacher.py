"""The teacher of a round: trained folds, whose averaged soft output labels images (paper §2.6).

Beyond the paper they may vote instead, as at inference: cells that the folds agree on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reunet.inference.ensemble import Average, Network
from reunet.inference.sliding_window import (
    CLASSES,
    Maps,
    enter_logits,
    most_probable,
    predict_scaled,
)
from reunet.inference.tiles import Tiling
from reunet.instances.decode import decode
from reunet.instances.label_fusion import fuse
from reunet.instances.peaks import decode_field
from reunet.training import layout
from reunet.training.data.dataset import read_json

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


@dataclass(frozen=True)
class Opinion:
    """What trained folds see in an image of h × w pixels, as it is stored.

    classes: (h, w) uint8, the most probable by the softmax of the folds' mean logits. confidence:
    (h, w) float16, how probable that is, 0 to 1. maps: of each fold by itself. unsteady: (h, w)
    bool, pixels that nothing is to be learnt from, see `steady` (None: there is none). cells:
    (h, w) int32, where they have been looked for already.
    """

    classes: np.ndarray
    confidence: np.ndarray
    maps: Maps
    unsteady: np.ndarray | None = None
    cells: np.ndarray | None = None


def look_at(content: Any, networks: Sequence[Network], tiling: Tiling) -> Opinion:
    """What networks see in an image.

    content: (3, 1, h, w) float32 as stored, an array or what can be sliced like one. Large images
    are predicted in bands: nothing but the result is held for all of it.
    """
    height, width = content.shape[-2:]
    maps = Maps.blank((len(networks), height, width), tiling.outputs > CLASSES)
    confidence = np.empty((height, width), np.float16)
    classes = np.empty((height, width), np.uint8)
    for outer, inner in bands(height, width, tiling.tile):
        piece = np.ascontiguousarray(content[:, 0, outer])  # (3, rows, w)
        kept = slice(inner.start - outer.start, inner.stop - outer.start)
        mean = np.zeros((CLASSES, inner.stop - inner.start, width), np.float32)
        for n, network in enumerate(networks):
            logits = predict_scaled(piece, Average([network]), tiling)[:, kept]
            mean += logits[:CLASSES] / len(networks)
            enter_logits(maps, n, (inner, slice(None)), logits)
        classes[inner] = most_probable(mean)
        confidence[inner] = 1 / np.exp(mean - mean.max(axis=0)).sum(axis=0)
    return Opinion(classes, confidence, maps)


def agreed_cells(maps: Maps, encoding: str) -> np.ndarray:
    """The cells that folds agree on, each fold's found by the decoder of its outputs.

    encoding: of the classes, for folds without a distance field. Returns (h, w) int32.
    """
    if maps.fields is None:
        return fuse([decode(classes, "regrow", encoding) for classes in maps.classes])
    return fuse([decode_field(*maps.of(n)) for n in range(len(maps.classes))])


def bands(height: int, width: int, tile: int) -> Iterator[tuple[slice, slice]]:
    """Rows to predict and the rows of them to keep: a tile's height further in on either side."""
    rows = height if height * width <= BAND_PIXELS else max(tile, BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        yield slice(max(0, top - tile), min(height, bottom + tile)), slice(top, bottom)
