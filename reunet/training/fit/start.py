"""Weights of a checkpoint or of a bundle's fold, as a training or a network takes them."""

from pathlib import Path

import safetensors.torch
import torch

from reunet.network.unet import UNet
from reunet.training.presets import PRESETS
from reunet.training.release.history import load_checkpoint, unique_tensors

Tensors = dict[str, torch.Tensor]


def start_tensors(path: Path) -> Tensors:
    """Tensors by the names of `parameter_shapes`, of a checkpoint or a `.safetensors` of a bundle.

    Raises ValueError for a file that is neither.
    """
    if path.suffix == ".pth" and path.name.startswith("size"):
        saved: Tensors = torch.load(path, weights_only=True)["weights"]
        return saved
    if path.suffix != ".safetensors":
        return unique_tensors(load_checkpoint(path)["network_weights"])
    try:
        return {name: t.float() for name, t in safetensors.torch.load_file(path).items()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: no weights of a fold, or damaged: name another") from error


def adopted(tensors: Tensors, there: Tensors) -> Tensors:
    """`there`, nnU-Net's state of a new network, with the values of `tensors`.

    nnU-Net registers layers under several names; each gets the values of the shortest. A head with
    more outputs than the start has keeps its own first values for those. Raises ValueError where
    the two are not of one architecture.
    """
    by_place = {tensor.data_ptr(): tensors.get(name) for name, tensor in there.items()
                if name in tensors}  # fmt: skip
    if len(by_place) != len(tensors):
        raise ValueError("the start is of another architecture: choose one of the same preset")
    state = {}
    for name, tensor in there.items():
        values, new = by_place[tensor.data_ptr()], tensor.clone()
        if values is None or values.shape[1:] != new.shape[1:] or len(values) > len(new):
            raise ValueError(f"the start does not fit {name}: choose one of the same preset")
        if len(values) < len(new) and ".seg_layers." not in name:
            raise ValueError(f"the start does not fit {name}: choose one of the same preset")
        new[: len(values)] = values
        state[name] = new
    return state


def load_network(checkpoint: Path, preset: str) -> UNet:
    """The runtime's network with a checkpoint's weights. Raises ValueError if they do not fit."""
    with torch.device("meta"):
        network = UNet(PRESETS[preset].architecture)
    tensors = unique_tensors(load_checkpoint(checkpoint)["network_weights"])
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint}: not the network of preset {preset}") from error
    return network.eval().requires_grad_(False)
