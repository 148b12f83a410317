"""TIFF."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from exhibits import (
    ALPHA,
    BILEVEL,
    COLOUR,
    COLOURS,
    ERROR,
    GREY8,
    INDICES,
    PLAIN,
    PLANES,
    Exhibit,
    Expectation,
    H,
    W,
    as_bytes,
    first_of,
    inks_of,
    pillow,
    put,
    rgb_tiff,
    tiff,
)
from PIL import Image


def tiff_compressions() -> Iterator[Exhibit]:
    """TIFF: compression × strips and tiles × 8 and 16 bits."""
    wide = GREY8 * np.uint16(257)
    for codec in ("none", "lzw", "zlib", "zstd", "packbits", "lzma", "lerc", "jpeg2000"):
        options = {} if codec == "none" else {"compression": codec}
        expected = Expectation("TIFF, compression", f"{codec}, RGB, strips", plain="colour")
        yield Exhibit(f"tiff-{codec}-strips.tif", rgb_tiff(rowsperstrip=7, **options), expected)
        expected = Expectation("TIFF, compression", f"{codec}, grey, 16 bits, tiles", plain="grey")
        write = tiff(wide, tile=(32, 48), **options)
        yield Exhibit(f"tiff-{codec}-tiles.tif", write, expected)
    for codec, options in (
        ("zlib", {"predictor": True}),
        ("lzw", {"predictor": True}),
        ("zstd", {"predictor": True}),
        ("deflate", {}),
    ):
        mark = "-predictor" if options else ""
        what = f"{codec}, RGB{', differences of neighbours' if options else ', old number'}"
        expected = Expectation("TIFF, compression", what, plain="colour")
        yield Exhibit(f"tiff-{codec}{mark}.tif", rgb_tiff(compression=codec, **options), expected)
    yield from tiff_jpegs()
    for name, what, kind in (("g3", "fax group 3", "group3"), ("g4", "fax group 4", "group4")):
        write = pillow(Image.fromarray(BILEVEL), "TIFF", compression=kind)
        expected = Expectation("TIFF, compression", f"{what}, bilevel", plain="bilevel")
        yield Exhibit(f"tiff-fax-{name}.tif", write, expected)
    for codec in ("webp", "jpegxl", "jpegxr", "png"):
        error = f"compressed by {codec.upper()}"
        expected = Expectation(
            "TIFF, compression", f"{codec}, which is not read", ERROR, error=error
        )
        yield Exhibit(f"tiff-{codec}.tif", rgb_tiff(compression=codec), expected)


def tiff_jpegs() -> Iterator[Exhibit]:
    """JPEG within TIFF: lossy; the plain PNG is put together from the strips or tiles."""
    for name, what, pixels, options in (
        ("strips", "JPEG, RGB, strips", COLOUR, {"photometric": "rgb", "rowsperstrip": 32}),
        ("tiles", "JPEG, RGB, tiles", COLOUR, {"photometric": "rgb", "tile": (32, 48)}),
        ("grey", "JPEG, grey, tiles", GREY8, {"tile": (32, 48)}),
    ):
        options = {"compression": "jpeg", "compressionargs": {"level": 90}, **options}
        content = as_bytes(tiff(pixels, **options))
        PLAIN[f"tiff-jpeg-{name}"] = join_jpegs(content, pixels.shape)
        expected = Expectation("TIFF, compression", what, plain=f"tiff-jpeg-{name}")
        yield Exhibit(f"tiff-jpeg-{name}.tif", put(content), expected)


def join_jpegs(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The strips or tiles of a TIFF, each decoded as the JPEG file that it is."""
    joined = np.zeros(shape, np.uint8)
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        page = tif.pages.first
        tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, W)
        across = -(-W // wide)
        places = zip(page.dataoffsets, page.databytecounts, strict=True)
        for number, (start, length) in enumerate(places):
            part = np.asarray(Image.open(io.BytesIO(content[start : start + length])))
            top, left = number // across * tall, number % across * wide
            inside = joined[top : top + tall, left : left + wide]
            inside[:] = part[: inside.shape[0], : inside.shape[1]]
    return joined


def tiff_layouts() -> Iterator[Exhibit]:
    """TIFF: byte order × classic and Big × channels together and apart × strips and tiles."""
    apart = np.moveaxis(COLOUR, -1, 0) * np.uint16(257)
    for order, called in (("<", "little"), (">", "big")):
        for big in (False, True):
            for planar in ("contig", "separate"):
                for tile in (None, (32, 48)):
                    kind = "tiles" if tile else "strips"
                    size = "bigtiff" if big else "classic"
                    pixels = apart if planar == "separate" else np.moveaxis(apart, 0, -1)
                    write = tiff(
                        pixels,
                        photometric="rgb",
                        byteorder=order,
                        bigtiff=big,
                        planarconfig=planar,
                        compression="zlib" if tile else None,
                        **({"tile": tile} if tile else {"rowsperstrip": 16}),
                    )
                    together = "together" if planar == "contig" else "apart"
                    what = f"{size}, {called}-endian, {kind}, RGB of 16 bits, channels {together}"
                    name = f"tiff-{size}-{called}-{planar}-{kind}.tif"
                    yield Exhibit(name, write, Expectation("TIFF, layout", what, plain="colour"))


def tiff_types() -> Iterator[Exhibit]:
    """TIFF: every type of number. The same picture, stretched and shifted so that it fits."""

    def exhibit(
        name: str, what: str, write: Callable[[Path], object], plain: str, **more: Any
    ) -> Exhibit:
        expected = Expectation("TIFF, numbers", what, plain=plain, **more)
        return Exhibit(f"tiff-{name}.tif", write, expected)

    half = (GREY8 >> 1).astype(np.int64)
    for dtype, pixels in (
        ("uint8", half),
        ("int8", half - 128),
        ("uint16", half << 9),
        ("int16", (half << 8) - 32_768),
        ("uint32", half << 25),
        ("int32", (half << 24) - 2**31),
        ("uint64", half << 40),
        ("int64", (half << 40) - 2**50),
        ("float16", half / 16),
        ("float32", half / 256 - 3),
        ("float64", half * 2.0**-40),
    ):
        what = f"grey, {dtype}{', negative values' if pixels.min() < 0 else ''}"
        yield exhibit(dtype, what, tiff(pixels.astype(dtype)), "grey-halved")
    yield exhibit("bool", "grey, 1 bit", tiff(BILEVEL), "bilevel")
    for bits in (10, 12, 14):
        pixels = half.astype(np.uint16) << (bits - 7)
        write = tiff(pixels, bitspersample=bits)
        yield exhibit(f"{bits}-bits", f"grey, {bits} bits, packed", write, "grey-halved")
    write = tiff(half.astype(np.float32), compression="zlib", predictor=3)
    yield exhibit("float-predictor", "grey, float32, bytes sorted by weight", write, "grey-halved")
    holes = GREY8 / np.float32(256)
    holes[0, :3] = np.nan, np.inf, -np.inf
    what = "grey, float32 with NaN and both infinities, which become 0"
    yield exhibit("float-not-finite", what, tiff(holes), "grey-dark-spot", notes=1)
    write = tiff(np.ones((H, W), np.complex64))
    expected = Expectation("TIFF, numbers", "complex numbers", ERROR, error="complex64")
    yield Exhibit("tiff-complex.tif", write, expected)


def tiff_photometrics() -> Iterator[Exhibit]:
    """TIFF: what the numbers stand for."""
    table = np.zeros((3, 256), np.uint16)
    table[:, : len(COLOURS)] = COLOURS.T
    alpha = np.dstack([COLOUR, ALPHA])
    for name, what, write, plain in (
        (
            "white-is-zero-1",
            "bilevel, white is zero",
            tiff(BILEVEL, photometric="miniswhite"),
            "bilevel-inverted",
        ),
        (
            "white-is-zero-8",
            "grey, white is zero",
            tiff(255 - GREY8, photometric="miniswhite"),
            "grey",
        ),
        (
            "white-is-zero-16",
            "grey, 16 bits, white is zero",
            tiff(65535 - GREY8 * np.uint16(257), photometric="miniswhite"),
            "grey",
        ),
        (
            "palette",
            "palette of 16 bits",
            tiff(INDICES, photometric="palette", colormap=table * 257),
            "palette",
        ),
        (
            "palette-8",
            "palette of 8 bits, against the rules",
            tiff(INDICES, photometric="palette", colormap=table),
            "palette",
        ),
        (
            "alpha",
            "RGB and alpha",
            tiff(alpha, photometric="rgb", extrasamples=["unassalpha"]),
            "colour",
        ),
        (
            "alpha-apart",
            "RGB and alpha, channels apart",
            tiff(
                np.moveaxis(alpha, -1, 0),
                photometric="rgb",
                planarconfig="separate",
                extrasamples=["assocalpha"],
            ),
            "colour",
        ),
        (
            "grey-alpha",
            "grey and alpha",
            tiff(np.dstack([GREY8, ALPHA]), planarconfig="contig", extrasamples=["unassalpha"]),
            "grey",
        ),
        ("cmyk", "CMYK", tiff(inks_of(COLOUR), photometric="separated"), "cmyk"),
        ("icc", "RGB with a profile, which is not applied", rgb_tiff(iccprofile=b"none"), "colour"),
        (
            "orientation",
            "a tag says to turn it, which is not done",
            rgb_tiff(extratags=[(274, 3, 1, 6, True)]),
            "colour",
        ),
        ("pillow", "RGB, as Pillow writes it", pillow(Image.fromarray(COLOUR), "TIFF"), "colour"),
    ):
        yield Exhibit(f"tiff-{name}.tif", write, Expectation("TIFF, colours", what, plain=plain))


def tiff_channels() -> Iterator[Exhibit]:
    """TIFF: 1 to 7 channels, however their axis is told."""
    for count in (1, 2, 3, 4, 5, 7):
        planes = PLANES[:count] * np.uint16(256)
        PLAIN[f"channels-{count}"] = first_of(count)
        first = np.ascontiguousarray(planes[:1] if count == 1 else planes)
        axes = {"metadata": {"axes": "CYX"}}
        for name, what, write in (
            (
                "samples",
                "samples of a pixel",
                tiff(np.moveaxis(planes, 0, -1), planarconfig="contig"),
            ),
            ("apart", "samples, stored apart", tiff(planes, planarconfig="separate")),
            ("ome", "OME, axes CYX", tiff(first, ome=True, **axes)),
            ("imagej", "ImageJ channels", tiff(first, imagej=True, **axes)),
            ("last-axis", "unnamed last axis", tiff(np.moveaxis(planes, 0, -1), metadata={})),
        ):
            if count == 1 and name in ("samples", "apart", "last-axis"):
                continue
            what = f"{count} channel{'s' if count > 1 else ''}: {what}"
            notes = int(count not in (1, 3))
            expected = Expectation("TIFF, channels", what, plain=f"channels-{count}", notes=notes)
            yield Exhibit(f"tiff-{name}-{count}.tif", write, expected)


def tiff_stacks() -> Iterator[Exhibit]:
    """TIFF: more planes than one, of which the first counts, and smaller versions."""
    stack = PLANES * np.uint16(256)
    hyper = stack[np.arange(24).reshape(2, 3, 4) % 7]  # (2, 3, 4, H, W)
    seen = np.stack([hyper[0, 0, c] >> 8 for c in range(3)], axis=-1).astype(np.uint8)
    PLAIN["hyperstack"] = seen[..., :3]

    def axes(named: str, **more: Any) -> dict[str, Any]:
        return {"metadata": {"axes": named}, **more}

    for name, what, write, plain, notes in (
        ("pages", "7 pages", write_pages, "first-plane", 1),
        ("pages-mixed", "a page of colour, then grey ones", write_mixed_pages, "colour", 1),
        ("shaped", "tifffile's stack", tiff(stack, metadata={}), "first-plane", 1),
        ("ome-z", "OME, axes ZYX", tiff(stack, **axes("ZYX", ome=True)), "first-plane", 1),
        ("ome-tzcyx", "OME, axes TZCYX", tiff(hyper, **axes("TZCYX", ome=True)), "hyperstack", 3),
        ("imagej-z", "ImageJ slices", tiff(stack, **axes("ZYX", imagej=True)), "first-plane", 1),
        (
            "imagej-hyperstack",
            "ImageJ hyperstack",
            tiff(hyper, **axes("TZCYX", imagej=True)),
            "hyperstack",
            3,
        ),
        (
            "imagej-hyperstack-big-endian",
            "ImageJ hyperstack, as ImageJ writes it",
            tiff(hyper, **axes("TZCYX", imagej=True, byteorder=">")),
            "hyperstack",
            3,
        ),
        (
            "imagej-compressed",
            "ImageJ hyperstack, compressed",
            tiff(hyper, **axes("TZCYX", imagej=True, compression="zlib")),
            "hyperstack",
            3,
        ),
        (
            "imagej-rgb",
            "ImageJ slices of RGB",
            tiff(np.stack([COLOUR] * 3), photometric="rgb", **axes("ZYXS", imagej=True)),
            "colour",
            1,
        ),
        ("ome-rgb", "OME, axes YXS", rgb_tiff(**axes("YXS", ome=True)), "colour", 0),
        ("ome-pyramid", "OME with smaller versions below the page", write_ome_pyramid, "colour", 0),
        ("pyramid", "smaller versions as further pages", write_pyramid, "colour", 0),
        ("sparse", "a tile that was never written", write_sparse, "sparse", 1),
    ):
        expected = Expectation("TIFF, stacks", what, plain=plain, notes=notes)
        yield Exhibit(f"tiff-{name}.tif", write, expected)


def write_pages(path: Path) -> None:
    """Seven pages without metadata."""
    with tifffile.TiffWriter(path) as writer:
        for plane in PLANES:
            writer.write(plane, photometric="minisblack", metadata=None, contiguous=False)


def write_mixed_pages(path: Path) -> None:
    """Pages that are no stack: they differ."""
    with tifffile.TiffWriter(path) as writer:
        writer.write(COLOUR, photometric="rgb", metadata=None)
        for plane in PLANES[:2]:
            writer.write(plane[:40, :50], photometric="minisblack", metadata=None)


def write_ome_pyramid(path: Path) -> None:
    """The page and two smaller versions in its sub-directories, in tiles."""
    options = {"photometric": "rgb", "tile": (16, 16), "compression": "lzw"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(COLOUR, subifds=2, **options)
        for step in (2, 4):
            writer.write(COLOUR[::step, ::step], subfiletype=1, **options)


def write_pyramid(path: Path) -> None:
    """Smaller and smaller pages, as slide scanners write them."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for step in (1, 2, 4):
            small = COLOUR[::step, ::step]
            writer.write(
                small, photometric="rgb", tile=(16, 16), subfiletype=step > 1, metadata=None
            )


def write_sparse(path: Path) -> None:
    """Tiles of which the first has neither place nor length."""
    tiff(GREY8, tile=(32, 32), compression="zlib")(path)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for tag in ("TileOffsets", "TileByteCounts"):
            values = tif.pages.first.tags[tag].value
            tif.pages.first.tags[tag].overwrite((0, *values[1:]))
