"""The channel normalisation against the official formula, computed with scikit-image."""

from unittest.mock import Mock

import numpy as np
import pytest

from reunet.inference.normalise import (
    find_stretches,
    histogram,
    normalise_channels,
    scaling_from,
    scaling_of,
    stretch_channels,
    z_score,
    z_score_pixels,
)

RNG = np.random.default_rng(0)
SHAPE = (60, 50, 3)


def official(channel: np.ndarray) -> np.ndarray:
    low, high = np.percentile(channel[channel != 0], (1, 99))
    exposure = pytest.importorskip("skimage.exposure")
    stretched = exposure.rescale_intensity(channel, in_range=(low, high), out_range="uint8")
    return np.asarray(stretched, np.uint8)


IMAGES: dict[str, np.ndarray] = {
    "uint8": RNG.integers(0, 256, SHAPE, dtype=np.uint8),
    "uint8, narrow": RNG.integers(90, 97, SHAPE, dtype=np.uint8),
    "uint16": RNG.integers(0, 65536, SHAPE, dtype=np.uint16),
    "uint16, high": RNG.integers(60000, 65536, SHAPE, dtype=np.uint16),
    "uint32": RNG.integers(0, 2**32, SHAPE, dtype=np.uint32),
    "int16": RNG.integers(1, 32768, SHAPE, dtype=np.int16),
    "float32": RNG.gamma(2, 0.1, SHAPE).astype(np.float32),
    "float64": RNG.gamma(2, 1e4, SHAPE),
    "mostly empty": (RNG.random(SHAPE) > 0.9) * RNG.integers(1, 4000, SHAPE).astype(np.uint16),
}


@pytest.mark.parametrize("name", IMAGES)
def test_against_the_official_formula(name: str) -> None:
    pixels = IMAGES[name]
    before = pixels.copy()
    ours = normalise_channels(pixels)
    assert ours.dtype == np.uint8
    assert ours.shape == SHAPE
    for c in range(3):
        # float32 is stretched in float32 there and in float64 here: a step apart at most
        difference = np.abs(ours[..., c].astype(int) - official(pixels[..., c]))
        assert difference.max() <= (pixels.dtype == np.float32)
        assert (difference > 0).mean() < 1e-3
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_order_is_kept_and_nothing_wraps(dtype: str) -> None:
    highest = np.iinfo(dtype).max if dtype[0] == "u" else 1.0
    ramp = np.linspace(0, highest, 3000).astype(dtype).reshape(60, 50)
    ours = normalise_channels(np.stack([ramp] * 3, axis=-1))[..., 0].ravel()
    assert (np.diff(ours.astype(int)) >= 0).all()
    assert (ours[0], ours[-1]) == (0, 255)


def test_channels_are_independent_and_an_empty_one_stays_empty() -> None:
    pixels = IMAGES["uint16"].copy()
    pixels[..., 1] = 0
    ours = normalise_channels(pixels)
    assert not ours[..., 1].any()
    np.testing.assert_array_equal(ours[..., 0], normalise_channels(IMAGES["uint16"])[..., 0])


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (0, np.uint8, 0),
        (77, np.uint8, 77),
        (300, np.uint16, 255),
        (65535, np.uint16, 255),
        (-5, np.int16, 0),
        (0.25, np.float32, 0),
    ],
)
def test_constant_images(value: float, dtype: type[np.generic], expected: int) -> None:
    assert (normalise_channels(np.full(SHAPE, value, dtype)) == expected).all()
    assert (normalise_channels(np.full((1, 1, 3), value, dtype)) == expected).all()


