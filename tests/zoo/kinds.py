"""TIFF files whose tags, names or descriptions say which picture counts, and in what colours."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from exhibits import COLOUR, ERROR, GREY8, Exhibit, Expectation, inks_of

Writer = Callable[[Path], object]
SMALL = GREY8[::4, ::4].copy()
TURNED = GREY8[::-1].copy()


def pages(*parts: np.ndarray, **options: Any) -> Writer:
    """Pages one after the other. options: tifffile's; lists go page by page."""
    return partial(_write, parts, options)


def _write(parts: Sequence[np.ndarray], options: dict[str, Any], path: Path) -> None:
    model = options.get("model")
    options = {key: value for key, value in options.items() if key != "model"}
    with tifffile.TiffWriter(path) as writer:
        for n, part in enumerate(parts):
            own = {key: v[n] if isinstance(v, list) else v for key, v in options.items()}
            writer.write(part, **{"photometric": "minisblack", "metadata": None, **own})
    if model is not None:
        with tifffile.TiffFile(path, mode="r+") as tif:
            tif.pages.first.tags[262].overwrite(model)


def tiff_choices() -> Iterator[Exhibit]:
    """Which picture of a file counts."""
    for name, what, write, notes in (
        ("thumbnail-first", "a small page first", pages(SMALL, GREY8), 1),
        ("thumbnail-last", "a small page last", pages(GREY8, SMALL), 1),
        ("reduced-first", "called reduced", pages(SMALL, GREY8, subfiletype=[1, 0]), 1),
        ("reduced-same", "reduced, of one size", pages(TURNED, GREY8, subfiletype=[1, 0]), 1),
        ("sub-directory", "full size below the page", pages(SMALL, GREY8, subifds=[1, None]), 1),
        ("three-sizes", "pages of three sizes", pages(GREY8[:40], GREY8, SMALL), 1),
    ):
        yield _grey(f"tiff-choice-{name}.tif", "TIFF, choices", what, write, notes)


def tiff_descriptions() -> Iterator[Exhibit]:
    """Descriptions that were true of another file."""
    for n, shape in enumerate(("3, 61, 53", "99, 99", "53, 61", "61, 53, 3", "3233", "0", "2, 9")):
        for codec in (None, "zlib"):
            text = f'{{"shape": [{shape}]}}'
            write = pages(GREY8, description=text, compression=codec)
            name = f"tiff-stale-shape-{n}-{codec or 'none'}.tif"
            yield _grey(name, "TIFF, descriptions", f"tells of a shape of {shape}", write, 1)
    for codec in (None, "lzw", "zlib"):
        text = "ImageJ=1.53t\nimages=3\nchannels=3\nhyperstack=true\n"
        write = pages(COLOUR, photometric="rgb", description=text, compression=codec)
        what = "ImageJ's channels are the samples, as Bio-Formats writes them"
        expected = Expectation("TIFF, descriptions", what, plain="colour", notes=1)
        yield Exhibit(f"tiff-bioformats-{codec or 'none'}.tif", write, expected)
        texts = ["ImageJ=1.53t\nimages=2\nslices=2\n", None, None]
        write = pages(GREY8, TURNED, TURNED, description=texts, compression=codec)
        what = "ImageJ's text counts 2 of 3 pages"
        yield _grey(f"tiff-imagej-more-{codec or 'none'}.tif", "TIFF, descriptions", what, write, 2)


def tiff_models() -> Iterator[Exhibit]:
    """Colour models: converted, or refused by name."""
    inks = np.dstack([inks_of(COLOUR), GREY8])
    for extra, notes in (("unassalpha", 0), ("unspecified", 1)):
        write = pages(inks, photometric="separated", extrasamples=[[extra]])
        expected = Expectation("TIFF, colours", "CMYK and a sample", plain="cmyk", notes=notes)
        yield Exhibit(f"tiff-cmyk-{extra}.tif", write, expected)
    for model, name, pixels, error in (
        (4, "mask", GREY8, "transparency mask"),
        (5, "cmyk-float", inks_of(COLOUR).astype(np.float32), "CMYK colours of float32"),
        (5, "three-inks", COLOUR, "3 of 4 colours"),
        (6, "ycbcr-thinned", COLOUR, "thinned out"),
        (8, "lab-float", COLOUR.astype(np.float32), "colours of float32"),
        (10, "itulab", COLOUR, "ITU"),
        (32803, "mosaic", GREY8, "mosaic of a camera"),
        (32844, "logl", GREY8, "logarithms"),
        (32845, "logluv", COLOUR, "logarithms"),
        (34892, "linear-raw", COLOUR, "raw values of a camera"),
        (51177, "depth", GREY8, "depth map"),
        (12345, "unknown", COLOUR, "interpretation 12345"),
    ):
        write = pages(pixels, model=model, planarconfig="contig" if pixels.ndim > 2 else None)
        expected = Expectation("TIFF, colours", f"model {model}", ERROR, error=error)
        yield Exhibit(f"tiff-model-{name}.tif", write, expected)


def _grey(name: str, group: str, what: str, write: Writer, notes: int) -> Exhibit:
    return Exhibit(name, write, Expectation(group, what, plain="grey", notes=notes))
