"""What tests share: where things lie, and a tiny bundle with random weights.

Everything but good labels can be tested with such a bundle. Tests of the training lie in
tests/training and need requirements-train.txt; where nnU-Net is missing, they are left out.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from reunet.network.bundle import save_bundle
from reunet.network.unet import Architecture, build

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests/data"
SAMPLES = DATA / "samples"  # images and labels of the four bundled samples
SAMPLE_IMAGES = SAMPLES / "images"
PICTURES = DATA / "images"  # small ones without labels
REUNET = Path(sys.executable).with_name("reunet")  # the command
TINY = Architecture(features=(4, 8, 8), dropout=0.0)
ABOUT = {"encoding": "paper", "decoder": "regrow", "tile": 64, "smallest": 32}

torch.set_num_threads(1)  # the networks of the tests are too small to share among threads
collect_ignore = [] if find_spec("nnunetv2") else ["training"]


def pytest_report_header() -> list[str]:
    """Say what is left out, so that nobody takes it for tested."""
    return [f"left out, nnU-Net is not installed: tests/{folder}" for folder in collect_ignore]


def save_tiny_bundle(folder: Path, folds: tuple[str, ...] = ("0", "1")) -> Path:
    torch.manual_seed(1)  # of few seeds that show cells in any picture, with either decoder
    states = {fold: build(TINY).state_dict() for fold in folds}
    save_bundle(folder, TINY, states, ABOUT)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save_tiny_bundle(tmp_path / "bundle")
