"""Bands of a slide against the whole image: pixels, statistics, labels. And disks that are full."""

import contextlib
import os
import resource
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from conftest import SAMPLE_IMAGES
from reunet.errors import ImageError
from reunet.inference.normalise import normalise_channels, scaling_of
from reunet.inference.scale import windows
from reunet.inference.tiles import content_box
from reunet.io import scratch, source, tiff_rows
from reunet.io.images import read_image, read_label
from reunet.io.source import slide_shape, stream
from reunet.model import Model, load_model
from reunet.network.bundle import open_bundle
from reunet.options import Options
from reunet.pipeline import predict
from reunet.run.batch import segment_files
from reunet.survey import FLAT_WITH_ALPHA, survey

RNG = np.random.default_rng(0)
H, W = 100, 140  # px; neither a multiple of a strip or tile, nor of a band
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (H, W), dtype=np.uint16)
FLOAT = np.where(RNG.random((H, W)) < 0.01, np.nan, RNG.standard_normal((H, W))).astype("f4")
CHANNELS = RNG.integers(0, 4096, (5, H, W), dtype=np.uint16)
STACK = RNG.integers(0, 256, (2, 3, 4, H, W), dtype=np.uint8)  # ImageJ's order: T Z C Y X
TALL = np.repeat(RGB, 5, axis=0)  # several bands
SIMPLE = Options(tta=False, enlarge=False, vote=False)
SMOOTH = ndimage.uniform_filter(RGB, (9, 9, 1))


@pytest.fixture(autouse=True)
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (source, tiff_rows):
        monkeypatch.setattr(module, "ROWS", 24)
    monkeypatch.setattr(source, "SLIDE_PIXELS", 1)


# --- reading


def pages(path: Path, planes: np.ndarray, **options: Any) -> None:
    """A page a plane, not one behind the other."""
    with tifffile.TiffWriter(path) as writer:
        for plane in planes:
            writer.write(plane, photometric="minisblack", contiguous=False, **options)


def pyramid(path: Path, pixels: np.ndarray, **options: Any) -> None:
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(pixels, photometric="rgb", subifds=2, **options)
        for n in (2, 4):
            writer.write(pixels[::n, ::n], photometric="rgb", subfiletype=1, **options)


def colour(path: Path, pixels: np.ndarray, **options: Any) -> None:
    planes = options.get("planarconfig") == "separate"
    pixels = pixels.transpose(2, 0, 1) if planes else pixels
    tifffile.imwrite(path, pixels, photometric="rgb", **options)


