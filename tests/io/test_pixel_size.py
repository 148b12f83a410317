"""How large a pixel is: read from files as other programs write them."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from reunet.io.images import read_pixel_size
from reunet.io.pixel_size import PixelSize, parse_pixel_size, tiff_resolution

GREY = np.zeros((20, 30), np.uint16)


def told(path: Path) -> tuple[float, float, str] | None:
    size = read_pixel_size(path)
    return (round(size.x, 6), round(size.y, 6), size.source) if size else None


@pytest.mark.parametrize(
    ("x", "y", "unit", "expected"),
    [
        (0.5, 0.5, "µm", (0.5, 0.5, "OME")),
        (250, 500, "nm", (0.25, 0.5, "OME")),
        (0.001, 0.001, "mm", (1, 1, "OME")),
        (3, 3, "pixel", None),
        (0, 0.5, "µm", None),
        (-1, -1, "µm", None),
    ],
)
def test_ome(x: float, y: float, unit: str, expected: object, tmp_path: Path) -> None:
    file = tmp_path / "a.ome.tif"
    size = {"PhysicalSizeX": x, "PhysicalSizeXUnit": unit}
    size |= {"PhysicalSizeY": y, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(file, GREY, ome=True, metadata={"axes": "YX", **size})
    assert told(file) == expected


def test_ome_without_a_unit_is_in_micrometres(tmp_path: Path) -> None:
    file = tmp_path / "a.ome.tif"
    size = {"PhysicalSizeX": 0.3, "PhysicalSizeY": 0.3}
    tifffile.imwrite(file, GREY, ome=True, metadata={"axes": "YX", **size})
    assert told(file) == (0.3, 0.3, "OME")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("um", (0.25, 0.25, "ImageJ")),
        ("micron", (0.25, 0.25, "ImageJ")),
        ("\\u00B5m", (0.25, 0.25, "ImageJ")),
        ("nm", (0.00025, 0.00025, "ImageJ")),
        ("pixel", None),
        ("furlong", None),
    ],
)
def test_imagej(unit: str, expected: object, tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, GREY, imagej=True, resolution=(4, 4), metadata={"unit": unit})
    assert told(file) == expected


def test_aperio(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    description = "Aperio Image Library v11\n30x20 Q=30|AppMag = 20|MPP = 0.4990|Left = 1"
    tifffile.imwrite(file, GREY, description=description, metadata=None)
    assert told(file) == (0.499, 0.499, "Aperio")


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((20_000, 20_000), "centimeter", (0.5, 0.5, "resolution tags")),
        ((50_800, 25_400), "inch", (0.5, 1.0, "resolution tags")),
        ((72, 72), "inch", None),  # of a print
        ((300, 300), "inch", None),
        ((1, 1), "none", None),
        ((0, 0), "centimeter", None),
    ],
)
def test_resolution_tags(
    resolution: tuple[int, int], unit: str, expected: object, tmp_path: Path
) -> None:
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, GREY, resolution=resolution, resolutionunit=unit, metadata=None)
    assert told(file) == expected


def test_what_a_label_is_written_with_is_read_again(tmp_path: Path) -> None:
    file, size = tmp_path / "a.tif", PixelSize(0.2345, 0.501, "given")
    tifffile.imwrite(file, GREY, **tiff_resolution(size))
    again = read_pixel_size(file)
    assert again is not None
    assert (again.x, again.y) == pytest.approx((size.x, size.y), rel=1e-6)
    assert tiff_resolution(None) == {}


def test_other_files_tell_nothing(tmp_path: Path) -> None:
    from PIL import Image

    png, text = tmp_path / "a.png", tmp_path / "a.tif"
    Image.new("L", (4, 4)).save(png, dpi=(300, 300))
    text.write_text("no picture")
    assert told(png) is told(text) is told(tmp_path / "missing.tif") is None


def test_axes_that_differ_are_told() -> None:
    assert PixelSize(0.5, 0.5, "OME").notes == ()
    (note,) = PixelSize(0.4, 0.9, "OME").notes
    assert "not square (0.4 × 0.9 µm)" in note
    assert "0.6 µm" in note
    assert PixelSize(0.4, 0.9, "OME").area == pytest.approx(0.36)


@pytest.mark.parametrize(
    ("text", "x", "y"), [("0.5", 0.5, 0.5), ("0.5,0.6", 0.5, 0.6), ("0.25um", 0.25, 0.25)]
)
def test_a_size_that_is_typed(text: str, x: float, y: float) -> None:
    assert parse_pixel_size(text) == PixelSize(x, y, "given")


@pytest.mark.parametrize("text", ["0", "-1", "0.5,0", "a", "", "1,2,3", "nan", "inf", "1e9"])
def test_a_size_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"write 0\.5"):
        parse_pixel_size(text)
