"""Which picture of a TIFF counts, in which colours, and which descriptions are believed."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from reunet.errors import ImageError
from reunet.io.images import read_image, read_label

RNG = np.random.default_rng(13)
GREY = RNG.integers(1, 255, (40, 50), dtype=np.uint8)
SMALL = GREY[::4, ::4].copy()
COLOUR = RNG.integers(1, 255, (40, 50, 3), dtype=np.uint8)
PHOTOMETRIC = 262


def write(path: Path, pages: Sequence[np.ndarray], **options: Any) -> Path:
    """Pages one after the other; the options that are lists go page by page."""
    with tifffile.TiffWriter(path) as writer:
        for n, page in enumerate(pages):
            own = {key: v[n] if isinstance(v, list) else v for key, v in options.items()}
            writer.write(page, **{"photometric": "minisblack", "metadata": None, **own})
    return path


def patch(path: Path, tag: int, value: int, page: int = 0) -> Path:
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[page].tags[tag].overwrite(value)
    return path


def assert_reads(path: Path, expected: np.ndarray, *notes: str) -> None:
    """The pixels, (H, W) or (H, W, 3), and what the notes have to hold, one by one."""
    picture = read_image(path)
    shown = expected if expected.ndim == 3 else np.stack([expected] * 3, axis=-1)
    np.testing.assert_array_equal(picture.pixels, shown)
    assert len(picture.notes) == len(notes), picture.notes
    for text, note in zip(notes, picture.notes, strict=True):
        assert text in note


# Which picture


@pytest.mark.parametrize("flag", [0, 1])
@pytest.mark.parametrize("order", [[0, 1], [1, 0]], ids=["small first", "small last"])
def test_the_full_resolution_counts(tmp_path: Path, flag: int, order: list[int]) -> None:
    pages, flags = [SMALL, GREY], [flag, 0]
    path = write(
        tmp_path / "a.tif", [pages[n] for n in order], subfiletype=[flags[n] for n in order]
    )
    version = flag == 1 and order == [1, 0]  # a smaller version of the page before it: a pyramid
    notes = [] if version else ["of 2 pictures that of 40 × 50 pixels is used; left out: 10 × 13"]
    assert_reads(path, GREY, *notes)


@pytest.mark.parametrize("flag", [1, 4])
def test_of_equal_pages_one_called_reduced_or_a_mask_does_not_count(
    tmp_path: Path, flag: int
) -> None:
    path = write(tmp_path / "a.tif", [GREY[::-1].copy(), GREY], subfiletype=[1, 0])
    patch(path, 254, flag)
    assert_reads(path, GREY, "axis I holds 2 planes, number 2 is used")


@pytest.mark.parametrize("metadata", [None, {}], ids=["bare", "shaped"])
def test_full_size_in_a_sub_directory(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = write(tmp_path / "a.tif", [SMALL, GREY], subifds=[1, None], metadata=metadata)
    assert_reads(path, GREY, "left out: 10 × 13")


def test_pictures_left_out_are_counted(tmp_path: Path) -> None:
    pages = [GREY[:30].copy(), GREY, SMALL, SMALL, SMALL[:5]]
    path = write(tmp_path / "a.tif", pages)
    assert_reads(path, GREY, "of 5 pictures that of 40 × 50 pixels is used")
    (note,) = read_image(path).notes
    assert "30 × 50" in note
    assert "10 × 13 (2 times)" in note


def test_a_page_of_another_kind_within_a_stack(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", [GREY] * 3 + [SMALL] + [GREY] * 6)
    assert_reads(path, GREY, "left out: 10 × 13", "axis I holds 9 planes")


def ome(path: Path, images: dict[str, np.ndarray]) -> Path:
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name, pixels in images.items():
            axes = {"axes": "ZYX"[-pixels.ndim :], "Name": name}
            writer.write(pixels, photometric="minisblack", metadata=axes)
    return path


def rewrite(path: Path, old: str, new: str) -> Path:
    """Change the description of a file."""
    with tifffile.TiffFile(path) as tif:
        text = tif.pages.first.description
    assert old in text
    tifffile.tiffcomment(path, text.replace(old, new).encode())
    return path


def test_of_several_ome_images_the_largest_counts(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.ome.tif", {"a": SMALL, "b": GREY})
    assert_reads(path, GREY, "of 2 pictures that of 40 × 50 pixels is used; left out: 10 × 13")


def test_of_several_positions_the_first_counts(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.ome.tif", {"a": GREY, "b": GREY[::-1].copy()})
    assert_reads(path, GREY, "left out: 40 × 50")


@pytest.mark.parametrize("name", ["label image", "Macro image", "thumbnail"])
def test_a_larger_overview_does_not_count(tmp_path: Path, name: str) -> None:
    path = ome(tmp_path / "a.ome.tif", {name: np.tile(GREY, (2, 2)), "series": GREY})
    assert_reads(path, GREY, "left out: 80 × 100")


def test_pages_that_ome_leaves_out_are_counted(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.ome.tif", {"a": np.stack([GREY, GREY[::-1], GREY[:, ::-1]])})
    rewrite(path, 'SizeZ="3"', 'SizeZ="1"')
    rewrite(path, 'PlaneCount="3"', 'PlaneCount="1"')
    assert_reads(path, GREY, "2 of its 3 pages are not in its OME description")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('SizeC="1"', 'SizeC="3"'),
        ('SizeX="50"', 'SizeX="20"'),
        ('SizeX="50"', 'SizeX="one"'),
        ("<Pixels", "<Pixel"),
    ],
)
def test_an_ome_description_that_does_not_fit_is_not_believed(
    tmp_path: Path, old: str, new: str
) -> None:
    path = rewrite(ome(tmp_path / "a.ome.tif", {"a": GREY}), old, new)
    assert_reads(path, GREY, "its OME description tells of other files or pages")


# Descriptions of ImageJ and tifffile


def imagej(channels: int, slices: int = 1, frames: int = 1) -> str:
    planes = channels * slices * frames
    return (
        f"ImageJ=1.53t\nimages={planes}\nchannels={channels}\nslices={slices}\n"
        f"frames={frames}\nhyperstack=true\n"
    )


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("slices", [1, 4])
def test_bio_formats_counts_samples_as_channels(
    tmp_path: Path, compression: str | None, slices: int
) -> None:
    pages = [COLOUR] + [COLOUR[::-1].copy()] * (slices - 1)
    texts = [imagej(3, slices)] + [None] * (slices - 1)
    path = write(
        tmp_path / "a.tif", pages, description=texts, photometric="rgb", compression=compression
    )
    stack = ["axis I holds 4 planes"] if slices > 1 else []
    assert_reads(path, COLOUR, "takes the 3 samples of a pixel for channels", *stack)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_imagej_counts_fewer_planes_than_pages(tmp_path: Path, compression: str | None) -> None:
    other = GREY[::-1].copy()
    texts = [imagej(2), None, None]
    path = write(
        tmp_path / "a.tif", [GREY, other, GREY], description=texts, compression=compression
    )
    two = np.dstack([GREY, other, np.zeros_like(GREY)])
    assert_reads(path, two, "1 of its 3 pages are not in its ImageJ description", "2 channels")


def test_positions_of_micro_manager(tmp_path: Path) -> None:
    texts = ["ImageJ=1.53\nimages=4\nframes=2\nhyperstack=true\n", None, None, None]
    path = write(tmp_path / "a.tif", [GREY, *[GREY[::-1].copy()] * 3], description=texts)
    assert_reads(path, GREY, "2 of its 4 pages", "axis T holds 2 planes")


def test_imagej_counts_more_planes_than_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", [GREY], description=imagej(1, 10))
    assert_reads(path, GREY, "tells of 10 planes, it holds 1")


@pytest.mark.parametrize(
    "shape", [[3, 40, 50], [60, 60], [2, 20, 50], [40, 50, 3], [50, 40], [2000], [0]]
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_shape_that_no_longer_fits(
    tmp_path: Path, shape: list[int], compression: str | None
) -> None:
    text = f'{{"shape": {shape}}}'
    path = write(tmp_path / "a.tif", [GREY], description=text, compression=compression)
    assert_reads(path, GREY, "which its pages do not have")


def test_a_shaped_stack_cut_off_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([GREY] * 3), photometric="minisblack")
    path.write_bytes(path.read_bytes()[:2500])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)


def test_labels_with_a_stale_description_are_read_but_not_one_of_two(tmp_path: Path) -> None:
    labels = (GREY > 100).astype(np.uint16)
    path = write(tmp_path / "a.tif", [labels], description='{"shape": [3, 40, 50]}')
    np.testing.assert_array_equal(read_label(path), labels)
    path = write(tmp_path / "b.tif", [labels[:5].copy(), labels])
    with pytest.raises(ImageError, match="of 2 pictures"):
        read_label(path)


# Colours


def stored(path: Path, pixels: np.ndarray, model: int, **options: Any) -> Path:
    """A TIFF of any photometric interpretation."""
    write(path, [pixels], planarconfig="contig" if pixels.ndim == 3 else None, **options)
    return patch(path, PHOTOMETRIC, model)


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_ycbcr_without_jpeg(tmp_path: Path, compression: str | None) -> None:
    luma = np.asarray(Image.fromarray(COLOUR).convert("YCbCr"))
    whole = [[(530, 3, 2, (1, 1), True)]]
    path = stored(tmp_path / "a.tif", luma, 6, extratags=whole, compression=compression)
    expected = np.asarray(Image.fromarray(luma, "YCbCr").convert("RGB"))
    assert_reads(path, expected)
    assert np.abs(expected.astype(int) - COLOUR).max() <= 3


def lab_to_srgb(lightness: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """CIE's formulas under D50, adapted to sRGB's D65 by Bradford. Returns (H, W, 3), 0..1."""
    fy = (lightness + 16) / 116
    x, y, z = (
        white * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
        for white, f in ((0.9642, fy + a / 500), (1.0, fy), (0.8249, fy - b / 200))
    )
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = np.clip(np.stack([x, y, z], axis=-1) @ np.transpose(matrix), 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("model", [8, 9])
def test_lab(tmp_path: Path, kind: str, model: int) -> None:
    lightness = RNG.integers(30, 90, (40, 50)).astype(float)
    a, b = RNG.integers(-20, 20, (2, 40, 50)).astype(float)
    fine = 256 if kind == "u2" else 1
    full = {("u1", 8): 255, ("u1", 9): 255, ("u2", 8): 65535, ("u2", 9): 65280}[kind, model]
    offset = 128 if model == 9 else 0
    ab = [np.round((values + offset) * fine).astype(np.int64) for values in (a, b)]
    pixels = np.dstack([np.round(lightness * full / 100).astype(np.int64), *ab])
    path = stored(tmp_path / "a.tif", pixels.astype(kind), model)
    shown = read_image(path).pixels
    top = 255 if kind == "u1" else 65535
    exact = lab_to_srgb(np.round(lightness * full / 100) * 100 / full, a, b)
    assert shown.dtype == kind
    assert np.abs(shown / top - exact).max() < 1.5 / 255


PALETTE = tuple(int(n) for n in RNG.integers(0, 65536, 768))


@pytest.mark.parametrize("extra", ["unassalpha", "unspecified"])
def test_a_palette_with_another_sample(tmp_path: Path, extra: str) -> None:
    pixels = np.dstack([GREY, GREY[::-1]])
    table = [[(320, 3, 768, PALETTE, True)]]
    path = stored(tmp_path / "a.tif", pixels, 3, extratags=table, extrasamples=[[extra]])
    colours = (np.reshape(PALETTE, (3, 256)) >> 8).astype(np.uint8)
    notes = [] if extra == "unassalpha" else ["1 further sample"]
    assert_reads(path, colours.T[GREY], *notes)


def test_a_palette_picture_without_its_palette(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="palette is missing"):
        read_image(stored(tmp_path / "a.tif", GREY, 3))


@pytest.mark.parametrize("extra", ["unassalpha", "unspecified"])
def test_cmyk_with_another_sample(tmp_path: Path, extra: str) -> None:
    inks = np.dstack([255 - COLOUR, np.zeros_like(GREY), GREY])
    path = write(tmp_path / "a.tif", [inks], photometric="separated", extrasamples=[[extra]])
    assert_reads(path, COLOUR, *([] if extra == "unassalpha" else ["1 further sample"]))


def test_alpha_is_dropped_wherever_it_stands(tmp_path: Path) -> None:
    pixels = np.dstack([GREY, GREY.max() - GREY, GREY[::-1]])
    extra = [["unassalpha", "unspecified"]]
    path = write(tmp_path / "a.tif", [pixels], planarconfig="contig", extrasamples=extra)
    two = np.dstack([GREY, GREY[::-1], np.zeros_like(GREY)])
    assert_reads(path, two, "2 channels")


@pytest.mark.parametrize(
    ("model", "pixels", "cause"),
    [
        (4, GREY, "transparency mask"),
        (5, COLOUR, "3 of 4 colours"),
        (5, np.dstack([COLOUR, GREY]).astype(np.float32), "CMYK colours of float32"),
        (6, COLOUR, "thinned out"),
        (8, COLOUR.astype(np.float32), "colours of float32"),
        (8, np.dstack([GREY, GREY]), "2 of 3 colours"),
        (10, COLOUR, "ITU"),
        (32803, GREY, "mosaic of a camera"),
        (32845, COLOUR, "logarithms"),
        (34892, COLOUR, "raw values of a camera"),
        (51177, GREY, "depth map"),
        (12345, COLOUR, "photometric interpretation 12345"),
    ],
)
def test_colours_that_are_not_understood_are_refused_by_name(
    tmp_path: Path, model: int, pixels: np.ndarray, cause: str
) -> None:
    path = stored(tmp_path / "a.tif", pixels, model)
    with pytest.raises(ImageError, match=cause) as caught:
        read_image(path)
    assert "export it as RGB or grey" in str(caught.value)


def test_inks_that_are_not_cmyk(tmp_path: Path) -> None:
    inks = np.dstack([COLOUR, GREY])
    other = [(332, 3, 1, 2, True)]
    path = write(tmp_path / "a.tif", [inks], photometric="separated", extratags=[other])
    with pytest.raises(ImageError, match="inks other than"):
        read_image(path)


def test_a_file_that_does_not_say_what_its_numbers_stand_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", [GREY])
    content = bytearray(path.read_bytes())
    place = content.index(struct.pack("<2H", PHOTOMETRIC, 3))
    content[place : place + 2] = struct.pack("<H", PHOTOMETRIC + 1)  # Thresholding
    path.write_bytes(content)
    assert_reads(path, GREY, "0 is taken for black")


def test_old_style_jpeg_is_named(tmp_path: Path) -> None:
    path = patch(write(tmp_path / "a.tif", [GREY]), 259, 6)
    with pytest.raises(ImageError, match="old-style JPEG"):
        read_image(path)


# Nothing to be seen but alpha; no data


@pytest.mark.parametrize("kind", ["8.png", "16.png", "grey.png", "rgba.tif"])
def test_a_picture_in_the_alpha_channel_alone_is_noted(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    even = np.zeros_like(COLOUR)
    if kind == "16.png":
        import imagecodecs

        wide = np.dstack([even, GREY]).astype(np.uint16)
        path.write_bytes(imagecodecs.png_encode(wide))
    elif kind == "rgba.tif":
        extra = [["unassalpha"]]
        write(path, [np.dstack([even, GREY])], photometric="rgb", extrasamples=extra)
    elif kind == "grey.png":
        Image.fromarray(np.dstack([even[..., 0] + 255, GREY]), "LA").save(path)
    else:
        Image.fromarray(np.dstack([even, GREY])).save(path)
    (note,) = read_image(path).notes
    assert "alpha channel" in note


@pytest.mark.parametrize("mark", [-3.4e38, 9.96921e36, float(np.finfo(np.float32).max)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_marks_of_no_data_become_zero(tmp_path: Path, mark: float, dtype: str) -> None:
    pixels = GREY.astype(dtype)
    pixels[:10] = mark
    expected = np.where(np.arange(40)[:, np.newaxis] < 10, 0, GREY).astype(dtype)
    assert_reads(write(tmp_path / "a.tif", [pixels]), expected, "mark no data")


def test_no_data_by_the_tag(tmp_path: Path) -> None:
    pixels = GREY.astype(np.float32)
    pixels[:10] = -9999
    tag = [(42113, 2, 0, "-9999", True)]
    path = write(tmp_path / "a.tif", [pixels], extratags=[tag])
    assert_reads(path, np.where(pixels == -9999, 0, pixels), "-9999, which its tags call no data")
