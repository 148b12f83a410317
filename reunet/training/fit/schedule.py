"""The learning rate of the moment: halved by epochs as in the paper, or a cosine to zero."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reunet.training.fit.trainer import nnUNetTrainerReUNet

WARM_UP = 0.03  # share of a cosine training


class LearningRate:
    """Sets the learning rate; what nnU-Net calls `lr_scheduler` and steps with every epoch."""

    def __init__(self, trainer: "nnUNetTrainerReUNet") -> None:
        self.trainer = trainer

    def step(self, epoch: int) -> None:
        """Set the learning rate of `epoch`, counted from 0, or of the present moment in it."""
        schedule = self.trainer.schedule
        if schedule.halve_every:
            factor = halving(epoch, schedule.halve_every)
        else:
            factor = warm_cosine(self.trainer.progress())
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = schedule.first_lr * factor


def halving(epoch: int, every: int) -> float:
    """Factor of the first learning rate: 1 in epochs 0..every-1, then ½, then ¼ … (table 3)."""
    return float(0.5 ** (epoch // every))


def warm_cosine(progress: float) -> float:
    """Factor of the first learning rate: a linear rise over `WARM_UP`, then a cosine to 0."""
    rise = min(1.0, (progress + 0.2 * WARM_UP) / WARM_UP)
    return rise * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
