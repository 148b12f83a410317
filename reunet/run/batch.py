"""Many images: what goes wrong with one does not touch the others.

Three steps overlap: reading on one thread, the network on the caller's, decoding and writing on a
third. At most AHEAD images wait between two steps, so that memory holds a few of them, however
many there are. Images are done, and reported, in the order in which they were given.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from reunet.inference.budget import allowance, fit, seconds_since_start
from reunet.io.collection import case_names, short_name
from reunet.io.images import ImageError, Picture, one_line, read_image
from reunet.io.pixel_size import PixelSize
from reunet.network.bundle import WeightsError
from reunet.pipeline import Model, Seen, find_and_tell, not_done, scaled, see
from reunet.run.finish import Finish
from reunet.run.resume import cells_of_kept_label, image_hash, settings_line
from reunet.slides import SLIDE_PIXELS, segment_slide, slide_shape

AHEAD = 2  # images that wait between two steps
CAUSE_AT_MOST = 200  # characters of a foreign error message that are shown

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Outcome:
    """What became of one image: its number of cells, or else the error in one line.

    kept: its label was there already and was not made again. notes: what was assumed about its
    channels. seconds: by step, of those it went through: reading, network, decoding, writing; from
    SLIDE_PIXELS on, where they take turns, reading and `slide`. agreement: by id, (cells + 1,),
    0 to 1, where folds voted. diameter: px of the typical cell that the image was scaled by, where
    it was. unwritten: outputs beside the label that failed, a line each.
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
    """An image on its way; pixels and classes are let go as soon as they are used."""

    outcome: Outcome
    image_hash: str = ""
    shape: tuple[int, int] = (0, 0)  # H, W
    slide: bool = False
    pixel_size: PixelSize | None = None
    picture: Picture | None = None
    seen: Seen | None = None

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
            self.outcome.error = _in_one_line(self.outcome.image, error)
        self.outcome.seconds[name] = time.perf_counter() - started


@dataclass(frozen=True)
class _Run:
    """What the steps of all images share. owners: of labels, the images they are made from."""

    model: Model
    tta: bool
    decoder: str
    resume: bool
    budget: str | None
    finish: Finish
    settings: Future[str]
    paces: dict[tuple[int, int], float] = field(default_factory=dict)
    owners: dict[Path, Path] = field(default_factory=dict)

    def origin(self, job: _Job) -> str:
        return f"image {job.image_hash}, {self.settings.result()}{self.finish}"


def segment_files(
    images: Sequence[Path],
    output: Path,
    model: Model,
    *,
    tta: bool,
    decoder: str | None,
    resume: bool = False,
    budget: str | None = None,
    finish: Finish = Finish(),  # noqa: B008 - it is frozen
) -> Generator[Outcome]:
    """Write `<name up to the first dot>_label.tiff` into `output` for every image; the whole stem
    where several images share that name (`io.collection`).

    Yields an Outcome an image, in order. Of images whose labels would bear one name, the first
    that can be read is segmented and the others are errors: no label is overwritten by another
    image's. resume: keep labels made from the very same image, weights and settings (`resume`).
    budget: see `budget.allowance`; folds and mirroring are cut to what the time allows. finish:
    which cells labels hold, and how they are stored.
    An interrupt (KeyboardInterrupt) ends the network at once; what is past it is still written and
    yielded before the interrupt goes on to the caller. Raises WeightsError where weights prove
    damaged when they are first used.
    """
    decoder = decoder or model.bundle.decoder
    names = case_names(images)
    jobs = (_Job(_outcome(image, output, names[image])) for image in images)
    waiting: deque[Future[Outcome]] = deque()
    interrupt = None
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as finishing:
        settings = finishing.submit(
            _prepare_to_finish, model, tta=tta, decoder=decoder, budget=budget
        )
        run = _Run(model, tta, decoder, resume, budget, finish, settings)
        try:
            for job in _ahead(reading, partial(_read, run), jobs):
                _classify(run, job)
                waiting.append(finishing.submit(_finish, run, job))
                while waiting and (len(waiting) > AHEAD or waiting[0].done()):
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


