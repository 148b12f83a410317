"""The sliding window against nnU-Net's own predictor, and the invariants it has to keep.

Parity is tested with two folds of a small network that was trained on the images at hand: random
weights give logits so close to each other that arg-max agreement means little.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from imagecodecs import imread
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    ZScoreNormalization,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy import ndimage
from torch import Tensor

from reunet.images import read_image, read_label
from reunet.instances import MIN_OBJECT
from reunet.network import Architecture, UNet
from reunet.normalise import normalise_channels, scaling_of, z_score
from reunet.predict import (
    OUTSIDE_LOGITS,
    SMALLEST_CELL,
    WHITE,
    Network,
    classify,
    is_empty,
    most_probable,
    predict_bands,
    predict_logits,
    predict_scaled,
)
from reunet.tiles import FLIPS, Flip, Tiling, Window, content_box, tile_windows
from reunet.torch_backend import TorchNetwork

PICTURES = Path(__file__).parent / "data" / "images"
PATCH = 64
ARCH = Architecture(features=(8, 16, 32), dropout=0.0)
PARITY = Tiling(tile=PATCH, smallest=PATCH, divisor=ARCH.divisor, parity=True)
DEFAULT = Tiling(tile=PATCH, smallest=PATCH, divisor=ARCH.divisor, stretch=1)  # nnU-Net's tiles
THRIFTY = Tiling(tile=PATCH, smallest=16, divisor=ARCH.divisor)


def picture(name: str) -> np.ndarray:
    pixels = np.asarray(imread(PICTURES / f"{name}.png"))
    return normalise_channels(pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1))


def with_margins(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((7, 20), (0, 31), (0, 0)))


NUCLEI, BLOOD = picture("nuclei"), picture("blood")
IMAGES = {
    "grey": NUCLEI,  # 140 × 176
    "colour, odd size": BLOOD,  # 131 × 151
    "one tile": BLOOD[:64, :64],
    "smaller than a tile": NUCLEI[20:61, 100:133],
    "narrower than a tile": BLOOD[:, :37],
    "black margins": with_margins(BLOOD[:80, :101]),
    "one pixel high": BLOOD[50:51],
    "one pixel wide": NUCLEI[:40, 9:10],
    "one pixel": BLOOD[:1, :1],
    "all black": np.zeros((70, 30, 3), np.uint8),
}
each_image = pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())


class Folds(NamedTuple):
    theirs: nnUNetPredictor
    mine: list[Network]


def plans() -> dict[str, Any]:
    stages = len(ARCH.features)
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    kinds = ("data", "seg", "probabilities")
    configuration = {
        "data_identifier": "tiny",
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [PATCH, PATCH],
        "spacing": [1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * 3,
        "use_mask_for_norm": [False] * 3,
        **{f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in kinds},
        **{f"resampling_fn_{kind}_kwargs": resampling for kind in kinds},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": list(ARCH.features),
                "conv_op": "torch.nn.modules.conv.Conv2d",
                "kernel_sizes": [[3, 3]] * stages,
                "strides": [[1, 1]] + [[2, 2]] * (stages - 1),
                "n_conv_per_stage": [2] * stages,
                "n_conv_per_stage_decoder": [2] * (stages - 1),
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": "Dataset001_Tiny",
        "plans_name": "plans",
        "image_reader_writer": "NaturalImage2DIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": {}, "1": {}, "2": {}},
        "label_manager": "LabelManager",
        "configurations": {"2d": configuration},
    }


def rough_classes(image: np.ndarray) -> np.ndarray:
    """Something to learn: the brighter or darker blobs and their rims. Returns (H, W) int64."""
    grey = ndimage.gaussian_filter(image.mean(axis=-1), 1)
    blobs = np.abs(grey - np.median(grey)) > 40
    rims = blobs & ~ndimage.binary_erosion(blobs, iterations=2)
    return np.where(rims, 2, blobs).astype(np.int64)


def train(network: torch.nn.Module, seed: int, steps: int = 150) -> None:
    rng = np.random.default_rng(seed)
    cases = [(z_score(i.transpose(2, 0, 1)), rough_classes(i)) for i in (NUCLEI, BLOOD)]
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        scaled, classes = cases[rng.integers(2)]
        y, x = (rng.integers(n - PATCH + 1) for n in classes.shape)
        patch = slice(y, y + PATCH), slice(x, x + PATCH)
        logits = network(torch.from_numpy(scaled[:, *patch])[None])
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(classes[patch])[None])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def save_fold(folder: Path, fold: int) -> dict[str, Tensor]:
    torch.manual_seed(fold)
    manager = PlansManager(plans())
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration("2d"), 3, 3, enable_deep_supervision=False
    )
    train(network, seed=fold)
    weights: dict[str, Tensor] = network.state_dict()
    (folder / f"fold_{fold}").mkdir()
    checkpoint = {
        "network_weights": weights,
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "2d"},
        "inference_allowed_mirroring_axes": (0, 1),
    }
    torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return weights


def own_network(weights: dict[str, Tensor]) -> Network:
    network = UNet(ARCH)
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return TorchNetwork(network.eval())


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads that share their cores with another job wait for each other for minutes.

    nnU-Net also sets a number of threads of its own, on which the last bit may depend.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Folds:
    """One model folder, read by nnU-Net's predictor, and its weights in our own network."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "plans.json").write_text(json.dumps(plans()))
    labels = {"background": 0, "interior": 1, "boundary": 2}
    channels = {"0": "R", "1": "G", "2": "B"}
    dataset = {"channel_names": channels, "labels": labels, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    mine = [own_network(save_fold(folder, fold)) for fold in (0, 1)]
    theirs = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    theirs.initialize_from_trained_model_folder(str(folder), (0, 1))
    return Folds(theirs, mine)


def scaled_content(image: np.ndarray) -> np.ndarray:
    channels = image.transpose(2, 0, 1)
    return z_score(channels[:, *content_box(channels)])


def nnunet_logits(predictor: nnUNetPredictor, scaled: np.ndarray, mirror: bool) -> np.ndarray:
    predictor.use_mirroring = mirror
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(scaled)[:, None])
    assert logits.dtype == torch.half
    return np.asarray(logits[:, 0].float().numpy())  # (3, h, w)


