"""The sliding window: the invariants that it has to keep.

Beside nnU-Net's own predictor it is tested in tests/training/test_nnunet.py.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import torch
from as_nnunet import tile_windows
from pictures import (
    ARCH,
    BLOOD,
    DEFAULT,
    NUCLEI,
    PATCH,
    THRIFTY,
    classify,
    each_image,
    rough_classes,
    scaled_content,
    train,
    with_margins,
)

from conftest import SAMPLES
from reunet.inference.empty import WHITE, is_empty
from reunet.inference.ensemble import Average, Network
from reunet.inference.normalise import normalise_channels, scaling_of
from reunet.inference.sliding_window import (
    OUTSIDE_LOGITS,
    map_bands,
    map_image,
    most_probable,
    predict_logits,
    predict_scaled,
    stored_foreground,
)
from reunet.inference.tiles import FLIPS, Flip, Tiling, Window, content_box
from reunet.io.images import read_image, read_label
from reunet.model import load_model
from reunet.network.torch_backend import TorchNetwork
from reunet.network.unet import build
from reunet.options import SMALLEST_CELL
from reunet.training.presets import PRESETS


@pytest.fixture(scope="module")
def networks() -> list[Network]:
    """Two folds."""
    return [trained(seed) for seed in (0, 1)]


def trained(seed: int) -> Network:
    torch.manual_seed(seed)
    network = build(ARCH)
    train(network, seed)
    return TorchNetwork(network.eval())


def test_the_trained_folds_tell_the_classes_apart(networks: list[Network]) -> None:
    classes = predict_logits(NUCLEI, Average(networks), DEFAULT).argmax(0)
    assert (classes == rough_classes(NUCLEI)).mean() > 0.85  # background alone: 0.77
    assert set(np.unique(classes)) == {0, 1, 2}


@each_image
def test_small_edges_give_logits_for_every_image(
    networks: list[Network], image: np.ndarray
) -> None:
    logits = predict_logits(image, Average(networks), THRIFTY)
    assert logits.shape == (3, *image.shape[:2])
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_black_margins_are_background(networks: list[Network]) -> None:
    logits = predict_logits(with_margins(BLOOD), Average(networks), DEFAULT)
    outside = np.ones(logits.shape[1:], bool)
    outside[7 : 7 + BLOOD.shape[0], : BLOOD.shape[1]] = False
    assert (logits[:, outside] == np.reshape(OUTSIDE_LOGITS[:3], (3, 1))).all()
    assert (logits.argmax(0)[outside] == 0).all()
    inside = predict_logits(BLOOD, Average(networks), DEFAULT)
    assert np.array_equal(logits[:, ~outside].reshape(inside.shape), inside)


def test_logits_of_folds_are_averaged(networks: list[Network]) -> None:
    alone = [predict_logits(BLOOD, Average([network]), DEFAULT) for network in networks]
    together = predict_logits(BLOOD, Average(networks), DEFAULT)
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_image_has_the_mirrored_logits(networks: list[Network], axis: int) -> None:
    image = NUCLEI[:PATCH, :PATCH]  # one tile: weights of several peak beside their centres
    mirrored = predict_logits(np.flip(image, axis), Average(networks), DEFAULT)
    back = np.flip(mirrored, axis + 1)
    np.testing.assert_allclose(back, predict_logits(image, Average(networks), DEFAULT), atol=1e-4)


def test_two_views_are_the_image_and_itself_turned(networks: list[Network]) -> None:
    image, one = NUCLEI[:PATCH, :PATCH], replace(DEFAULT, views=1)
    upright = predict_logits(image, Average(networks), one)
    turned = predict_logits(np.rot90(image, 2), Average(networks), one)
    both = predict_logits(image, Average(networks), replace(DEFAULT, views=2))
    expected = (upright + np.rot90(turned, 2, axes=(1, 2))) / 2
    np.testing.assert_allclose(both, expected, atol=1e-4)
    assert not np.allclose(both, upright, atol=1e-4)


def pointwise(pixels: np.ndarray) -> np.ndarray:
    return np.stack([pixels[:, 0] * 2, pixels[:, 1] - pixels[:, 2], pixels[:, 2] ** 2], axis=1)


@pytest.mark.parametrize("views", [4, 2, 1])
@each_image
def test_tiles_of_a_pointwise_network_make_the_whole(image: np.ndarray, views: int) -> None:
    scaled = scaled_content(image)
    whole = pointwise(scaled[None])[0]
    tiling = Tiling(tile=24, smallest=8, divisor=4, views=views)
    tiled = predict_scaled(scaled, Average([pointwise]), tiling)
    np.testing.assert_allclose(tiled, whole, rtol=1e-5, atol=1e-5)


@each_image
def test_a_constant_network_gives_the_constant(image: np.ndarray) -> None:
    expected = np.array([-1.0, 3.0, 0.5], np.float32)

    def constant(pixels: np.ndarray) -> np.ndarray:
        return np.broadcast_to(expected[:, None, None], pixels.shape)

    scaled = scaled_content(image)
    logits = predict_scaled(scaled, Average([constant, constant]), DEFAULT)
    np.testing.assert_allclose(logits, np.broadcast_to(expected[:, None, None], logits.shape), 1e-5)


def test_the_network_cannot_spoil_the_image() -> None:
    """A network that hands its input back is not written to."""
    scaled = scaled_content(NUCLEI[:PATCH, :PATCH])
    before = scaled.copy()
    logits = predict_scaled(scaled, Average([lambda pixels: pixels]), DEFAULT)
    assert np.array_equal(scaled, before)
    np.testing.assert_allclose(logits, before, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((330, 200), (384, 256)),
        ((511, 512), (512, 512)),
        ((1, 64), (256, 256)),
        ((900, 257), (512, 320)),
    ],
)
def test_small_images_get_small_tiles(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    seen = set()

    def spy(pixels: np.ndarray) -> np.ndarray:
        seen.add(tuple(pixels.shape))
        return pixels

    scaled = np.zeros((3, *shape), np.float32)
    predict_scaled(scaled, Average([spy]), Tiling(tile=512, smallest=256, divisor=64))
    assert seen == {(1, 3, *expected)}
    predict_scaled(scaled, Average([spy]), Tiling(tile=512, smallest=512, divisor=64, views=1))
    assert seen == {(1, 3, *expected), (1, 3, 512, 512)}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((520, 640), (544, 640)),
        ((513, 100), (544, 320)),
        ((641, 640), (512, 640)),
        ((512, 700), (512, 512)),
    ],
)
def test_axes_a_little_longer_than_a_tile_get_one(
    shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    seen = []

    def spy(pixels: np.ndarray) -> np.ndarray:
        seen.append(pixels.shape[2:])
        return pixels

    scaled = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
    tiling = Tiling(tile=512, smallest=320, divisor=32, views=1)
    np.testing.assert_allclose(predict_scaled(scaled, Average([spy]), tiling), scaled, rtol=1e-5)
    assert seen == [expected] * (1 if max(shape) <= 640 else 2)
    assert tiling.longest == 640


def test_all_tiles_have_one_size_where_cells_are_brought_to_one() -> None:
    for tiling in (load_model(device="cpu").tiling(), PRESETS["compact"].judging()):
        assert [tiling.edge(length) for length in (20, 256, 257, 320, 900)] == [256] * 5
    paper = PRESETS["paper"].tiling(mirror=True)
    assert [paper.edge(length) for length in (1024, 1280, 1281)] == [1024, 1280, 1024]


def test_networks_run_once_per_tile_and_mirror_image() -> None:
    calls = []

    def spy(pixels: np.ndarray) -> np.ndarray:
        calls.append(pixels)
        return pixels

    predict_logits(NUCLEI, Average([spy, spy]), DEFAULT)  # 140 × 176: 4 × 5 tiles
    assert len(calls) == 2 * 4 * 5 * 4


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="views is 3"):
        Tiling(tile=256, smallest=256, divisor=256, views=3)
    with pytest.raises(ValueError, match="multiples of 256"):
        Tiling(tile=320, smallest=256, divisor=256)
    with pytest.raises(ValueError, match=r"1\.\.512"):
        Tiling(tile=512, smallest=1024, divisor=256)
    with pytest.raises(ValueError, match="stretch"):
        Tiling(tile=512, smallest=256, divisor=256, stretch=0.9)
    with pytest.raises(ValueError, match="no network"):
        predict_logits(BLOOD, Average([]), DEFAULT)


class Tape:
    """An image that can only be read from top to bottom, as a slide is; notes what was asked."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.asked: list[tuple[int, int]] = []

    def read(self, top: int, bottom: int) -> np.ndarray:
        last = self.asked[-1] if self.asked else (0, 0)
        assert top >= last[0]
        assert bottom >= last[1]
        self.asked.append((top, bottom))
        return self.image[top:bottom]


