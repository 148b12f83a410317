"""Cells as ImageJ and Fiji ROIs: a zip for the ROI manager, a ROI a cell (needs `roifile`)."""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reunet.io.atomic import replacing
from reunet.io.export.contours import Polygon, polygons
from reunet.io.export.segmented import Segmented

if TYPE_CHECKING:
    from roifile import ImagejRoi

MOVE, LINE, CLOSE = 0.0, 1.0, 4.0  # of a path: segments of java.awt.geom.PathIterator


class Rois:
    """Writer of `NAME_rois.zip`, a file an image."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, found: Segmented) -> None:
        """Write the file of one image, wholly or not at all. Raises ImageError."""
        digits = len(str(int(found.labels.max(initial=0))))
        path = found.beside(self._folder, "_rois.zip")
        with (
            replacing(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file,
        ):
            for cell, parts in polygons(found.rings):
                name = f"{cell:0{digits}d}"
                shape = roi(name, parts)
                if found.plane is not None:
                    shape.position = found.plane + 1  # ImageJ counts from 1
                file.writestr(f"{name}.roi", shape.tobytes())

    def close(self) -> None:
        """Every file is closed already."""


def roi(name: str, parts: list[Polygon]) -> "ImagejRoi":
    """A traced ROI, or a composite one where a cell has holes or parts."""
    from roifile import ROI_TYPE, ImagejRoi

    if len(parts) == len(parts[0]) == 1:
        traced = ImagejRoi.frompoints(parts[0][0], name=name)
        traced.roitype = ROI_TYPE.TRACED
        return traced
    path = np.concatenate([_path(ring) for part in parts for ring in part])
    (left, top), (right, bottom) = (
        f([f(part[0], axis=0) for part in parts], axis=0) for f in (np.min, np.max)
    )
    return ImagejRoi(
        roitype=ROI_TYPE.RECT,
        name=name,
        left=int(left),
        top=int(top),
        right=int(right),
        bottom=int(bottom),
        shape_roi_size=len(path),
        multi_coordinates=path.astype(np.float32),
    )


def _path(ring: np.ndarray) -> np.ndarray:
    kinds = np.full((len(ring), 1), LINE)
    kinds[0] = MOVE
    return np.append(np.hstack([kinds, ring]).ravel(), CLOSE)