# --- in bands

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def picture(dtype: str, shape: tuple[int, int]) -> np.ndarray:
    """Values all over the dtype's range, a few that many pixels share, zeros."""
    kind = np.dtype(dtype)
    size = (*shape, 3)
    if kind.kind == "f":
        values = (RNG.standard_normal(size) * RNG.choice([1e-3, 1, 1e4])).astype(kind)
    else:
        least, most = (int(end) // 3 for end in (np.iinfo(kind).min, np.iinfo(kind).max))
        values = RNG.integers(least, most, size, dtype=kind)
    values[RNG.random(size) < 0.2] = values.flat[0]
    values[RNG.random(size) < 0.2] = 0
    return values


def cut(pixels: np.ndarray) -> list[np.ndarray]:
    """Bands of random heights."""
    height = len(pixels)
    return np.split(pixels, np.unique(RNG.integers(1, height, 3)) if height > 1 else [])


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (11, 19), (60, 50), (300, 301)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_percentiles_of_bands_are_those_of_the_whole(dtype: str, shape: tuple[int, int]) -> None:
    pixels = picture(dtype, shape)
    bands = cut(pixels)
    stretches = find_stretches(lambda: bands)
    for c, stretch in enumerate(stretches):
        values = pixels[..., c][pixels[..., c] != 0]
        if values.dtype.kind == "f":
            values = values.astype(np.float64)  # numpy subtracts before it widens
        expected = np.percentile(values, (1, 99)) if values.size else (0, 0)
        if np.ptp(expected) or not values.size:  # two-valued channels: see below
            assert tuple(stretch) == tuple(expected)
    stretched = [stretch_channels(band, stretches) for band in bands]
    np.testing.assert_array_equal(np.concatenate(stretched), normalise_channels(pixels))


def test_neighbours_further_apart_than_their_dtype_reaches() -> None:
    pixels = np.repeat(np.array([[-30_000, 30_000]], np.int16)[..., np.newaxis], 3, axis=-1)
    low, high = np.percentile([-30_000, 30_000], (1, 99))
    assert find_stretches(lambda: [pixels]) == 3 * [(low, high)]


@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_large_and_small_parts_are_stretched_alike(dtype: str) -> None:
    pixels = picture(dtype, (256, 300))  # more pixels than values: each is worked out once
    stretches = find_stretches(lambda: [pixels])
    small = [stretch_channels(row[np.newaxis], stretches) for row in pixels]
    np.testing.assert_array_equal(stretch_channels(pixels, stretches), np.concatenate(small))


@pytest.mark.parametrize("dtype", DTYPES)
def test_how_often_an_image_is_read(dtype: str) -> None:
    for pixels in (np.zeros((4, 5, 3), dtype), np.arange(60).reshape(4, 5, 3).astype(dtype)):
        bands = Mock(return_value=cut(pixels))
        find_stretches(bands)
        assert bands.call_count == {1: 1, 2: 1, 4: 2, 8: 4}[pixels.itemsize]


@pytest.mark.parametrize("dtype", [*DTYPES, "g"])
def test_zeros_of_either_sign_do_not_count(dtype: str) -> None:
    pixels = np.arange(300).reshape(10, 10, 3).astype(dtype) % 100
    black = np.zeros_like(pixels)
    if pixels.dtype.kind == "f":
        black[:] = -0.0
    both = normalise_channels(np.concatenate([pixels, black]))
    np.testing.assert_array_equal(both[:10], normalise_channels(pixels))
    assert not both[10:].any()
    assert not normalise_channels(black).any()


# --- z-score


@pytest.mark.parametrize("layout", ["channels first", "view of channels last"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_z_score(layout: str, dtype: type[np.generic]) -> None:
    # Large enough that a float32 running sum would lose the mean (2^24 / 255 pixels are).
    image = RNG.integers(0, 256, (1500, 1500, 3)).astype(dtype).transpose(2, 0, 1)
    if layout == "channels first":
        image = np.ascontiguousarray(image)
    before = image.copy()
    scores = z_score(image)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.mean(axis=(1, 2), dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(scores.std(axis=(1, 2), dtype=np.float64), 1, atol=1e-5)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("value", [0, 77, 255, 0.1])
def test_z_score_of_a_constant_channel_is_zero(value: float) -> None:
    assert not z_score(np.full((3, 700, 900), value, np.float32)).any()


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_scaling_of_bands_is_that_of_the_whole(rows: int) -> None:
    image = RNG.integers(0, 256, (300, 1100, 3), np.uint8)
    image[..., 2] = 77
    box = slice(20, 290), slice(3, 1000)
    content = image[box]
    parts = sum(histogram(content[top : top + rows]) for top in range(0, len(content), rows))
    whole, banded = scaling_of(image, box), scaling_from(np.asarray(parts))
    assert np.array_equal(whole.mean, banded.mean)
    assert np.array_equal(whole.std, banded.std)
    pixels = content.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(whole.mean, pixels.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(whole.std, pixels.std(axis=0), rtol=1e-7, atol=1e-12)


def test_tiles_are_scaled_as_the_whole_image_is() -> None:
    image = RNG.integers(0, 200, (90, 70, 3), np.uint8)
    image[..., 1] = 13
    box = slice(0, 90), slice(0, 70)
    tile = slice(10, 50), slice(20, 70)
    scaled = z_score_pixels(image[tile], scaling_of(image, box))
    assert scaled.dtype == np.float32
    assert not scaled[1].any()
    np.testing.assert_allclose(scaled, z_score(image.transpose(2, 0, 1))[:, *tile], atol=1e-6)


MASK = np.zeros((40, 50), bool)
MASK[5:15, 5:20] = MASK[20:35, 25:45] = True
SIGNED = ("i1", "i2", "i4", "i8", "f2", "f4", "f8")


def grey(pixels: np.ndarray) -> np.ndarray:
    return normalise_channels(np.stack([pixels] * 3, axis=-1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [1, 2, -1, -5, -100])
def test_two_valued_images_keep_their_contrast(dtype: str, value: int) -> None:
    """0 and 1, for one, are the mask that 0 and 255 are; below 0 the background is the brighter."""
    if value < 0 and dtype not in SIGNED:
        return
    shown = MASK if value > 0 else ~MASK
    pixels = np.where(MASK, value, 0).astype(dtype)
    np.testing.assert_array_equal(grey(pixels)[..., 0], shown * np.uint8(255))


@pytest.mark.parametrize("value", [3, 5, 100, 255])
def test_what_is_to_be_seen_already_stays_as_the_challenge_has_it(value: int) -> None:
    pixels = np.where(MASK, value, 0).astype(np.uint16)
    np.testing.assert_array_equal(grey(pixels)[..., 0], pixels)


@pytest.mark.parametrize("value", [1e-6, 0.3, -0.5, 1.5])
def test_contrast_of_floats_is_relative(value: float) -> None:
    shown = MASK if value > 0 else ~MASK
    pixels = np.where(MASK, value, 0).astype(np.float32)
    np.testing.assert_array_equal(grey(pixels)[..., 0], shown * np.uint8(255))


def test_a_hot_pixel_hides_no_mask() -> None:
    pixels = MASK.astype(np.uint16)
    pixels[0, 0] = 60_000
    np.testing.assert_array_equal(grey(pixels)[1:, :, 0], MASK[1:] * np.uint8(255))


def test_few_dark_pixels_on_saturated_ground() -> None:
    pixels = np.full((60, 60), 65_535, np.uint16)
    pixels[:3, :3] = 300
    shown = grey(pixels)[..., 0]
    assert (shown[:3, :3] == 0).all()
    assert (shown[3:] == 255).all()


def test_few_faint_pixels_beside_a_channel_that_shows_something_stay_faint() -> None:
    """Noise of 1 in a channel of its own does not become a picture."""
    pixels = np.zeros((40, 50, 3), np.uint8)
    pixels[..., 1] = np.arange(2000).reshape(40, 50) % 200
    pixels[::7, ::9, 2] = 1
    assert normalise_channels(pixels)[..., 2].max() == 1


@pytest.mark.parametrize("value", [7, 0.5, -3, 0])
def test_a_constant_image_has_no_contrast_to_keep(value: float) -> None:
    pixels = np.full((20, 30), value, np.float32)
    assert np.ptp(grey(pixels)) == 0
