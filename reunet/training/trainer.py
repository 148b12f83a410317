"""Training by nnU-Net's own loop, with our schedule, sampling and augmentation (paper §3.2.2)."""

import json
import math
import shutil
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from reunet.training.dataset import CONFIGURATION, DATASET, balanced, plans_name, use_folder
from reunet.training.presets import PRESETS

MOMENTUM = 0.99
WARM_UP = 0.03  # share of a cosine training
VALIDATION_ITERATIONS = 10
CHECKPOINT = "checkpoint_latest.pth"


class Zoom:
    """Draws nnU-Net's `scaling` (above 1: smaller objects) evenly on a logarithmic axis."""

    def __init__(self, zoom: tuple[float, float]) -> None:
        self.low, self.high = -math.log(zoom[1]), -math.log(zoom[0])

    def __call__(self, **_: object) -> float:
        return math.exp(np.random.uniform(self.low, self.high))  # noqa: NPY002 nnU-Net's generator


class nnUNetTrainerReUNet(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net finds trainers by name
    """nnU-Net's trainer with the preset that the plans name.

    hours: wall-clock time after which training ends; the learning rate of a cosine schedule then
    reaches zero with the time instead of the epochs. None: `num_epochs` alone counts.
    """

    hours: float | None = None

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.preset = PRESETS[plans["reunet_preset"]]
        self.initial_lr = self.preset.first_lr
        self.weight_decay = self.preset.weight_decay
        self.num_epochs = self.preset.epochs
        self.num_iterations_per_epoch = self.preset.iterations_per_epoch
        self.num_val_iterations_per_epoch = VALIDATION_ITERATIONS
        self.save_every = 1

    def _do_i_compile(self) -> bool:
        # nnU-Net never compiles on CPUs; measured here it makes a step 1.3 to 1.4 times faster
        if self.device.type == "cpu":
            return shutil.which("g++") is not None
        return bool(super()._do_i_compile())

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, "Schedule"]:
        parameters = self.network.parameters()
        if self.preset.optimiser == "adamw":
            optimiser: torch.optim.Optimizer = torch.optim.AdamW(
                parameters, self.initial_lr, weight_decay=self.weight_decay
            )
        else:
            optimiser = torch.optim.SGD(
                parameters, self.initial_lr, MOMENTUM, weight_decay=self.weight_decay, nesterov=True
            )
        return optimiser, Schedule(self)

    def elapsed(self) -> float:
        """Seconds spent in finished epochs, those before an interruption included."""
        starts = self.logger.get_value("epoch_start_timestamps", step=None)
        ends = self.logger.get_value("epoch_end_timestamps", step=None)
        return float(sum(e - s for s, e in zip(starts, ends, strict=False)))

    def progress(self) -> float:
        """Share of the training that is over, 0..1."""
        done: float = self.current_epoch / self.num_epochs
        if self.hours is None:
            return done
        return max(done, self.elapsed() / (self.hours * 3600))

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        train, val = super().get_tr_and_val_datasets()
        cases = json.loads(Path(self.preprocessed_dataset_folder_base, "cases.json").read_text())
        train.identifiers = balanced(train.identifiers, cases)
        val.identifiers = balanced(val.identifiers, cases)
        return train, val

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:
        rotation, dummy, initial, mirror = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if self.preset.zoom:  # what a patch shows when objects are shrunk most
            widest = round(self.preset.patch / self.preset.zoom[0])
            initial = np.maximum(initial, widest)
        return rotation, dummy, initial, mirror

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        pipeline = super().get_training_transforms(*args, **kwargs)
        spatial = pipeline.transforms[0]
        assert isinstance(spatial, SpatialTransform)
        if self.preset.zoom:
            spatial.scaling = Zoom(self.preset.zoom)
            spatial.p_scaling = spatial.p_rotation = 0.5
        return pipeline

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.hours is not None and self.progress() >= 1:
            raise TimeIsUp

    def run_training(self) -> None:
        try:
            super().run_training()
        except TimeIsUp:
            self.on_train_end()


class TimeIsUp(Exception):
    """The hours given to a training are over: no error, it leaves nnU-Net's loop over epochs."""


class Schedule:
    """Learning rate at the start of an epoch; what nnU-Net calls `lr_scheduler`."""

    def __init__(self, trainer: nnUNetTrainerReUNet) -> None:
        self.trainer = trainer

    def step(self, epoch: int) -> None:
        """Set the learning rate of `epoch`, counted from 0."""
        preset = self.trainer.preset
        if preset.halve_every:
            factor = halving(epoch, preset.halve_every)
        else:
            factor = warm_cosine(self.trainer.progress())
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = preset.first_lr * factor


def halving(epoch: int, every: int) -> float:
    """Factor of the first learning rate: 1 in epochs 0..every-1, then ½, then ¼ … (table 3)."""
    return float(0.5 ** (epoch // every))


def warm_cosine(progress: float) -> float:
    """Factor of the first learning rate: a linear rise over `WARM_UP`, then a cosine to 0."""
    rise = min(1.0, (progress + 0.2 * WARM_UP) / WARM_UP)
    return rise * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def train(
    root: Path, preset: str, fold: int | str, device: str, hours: float | None, epochs: int | None
) -> Path:
    """Train one fold, from where an interrupted run stopped. Returns the fold's folder.

    hours: end (and let the learning rate reach zero) after this wall-clock time.
    epochs: instead of the preset's. Nothing is done where `checkpoint_final.pth` stands.
    """
    use_folder(root)
    folder = root / "preprocessed" / DATASET
    plans = json.loads((folder / f"{plans_name(preset)}.json").read_text())
    dataset_json = json.loads((folder / "dataset.json").read_text())
    plans["continue_training"] = False
    trainer = nnUNetTrainerReUNet(plans, CONFIGURATION, fold, dataset_json, torch.device(device))
    trainer.hours = hours
    trainer.num_epochs = epochs or (trainer.num_epochs if hours is None else 10**6)
    output = Path(trainer.output_folder)
    if (output / "checkpoint_final.pth").exists():
        return output
    trainer.initialize()
    if (output / CHECKPOINT).exists():
        trainer.load_checkpoint(str(output / CHECKPOINT))
        trainer.print_to_log_file(f"continues at epoch {trainer.current_epoch}")
    started = time()
    trainer.run_training()
    trainer.print_to_log_file(f"trained for {(time() - started) / 3600:.2f} h in this process")
    return output
