"""Files enter here only: microscope images, label images, their names; `labels` writes.

Legend: H, W pixels. The contents of a file, not its ending, decide how it is decoded. Nothing
slow is imported at the top: a small PNG must not pay for the TIFF reader.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reunet.errors import ImageError, NotThere, TiffError, image_error, reason
from reunet.io.limits import BMP, JPEG, PNG, TIFF, check_size, read_head
from reunet.io.selection import EVERYTHING, Selection, pick_channels

if TYPE_CHECKING:
    from reunet.io.pixel_size import PixelSize
    from reunet.io.planes import Planes

NO_DATA = 1e30  # floats from here up to the end of float32 mark missing pixels
NO_DATA_END = float(np.finfo(np.float32).max)

SLIDES = (".svs", ".ndpi", ".scn", ".bif")  # Aperio, Hamamatsu, Leica and Ventana write TIFFs


class Format(NamedTuple):
    """A kind of file. To read another, add a line to FORMATS and a module.

    endings: in lower case. heads: what such a file begins with; where there are some, they decide
    and the ending does not. reader: imports the module, with `open_plane`, as `planes.OpenPlane`,
    and `pixel_size`; none for what `pillow` reads. parts: it can be read in bands of rows, so
    large ones are not held. fits: says of a file with such a head whether it is one, where that
    takes a second look.
    """

    name: str
    endings: tuple[str, ...]
    heads: tuple[bytes, ...] = ()
    reader: Callable[[], Any] | None = None
    parts: bool = False
    fits: Callable[[Path], bool] = lambda _: True


def _tiff() -> Any:
    return import_module("reunet.io.tiff")


def _slides() -> Any:
    return import_module("reunet.io.slides")


def _is_for_openslide(path: Path) -> bool:
    return bool(_slides().is_for_openslide(path))


def _omezarr() -> Any:
    return import_module("reunet.io.omezarr")


def _vendors() -> Any:
    return import_module("reunet.io.vendors")


FORMATS = (
    Format("PNG", (".png",), (PNG,)),
    Format("JPEG", (".jpg", ".jpeg"), (JPEG,)),
    Format("BMP", (".bmp",), (BMP,)),
    Format("slide", (), TIFF, _slides, parts=True, fits=_is_for_openslide),
    Format("TIFF", (".tif", ".tiff", *SLIDES), TIFF, _tiff, parts=True),
    Format("OME-Zarr", (".zarr",), reader=_omezarr, parts=True),
    Format("microscope", (".czi", ".nd2", ".lif"), reader=_vendors),
)
ENDINGS = tuple(ending for form in FORMATS for ending in form.endings)


@dataclass(frozen=True)
class Picture:
    """An image as the file holds it."""

    pixels: np.ndarray  # (H, W, 3), the file's own real dtype (bilevel: uint8 0 and 255), finite
    notes: tuple[str, ...]  # what was assumed about channels and planes, for the log


def read_image(path: Path, selection: Selection = EVERYTHING) -> Picture:
    """Read one image as three channels. selection: which of its channels and planes.

    Grey is repeated, alpha is dropped, a palette becomes RGB, a missing third channel is empty
    and of more than three the first three count. Of a stack the first plane counts, of a pyramid
    the full size. Integers stored with white as zero are inverted, as a viewer shows them. EXIF
    orientation is not applied: the organisers' programs measure H and W of the stored array.

    Raises ImageError for anything that is not a whole, real-valued image of at most MAX_PIXELS
    pixels (the environment variable REUNET_MAX_PIXELS raises the limit), whatever its bytes are.
    """
    return as_picture(*_decode(path, as_shown=True, selection=selection))


def as_picture(pixels: np.ndarray, notes: Sequence[str] = ()) -> Picture:
    """Three finite channels of an array (H, W) or (H, W, C), by the rules of `read_image`.

    Raises ValueError for an array of another shape, without pixels, or of no real dtype.
    """
    if pixels.ndim not in (2, 3) or pixels.size == 0 or pixels.dtype.kind not in "buif":
        raise ValueError(
            f"an image is (H, W) or (H, W, C) of reals, not {pixels.shape} {pixels.dtype}"
        )
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "f":
        pixels, beyond = _within_reason(pixels)
        notes = [*notes, *beyond]
    pixels, channel_notes = _three_channels(pixels)
    return Picture(pixels, (*notes, *channel_notes))


def _within_reason(pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Floats with those set to 0 that no camera measures: not finite, or a mark for "no data".

    Such marks (-3.4e38, 9.97e36 and the like) lie at the ends of what floats hold; beside them the
    percentiles would see no contrast in all the rest.
    """
    finite = np.isfinite(pixels)
    notes = [] if finite.all() else ["values that are not finite were set to 0"]
    marks = np.zeros(pixels.shape, bool)
    if pixels.dtype.itemsize > 2:  # half precision reaches to 65504
        far = np.abs(pixels)
        greatest = np.finfo(pixels.dtype).max
        marks = finite & ((far >= NO_DATA) & (far <= NO_DATA_END) | (far == greatest))
    if marks.any():
        values, counts = np.unique(pixels[marks], return_counts=True)
        most = f"{values[counts.argmax()]:.4g}"
        notes.append(f"values beyond {NO_DATA:g}, such as {most}, mark no data and were set to 0")
    bad = ~finite | marks
    return (np.where(bad, pixels.dtype.type(0), pixels) if bad.any() else pixels), notes


