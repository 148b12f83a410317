"""What is written: label images, their names, and files that are there wholly or not at all.

Legend: H, W pixels. Nothing slow is imported at the top.
"""

import contextlib
import os
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from reunet.images import image_error, reason

STRIP_BYTES = 2**18  # of a label TIFF, before compression


def label_path(image: Path, folder: Path) -> Path:
    """Where the label of an image goes: its name up to the first dot, as the organisers cut it."""
    return folder / f"{image.name.split('.')[0]}_label.tiff"


def write_label(path: Path, instances: np.ndarray, origin: str = "") -> None:
    """Write an instance label image, wholly or not at all.

    instances: (H, W), integers from 0 (background). origin: what it was made from (`resume`).
    Stored as zlib TIFF in the first of int16, uint16 and int32 that holds the highest label: the
    official metric copies large predictions into the dtype of its truth, int16. Raises ImageError
    if the file cannot be written and ValueError for any other array.
    """
    import tifffile

    if instances.ndim != 2 or instances.size == 0 or instances.dtype.kind not in "biu":
        raise ValueError(f"labels must be (H, W) integers, not {instances.shape} {instances.dtype}")
    dtype = np.dtype(_label_dtype(int(instances.min()), int(instances.max())))
    height, width = instances.shape
    rows = min(height, max(1, STRIP_BYTES // (width * dtype.itemsize)))
    with replacing(path) as temporary:
        tifffile.imwrite(
            temporary,
            # Strip by strip: a slide's labels may lie on disk, a copy would not fit the memory.
            (
                zlib.compress(instances[top : top + rows].astype(dtype).tobytes())
                for top in range(0, height, rows)
            ),
            shape=instances.shape,
            dtype=dtype,
            rowsperstrip=rows,
            photometric="minisblack",
            compression="zlib",
            metadata={"origin": origin} if origin else {},
        )


def write_values(path: Path, values: np.ndarray) -> None:
    """Write (H, W) real values as a float32 zlib TIFF, wholly or not at all.

    Raises ImageError if the file cannot be written.
    """
    import tifffile

    stored = values.astype(np.float32, copy=False)
    with replacing(path) as temporary:
        tifffile.imwrite(temporary, stored, photometric="minisblack", compression="zlib")


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as a PNG, wholly or not at all.

    Raises ImageError if the file cannot be written.
    """
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; it takes the place of `path` once all is written.

    Raises ImageError where the file cannot be written; nothing is left behind then.
    """
    temporary = None
    try:
        # In the same folder, because a rename is atomic only within one file system.
        temporary, file = _new_temporary(path.parent)
        with file:
            yield temporary
            temporary.replace(path)
    except OSError as error:
        raise image_error(path, reason(error), "choose a folder with space to write in") from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):  # it is gone after the rename
                temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed runs: those that no process holds a lock on.

    Where a file system has no locks, none is removed.
    """
    for path in folder.glob(".*-" + 8 * "[0-9a-f]" + ".tmp"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if _lock(file, wait=False):
                path.unlink()


def _new_temporary(folder: Path) -> tuple[Path, BinaryIO]:
    """A hidden file, locked until it is closed or the process dies (where locks exist)."""
    while True:
        temporary = folder / f".{os.getpid()}-{secrets.token_hex(4)}.tmp"
        file = temporary.open("xb")
        if not _lock(file, wait=True):
            file.close()  # Windows renames no open file
            return temporary, file
        if temporary.exists():  # or else another run took it for a leftover, before the lock
            return temporary, file
        file.close()


def _lock(file: BinaryIO, *, wait: bool) -> bool:
    """Lock a file against other processes, on this and other machines. Returns whether it is."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; a file system without locks; somebody else's lock
        return False
    return True


def _label_dtype(lowest: int, highest: int) -> type[np.integer]:
    for dtype in (np.int16, np.uint16, np.int32):
        if lowest >= 0 and highest <= np.iinfo(dtype).max:
            return dtype
    raise ValueError(f"labels must lie in 0..{np.iinfo(np.int32).max}, not {lowest}..{highest}")