def contextual(tiles: np.ndarray) -> np.ndarray:
    """Sees its whole tile, as instance norm does, and costs next to nothing."""
    return pointwise(tiles - tiles.mean(axis=(2, 3), keepdims=True))


@pytest.mark.parametrize(
    "tiling",
    [
        DEFAULT,
        replace(THRIFTY, views=1),
        replace(DEFAULT, step=0.75, views=1),
        replace(DEFAULT, batch=12),
        replace(DEFAULT, skip=True),
    ],
    ids=["default", "small tiles", "wide steps", "batches", "skipping"],
)
@each_image
def test_bands_make_the_class_map_of_the_whole(image: np.ndarray, tiling: Tiling) -> None:
    height, width = image.shape[:2]
    box, tape = content_box(image.transpose(2, 0, 1)), Tape(image)
    scaling = scaling_of(image, box)
    voters = [Average([contextual])]
    bands = map_bands(tape.read, (height, width), scaling, voters, tiling, box)
    pieces = []
    done = 0
    for rows, maps, _ in bands:
        (classes,) = maps.classes
        assert rows.start == done
        assert classes.shape == (rows.stop - rows.start, width)
        assert classes.dtype == np.uint8
        assert all(bottom - top <= tiling.longest for top, bottom in tape.asked)
        if tape.asked:  # what no tile will touch again has left
            assert rows.start >= tape.asked[-1][0] or rows.stop == box[0].start
        pieces.append(classes)
        done = rows.stop
    assert done == height
    whole = predict_logits(image, Average([contextual]), tiling).argmax(axis=0)
    assert np.array_equal(np.concatenate(pieces), whole)
    assert np.array_equal(classify(image, Average([contextual]), tiling), whole)


