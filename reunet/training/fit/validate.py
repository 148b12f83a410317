"""Instance F1 of a network in training, through the project's own decoder and metric.

nnU-Net's pseudo Dice counts pixels of two classes; whether cells come apart it does not see.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reunet.inference.ensemble import Average, Network
from reunet.inference.sliding_window import predict_scaled
from reunet.inference.tiles import Tiling
from reunet.instances.decode import decode
from reunet.io.images import read_label
from reunet.metric import score_pair
from reunet.training import layout
from reunet.training.data.dataset import Cases, cases_folder, read_cases, read_json
from reunet.training.fit.device import as_network
from reunet.training.presets import PRESETS

MOST_CASES = 24  # a look, not the final figure: it must not cost more than an epoch
MOST_OF_FOLD = 96  # for the figure by which a round's students are compared with their teacher


def pick_cases(names: Iterable[str], cases: Cases, most: int = MOST_CASES) -> list[str]:
    """Up to `most` names, each modality with the same share, the same at every call."""
    by_modality: dict[str, list[str]] = defaultdict(list)
    rng = np.random.default_rng(0)
    for name in rng.permutation(sorted(names)):
        by_modality[cases[str(name)]["modality"]].append(str(name))
    share = max(1, most // max(1, len(by_modality)))
    return sorted(name for members in by_modality.values() for name in members[:share])


@dataclass(frozen=True)
class Judge:
    """The preprocessed cases (an nnU-Net data set) that a network is judged by, and how."""

    dataset: Any
    root: Path  # of the training, where the true instances lie
    cases: Cases
    encoding: str
    tiling: Tiling

    def instance_f1(self, network: Network) -> dict[str, float]:
        """Mean official F1 by modality and over modalities."""
        scores: dict[str, list[float]] = defaultdict(list)
        for name in self.dataset.identifiers:
            data, _, _, properties = self.dataset.load_case(name)
            truth = read_label(layout.instances_file(self.root, name))
            content = np.ascontiguousarray(np.asarray(data[:])[:, 0])  # (3, h, w)
            logits = predict_scaled(content, Average([network]), self.tiling)
            rows, columns = (slice(*edges) for edges in properties["bbox_used_for_cropping"][1:])
            classes = np.zeros(truth.shape, np.uint8)
            classes[rows, columns] = logits.argmax(axis=0)
            found = decode(classes, "regrow", self.encoding)
            scores[self.cases[name]["modality"]].append(score_pair(truth, found).f1)
        means = {modality: float(np.mean(f1)) for modality, f1 in sorted(scores.items())}
        return {**means, "mean of modalities": float(np.mean(list(means.values())))}


def fold_f1(root: Path, preset: str, checkpoint: Path, fold: str, device: str) -> float | None:
    """Instance F1 of a checkpoint on the validation part of its fold, the mean of modalities.

    None for fold `all`, which has no such part.
    """
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    from reunet.training.fit.start import load_network

    if fold == "all":
        return None
    cases = read_cases(root)
    validated = read_json(layout.folds_file(root))[int(fold)]["val"]
    names = pick_cases(validated, cases, MOST_OF_FOLD)
    judge = Judge(
        nnUNetDatasetBlosc2(str(cases_folder(root, preset)), names),
        root,
        cases,
        read_json(layout.description(root))["encoding"],
        PRESETS[preset].tiling(mirror=False),
    )
    network = as_network(load_network(checkpoint, preset), torch.device(device))
    return round(judge.instance_f1(network)["mean of modalities"], 4)