def read_label(path: Path, plane: int | None = None) -> np.ndarray:
    """Read an instance label image (TIFF or PNG). plane: of one that is a stack.

    Returns (H, W) in the file's integer dtype (int64 for bilevel and float files). A palette
    counts by its indices, and floats are accepted while they are whole numbers. Raises ImageError
    for colour images, stacks, fractions and negative values.
    """
    stored, notes = _decode(path, as_shown=False, selection=Selection(plane=plane))
    way_out = "labels are one plane of whole numbers, 0 for background"
    if stored.ndim != 2 or notes:
        raise image_error(path, notes[0] if notes else f"has shape {stored.shape}", way_out)
    if stored.dtype.kind == "f" and not (np.isfinite(stored) & (stored == np.floor(stored))).all():
        raise image_error(path, f"holds fractions ({stored.dtype})", way_out)
    labels = stored if stored.dtype.kind in "iu" else stored.astype(np.int64)
    if labels.min() < 0:
        raise image_error(path, f"holds negative values ({stored.dtype})", way_out)
    return labels


def list_images(folder: Path) -> list[Path]:
    """The images directly inside a folder, by name; hidden and unsupported files are passed over.

    Raises ImageError if the folder cannot be listed.
    """
    try:
        files = [file for file in folder.iterdir() if _is_image(file)]
    except OSError as error:
        raise image_error(folder, reason(error), "name a folder that holds images") from error
    visible = (file for file in files if not file.name.startswith("."))
    return sorted(visible)


def _is_image(path: Path) -> bool:
    """By the ending; an OME-Zarr is a folder, all others are none."""
    ending = path.suffix.lower()
    return ending in ENDINGS and (ending == ".zarr") == _is_folder(path)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link that may not be followed, for one: reading it will tell
        return False


def _decode(
    path: Path, as_shown: bool, selection: Selection = EVERYTHING
) -> tuple[np.ndarray, list[str]]:
    """One plane, (H, W) or (H, W, channels) without alpha, and what was assumed on the way.

    as_shown: translate palettes and white-is-zero; otherwise the numbers stay as stored.
    """
    with decoding(path):
        form = format_of(path)
        if form.reader is None:
            from reunet.io.pillow import read_plain

            pixels, notes = read_plain(path, as_shown)
            pixels = native(path, pixels)
            return _without_planes(pixels, selection), notes
        if form.name == "TIFF" and not selection:
            pixels, notes = _read_tiff(path, as_shown)
            return native(path, pixels), notes
        with open_planes(path, as_shown) as planes:
            from reunet.io.planes import selected_bands

            notes, bands = selected_bands(planes, selection)
            return native(path, np.concatenate([*bands])), notes


