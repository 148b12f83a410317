"""Images and labels at another size, and the factor that brings cells to one size."""

import numpy as np
import pytest
from PIL import Image

from reunet.inference.scale import (
    MAX_ZOOM,
    MIN_ZOOM,
    MOST_GROWTH,
    MOST_PIXELS,
    scale_bands,
    scale_image,
    scale_labels,
    scaled_shape,
    typical_diameter,
    zoom_for,
)

NOISE = np.random.default_rng(0).integers(0, 256, (301, 173, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(301, 173), (100, 60), (37, 171), (700, 402), (333, 200)])
@pytest.mark.parametrize("band", [1, 64, 301])
def test_bands_are_scaled_like_the_whole(shape: tuple[int, int], band: int) -> None:
    bands = (NOISE[top : top + band] for top in range(0, len(NOISE), band))
    found = np.concatenate(list(scale_bands(bands, (301, 173), shape)))
    expected = scale_image(NOISE, shape)
    np.testing.assert_array_equal(found, expected)
    how = Image.Resampling.BILINEAR if shape[0] > 301 else Image.Resampling.BOX
    at_once = np.asarray(Image.fromarray(NOISE).resize(shape[::-1], how))
    assert np.abs(expected.astype(int) - at_once).max() <= 1  # rounding of the filters' weights


def test_means_survive_and_edges_stay_in_place() -> None:
    step = np.zeros((120, 90, 3), np.uint8)
    step[60:] = 200
    for shape in ((40, 30), (360, 270)):
        scaled = scale_image(step, shape)
        assert abs(float(scaled.mean()) - 100) < 1
        assert scaled[: shape[0] // 2 - 3].max() == 0
        assert scaled[shape[0] // 2 + 3 :].min() == 200


def test_labels_keep_their_numbers_and_places() -> None:
    labels = np.zeros((60, 80), np.uint16)
    labels[10:30, 20:50], labels[40:55, 60:75] = 7, 65535
    for shape in ((120, 160), (30, 40), (61, 79)):
        scaled = scale_labels(labels, shape)
        assert scaled.shape == shape
        assert scaled.dtype == labels.dtype
        assert set(np.unique(scaled)) == {0, 7, 65535}
        area = (scaled == 7).sum() / scaled.size
        assert area == pytest.approx(600 / 4800, rel=0.1)
        np.testing.assert_array_equal(scale_labels(labels, shape, slice(5, 20)), scaled[5:20])


def test_the_typical_diameter_goes_by_area() -> None:
    labels = np.zeros((200, 200), np.int32)
    labels[20:60, 20:60] = 1
    for n in range(50):
        labels[100 + n % 10 * 4, 20 + n // 10 * 4] = n + 2  # specks
    assert typical_diameter(labels) == pytest.approx(40 * (4 / np.pi) ** 0.5)
    assert typical_diameter(np.zeros((5, 5), int)) == 0


@pytest.mark.parametrize(
    ("diameter", "zoom"), [(30, 1), (15, 2), (60, 0.5), (1, MAX_ZOOM), (5000, MIN_ZOOM)]
)
def test_cells_come_to_the_wanted_size_within_bounds(diameter: float, zoom: float) -> None:
    found, note = zoom_for(diameter, 30, (100, 100))
    assert found == pytest.approx(zoom)
    assert f"{diameter:.3g} px" in note


def test_no_image_grows_beyond_the_bound_and_none_shrinks_for_it() -> None:
    zoom, note = zoom_for(10, 30, (1000, 1000))
    assert zoom**2 * 1e6 == pytest.approx(MOST_PIXELS)
    assert "too long" in note
    assert zoom_for(10, 30, (4000, 4000))[0] ** 2 == pytest.approx(MOST_GROWTH)
    assert zoom_for(60, 30, (4000, 4000))[0] == 0.5
    assert zoom_for(None, 30, (100, 100))[0] == 1


def test_no_edge_vanishes() -> None:
    assert scaled_shape((1, 5000), 0.001) == (8, 200)