def test_the_foreground_is_what_softmax_leaves_for_the_background() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (3, 40, 50)).astype(np.float32)
    logits[:, 0, :3] = [[200, -200, 0], [-200, 200, 0], [-200, -200, 0]]  # beyond what exp can tell
    expected = 255 * (1 - scipy.special.softmax(logits.astype(np.float64), axis=0)[0])
    stored = stored_foreground(logits)
    assert stored.dtype == np.uint8
    assert np.abs(stored - expected).max() < 0.501
    assert stored[0, :3].tolist() == [0, 255, 170]


def test_bands_make_the_field_and_the_foreground_of_the_whole() -> None:
    def with_field(tiles: np.ndarray) -> np.ndarray:
        """Classes and, as their field, what the first channel shows."""
        return np.concatenate([contextual(tiles), np.abs(tiles[:, :1]) % 1], axis=1)

    tiling = replace(DEFAULT, outputs=4)
    height, width = NUCLEI.shape[:2]
    box, voters = content_box(NUCLEI.transpose(2, 0, 1)), [Average([with_field])]
    maps = map_image(
        Tape(NUCLEI).read, (height, width), scaling_of(NUCLEI, box), voters, tiling, box
    )
    logits = predict_logits(NUCLEI, voters[0], tiling)
    for array, expected in (
        (maps.fields, 200 * logits[3]),
        (maps.foreground, 255 * (1 - scipy.special.softmax(logits[:3], axis=0)[0])),
    ):
        assert array is not None
        assert np.abs(array[0] - expected).max() < 0.51
        assert np.ptp(array) > 50


