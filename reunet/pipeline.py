"""The way of an image to its cells, whatever its size: survey, network, decoding, filters.

>>> from reunet import load_model, predict
>>> predict("image.png", load_model()).labels  # (H, W) int32, 0 background, cells 1..N

`predict` goes all of it; `run.batch` calls the same steps on threads of its own.
"""

import os
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from reunet.filters import filter_cells, keep_inside, parse_min_area
from reunet.inference.budget import TileSeconds, allowance, fit
from reunet.inference.kept import Keeper
from reunet.inference.second_pass import LARGEST, are_small, classify_enlarged
from reunet.inference.sliding_window import Maps, Zeros, map_image
from reunet.inference.watch import Tell, Watch, at_shape, confidence_of, nothing_yet
from reunet.io.arrays import picture_of
from reunet.io.images import Picture, read_pixel_size
from reunet.io.pixel_size import PixelSize, parse_pixel_size
from reunet.io.region import Part, Region, parse_region
from reunet.io.scratch import zeros as scratch
from reunet.io.selection import selection_of
from reunet.io.source import Source, hold, open_source, part_of
from reunet.model import Model
from reunet.network.bundle import STUDENT, Bundle, folds_there
from reunet.options import Options
from reunet.survey import View, survey

STACK = "N"  # letter of an axis of images


