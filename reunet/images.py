"""Files enter and leave here only: microscope images, label images, their names.

Legend: H, W pixels. The contents of a file, not its ending, decide how it is decoded. Nothing
slow is imported at the top: a small PNG must not pay for the TIFF reader.
"""

import contextlib
import os
import secrets
import stat
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 500_000_000  # H × W, unless $REUNET_MAX_PIXELS says more; the challenge has 88 million
PIXEL_BYTES = 4  # of a stored pixel at the limit: RGB of 8 bits, or one channel of up to 32
MAX_RLE_PIXELS = 50_000_000  # of a run-length BMP, which Pillow decodes byte by byte

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
BMP = b"BM"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, both byte orders
STRIP_BYTES = 2**18  # of a label TIFF, before compression
MAX_SCANS = 100  # of a JPEG: each passes over the whole picture, and costs a few bytes
RLE = (1, 2)  # biCompression of a BMP: runs of 8-bit and of 4-bit pixels
HEAD_BYTES = 26  # up to the end of a PNG's bit depth and colour type


class ImageError(ValueError):
    """A file that cannot be used. The message is one line: file, cause, way out."""


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
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        pixels = np.nan_to_num(pixels, nan=0, posinf=0, neginf=0)
        notes = [*notes, "values that are not finite were set to 0"]
    pixels, channel_notes = _three_channels(pixels)
    return Picture(pixels, (*notes, *channel_notes))


def read_label(path: Path) -> np.ndarray:
    """Read an instance label image (TIFF or PNG).

    Returns (H, W) in the file's integer dtype (int64 for bilevel and float files). A palette
    counts by its indices, and floats are accepted while they are whole numbers. Raises ImageError
    for colour images, stacks, fractions and negative values.
    """
    stored, notes = _decode(path, as_shown=False)
    way_out = "labels are one plane of whole numbers, 0 for background"
    if stored.ndim != 2 or notes:
        raise _error(path, notes[0] if notes else f"has shape {stored.shape}", way_out)
    if stored.dtype.kind == "f" and not (np.isfinite(stored) & (stored == np.floor(stored))).all():
        raise _error(path, f"holds fractions ({stored.dtype})", way_out)
    labels = stored if stored.dtype.kind in "iu" else stored.astype(np.int64)
    if labels.min() < 0:
        raise _error(path, f"holds negative values ({stored.dtype})", way_out)
    return labels


def list_images(folder: Path) -> list[Path]:
    """The images directly inside a folder, by name; hidden and unsupported files are passed over.

    Raises ImageError if the folder cannot be listed.
    """
    try:
        files = [file for file in folder.iterdir() if not _is_folder(file)]
    except OSError as error:
        raise _error(folder, _reason(error), "name a folder that holds images") from error
    visible = (file for file in files if not file.name.startswith("."))
    return sorted(file for file in visible if file.suffix.lower() in ENDINGS)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link that may not be followed, for one: reading it will tell
        return False


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
        raise _error(path, _reason(error), "choose a folder with space to write in") from error
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


def one_line(text: str) -> str:
    """Text that prints as one line and does nothing else to a terminal.

    File names may hold anything: line breaks, terminal escapes, bytes that are no text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _error(path: Path, cause: str, way_out: str) -> ImageError:
    return ImageError(one_line(f"{path}: {' '.join(cause.split())}; {way_out}"))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"cannot be decoded ({type(error).__name__}: {str(error)[:200]})"


def _decode(path: Path, as_shown: bool) -> tuple[np.ndarray, list[str]]:
    """One plane, (H, W) or (H, W, channels) without alpha, and what was assumed on the way.

    as_shown: translate palettes and white-is-zero; otherwise the numbers stay as stored.
    """
    if path.suffix.lower() not in ENDINGS:
        raise _error(path, "unsupported ending", f"convert it to one of {' '.join(ENDINGS)}")
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
        raise _error(path, _reason(error), "check or re-export the file") from error


def native(path: Path, pixels: np.ndarray) -> np.ndarray:
    """The same values in this machine's byte order. Raises ImageError if they are no reals."""
    if pixels.dtype.kind not in "biuf":
        raise _error(path, f"holds {pixels.dtype} values", "export it as integers or floats")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def read_head(path: Path) -> bytes:
    """The first bytes of a file, at least one. Raises ImageError or OSError."""
    kind = path.stat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # a pipe would keep its reader waiting
        raise _error(path, "is no regular file", "copy the image into one")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise _error(path, "the file is empty", "copy or export it again")
    return head


