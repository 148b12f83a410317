"""The size of cells, estimated by the network trained below a root, or by the shipped one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from reunet.inference.size import estimate_diameter, views_of
from reunet.model import default_weights
from reunet.network.architecture import Architecture
from reunet.network.bundle import SIZE, fold_file
from reunet.network.unet import SizeUNet
from reunet.training import layout
from reunet.training.fit.start import start_tensors

Measure = Callable[[np.ndarray], float | None]  # (H, W, 3) uint8 of normalise_channels -> px


def size_weights(root: Path) -> Path:
    """The size network that was trained below a root, else the shipped one."""
    trained = layout.size_file(root)
    return trained if trained.exists() else default_weights("cpu") / fold_file(SIZE)


def estimator(root: Path, arch: Architecture) -> Measure:
    """What tells the diameter in px of an image's typical cell, None where it sees none.

    Raises ValueError where there is no size network of this architecture.
    """
    path = size_weights(root)
    network = SizeUNet(arch)
    try:
        network.load_state_dict(start_tensors(path))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path}: no size network of this architecture: train one with "
            f"python -m reunet.training size"
        ) from error
    network.eval()

    @torch.inference_mode()
    def run(view: np.ndarray) -> np.ndarray:
        output: np.ndarray = network(torch.from_numpy(view)).float().numpy()
        return output

    return lambda image: estimate_diameter(views_of(image), run)
