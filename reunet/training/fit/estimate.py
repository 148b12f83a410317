"""The size of cells in an image, as `reunet predict` finds it, by networks being trained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from reunet.inference.ensemble import Average
from reunet.inference.size import SizeNetwork, estimate_size, views_of
from reunet.model import default_weights
from reunet.network.bundle import SIZE, fold_file
from reunet.network.unet import SizeUNet
from reunet.scale_search import search_with
from reunet.training import layout
from reunet.training.fit.device import as_network
from reunet.training.fit.start import load_network, start_tensors
from reunet.training.presets import PRESETS

Measure = Callable[[np.ndarray], float | None]  # (H, W, 3) uint8 of normalise_channels -> px


def size_weights(root: Path) -> Path:
    """The size network that was trained below a root, else the shipped one."""
    trained = layout.size_file(root)
    return trained if trained.exists() else default_weights("cpu") / fold_file(SIZE)


def estimator(root: Path, preset: str, teacher: Path, device: str = "cpu") -> Measure:
    """What tells the diameter in px of an image's typical cell, None where it sees none.

    As `reunet predict` finds it: estimated, and searched for with a network that segments. teacher:
    checkpoint of that network, of a preset with a size of cells and a distance field. Raises
    ValueError where there is no size network of its architecture.
    """
    chosen, size_network = PRESETS[preset], load_size_network(root, preset)
    segments = as_network(
        load_network(teacher, preset), torch.device(device), chosen.architecture.outputs
    )
    voters, tiling = [Average([segments])], chosen.judging()

    def measure(image: np.ndarray) -> float | None:
        wanted, views, of = chosen.diameter, views_of(image), (image.shape[0], image.shape[1])
        assert wanted, "this preset sees all images at their own size"
        estimate = estimate_size(views, size_network)
        return search_with(views, estimate, of, wanted, voters, tiling) if estimate else None

    return measure


def load_size_network(root: Path, preset: str) -> SizeNetwork:
    """The size network of a root, or the shipped one. Raises ValueError where it does not fit."""
    path = size_weights(root)
    network = SizeUNet(PRESETS[preset].architecture)
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

    return run
