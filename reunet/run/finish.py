"""From the cells that were found to a label file: filters, pixel size, layout."""

from pathlib import Path

import numpy as np

from reunet.errors import image_error
from reunet.filters import parse_min_area
from reunet.io.images import read_pixel_size
from reunet.io.labels import write_label
from reunet.io.pixel_size import PixelSize
from reunet.options import Options
from reunet.pipeline import asked_pixel_size, keep_wanted


def pixel_size_of(image: Path, options: Options) -> PixelSize | None:
    """The size of an image's pixels, where it is needed and known.

    Raises ImageError where there is no doing without it.
    """
    area = options.min_area
    in_micrometres = area is not None and parse_min_area(str(area)).micrometres
    if options.labels == "challenge" and not in_micrometres:
        return None
    size = asked_pixel_size(options) or read_pixel_size(image)
    if in_micrometres and size is None:
        wanted = parse_min_area(str(area))
        cause = f"its pixel size is unknown, and --min-area {wanted} needs it"
        raise image_error(image, cause, "give --pixel-size, or the area in px")
    return size


def write_cells(
    label: Path, cells: np.ndarray, origin: str, size: PixelSize | None, options: Options
) -> np.ndarray:
    """Write the cells that are wanted, numbered 1..N; `cells` are changed in place.

    cells: (H, W) integers, 0 background. size: from `pixel_size_of`. Returns their former numbers,
    0 first, (N + 1,). Raises ImageError as `write_label`.
    """
    kept = keep_wanted(cells, options, size)
    write_label(label, cells, origin, layout=options.labels, pixel_size=size)
    return kept


def which_cells(options: Options) -> str:
    """What decides which cells a label holds, in words; nothing where all are kept."""
    text = ""
    if options.min_area is not None:
        area, size = parse_min_area(str(options.min_area)), asked_pixel_size(options)
        text = f", min area {area}"
        if area.micrometres and size:
            text += f" at {size.x:g} × {size.y:g} µm"
    return text + ", no edge cells" * options.drop_edge_cells
