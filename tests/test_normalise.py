"""The channel normalisation against the official formula, computed with scikit-image."""

import numpy as np
import pytest
from skimage.exposure import rescale_intensity

from reunet.normalise import normalise_channels, z_score

RNG = np.random.default_rng(0)
SHAPE = (60, 50, 3)


def official(channel: np.ndarray) -> np.ndarray:
    low, high = np.percentile(channel[channel != 0], (1, 99))
    stretched = rescale_intensity(channel, in_range=(low, high), out_range="uint8")
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
