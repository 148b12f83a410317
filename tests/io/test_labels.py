"""Label files: types, pixel sizes and pyramids, read again by tifffile."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from reunet.io import labels as module
from reunet.io.images import read_label, read_pixel_size
from reunet.io.labels import label_origin, write_label
from reunet.io.pixel_size import PixelSize

SIZE = PixelSize(0.25, 0.5, "OME")
ORIGIN = 'image 12 <&> "quoted", weights µ'


def some(highest: int) -> np.ndarray:
    labels = np.zeros((70, 50), np.int64)
    labels[10:20, 30:40], labels[60:, :9] = 1, highest
    return labels


@pytest.mark.parametrize(
    ("layout", "highest", "dtype"),
    [
        ("viewer", 9, "uint16"),
        ("viewer", 65_535, "uint16"),
        ("viewer", 65_536, "uint32"),
        ("challenge", 32_767, "int16"),
        ("challenge", 32_768, "uint16"),
        ("challenge", 65_536, "int32"),
    ],
)
@pytest.mark.parametrize("pyramid", [False, True])
def test_the_smallest_type_that_fits(
    layout: str, highest: int, dtype: str, pyramid: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if pyramid:
        monkeypatch.setattr(module, "PYRAMID_FROM", 1)
    file, labels = tmp_path / "a_label.tiff", some(highest)
    write_label(file, labels, ORIGIN, layout=layout, pixel_size=SIZE)
    stored = read_label(file)
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, labels)
    with tifffile.TiffFile(file) as tiff:
        assert label_origin(tiff) == ORIGIN
        assert tiff.is_ome == (pyramid and layout == "viewer")
    size = read_pixel_size(file)
    if layout == "challenge":
        assert size is None
    else:
        assert size is not None
        assert (size.x, size.y) == pytest.approx((0.25, 0.5))


def test_slides_are_pyramids_of_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PYRAMID_FROM", 2_000_000)
    rng = np.random.default_rng(1)
    labels = np.kron(rng.integers(0, 60_000, (330, 161)), np.ones((8, 16), int))
    file = tmp_path / "a_label.tiff"
    write_label(file, labels, ORIGIN, pixel_size=SIZE)
    with tifffile.TiffFile(file) as tiff:
        (series,) = tiff.series
        assert [level.shape for level in series.levels] == [(2640, 2576), (1320, 1288), (660, 644)]
        assert all(level.keyframe.is_tiled for level in series.levels)
        for n, level in enumerate(series.levels):
            np.testing.assert_array_equal(level.asarray(), labels[:: 2**n, :: 2**n])
        x = [level.keyframe.tags["XResolution"].value for level in series.levels]
        assert [round(d / n * 1e4, 3) for n, d in x] == [0.25, 0.5, 1.0]
    np.testing.assert_array_equal(read_label(file), labels)


@pytest.mark.parametrize("layout", ["viewer", "challenge"])
def test_labels_that_fit_nothing_are_refused(layout: str, tmp_path: Path) -> None:
    for highest in (-1, 2**40):
        with pytest.raises(ValueError, match="labels must lie in"):
            write_label(tmp_path / "a_label.tiff", some(highest), layout=layout)
    assert not list(tmp_path.iterdir())


def test_labels_without_a_known_size_claim_none(tmp_path: Path) -> None:
    write_label(tmp_path / "a_label.tiff", some(3))
    assert read_pixel_size(tmp_path / "a_label.tiff") is None
