"""PNG, JPEG and BMP: what Pillow decodes, and what it would not do right.

Legend: H, W pixels.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reunet.errors import image_error
from reunet.io.alpha import ALPHA_ONLY, only_alpha
from reunet.io.limits import BMP, JPEG, MAX_SCANS, PNG, check_size, read_head

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_RLE_PIXELS = 50_000_000  # of a run-length BMP, which Pillow decodes byte by byte
RLE = (1, 2)  # biCompression of a BMP: runs of 8-bit and of 4-bit pixels


def read_plain(path: Path, as_shown: bool) -> tuple[np.ndarray, list[str]]:
    """A file that begins as a PNG, JPEG or BMP.

    as_shown: translate palettes; else the numbers stay as stored. Returns (H, W) or
    (H, W, channels) without alpha, and what was assumed. Raises ImageError, or what decoders raise.
    """
    head = read_head(path)
    if head.startswith(PNG) and head[24:25] == b"\x10":
        return _read_png16(path, head)
    return _read_pillow(path, head, as_shown)


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
