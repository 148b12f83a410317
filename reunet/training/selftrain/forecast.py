"""What rounds of self-training will take, before they are begun: disk and hours."""

import math
import os
import shutil
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from reunet.errors import ImageError
from reunet.inference.tiles import Tiling, tile_starts
from reunet.io.images import list_images, read_image
from reunet.training import layout
from reunet.training.data.dataset import cases_folder, read_json
from reunet.training.fit.device import as_network
from reunet.training.fit.start import load_network
from reunet.training.presets import PRESETS
from reunet.training.selftrain.rounds import ENDS, SelfTraining
from reunet.training.selftrain.steady import SCALES
from reunet.training.selftrain.teacher import find_teacher

SAMPLED = 20  # labelled cases whose size on disk tells that of the others
BACKWARD = 3  # a step of training costs about three times its forward passes
CHECKPOINTS = 3  # of a training: the last, the best, and one that is being written
TIMED = 3  # passes; the first warms up


def forecast(plan: SelfTraining) -> str:
    """Two lines: the disk and the hours that the rounds take, from images, a timed tile, preset.

    Every image is read, nothing is written. Raises what `rounds.self_train` raises for a folder
    without images and a missing or unfit teacher.
    """
    teacher = find_teacher(plan.root, plan.preset, plan.folds, plan.start)
    paths = list_images(plan.unlabelled)
    shapes = [shape for path in paths if (shape := shape_of(path))]
    if not shapes:
        raise ValueError(f"{plan.unlabelled}: holds no image that can be read")
    pixels = sum(height * width for height, width in shapes)
    image, label = bytes_per_pixel(plan)
    weights = sum(path.stat().st_size for path in teacher.values()) * CHECKPOINTS
    disk = pixels * image + plan.rounds * (pixels * label + weights)
    free = shutil.disk_usage(plan.root).free
    labelling, training = hours(plan, shapes, next(iter(teacher.values())))
    return (
        f"{len(shapes)} of {len(paths)} images can be read, {pixels / 1e6:.1f} megapixels\n"
        f"disk: about {disk / 1e9:.2f} GB, {free / 1e9:.1f} GB are free\n"
        f"time: about {plan.rounds * (labelling + training):.2f} h, {plan.rounds} rounds of "
        f"{labelling:.2f} h for the labels and {training:.2f} h for the training of "
        f"{len(plan.folds)} folds, {min(plan.jobs, len(plan.folds))} at a time"
    )


def shape_of(path: Path) -> tuple[int, int] | None:
    """Height and width of an image, None where it cannot be read."""
    try:
        height, width = read_image(path).pixels.shape[:2]
    except ImageError:
        return None
    return height, width


def bytes_per_pixel(plan: SelfTraining) -> tuple[float, float]:
    """Disk that a pixel of an image takes, and one of its label, by the labelled cases' files."""
    import blosc2

    folder = cases_folder(plan.root, plan.preset)
    image = label = pixels = 0
    for case in islice(read_json(layout.cases_file(plan.root)), SAMPLED):
        sizes = [(folder / f"{case}{ending}").stat().st_size for ending in ENDS]
        image, label = image + sizes[0], label + sizes[1] + sizes[2]
        pixels += math.prod(blosc2.open(str(folder / f"{case}.b2nd"), mode="r").shape[-2:])
    return image / pixels, label / pixels


def hours(
    plan: SelfTraining, shapes: list[tuple[int, int]], checkpoint: Path
) -> tuple[float, float]:
    """Hours of labelling and of training in one round."""
    preset = PRESETS[plan.preset]
    tile = seconds_per_tile(plan, checkpoint)
    tiling = preset.tiling(plan.labelling.tta)
    passes = sum(tiles(shape, tiling) for shape in shapes) * len(plan.folds) * tiling.views
    if plan.labelling.steady:
        passes *= 1 + sum(scale**2 for scale in SCALES)
    labelling = passes * tile / 3600 / min(plan.jobs, os.cpu_count() or 1)
    epochs = plan.job.epochs or preset.retraining.epochs
    patch = plan.job.patch or preset.patch
    step = tile * BACKWARD * preset.batch_of(patch) * (patch / preset.tile) ** 2
    each = plan.job.hours or epochs * preset.iterations_per_epoch * step / 3600
    return labelling, each * math.ceil(len(plan.folds) / plan.jobs)


def tiles(shape: tuple[int, int], tiling: Tiling) -> float:
    """Work of the sliding window over an image, in full tiles."""
    edges = [tiling.edge(n) for n in shape]
    number = math.prod(
        len(tile_starts(max(n, e), e, tiling.step)) for n, e in zip(shape, edges, strict=True)
    )
    return number * math.prod(edges) / tiling.tile**2


def seconds_per_tile(plan: SelfTraining, checkpoint: Path) -> float:
    """Time of one pass of one fold over one tile."""
    network = as_network(load_network(checkpoint, plan.preset), torch.device(plan.device))
    edge = PRESETS[plan.preset].tile
    tile = np.random.default_rng(0).normal(size=(1, 3, edge, edge)).astype(np.float32)
    seconds = []
    for _ in range(TIMED):
        started = perf_counter()
        network(tile)
        seconds.append(perf_counter() - started)
    return min(seconds)
