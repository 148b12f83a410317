"""Files enter here only: microscope images, label images, their names; `labels` writes.

Legend: H, W pixels. The contents of a file, not its ending, decide how it is decoded. Nothing
slow is imported at the top: a small PNG must not pay for the TIFF reader.
"""

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reunet.errors import ImageError, image_error, reason
from reunet.io.alpha import ALPHA_ONLY, only_alpha

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 500_000_000  # H × W, unless $REUNET_MAX_PIXELS says more; the challenge has 88 million
PIXEL_BYTES = 4  # of a stored pixel at the limit: RGB of 8 bits, or one channel of up to 32
MAX_RLE_PIXELS = 50_000_000  # of a run-length BMP, which Pillow decodes byte by byte

NO_DATA = 1e30  # floats from here up to the end of float32 mark missing pixels
NO_DATA_END = float(np.finfo(np.float32).max)

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
BMP = b"BM"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, both byte orders
MAX_SCANS = 100  # of a JPEG: each passes over the whole picture, and costs a few bytes
RLE = (1, 2)  # biCompression of a BMP: runs of 8-bit and of 4-bit pixels
HEAD_BYTES = 26  # up to the end of a PNG's bit depth and colour type


@dataclass(frozen=True)
class Picture:
    """An image as the file holds it."""

    pixels: np.ndarray  # (H, W, 3), the file's own real dtype (bilevel: uint8 0 and 255), finite
    notes: tuple[str, ...]  # what was assumed about channels and planes, for the log


def read_image(path: Path) -> Picture:
    """Read one image as three channels.

    Grey is repeated, alpha is dropped, a palette becomes RGB, a missing third channel is empty
    and of more than three the first three count. Of a stack the first plane counts, of a pyramid
    the full size. Integers stored with white as zero are inverted, as a viewer shows them. EXIF
    orientation is not applied: the organisers' programs measure H and W of the stored array.

    Raises ImageError for anything that is not a whole, real-valued image of at most MAX_PIXELS
    pixels (the environment variable REUNET_MAX_PIXELS raises the limit), whatever its bytes are.
    """
    return as_picture(*_decode(path, as_shown=True))


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


def read_label(path: Path) -> np.ndarray:
    """Read an instance label image (TIFF or PNG).

    Returns (H, W) in the file's integer dtype (int64 for bilevel and float files). A palette
    counts by its indices, and floats are accepted while they are whole numbers. Raises ImageError
    for colour images, stacks, fractions and negative values.
    """
    stored, notes = _decode(path, as_shown=False)
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
        files = [file for file in folder.iterdir() if not _is_folder(file)]
    except OSError as error:
        raise image_error(folder, reason(error), "name a folder that holds images") from error
    visible = (file for file in files if not file.name.startswith("."))
    return sorted(file for file in visible if file.suffix.lower() in ENDINGS)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link that may not be followed, for one: reading it will tell
        return False


def _decode(path: Path, as_shown: bool) -> tuple[np.ndarray, list[str]]:
    """One plane, (H, W) or (H, W, channels) without alpha, and what was assumed on the way.

    as_shown: translate palettes and white-is-zero; otherwise the numbers stay as stored.
    """
    if path.suffix.lower() not in ENDINGS:
        raise image_error(path, "unsupported ending", f"convert it to one of {' '.join(ENDINGS)}")
    with decoding(path):
        pixels, notes = _decode_by_content(path, as_shown)
    return native(path, pixels), notes


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes an ImageError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # decoders fail on bad bytes with whatever they please
        raise image_error(path, reason(error), "check or re-export the file") from error


def native(path: Path, pixels: np.ndarray) -> np.ndarray:
    """The same values in this machine's byte order. Raises ImageError for others or none."""
    if pixels.dtype.kind not in "biuf":
        raise image_error(path, f"holds {pixels.dtype} values", "export it as integers or floats")
    if not pixels.size:  # a TIFF may state 0 samples a pixel
        raise image_error(path, f"has no pixels ({pixels.shape})", "export it again")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def read_head(path: Path) -> bytes:
    """The first bytes of a file, at least one. Raises ImageError or OSError."""
    kind = path.stat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # a pipe would keep its reader waiting
        raise image_error(path, "is no regular file", "copy the image into one")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise image_error(path, "the file is empty", "copy or export it again")
    return head


