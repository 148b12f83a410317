"""Labels as OME-Zarr, one a label image: `NAME_label.zarr` (extra `zarr`)."""

import contextlib
import secrets
import shutil
from pathlib import Path

from reunet.errors import image_error, reason
from reunet.io.export.segmented import Segmented


class Zarrs:
    """The label image as a folder of chunks, there wholly or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, found: Segmented) -> None:
        """Write one image's. Raises ImageError."""
        from reunet.io.omezarr import write_labels

        path = found.beside(self.folder, "_label.zarr")
        temporary = path.with_name(f".{secrets.token_hex(8)}") / path.name
        try:
            temporary.parent.mkdir()
            write_labels(temporary, found.labels, found.origin, found.pixel_size)
            if path.exists():  # a folder cannot take the place of another in one step
                path.rename(temporary.with_name("before"))
            temporary.rename(path)
        except OSError as error:
            way_out = "choose a folder with space to write in"
            raise image_error(path, reason(error), way_out) from error
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(temporary.parent)

    def close(self) -> None:
        """Every folder is finished already."""
