"""Many images: what goes wrong with one does not touch the others.

Three steps overlap: reading on one thread, the network on the caller's, decoding and writing on a
third. At most AHEAD images wait between two steps, so that memory holds a few of them, however
many there are; slides take turns with everything else. Images are done, and reported, in the order
in which they were given.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np

from reunet.errors import ImageError, NoRoom, ReUNetError, WeightsError, image_error, one_line
from reunet.inference.budget import TileSeconds
from reunet.inference.watch import Watch
from reunet.io.collection import label_paths, short_name
from reunet.io.images import planes_of
from reunet.io.pixel_size import PixelSize
from reunet.io.scratch import LABEL_SHARE, check_room, zeros
from reunet.io.selection import ALL, Selection, selection_of
from reunet.io.source import Source, is_large, open_source
from reunet.model import Model
from reunet.options import Options
from reunet.pipeline import Seen, find_cells, region_of, see, what_fits
from reunet.run.begun import MapOnDisk
from reunet.run.finish import pixel_size_of, write_cells
from reunet.run.planes import segment_planes
from reunet.run.resume import cells_of_kept_label, image_hash, settings_line
from reunet.survey import survey

AHEAD = 2  # images that wait between two steps
CAUSE_AT_MOST = 200  # characters of a foreign error message that are shown

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Outcome:
    """What became of one image: its number of cells, or else the error in one line.

    kept: its label was there already and was not made again. notes: what was assumed about it.
    seconds: by step, of those it went through: reading, network, decoding, writing. agreement: by
    id, (cells + 1,), 0 to 1, where folds voted. diameter: px of the typical cell that the image was
    scaled by, where it was. unwritten: outputs beside the label that failed, a line each.
    """

    image: Path
    label: Path
    cells: int = 0
    kept: bool = False
    error: str | None = None
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    agreement: np.ndarray | None = None
    diameter: float | None = None
    unwritten: tuple[str, ...] = ()


@dataclass
class _Job:
    """An image on its way; what a step was given is let go as soon as it is used."""

    outcome: Outcome
    image_hash: str = ""
    pixel_size: PixelSize | None = None
    source: Source | None = None
    planes: Mapping[str, int] | None = None  # of a stack whose every plane gets its label
    seen: Seen | None = None
    begun: MapOnDisk | None = None  # of a slide

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step; whatever goes wrong in it becomes this image's error and nobody else's.

        But for weights that prove damaged when they are first used: no image can do without them.
        """
        started = time.perf_counter()
        try:
            yield
        except WeightsError:
            raise
        except Exception as error:
            self.outcome.error = in_one_line(self.outcome.image, error)
            image_at_fault = isinstance(error, ImageError) and not isinstance(error, NoRoom)
            if self.begun and image_at_fault:  # else the same run may go on with what is there
                self.begun.discard()
        self.outcome.seconds[name] = time.perf_counter() - started


@dataclass(frozen=True)
class _Run:
    """What the steps of all images share. owners: of labels, the images they are made from."""

    model: Model
    options: Options
    resume: bool
    settings: Future[str]
    tell: Callable[[Path, int, int], None] | None = None
    tile_seconds: TileSeconds = field(default_factory=dict)
    owners: dict[Path, Path] = field(default_factory=dict)
    start_up: float = 0.0  # s

    @property
    def selection(self) -> Selection:
        """Which channels and which plane of an image are looked at."""
        return selection_of(self.options.channels, self.options.plane)

    def origin(self, job: _Job) -> str:
        return f"image {job.image_hash}, {self.settings.result()}"


def segment_files(
    images: Sequence[Path],
    output: Path,
    model: Model,
    options: Options = Options(),  # noqa: B008 - it is frozen
    *,
    resume: bool = False,
    tell: Callable[[Path, int, int], None] | None = None,
    labels: Mapping[Path, Path] | None = None,
    start_up: float = 0.0,
) -> Generator[Outcome]:
    """Write `<name up to the first dot>_label.tiff` into `output` for every image; the whole stem
    where several images share that name (`io.collection`).

    Yields an Outcome an image, in order. Of images whose labels would bear one name, the first
    that can be read is segmented and the others are errors: no label is overwritten by another
    image's. resume: keep labels made from the very same image, weights and settings (`resume`).
    tell: called with an image and the number of its tiles that are done, and of all.
    labels: where the label of each image goes, if not as above (`collection.label_paths`).
    start_up: seconds that have gone before, which count against the budget of the first image.
    An interrupt (KeyboardInterrupt) ends the network at once; what is past it is still written and
    yielded before the interrupt goes on to the caller. Raises WeightsError where weights prove
    damaged when they are first used.
    """
    labels = labels or label_paths(images, output)
    jobs = (_Job(_outcome(image, labels[image])) for image in images)
    waiting: deque[Future[Outcome]] = deque()
    interrupt = None
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as finishing:
        settings = finishing.submit(_prepare_to_finish, model, options)
        run = _Run(model, options, resume, settings, tell, start_up=start_up)
        try:
            for job in _ahead(reading, partial(_read, run), jobs):
                at_most = 0 if job.source and job.source.is_slide else AHEAD
                _classify(run, job)
                waiting.append(finishing.submit(_finish, run, job))
                while waiting and (len(waiting) > at_most or waiting[0].done()):
                    outcome = waiting[0].result()
                    waiting.popleft()
                    yield outcome
        except KeyboardInterrupt as signal:
            interrupt = signal
        finally:
            reading.shutdown(wait=False, cancel_futures=True)
        while waiting:
            yield waiting.popleft().result()
    if interrupt:
        raise interrupt