def twelve_bits(path: Path) -> None:
    """Three bytes hold two pixels; tifffile only reads such files."""
    packed = np.frombuffer(imagecodecs.packints_encode(DEEP >> 4, 12), np.uint8)
    tifffile.imwrite(path, packed.reshape(H, W // 2 * 3), rowsperstrip=8, metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name, value in (("ImageWidth", W), ("BitsPerSample", 12)):
            tif.pages.first.tags[name].overwrite(value)


RGB_LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "a row a strip": {"rowsperstrip": 1},
    "strips": {"rowsperstrip": 7, "compression": "zlib"},
    "strips with predictor": {"rowsperstrip": 30, "compression": "lzw", "predictor": True},
    "one compressed strip": {"rowsperstrip": H, "compression": "packbits"},
    "tiles": {"tile": (16, 32)},
    "compressed tiles": {"tile": (32, 16), "compression": "zstd"},
    "large tiles": {"tile": (64, 64), "compression": "deflate"},
    "JPEG tiles": {"tile": (32, 48), "compression": "jpeg"},
    "JPEG 2000": {"tile": (32, 32), "compression": "jpeg2000"},
    "big-endian BigTIFF": {"tile": (16, 16), "bigtiff": True, "byteorder": ">"},
    "planes": {"planarconfig": "separate", "rowsperstrip": 9, "compression": "zlib"},
    "planes of tiles": {"planarconfig": "separate", "tile": (16, 48), "compression": "lzw"},
}
TIFFS: dict[str, Callable[[Path], Any]] = {
    "RGBA": lambda path: tifffile.imwrite(
        path, np.dstack([RGB, DEEP.astype("u1")]), photometric="rgb", tile=(16, 16)
    ),
    "grey, alpha": lambda path: tifffile.imwrite(
        path, RGB[..., :2], photometric="minisblack", extrasamples=["unassalpha"], rowsperstrip=9
    ),
    "planes with alpha": lambda path: tifffile.imwrite(
        path,
        STACK[0, 0],
        photometric="rgb",
        planarconfig="separate",
        extrasamples=["unassalpha"],
        rowsperstrip=11,
        compression="zlib",
    ),
    "pyramid": lambda path: pyramid(path, RGB, tile=(16, 16), compression="zlib"),
    "pyramid, uncompressed": lambda path: pyramid(path, RGB),
    "16 bits": lambda path: tifffile.imwrite(path, DEEP, rowsperstrip=5, compression="zlib"),
    "16 bits, big-endian": lambda path: tifffile.imwrite(path, DEEP, byteorder=">"),
    "12 bits": lambda path: twelve_bits(path),
    "float, not all finite": lambda path: tifffile.imwrite(
        path, FLOAT, tile=(32, 32), compression="zlib", predictor=3
    ),
    "int32": lambda path: tifffile.imwrite(path, DEEP.astype("i4") - 30_000, rowsperstrip=10),
    "bool": lambda path: tifffile.imwrite(path, DEEP > 9000, rowsperstrip=3),
    "white is zero": lambda path: tifffile.imwrite(
        path, DEEP, photometric="miniswhite", tile=(16, 16)
    ),
    "palette": lambda path: tifffile.imwrite(
        path,
        RGB[..., 0],
        photometric="palette",
        colormap=RNG.integers(0, 65536, (3, 256), dtype=np.uint16),
        rowsperstrip=10,
        compression="zlib",
    ),
    "OME channels": lambda path: tifffile.imwrite(
        path, CHANNELS, ome=True, metadata={"axes": "CYX"}, photometric="minisblack", tile=(32, 32)
    ),
    "two channels": lambda path: tifffile.imwrite(
        path, CHANNELS[:2], imagej=True, metadata={"axes": "CYX"}, photometric="minisblack"
    ),
    "ImageJ hyperstack": lambda path: tifffile.imwrite(
        path, STACK, imagej=True, metadata={"axes": "TZCYX"}, photometric="minisblack"
    ),
    "compressed hyperstack": lambda path: tifffile.imwrite(
        path, STACK, metadata={"axes": "TZCYX"}, photometric="minisblack", compression="zlib"
    ),
    "pages": lambda path: pages(path, CHANNELS, metadata=None),
    "compressed pages": lambda path: pages(path, CHANNELS, metadata=None, compression="lzw"),
    "channels last on pages": lambda path: tifffile.imwrite(path, RGB, photometric="minisblack"),
    "compressed pages of rows": lambda path: tifffile.imwrite(
        path, RGB, photometric="minisblack", compression="zlib"
    ),
    "one pixel": lambda path: tifffile.imwrite(path, DEEP[:1, :1], compression="zlib"),
    "one row": lambda path: tifffile.imwrite(path, RGB[:1], photometric="rgb", tile=(16, 16)),
    "one column": lambda path: tifffile.imwrite(path, DEEP[:, :1], rowsperstrip=7),
    **{name: partial(colour, pixels=RGB, **options) for name, options in RGB_LAYOUTS.items()},
}


@pytest.mark.parametrize("name", TIFFS)
def test_bands_make_up_the_image(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.tif"
    TIFFS[name](path)
    whole = read_image(path)
    slide = stream(path)
    assert slide.shape == whole.pixels.shape[:2]
    for _ in range(2):
        bands = list(slide.bands())
        pixels = np.concatenate([band.pixels for band in bands])
        assert pixels.dtype == whole.pixels.dtype
        np.testing.assert_array_equal(pixels, whole.pixels)
        assert max(len(band.pixels) for band in bands) <= tiff_rows.ROWS
        assert {note for band in bands for note in band.notes} == set(whole.notes)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_other_formats(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(RGB).save(path)
    bands = [band.pixels for band in stream(path).bands()]
    assert len(bands) > 1
    np.testing.assert_array_equal(np.concatenate(bands), read_image(path).pixels)


def test_which_files_are_slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(16, 16))
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for pixels, expected in ((H * W, True), (H * W + 1, False)):
        monkeypatch.setattr(source, "SLIDE_PIXELS", pixels)
        assert bool(slide_shape(path)) is expected
        assert not slide_shape(tmp_path / "a.png")  # its size is known when it has been decoded
    with pytest.raises(ImageError, match="no such file"):
        slide_shape(tmp_path / "none.tif")


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (16, 16)},
        {"tile": (48, 48), "compression": "zlib"},
        {"rowsperstrip": 1, "compression": "zlib"},
        {"rowsperstrip": 11, "compression": "zlib", "planarconfig": "separate"},
    ],
)
def test_every_strip_and_tile_is_decoded_once(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    colour(path, TALL, **options)
    taken: list[int] = []
    read_segments = tifffile.FileHandle.read_segments

    def note(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for data, number in read_segments(*args, **kwargs):
            taken.append(number)
            yield data, number

    monkeypatch.setattr(tifffile.FileHandle, "read_segments", note)
    read = windows(band.pixels for band in stream(path).bands())
    for top in range(0, 5 * H - 64, 32):  # as the tiles of the network overlap
        np.testing.assert_array_equal(read(top, top + 64), TALL[top : top + 64])
    read(5 * H - 1, 5 * H)
    with tifffile.TiffFile(path) as tif:
        assert sorted(taken) == list(range(len(tif.pages.first.dataoffsets)))


def test_windows_hold_only_what_they_show() -> None:
    whole = RNG.integers(0, 256, (200, 5, 3), dtype=np.uint8)
    heights = RNG.integers(1, 20, 200).cumsum()
    alive: list[weakref.ref[np.ndarray]] = []

    def bands() -> Iterator[np.ndarray]:
        for band in np.split(whole, heights[heights < 200]):
            copy = band.copy()
            alive.append(weakref.ref(copy))
            yield copy
            del copy

    read = windows(bands())
    tops = np.sort(RNG.integers(0, 190, 40))
    bottom = 0
    for top in tops:
        bottom = max(bottom, int(top + RNG.integers(1, 11)))
        np.testing.assert_array_equal(read(top, bottom), whole[top:bottom])
        rows = sum(len(band) for ref in alive if (band := ref()) is not None)
        assert rows <= bottom - top + 2 * 19
    assert bottom > 150


def test_memory_does_not_grow_with_the_height(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "a.tif"
    strips = (RGB.tobytes() for _ in range(200))
    tifffile.imwrite(
        path, strips, shape=(200 * H, W, 3), dtype=np.uint8, rowsperstrip=H, photometric="rgb"
    )
    tracemalloc.start()
    survey(stream(path), model, Options())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 5


# --- statistics


def with_margins(pixels: np.ndarray) -> np.ndarray:
    framed = np.zeros((2 * H, W + 40, *pixels.shape[2:]), pixels.dtype)
    framed[37 : 37 + H, 11 : 11 + W] = pixels
    return framed


PICTURES = {
    "RGB": RGB,
    "uint16": DEEP,
    "int16": (DEEP >> 1).astype("i2") - 9000,
    "int32": DEEP.astype("i4") * 30_000 - 10**9,
    "float32": FLOAT,
    "float64": FLOAT.astype("f8") * 1e9,
    "margins": with_margins(RGB),
    "margins, float": with_margins(np.nan_to_num(FLOAT) - 0.5),
    "faint margins": with_margins(DEEP) + np.uint16(1),  # that the stretch takes to 0
    "black": np.zeros_like(RGB),
    "constant": np.full_like(DEEP, 300),
    "one bright pixel": np.eye(1, H * W, 777, dtype=np.uint8).reshape(H, W),
    "an empty channel": RGB * np.array([1, 0, 1], np.uint8),
}


@pytest.mark.parametrize("name", PICTURES)
def test_survey_finds_the_numbers_of_the_whole(tmp_path: Path, name: str, model: Model) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PICTURES[name], rowsperstrip=10, compression="zlib")
    whole = read_image(path)
    normalised = normalise_channels(whole.pixels)
    box = content_box(normalised.transpose(2, 0, 1))
    found = survey(stream(path), model, Options())
    np.testing.assert_array_equal(found.read()(0, len(normalised)), normalised)
    assert found.box == box
    scaling = scaling_of(normalised, box)
    np.testing.assert_array_equal(found.scaling.mean, scaling.mean)
    np.testing.assert_array_equal(found.scaling.std, scaling.std)
    assert set(found.notes) == set(whole.notes)


# --- labels


def local_contrast(tiles: np.ndarray) -> np.ndarray:
    """A network that costs nothing, and whose logits depend on where the tile ends."""
    grey = tiles.mean(axis=1)
    relief = grey - ndimage.uniform_filter(grey, (0, 15, 15), mode="constant")
    return np.stack([-relief, relief, np.full_like(relief, 0.15)], axis=1)


@pytest.fixture
def model(bundle: Path) -> Model:
    return Model(open_bundle(bundle), (local_contrast,), ("0",), "cpu")


def assert_labels_are_those_of_the_whole(path: Path, model: Model, **choices: Any) -> None:
    """The labels of one pass, averaged: slides are too large for a second pass and for votes."""
    options = replace(SIMPLE, **choices)
    label = path.parent / "labels" / "a_label.tiff"
    label.parent.mkdir(exist_ok=True)
    [outcome] = segment_files([path], label.parent, model, options)
    whole = read_image(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "SLIDE_PIXELS", 10**9)
        expected = predict(path, model, options).labels
    np.testing.assert_array_equal(read_label(label), expected)
    assert outcome.cells == expected.max()
    of_file = {n for n in outcome.notes if "cells of about" not in n and "µm" not in n}
    of_file -= {n for n in of_file if n.startswith("tiles that show nothing")}
    assert of_file == set(whole.notes)
    assert [file.name for file in label.parent.iterdir()] == [label.name]


@pytest.mark.parametrize("name", TIFFS)
def test_labels_of_every_kind_of_file(tmp_path: Path, name: str, model: Model) -> None:
    path = tmp_path / "a.tif"
    TIFFS[name](path)
    assert_labels_are_those_of_the_whole(path, model)


SLIDE_LAYOUTS: list[dict[str, Any]] = [
    {"tile": (64, 64), "compression": "zlib"},
    {"rowsperstrip": 5, "compression": "lzw"},
    {"tile": (32, 48), "bigtiff": True},
]


each_sample = pytest.mark.parametrize(
    "sample", sorted(SAMPLE_IMAGES.glob("*.png")), ids=lambda path: path.name[:7]
)


@pytest.mark.parametrize("decoder", ["regrow", "paper"])
@pytest.mark.parametrize("layout", range(len(SLIDE_LAYOUTS)))
@each_sample
def test_labels_of_real_images(
    tmp_path: Path, sample: Path, layout: int, decoder: str, model: Model
) -> None:
    pixels = np.asarray(Image.open(sample))[:300, :340]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, **SLIDE_LAYOUTS[layout])
    assert_labels_are_those_of_the_whole(path, model, decoder=decoder)
    assert read_label(tmp_path / "labels" / "a_label.tiff").max() > 10


@each_sample
def test_labels_of_the_real_network(tmp_path: Path, sample: Path) -> None:
    compact = load_model(device="cpu")
    bundle = replace(compact.bundle, tile=128, smallest=64)
    small = replace(compact, bundle=bundle)
    path = tmp_path / "a.tif"
    pyramid(path, np.asarray(Image.open(sample).convert("RGB"))[:300, :200], tile=(32, 32))
    assert_labels_are_those_of_the_whole(path, small, diameter=bundle.diameter)  # as it is
    assert read_label(tmp_path / "labels" / "a_label.tiff").max() > 0


@pytest.mark.parametrize("name", PICTURES)
def test_labels_of_odd_pictures(tmp_path: Path, name: str, model: Model) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PICTURES[name], rowsperstrip=10, compression="zlib")
    assert_labels_are_those_of_the_whole(path, model)