def _decode_by_content(path: Path, as_shown: bool) -> tuple[np.ndarray, list[str]]:
    head = read_head(path)
    if head.startswith(TIFF):
        from reunet.tiff import read_tiff
        from reunet.tiffchecks import TiffError

        try:
            return read_tiff(path, as_shown, partial(check_size, path))
        except TiffError as error:
            raise _error(path, error.cause, error.way_out) from error
    if head.startswith(PNG) and head[24:25] == b"\x10":
        return _read_png16(path, head), []
    if head.startswith((PNG, JPEG, BMP)):
        return _read_pillow(path, head, as_shown), []
    raise _error(path, "not a PNG, JPEG, BMP or TIFF image", "convert it or leave it out")


def check_size(path: Path, height: int, width: int, pixel_bytes: int = 1) -> None:
    """Judge the size the header states, before anything is decoded.

    pixel_bytes: what a pixel takes as it is stored. Raises ImageError.
    """
    if height < 1 or width < 1:
        raise _error(path, f"has no pixels ({height} × {width})", "export it again")
    limit = max_pixels(path)
    if height * width > limit:
        cause = f"{height} × {width} pixels are above the limit of {limit:,}"
    elif height * width * pixel_bytes > limit * PIXEL_BYTES:
        of_bytes = f"{height} × {width} pixels of {pixel_bytes} bytes"
        cause = f"{of_bytes} are above the limit of {limit:,} of {PIXEL_BYTES}"
    else:
        return
    raise _error(path, cause, "cut it into parts, or set REUNET_MAX_PIXELS where memory allows")


def max_pixels(path: Path) -> int:
    """MAX_PIXELS or what the environment says. Raises ImageError, naming `path`, for no number."""
    told = os.environ.get("REUNET_MAX_PIXELS", "")
    if told and not told.isdecimal():
        raise _error(path, f"REUNET_MAX_PIXELS is {told!r}", "set it to a number of pixels")
    return int(told) if told else MAX_PIXELS


def _read_png16(path: Path, head: bytes) -> np.ndarray:
    """Decode a PNG of 16 bits a channel; Pillow would cut its colours to 8."""
    from reunet.png import decode_png16

    width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
    check_size(path, height, width)
    pixels = decode_png16(path.read_bytes())
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):  # grey or RGB, alpha last
        return pixels[..., :-1]
    return pixels


def _read_pillow(path: Path, head: bytes, as_shown: bool) -> np.ndarray:
    with _open_pillow(path, head) as image:
        check_size(path, image.height, image.width)
        _check_effort(path, head, image)
        image.load()  # a truncated file raises here
        if head.startswith(PNG) and _may_lack_rows(image):
            from reunet.png import check_rows

            check_rows(path.read_bytes())
        image.info.pop("transparency", None)  # is dropped anyway, and makes convert() warn
        if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;"):
            return np.asarray(image)
        if image.mode == "P" and not as_shown:
            return np.asarray(image)
        return np.asarray(image.convert("L" if image.mode in ("LA", "La") else "RGB"))


def _may_lack_rows(image: "ImageFile") -> bool:
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    return "interlace" in image.info or not np.asarray(last_row).any()


def _check_effort(path: Path, head: bytes, image: "ImageFile") -> None:
    """Refuse what takes hours to decode, though it has few bytes."""
    if head.startswith(JPEG) and path.read_bytes().count(b"\xff\xda") > MAX_SCANS:
        raise _error(path, f"has more than {MAX_SCANS} scans", "save it as PNG")
    pixels = image.height * image.width
    if head.startswith(BMP) and image.info["compression"] in RLE and pixels > MAX_RLE_PIXELS:
        raise _error(path, f"is a run-length BMP of {pixels:,} pixels", "save it as PNG")


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
