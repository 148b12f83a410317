"""A folder of images from Python: what the command does, image by image."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reunet.errors import WeightsError, image_error
from reunet.io.collection import own_labels
from reunet.io.images import list_images
from reunet.model import Model, load_model
from reunet.options import Options
from reunet.pipeline import Result, predict
from reunet.run.batch import Outcome, in_one_line, segment_files


@dataclass(frozen=True)
class Progress:
    """How far a run is. path: the image; number: its place, from 1 to images; tiles of it."""

    path: Path
    number: int
    images: int
    tile: int
    tiles: int


@dataclass(frozen=True)
class Segmented:
    """One image of a folder, when it is done.

    path: of the image. cells: how many were found. error: one line, where it could not be done.
    notes: what was assumed. label: the file that was written. result: what was found, where no file
    was asked for.
    """

    path: Path
    cells: int = 0
    error: str | None = None
    notes: tuple[str, ...] = ()
    label: Path | None = None
    result: Result | None = None


def segment_folder(
    images: str | Path | Iterable[str | Path],
    output: str | Path | None = None,
    model: Model | None = None,
    options: Options | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    resume: bool = False,
    **choices: Any,
) -> Generator[Segmented]:
    """Segment a folder of images, or some files, one after the other.

    images: a folder, or paths of files. output: folder of the labels, `NAME_label.tiff`, made if
    need be (None: nothing is written, each item holds its result). model: None loads the default
    one. options, choices: see `Options`. progress: called with a Progress whenever a tile is done,
    from the thread that iterates. resume: keep labels made from the same image, weights and
    settings; needs output.
    Yields a Segmented an image, in order; what goes wrong with one is its `error`. Raises
    ImageError at the first item where the folder cannot be read or written, or holds no images, and
    WeightsError where weights prove damaged when they are first used.
    """
    files = _files(images)
    chosen = replace(options or Options(), **choices)
    model = model or load_model()
    if output is None:
        yield from _unwritten(files, model, chosen, progress)
        return
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = f"cannot be created ({(error.strerror or str(error)).lower()})"
        raise image_error(folder, cause, "name another folder") from error
    tell = _telling(files, progress)
    for outcome in segment_files(files, folder, model, chosen, resume=resume, tell=tell):
        yield _segmented(outcome)


def _files(images: str | Path | Iterable[str | Path]) -> list[Path]:
    if not isinstance(images, str | Path):
        return [Path(image) for image in images]
    folder = Path(images)
    if folder.is_file():
        return [folder]
    found = list_images(folder)
    own = own_labels(found)
    files = [image for image in found if image not in own]
    if not files:
        raise image_error(folder, "holds no images", "name a folder that holds images")
    return files


def _telling(
    files: list[Path], progress: Callable[[Progress], None] | None
) -> Callable[[Path, int, int], None] | None:
    """`progress`, as the steps of a run call it."""
    if progress is None:
        return None
    numbers = {path: number for number, path in enumerate(files, 1)}

    def tell(path: Path, tile: int, tiles: int) -> None:
        progress(Progress(path, numbers[path], len(files), tile, tiles))

    return tell


def _segmented(outcome: Outcome) -> Segmented:
    label = None if outcome.error else outcome.label
    return Segmented(outcome.image, outcome.cells, outcome.error, outcome.notes, label)


def _unwritten(
    files: list[Path],
    model: Model,
    options: Options,
    progress: Callable[[Progress], None] | None,
) -> Generator[Segmented]:
    tell = _telling(files, progress)
    for path in files:

        def of_this(tile: int, tiles: int, path: Path = path) -> None:
            if tell:
                tell(path, tile, tiles)

        try:
            result = predict(path, model, options, progress=of_this if tell else None)
        except WeightsError:
            raise  # no image can do without them
        except Exception as error:
            yield Segmented(path, error=in_one_line(path, error))
        else:
            cells = int(result.labels.max(initial=0))
            yield Segmented(path, cells, notes=result.notes, result=result)
