"""Files as slide scanners write them, put together by their public descriptions: no real ones may
lie here. https://openslide.org/formats/hamamatsu and https://openslide.org/formats/ventana.
"""

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image

BYTE, ASCII, SHORT, LONG, RATIONAL, SLONG, FLOAT = 1, 2, 3, 4, 5, 9, 11  # types of TIFF's tags
LETTERS = {SHORT: "H", LONG: "I", RATIONAL: "I", SLONG: "i", FLOAT: "f"}
LENS, MACRO = 20.0, -1.0  # magnification of a level; of the picture of the whole glass


class Page(NamedTuple):
    """A picture of an .ndpi: its JPEG, its size, where restarts begin in it, and what it is of."""

    jpeg: bytes
    height: int
    width: int
    starts: Sequence[int]
    lens: float
    focus: int


def jpeg_page(
    pixels: np.ndarray, blocks: int, lens: float = LENS, focus: int = 0, **options: Any
) -> Page:
    """A picture as the scanner stores it: one JPEG, with a restart marker after so many blocks."""
    buffer = io.BytesIO()
    options = {"quality": 90, "subsampling": 0, "restart_marker_blocks": blocks, **options}
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    jpeg = buffer.getvalue()
    return Page(jpeg, *pixels.shape[:2], restarts(jpeg) if blocks else (), lens, focus)


def restarts(jpeg: bytes) -> list[int]:
    """Where the coded pixels begin, and where they go on behind each restart marker."""
    scan = jpeg.index(b"\xff\xda")
    first = scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4], "big")
    marks = (n for n in range(first, len(jpeg) - 1) if jpeg[n] == 0xFF)
    return [first, *(n + 2 for n in marks if 0xD0 <= jpeg[n + 1] <= 0xD7)]


def write_ndpi(path: Path, pages: Sequence[Page], mpp: float = 0.5) -> Path:
    """Hamamatsu's .ndpi: a classic TIFF, but for places of directories, which have 8 bytes.

    mpp: µm a pixel of the first page.
    """
    out = io.BytesIO()
    out.write(b"II*\0" + bytes(8))
    link = 4  # where the place of the next directory is written
    for page in pages:
        at = out.tell()
        out.write(page.jpeg)
        scale = pages[0].width / page.width
        tags = _ndpi_tags(page, at, round(1e7 / (mpp * scale)))
        link = _directory(out, tags, link)
    path.write_bytes(out.getvalue())
    return path


def _ndpi_tags(page: Page, at: int, pixels_in_10_m: int) -> dict[int, tuple[int, Sequence[Any]]]:
    resolution = RATIONAL, (pixels_in_10_m, 1000)
    tags = {
        256: (LONG, [page.width]), 257: (LONG, [page.height]), 258: (SHORT, [8, 8, 8]),
        259: (SHORT, [7]), 262: (SHORT, [6]), 271: (ASCII, b"Hamamatsu\0"),
        272: (ASCII, b"NanoZoomer\0"), 273: (LONG, [at]), 277: (SHORT, [3]),
        278: (LONG, [page.height]), 279: (LONG, [len(page.jpeg)]), 282: resolution,
        283: resolution, 284: (SHORT, [1]), 296: (SHORT, [3]), 65420: (LONG, [1]),
        65421: (FLOAT, [page.lens]), 65422: (SLONG, [0]), 65423: (SLONG, [0]),
        65424: (SLONG, [page.focus]), 65426: (LONG, page.starts),
    }  # fmt: skip
    return {tag: value for tag, value in tags.items() if value[1]}


def _directory(out: io.BytesIO, tags: dict[int, tuple[int, Sequence[Any]]], link: int) -> int:
    """Write the values and the directory of a page, and its place at `link`. Returns where the
    place of the next one belongs."""
    entries = []
    for tag, (kind, values) in sorted(tags.items()):
        packed = bytes(values) if kind == ASCII else struct.pack(
            f"<{len(values)}{LETTERS[kind]}", *values
        )  # fmt: skip
        count = len(values) // (2 if kind == RATIONAL else 1)
        if len(packed) > 4:
            packed, place = struct.pack("<I", out.tell()), packed
            out.write(place + bytes(len(place) % 2))
        entries.append(struct.pack("<HHI", tag, kind, count) + packed.ljust(4, b"\0"))
    at = out.tell()
    out.write(struct.pack("<H", len(entries)) + b"".join(entries))
    following = out.tell()
    out.write(bytes(8) + bytes(4 * len(entries)))  # upper halves of values follow the next place
    out.seek(link)
    out.write(struct.pack("<Q", at))
    out.seek(0, io.SEEK_END)
    return following