def nnunet_classes(predictor: nnUNetPredictor, image: np.ndarray) -> np.ndarray:
    predictor.use_mirroring = True
    channels = image.transpose(2, 0, 1)[:, None]  # (3, 1, H, W)
    (classes,) = predictor.predict_single_npy_array(channels, {"spacing": [999.0, 1.0, 1.0]})
    return np.asarray(classes)  # (H, W)


def test_the_trained_folds_tell_the_classes_apart(folds: Folds) -> None:
    classes = predict_logits(NUCLEI, folds.mine, PARITY).argmax(0)
    assert (classes == rough_classes(NUCLEI)).mean() > 0.85  # background alone: 0.77
    assert set(np.unique(classes)) == {0, 1, 2}


@pytest.mark.parametrize("mirror", [True, False], ids=["mirrored", "plain"])
@each_image
def test_parity_mode_gives_nnunets_logits_to_the_bit(
    folds: Folds, image: np.ndarray, mirror: bool
) -> None:
    scaled = scaled_content(image)
    tiling = Tiling(PATCH, 16, ARCH.divisor, mirror=mirror, parity=True)
    mine = predict_scaled(scaled, folds.mine, tiling)
    assert np.array_equal(mine, nnunet_logits(folds.theirs, scaled, mirror))


def test_parity_holds_for_a_single_fold(folds: Folds) -> None:
    scaled = scaled_content(BLOOD)
    everything = folds.theirs.list_of_parameters
    folds.theirs.list_of_parameters = everything[1:]
    theirs = nnunet_logits(folds.theirs, scaled, True)
    folds.theirs.list_of_parameters = everything
    assert np.array_equal(predict_scaled(scaled, folds.mine[1:], PARITY), theirs)


