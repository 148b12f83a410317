"""What a file says first: its kind, and how large a picture; judged before anything is decoded.

Legend: H, W pixels.
"""

import os
import stat
from pathlib import Path

from reunet.errors import image_error

MAX_PIXELS = 500_000_000  # H × W, unless $REUNET_MAX_PIXELS says more; the challenge has 88 million
PIXEL_BYTES = 4  # of a stored pixel at the limit: RGB of 8 bits, or one channel of up to 32

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
BMP = b"BM"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, both byte orders
MAX_SCANS = 100  # of a JPEG: each passes over the whole picture, and costs a few bytes
HEAD_BYTES = 26  # up to the end of a PNG's bit depth and colour type


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
