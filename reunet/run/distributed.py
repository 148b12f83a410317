"""One run on many machines: Dask hands out images, every worker segments them as `batch` does.

Files are on a folder that all machines share, under the same path. A task is an image (or those few
whose labels would bear one name); Dask gives it to another worker where one dies. Where there are
fewer images than workers, these share every slide (`tiles`). A worker loads the model with its
first task. Nothing of Dask is imported unless this module is used (extra `dask`).
"""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reunet.errors import ImageError, image_error
from reunet.io.atomic import locked
from reunet.io.source import slide_shape
from reunet.model import Model
from reunet.options import Options
from reunet.run.batch import Outcome, segment_files
from reunet.run.tiles import on_workers
from reunet.run.workers import Weights, check_workers, model_here, weights_of

if TYPE_CHECKING:
    from distributed import Client, Future

AHEAD = 1000  # tasks that are handed out before the first of them is done
LOCK = ".reunet-run"  # in the folder of the labels, while a run writes there


def segment_on_workers(
    client: "Client",
    labels: Mapping[Path, Path],
    output: Path,
    model: Model,
    options: Options,
    *,
    device: str = "auto",
    resume: bool = False,
    tell: Callable[[Path, int, int], None] | None = None,
) -> Generator[Outcome]:
    """`batch.segment_files` by the workers of a cluster: the same labels, to the bit.

    labels: by image, where its label goes. model: tells which weights; the client's own computes
    nothing but the size of the cells of slides that workers share. device: of the workers. tell: of
    the tiles of such slides. Yields an Outcome an image, in order. An image that costs one worker
    after the other its life is an error. Raises CannotDistribute where a worker sees other weights,
    another version or other folders, and ImageError where another run writes into `output`.
    """
    weights = weights_of(model, device)
    with _held(output):
        check_workers(client, weights, [*labels], output)
        shared = _to_share([*labels], len(client.nthreads()))
        elsewhere = _for_other_folders(options)
        waiting: deque[tuple[list[Path], Future | None]] = deque()

        def outcomes(group: list[Path], task: "Future | None") -> Iterator[Outcome]:
            """Those of a task; of a slide that is shared, it is done now."""
            if task is not None:
                return _outcomes(group, task, labels)
            spread, of_these = on_workers(model, client, device), {i: labels[i] for i in group}
            return segment_files(
                group, output, spread, options, resume=resume, tell=tell, labels=of_these
            )

        for group in _groups(labels):
            task = None
            if group[0] not in shared:
                told = {image.absolute(): labels[image].absolute() for image in group}
                task = client.submit(
                    segment_here, told, output.absolute(), weights, elsewhere, resume, pure=False
                )
            waiting.append((group, task))
            if len(waiting) >= AHEAD:
                yield from outcomes(*waiting.popleft())
        while waiting:
            yield from outcomes(*waiting.popleft())


def _to_share(images: Sequence[Path], workers: int) -> set[Path]:
    """The slides whose tiles are handed out, because there are not images enough for all."""
    if len(images) >= workers:
        return set()
    slides = set()
    for image in images:
        with contextlib.suppress(ImageError):  # whoever segments it will tell
            if slide_shape(image):
                slides.add(image)
    return slides


def _for_other_folders(options: Options) -> Options:
    """The same options where another folder is the current one."""
    region = options.region
    if isinstance(region, str) and Path(region).is_file():
        return replace(options, region=str(Path(region).absolute()))
    return options


def segment_here(
    labels: Mapping[Path, Path], output: Path, weights: Weights, options: Options, resume: bool
) -> list[Outcome]:
    """What a worker does with a task."""
    model = model_here(weights)
    for label in labels.values():
        label.parent.mkdir(parents=True, exist_ok=True)
    return [*segment_files([*labels], output, model, options, resume=resume, labels=labels)]


@contextlib.contextmanager
def _held(output: Path) -> Iterator[None]:
    """Keep other distributed runs out of a folder, where its file system has locks."""
    with locked(output / LOCK) as mine:
        if not mine:
            raise image_error(output, "another run writes there", "wait for it, or name another")
        yield


def _groups(labels: Mapping[Path, Path]) -> Iterator[list[Path]]:
    """Images, one by one, but together where their labels would bear one name."""
    by_label: dict[Path, list[Path]] = {}
    for image, label in labels.items():
        by_label.setdefault(label, []).append(image)
    yield from by_label.values()


def _outcomes(group: list[Path], task: "Future", labels: Mapping[Path, Path]) -> Iterator[Outcome]:
    """The outcomes of a task under the names that the client knows."""
    from distributed import KilledWorker

    try:
        done: Any = task.result()
    except KilledWorker:
        for image in group:
            cause = "the worker died with it, and so did others that tried"
            error = image_error(image, cause, "give workers more memory, or crop the image")
            yield Outcome(image, labels[image], error=str(error))
        return
    finally:
        task.release()
    for image, outcome in zip(group, done, strict=True):
        outcome.image, outcome.label = image, labels[image]
        yield outcome
