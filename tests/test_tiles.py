"""Geometry of the sliding window: its invariants, and nnU-Net's rules to the bit."""

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

from reunet.tiles import (
    centred_padding,
    content_box,
    gaussian_importance,
    tile_starts,
    tile_windows,
)

TILES = (1, 2, 7, 32, 64)
STEPS = (0.25, 0.5, 1.0)
SIZES = [(64, 64), (512, 512), (1024, 1024), (512, 256), (1, 64), (1, 1), (7, 33), (65, 127)]


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


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("tile", TILES)
def test_starts_are_those_of_nnunet(tile: int, step: float) -> None:
    for length in range(tile, 6 * tile + 3):
        (theirs,) = compute_steps_for_sliding_window((length,), (tile,), step)
        assert tile_starts(length, tile, step) == theirs


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


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_weights_are_those_of_nnunet(height: int, width: int) -> None:
    for dtype, theirs_dtype in ((np.float16, torch.half), (np.float32, torch.float32)):
        theirs = compute_gaussian(
            (height, width),
            value_scaling_factor=10,
            dtype=theirs_dtype,
            device=torch.device("cpu"),
        ).numpy()
        mine = gaussian_importance(height, width, dtype)
        assert mine.dtype == dtype
        assert mine.min() > 0
        assert np.array_equal(mine, theirs)


def test_content_box_is_that_of_nnunet() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        image = (rng.random((3, 9, 12)) > 0.99).astype(np.uint8)
        box = content_box(image)
        cropped, *_ = crop_to_nonzero(image[:, None])  # 2-D is one slice of 3-D to nnU-Net
        assert np.array_equal(image[:, *box], cropped[:, 0])


def test_one_channel_is_content_enough() -> None:
    image = np.zeros((3, 5, 7), np.uint8)
    image[2, 4, 1:3] = 1
    assert content_box(image) == (slice(4, 5), slice(1, 3))


def test_an_all_black_image_is_all_content() -> None:
    assert content_box(np.zeros((3, 5, 7), np.uint8)) == (slice(0, 5), slice(0, 7))


@pytest.mark.parametrize("shape", [(1, 1), (9, 64), (64, 63), (70, 33), (100, 100)])
def test_padding_is_that_of_nnunet(shape: tuple[int, int]) -> None:
    image = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    theirs = pad_nd_image(image, (64, 64))
    assert np.array_equal(np.pad(image, centred_padding(shape, (64, 64))), theirs)
