"""PNG, JPEG and BMP."""

import struct
from collections.abc import Iterator
from functools import partial

import imagecodecs
import numpy as np
from exhibits import (
    ALPHA,
    BILEVEL,
    COLOUR,
    COLOURS,
    FEW_COLOURS,
    FEW_INDICES,
    GREY8,
    INDICES,
    PLAIN,
    Exhibit,
    Expectation,
    as_bytes,
    exif,
    from_cmyk,
    inks_of,
    levels,
    pillow,
    put,
)
from PIL import Image, ImageCms
from writers import GREY, GREY_ALPHA, PALETTE, RGB, RGB_ALPHA, bmp, os2_bmp, png


def pngs() -> Iterator[Exhibit]:
    """PNG: bits × colour type × interlacing, and what travels with the pixels."""

    def exhibit(name: str, what: str, content: bytes, plain: str) -> Exhibit:
        expected = Expectation("PNG", what, plain=plain)
        return Exhibit(f"png-{name}.png", put(content), expected)

    for interlaced in (False, True):
        mark, also = ("-interlaced", ", interlaced") if interlaced else ("", "")
        write = partial(png, interlaced=interlaced)
        for bits in (1, 2, 4):
            content = write(levels(bits), GREY, bits=bits)
            yield exhibit(
                f"grey-{bits}{mark}", f"grey, {bits} bit{also}", content, f"levels-{bits}"
            )
        table = {b"PLTE": COLOURS.tobytes()}
        few = {b"PLTE": FEW_COLOURS.tobytes()}
        wide = np.dstack([COLOUR * np.uint16(257), ALPHA * np.uint16(257)])
        grey = np.dstack([GREY8, ALPHA])
        for name, what, content, plain in (
            ("grey-8", "grey, 8 bits", write(GREY8, GREY), "grey"),
            ("grey-16", "grey, 16 bits", write(GREY8 * np.uint16(257), GREY, bits=16), "grey"),
            ("rgb-8", "RGB, 8 bits", write(COLOUR, RGB), "colour"),
            ("rgb-16", "RGB, 16 bits", write(wide[..., :3], RGB, bits=16), "colour"),
            ("palette-8", "palette of 200", write(INDICES, PALETTE, chunks=table), "palette"),
            (
                "palette-4",
                "palette of 13, 4 bits",
                write(FEW_INDICES, PALETTE, bits=4, chunks=few),
                "palette-13",
            ),
            ("grey-alpha-8", "grey and alpha, 8 bits", write(grey, GREY_ALPHA), "grey"),
            (
                "grey-alpha-16",
                "grey and alpha, 16 bits",
                write(grey * np.uint16(257), GREY_ALPHA, bits=16),
                "grey",
            ),
            (
                "rgb-alpha-8",
                "RGB and alpha, 8 bits",
                write(np.dstack([COLOUR, ALPHA]), RGB_ALPHA),
                "colour",
            ),
            ("rgb-alpha-16", "RGB and alpha, 16 bits", write(wide, RGB_ALPHA, bits=16), "colour"),
        ):
            yield exhibit(name + mark, what + also, content, plain)
    seen = {b"PLTE": COLOURS.tobytes(), b"tRNS": bytes(range(200))}
    for name, what, content, plain in (
        ("palette-alpha", "palette with alpha", png(INDICES, PALETTE, chunks=seen), "palette"),
        (
            "rgb-key",
            "RGB, one colour transparent",
            png(COLOUR, RGB, chunks={b"tRNS": struct.pack(">3H", *COLOUR[0, 0])}),
            "colour",
        ),
        (
            "gamma",
            "RGB with a gamma, which is not applied",
            png(COLOUR, RGB, chunks={b"gAMA": struct.pack(">I", 100_000)}),
            "colour",
        ),
    ):
        yield exhibit(name, what, content, plain)
    shown = Image.fromarray(COLOUR)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = as_bytes(pillow(shown, "PNG", exif=exif(6)))
    yield exhibit("exif", "RGB, EXIF says to turn it, which is not done", turned, "colour")
    coloured = as_bytes(pillow(shown, "PNG", icc_profile=profile))
    yield exhibit("icc", "RGB with an ICC profile, which is not applied", coloured, "colour")
    animated = as_bytes(pillow(shown, "PNG", save_all=True, append_images=[shown.rotate(180)]))
    yield exhibit("animated", "animation, the first frame counts", animated, "colour")


