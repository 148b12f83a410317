"""Geometry of the sliding window: its invariants."""

import numpy as np
import pytest
from as_nnunet import tile_windows

from reunet.inference.tiles import content_box, tile_starts

TILES = (1, 2, 7, 32, 64)
STEPS = (0.25, 0.5, 1.0)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("tile", TILES)
def test_starts_cover_the_axis_in_small_even_steps(tile: int, step: float) -> None:
    for length in range(tile, 6 * tile + 3):
        starts = tile_starts(length, tile, step)
        gaps = np.diff(starts)
        assert starts[0] == 0
        assert starts[-1] == length - tile
        assert (gaps >= 0).all()
        # A step of a fraction of a pixel is rounded, and so are both its ends.
        assert (gaps <= tile * step + 1).all()
        assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_neighbours_overlap_by_half_a_tile_or_more() -> None:
    for length in range(64, 1000):
        assert (np.diff(tile_starts(length, 64)) <= 32).all()


@pytest.mark.parametrize(("length", "tile", "step"), [(63, 64, 0.5), (9, 0, 0.5), (9, 4, 0)])
def test_impossible_tiles_are_refused(length: int, tile: int, step: float) -> None:
    with pytest.raises(ValueError, match="tile"):
        tile_starts(length, tile, step)


@pytest.mark.parametrize("shape", [(64, 64), (65, 200), (131, 64)])
def test_windows_cover_the_image_and_stay_within(shape: tuple[int, int]) -> None:
    hits = np.zeros(shape, int)
    for window in tile_windows(shape, (64, 32)):
        assert hits[window].shape == (64, 32)
        hits[window] += 1
    assert hits.min() >= 1


def test_one_channel_is_content_enough() -> None:
    image = np.zeros((3, 5, 7), np.uint8)
    image[2, 4, 1:3] = 1
    assert content_box(image) == (slice(4, 5), slice(1, 3))


def test_an_all_black_image_is_all_content() -> None:
    assert content_box(np.zeros((3, 5, 7), np.uint8)) == (slice(0, 5), slice(0, 7))
