"""Our logits beside those of nnU-Net's own predictor, from the same arrays and weights."""

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from reunet.inference.normalise import normalise_channels, z_score
from reunet.inference.sliding_window import Network, predict_scaled
from reunet.inference.tiles import Tiling, content_box
from reunet.network import torch_backend
from reunet.network.bundle import load_tensors
from reunet.pipeline import load_model

Row = tuple[str, str, str, str]


def compare(weights: Path, model_folder: Path, images: Iterable[np.ndarray]) -> list[Row]:
    """A row for each way of ours: how far its logits are from nnU-Net's, over all images.

    images: (H, W, 3). The first fold, no mirroring. Ways: PyTorch in parity mode, which has to be
    nnU-Net to the bit; the CPU's own backend with the same tiles; and as `reunet predict` does it,
    with a tile of their own for images that are smaller than a tile or a little larger.
    """
    model = load_model(weights, "cpu", ["0"])
    arch, tensors = model.bundle.architecture, load_tensors(model.bundle, "0")
    in_torch = torch_backend.build_network(arch, tensors, "cpu")
    default = replace(model.tiling(tta=False), skip=False)
    full = replace(default, smallest=default.tile, stretch=1)
    ways: dict[str, tuple[Network, Tiling]] = {
        "PyTorch, parity mode": (in_torch, replace(full, parity=True)),
        "OpenVINO, parity mode": (model.networks[0], replace(full, parity=True)),
        "OpenVINO, sums in float32": (model.networks[0], full),
        "as `reunet predict`: tiles that fit the image": (model.networks[0], default),
    }
    contents = [scaled_content(image) for image in images]
    theirs = nnunet_logits(model_folder, contents)
    rows = []
    for way, (network, tiling) in ways.items():
        ours = [predict_scaled(content, [network], tiling) for content in contents]
        rows.append((way, *differences(ours, theirs)))
    return rows


def scaled_content(image: np.ndarray) -> np.ndarray:
    """What the network is shown of an image: (3, h, w) float32."""
    channels = normalise_channels(image).transpose(2, 0, 1)
    return z_score(channels[:, *content_box(channels)])


def nnunet_logits(model_folder: Path, contents: Iterable[np.ndarray]) -> list[np.ndarray]:
    """(3, h, w) float32 for each array, by nnU-Net."""
    cpu = torch.device("cpu")
    with contextlib.redirect_stdout(sys.stderr):  # its remark does not belong into the tables
        predictor = nnUNetPredictor(use_mirroring=False, device=cpu, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model_folder), (0,))
    return [
        predictor.predict_logits_from_preprocessed_data(torch.from_numpy(content)[:, None])[:, 0]
        .float()
        .numpy()
        for content in contents
    ]


def differences(ours: list[np.ndarray], theirs: list[np.ndarray]) -> tuple[str, str, str]:
    """Largest and mean difference of the logits, and the share of pixels of the same class."""
    apart = np.concatenate([abs(a - b).ravel() for a, b in zip(ours, theirs, strict=True)])
    same = np.concatenate(
        [(a.argmax(0) == b.argmax(0)).ravel() for a, b in zip(ours, theirs, strict=True)]
    )
    return f"{apart.max():.2g}", f"{apart.mean():.2g}", f"{100 * same.mean():.4f}"
