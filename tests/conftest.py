"""A tiny bundle with random weights: everything but good labels can be tested with it."""

from pathlib import Path

import pytest
import torch

from reunet.network import Architecture, build
from reunet.weights import save_bundle

torch.set_num_threads(1)  # the networks of the tests are too small to share among threads
TINY = Architecture(features=(4, 8, 8), dropout=0.0)
ABOUT = {"encoding": "paper", "decoder": "regrow", "tile": 64, "smallest": 32}


def save_tiny_bundle(folder: Path, folds: tuple[str, ...] = ("0", "1")) -> Path:
    torch.manual_seed(1)  # of few seeds that show cells in any picture, with either decoder
    states = {fold: build(TINY).state_dict() for fold in folds}
    save_bundle(folder, TINY, states, ABOUT)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save_tiny_bundle(tmp_path / "bundle")