@pytest.mark.parametrize("tiling", [PARITY, DEFAULT], ids=["parity", "default"])
@each_image
def test_classes_are_nnunets_from_the_image_on(
    folds: Folds, image: np.ndarray, tiling: Tiling
) -> None:
    """The whole way: crop, z-score, tiles, folds, paste."""
    logits = predict_logits(image, folds.mine, tiling)
    mismatches = logits.argmax(0) != nnunet_classes(folds.theirs, image)
    if tiling.parity:
        assert not mismatches.any()
    else:  # 99.9 %; a pixel that differs is a near tie, however small the image
        assert mismatches.mean() <= 0.001 or mismatches.sum() <= 2
        highest = np.sort(logits, axis=0)
        assert (highest[2] - highest[1])[mismatches].max(initial=0) < 0.05


@pytest.mark.parametrize("memory", ["rows of channels", "channels of rows"])
@each_image
def test_z_score_is_nnunets_to_the_bit(image: np.ndarray, memory: str) -> None:
    channels = image.transpose(2, 0, 1)
    if memory == "channels of rows":
        channels = np.ascontiguousarray(channels)
    nnunet = ZScoreNormalization(use_mask_for_norm=False, intensityproperties={})
    for mine, channel in zip(z_score(channels), channels, strict=True):
        theirs = nnunet.run(np.ascontiguousarray(channel)[None].astype(np.float32))[0]
        assert np.array_equal(mine, theirs)


@each_image
def test_single_precision_stays_close_to_half(folds: Folds, image: np.ndarray) -> None:
    scaled = scaled_content(image)
    mine = predict_scaled(scaled, folds.mine, DEFAULT)
    assert np.abs(mine - nnunet_logits(folds.theirs, scaled, True)).max() < 0.05


@each_image
def test_small_edges_give_logits_for_every_image(folds: Folds, image: np.ndarray) -> None:
    logits = predict_logits(image, folds.mine, THRIFTY)
    assert logits.shape == (3, *image.shape[:2])
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_black_margins_are_background(folds: Folds) -> None:
    logits = predict_logits(with_margins(BLOOD), folds.mine, DEFAULT)
    outside = np.ones(logits.shape[1:], bool)
    outside[7 : 7 + BLOOD.shape[0], : BLOOD.shape[1]] = False
    assert (logits[:, outside] == np.reshape(OUTSIDE_LOGITS, (3, 1))).all()
    assert (logits.argmax(0)[outside] == 0).all()
    inside = predict_logits(BLOOD, folds.mine, DEFAULT)
    assert np.array_equal(logits[:, ~outside].reshape(inside.shape), inside)


def test_logits_of_folds_are_averaged(folds: Folds) -> None:
    alone = [predict_logits(BLOOD, [network], DEFAULT) for network in folds.mine]
    together = predict_logits(BLOOD, folds.mine, DEFAULT)
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_image_has_the_mirrored_logits(folds: Folds, axis: int) -> None:
    image = NUCLEI[:PATCH, :PATCH]  # one tile: weights of several peak beside their centres
    mirrored = predict_logits(np.flip(image, axis), folds.mine, DEFAULT)
    back = np.flip(mirrored, axis + 1)
    np.testing.assert_allclose(back, predict_logits(image, folds.mine, DEFAULT), atol=1e-4)


def pointwise(pixels: np.ndarray) -> np.ndarray:
    return np.stack([pixels[:, 0] * 2, pixels[:, 1] - pixels[:, 2], pixels[:, 2] ** 2], axis=1)


