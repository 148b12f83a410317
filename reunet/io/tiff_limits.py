"""What a TIFF claims of itself, checked before a decoder believes it.

A kilobyte can lead its reader in circles, let a thousand directories share one list of a million
values, or announce a tile of a gigabyte. Whatever would cost more time or memory than the length
of the file and the size of its picture justify is refused here.
"""

import io
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree

import numpy as np
from tifffile import COMPRESSION, TiffFile, TiffPage

from reunet.errors import TiffError
from reunet.io.limits import MAX_SCANS

MAX_DIRECTORIES = 5000  # pages and smaller versions; tifffile sorts them in quadratic time
MAX_TAGS = 4096  # of a directory; tifffile takes more for damage, too
SHARED_BYTES = 2**20  # that directories may have in common, beyond twice the file's length
MAX_OME_PLANES = 100_000  # that a description may speak of: tifffile makes a list of them
# By tag type, TIFF 6.0 p. 15 and BigTIFF: 1 byte, 2 ASCII, 3 short, 4 long, 5 rational ...
TYPE_BYTES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8, 0])
DESCRIPTION, SUB_DIRECTORIES = 270, 330
SINGLE = (  # tags that tifffile takes for one number, whatever they are
    *(256, 257, 277, 322, 323, 32997, 32998),  # width, height, samples, those of tiles, depths
    *(259, 262, 266, 284, 317),  # compression, colours, order of bits, planes, predictor
)
NO_NUMBERS = ("its layout is not told by one number each", "export it again")
WHOLE_NUMBERS = (3, 4, 16)  # types: short, long, and BigTIFF's
METAMORPH = (33628, 33629, 33630, 33631)  # tags that have tifffile read a value for every plane
METAMORPH_VALUES = 5000
# Formats that tifffile knows by their contents. These name other files, or have it make lists of
# any length; none has an ending that is read here. Their first page is read like any other.
UNUSED_FORMATS = (
    *("mmstack", "ndtiff"),  # Micro-Manager
    *("avs", "bif", "eer", "mdgel", "ndpi", "scanimage", "scn"),
)
# Compressions whose decoders stop at the size of the strip or tile.
FLOAT_PREDICTORS = (3, 34894, 34895)  # TIFF technical note 3, DNG 1.4
COMPRESSIONS = (
    *(1, 2, 3, 4, 5, 8, 32946, 32773),  # none, fax, LZW, deflate, PackBits
    *(34925, 34926, 50000),  # LZMA, ZSTD
)


class _Format(NamedTuple):
    """Classic TIFF or BigTIFF, in one of the byte orders."""

    order: str  # < or >
    number: str  # struct's letter for the number of entries of a directory
    offset: str  # and for a place in the file
    entry: np.dtype

    @property
    def inline(self) -> int:
        """Bytes of a value that is stored in place of its offset."""
        return struct.calcsize(self.offset)


def check_directories(file: BinaryIO) -> bool:
    """Walk through all directories of an open file.

    Returns whether their chain ends within the file; else pages are missing. Raises TiffError where
    they run in a circle, are too many, claim more bytes for their tags than the file holds, or
    where the description of the axes is cut off. What else is wrong with them is left to the
    decoder.
    """
    size = file.seek(0, io.SEEK_END)
    form, offset = _read_header(file)
    seen: set[int] = set()
    count = claimed = 0
    while 0 < offset < size:
        if offset in seen:
            raise TiffError("its directories run in a circle", "export it again")
        seen.add(offset)
        entries, offset = _read_directory(file, form, offset)
        if count == 0 and _ends_behind(entries[entries["tag"] == DESCRIPTION], form, size).any():
            raise TiffError("the file is truncated", "copy or export it again")
        below = _sub_directories(file, form, entries, size)
        count += 1 + len(below)
        if count > MAX_DIRECTORIES:
            raise TiffError(
                f"holds more than {MAX_DIRECTORIES} pictures", "save the one to segment by itself"
            )
        for part in (entries, *(_read_directory(file, form, at)[0] for at in below)):
            _check_numbers(part)
            claimed += part.nbytes + _claimed_bytes(part, form, size)
        if claimed > 2 * size + SHARED_BYTES:
            raise TiffError("its tags claim more bytes than it has", "export it again")
    return offset == 0


