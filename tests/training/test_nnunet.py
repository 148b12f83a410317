"""The runtime against nnU-Net itself: network, geometry of the window, z-score, logits, classes.

Parity is tested with two folds of a small network that was trained on the images at hand.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from as_nnunet import logits_as_nnunet
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    ZScoreNormalization,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from pictures import (
    ARCH,
    BLOOD,
    DEFAULT,
    PATCH,
    each_image,
    scaled_content,
    train,
)
from torch import Tensor, nn

from conftest import TINY
from reunet.inference.ensemble import Average, Network
from reunet.inference.normalise import z_score
from reunet.inference.sliding_window import predict_logits, predict_scaled
from reunet.inference.tiles import (
    centred_padding,
    content_box,
    gaussian_importance,
    tile_starts,
)
from reunet.network.torch_backend import TorchNetwork
from reunet.network.unet import Architecture, UNet

TILES = (1, 2, 7, 32, 64)
STEPS = (0.25, 0.5, 1.0)
SIZES = [(64, 64), (512, 512), (1024, 1024), (512, 256), (1, 64), (1, 1), (7, 33), (65, 127)]


# -- the network


def reference(arch: Architecture) -> PlainConvUNet:
    """nnU-Net's network of the same description, deep supervision off, random affine norms."""
    stages = len(arch.features)
    network = PlainConvUNet(
        input_channels=arch.in_channels,
        n_stages=stages,
        features_per_stage=arch.features,
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_conv_per_stage=arch.convs_per_block,
        num_classes=arch.classes,
        n_conv_per_stage_decoder=arch.convs_per_block,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


@torch.inference_mode()
def test_logits_equal_nnunets() -> None:
    torch.manual_seed(0)
    theirs = reference(TINY)
    mine = UNet(TINY).eval()
    names = mine.state_dict().keys()
    mine.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in names})
    image = torch.randn(2, 3, 24, 40)
    assert torch.equal(mine(image), theirs(image))


def test_parameters_are_called_as_in_nnunet() -> None:
    mine = dict(UNet(TINY).named_parameters())
    theirs = dict(reference(TINY).named_parameters())  # names every shared tensor once
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}


# -- geometry


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("tile", TILES)
def test_starts_are_those_of_nnunet(tile: int, step: float) -> None:
    for length in range(tile, 6 * tile + 3):
        (theirs,) = compute_steps_for_sliding_window((length,), (tile,), step)
        assert tile_starts(length, tile, step) == theirs


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_weights_are_those_of_nnunet(height: int, width: int) -> None:
    for dtype, theirs_dtype in ((np.float16, torch.half), (np.float32, torch.float32)):
        theirs = compute_gaussian(
            (height, width),
            value_scaling_factor=10,
            dtype=theirs_dtype,
            device=torch.device("cpu"),
        ).numpy()
        mine = gaussian_importance(height, width).astype(dtype)
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


@pytest.mark.parametrize("shape", [(1, 1), (9, 64), (64, 63), (70, 33), (100, 100)])
def test_padding_is_that_of_nnunet(shape: tuple[int, int]) -> None:
    image = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    theirs = pad_nd_image(image, (64, 64))
    assert np.array_equal(np.pad(image, centred_padding(shape, (64, 64))), theirs)


# -- the whole way


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


@pytest.mark.parametrize("mirror", [True, False], ids=["mirrored", "plain"])
@each_image
def test_our_parts_give_nnunets_logits_to_the_bit(
    folds: Folds, image: np.ndarray, mirror: bool
) -> None:
    scaled = scaled_content(image)
    mine = logits_as_nnunet(scaled, folds.mine, PATCH, mirror)
    assert np.array_equal(mine, nnunet_logits(folds.theirs, scaled, mirror))


def test_a_single_fold_gives_nnunets_logits_to_the_bit(folds: Folds) -> None:
    scaled = scaled_content(BLOOD)
    everything = folds.theirs.list_of_parameters
    folds.theirs.list_of_parameters = everything[1:]
    theirs = nnunet_logits(folds.theirs, scaled, True)
    folds.theirs.list_of_parameters = everything
    assert np.array_equal(logits_as_nnunet(scaled, folds.mine[1:], PATCH), theirs)


@each_image
def test_classes_are_nnunets_from_the_image_on(folds: Folds, image: np.ndarray) -> None:
    """The whole way: crop, z-score, tiles, folds, paste. All but 0.1 %, and those near ties."""
    logits = predict_logits(image, Average(folds.mine), DEFAULT)
    mismatches = logits.argmax(0) != nnunet_classes(folds.theirs, image)
    assert mismatches.mean() <= 0.001 or mismatches.sum() <= 2  # however small the image
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
    mine = predict_scaled(scaled, Average(folds.mine), DEFAULT)
    assert np.abs(mine - nnunet_logits(folds.theirs, scaled, True)).max() < 0.05