@pytest.mark.parametrize("mirror", [True, False])
@each_image
def test_tiles_of_a_pointwise_network_make_the_whole(image: np.ndarray, mirror: bool) -> None:
    scaled = scaled_content(image)
    whole = pointwise(scaled[None])[0]
    tiling = Tiling(tile=24, smallest=8, divisor=4, mirror=mirror)
    tiled = predict_scaled(scaled, [pointwise], tiling)
    np.testing.assert_allclose(tiled, whole, rtol=1e-5, atol=1e-5)


@each_image
def test_a_constant_network_gives_the_constant(image: np.ndarray) -> None:
    expected = np.array([-1.0, 3.0, 0.5], np.float32)

    def constant(pixels: np.ndarray) -> np.ndarray:
        return np.broadcast_to(expected[:, None, None], pixels.shape)

    scaled = scaled_content(image)
    logits = predict_scaled(scaled, [constant, constant], DEFAULT)
    np.testing.assert_allclose(logits, np.broadcast_to(expected[:, None, None], logits.shape), 1e-5)


def test_the_network_cannot_spoil_the_image() -> None:
    """A network that hands its input back is not written to."""
    scaled = scaled_content(NUCLEI[:PATCH, :PATCH])
    before = scaled.copy()
    logits = predict_scaled(scaled, [lambda pixels: pixels], DEFAULT)
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
    predict_scaled(scaled, [spy], Tiling(tile=512, smallest=256, divisor=64))
    assert seen == {(1, 3, *expected)}
    predict_scaled(scaled, [spy], Tiling(tile=512, smallest=512, divisor=64, mirror=False))
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
    tiling = Tiling(tile=512, smallest=320, divisor=32, mirror=False)
    np.testing.assert_allclose(predict_scaled(scaled, [spy], tiling), scaled, rtol=1e-5)
    assert seen == [expected] * (1 if max(shape) <= 640 else 2)
    assert tiling.longest == 640
    seen.clear()
    predict_scaled(scaled, [spy], replace(tiling, parity=True))
    assert set(seen) == {(512, 512)}


def test_networks_run_once_per_tile_and_mirror_image() -> None:
    calls = []

    def spy(pixels: np.ndarray) -> np.ndarray:
        calls.append(pixels)
        return pixels

    predict_logits(NUCLEI, [spy, spy], DEFAULT)  # 140 × 176: 4 × 5 tiles
    assert len(calls) == 2 * 4 * 5 * 4


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 256"):
        Tiling(tile=320, smallest=256, divisor=256)
    with pytest.raises(ValueError, match=r"1\.\.512"):
        Tiling(tile=512, smallest=1024, divisor=256)
    with pytest.raises(ValueError, match="stretch"):
        Tiling(tile=512, smallest=256, divisor=256, stretch=0.9)
    with pytest.raises(ValueError, match="no network"):
        predict_logits(BLOOD, [], DEFAULT)


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
        replace(THRIFTY, mirror=False),
        replace(DEFAULT, step=0.75, mirror=False),
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
    bands = predict_bands(tape.read, (height, width), scaling, [contextual], tiling, box)
    pieces = []
    done = 0
    for rows, classes in bands:
        assert rows.start == done
        assert classes.shape == (rows.stop - rows.start, width)
        assert classes.dtype == np.uint8
        assert all(bottom - top <= tiling.longest for top, bottom in tape.asked)
        if tape.asked:  # what no tile will touch again has left
            assert rows.start >= tape.asked[-1][0] or rows.stop == box[0].start
        pieces.append(classes)
        done = rows.stop
    assert done == height
    whole = predict_logits(image, [contextual], tiling).argmax(axis=0)
    assert np.array_equal(np.concatenate(pieces), whole)
    assert np.array_equal(classify(image, [contextual], tiling), whole)


