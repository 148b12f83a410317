"""Instance F1 of a network in training, through the project's own decoder and metric.

nnU-Net's pseudo Dice counts pixels of two classes; whether cells come apart it does not see.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from reunet.inference.ensemble import Average
from reunet.inference.sliding_window import CLASSES, Maps, enter_logits, predict_scaled
from reunet.inference.tiles import Tiling
from reunet.instances.decode import decode
from reunet.instances.peaks import decode_field
from reunet.io.images import read_label
from reunet.metric import Score, score_pair
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


class Validated(NamedTuple):
    """A validation case. H, W: of the image as training reads it."""

    name: str
    modality: str
    picture: np.ndarray  # (H, W, 3) float32, z-scored; 0 outside of the content box
    truth: np.ndarray  # (H, W) integer
    found: np.ndarray  # (H, W) int32
    score: Score


@dataclass(frozen=True)
class Validator:
    """The preprocessed cases (an nnU-Net data set) that a network is validated by, and how."""

    dataset: Any
    root: Path  # of the training, where the true instances lie
    cases: Cases
    encoding: str
    tiling: Tiling

    def look(self, module: torch.nn.Module, device: torch.device) -> Iterator[Validated]:
        """Segment the cases as the network's weights are used later, at the true size of cells."""
        network = Average([as_network(module, device, self.tiling.outputs)])
        for name in self.dataset.identifiers:
            data, _, _, properties = self.dataset.load_case(name)
            truth = read_label(layout.instances_file(self.root, name))
            content = np.ascontiguousarray(np.asarray(data[:])[:, 0])  # (3, h, w)
            box = tuple(slice(*edges) for edges in properties["bbox_used_for_cropping"][1:])
            picture = np.zeros((*truth.shape, 3), np.float32)
            picture[box] = content.transpose(1, 2, 0)
            found = self.cells(predict_scaled(content, network, self.tiling), truth.shape, box)
            score = score_pair(truth, found)
            yield Validated(name, self.cases[name]["modality"], picture, truth, found, score)

    def cells(
        self, logits: np.ndarray, shape: tuple[int, ...], box: tuple[slice, ...]
    ) -> np.ndarray:
        """(H, W) int32. logits: (C, h, w) in the content box, the field last if there is one."""
        maps = Maps.blank((1, shape[0], shape[1]), len(logits) > CLASSES)
        enter_logits(maps, 0, (box[0], box[1]), logits)
        if maps.fields is None:
            return decode(maps.classes[0], "regrow", self.encoding)
        return decode_field(*maps.of(0))


def means(validated: Iterable[Validated]) -> dict[str, float]:
    """Mean official F1 by modality and over modalities."""
    scores: dict[str, list[float]] = defaultdict(list)
    for case in validated:
        scores[case.modality].append(case.score.f1)
    by_modality = {modality: float(np.mean(f1)) for modality, f1 in sorted(scores.items())}
    return {**by_modality, "mean of modalities": float(np.mean(list(by_modality.values())))}


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
    validator = Validator(
        nnUNetDatasetBlosc2(str(cases_folder(root, preset)), names),
        root,
        cases,
        read_json(layout.description(root))["encoding"],
        PRESETS[preset].judging(),
    )
    validated = validator.look(load_network(checkpoint, preset), torch.device(device))
    return round(means(validated)["mean of modalities"], 4)
