"""PNG and BMP files of every kind, byte by byte: Pillow writes but a few of them."""

import struct
import zlib

import numpy as np

PNG = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # colour types of PNG
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
ADAM7 += ((1, 0, 2, 1),)  # first row, first column, step down, step across


def png(
    pixels: np.ndarray,
    colour: int,
    *,
    bits: int = 8,
    interlaced: bool = False,
    chunks: dict[bytes, bytes] | None = None,
) -> bytes:
    """A PNG of (H, W) or (H, W, channels) values below 2**bits. chunks: go before the pixels."""
    height, width = pixels.shape[:2]
    header = struct.pack(">2I5B", width, height, bits, colour, 0, 0, interlaced)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = (pixels[top::down, left::across] for top, left, down, across in passes)
    rows = b"".join(_png_rows(part, bits) for part in parts if part.size)
    every = {b"IHDR": header, **(chunks or {}), b"IDAT": zlib.compress(rows), b"IEND": b""}
    return PNG + b"".join(chunk(kind, content) for kind, content in every.items())


def _png_rows(pixels: np.ndarray, bits: int) -> bytes:
    flat = pixels.reshape(pixels.shape[0], -1)
    packed = flat.astype(">u2").view(np.uint8) if bits == 16 else pack(flat, bits)
    return np.pad(packed, ((0, 0), (1, 0))).tobytes()  # a 0 before each row: no filter


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Rows of values below 2**bits, packed into bytes, first value in the highest bits."""
    if bits == 8:
        return values.astype(np.uint8)
    digits = np.unpackbits(values.astype(np.uint8)[..., np.newaxis], axis=-1)[..., 8 - bits :]
    return np.packbits(digits.reshape(len(values), -1), axis=1)


def bmp(
    pixels: np.ndarray,
    bits: int,
    *,
    palette: np.ndarray | None = None,
    top_down: bool = False,
    runs: bool = False,
) -> bytes:
    """A Windows BMP of (H, W) indices, or (H, W, 3) RGB for 16 (5 bits each), 24 and 32 bits.

    palette: (entries, 3) RGB. runs: run-length encoded (8 bits).
    """
    height, width = pixels.shape[:2]
    rows = pixels if top_down else pixels[::-1]
    content = _runs(rows) if runs else _bmp_rows(rows, bits)
    colours = b"" if palette is None else np.pad(palette[:, ::-1], ((0, 0), (0, 1))).tobytes()
    entries = 0 if palette is None else len(palette)
    start = 14 + 40 + len(colours)
    signed = -height if top_down else height
    header = struct.pack("<2sIHHI", b"BM", start + len(content), 0, 0, start)
    sizes = (40, width, signed, 1, bits, int(runs), len(content), 2835, 2835, entries, 0)
    return header + struct.pack("<IiiHHIIiiII", *sizes) + colours + content


def os2_bmp(pixels: np.ndarray) -> bytes:
    """A BMP with OS/2's short header. pixels: (H, W, 3) RGB."""
    height, width = pixels.shape[:2]
    content = _bmp_rows(pixels[::-1], 24)
    header = struct.pack("<2sIHHI", b"BM", 26 + len(content), 0, 0, 26)
    return header + struct.pack("<IHHHH", 12, width, height, 1, 24) + content


def _bmp_rows(pixels: np.ndarray, bits: int) -> bytes:
    """Rows of whole 4 bytes, colours in the order blue, green, red."""
    if bits < 16:
        packed = pack(pixels, bits)
    elif bits == 16:
        red, green, blue = np.moveaxis(pixels.astype("<u2") >> 3, -1, 0)
        packed = (red << 10 | green << 5 | blue).view(np.uint8)
    else:
        unused = ((0, 0), (0, 0), (0, bits // 8 - 3))
        packed = np.pad(pixels[..., ::-1], unused).reshape(len(pixels), -1)
    return np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4))).tobytes()


def _runs(rows: np.ndarray) -> bytes:
    """Pairs of a length and an index; 0 0 ends a row, 0 1 the picture."""
    return b"".join(_row_in_runs(row) + b"\0\0" for row in rows) + b"\0\1"


def _row_in_runs(row: np.ndarray) -> bytes:
    starts = np.flatnonzero(np.diff(row, prepend=-1) != 0)
    lengths = np.diff(starts, append=len(row))
    pairs = zip(lengths.tolist(), row[starts].tolist(), strict=True)
    return b"".join(bytes((length, value)) for length, value in pairs)  # rows are under 256 px
