"""Names and places of files, and files that are damaged."""

import os
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from exhibits import (
    COLOUR,
    ERROR,
    GREY8,
    PASSED_OVER,
    Exhibit,
    Expectation,
    as_bytes,
    pillow,
    put,
    rgb_tiff,
)
from PIL import Image
from writers import GREY, RGB, bmp, chunk, png


def names() -> Iterator[Exhibit]:
    """Names and places of files; all hold the colour crop."""
    write = pillow(Image.fromarray(COLOUR), "PNG")
    for name, what in (
        ("name with spaces.png", "spaces"),
        ("  name-after-spaces.png", "leading spaces"),
        ("name-several.dots.in.it.png", "the label's name ends at the first dot"),
        ("name-UPPER.PNG", "upper-case ending"),
        ("name-Mixed.TiF", "an ending that the contents contradict"),
        ("name-ünï-细胞-клетка-🔬.png", "Unicode"),
        ("name-e\u0301.png", "Unicode, composed of two characters"),
        ("name-'quote\"-$HOME-`x`;-&-*?.png", "what a shell would take for commands"),
        ("-name-like-an-option.png", "a leading dash"),
        ("name-back\\slash.png", "a backslash"),
        ("name-line\nbreak.png", "a line break"),
        ("name-\x1b[31mescape\x07.png", "a terminal escape"),
        ("name-" + "long" * 50 + ".png", "205 characters"),
        (os.fsdecode(b"name-latin-\xfc.png"), "bytes that are no Unicode"),
    ):
        yield Exhibit(name, write, Expectation("Names", what, plain="colour"))
    for name, what, link in (
        ("link.png", "symbolic link to a file", "name-UPPER.PNG"),
        ("link-outside.png", "symbolic link out of the folder", "../plain/colour.png"),
    ):
        yield Exhibit(name, partial(link_to, link), Expectation("Names", what, plain="colour"))
    for name, what, make in (
        (".hidden.png", "hidden file", write),
        ("sub-folder/inside.png", "file in a sub-folder", write),
        ("folder.png", "a folder with an image's name", Path.mkdir),
        ("link-to-folder.png", "symbolic link to a folder", partial(link_to, "../plain")),
        ("notes.txt", "a file of another kind", put(b"not looked at")),
        ("no-ending", "an image without an ending", write),
    ):
        yield Exhibit(name, make, Expectation("Names", what, PASSED_OVER))
    for name, what, make, error in (
        ("same.png", "", write, ""),
        ("same.too.png", "", write, ""),
        ("same.tif", "", write, "would overwrite"),
        (
            "link-broken.png",
            "symbolic link to nothing",
            partial(link_to, "nothing"),
            "no such file",
        ),
        (
            "link-circle.png",
            "symbolic link to itself",
            partial(link_to, "link-circle.png"),
            "symbolic links",
        ),
        (
            "link-long.png",
            "link to an impossible name",
            partial(link_to, "x" * 300),
            "name too long",
        ),
        ("pipe.png", "a pipe", os.mkfifo, "no regular file"),
        ("name-\x1b]0;mine\x07\n.png", "damaged, and an escape in its name", put(b""), "is empty"),
        ("name-" + "l" * 240 + ".png", "a name too long for its label", write, "name too long"),
    ):
        outcome = Expectation("Names", what or "same name as another image", ERROR, error=error)
        what = "same name as another up to the first dot: the label bears all of it"
        same = Expectation("Names", what, plain="colour")
        yield Exhibit(name, make, outcome if error else same)


def link_to(target: str, path: Path) -> None:
    """A symbolic link."""
    path.symlink_to(target)


def damaged() -> Iterator[Exhibit]:
    """Files that cannot be read, each for one reason that the message has to name."""
    shown = png(COLOUR, RGB)
    photo = as_bytes(pillow(Image.fromarray(COLOUR), "JPEG"))
    whole = as_bytes(rgb_tiff(rowsperstrip=8))
    flipped = bytearray(shown)
    flipped[len(flipped) // 2] ^= 1
    tall = bytearray(bmp(COLOUR, 24))
    tall[22:26] = struct.pack("<i", 100_000)
    large = struct.pack(">2I5B", 100_000, 100_000, 8, GREY, 0, 0, 0)
    for name, what, content, error in (
        ("empty.png", "no bytes", b"", "is empty"),
        ("text.jpg", "text", b"no image at all", "not a PNG, JPEG, BMP or TIFF"),
        ("gif.png", "GIF", as_bytes(pillow(Image.fromarray(GREY8), "GIF")), "not a PNG, JPEG"),
        ("webp.png", "WebP", as_bytes(pillow(Image.fromarray(COLOUR), "WEBP")), "not a PNG, JPEG"),
        ("noise.tif", "random bytes", np.random.default_rng(0).bytes(4096), "not a PNG, JPEG"),
        ("zeros.bmp", "zeros", bytes(4096), "not a PNG, JPEG"),
        ("half.png", "half a PNG", shown[: len(shown) // 2], "truncated"),
        (
            "half.jpg",
            "half a JPEG",
            photo[: len(photo) // 2],
            "runcated",
        ),
        ("half.bmp", "half a BMP", bmp(COLOUR, 24)[:9000], "truncated"),
        ("half.tif", "half a TIFF", whole[: len(whole) // 2], "truncated"),
        ("bit-flipped.png", "a bit flipped in the pixels", bytes(flipped), "decoded"),
        ("signature.png", "nothing but the signature", shown[:8], "decoded"),
        ("header.tif", "nothing but the header", whole[:8], "no image"),
        ("no-width.png", "a width of 0", shown[:16] + bytes(4) + shown[20:], "decoded"),
        ("too-tall.bmp", "more rows than it holds", bytes(tall), "truncated"),
        (
            "too-large.png",
            "a header of 10 gigapixels",
            shown[:8] + chunk(b"IHDR", large) + shown[33:],
            "limit",
        ),
    ):
        expected = Expectation("Damaged", what, ERROR, error=error)
        yield Exhibit(
            f"damaged-{name.replace('.', '-')}{Path(name).suffix}", put(content), expected
        )
