"""Which of a few scales the network that segments is surest of (beyond the paper).

Of a kind of cells that no training has shown, the estimate of their size is often too small: parts
of a cell look like cells. Seen at their true size, its cells are found with more confidence, and
they measure what they were taken for. So the network is shown a part of the image with its cells at
the estimated size and, unless it is sure of them, larger ones. docs/results.md says what that wins.
Legend: h, w pixels of a part as the network is shown it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log
from typing import NamedTuple

import numpy as np

from reunet.inference.normalise import Scaling, histogram, scaling_from
from reunet.inference.scale import MAX_ZOOM, MIN_ZOOM, scale_image, scaled_shape, typical_diameter
from reunet.inference.size import Estimate, part_of
from reunet.inference.sliding_window import CLASSES, map_image
from reunet.inference.tiles import content_box
from reunet.inference.watch import Watch, nothing_yet
from reunet.model import Model
from reunet.options import Options

FACTORS = (2**0.5, 2.0)  # on the estimated diameter, tried beside it; each takes half the time
SHOWN = 832  # px, edge of a part with its cells at the estimated size: four of the usual tiles
SURE = 0.94  # score of the estimate from which no other is tried
CROWDED = 0.6  # share of a part that is cells, from which none is tried: larger, neighbours merge
MISFIT = 0.2  # taken off the score, times the log of measured over assumed diameter …
DISTANCE = 0.1  # … and times the square of the log of the factor


class Found(NamedTuple):
    """What the network finds with cells of a diameter at the size that it knows.

    confidence: its mean in their pixels, 0..1. measured: px, diameter of the typical one, 0 without
    cells. cover: share of the pixels that are a cell's.
    """

    confidence: float
    measured: float
    cover: float


Look = Callable[[float], Found]  # diameter in px -> what is found


def is_searched(model: Model, options: Options) -> bool:
    """Whether other sizes than the estimated one are tried: not at quality `fast`, nor by weights
    without a network for sizes or without a distance field."""
    able = model.size_network and model.bundle.architecture.outputs > CLASSES
    return bool(able) and options.diameter is None and options.quality != "fast"


def surest_diameter(estimate: float, look: Look) -> float:
    """The estimate, or a multiple of it that the network is surer of.

    estimate: px. It stays where cells lie so close that larger ones would be several.
    """

    def score(factor: float, found: Found) -> float:
        if not found.measured:
            return 0.0
        misfit = abs(log(found.measured / (factor * estimate)))
        return found.confidence - MISFIT * misfit - DISTANCE * log(factor) ** 2

    first = look(estimate)
    scores = {1.0: score(1.0, first)}
    if scores[1.0] < SURE and first.cover < CROWDED:
        scores |= {factor: score(factor, look(factor * estimate)) for factor in FACTORS}
    return estimate * max(scores, key=lambda factor: scores[factor])


def search_scale(
    views: Sequence[np.ndarray], estimate: Estimate, model: Model, options: Options
) -> float:
    """Diameter in px of the typical cell of an image, near the estimate.

    views: parts of the image, of which the estimate was made. The first network is asked, or
    the student, without mirroring.
    """
    model = model.at("fast")
    wanted = model.bundle.diameter
    assert wanted, "these weights see all images at their own size"
    pairs = zip(views, estimate.middles, strict=True)
    parts = [part_of(view, middle, wanted / estimate.diameter, SHOWN) for view, middle in pairs]
    insides = [view[content_box(view.transpose(2, 0, 1))] for view in views]
    scaling = scaling_from(np.sum([histogram(inside) for inside in insides], axis=0))
    unmirrored = replace(options, tta=False, step=None)

    def look(diameter: float) -> Found:
        """Of all parts together."""
        zoom = min(max(wanted / diameter, MIN_ZOOM), MAX_ZOOM)
        cells, confidence = [np.zeros(1, np.int32)], [np.zeros(0, np.float32)]
        for part in parts:
            labels, of_cells = _look(part, zoom, scaling, model, unmirrored)
            confidence.append(of_cells[labels > 0])
            cells.append(np.where(labels, labels + max(c.max() for c in cells), 0).ravel())
        measured = typical_diameter(np.concatenate(cells)) / zoom
        sure = np.concatenate(confidence)
        cover = len(sure) / max(1, sum(map(len, cells)) - 1)
        return Found(float(sure.mean()) if measured else 0.0, measured, cover)

    return surest_diameter(estimate.diameter, look)


def _look(
    part: np.ndarray, zoom: float, scaling: Scaling, model: Model, options: Options
) -> tuple[np.ndarray, np.ndarray]:
    """The cells of a part at a zoom, (h, w) int32, and how probable its pixels are a cell's."""
    # It is not needed before the first tile.
    from reunet.instances.peaks import decode_field

    shown = scale_image(part, scaled_shape(part.shape, zoom))
    shape = shown.shape[0], shown.shape[1]
    watch = Watch(probabilities=nothing_yet(shape))
    assert watch.probabilities is not None
    voters, tiling = model.ensembles(vote=False), model.tiling(options)
    maps = map_image(
        lambda top, bottom: shown[top:bottom], shape, scaling, voters, tiling, watch=watch
    )
    assert maps.fields is not None
    labels = decode_field(maps.classes[0], maps.fields[0])
    return labels, 1 - watch.probabilities[0].astype(np.float32)
