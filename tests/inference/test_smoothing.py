"""Means and Gaussians are SciPy's, to the bit: cells are found by the places of their peaks."""

import numpy as np
import pytest
from scipy import ndimage

from reunet.inference.smoothing import ROWS, box_means, gaussian

SHAPES = [(1, 1), (1, 90), (7, 3), (56, 41), (ROWS, 20), (2 * ROWS + 5, 130)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("edge", [1, 2, 5, 20, 56])
def test_box_means_are_scipys(shape: tuple[int, int], edge: int) -> None:
    values = np.random.default_rng(edge).random(shape, np.float32) ** 4
    size = min(edge, shape[0]), min(edge, shape[1])
    expected = ndimage.uniform_filter(values, size, mode="constant")
    found = box_means(values, size)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("sigma", "radius"), [(1.5, 6), (0.7, 2), (3.0, 9)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_gaussians_are_scipys(
    shape: tuple[int, int], sigma: float, radius: int, dtype: type[np.generic]
) -> None:
    values = np.random.default_rng(radius).integers(0, 256, shape).astype(dtype)
    expected = ndimage.gaussian_filter(values.astype(np.float32), sigma, radius=radius)
    found = gaussian(values, sigma, radius)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
