"""Damage done to files on purpose: bits, lengths, tags, numbers in descriptions."""

import io
import re
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import tifffile

PNG = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II", b"MM")
NUMBERS = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 1000, 4096, 32767, 32768, 65535, 65536)
NUMBERS += (10**6, 2**24, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
TAGS = (254, 256, 257, 258, 259, 262, 266, 270, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324)
TAGS += (325, 330, 338, 339, 347, 512, 513, 514, 530, 32997, 32998, 33628, 33629, 34361, 34412)
TAGS += (42113, 50838, 50839, 65420, 65426)
TAGS += (33471, 33560, 34362, 43314, 37701, 33445, 42112, 50288, 51123, 65000, 65001)  # vendors'
COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 33003, 34712, 34887, 34925, 34933, 50000)

VENDORS = (  # Software and ImageDescription by which tifffile knows whose file it is
    ("", "Aperio Image Library v1.0\n61x53|AppMag = 20"),
    ("PerkinElmer-QPI", '<?xml version="1.0"?><PerkinElmer-QPI-ImageDescription/>'),
    ("IndicaLabsImageWriter", '<?xml version="1.0"?><indica><channel name="a"/></indica>'),
    (
        "Philips DP v1.0",
        '<DataObject><Attribute Name="a"><Array><DataObject ObjectType="PixelDataRepresentation">'
        '<Attribute Name="DICOM_PIXEL_SPACING">"0.1" "0.1"</Attribute></DataObject></Array>'
        "</Attribute></DataObject>",
    ),
    ("SCANIMAGE.SI4", "state.configPath = 'a'\rscanimage.SI4.x = 1"),
    ("", "ImageJ=1.53t\nimages=7\nchannels=7\nhyperstack=true\nmode=composite\n"),
    ("", '{"shape": [7, 40, 30], "axes": "CYX"}'),
    ("", '<?xml version="1.0"?><scn xmlns="a"><collection></collection></scn>'),
)

Damage = Callable[[np.random.Generator, bytearray, Sequence[bytes]], None]


def mutate(rng: np.random.Generator, corpus: Sequence[bytes]) -> bytes:
    """A file of the corpus with one to four kinds of damage; the checksums of a PNG put right."""
    content = bytearray(corpus[rng.integers(len(corpus))])
    for _ in range(int(rng.integers(1, 5))):
        damages = TIFF_DAMAGES if content[:2] in TIFF and rng.random() < 0.7 else DAMAGES
        damages[rng.integers(len(damages))](rng, content, corpus)
    if content.startswith(PNG) and rng.random() < 0.9:
        return with_checksums(bytes(content))
    return bytes(content)


def vendors() -> list[bytes]:
    """Seven tiled pages each, that look like those of a vendor."""
    files = []
    for software, description in VENDORS:
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            for number in range(7):
                plane = np.full((40, 30), number, np.uint8)
                texts = {"software": software, "description": description} if not number else {}
                writer.write(plane, tile=(16, 16), compression="lzw", metadata=None, **texts)
        files.append(buffer.getvalue())
    return files


def with_checksums(png: bytes) -> bytes:
    """A PNG whose damage is not found out at once."""
    parts, at = [PNG], len(PNG)
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        body = png[at + 4 : at + 8 + length]
        parts.append(png[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(parts) + png[at:]


def _place(rng: np.random.Generator, content: bytearray) -> int:
    """Anywhere, but half the time near the start, where headers are."""
    near = min(len(content), 200) if rng.random() < 0.5 else len(content)
    return int(rng.integers(near)) if near else 0


def _flip_bits(rng: np.random.Generator, content: bytearray, _: Sequence[bytes]) -> None:
    for _ in range(int(rng.integers(1, 17))):
        if content:
            content[_place(rng, content)] ^= 1 << int(rng.integers(8))


def _set_number(rng: np.random.Generator, content: bytearray, _: Sequence[bytes]) -> None:
    width = int(rng.choice([1, 2, 4, 8]))
    at = _place(rng, content)
    if at + width <= len(content):
        number = NUMBERS[rng.integers(len(NUMBERS))] % 256**width
        content[at : at + width] = number.to_bytes(width, rng.choice(["little", "big"]))


def _cut(rng: np.random.Generator, content: bytearray, _: Sequence[bytes]) -> None:
    del content[_place(rng, content) :]


def _drop(rng: np.random.Generator, content: bytearray, _: Sequence[bytes]) -> None:
    at = _place(rng, content)
    del content[at : at + int(rng.integers(1, 64))]


def _repeat(rng: np.random.Generator, content: bytearray, _: Sequence[bytes]) -> None:
    at, length = _place(rng, content), int(rng.integers(1, 256))
    content[at:at] = content[at : at + length] * int(rng.integers(1, 20))


def _splice(rng: np.random.Generator, content: bytearray, corpus: Sequence[bytes]) -> None:
    other = corpus[rng.integers(len(corpus))]
    start, length = int(rng.integers(len(other) + 1)), int(rng.integers(1, 512))
    at = _place(rng, content)
    content[at : at + length] = other[start : start + length]


def _change_digits(rng: np.random.Generator, content: bytearray, _: Sequence[bytes]) -> None:
    """A number within a text, such as the sizes in a description."""
    found = list(re.finditer(rb"\d+", content))
    if found:
        start, end = found[rng.integers(len(found))].span()
        digits = [b"9", b"0", b"1", b"7"][rng.integers(4)] * (end - start)
        content[start:end] = digits


def _change_tag(rng: np.random.Generator, content: bytearray, _: Sequence[bytes]) -> None:
    """One field of one tag of a TIFF: number, type, count or value."""
    entries = _entries(content)
    if not entries:
        return
    at, order, wide = entries[rng.integers(len(entries))]
    field = int(rng.integers(4))
    if field == 0:
        content[at : at + 2] = struct.pack(f"{order}H", TAGS[rng.integers(len(TAGS))])
    elif field == 1:
        content[at + 2 : at + 4] = struct.pack(f"{order}H", int(rng.integers(0, 20)))
    else:
        here = [*NUMBERS, at, len(content), int(rng.integers(len(content))), *COMPRESSIONS]
        number = here[rng.integers(len(here))] % 256**wide
        start = at + 4 + (field == 3) * wide
        content[start : start + wide] = number.to_bytes(wide, "little" if order == "<" else "big")


def _swap_tags(rng: np.random.Generator, content: bytearray, _: Sequence[bytes]) -> None:
    entries = _entries(content)
    if entries:
        (one, _, wide), (other, *_) = (entries[n] for n in rng.integers(len(entries), size=2))
        size = 4 + 2 * wide
        content[one : one + size] = content[other : other + size]


def _entries(content: bytearray) -> list[tuple[int, str, int]]:
    """Place, byte order and width of the fields of the tags in the first directory."""
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    wide, first = (8, content[8:16]) if big else (4, content[4:8])
    if len(first) < wide:
        return []
    at = int.from_bytes(first, "little" if order == "<" else "big")
    head = content[at : at + (8 if big else 2)]
    count = int.from_bytes(head, "little" if order == "<" else "big")
    start, size = at + len(head), 4 + 2 * wide
    places = range(start, start + min(count, 100) * size, size)
    return [(place, order, wide) for place in places if place + size <= len(content)]


DAMAGES: tuple[Damage, ...] = (
    *(_flip_bits, _set_number, _set_number, _cut, _drop, _repeat, _splice, _change_digits),
)
TIFF_DAMAGES: tuple[Damage, ...] = (
    *(_change_tag, _change_tag, _change_tag, _swap_tags, _change_digits, _flip_bits, _set_number),
)