def _decode_by_content(path: Path, as_shown: bool) -> tuple[np.ndarray, list[str]]:
    head = read_head(path)
    if head.startswith(TIFF):
        from reunet.errors import TiffError
        from reunet.io.tiff import read_tiff

        try:
            return read_tiff(path, as_shown, partial(check_size, path))
        except TiffError as error:
            raise image_error(path, error.cause, error.way_out) from error
    if head.startswith(PNG) and head[24:25] == b"\x10":
        return _read_png16(path, head)
    if head.startswith((PNG, JPEG, BMP)):
        return _read_pillow(path, head, as_shown)
    raise image_error(path, "not a PNG, JPEG, BMP or TIFF image", "convert it or leave it out")


def check_size(path: Path, height: int, width: int, pixel_bytes: int = 1) -> None:
    """Judge the size the header states, before anything is decoded.

    pixel_bytes: what a pixel takes as it is stored. Raises ImageError.
    """
    if height < 1 or width < 1:
        raise image_error(path, f"has no pixels ({height} × {width})", "export it again")
    limit = max_pixels(path)
    if height * width > limit:
        cause = f"{height} × {width} pixels are above the limit of {limit:,}"
    elif height * width * pixel_bytes > limit * PIXEL_BYTES:
        of_bytes = f"{height} × {width} pixels of {pixel_bytes} bytes"
        cause = f"{of_bytes} are above the limit of {limit:,} of {PIXEL_BYTES}"
    else:
        return
    raise image_error(
        path, cause, "cut it into parts, or set REUNET_MAX_PIXELS where memory allows"
    )


def max_pixels(path: Path) -> int:
    """MAX_PIXELS or what the environment says. Raises ImageError, naming `path`, for no number."""
    told = os.environ.get("REUNET_MAX_PIXELS", "")
    if told and not told.isdecimal():
        raise image_error(path, f"REUNET_MAX_PIXELS is {told!r}", "set it to a number of pixels")
    return int(told) if told else MAX_PIXELS


def _read_png16(path: Path, head: bytes) -> tuple[np.ndarray, list[str]]:
    """Decode a PNG of 16 bits a channel; Pillow would cut its colours to 8."""
    from reunet.io.png import decode_png16

    width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
    check_size(path, height, width)
    pixels = decode_png16(path.read_bytes())
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):  # grey or RGB, alpha last
        colours, alpha = pixels[..., :-1], pixels[..., -1]
        return colours, [ALPHA_ONLY] if only_alpha(colours, alpha) else []
    return pixels, []


def _read_pillow(path: Path, head: bytes, as_shown: bool) -> tuple[np.ndarray, list[str]]:
    with _open_pillow(path, head) as image:
        check_size(path, image.height, image.width)
        _check_effort(path, head, image)
        image.load()  # a truncated file raises here
        if head.startswith(PNG) and _may_lack_rows(image):
            from reunet.io.png import check_rows

            check_rows(path.read_bytes())
        image.info.pop("transparency", None)  # is dropped anyway, and makes convert() warn
        if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;"):
            return np.asarray(image), []
        if image.mode == "P" and not as_shown:
            return np.asarray(image), []
        colours = np.asarray(image.convert("L" if image.mode in ("LA", "La") else "RGB"))
        alone = "A" in image.getbands() and only_alpha(colours, np.asarray(image.getchannel("A")))
        return colours, [ALPHA_ONLY] if alone else []


def _may_lack_rows(image: "ImageFile") -> bool:
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    return "interlace" in image.info or not np.asarray(last_row).any()


def _check_effort(path: Path, head: bytes, image: "ImageFile") -> None:
    """Refuse what takes hours to decode, though it has few bytes."""
    if head.startswith(JPEG) and path.read_bytes().count(b"\xff\xda") > MAX_SCANS:
        raise image_error(path, f"has more than {MAX_SCANS} scans", "save it as PNG")
    pixels = image.height * image.width
    if head.startswith(BMP) and image.info["compression"] in RLE and pixels > MAX_RLE_PIXELS:
        raise image_error(path, f"is a run-length BMP of {pixels:,} pixels", "save it as PNG")


def _open_pillow(path: Path, head: bytes) -> "ImageFile":
    """Open with the one plugin that is needed.

    Image.open would load five of them and would apply Pillow's own size limit, 179 million.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of EXIF, which is not used here
    if head.startswith(PNG):
        from PIL.PngImagePlugin import PngImageFile

        return PngImageFile(path)
    if head.startswith(JPEG):
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(path)
    from PIL.BmpImagePlugin import BmpImageFile

    return BmpImageFile(path)


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
