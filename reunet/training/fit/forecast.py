"""What a training will do and how long it will take, told before it is done."""

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from reunet.training.fit.device import autocast
from reunet.training.talk import told_seconds

if TYPE_CHECKING:
    from reunet.training.fit.trainer import nnUNetTrainerReUNet

TIMED_ITERATIONS = 3


def plan_lines(trainer: "nnUNetTrainerReUNet") -> tuple[str, str, str]:
    """Images and start; network, batch and device; time. The last line times some iterations."""
    train, val = trainer.do_split()
    job, start = trainer.job, trainer.job["start"] or "weights drawn at random"
    parameters = sum(p.numel() for p in trainer.plain_network().parameters())
    each = seconds_per_iteration(trainer)
    iterations = trainer.num_iterations_per_epoch
    patches = f"{trainer.configuration_manager.batch_size} patches"
    if trainer.is_ddp:
        patches += f" ({trainer.batch_size} a process)"
    seconds = (trainer.num_epochs - trainer.current_epoch) * iterations * each
    if trainer.hours:
        seconds = max(0.0, trainer.hours * 3600 - trainer.elapsed())
    return (
        f"{job['stage']}, fold {trainer.fold}: {len({*train})} images to learn from, "
        f"{len(val)} to be judged by; starts from {start.format(fold=trainer.fold)}",
        f"{parameters / 1e6:.2f} M parameters, {patches} of {trainer.patch} px "
        f"an iteration, {iterations} iterations an epoch, on {trainer.device}",
        f"{each:.2f} s an iteration: {told_seconds(seconds)} to go, "
        f"about {seconds / each:.0f} iterations",
    )


def seconds_per_iteration(trainer: "nnUNetTrainerReUNet") -> float:
    """Time of a forward and a backward pass with its data; nothing is learnt from them."""
    trainer.network.train()
    seconds = []
    for _ in range(1 + TIMED_ITERATIONS):  # the first compiles
        started = perf_counter()
        batch = trainer.teachers.teach(next(trainer.dataloader_train))
        targets = [target.to(trainer.device) for target in batch["target"]]
        with autocast(trainer.device):
            loss = trainer.loss(trainer.network(batch["data"].to(trainer.device)), targets)
        loss.backward()
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(perf_counter() - started)
    trainer.optimizer.zero_grad(set_to_none=True)
    return float(np.median(seconds[1:]))