def _read_header(file: BinaryIO) -> tuple[_Format, int]:
    """The format, and where the first directory lies (0: nowhere)."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head.startswith(b"II") else ">"
    if head[2:4] in (b"+\0", b"\0+"):
        form = _Format(order, f"{order}Q", f"{order}Q", _entry(order, "u8"))
        place = head[8:16]
    else:
        form = _Format(order, f"{order}H", f"{order}I", _entry(order, "u4"))
        place = head[4:8]
    return form, struct.unpack(form.offset, place)[0] if len(place) == form.inline else 0


def _entry(order: str, wide: str) -> np.dtype:
    """A tag: its number, the type, count and value (or the place of the values)."""
    fields = (("tag", "u2"), ("type", "u2"), ("count", wide), ("value", wide))
    return np.dtype([(name, order + kind) for name, kind in fields])


def _read_directory(file: BinaryIO, form: _Format, offset: int) -> tuple[np.ndarray, int]:
    """The entries of a directory and the place of the next one, 0 for none, as tifffile finds them.

    The last bytes are the place, even where the file ends within the entries.
    """
    file.seek(offset)
    head = file.read(struct.calcsize(form.number))
    tags = struct.unpack(form.number, head)[0] if len(head) == struct.calcsize(form.number) else -1
    if not 0 <= tags <= MAX_TAGS:
        return np.empty(0, form.entry), 0
    body = file.read(tags * form.entry.itemsize + form.inline)
    place = body[-form.inline :]
    following = struct.unpack(form.offset, place)[0] if len(place) == form.inline else 0
    whole = len(body) == tags * form.entry.itemsize + form.inline
    return np.frombuffer(body, form.entry, tags) if whole else np.empty(0, form.entry), following


def _sub_directories(
    file: BinaryIO, form: _Format, entries: np.ndarray, size: int
) -> Sequence[int]:
    """Places of the smaller versions of a page."""
    places: list[int] = []
    for entry in entries[entries["tag"] == SUB_DIRECTORIES]:
        width = int(TYPE_BYTES[min(int(entry["type"]), len(TYPE_BYTES) - 1)])
        count, value = int(entry["count"]), int(entry["value"])
        if width not in (4, 8) or count > MAX_DIRECTORIES:
            raise TiffError("its list of smaller versions is damaged", "export it again")
        if count * width <= form.inline:
            places.append(value)
        else:
            file.seek(min(value, size))
            stored = file.read(count * width)
            whole = stored[: len(stored) // width * width]
            places += np.frombuffer(whole, f"{form.order}u{width}").tolist()
    return [place for place in places if 0 < place < size]


def _check_numbers(entries: np.ndarray) -> None:
    """A product with a list, for instance, is a list as long."""
    single = entries[np.isin(entries["tag"], SINGLE)]
    if (~np.isin(single["type"], WHOLE_NUMBERS)).any() or (single["count"] != 1).any():
        raise TiffError(*NO_NUMBERS)


def _claimed_bytes(entries: np.ndarray, form: _Format, size: int) -> int:
    """Length of all values that lie elsewhere in the file. Raises TiffError for absurd ones."""
    if (entries["count"][np.isin(entries["tag"], METAMORPH)] > METAMORPH_VALUES).any():
        raise TiffError(f"tells of more than {METAMORPH_VALUES} planes", "save it as plain TIFF")
    lengths = _lengths(entries)
    # What ends behind the file's end is not read, whatever its length.
    read = (lengths > form.inline) & ~_ends_behind(entries, form, size)
    return int(lengths[read].sum())


def _ends_behind(entries: np.ndarray, form: _Format, size: int) -> np.ndarray:
    """Which of the tags have a value that ends behind the end of the file."""
    lengths = _lengths(entries)
    behind: np.ndarray = (lengths > form.inline) & (entries["value"] + lengths > size)
    return behind


def _lengths(entries: np.ndarray) -> np.ndarray:
    """Bytes of the value of each tag; as floats, since some tell of more than an integer holds."""
    types = np.minimum(entries["type"], len(TYPE_BYTES) - 1)
    lengths: np.ndarray = entries["count"].astype(np.float64) * TYPE_BYTES[types]
    return lengths


def check_description(tif: TiffFile) -> bool:
    """Judge what a description in XML has tifffile do.

    Returns whether it can be read, if it is OME's. Raises TiffError.
    """
    description = tif.pages.first.description if tif.pages else ""
    if "<!DOCTYPE" in description:  # could define a word that stands for a gigabyte
        raise TiffError("its description defines a language of its own", "save it as plain TIFF")
    if not description or not tif.is_ome:
        return True
    pages = len(tif.pages)
    smallest = max(1, min(math.prod(page.shape) for page in tif.pages))
    try:
        planes = sum(_planes_told(description, pages, smallest))
    except (ElementTree.ParseError, ArithmeticError, ValueError, KeyError):
        return False
    if planes > MAX_OME_PLANES:
        raise TiffError("its description tells of too many planes", "save it as plain TIFF")
    return True


def _planes_told(description: str, pages: int, smallest: int) -> Iterator[int]:
    """Planes that each element of an OME description has tifffile make a list of.

    pages: in the file. smallest: values of the smallest page.
    """
    for element in ElementTree.fromstring(description).iter():
        kind = element.tag.rsplit("}")[-1]
        numbers = element.attrib
        if kind == "Pixels":
            sizes = [int(numbers.get(f"Size{axis}", 1)) for axis in "XYZCT"]
            yield abs(math.prod(sizes)) // smallest
        elif kind == "TiffData":
            told = numbers.get("PlaneCount", numbers.get("NumPlanes", 1 if "IFD" in numbers else 0))
            yield abs(int(told)) or pages
        elif kind.startswith("ModuloAlong") and "Start" in numbers:
            span = float(numbers["End"]) - float(numbers["Start"])
            yield int(abs(span / float(numbers.get("Step", 1))))


def bytes_to_decode(page: TiffPage) -> int:
    """Memory that the strips or tiles of a page take, which may reach over its edges.

    Raises TiffError where that cannot be told.
    """
    if page.dtype is None:
        raise TiffError(f"has samples of {page.bitspersample} bits", "export it with 8 or 16")
    if page.planarconfig not in (1, 2):
        raise TiffError("does not say whether its channels are apart", "export it again")
    sizes = (*page.chunks, *page.chunked, page.dtype.itemsize)
    if not all(isinstance(size, int) for size in sizes):  # RowsPerStrip may be a list
        raise TiffError(*NO_NUMBERS)
    return math.prod(sizes)


def check_compression(page: TiffPage) -> None:
    """Make sure that no strip or tile of a page decodes to more than its place in the picture.

    Raises TiffError for a compression that cannot be watched. A JPEG, JPEG 2000 or LERC tells its
    size itself: from here on it is read before it is decoded, and `page.decode` raises TiffError.
    """
    if page.jpegheader is not None:
        raise TiffError("is a Hamamatsu slide", "export it as plain TIFF")
    floats = page.dtype is not None and page.dtype.kind == "f"
    if page.predictor in FLOAT_PREDICTORS and not floats:
        raise TiffError("has a predictor for floats, but no floats", "export it again")
    if page.predictor != 1 and page.compression == 1:  # readers disagree on what that means
        raise TiffError("has a predictor, but no compression", "export it again")
    if page.compression in COMPRESSIONS:
        return
    if page.compression == COMPRESSION.OJPEG:
        raise TiffError("is an old-style JPEG (compression 6)", "save it as PNG or new-style TIFF")
    if page.compression not in STATED_VALUES:
        name = getattr(page.compression, "name", str(page.compression))
        raise TiffError(f"is compressed by {name}", "save it with LZW or deflate")
    decode, stated_values = page.decode, STATED_VALUES[page.compression]
    # Twice: some writers give a strip more rows than they say, which does no harm.
    most = 2 * math.prod(page.chunks)

    def decode_checked(data: bytes | None, *arguments: object, **options: object) -> object:
        if data is not None and not 0 < stated_values(data) <= most:
            raise TiffError("a part of it claims another size than its place", "export it again")
        return decode(data, *arguments, **options)

    page.decode = decode_checked  # type: ignore[assignment]


def _jpeg_values(data: bytes) -> int:
    """Height × width × channels of a JPEG; 0 if it does not say, or comes in too many scans."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            height, width, channels = struct.unpack_from(">HHB", data, at + 5)
            return 0 if data.count(b"\xff\xda") > MAX_SCANS else height * width * channels
        fill = marker == 0xFF
        at += 1 if fill else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def _jpeg2000_values(data: bytes) -> int:
    if not data.startswith(b"\xff\x4f\xff\x51"):  # a bare codestream, as slide scanners write it
        return 0
    right, bottom, left, top, *_, channels = struct.unpack_from(">8IH", data, 8)
    values: int = max(0, right - left) * max(0, bottom - top) * channels
    return values


def _lerc_values(data: bytes) -> int:
    if not data.startswith(b"Lerc2 "):
        return 0
    version = struct.unpack_from("<i", data, 6)[0]
    height, width, depth = struct.unpack_from("<3i", data, 14 if version >= 3 else 10)
    depth = depth if version >= 4 else 1
    whole = min(height, width, depth) > 0
    values: int = height * width * depth * data.count(b"Lerc2 ")  # bands, one behind the other
    return values if whole else 0


STATED_VALUES: dict[int, Callable[[bytes], int]] = {
    COMPRESSION.JPEG: _jpeg_values,
    COMPRESSION.ALT_JPEG: _jpeg_values,
    COMPRESSION.JPEG_LOSSY: _jpeg_values,
    COMPRESSION.LERC: _lerc_values,
    COMPRESSION.APERIO_JP2000_YCBC: _jpeg2000_values,
    COMPRESSION.APERIO_JP2000_RGB: _jpeg2000_values,
    COMPRESSION.JPEG_2000_LOSSY: _jpeg2000_values,
    COMPRESSION.JPEG2000: _jpeg2000_values,
}
