"""What has to be known of a whole image before its first tile can be predicted.

That is how its channels are normalised (paper §2.1), how large its cells are and hence how large
the networks are shown it, and the statistics that tiles are scaled by. A slide is read in bands for
it, an image that is held is looked at as a whole: the numbers are the same to the bit. Legend: H, W
pixels of the image, h, w pixels of what the networks are shown.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor

import numpy as np

from reunet.inference.normalise import (
    Scaling,
    Stretch,
    find_stretches,
    histogram,
    normalise_channels,
    scaling_from,
    scaling_of,
    stretch_channels,
)
from reunet.inference.scale import scale_bands, scale_image, scaled_shape, windows, zoom_for
from reunet.inference.size import PARTS, SizeNetwork, estimate_size, views_of
from reunet.inference.size import windows as windows_to_look_at
from reunet.inference.sliding_window import Read, Wanted
from reunet.inference.tiles import Window, bounding_box, content_box
from reunet.io.images import Picture
from reunet.io.region import Part
from reunet.io.source import Source
from reunet.model import Model
from reunet.options import Options
from reunet.scale_search import is_searched, search_scale

NO_SIZES = "these weights estimate no sizes of cells: seen at its own size (--diameter PX)"
FLAT_WITH_ALPHA = "its colours are the same everywhere, and its alpha channel is left out"


@dataclass(frozen=True)
class View:
    """An image as the networks are shown it: channels normalised, cells at the bundle's diameter.

    of: (H, W) of the image. shape: (h, w) that it is seen with. read: starts to read it, from top
    to bottom; gives rows, (bottom - top, w, 3) uint8. scaling: of its content. box: the content.
    diameter: px of the typical cell of the image; None where it is not known or does not matter.
    notes: what was assumed. pixels: (h, w, 3), where all of them are held. wanted: whether a window
    of the (h, w) is to be looked at (None: all are). part: of a larger image, which this is.
    """

    of: tuple[int, int]
    shape: tuple[int, int]
    read: Callable[[], Read]
    scaling: Scaling
    box: Window
    diameter: float | None = None
    notes: tuple[str, ...] = ()
    pixels: np.ndarray | None = None
    wanted: Wanted | None = None
    part: Part | None = None

    @property
    def plan(self) -> str:
        """All that a map of it depends on beside the file and the networks, in exact numbers."""
        numbers = [*self.scaling.mean.ravel().tolist(), *self.scaling.std.ravel().tolist()]
        return f"{self.of} {self.shape} {self.box} {numbers}"


def survey(source: Source, model: Model, options: Options) -> View:
    """Read an image for its statistics. Raises ImageError where it cannot be read."""
    if source.picture is None or source.is_slide:
        view = _survey_bands(source, model, options)
    else:
        view = _survey_held(source.picture, model, options)
    if source.part is None:
        return view
    return replace(view, wanted=_wanted(source.part, view.shape), part=source.part)


def _wanted(part: Part, shape: tuple[int, int]) -> Wanted:
    """Whether a window of what is seen, (h, w) px, is near the region that it is seen for."""
    down, across = (n / seen for n, seen in zip(part.shape, shape, strict=True))

    def wanted(rows: slice, columns: slice) -> bool:
        """Rounded to whole pixels of the image, outwards."""
        return part.is_near(
            slice(floor(rows.start * down), ceil(rows.stop * down)),
            slice(floor(columns.start * across), ceil(columns.stop * across)),
        )

    return wanted


def _survey_held(picture: Picture, model: Model, options: Options) -> View:
    image = normalise_channels(picture.pixels)
    of = image.shape[0], image.shape[1]
    shape, diameter, told = _shape_to_see(of, lambda: views_of(image), model, options)
    shown = scale_image(image, shape)
    box = content_box(shown.transpose(2, 0, 1))
    scaling, notes = scaling_of(shown, box), _distinct(picture.notes, told)

    def read(top: int, bottom: int) -> np.ndarray:
        """Rows top..bottom."""
        return shown[top:bottom]

    return View(of, shape, lambda: read, scaling, box, diameter, notes, shown)


def _survey_bands(source: Source, model: Model, options: Options) -> View:
    said: list[str] = []

    def pixels() -> Iterator[np.ndarray]:
        for picture in source.bands():
            said.extend(note for note in picture.notes if note not in said)
            yield picture.pixels

    stretches = find_stretches(pixels)

    def views() -> list[np.ndarray]:
        return _views(_stretched(source, stretches), source.shape)

    def bands() -> Iterator[np.ndarray]:
        return scale_bands(_stretched(source, stretches), source.shape, shape)

    shape, diameter, told = _shape_to_see(source.shape, views, model, options)
    counts = np.zeros((3, 256), np.int64)
    rows, columns = [], np.zeros(shape[1], bool)
    for band in bands():
        counts += histogram(band)
        rows.append(band.any(axis=(1, 2)))
        columns |= np.any(band.any(axis=0), axis=1)
    if source.has_alpha and np.count_nonzero(counts, axis=1).max() <= 1:
        told = (*told, FLAT_WITH_ALPHA)
    box = bounding_box(np.concatenate(rows), columns)
    inside = (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
    counts[:, 0] -= shape[0] * shape[1] - inside  # black, as all outside the box
    scaling, notes = scaling_from(counts), _distinct(said, told)
    return View(source.shape, shape, lambda: windows(bands()), scaling, box, diameter, notes)


def _distinct(*notes: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for some in notes for note in some))


def _stretched(source: Source, stretches: list[Stretch]) -> Iterator[np.ndarray]:
    return (stretch_channels(band.pixels, stretches) for band in source.bands())


def _shape_to_see(
    shape: tuple[int, int],
    views: Callable[[], list[np.ndarray]],
    model: Model,
    options: Options,
) -> tuple[tuple[int, int], float | None, tuple[str, ...]]:
    """(h, w) that brings the cells to the bundle's diameter, where it has one; the diameter of the
    image's cells; and a note on it. views: makes the parts that it is estimated from."""
    wanted = model.bundle.diameter
    if wanted is None:
        return shape, None, ()
    diameter = options.diameter
    if diameter is None:
        if not model.size_network:
            return shape, None, (NO_SIZES,)
        diameter = _diameter(views(), shape, model.size_network, model, options)
    zoom, note = zoom_for(diameter, wanted, shape)
    return scaled_shape(shape, zoom), diameter, (note,)


def _diameter(
    views: list[np.ndarray],
    shape: tuple[int, int],
    network: SizeNetwork,
    model: Model,
    options: Options,
) -> float | None:
    """Of the typical cell in px, by estimate and by what the networks find; None: none is seen."""
    estimate = estimate_size(views, network)
    if estimate and is_searched(model, options):
        return search_scale(views, estimate, shape, model, options)
    return estimate.diameter if estimate else None


def _views(bands: Iterator[np.ndarray], shape: tuple[int, int]) -> list[np.ndarray]:
    """The parts of a slide that its cells' size is estimated from: those of most contrast."""
    read, parts = windows(bands), []
    for rows, columns in windows_to_look_at(shape):
        bottom = min(rows.stop, shape[0])
        parts.append(read(rows.start, bottom)[:, columns].copy())
    parts.sort(key=lambda part: -float(part[::4, ::4].std()))
    return parts[:PARTS]
