"""The watershed of the distance field, against scikit-image's and cells known in advance."""

import time

import numpy as np
import pytest
from scipy import ndimage

from reunet.inference.sliding_window import FIELD_LEVELS
from reunet.instances.encode import encode
from reunet.instances.peaks import LOWEST_PEAK, PERSISTENCE, SURE, decode_field, watershed


def discs(centres: list[tuple[int, int]], radius: int, shape: tuple[int, int]) -> np.ndarray:
    """Instances, the later ones over the earlier."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for number, (row, column) in enumerate(centres, 1):
        labels[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = number
    return labels


def distance_field(instances: np.ndarray) -> np.ndarray:
    """Of each cell on its own: the distance to what is not of it, as a share of the largest."""
    field = np.zeros(instances.shape)
    for cell in range(1, instances.max() + 1):
        distance = ndimage.distance_transform_edt(instances == cell)
        field += distance / max(1, distance.max())
    return field


def maps_of(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Perfect class map and stored field of instances."""
    field = np.rint(distance_field(instances) * FIELD_LEVELS).astype(np.uint8)
    return encode(instances), field


def relief(seed: int, shape: tuple[int, int] = (90, 110)) -> np.ndarray:
    """Smooth hills, a third of them above the sea. (H, W) uint8."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 4)
    high = np.clip((noise - np.quantile(noise, 0.4)) / np.ptp(noise) * 2.2, 0, 1.2)
    return np.asarray((high * FIELD_LEVELS).astype(np.uint8))


def decoded(height: np.ndarray, band: int) -> np.ndarray:
    out = np.empty(height.shape, np.int32)
    rows = len(height)
    watershed(height, out, [(top, min(top + band, rows)) for top in range(0, rows, band)])
    return out


@pytest.mark.parametrize("seed", range(4))
def test_every_height_of_the_bands_gives_the_same(seed: int) -> None:
    height = relief(seed)
    whole = decoded(height, len(height))
    assert whole.max() > 3
    for band in (1, 2, 7, 31):
        np.testing.assert_array_equal(decoded(height, band), whole)


@pytest.mark.parametrize("seed", range(6))
def test_cells_are_the_h_maxima_of_the_logarithm_by_scikit_image(seed: int) -> None:
    morphology = pytest.importorskip("skimage.morphology")
    height = relief(seed)
    found = decoded(height, len(height))
    steps = 10**6  # of the logarithm: a share of a peak is a depth below its logarithm
    logarithm = np.rint(np.log(np.maximum(height, 0.01)) * steps).astype(np.int32)
    depth = round(-np.log(1 - PERSISTENCE) * steps) - 2  # rounding must not turn equal into less
    peaks = morphology.h_maxima(logarithm, depth)
    marks, count = ndimage.label(peaks, np.ones((3, 3)))
    heights = ndimage.maximum(height, marks, range(1, count + 1))
    expected = {n for n, h in enumerate(heights, 1) if h >= LOWEST_PEAK * FIELD_LEVELS}
    cells = {n: set(found[marks == n].tolist()) for n in expected}
    assert all(len(of_mark) == 1 for of_mark in cells.values())  # no mark is cut
    of_marks = [next(iter(of_mark)) for of_mark in cells.values()]
    large = [cell for cell in of_marks if cell]  # a peak may have too few pixels
    assert len(set(large)) == len(large) == found.max()  # and no two marks share a cell


def test_discs_that_touch_come_apart_where_they_touch() -> None:
    truth = discs([(40, 40), (40, 65), (62, 52)], 14, (100, 100))
    found = decode_field(*maps_of(truth))
    assert found.max() == 3
    for cell in range(1, 4):
        same = truth == np.bincount(truth[found == cell]).argmax()
        assert (same & (found == cell)).sum() / (same | (found == cell)).sum() > 0.85


def test_what_has_no_depth_is_no_cell_whatever_its_class() -> None:
    """Classes that reach 5 px beyond the cell draw it no larger."""
    cell, wide = (discs([(40, 40)], radius, (80, 80)) for radius in (15, 20))
    _, field = maps_of(cell)
    found = decode_field((wide > 0).astype(np.uint8), field)
    assert found.max() == 1
    assert not found[cell == 0].any()


def test_noise_below_the_persistence_cuts_nothing() -> None:
    classes, field = maps_of(discs([(40, 40)], 25, (80, 80)))
    noise = np.random.default_rng(0).normal(0, 0.03 * FIELD_LEVELS, field.shape)
    noisy = np.where(field > 0, np.clip(field + noise, 0, 250), 0).astype(np.uint8)
    assert decode_field(classes, noisy).max() == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_faint_picture_has_the_cells_of_a_clear_one(seed: int) -> None:
    """What parts two cells is told by the share of their peaks, not by how high these are."""
    clear = relief(seed)
    faint = (clear // 3 * 2).astype(np.uint8)
    clear = (clear // 3 * 3).astype(np.uint8)
    high = [decoded(height, len(height)) for height in (clear, faint)]
    lost = high[0][(high[0] > 0) & (high[1] == 0)]
    peaks = ndimage.maximum(faint, high[0], np.unique(lost)) if lost.size else np.zeros(1)
    assert np.max(peaks) < LOWEST_PEAK * FIELD_LEVELS  # these alone are gone
    both = (high[0] > 0) & (high[1] > 0)
    pairs = set(zip(high[0][both].tolist(), high[1][both].tolist(), strict=True))
    assert len(pairs) == high[1].max() > 3


GRID = [(row, column) for row in (25, 65, 105) for column in (25, 65, 105, 145)]


def unsure(levels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A dozen discs, and how probable it is that their pixels are a cell's, (H, W) each."""
    truth = discs(GRID, 14, (130, 170))
    return truth, np.array([0, *levels], np.uint8)[truth]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [None, (390, 510)])
