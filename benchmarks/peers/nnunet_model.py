"""A bundle's folds as a model folder of nnU-Net: the same weights for its own predictor."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from reunet.network.architecture import NORM_EPS, Architecture
from reunet.network.bundle import Bundle, load_tensors
from reunet.training.data.dataset import nnunet_architecture

TRAINER, CONFIGURATION = "nnUNetTrainer", "2d"
LABELS = ("background", "interior", "boundary", "field")  # one an output: only its time counts
CHANNELS = {"0": "R", "1": "G", "2": "B"}
NETWORK = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "nonlin": "torch.nn.LeakyReLU",
        "conv_bias": True,
        "norm_op_kwargs": {"eps": NORM_EPS, "affine": True},
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}


def write_model_folder(bundle: Bundle, folds: Sequence[str], folder: Path) -> None:
    """Write plans, data set and a checkpoint a fold; the folds are numbered from 0.

    The patch is the bundle's tile, so that both sides cut images alike.
    """
    folder.mkdir(parents=True)
    plans = make_plans(bundle.architecture, bundle.tile)
    outputs = bundle.architecture.outputs
    labels = {name: number for number, name in enumerate(LABELS[:outputs])}
    dataset = {"channel_names": CHANNELS, "labels": labels, "file_ending": ".png"}
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for number, fold in enumerate(folds):
        checkpoint = {
            "network_weights": state_dict(plans, load_tensors(bundle, fold), outputs),
            "trainer_name": TRAINER,
            "init_args": {"configuration": CONFIGURATION},
            "inference_allowed_mirroring_axes": (0, 1),
        }
        (folder / f"fold_{number}").mkdir()
        torch.save(checkpoint, folder / f"fold_{number}" / "checkpoint_final.pth")


def state_dict(
    plans: dict[str, Any], tensors: dict[str, np.ndarray], outputs: int
) -> dict[str, torch.Tensor]:
    """The weights under all the names that nnU-Net gives them."""
    manager = PlansManager(plans)
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration(CONFIGURATION), 3, outputs, False
    )
    own = {name: torch.from_numpy(values) for name, values in tensors.items()}
    wrong = network.load_state_dict(own, strict=False)  # nnU-Net names a tensor up to four times
    aliases = all(n.startswith("decoder.encoder.") or ".all_modules." in n for n in wrong[0])
    if wrong[1] or not aliases:
        raise ValueError(f"nnU-Net's network has other parameters: {wrong}")
    weights: dict[str, torch.Tensor] = network.state_dict()
    return weights


def make_plans(arch: Architecture, patch: int) -> dict[str, Any]:
    """nnU-Net's plans for RGB pictures, z-scored by channel and not resampled."""
    kinds = ("data", "seg", "probabilities")
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "benchmark",
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [patch, patch],
        "spacing": [1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * len(CHANNELS),
        "use_mask_for_norm": [False] * len(CHANNELS),
        **{f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in kinds},
        **{f"resampling_fn_{kind}_kwargs": resampling for kind in kinds},
        "architecture": nnunet_architecture(NETWORK, arch),
    }
    return {
        "dataset_name": "Dataset001_Benchmark",
        "plans_name": "plans",
        "image_reader_writer": "NaturalImage2DIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {channel: {} for channel in CHANNELS},
        "label_manager": "LabelManager",
        "configurations": {CONFIGURATION: configuration},
    }
