"""One image and its cells: what every writer of outputs is given."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from reunet.io.export.contours import Rings, trace
from reunet.io.export.measure import Cells, Rows, measure
from reunet.io.pixel_size import PixelSize


@dataclass(frozen=True)
class Segmented:
    """An image, its label image and what is known of both. Legend: H, W pixels; N cells.

    What several writers need is made once, when it is first asked for.
    """

    image: Path
    label: Path
    labels: np.ndarray  # (H, W) integers, 0 background
    open_rows: Callable[[], Rows] | None = None  # the image from its first row on, (h, W, 3)
    pixel_size: PixelSize | None = None
    notes: tuple[str, ...] = ()
    seconds: float | None = None  # that the image took, where it was segmented in this run
    origin: str = ""  # what the label file says it was made from, without the image
    agreement: np.ndarray | None = None  # (N + 1,) by id, 0 to 1, where folds voted in this run
    place: Path = Path()  # sub-folder that it lies in, below the folder of the outputs
    plane: int | None = None  # of a stack whose labels are a stack too
    planes: int = 1  # how many that has

    @property
    def stem(self) -> str:
        """What names of files beside the label begin with: the image's up to the first dot, and the
        plane of a stack."""
        named = self.label.stem.removesuffix("_label")
        name = named if named != self.label.stem else self.image.name.split(".")[0]
        if self.plane is None:
            return name
        return f"{name}_plane{self.plane:0{len(str(self.planes - 1))}d}"

    @property
    def name(self) -> str:
        """What files on several images call this one."""
        return (self.place / self.image.name).as_posix()

    def beside(self, folder: Path, ending: str) -> Path:
        """A file about this image alone, below the folder of the outputs."""
        return folder / self.place / f"{self.stem}{ending}"

    @cached_property
    def cells(self) -> Cells:
        """The measured cells."""
        return measure(self.labels, self.open_rows() if self.open_rows else None)

    @cached_property
    def rings(self) -> Rings:
        """The contours of the cells."""
        return trace(self.labels)
