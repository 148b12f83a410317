"""The table of outputs beside labels: one writer each.

A new output is a module with a writer, and a line in WRITERS. A writer is made with the folder to
write to, is given one image after the other, and ends with `close`.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from reunet.errors import ImageError, image_error, reason
from reunet.io.export.coco import Coco
from reunet.io.export.geojson import GeoJson
from reunet.io.export.html import Html
from reunet.io.export.overlay import Overlays
from reunet.io.export.parquet import Parquet
from reunet.io.export.roi import Rois
from reunet.io.export.segmented import Segmented
from reunet.io.export.tables import Tables
from reunet.io.export.zarrs import Zarrs


class Writer(Protocol):
    """What makes one kind of output. It raises ImageError where a file cannot be written."""

    def add(self, found: Segmented) -> None:
        """Write or take up one image. Where that fails, what was written before stays valid."""

    def close(self) -> None:
        """Finish files that tell of several images."""


WRITERS: Mapping[str, Callable[[Path], Writer]] = {
    "overlays": Overlays,
    "table": Tables,
    "geojson": GeoJson,
    "roi": Rois,
    "coco": Coco,
    "parquet": Parquet,
    "zarr": Zarrs,
    "html": Html,  # last: it links to the overlays
}


@contextlib.contextmanager
def writing(
    makers: Mapping[str, Callable[[Path], Writer]], folder: Path
) -> Iterator[Callable[[Segmented], tuple[str, ...]]]:
    """Writers at work: a function that gives them an image and returns what could not be written.

    makers: of WRITERS, by name. What fails for one writer or one image, or when files are finished,
    touches no other; finishing raises ImageError for the first such file only after all are tried.
    Where an exception ends the work (Ctrl-C), files on several images hold those done so far.
    """
    writers = {name: make(folder) for name, make in makers.items()}
    try:
        yield lambda found: tuple(_failures(writers.values(), found))
    finally:
        failed: list[ImageError] = []
        for writer in writers.values():
            try:
                writer.close()
            except ImageError as error:
                failed.append(error)
        if failed:
            raise failed[0]


def _failures(writers: Iterable[Writer], found: Segmented) -> Iterator[str]:
    """One line for each writer that fails on an image."""
    for writer in writers:
        try:
            writer.add(found)
        except ImageError as error:
            yield str(error)
        except Exception as error:  # a mistake of ours, or no memory: the other writers go on
            yield str(unexpected(found.label, error))


def unexpected(label: Path, error: Exception) -> ImageError:
    """What is said of an error that nobody foresaw."""
    cause = "out of memory" if isinstance(error, MemoryError) else reason(error)
    return image_error(label, f"is written, but an output of it failed: {cause}", "report it")
