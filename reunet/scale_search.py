"""Which of a few scales the network finds the same cells at as at the next (beyond the paper).

Of a kind of cells that no training has shown, the estimate of their size is often wrong, and mostly
too small: parts of a cell look like cells. Near their true size the cells are found with more
confidence, they measure what they were taken for, and seen somewhat larger or smaller they are
found again, which parts of cells and heaps of them are not. So the network is shown a part of the
image with its cells at the estimated size and, unless it is sure of them, smaller and larger.
docs/experiments.md says what that wins.
Legend: h, w pixels of a part as the network is shown it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import log
from typing import NamedTuple

import numpy as np

from reunet.inference.ensemble import Ensemble
from reunet.inference.normalise import Scaling, histogram, scaling_from
from reunet.inference.scale import (
    MAX_ZOOM,
    MIN_ZOOM,
    scale_image,
    scale_labels,
    scaled_shape,
    typical_diameter,
    zoom_for,
)
from reunet.inference.size import Estimate, part_of
from reunet.inference.sliding_window import CLASSES, map_image
from reunet.inference.tiles import Tiling, content_box
from reunet.instances.overlap import agreement
from reunet.model import Model
from reunet.options import Options

FACTORS = (0.5**0.5, 2**0.5, 2.0)  # on the estimated diameter, tried beside it
# px, edge of a part with its cells at the estimated size: three tiles side by side, four at 0.7
SHOWN = 720
STEP = 1.0  # of a tile: neighbours need no overlap to tell the scale
SURE = 0.97  # score of the estimate from which no other is tried
CROWDED = 0.6  # share of a part that is cells, from which no larger one is: neighbours would merge
MISFIT = 0.2  # taken off the score, times the log of measured over assumed diameter …
DISTANCE = 0.1  # … and times the square of the log of the factor
AGREEMENT = 0.8  # added to it, times the agreement with what is found at the factors next to it


class Found(NamedTuple):
    """What the network finds with cells of a diameter at the size that it knows.

    confidence: its mean in their pixels, 0..1. measured: px, diameter of the typical one, 0 without
    cells. cells: (pixels,) int32 of all parts, as many at every diameter: 0 background, cells 1..N.
    """

    confidence: float
    measured: float
    cells: np.ndarray


Look = Callable[[float], Found]  # diameter in px -> what is found
Seen = tuple[np.ndarray, np.ndarray]  # cells (h, w) int32; foreground (h, w) uint8, 255 for 1


def is_searched(model: Model, options: Options) -> bool:
    """Whether other sizes than the estimated one are tried: not at quality `fast`, nor by weights
    without a network for sizes or without a distance field."""
    able = model.size_network and model.bundle.architecture.outputs > CLASSES
    return bool(able) and options.diameter is None and options.quality != "fast"


def surest_diameter(estimate: float, look: Look, factors: Sequence[float] = FACTORS) -> float:
    """The estimate, or a multiple of it at which cells are surer, and found again nearby.

    estimate: px. factors: on it, to be tried; where cells lie close, only those below 1.
    """
    first = look(estimate)
    if _score(1.0, first, estimate) >= SURE:
        return estimate
    crowded = np.count_nonzero(first.cells) >= CROWDED * first.cells.size
    tried = [factor for factor in factors if factor < 1 or not crowded]
    found = dict(sorted([(1.0, first), *((f, look(f * estimate)) for f in tried)]))
    agreements = _agreements([at.cells for at in found.values()])
    scores = {
        factor: _score(factor, at, estimate) + AGREEMENT * agreed
        for (factor, at), agreed in zip(found.items(), agreements, strict=True)
    }
    return estimate * max(scores, key=lambda factor: (scores[factor], factor == 1))


def _score(factor: float, found: Found, estimate: float) -> float:
    """How sure the network is of cells of a diameter, before others are looked at."""
    if not found.measured:
        return 0.0
    misfit = abs(log(found.measured / (factor * estimate)))
    score: float = found.confidence - MISFIT * misfit - DISTANCE * log(factor) ** 2
    return score


def _agreements(cells: Sequence[np.ndarray]) -> list[float]:
    """Of label maps in the order of their scales: agreement with the next ones, in the mean."""
    pairs = [agreement(one, other) for one, other in pairwise(cells)]
    return [float(np.mean(pairs[max(n - 1, 0) : n + 1] or [0])) for n in range(len(cells))]


def search_scale(
    views: Sequence[np.ndarray],
    estimate: Estimate,
    of: tuple[int, int],
    model: Model,
    options: Options,
) -> float:
    """Diameter in px of the typical cell of an image, near the estimate; see `search_with`.

    The first network is asked, or the student.
    """
    model = model.at("fast")
    wanted = model.bundle.diameter
    assert wanted, "these weights see all images at their own size"
    voters, tiling = model.ensembles(vote=False), model.tiling(options)
    return search_with(views, estimate, of, wanted, voters, tiling)


def search_with(
    views: Sequence[np.ndarray],
    estimate: Estimate,
    of: tuple[int, int],
    wanted: float,
    voters: Sequence[Ensemble],
    tiling: Tiling,
) -> float:
    """Diameter in px of the typical cell of an image, near the estimate.

    views: parts of the image, of which the estimate was made. of: (H, W) of the image. wanted: px,
    diameter that the networks know cells by. voters: one, of networks with a distance field.
    tiling: how images are cut for them; a look takes neither mirror images nor an overlap.
    """
    tiling = replace(tiling, views=1, step=STEP)
    pairs = zip(views, estimate.middles, strict=True)
    parts = [part_of(view, middle, wanted / estimate.diameter, SHOWN) for view, middle in pairs]
    insides = [view[content_box(view.transpose(2, 0, 1))] for view in views]
    scaling = scaling_from(np.sum([histogram(inside) for inside in insides], axis=0))

    def zoom_of(diameter: float) -> float:
        return min(max(wanted / diameter, MIN_ZOOM), MAX_ZOOM)

    shapes = [scaled_shape(part.shape, zoom_of(estimate.diameter)) for part in parts]

    def look(diameter: float) -> Found:
        zoom = zoom_of(diameter)
        return _joined([_look(p, zoom, scaling, voters, tiling) for p in parts], zoom, shapes)

    diameters = {factor: factor * estimate.diameter for factor in FACTORS}
    possible = [f for f, d in diameters.items() if zoom_for(d, wanted, of)[0] == wanted / d]
    return surest_diameter(estimate.diameter, look, possible)


def _joined(looks: Sequence[Seen], zoom: float, shapes: Sequence[tuple[int, int]]) -> Found:
    """What was found in several parts; their cells are cells of their own. shapes: (h, w) that the
    labels of each part are brought to."""
    seen, drawn, sure, number = [], [], [], 0
    for (labels, foreground), shape in zip(looks, shapes, strict=True):
        sure.append(foreground[labels > 0])
        numbered = np.where(labels > 0, labels + number, 0)
        number = max(number, int(numbered.max(initial=0)))
        seen.append(numbered.ravel())
        drawn.append(scale_labels(numbered, shape).ravel())
    measured = typical_diameter(np.concatenate(seen)) / zoom
    confidence = float(np.concatenate(sure).mean()) / 255 if measured else 0.0
    return Found(confidence, measured, np.concatenate(drawn))


def _look(
    part: np.ndarray, zoom: float, scaling: Scaling, voters: Sequence[Ensemble], tiling: Tiling
) -> Seen:
    """The cells of a part at a zoom, and how probable its pixels are a cell's."""
    # It is not needed before the first tile.
    from reunet.instances.peaks import decode_field

    shown = scale_image(part, scaled_shape(part.shape, zoom))
    shape = shown.shape[0], shown.shape[1]
    maps = map_image(lambda top, bottom: shown[top:bottom], shape, scaling, voters, tiling)
    assert maps.fields is not None
    assert maps.foreground is not None
    foreground = maps.foreground[0]
    return decode_field(maps.classes[0], maps.fields[0], foreground), foreground