def jpegs() -> Iterator[Exhibit]:
    """JPEG: lossy, so the plain PNG holds what another decoder makes of the file."""
    colour, grey = Image.fromarray(COLOUR), Image.fromarray(GREY8)
    inks = Image.fromarray(inks_of(COLOUR), mode="CMYK")
    for name, what, image, options in (
        ("rgb", "colour, chroma halved", colour, {}),
        ("rgb-444", "colour, chroma whole", colour, {"subsampling": 0}),
        ("rgb-422", "colour, chroma halved sideways", colour, {"subsampling": 1}),
        ("rgb-quality-30", "colour, low quality", colour, {"quality": 30}),
        ("grey", "grey", grey, {}),
        ("progressive", "colour, progressive", colour, {"progressive": True}),
        ("progressive-grey", "grey, progressive", grey, {"progressive": True}),
        ("restarts", "colour with restart marks", colour, {"restart_marker_rows": 1}),
        ("cmyk", "CMYK", inks, {}),
        ("exif-3", "EXIF says upside down, which is not done", colour, {"exif": exif(3)}),
        ("exif-6", "EXIF says to turn it, which is not done", colour, {"exif": exif(6)}),
        ("exif-grey", "grey, EXIF says mirrored, which is not done", grey, {"exif": exif(2)}),
        ("icc", "colour with a profile, which is not applied", colour, {"icc_profile": b"none"}),
    ):
        content = as_bytes(pillow(image, "JPEG", **options))
        decoded = imagecodecs.jpeg8_decode(content)
        if decoded.ndim == 3 and decoded.shape[2] == 4:
            decoded = from_cmyk(255 - decoded)  # Adobe stores the paper, not the ink
        PLAIN[f"jpeg-{name}"] = decoded
        expected = Expectation("JPEG", what, plain=f"jpeg-{name}")
        yield Exhibit(f"jpeg-{name}.jpg", put(content), expected)


def bmps() -> Iterator[Exhibit]:
    """BMP: 1 to 32 bits, both directions, run lengths."""
    black_white = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], 3, axis=1)
    for name, what, content, plain in (
        ("1", "black and white", bmp(BILEVEL, 1, palette=black_white), "bilevel"),
        (
            "1-swapped",
            "white and black",
            bmp(BILEVEL, 1, palette=black_white[::-1]),
            "bilevel-inverted",
        ),
        ("4", "palette of 13, 4 bits", bmp(FEW_INDICES, 4, palette=FEW_COLOURS), "palette-13"),
        ("8", "palette of 200", bmp(INDICES, 8, palette=COLOURS), "palette"),
        ("8-grey", "grey", bmp(GREY8, 8, palette=greys), "grey"),
        (
            "8-runs",
            "palette of 200, run lengths",
            bmp(INDICES, 8, palette=COLOURS, runs=True),
            "palette",
        ),
        ("8-runs-grey", "grey, run lengths", bmp(GREY8, 8, palette=greys, runs=True), "grey"),
        ("16", "5 bits a channel", bmp(COLOUR, 16), "colour-555"),
        ("24", "RGB", bmp(COLOUR, 24), "colour"),
        ("24-top-down", "RGB, first row first", bmp(COLOUR, 24, top_down=True), "colour"),
        ("32", "RGB and an unused byte", bmp(COLOUR, 32), "colour"),
        ("32-top-down", "the same, first row first", bmp(COLOUR, 32, top_down=True), "colour"),
        ("os2", "RGB with OS/2's short header", os2_bmp(COLOUR), "colour"),
    ):
        yield Exhibit(f"bmp-{name}.bmp", put(content), Expectation("BMP", what, plain=plain))