def _without_planes(pixels: np.ndarray, selection: Selection) -> np.ndarray:
    """What is selected of a picture that is no stack."""
    from reunet.io.selection import places_of

    places_of({}, (), selection.plane)
    names = ("red", "green", "blue") if pixels.ndim == 3 else ()
    return pick_channels(pixels, selection.channels, names)


def _read_tiff(path: Path, as_shown: bool) -> tuple[np.ndarray, list[str]]:
    from reunet.io.tiff import read_tiff

    return read_tiff(path, as_shown, partial(check_size, path))


def format_of(path: Path) -> Format:
    """The kind of a file: its contents decide, or its ending where contents have no mark.

    Raises ImageError for an ending or contents that nothing here reads, or OSError.
    """
    ending = path.suffix.lower()
    named = next((form for form in FORMATS if ending in form.endings), None)
    if named is None:
        raise image_error(path, "unsupported ending", f"convert it to one of {' '.join(ENDINGS)}")
    if not named.heads:
        return named
    head = read_head(path)
    for form in FORMATS:
        if form.heads and head.startswith(form.heads) and form.fits(path):
            return form
    raise image_error(path, "not a PNG, JPEG, BMP or TIFF image", "convert it or leave it out")


@contextlib.contextmanager
def open_planes(path: Path, as_shown: bool = True) -> "Iterator[Planes]":
    """A file of a format that has planes or can be read in bands, for as long as it is open.

    as_shown: translate palettes and white-is-zero. Raises ImageError, in the block, too.
    """
    with decoding(path):
        reader = format_of(path).reader
        assert reader is not None, "pillow's files have no planes"
        with reader().open_plane(path, as_shown, partial(check_size, path)) as planes:
            yield planes


def planes_of(path: Path) -> dict[str, int]:
    """Axes of a file beside rows, columns and channels, with their lengths, 1 included; {} for a
    picture that is no stack. Raises ImageError as `read_image`."""
    with decoding(path):
        if format_of(path).reader is None:
            return {}
    with open_planes(path) as planes:
        return dict(planes.stacked)


def read_pixel_size(path: Path) -> "PixelSize | None":
    """Pixel size of an image or label file that can be read; None where the file does not tell.

    A size of 0, or one that no microscope has, counts as not told. PNG, JPEG and BMP tell the
    density of a print if anything: they are not asked. Raises nothing: whoever wants the pixels
    finds out what is wrong with the file.
    """
    with contextlib.suppress(Exception):
        if reader := format_of(path).reader:
            size: PixelSize | None = reader().pixel_size(path)
            return size
    return None


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes an ImageError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except (TiffError, NotThere) as error:
        raise image_error(path, error.cause, error.way_out) from error
    except Exception as error:  # decoders fail on bad bytes with whatever they please
        raise image_error(path, reason(error), "check or re-export the file") from error


def native(path: Path, pixels: np.ndarray) -> np.ndarray:
    """The same values in this machine's byte order. Raises ImageError for others or none."""
    if pixels.dtype.kind not in "biuf":
        raise image_error(path, f"holds {pixels.dtype} values", "export it as integers or floats")
    if not pixels.size:  # a TIFF may state 0 samples a pixel
        raise image_error(path, f"has no pixels ({pixels.shape})", "export it again")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _three_channels(pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(H, W) or (H, W, channels) to (H, W, 3)."""
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    count = pixels.shape[2]
    if count == 1:
        return np.repeat(pixels, 3, axis=2), []
    if count == 2:
        empty = np.zeros_like(pixels[..., :1])
        return np.concatenate([pixels, empty], axis=2), ["2 channels, the third is left empty"]
    notes = [f"{count} channels, the first 3 are used"] if count > 3 else []
    return np.ascontiguousarray(pixels[..., :3]), notes
