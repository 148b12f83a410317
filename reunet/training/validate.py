"""Instance F1 of a network in training, through the project's own decoder and metric.

nnU-Net's pseudo Dice counts pixels of two classes; whether cells come apart it does not see.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from reunet.images import read_label
from reunet.instances import decode
from reunet.metric import score_pair
from reunet.predict import Tiling, predict_scaled
from reunet.training.dataset import Cases, instances_file

if TYPE_CHECKING:
    from reunet.training.trainer import nnUNetTrainerReUNet

MOST_CASES = 24  # a look, not the final figure: it must not cost more than an epoch


def pick_cases(names: Iterable[str], cases: Cases) -> list[str]:
    """Up to MOST_CASES names, the modalities in turn, the same at every call."""
    by_modality: dict[str, list[str]] = defaultdict(list)
    rng = np.random.default_rng(0)
    for name in rng.permutation(sorted(names)):
        by_modality[cases[str(name)]["modality"]].append(str(name))
    share = max(1, MOST_CASES // max(1, len(by_modality)))
    return sorted(name for members in by_modality.values() for name in members[:share])


def instance_f1(trainer: "nnUNetTrainerReUNet", names: list[str]) -> dict[str, float]:
    """Mean official F1 by modality and over modalities, single pass without mirroring."""
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, names)
    root = Path(trainer.preprocessed_dataset_folder_base).parents[1]
    network = trainer.plain_network().eval()
    trainer.set_deep_supervision_enabled(False)
    scores: dict[str, list[float]] = defaultdict(list)
    for name in names:
        data, _, _, properties = dataset.load_case(name)
        truth = read_label(instances_file(root, name))
        classes = np.zeros(truth.shape, np.uint8)
        rows, columns = (slice(*edges) for edges in properties["bbox_used_for_cropping"][1:])
        classes[rows, columns] = predict(network, np.asarray(data[:])[:, 0], trainer)
        found = decode(classes, "regrow", trainer.dataset_json["encoding"])
        scores[trainer.cases[name]["modality"]].append(score_pair(truth, found).f1)
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    means = {modality: float(np.mean(values)) for modality, values in sorted(scores.items())}
    return {**means, "mean of modalities": float(np.mean(list(means.values())))}


def predict(
    network: torch.nn.Module, content: np.ndarray, trainer: "nnUNetTrainerReUNet"
) -> np.ndarray:
    """Classes of a preprocessed case. content: (3, h, w) float32. Returns (h, w) uint8."""
    preset = trainer.preset
    tiling = Tiling(
        preset.tile, preset.patch, preset.architecture.divisor, mirror=False, device=trainer.device
    )
    logits = predict_scaled(np.ascontiguousarray(content), [network], tiling)
    classes: np.ndarray = logits.argmax(axis=0).astype(np.uint8)
    return classes
