"""What Pillow does not do with a PNG: keep 16 bits a channel, and notice that rows are missing.

libpng, by way of imagecodecs, writes what it thinks of a file to the standard error: of profiles,
of interlacing, of bytes too many. So it gets a file of our making, which holds the pixels alone.
Legend: H, W pixels.
"""

import struct
import zlib
from typing import NamedTuple

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">2I5B")  # width, height, bits, colour type, two zeros, interlaced
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type, alpha included; 3: palette
WHOLE = ((0, 0, 1, 1),)  # first row and column, steps down and across
ADAM7 = (  # the same of the passes of an interlaced picture, PNG specification §8.2
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)
PIECE = 2**20  # bytes inflated at a time where they are only counted


class _Stored(NamedTuple):
    """A PNG taken apart."""

    height: int
    width: int
    bits: int  # of a channel
    colour: int  # type
    passes: tuple[tuple[int, int, int, int], ...]
    compressed: bytes

    def length(self, top: int, left: int, down: int, across: int) -> int:
        """Bytes of a pass: its rows, and one a row that names the row's filter."""
        tall, wide = len(range(top, self.height, down)), len(range(left, self.width, across))
        row = 1 + -(-wide * CHANNELS[self.colour] * self.bits // 8)
        return tall * row if wide else 0


def decode_png16(content: bytes) -> np.ndarray:
    """Pixels of a PNG of 16 bits. Returns (H, W) or (H, W, channels) uint16, alpha last.

    Raises ValueError, or what the decoder raises, for a damaged file.
    """
    import imagecodecs

    png = _take_apart(content)
    channels = CHANNELS[png.colour]
    if png.bits != 16:
        raise ValueError("the header is damaged")
    lengths = [png.length(*part) for part in png.passes]
    rows = memoryview(imagecodecs.deflate_decode(png.compressed, out=sum(lengths)))
    if len(rows) < sum(lengths):
        raise ValueError("rows are missing")
    pixels = np.empty((png.height, png.width, channels), np.uint16)
    for (top, left, down, across), length in zip(png.passes, lengths, strict=True):
        if length:
            inside = pixels[top::down, left::across]
            single = _put_together(inside.shape[0], inside.shape[1], png.colour, rows[:length])
            inside[:] = imagecodecs.png_decode(single).reshape(inside.shape)
            rows = rows[length:]
    return pixels[..., 0] if channels == 1 else pixels


def check_rows(content: bytes) -> None:
    """Raise ValueError for a PNG with fewer rows than its header says: Pillow makes them black."""
    png = _take_apart(content)
    missing = sum(png.length(*part) for part in png.passes)
    inflater, waiting = zlib.decompressobj(), png.compressed
    while missing > 0:
        piece = inflater.decompress(waiting, min(missing, PIECE))
        if not piece:
            raise ValueError("rows are missing")
        missing -= len(piece)
        waiting = inflater.unconsumed_tail


def _take_apart(content: bytes) -> _Stored:
    """Raises ValueError for a damaged header."""
    at, chunks = len(SIGNATURE), []
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    kind, header = chunks[0]
    if kind != b"IHDR" or len(header) != HEADER.size:
        raise ValueError("the header is damaged")
    width, height, bits, colour, *methods, interlaced = HEADER.unpack(header)
    if colour not in CHANNELS or methods != [0, 0]:
        raise ValueError("the header is damaged")
    compressed = b"".join(chunk for kind, chunk in chunks if kind == b"IDAT")
    return _Stored(height, width, bits, colour, ADAM7 if interlaced else WHOLE, compressed)


def _put_together(height: int, width: int, colour: int, rows: memoryview) -> bytes:
    header = HEADER.pack(width, height, 16, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, chunk) for kind, chunk in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