def test_a_band_leaves_before_the_next_row_of_tiles_is_read() -> None:
    tape = Tape(np.concatenate([BLOOD] * 5))
    shape = tape.image.shape[0], tape.image.shape[1]
    scaling = scaling_of(tape.image, (slice(0, shape[0]), slice(0, shape[1])))
    reads = [
        len(tape.asked)
        for _ in map_bands(tape.read, shape, scaling, [Average([lambda tiles: tiles])], DEFAULT)
    ]
    assert reads == list(range(1, len(reads) + 1))
    assert len(reads) > 15


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 8, 11, 100])
@pytest.mark.parametrize("views", [4, 2, 1])
def test_batches_change_the_number_of_calls_alone(views: int, batch: int) -> None:
    sizes = []

    def spy(tiles: np.ndarray) -> np.ndarray:
        assert tiles.flags.c_contiguous
        sizes.append(len(tiles))
        return pointwise(tiles) * np.linspace(0, 1, tiles.shape[3], dtype=np.float32)

    tiling = replace(DEFAULT, views=views)
    expected = predict_logits(NUCLEI, Average([spy]), tiling)
    images = sum(sizes)
    sizes.clear()
    batched = predict_logits(NUCLEI, Average([spy]), replace(tiling, batch=batch))
    assert np.array_equal(batched, expected)
    assert sum(sizes) == images
    assert max(sizes) <= batch
    assert max(sizes) > batch // 2 or max(sizes) >= 5  # a row holds five tiles


def test_wide_steps_need_fewer_tiles() -> None:
    calls: list[int] = []

    def spy(tiles: np.ndarray) -> np.ndarray:
        calls.append(len(tiles))
        return tiles

    tiling = replace(DEFAULT, views=1)
    whole = predict_logits(BLOOD, Average([spy]), tiling)
    assert len(calls) == 4 * 4  # 131 × 151, every 32 px or less
    calls.clear()
    wide = predict_logits(BLOOD, Average([spy]), replace(tiling, step=0.75))
    assert len(calls) == 3 * 3  # every 48 px or less
    np.testing.assert_allclose(wide, whole, atol=1e-5)  # of a network that sees no surroundings


def test_an_ensemble_averages_as_it_likes() -> None:
    class OnDevice:
        networks: Sequence[Network] = ()

        def mean_logits(self, tiles: np.ndarray, flips: Sequence[Flip], batch: int) -> np.ndarray:
            assert (list(flips), batch) == (list(FLIPS), 8)
            return pointwise(tiles)

    logits = predict_logits(NUCLEI, OnDevice(), replace(DEFAULT, batch=8))
    expected = predict_logits(NUCLEI, Average([pointwise]), replace(DEFAULT, views=1))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


# -- tiles without content


def on_glass(image: np.ndarray, glass: int = 255) -> np.ndarray:
    """A picture on an empty slide of 40 columns before it and 200 behind it."""
    return np.pad(image, ((0, 0), (40, 200), (0, 0)), constant_values=glass)


def reach(shape: tuple[int, int], windows: Sequence[Window]) -> np.ndarray:
    """How many of the tiles cover each pixel. Returns (H, W)."""
    hits = np.zeros(shape, int)
    for window in windows:
        hits[window] += 1
    return hits