def _outcome(image: Path, output: Path, name: str) -> Outcome:
    outcome = Outcome(image, output / f"{name}_label.tiff")
    if name != short_name(image):
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


def _prepare_to_finish(model: Model, *, tta: bool, decoder: str, budget: str | None) -> str:
    """Import what comes after the network while the first image is read; say what is set."""
    import tifffile  # noqa: F401

    import reunet.instances.voting  # noqa: F401

    return settings_line(model, tta=tta, decoder=decoder, budget=budget)


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
        elif job.image_hash and (shape := slide_shape(outcome.image)):
            job.shape, job.slide = shape, True
        else:
            picture = read_image(outcome.image)
            outcome.notes += picture.notes
            height, width, _ = picture.pixels.shape
            job.shape = height, width
            job.slide = height * width >= SLIDE_PIXELS  # no TIFF: read once more, in its turn
            job.picture = None if job.slide else picture
        if job.slide or job.picture is not None:
            job.pixel_size = run.finish.pixel_size_of(outcome.image)
            outcome.notes += job.pixel_size.notes if job.pixel_size else ()
        first = run.owners.setdefault(outcome.label, outcome.image)
        if first != outcome.image:
            cause = f"its label would overwrite that of {first.name}; rename one"
            raise ImageError(one_line(f"{outcome.image}: {cause}"))
    return job


def _classify(run: _Run, job: _Job) -> None:
    outcome = job.outcome
    if outcome.error:  # found after it was read
        job.picture = None
    elif job.slide:
        with job.step("slide"):
            model, tta, chosen = _what_fits(run, job, job.shape)
            outcome.cells, notes = segment_slide(
                outcome.image,
                outcome.label,
                model,
                tta=tta,
                decoder=run.decoder,
                write=partial(run.finish.write, origin=run.origin(job), size=job.pixel_size),
            )
            outcome.notes = (*notes, *outcome.notes, *chosen)
    elif job.picture is not None:
        with job.step("network"):
            picture = scaled(job.picture, run.model)
            height, width, _ = picture.image.shape
            model, tta, chosen = _what_fits(run, job, (height, width))
            outcome.notes += (*picture.notes, *chosen)
            outcome.diameter = picture.diameter
            job.seen = see(picture, model, tta=tta)
        job.picture = None


def _what_fits(run: _Run, job: _Job, seen: tuple[int, int]) -> tuple[Model, bool, tuple[str, ...]]:
    """Folds, mirroring and tiles within the budget of an image, and a note on what was chosen.

    seen: (h, w) of the image as the networks are shown it.
    """
    if run.budget is None:
        return run.model, run.tta, not_done(run.model, seen)
    # The first image's time began with the process, that of the others with their turn.
    spent = sum(job.outcome.seconds.values()) if run.paces else seconds_since_start()
    seconds = allowance(run.budget, job.shape) - spent
    model, tta, note = fit(run.model, seen, seconds, run.tta, run.paces)
    return model, tta, (note, *not_done(model, seen))


def _finish(run: _Run, job: _Job) -> Outcome:
    if job.seen is None:
        return job.outcome
    instances = agreement = None
    with job.step("decoding"):
        instances, agreement = find_and_tell(job.seen, run.decoder, run.model.bundle.encoding)
    job.seen = None
    if instances is not None:
        with job.step("writing"):
            origin = run.origin(job)
            kept = run.finish.write(job.outcome.label, instances, origin, job.pixel_size)
            job.outcome.cells = len(kept) - 1
            job.outcome.agreement = None if agreement is None else agreement[kept]
    return job.outcome


def _in_one_line(image: Path, error: Exception) -> str:
    if isinstance(error, ImageError):
        return str(error)
    cause, way_out = str(error)[:CAUSE_AT_MOST], "report it, with the image if you can"
    if isinstance(error, MemoryError | RuntimeError):  # a backend has no kind of its own for these
        cause, way_out = cause or "out of memory", "crop the image, or try --device cpu"
    else:
        cause = f"{type(error).__name__}: {cause}"
    return one_line(f"{image}: {' '.join(cause.split())}; {way_out}")
