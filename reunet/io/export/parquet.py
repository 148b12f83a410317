"""`cells.parquet`: what `cells.csv` holds, typed, for millions of cells (needs `pyarrow`)."""

import contextlib
from pathlib import Path
from typing import Any

from reunet.errors import image_error, reason
from reunet.io.atomic import replacing
from reunet.io.export.segmented import Segmented
from reunet.io.export.stream import WAY_OUT
from reunet.io.export.tables import CELL_COLUMNS, cell_columns

NAME = "cells.parquet"
WHOLE = ("plane", "id", "left_px", "top_px", "right_px", "bottom_px", "area_px", "on_frame")


class Parquet:
    """Writer of `cells.parquet`, a row group an image."""

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        self._path = folder / NAME
        self._schema = pa.schema([(name, _type(name)) for name in CELL_COLUMNS])
        self._open = contextlib.ExitStack()
        temporary = self._open.enter_context(replacing(self._path))
        self._file: Any = ParquetWriter(temporary, self._schema, compression="zstd")

    def add(self, found: Segmented) -> None:
        """Append the rows of one image. Raises ImageError."""
        import pyarrow as pa

        columns: dict[str, list[Any]] = {k: [*v] for k, v in cell_columns(found).items()}
        columns["image"] = [str(n).encode("utf-8", "backslashreplace") for n in columns["image"]]
        try:
            self._file.write_table(pa.table(columns, self._schema))
        except OSError as error:
            raise image_error(self._path, reason(error), WAY_OUT) from error

    def close(self) -> None:
        """End the file and give it its name. Raises ImageError."""
        try:
            self._file.close()
        except OSError as error:
            failure = image_error(self._path, reason(error), WAY_OUT)
            self._open.__exit__(type(failure), failure, None)  # nothing takes the file's name
            raise failure from error
        self._open.close()


def _type(name: str) -> Any:
    import pyarrow as pa

    if name == "image":
        return pa.string()
    return pa.int64() if name in WHOLE else pa.float64()