@dataclass(frozen=True)
class Seen:
    """What networks saw in an image of `shape` (H, W): maps, which may be of another size.

    out: arrays that will receive cells, made before the network starts so that a disk without room
    for them shows by then; `_arrays` says which. part: of a larger image, which was looked at.
    notes: what was taken for granted.
    """

    maps: Maps
    shape: tuple[int, int]
    out: tuple[np.ndarray, ...] = ()
    part: Part | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What was found in one image, and how.

    labels: (H, W) int32, 0 background, cells 1..N. notes: what was assumed about the image, as the
    command prints it. diameter: px of the typical cell that the image was scaled by, None where it
    was not. agreement: of the folds on each cell by its number, (N + 1,) 0 to 1, None where they
    did not vote. seconds: by step: size, network, decoding. pixel_size: in µm, where it is known.
    probabilities: (3, H, W) float16 of background, interior and boundary, and confidence: (N + 1,)
    float32 by the cell's number, see `watch.confidence_of`; None where they were not asked for.
    """

    labels: np.ndarray
    notes: tuple[str, ...]
    diameter: float | None
    agreement: np.ndarray | None
    seconds: dict[str, float]
    pixel_size: PixelSize | None = None
    probabilities: np.ndarray | None = None
    confidence: np.ndarray | None = None


def predict(
    image: Any,
    model: Model,
    options: Options | None = None,
    *,
    axes: str | None = None,
    probabilities: bool = False,
    progress: Tell | None = None,
    **choices: Any,
) -> Result:
    """The cells of one image, and all that is known beside the labels.

    image: a file of any size, an array (H, W) or (H, W, C) of any real dtype, or what
    `arrays.picture_of` makes one of. axes: of an array, such as "CYX", where its shape leaves them
    open. options: see `Options`. choices: fields of it by name, such as tta=False. probabilities:
    keep those of the classes, and tell the confidence of each cell. progress: called with the
    number of tiles that are through the networks, and of all.
    Raises ImageError for a file that cannot be read, ValueError for an array that is no image or of
    unclear axes, an option that does not exist, and probabilities of an image that is not held in
    memory as a whole.
    """
    clock = [time.perf_counter()]
    options = replace(options or Options(), **choices)
    source, size = _source(image, axes, options), _pixel_size(image, options)
    least_area(options, size)  # what cannot be done is told before the network starts
    if probabilities and (source.picture is None or source.is_slide):
        raise ValueError("probabilities are not kept of a slide: crop it, or leave them out")
    view = survey(source, model, options)
    clock.append(time.perf_counter())
    chosen, asked, told = what_fits(view, model, options, clock[1] - clock[0], {})
    watch = Watch(progress, nothing_yet(view.shape) if probabilities else None)
    seen = see(view, chosen, asked, scratch, watch)
    clock.append(time.perf_counter())
    labels, agreement = find_cells(seen, model.bundle, options, scratch)
    kept = keep_wanted(labels, options, size)
    clock.append(time.perf_counter())
    steps = zip(("size", "network", "decoding"), pairwise(clock), strict=True)
    seconds = {step: end - start for step, (start, end) in steps}
    agreement = None if agreement is None else agreement[kept]
    notes = (*view.notes, *told, *seen.notes)
    result = Result(labels, notes, view.diameter, agreement, seconds, size)
    if watch.probabilities is None:
        return result
    return _with(watch.probabilities, view.of, source.part, result)


def _with(
    probabilities: np.ndarray, of: tuple[int, int], part: Part | None, result: Result
) -> Result:
    shares = at_shape(probabilities, of)
    if part is not None:
        inside, shares = shares, nothing_yet(part.of)
        shares[:, part.rows, part.columns] = inside
    confidence = confidence_of(result.labels, shares)
    return replace(result, probabilities=shares, confidence=confidence)


def _source(image: Any, axes: str | None, options: Options) -> Source:
    if axes and STACK in axes.upper():
        raise ValueError(f"axes {axes!r} are of several images: use segment, or predict_many")
    if isinstance(image, str | os.PathLike):
        if axes:
            raise ValueError("axes are for arrays, a file tells its own: read it and pass an array")
        return open_source(
            Path(image), selection_of(options.channels, options.plane), region_of(options)
        )
    picture = image if isinstance(image, Picture) else picture_of(image, axes)
    return part_of(hold(picture), region_of(options))


def region_of(options: Options) -> Region | None:
    """What of an image is to be looked at; None: all. Raises ValueError as `parse_region`."""
    return None if options.region is None else parse_region(options.region)


def asked_pixel_size(options: Options) -> PixelSize | None:
    """The size of pixels that overrides what files say."""
    return None if options.pixel_size is None else parse_pixel_size(str(options.pixel_size))


def _pixel_size(image: Any, options: Options) -> PixelSize | None:
    asked = asked_pixel_size(options)
    if asked is None and isinstance(image, str | os.PathLike):
        return read_pixel_size(Path(image))
    return asked


def what_fits(
    view: View, model: Model, options: Options, spent: float, tile_seconds: TileSeconds
) -> tuple[Model, Options, tuple[str, ...]]:
    """Folds, mirroring and tiles within the budget of an image, and notes on what is not done.

    spent: seconds that are gone already. tile_seconds: see `budget.fit`.
    """
    told = of_quality(model, options.quality)
    model = model.at(options.quality)
    if options.budget is not None:
        seconds = allowance(options.budget, view.of) - spent
        model, options, note = fit(model, options, view.shape, seconds, tile_seconds)
        told = (*told, note)
    return model, options, (*told, *not_done(model, options, view.shape))


def of_quality(model: Model, quality: str) -> tuple[str, ...]:
    """A note where the folds are not those that a level of quality is meant to have."""
    folds = model.at(quality).folds
    if quality == "fast" and folds != (STUDENT,) and len(model.folds) > 1:
        return (f"quality fast: no student there, fold {folds[0]} alone",)
    if quality == "best" and folds == folds_there(model.bundle) == (STUDENT,):
        where = model.bundle.folder
        return (f"quality best: the student alone, {where} lacks the folds that taught it",)
    return ()


def not_done(model: Model, options: Options, shape: tuple[int, int]) -> tuple[str, ...]:
    """A note on what is not done for an image of (h, w), as it is seen, because of its size."""
    if prod(shape) <= LARGEST:
        return ()
    parts = ["its folds were averaged, not voted"] * (options.vote and len(model.networks) > 1)
    parts += ["small cells got no second pass"] * model.looks_twice(options)
    return (f"has more than {LARGEST:,} pixels: {' and '.join(parts)}",) if parts else ()


def see(
    view: View,
    model: Model,
    options: Options,
    zeros: Zeros = np.zeros,
    watch: Watch | None = None,
    keeper: Keeper | None = None,
) -> Seen:
    """What the networks see in an image: classes of every pixel and, if they have it, the field.

    One map for each fold that votes, or a single one by the mean of the folds' logits, where the
    networks are shown more than LARGEST pixels or folds do not vote. Of a model that looks twice,
    where the cells of the first are small all are of a second pass, enlarged. zeros:
    makes the arrays of a whole image. watch: looks on, at the first pass. keeper: keeps its bands.
    """
    tiling, small = model.tiling(options), prod(view.shape) <= LARGEST
    voters = model.ensembles(options.vote and small)
    out = _arrays(view, len(voters), options.decoder or model.bundle.decoder, zeros)
    watch = watch or Watch()
    maps = map_image(
        view.read(), view.shape, view.scaling, voters, tiling, view.box, zeros, watch,
        view.wanted, keeper,
    )  # fmt: skip
    seen = Seen(maps, view.of, out, view.part, watch.notes)
    if small and view.pixels is not None and model.looks_twice(options):
        first = Seen(Maps(maps.classes[:1]), view.of)
        usual = replace(options, decoder=None)
        if are_small(find_cells(first, model.bundle, usual)[0]):
            again = [classify_enlarged(view.pixels, voter, tiling) for voter in voters]
            return replace(seen, maps=Maps(np.stack(again)))
    return seen


def _arrays(view: View, voters: int, decoder: str, zeros: Zeros) -> tuple[np.ndarray, ...]:
    """One for the cells of each voter and, where these are of another size than the image, one."""
    drawn = _drawn(view.of, view.shape, decoder)
    whole = [zeros(drawn, np.int32) for _ in range(voters)]
    return (*whole, *([zeros(view.of, np.int32)] * (drawn != view.of)))


def _drawn(of: tuple[int, int], seen: tuple[int, int], decoder: str) -> tuple[int, int]:
    """(H, W) that cells are drawn with: for the field, the finer of the sizes of map and image."""
    return max(of, seen) if decoder == "field" else seen


def find_cells(
    seen: Seen, bundle: Bundle, options: Options, zeros: Zeros = np.zeros
) -> tuple[np.ndarray, np.ndarray | None]:
    """The cells of one map, or those that several agree on; of a part of an image, in the whole.

    Returns (H, W) int32, 0 background, cells 1..N, and how far the maps agree on each cell
    (`fuse_with_agreement`). Raises ValueError for decoder `field` and maps without one.
    """
    labels, agreement = _cells_of_maps(seen, bundle, options, zeros)
    if seen.part is None:
        return labels, agreement
    inside = keep_inside(labels, seen.part.contains)
    whole = zeros(seen.part.of, np.int32)
    whole[seen.part.rows, seen.part.columns] = labels
    return whole, None if agreement is None else agreement[inside]


def _cells_of_maps(
    seen: Seen, bundle: Bundle, options: Options, zeros: Zeros
) -> tuple[np.ndarray, np.ndarray | None]:
    # It is not needed before the first tile.
    from reunet.instances.label_fusion import fuse_with_agreement

    decoder, voters = options.decoder or bundle.decoder, len(seen.maps.classes)
    size = seen.maps.classes.shape[1], seen.maps.classes.shape[2]
    drawn = _drawn(seen.shape, size, decoder)
    out = seen.out or tuple(zeros(drawn, np.int32) for _ in range(voters))
    candidates = [_decoded(seen.maps, n, out[n], decoder, bundle.encoding) for n in range(voters)]
    labels, agreement = fuse_with_agreement(candidates)
    if labels.shape == seen.shape:
        return labels, agreement
    from reunet.instances.decode import at_size

    result = out[voters] if len(out) > voters else zeros(seen.shape, np.int32)
    kept = at_size(labels, result)
    return result, None if agreement is None else agreement[kept]


def _decoded(maps: Maps, voter: int, out: np.ndarray, decoder: str, encoding: str) -> np.ndarray:
    """The cells of one map, in `out`, whose size is the one that they are drawn with."""
    if decoder != "field":
        from reunet.instances.decode import decode

        return decode(maps.classes[voter], decoder, encoding, out=out)
    from reunet.instances.peaks import decode_field

    if maps.fields is None:
        raise ValueError("these weights have no distance field: use --decoder regrow")
    return decode_field(*maps.of(voter), shape=(out.shape[0], out.shape[1]), out=out)


def least_area(options: Options, size: PixelSize | None) -> float:
    """Pixels that a cell must have. size: of a pixel, where it is known. Raises ValueError where an
    area in µm² is asked for and that is not."""
    return parse_min_area(str(options.min_area or 0)).in_pixels(size.area if size else None)


def keep_wanted(labels: np.ndarray, options: Options, size: PixelSize | None) -> np.ndarray:
    """Drop, in place, the cells that nobody wants, and number the others 1..N.

    labels: (H, W) integers, 0 background. Returns the former numbers of those that are left, 0
    first, (N + 1,). Raises ValueError as `least_area`.
    """
    kept = np.arange(1, int(labels.max(initial=0)) + 1)
    if options.min_area is not None or options.drop_edge_cells:
        kept = filter_cells(labels, least_area(options, size), options.drop_edge_cells)
    return np.append(0, kept)
