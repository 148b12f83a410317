"""Arrays that are handed over: whatever their byte order, axes and library, or one clear line."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from reunet import ReUNetWarning, load_model, segment
from reunet.io.arrays import picture_of

RNG = np.random.default_rng(1)
GREY = RNG.integers(1, 255, (40, 50), dtype=np.uint8)
COLOUR = RNG.integers(1, 255, (40, 50, 3), dtype=np.uint8)


def pixels_of(image: Any, axes: str | None = None) -> np.ndarray:
    return picture_of(image, axes).pixels


@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
def test_byte_order_does_not_matter(dtype: str) -> None:
    swapped = GREY.astype(f">{dtype}")
    read = pixels_of(swapped)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, pixels_of(GREY.astype(f"<{dtype}")))


def test_labels_of_a_memory_map_of_an_imagej_tiff(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY * np.uint16(200), imagej=True, byteorder=">")
    mapped = tifffile.memmap(path, mode="r")
    assert mapped.dtype.byteorder == ">"
    model = load_model(bundle, "cpu")
    np.testing.assert_array_equal(segment(mapped, model), segment(GREY * np.uint16(200), model))


@pytest.mark.parametrize("shape", [(3, 40, 50), (7, 40, 50), (2, 40, 50, 3), (40, 50, 31), (9,)])
def test_unclear_axes_are_an_error_that_names_the_way_out(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match='"CYX"'):
        picture_of(np.zeros(shape, np.uint8))


def test_axes_resolve_them() -> None:
    stack = np.stack([GREY, GREY[::-1]])
    first = np.moveaxis(COLOUR, -1, 0)
    np.testing.assert_array_equal(pixels_of(first, "CYX"), COLOUR)
    np.testing.assert_array_equal(pixels_of(first, "cyx"), COLOUR)
    np.testing.assert_array_equal(pixels_of(COLOUR, "YXS"), COLOUR)
    np.testing.assert_array_equal(pixels_of(COLOUR.transpose(1, 0, 2), "XYC"), COLOUR)
    picture = picture_of(stack, "ZYX")
    np.testing.assert_array_equal(picture.pixels[..., 0], GREY)
    assert picture.notes == ("axis Z holds 2 planes, the first is used",)
    np.testing.assert_array_equal(pixels_of(np.stack([first, first]), "TCYX"), COLOUR)


@pytest.mark.parametrize("axes", ["YX", "CYY", "CZT", "CSYX", "ABCDE"])
def test_axes_that_do_not_fit(axes: str) -> None:
    with pytest.raises(ValueError, match="axes"):
        picture_of(np.zeros((3, 40, 50)), axes)


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 3), (40, 50, 4), (1, 1, 3)])
def test_what_is_clear_needs_no_axes(shape: tuple[int, ...]) -> None:
    assert pixels_of(np.ones(shape, np.uint8)).shape == (*shape[:2], 3)


def test_one_plane_in_front() -> None:
    np.testing.assert_array_equal(pixels_of(GREY[np.newaxis]), pixels_of(GREY))


def test_other_libraries_arrays() -> None:
    import torch

    np.testing.assert_array_equal(pixels_of(torch.tensor(COLOUR)), COLOUR)
    np.testing.assert_array_equal(pixels_of(GREY.tolist()), pixels_of(GREY))
    np.testing.assert_array_equal(pixels_of(Image.fromarray(COLOUR)), COLOUR)
    np.testing.assert_array_equal(pixels_of(Image.fromarray(np.dstack([COLOUR, GREY]))), COLOUR)
    indexed = Image.fromarray(COLOUR).quantize(64)
    np.testing.assert_array_equal(pixels_of(indexed), np.asarray(indexed.convert("RGB")))
    lazy_type = type("Lazy", (), {"__array__": lambda *_, **__: COLOUR})
    np.testing.assert_array_equal(pixels_of(lazy_type()), COLOUR)
    named = type("Named", (), {"__array__": lazy_type.__array__, "dims": ("x", "y", "c")})
    np.testing.assert_array_equal(pixels_of(named()), COLOUR.transpose(1, 0, 2))
    masked = np.ma.masked_array(GREY, GREY > 200)
    picture = picture_of(masked)
    np.testing.assert_array_equal(picture.pixels[..., 0], np.where(GREY > 200, 0, GREY))
    assert picture.notes == ("masked values were set to 0",)


def test_arrays_of_dask() -> None:
    dask_array = pytest.importorskip("dask.array", reason="needs pip install 'reunet[dask]'")
    np.testing.assert_array_equal(pixels_of(dask_array.from_array(COLOUR, chunks=16)), COLOUR)


def test_arrays_of_zarr(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="needs pip install 'reunet[zarr]'")
    stored = zarr.create_array(tmp_path / "a.zarr", shape=GREY.shape, dtype=">u2", chunks=(16, 16))
    stored[:] = GREY
    np.testing.assert_array_equal(pixels_of(stored)[..., 0], GREY)


def test_arrays_of_xarray_name_their_axes() -> None:
    xarray = pytest.importorskip("xarray", reason="needs pip install xarray")
    named = xarray.DataArray(np.moveaxis(COLOUR, -1, 0), dims=("c", "y", "x"))
    np.testing.assert_array_equal(pixels_of(named), COLOUR)


@pytest.mark.parametrize(
    "image", [None, object(), {"a": 1}, [[1, 2], [3]], np.array([["a"]]), np.ones((4, 4), complex)]
)
def test_what_is_no_image_is_refused_by_one_line(image: Any) -> None:
    with pytest.raises(ValueError, match="pass") as caught:
        picture_of(image)
    assert str(caught.value).isprintable()


def test_a_tensor_that_cannot_be_an_array_is_refused_by_one_line() -> None:
    import torch

    with pytest.raises(ValueError, match="Tensor cannot be made a NumPy array"):
        picture_of(torch.ones((4, 4), requires_grad=True))


def test_notes_reach_the_caller_as_warnings_of_their_own(bundle: Path, tmp_path: Path) -> None:
    model = load_model(bundle, "cpu")
    tifffile.imwrite(tmp_path / "a.tif", np.stack([GREY] * 4), photometric="minisblack")
    with pytest.warns(ReUNetWarning, match="holds 4 planes"):
        segment(tmp_path / "a.tif", model)
    with pytest.warns(ReUNetWarning, match="holds 2 planes"):
        segment(np.stack([GREY, GREY]), model, axes="ZYX")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment(GREY, model)


def test_any_path_like(bundle: Path, tmp_path: Path) -> None:
    class Somewhere:
        def __fspath__(self) -> str:
            return str(tmp_path / "a.png")

    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    model = load_model(bundle, "cpu")
    expected = segment(COLOUR, model)
    for path in (Somewhere(), tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(segment(path, model), expected)
    with pytest.raises(ValueError, match="a file tells its own"):
        segment(tmp_path / "a.png", model, axes="YXC")
