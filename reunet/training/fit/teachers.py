"""Teachers of a distillation: trained folds that tell what they see in the batches of training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from reunet.inference.sliding_window import CLASSES
from reunet.training.fit.device import autocast
from reunet.training.fit.start import load_network


class Teachers:
    """Networks that are asked in turn, by chance: one a batch.

    In the mean over batches the student learns the mean of their probabilities, which is the
    ensemble's, for the price of one forward pass. They see the augmented patch that the student
    sees, so that nothing has to be stored or carried through the augmentation.
    """

    def __init__(self, checkpoints: Sequence[str], preset: str, device: torch.device) -> None:
        self.device = device
        self.networks = [load_network(Path(path), preset).to(device) for path in checkpoints]

    def teach(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch whose targets have the soft output of one teacher as further channels.

        target: list of (N, 3, h, w), one a resolution -> (N, 3 + C, h, w), C as the networks'
        outputs. Without teachers the batch stays as it is.
        """
        if not self.networks:
            return batch
        teacher = self.networks[np.random.default_rng().integers(len(self.networks))]
        soft = soft_output(teacher, batch["data"].to(self.device))
        return {**batch, "target": [_beside(t.to(self.device), soft) for t in batch["target"]]}


@torch.no_grad()
def soft_output(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Probabilities of the classes and, of a network that has it, the field.

    images: (N, 3, H, W). Returns (N, C, H, W) float32.
    """
    with autocast(images.device):
        seen = network(images)
    seen = seen.float()
    return torch.cat((seen[:, :CLASSES].softmax(dim=1), seen[:, CLASSES:]), dim=1)


def _beside(target: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    """A target and the soft output, averaged down to its size."""
    size = (int(target.shape[-2]), int(target.shape[-1]))
    if tuple(soft.shape[-2:]) != size:
        soft = F.interpolate(soft, size, mode="area")
    return torch.cat((target.to(soft.dtype), soft), dim=1)
