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
# What runs whole commands or takes more than about a second: all else is `quick`.
LONG = {
    "test_api", "test_api_docs", "test_backends", "test_begun", "test_cli", "test_cli_talk",
    "test_degenerate", "test_determinism", "test_distributed", "test_doctor", "test_examples",
    "test_faults", "test_field_bundle", "test_golden", "test_harness", "test_hostile",
    "test_inputs", "test_omezarr", "test_package", "test_quality", "test_region",
    "test_report_page", "test_scanners", "test_startup", "test_vendors", "test_zoo",
}  # fmt: skip
LONG_TESTS = {
    "test_a_budget_knows_the_tiles_of_the_second_look",
    "test_a_stored_graph_with_a_changed_byte_is_not_believed",
    "test_as_many_strips_as_rows_are_read_in_time",
    "test_bombs",
    "test_dask_workers_get_a_model",
    "test_joblib_sends_a_model",
    "test_processes_that_are_spawned_get_a_model",
    "test_is_the_definition_on_real_labels",
    "test_logits_do_not_depend_on_the_number_of_threads",
    "test_slides_become_a_reduced_picture_and_crops_of_where_cells_are",
    "test_ten_thousand_cells_take_no_longer_than_few",
    "test_the_trained_folds_tell_the_classes_apart",
}

collect_ignore = [] if find_spec("nnunetv2") else ["training"]


def pytest_report_header() -> list[str]:
    """Say what is left out, so that nobody takes it for tested."""
    return [f"left out, nnU-Net is not installed: tests/{folder}" for folder in collect_ignore]


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark what is quick: `python -m pytest -m quick` is under a minute on two quiet cores."""
    for item in items:
        long = item.path.stem in LONG or getattr(item, "originalname", "") in LONG_TESTS
        if not long and not item.get_closest_marker("slow") and "training" not in item.path.parts:
            item.add_marker(pytest.mark.quick)


def save_tiny_bundle(folder: Path, folds: tuple[str, ...] = ("0", "1")) -> Path:
    torch.manual_seed(1)  # of few seeds that show cells in any picture, with either decoder
    states = {fold: build(TINY).state_dict() for fold in folds}
    save_bundle(folder, TINY, states, ABOUT)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save_tiny_bundle(tmp_path / "bundle")
