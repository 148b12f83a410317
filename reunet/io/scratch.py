"""Arrays of a whole image: in memory up to a size, above it on disk beside the label."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from reunet.errors import no_room

IN_MEMORY = 2**29  # bytes, of a class map or a label map; larger ones lie on disk
LABEL_SHARE = 1 / 8  # bytes a pixel that a compressed label image may take: 0.02 to 0.1 is usual


def zeros(shape: tuple[int, ...], dtype: Any, label: Path | None = None) -> np.ndarray:
    """An array of zeros: up to IN_MEMORY bytes in memory, above in a nameless file by the label.

    label: (None: in the system's folder for temporary files). The file is gone with the array.
    Raises NoRoom where the disk has none for it.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.zeros(shape, dtype)
    with _nameless_file(label or _temporary(), size) as file:
        return np.memmap(file, dtype, "r+", shape=shape)


def check_room(label: Path, size: int) -> None:
    """Raise NoRoom where the disk has no room for so many bytes beside the label."""
    import shutil

    with _writing(label):
        free = shutil.disk_usage(label.parent).free
    if free < size:
        cause = f"needs {size / 1e6:,.0f} MB of disk space beside it, {free / 1e6:,.0f} MB are free"
        raise no_room(label, cause)


def _temporary() -> Path:
    import tempfile

    return Path(tempfile.gettempdir()) / "labels"


def _nameless_file(label: Path, size: int) -> IO[bytes]:
    """It is gone when it is closed, and when the process is killed."""
    import tempfile  # not needed for small images, whose start-up counts

    check_room(label, size)
    with _writing(label), contextlib.ExitStack() as on_error:
        file = on_error.enter_context(tempfile.TemporaryFile(dir=label.parent))
        # Without it, a disk that fills up later would end the process at a write to the map.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        on_error.pop_all()
        return file


@contextlib.contextmanager
def _writing(label: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise no_room(label, (error.strerror or str(error)).lower()) from error
