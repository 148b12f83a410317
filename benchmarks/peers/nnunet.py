"""A folder of images by nnU-Net's own predictor, with the network and the weights of a bundle.

    python nnunet.py BUNDLE IMAGES OUT

IMAGES holds NAME_0000.png; class maps are written. All folds, patches of the bundle's tile, no
mirroring, no worker processes, which a few images do not pay for. `run.py` starts this as a process
and times that.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from reunet.network.architecture import NORM_EPS
from reunet.network.bundle import STUDENT, Bundle, load_tensors, open_bundle
from reunet.training.data.dataset import nnunet_architecture

LABELS = ("background", "interior", "boundary", "field")  # one an output: only the time counts
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


def main() -> None:
    """Load all folds, predict, write class maps."""
    bundle, (images, out) = open_bundle(Path(sys.argv[1])), sys.argv[2:4]
    Path(out).mkdir(parents=True, exist_ok=True)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    initialise(predictor, bundle)
    predictor.predict_from_files_sequential(images, out)


def initialise(predictor: nnUNetPredictor, bundle: Bundle) -> None:
    """Give the predictor the bundle's network, and the weights of every fold."""
    outputs = bundle.architecture.outputs
    manager = PlansManager(plans(bundle))
    configuration = manager.get_configuration("2d")
    network = nnUNetTrainer.build_network_architecture(manager, configuration, 3, outputs, False)
    parameters = []
    for fold in [STUDENT] if STUDENT in bundle.folds else bundle.folds:  # as ours
        own = {n: torch.from_numpy(values) for n, values in load_tensors(bundle, fold).items()}
        wrong = network.load_state_dict(own, strict=False)  # it names a tensor up to four times
        if wrong.unexpected_keys:
            sys.exit(f"nnU-Net's network has other parameters: {wrong}")
        parameters.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
    labels = {name: number for number, name in enumerate(LABELS[:outputs])}
    dataset = {"channel_names": CHANNELS, "labels": labels, "file_ending": ".png"}
    predictor.manual_initialization(
        network, manager, configuration, parameters, dataset, "nnUNetTrainer", (0, 1)
    )


def plans(bundle: Bundle) -> dict[str, Any]:
    """nnU-Net's plans for RGB pictures, z-scored by channel and not resampled."""
    kinds = ("data", "seg", "probabilities")
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "benchmark",
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [bundle.tile, bundle.tile],
        "spacing": [1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * len(CHANNELS),
        "use_mask_for_norm": [False] * len(CHANNELS),
        **{f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in kinds},
        **{f"resampling_fn_{kind}_kwargs": resampling for kind in kinds},
        "architecture": nnunet_architecture(NETWORK, bundle.architecture),
    }
    return {
        "dataset_name": "Dataset001_Benchmark",
        "plans_name": "plans",
        "image_reader_writer": "NaturalImage2DIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {channel: {} for channel in CHANNELS},
        "label_manager": "LabelManager",
        "configurations": {"2d": configuration},
    }


if __name__ == "__main__":
    main()