def _outcome(image: Path, label: Path) -> Outcome:
    outcome = Outcome(image, label)
    if label.name != f"{short_name(image)}_label.tiff":
        others = f"other images are called {short_name(image)} up to the first dot too"
        outcome.notes = (f"{others}: its label is {outcome.label.name}",)
    return outcome


def _ahead(
    pool: ThreadPoolExecutor, step: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """`map` on a pool, in order, but no more than AHEAD results in advance."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(step, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _prepare_to_finish(model: Model, options: Options) -> str:
    """Load what comes after reading while the first image is read; say what is set."""
    model.expect(options)
    import tifffile  # noqa: F401

    import reunet.instances.label_fusion
    import reunet.instances.peaks  # noqa: F401

    return settings_line(model, options)


def _read(run: _Run, job: _Job) -> _Job:
    outcome = job.outcome
    with job.step("reading"):
        folder = outcome.label.parent
        if not folder.is_dir():  # no use in segmenting what cannot be written
            raise ImageError(one_line(f"{folder}: is gone; make the folder of the labels again"))
        job.image_hash = image_hash(outcome.image)
        cells = cells_of_kept_label(outcome.label, run.origin(job)) if run.resume else None
        if cells is not None:
            outcome.kept, outcome.cells = True, cells
        elif run.options.plane == ALL:
            job.pixel_size = pixel_size_of(outcome.image, run.options)
            job.planes = planes_of(outcome.image)
        else:
            job.source = open_source(outcome.image, run.selection, region_of(run.options))
            job.pixel_size = pixel_size_of(outcome.image, run.options)
            outcome.notes += job.pixel_size.notes if job.pixel_size else ()
        first = run.owners.setdefault(outcome.label, outcome.image)
        if first != outcome.image:
            cause = f"its label would overwrite that of {first.name}"
            raise image_error(outcome.image, cause, "rename one")
    return job


def _classify(run: _Run, job: _Job) -> None:
    outcome, source, job.source = job.outcome, job.source, None
    if job.planes is not None and not outcome.error:
        with job.step("planes"):
            origin, size = run.origin(job), job.pixel_size
            outcome.cells, outcome.notes = segment_planes(
                outcome.image, outcome.label, run.model, run.options, job.planes, origin, size
            )
        return
    if source is None or outcome.error:  # found after it was read
        return
    with job.step("network"):
        started = time.perf_counter()
        view = survey(source, run.model, run.options)
        outcome.diameter = view.diameter
        spent = outcome.seconds["reading"] + time.perf_counter() - started
        spent += run.start_up if not run.tile_seconds else 0  # a part of the first image's time
        model, options, told = what_fits(view, run.model, run.options, spent, run.tile_seconds)
        outcome.notes = (*view.notes, *outcome.notes, *told)
        if is_large(source.whole):
            check_room(outcome.label, int(4 * prod(source.whole) * LABEL_SHARE))
        watch = Watch(partial(run.tell, outcome.image)) if run.tell else None
        if source.is_slide:
            tiling = model.tiling(options)
            made_from = f"{run.origin(job)}\n{model.folds} {tiling} {view.plan}"
            job.begun = MapOnDisk(outcome.label, made_from, run.resume)
        place = partial(zeros, label=outcome.label)
        job.seen = see(view, model, options, place, watch, job.begun)
        outcome.notes += (*(job.begun.notes if job.begun else ()), *job.seen.notes)


def _finish(run: _Run, job: _Job) -> Outcome:
    outcome, seen, job.seen = job.outcome, job.seen, None
    if seen is None:
        return outcome
    cells = agreement = None
    with job.step("decoding"):
        place = partial(zeros, label=outcome.label)
        cells, agreement = find_cells(seen, run.model.bundle, run.options, place)
    del seen
    if cells is not None:
        with job.step("writing"):
            origin = run.origin(job)
            kept = write_cells(outcome.label, cells, origin, job.pixel_size, run.options)
            outcome.cells = len(kept) - 1
            outcome.agreement = None if agreement is None else agreement[kept]
            if job.begun:
                job.begun.discard()
    return outcome


def in_one_line(image: Path, error: Exception) -> str:
    """Whatever went wrong with an image: file, cause, way out."""
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, ReUNetError):
        return one_line(f"{image}: {error}")
    cause, way_out = str(error)[:CAUSE_AT_MOST], "report it, with the image if you can"
    if isinstance(error, MemoryError | RuntimeError):  # a backend has no kind of its own for these
        cause, way_out = cause or "out of memory", "crop the image, or try --device cpu"
    else:
        cause = f"{type(error).__name__}: {cause}"
    return one_line(f"{image}: {' '.join(cause.split())}; {way_out}")