@pytest.mark.parametrize("glass", [255, 238, 0, 90])
@pytest.mark.parametrize("picture", [BLOOD, NUCLEI], ids=["blood", "nuclei"])
def test_tiles_on_glass_are_skipped_and_the_others_keep_their_classes(
    networks: list[Network], picture: np.ndarray, glass: int
) -> None:
    image = on_glass(picture, glass)
    image[0, 0] = image[-1, -1] = 255 - glass  # else black glass is a margin
    calls = []

    def counted(tiles: np.ndarray) -> np.ndarray:
        calls.append(len(tiles))
        return networks[0](tiles)

    tiling = replace(DEFAULT, views=1)
    everything = classify(image, Average([counted]), tiling)
    of_all = len(calls)
    calls.clear()
    spared = classify(image, Average([counted]), replace(tiling, skip=True))
    windows = list(tile_windows(spared.shape, (PATCH, PATCH)))
    empty = [w for w in windows if is_empty(image[w])]
    assert len(windows) == of_all
    assert len(calls) == of_all - len(empty)
    assert len(empty) >= 3 * 4
    skipped, full = (
        reach(spared.shape, part)
        for part in (empty, [w for w in windows if not is_empty(image[w])])
    )
    assert np.array_equal(spared[skipped == 0], everything[skipped == 0])
    assert not spared[full == 0].any()
    inside = slice(None), slice(40, 40 + picture.shape[1])
    assert skipped[inside].max() == 0  # so the picture keeps every pixel of its cells


def test_an_image_without_content_needs_no_network() -> None:
    def never(_: np.ndarray) -> np.ndarray:
        raise AssertionError("a constant tile was predicted")

    tiling = replace(DEFAULT, skip=True)
    for value in (0, 1, 128, 255):
        assert not classify(np.full((100, 150, 3), value, np.uint8), [never], tiling).any()


def test_no_tile_that_holds_a_cell_is_empty() -> None:
    """All bundled pictures, cut into tiles of any size."""
    checked = 0
    for path in sorted((SAMPLES / "images").iterdir()):
        image = normalise_channels(read_image(path).pixels)
        labels = read_label(SAMPLES / "labels" / f"{path.stem}_label.tiff")
        sizes = np.bincount(labels.ravel())
        for edge in (16, 32, 64):
            for window in tile_windows(labels.shape, (edge, edge)):
                inside = np.bincount(labels[window].ravel(), minlength=sizes.size)
                if (inside[1:] == sizes[1:])[inside[1:] >= SMALLEST_CELL].any():
                    assert not is_empty(image[window]), (path.name, window)
                    checked += 1
    assert checked > 300


def test_what_counts_as_empty() -> None:
    glass = np.full((64, 64, 3), 250, np.uint8)
    assert is_empty(glass)
    noise = glass + np.random.default_rng(0).integers(-15, 6, glass.shape).astype(np.uint8)
    assert noise.min() >= WHITE
    assert is_empty(noise)
    speck = noise.copy()
    speck[10:13, 10:15] = 100  # 15 px
    assert is_empty(speck)
    speck[13, 10] = 100
    assert not is_empty(speck)
    pale = noise.copy()
    pale[20:24, 20:24, 1] = WHITE - 1  # a stain that takes no more than 8 % off the green
    assert not is_empty(pale)
    grey = np.full((64, 64, 3), 77, np.uint8)
    grey[30:] += 2
    assert is_empty(grey)
    grey[5, 5, 2] += 3
    assert not is_empty(grey)
    colours = np.zeros((64, 64, 3), np.uint8) + np.array([0, 100, 200], np.uint8)
    assert is_empty(colours)


@pytest.mark.parametrize("levels", [2, 3, 1000])
def test_the_most_probable_class_is_that_of_argmax(levels: int) -> None:
    logits = np.random.default_rng(levels).integers(0, levels, (3, 40, 50)).astype(np.float32)
    found = most_probable(logits)
    np.testing.assert_array_equal(found, logits.argmax(axis=0))
    assert found.dtype == np.uint8