class Area(NamedTuple):
    """A part of the glass that was scanned. left, bottom: px from the left and the lower edge of
    the slide; column, row: of its first tile among those of the file."""

    pixels: np.ndarray
    left: int
    bottom: int
    column: int
    row: int


TILE = 64  # px a side, of the tiles of a .bif


def tiles_of(pixels: np.ndarray, overlap: int) -> np.ndarray:
    """Tiles that share `overlap` px with each neighbour: (rows, columns, TILE, TILE, 3)."""
    step = TILE - overlap
    down, across = ((n - overlap) // step for n in pixels.shape[:2])
    assert pixels.shape[:2] == (down * step + overlap, across * step + overlap)
    cut = [[pixels[y * step : y * step + TILE, x * step : x * step + TILE] for x in range(across)]
           for y in range(down)]  # fmt: skip
    return np.array(cut)


def write_bif(
    path: Path, areas: Sequence[Area], overlap: int, mpp: float = 0.25, **options: Any
) -> Path:
    """Ventana's .bif: a BigTIFF of tiles that overlap, whose XML tells by how much.

    options: tifffile's.
    """
    grids = [tiles_of(area.pixels, overlap) for area in areas]
    down = max(a.row + len(g) for a, g in zip(areas, grids, strict=True))
    across = max(a.column + g.shape[1] for a, g in zip(areas, grids, strict=True))
    mosaic = np.zeros((down, across, TILE, TILE, 3), np.uint8)
    for area, grid in zip(areas, grids, strict=True):
        mosaic[area.row :, area.column :][: len(grid), : grid.shape[1]] = grid
    stored = mosaic.transpose(0, 2, 1, 3, 4).reshape(down * TILE, across * TILE, 3)
    about = f'<iScan Magnification="20" ScanRes="{mpp}" Z-layers="1"/>'
    joints = _stitches(areas, grids, overlap)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        label = np.full((40, 30, 3), 90, np.uint8)
        file.write(label, description="Label_Image", metadata=None, extratags=[_xml(about)])
        for level in range(2):
            said = f"level={level} mag={20 / 2**level:g} quality=95"
            extra = [] if level else [_xml(joints)]
            file.write(
                stored[:: 2**level, :: 2**level], tile=(TILE, TILE), description=said,
                metadata=None, photometric="rgb", extratags=extra, **options,
            )  # fmt: skip
    return path


def _xml(text: str) -> tuple[int, int, int, bytes, bool]:
    return 700, BYTE, len(text), text.encode(), True


def _stitches(areas: Sequence[Area], grids: Sequence[np.ndarray], overlap: int) -> str:
    """Each area with the joints of its tiles. They are counted from 1, in rows from the bottom up,
    every second one from right to left."""
    infos, origins = [], []
    for number, (area, grid) in enumerate(zip(areas, grids, strict=True)):
        down, across = grid.shape[:2]
        order = [(row, column) for up, row in enumerate(reversed(range(down)))
                 for column in range(across)[:: -1 if up % 2 else 1]]  # fmt: skip
        numbers = {place: n + 1 for n, place in enumerate(order)}
        pairs = [("RIGHT", (y, x), (y, x + 1)) for y, x in numbers if (y, x + 1) in numbers]
        pairs += [("UP", (y, x), (y - 1, x)) for y, x in numbers if (y - 1, x) in numbers]
        joints = "".join(
            f'<TileJointInfo FlagJoined="1" Confidence="99" Direction="{direction}" '
            f'Tile1="{numbers[one]}" Tile2="{numbers[two]}" OverlapX="{overlap * (y == v)}" '
            f'OverlapY="{overlap * (x == u)}"/>'
            for direction, one, two in pairs for (y, x), (v, u) in [(one, two)]
        )  # fmt: skip
        infos.append(
            f'<ImageInfo AOIScanned="1" AOIIndex="{number}" Width="{TILE}" Height="{TILE}" '
            f'NumRows="{down}" NumCols="{across}" Pos-X="{area.left}" Pos-Y="{area.bottom}">'
            f"{joints}</ImageInfo>"
        )
        origins.append(f'<AOI{number} OriginX="{area.column * TILE}" OriginY="{area.row * TILE}"/>')
    stitch = f"<SlideStitchInfo>{''.join(infos)}</SlideStitchInfo>"
    return f"<EncodeInfo Ver='2'>{stitch}<AoiOrigin>{''.join(origins)}</AoiOrigin></EncodeInfo>"