def test_maps_on_disk(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SMOOTH, photometric="rgb", tile=(32, 32))
    assert_labels_are_those_of_the_whole(path, model)


# --- errors


def assert_fails(path: Path, model: Model, *names: str) -> None:
    """One line that names these, and nothing left behind."""
    label = path.parent / "labels" / "a_label.tiff"
    label.parent.mkdir(exist_ok=True)
    [outcome] = segment_files([path], label.parent, model, SIMPLE)
    message = outcome.error or ""
    assert len(message.splitlines()) == 1
    assert "; " in message
    for name in names:
        assert message.count(name) == 1
    assert not list(label.parent.iterdir())


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", RGB_LAYOUTS)
def test_file_that_ends_early(tmp_path: Path, name: str, share: float, model: Model) -> None:
    path = tmp_path / "a.tif"
    TIFFS[name](path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert_fails(path, model, str(path))


@pytest.mark.parametrize("options", [{"tile": (16, 16)}, {"rowsperstrip": 4}])
def test_damage_in_the_middle_of_a_band(
    tmp_path: Path, options: dict[str, Any], model: Model
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", compression="zlib", **options)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        at = tif.pages.first.dataoffsets[12]
    data[at : at + 100] = bytes(100)
    path.write_bytes(data)
    assert_fails(path, model, str(path), "cannot be decoded")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_file_that_is_cut_while_it_is_read(
    tmp_path: Path, compression: str | None, model: Model
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, TALL, photometric="rgb", rowsperstrip=16, compression=compression)

    def cut(tiles: np.ndarray) -> np.ndarray:
        os.truncate(path, path.stat().st_size // 4)
        return local_contrast(tiles)

    assert_fails(path, replace(model, networks=(cut,)), str(path))


def test_what_is_no_image(tmp_path: Path, model: Model) -> None:
    assert_fails(tmp_path / "none.tif", model, "none.tif", "no such file")
    for name in ("a.tif", "a.png", "a.txt"):
        path = tmp_path / name
        path.write_text("this is no image")
        assert_fails(path, model, name)


def test_size_limit(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(16, 16))
    monkeypatch.setattr("reunet.io.limits.MAX_PIXELS", H * W - 1)
    assert_fails(path, model, str(path), "above the limit")


# --- disks


def refuse(_: np.ndarray) -> np.ndarray:
    raise AssertionError("the network was started")


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No process of ours may write a larger file: as good as a full disk, and needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SMOOTH, photometric="rgb", rowsperstrip=16)
    return path


@pytest.mark.parametrize("in_memory", [0, 2**29])
def test_a_full_disk_is_seen_before_the_network_starts(
    path: Path, model: Model, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs_result((4096, 4096, 1000, 0, 0, 1000, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    monkeypatch.setattr(scratch, "IN_MEMORY", in_memory)
    assert_fails(path, replace(model, networks=(refuse,)), "a_label.tiff", "0 MB are free")


def test_room_that_others_took_meanwhile(
    path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    with largest_file(2 * H * W):  # the classes fit, the labels do not
        assert_fails(path, replace(model, networks=(refuse,)), "a_label.tiff", "file too large")


def test_disk_that_fills_up_while_the_label_is_written(path: Path, model: Model) -> None:
    with largest_file(1000):
        assert_fails(path, model, "a_label.tiff", "file too large")


def test_maps_on_disk_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    array = scratch.zeros((50, 40), np.int32, tmp_path / "a_label.tiff")
    assert isinstance(array, np.memmap)
    assert not array.any()
    array[:] = 7
    assert not list(tmp_path.iterdir())  # so a killed process leaves nothing either


@pytest.mark.parametrize("flat", [True, False])
def test_a_picture_in_the_alpha_channel_alone_is_told(
    tmp_path: Path, flat: bool, model: Model
) -> None:
    pixels = np.full((60, 70, 4), 90, np.uint8)
    pixels[20:40, 20:40, 3 if flat else 1] = 255
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"])
    assert (FLAT_WITH_ALPHA in survey(stream(path), model, Options()).notes) == flat
