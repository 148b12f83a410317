"""From the cells that were found to a label file: filters, pixel size, layout."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reunet.filters import MinArea, filter_cells
from reunet.io.images import image_error
from reunet.io.labels import write_label
from reunet.io.pixel_size import PixelSize, read_pixel_size


@dataclass(frozen=True)
class Finish:
    """What somebody chose about labels, beyond how cells are found."""

    min_area: MinArea | None = None  # smaller cells are dropped
    drop_edge_cells: bool = False  # drop cells that touch the image's edge
    layout: str = "viewer"  # of `LABEL_LAYOUTS`
    pixel_size: PixelSize | None = None  # overrides what files say

    def __str__(self) -> str:
        """What decides which cells a label holds; nothing where all are kept."""
        text = f", min area {self.min_area}" if self.min_area else ""
        if self.min_area and self.min_area.micrometres and self.pixel_size:
            text += f" at {self.pixel_size.x:g} × {self.pixel_size.y:g} µm"
        return text + ", no edge cells" * self.drop_edge_cells

    def pixel_size_of(self, image: Path) -> PixelSize | None:
        """The size of an image's pixels, where it is needed and known.

        Raises ImageError where there is no doing without it.
        """
        in_micrometres = self.min_area is not None and self.min_area.micrometres
        if self.layout == "challenge" and not in_micrometres:
            return None
        size = self.pixel_size or read_pixel_size(image)
        if in_micrometres and size is None:
            cause = f"its pixel size is unknown, and --min-area {self.min_area} needs it"
            raise image_error(image, cause, "give --pixel-size, or the area in px")
        return size

    def write(
        self, label: Path, instances: np.ndarray, origin: str, size: PixelSize | None
    ) -> np.ndarray:
        """Write the cells that are wanted, numbered 1..N; `instances` are changed in place.

        instances: (H, W) integers, 0 background. size: from `pixel_size_of`. Returns their former
        numbers, 0 first, (N + 1,). Raises ImageError as `write_label`.
        """
        kept = np.arange(1, int(instances.max()) + 1)
        if self.min_area or self.drop_edge_cells:
            pixel_area = size.area if size else None
            least = self.min_area.in_pixels(pixel_area) if self.min_area else 0
            kept = filter_cells(instances, least, self.drop_edge_cells)
        write_label(label, instances, origin, layout=self.layout, pixel_size=size)
        return np.append(0, kept)
