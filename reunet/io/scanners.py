"""Which scanner wrote a TIFF, as far as that decides who reads it.

Hamamatsu's and Ventana's files are TIFFs to look at, but their pixels do not lie where a TIFF says:
those of the one are a single JPEG with a list of places to begin at, those of the other tiles that
overlap. Only tags are looked at here, before anything is believed or imported. Legend: H, W pixels.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from reunet.io.limits import TIFF

HAMAMATSU, VENTANA = "Hamamatsu", "Ventana"
WIDTH, HEIGHT, XMP = 256, 257, 700
NDPI_FORMAT, NDPI_FOCUS = 65420, 65424  # what Hamamatsu's files alone have: a mark, and µm of focus
VENTANA_MARK = b"iScan"  # the XMP of the first directory tells of the scanner …
OVERLAPS = b"TileJointInfo"  # … and that of the full size how tiles overlap
XMP_BYTES = 2**16  # that are searched: both words stand near the beginning
MAX_TAGS = 4096
MAX_DIRECTORIES = 1000  # of a slide: sizes, focal planes, pictures of the label
# Bytes of the whole numbers among the types of tags: byte, short, long, signed long, BigTIFF's long
NUMBER_BYTES = {1: 1, 3: 2, 4: 4, 9: 4, 16: 8}
SIGNED = 9
BIG = 43  # the version of a BigTIFF


@dataclass(frozen=True)
class Scan:
    """What the directories of a scanner's file say.

    maker: of the scanner. sizes: (H, W) of each picture. focal_planes: how many there are.
    """

    maker: str
    sizes: tuple[tuple[int, int], ...]
    focal_planes: int = 1


class _Layout(NamedTuple):
    """How a TIFF stores its directories. number, entry, place: struct's letters for the number of
    entries; the tag, type, count and value of one; the place of the next directory. first: the
    place of the first one."""

    endian: Literal["little", "big"]
    number: str
    entry: str
    place: str
    first: int

    def read(self, file: BinaryIO, letters: str) -> tuple[int, ...]:
        """The next numbers of a file; none where it ends before."""
        form = struct.Struct(("<" if self.endian == "little" else ">") + letters)
        stored = file.read(form.size)
        return form.unpack(stored) if len(stored) == form.size else ()


class _Tag(NamedTuple):
    """An entry of a directory. length: how many values. value: their bytes, or the place of these,
    as one number. number: what the bytes mean where the type is a whole number, else 0."""

    length: int
    value: int
    number: int


_Directory = dict[int, _Tag]


def scan_of(path: Path) -> Scan | None:
    """What a file says of its scanner; None for one that has to be read as any other TIFF, which
    includes Ventana's whose tiles do not overlap. Raises OSError."""
    with path.open("rb") as file:
        for layout in _layouts(file):
            first = next(_directories(file, layout), {})
            if NDPI_FORMAT in first:
                return _scan(HAMAMATSU, [*_directories(file, layout)])
            if VENTANA_MARK in _xmp(file, first):
                every = [*_directories(file, layout)]
                if any(OVERLAPS in _xmp(file, directory) for directory in every):
                    return _scan(VENTANA, every)
    return None


def _scan(maker: str, directories: list[_Directory]) -> Scan:
    told = [(each[HEIGHT].number, each[WIDTH].number) for each in directories
            if HEIGHT in each and WIDTH in each]  # fmt: skip
    focus = {each[NDPI_FOCUS].number for each in directories if NDPI_FOCUS in each}
    return Scan(maker, tuple(told), max(1, len(focus)))


def _layouts(file: BinaryIO) -> Iterator[_Layout]:
    """Those that the head of a file allows, Hamamatsu's own before the common one.

    Hamamatsu's files call themselves classic, but may be longer than that allows: the places of
    their directories have 8 bytes.
    """
    head = file.read(16).ljust(16, b"\0")
    if not head.startswith(TIFF):
        return
    endian: Literal["little", "big"] = "little" if head.startswith(b"II") else "big"
    if int.from_bytes(head[2:4], endian) == BIG:
        yield _Layout(endian, "Q", "HHQQ", "Q", int.from_bytes(head[8:], endian))
    else:
        yield _Layout(endian, "H", "HHII", "Q", int.from_bytes(head[4:12], endian))
        yield _Layout(endian, "H", "HHII", "I", int.from_bytes(head[4:8], endian))


def _directories(file: BinaryIO, layout: _Layout) -> Iterator[_Directory]:
    """From the first one on, as far as they can be read, without running in a circle."""
    seen: set[int] = set()
    at, end = layout.first, file.seek(0, io.SEEK_END)
    while 0 < at < end and at not in seen and len(seen) < MAX_DIRECTORIES:
        seen.add(at)
        entries, at = _directory(file, layout, at)
        if entries:
            yield entries


def _directory(file: BinaryIO, layout: _Layout, at: int) -> tuple[_Directory, int]:
    """The entries at a place of a file, and the place of the next ones, 0 for none."""
    file.seek(at)
    count = layout.read(file, layout.number) or (0,)
    if count[0] > MAX_TAGS:
        return {}, 0
    entries = (layout.read(file, layout.entry) for _ in range(count[0]))
    tags = {entry[0]: _tag(layout, *entry[1:]) for entry in entries if entry}
    return tags, (layout.read(file, layout.place) or (0,))[0]


def _tag(layout: _Layout, kind: int, length: int, value: int) -> _Tag:
    """A number that is shorter than the place of a value takes the first bytes of it."""
    stored = value.to_bytes(struct.calcsize(f"={layout.entry[-1]}"), layout.endian)
    own = stored[: NUMBER_BYTES.get(kind, 0)]
    return _Tag(length, value, int.from_bytes(own, layout.endian, signed=kind == SIGNED))


def _xmp(file: BinaryIO, directory: _Directory) -> bytes:
    """The beginning of the XML of a directory; nothing where there is none."""
    tag = directory.get(XMP)
    if tag is None or tag.value >= file.seek(0, io.SEEK_END):
        return b""
    file.seek(tag.value)
    return file.read(min(tag.length, XMP_BYTES))