def test_a_band_leaves_before_the_next_row_of_tiles_is_read() -> None:
    tape = Tape(np.concatenate([BLOOD] * 5))
    shape = tape.image.shape[0], tape.image.shape[1]
    scaling = scaling_of(tape.image, (slice(0, shape[0]), slice(0, shape[1])))
    reads = [
        len(tape.asked)
        for _ in predict_bands(tape.read, shape, scaling, [lambda tiles: tiles], DEFAULT)
    ]
    assert reads == list(range(1, len(reads) + 1))
    assert len(reads) > 15


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 8, 11, 100])
@pytest.mark.parametrize("mirror", [True, False])
def test_batches_change_the_number_of_calls_alone(mirror: bool, batch: int) -> None:
    sizes = []

    def spy(tiles: np.ndarray) -> np.ndarray:
        assert tiles.flags.c_contiguous
        sizes.append(len(tiles))
        return pointwise(tiles) * np.linspace(0, 1, tiles.shape[3], dtype=np.float32)

    tiling = replace(DEFAULT, mirror=mirror)
    expected = predict_logits(NUCLEI, [spy], tiling)
    images = sum(sizes)
    sizes.clear()
    batched = predict_logits(NUCLEI, [spy], replace(tiling, batch=batch))
    assert np.array_equal(batched, expected)
    assert sum(sizes) == images
    assert max(sizes) <= batch
    assert max(sizes) > batch // 2 or max(sizes) >= 5  # a row holds five tiles


def test_wide_steps_need_fewer_tiles() -> None:
    calls: list[int] = []

    def spy(tiles: np.ndarray) -> np.ndarray:
        calls.append(len(tiles))
        return tiles

    tiling = replace(DEFAULT, mirror=False)
    whole = predict_logits(BLOOD, [spy], tiling)
    assert len(calls) == 4 * 4  # 131 × 151, every 32 px or less
    calls.clear()
    wide = predict_logits(BLOOD, [spy], replace(tiling, step=0.75))
    assert len(calls) == 3 * 3  # every 48 px or less
    np.testing.assert_allclose(wide, whole, atol=1e-5)  # of a network that sees no surroundings


def test_a_network_that_averages_itself_is_let() -> None:
    class OnDevice:
        def __call__(self, _: np.ndarray) -> np.ndarray:
            raise AssertionError("its tiles would be copied for each mirror image")

        def mean_logits(
            self, networks: Sequence[Network], tiles: np.ndarray, flips: Sequence[Flip], batch: int
        ) -> np.ndarray:
            assert (list(networks), list(flips), batch) == ([self, self], list(FLIPS), 8)
            return pointwise(tiles)

    network = OnDevice()
    logits = predict_logits(NUCLEI, [network, network], replace(DEFAULT, batch=8))
    expected = predict_logits(NUCLEI, [pointwise], replace(DEFAULT, mirror=False))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


# -- tiles without content

SAMPLES = PICTURES.parent / "samples"


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
    folds: Folds, picture: np.ndarray, glass: int
) -> None:
    image = on_glass(picture, glass)
    image[0, 0] = image[-1, -1] = 255 - glass  # else black glass is a margin
    calls = []

    def counted(tiles: np.ndarray) -> np.ndarray:
        calls.append(len(tiles))
        return folds.mine[0](tiles)

    tiling = replace(DEFAULT, mirror=False)
    everything = classify(image, [counted], tiling)
    of_all = len(calls)
    calls.clear()
    spared = classify(image, [counted], replace(tiling, skip=True))
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


def test_the_smallest_cell_is_the_decoders() -> None:
    assert SMALLEST_CELL == MIN_OBJECT


@pytest.mark.parametrize("levels", [2, 3, 1000])
def test_the_most_probable_class_is_that_of_argmax(levels: int) -> None:
    logits = np.random.default_rng(levels).integers(0, levels, (3, 40, 50)).astype(np.float32)
    found = most_probable(logits)
    np.testing.assert_array_equal(found, logits.argmax(axis=0))
    assert found.dtype == np.uint8