def test_cells_that_are_less_sure_than_the_median_one_go(
    seed: int, shape: tuple[int, int] | None
) -> None:
    levels = np.random.default_rng(seed).integers(120, 256, len(GRID))
    truth, foreground = unsure(levels.tolist())
    found = decode_field(*maps_of(truth), foreground, shape=shape, band=17)
    if shape:
        truth = np.kron(truth, np.ones((3, 3), np.int32))
    kept = set(np.unique(truth[found > 0]).tolist()) - {0}
    assert kept == {n for n, level in enumerate(levels, 1) if level >= SURE * np.median(levels)}
    assert 0 < len(kept) < len(GRID)
    assert found.max() == len(kept)


@pytest.mark.parametrize("level", [20, 128, 255])
def test_where_all_are_as_sure_all_stay(level: int) -> None:
    truth, foreground = unsure([level] * len(GRID))
    np.testing.assert_array_equal(
        decode_field(*maps_of(truth), foreground), decode_field(*maps_of(truth))
    )


def test_what_is_drawn_larger_is_the_same_cells() -> None:
    truth = discs([(20, 20), (20, 50), (45, 35)], 12, (70, 70))
    small, large = (decode_field(*maps_of(truth), shape=s) for s in (None, (280, 210)))
    assert large.shape == (280, 210)
    assert large.max() == small.max() == 3
    near = small[np.ix_(np.arange(280) * 70 // 280, np.arange(210) * 70 // 210)]
    assert (near == large).mean() > 0.97


@pytest.mark.parametrize("value", [0, 1])
def test_pictures_without_cells_and_one_that_a_cell_fills(value: int) -> None:
    classes = np.full((50, 60), value, np.uint8)
    field = np.full((50, 60), value * FIELD_LEVELS, np.uint8)
    found = decode_field(classes, field)
    assert (found == value).all()
    assert decode_field(classes[:0], field[:0]).shape == (0, 60)


def test_ten_thousand_cells_take_no_longer_than_few() -> None:
    """Ten megapixels: the time goes with the pixels in cells, not with the number of cells."""
    tile = np.rint(distance_field(discs([(16, 16)], 15, (32, 32))) * FIELD_LEVELS).astype(np.uint8)
    many = np.tile(tile, (100, 100))
    few = ndimage.zoom(many[:320, :320], 10, order=1)
    seconds = []
    for field in (many, few):
        started = time.process_time()
        found = decode_field((field > 0).astype(np.uint8), field)
        seconds.append(time.process_time() - started)
        assert found.max() == field.size // (1024 if field is many else 102400)
    assert seconds[0] < 3 * seconds[1] + 1
