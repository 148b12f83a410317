"""Training by nnU-Net's own loop with our stages, loss, schedule and sampling (paper §3.2.2)."""

import math
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch._dynamo import OptimizedModule

from reunet.training import layout
from reunet.training.data.dataset import read_cases, read_json
from reunet.training.data.sampling import balanced, mixed
from reunet.training.fit.augment import widen_zoom, with_maps
from reunet.training.fit.device import BF16_CPU, autocast
from reunet.training.fit.forecast import plan_lines
from reunet.training.fit.log import TrainingLog, epoch_line
from reunet.training.fit.loss import TaughtLoss, WeightedDiceCE
from reunet.training.fit.page import MOST_SHOWN, Page
from reunet.training.fit.ranks import ddp_on
from reunet.training.fit.schedule import LearningRate
from reunet.training.fit.start import adopted, start_tensors
from reunet.training.fit.teachers import Teachers
from reunet.training.fit.validate import Validator, means, pick_cases
from reunet.training.presets import PRESETS, WITH_UNLABELLED
from reunet.training.talk import Ticker, deaf_children

MOMENTUM = 0.99
VALIDATION_ITERATIONS = 10


class nnUNetTrainerReUNet(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net's naming of trainers
    """nnU-Net's trainer for a job: what the entry `reunet` of the plans asks for, which holds the
    fields of `jobs.Job` and so lies with the results."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        if device.type == "cpu":  # nnU-Net takes every rank of a process group for a GPU
            self.device, self.grad_scaler = device, None
        self.job: dict[str, Any] = plans["reunet"]
        self.preset = PRESETS[self.job["preset"]]
        schedule = self.preset.schedule(self.job["stage"])
        self.schedule = replace(schedule, first_lr=schedule.first_lr * self.job.get("rate", 1.0))
        self.patch: int = self.configuration_manager.patch_size[0]
        self.initial_lr = self.schedule.first_lr
        self.weight_decay = self.preset.weight_decay
        self.hours: float | None = self.job["hours"]
        self.num_epochs = self.job["epochs"] or self.schedule.epochs
        if self.hours and not self.job["epochs"]:
            self.num_epochs = 10**6  # the clock ends it
        self.num_iterations_per_epoch = self.preset.iterations_per_epoch
        self.num_val_iterations_per_epoch = VALIDATION_ITERATIONS
        self.save_every = 1
        self.iteration = 0  # within the epoch
        self.root = layout.root_of(Path(self.output_folder_base))
        self.log_book = TrainingLog(Path(self.output_folder))
        self.ticker = Ticker()
        self.teachers = Teachers(self.job["teachers"], self.job["preset"], self.device)

    # -- what is said

    def print_to_log_file(self, *args: Any, add_timestamp: bool = True, **_: Any) -> None:
        """What nnU-Net has to say goes to its log file alone: banner and plans, a page of them."""
        super().print_to_log_file(*args, also_print_to_console=False, add_timestamp=add_timestamp)

    def tell(self, line: str) -> None:
        """A line for whoever waits, and for the log."""
        self.print_to_log_file(line)
        if self.local_rank == 0:
            self.ticker.end()
            print(line, flush=True)

    # -- network, loss, optimiser

    def initialize(self) -> None:
        """Build all, and take over the weights that the job starts from."""
        with ddp_on(self.device.type):
            super().initialize()
        if self.job["start"]:
            self.start_from(Path(self.job["start"].format(fold=self.fold)))

    @staticmethod
    def build_network_architecture(
        plans_manager: Any, configuration: Any, inputs: int, outputs: int, deep: bool = True
    ) -> torch.nn.Module:
        """nnU-Net's, with a further output where the preset's network has a distance field."""
        preset = PRESETS[plans_manager.plans["reunet"]["preset"]]
        network: torch.nn.Module = nnUNetTrainer.build_network_architecture(
            plans_manager, configuration, inputs, outputs + preset.architecture.field, deep
        )
        return network

    def start_from(self, start: Path) -> None:
        """Take over all weights of a checkpoint or of a bundle's fold, the heads included.

        nnU-Net's own way of loading pretrained weights starts the heads anew.
        """
        there = self.plain_network().state_dict()
        self.plain_network().load_state_dict(adopted(start_tensors(start), there))

    def plain_network(self) -> torch.nn.Module:
        """The network without the wrappers of DDP and torch.compile."""
        network: torch.nn.Module = self.network.module if self.is_ddp else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def _do_i_compile(self) -> bool:
        # nnU-Net never compiles on CPUs; measured here it makes a step 1.3 to 1.4 times faster,
        # which bfloat16 alone does better
        if self.device.type == "cpu" and BF16_CPU:
            return False
        if self.device.type == "cpu":
            wanted = os.environ.get("nnUNet_compile", "t").lower() in ("t", "true", "1")
            return wanted and shutil.which("g++") is not None
        return bool(super()._do_i_compile())

    def _build_loss(self) -> torch.nn.Module:
        supervised = super()._build_loss()  # nnU-Net's weights of the resolutions
        weights = self.job["weight_dice"], self.job["weight_ce"]
        truth = WeightedDiceCE(*weights, self.configuration_manager.batch_dice, self.is_ddp)
        supervised.loss = TaughtLoss(truth) if self.teachers.networks else truth
        return supervised  # type: ignore[no-any-return]

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, LearningRate]:
        """SGD with Nesterov momentum as in the paper, or AdamW, as the preset says."""
        parameters = self.network.parameters()
        if self.preset.optimiser == "adamw":
            optimiser: torch.optim.Optimizer = torch.optim.AdamW(
                parameters, self.initial_lr, weight_decay=self.weight_decay
            )
        else:
            optimiser = torch.optim.SGD(
                parameters, self.initial_lr, MOMENTUM, weight_decay=self.weight_decay, nesterov=True
            )
        return optimiser, LearningRate(self)

    # -- data

    def pseudo_cases(self) -> list[str]:
        """The unlabelled cases of rounds of self-training and distillation; others have none."""
        file = layout.pseudo_cases_file(self.root, self.job["preset"], self.job["stage"])
        return list(read_json(file)) if self.job["stage"] in WITH_UNLABELLED else []

    def do_split(self) -> tuple[list[str], list[str]]:
        """The fold's labelled cases, and for training alone the pseudo-labelled ones."""
        labelled = read_cases(self.root).keys()
        train, val = ([n for n in names if n in labelled] for names in super().do_split())
        pseudo = self.pseudo_cases()
        assert not {*pseudo} & {*labelled}, "a labelled case among the pseudo-labelled"
        return train + pseudo, val

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """The fold's two data sets; also sets up what measures the instance F1."""
        train, val = super().get_tr_and_val_datasets()
        cases = read_cases(self.root)
        self.validator = Validator(
            self.dataset_class(
                self.preprocessed_dataset_folder, pick_cases(val.identifiers, cases)
            ),
            self.root,
            cases,
            self.dataset_json["encoding"],
            self.preset.judging(),
        )
        labelled = [name for name in train.identifiers if name in cases]
        if self.preset.balanced:
            labelled = balanced(labelled, cases, self.patch)
            val.identifiers = balanced(val.identifiers, cases, self.patch)
        train.identifiers = mixed(labelled, self.pseudo_cases(), self.job["pseudo_share"])
        return train, val

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:
        """nnU-Net's, with a crop large enough for the widest zoom."""
        rotation, dummy, initial, mirror = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if self.preset.zoom:  # what a patch shows when objects are shrunk most
            widest = round(self.patch / self.preset.zoom[0])
            initial = np.maximum(initial, widest)
        return rotation, dummy, initial, mirror

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        """nnU-Net's augmentation with the preset's zoom and the weights carried along."""
        pipeline = super().get_training_transforms(*args, **kwargs)
        if self.preset.zoom:
            widen_zoom(pipeline, self.preset.zoom)
        weighted = self.job["weight_dice"] or self.job["weight_ce"]
        recolour = self.preset.recolour and self.job.get("recolour", True)
        return with_maps(pipeline, weighted, recolour)

    def get_validation_transforms(self, *args: Any, **kwargs: Any) -> Any:
        """nnU-Net's, all weights 1."""
        pipeline = super().get_validation_transforms(*args, **kwargs)
        return with_maps(pipeline, weighted=False)  # a loss that all stages can be compared by

    # -- the loop

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's, whose processes leave Ctrl-C to this one."""
        with deaf_children():
            loaders: tuple[Any, Any] = super().get_dataloaders()
        return loaders

    def on_train_start(self) -> None:
        """Say what will be done and how long it will take, in three lines, before it is done."""
        super().on_train_start()
        for line in plan_lines(self):
            self.tell(line)

    def progress(self) -> float:
        """Share of the training that is over, 0..1."""
        epochs = self.current_epoch + self.iteration / self.num_iterations_per_epoch
        done: float = epochs / self.num_epochs
        if self.hours is None:
            return done
        return max(done, self.elapsed() / (self.hours * 3600))

    def elapsed(self) -> float:
        """Seconds spent in epochs, those before an interruption included."""
        starts = self.logger.get_value("epoch_start_timestamps", step=None)
        ends = self.logger.get_value("epoch_end_timestamps", step=None)
        running = starts[len(ends) :]  # the epoch under way, if there is one
        return float(
            sum(e - s for s, e in zip(starts, ends, strict=False))
            + sum(time() - start for start in running)
        )

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One iteration, at the learning rate of the moment."""
        if self.schedule.halve_every is None:  # a cosine moves with each iteration
            self.lr_scheduler.step(self.current_epoch)
        self.iteration += 1
        with autocast(self.device):  # nnU-Net leaves it out on CPUs
            output: dict[str, Any] = super().train_step(self.teachers.teach(batch))
        if self.local_rank == 0:
            self.ticker.tick(self.progress(), float(output["loss"]))
        return output

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Loss alone: nnU-Net's counts of pixels, which a field's output has none of, are zero."""
        with autocast(self.device), torch.no_grad():
            targets = [target.to(self.device) for target in batch["target"]]
            loss = self.loss(self.network(batch["data"].to(self.device)), targets)
        nothing = np.zeros(len(self.label_manager.foreground_labels))
        counts = dict.fromkeys(("tp_hard", "fp_hard", "fn_hard"), nothing)
        return {"loss": loss.cpu().numpy(), **counts}

    def on_validation_epoch_end(self, outputs: list[dict[str, Any]]) -> None:
        """nnU-Net's, whose pixel Dice of no pixels is nothing to warn of."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            super().on_validation_epoch_end(outputs)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Close the epoch's count of iterations."""
        super().on_train_epoch_end(train_outputs)
        self.iteration = 0

    def on_epoch_end(self) -> None:
        """Log, validate, keep a checkpoint, and end when the time is over."""
        self.over = self.time_is_up() or self.current_epoch == self.num_epochs - 1
        line = self.note_epoch(self.over) if self.local_rank == 0 else ""
        self._best_ema = math.inf  # nnU-Net would choose the best checkpoint by pixel Dice
        super().on_epoch_end()
        if line:  # whoever reads it may interrupt: the checkpoint is written
            self.tell(line)

    def time_is_up(self) -> bool:
        """Whether the hours given to the training are over."""
        return self.hours is not None and self.elapsed() >= self.hours * 3600

    def note_epoch(self, last: bool) -> str:
        """Note the epoch's figures; every few epochs the instance F1, by which the best
        checkpoint is chosen. Returns a line on them."""
        every = self.job["f1_every"]
        due = last or self.current_epoch % every == every - 1
        scores = self.instance_f1() if due else {}
        figures = {
            "epoch": self.current_epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": self.logger.get_value("train_losses", step=-1),
            "val_loss": self.logger.get_value("val_losses", step=-1),
            **{f"f1_{name}": value for name, value in scores.items()},
        }
        if self.log_book.add(figures):
            self.save_checkpoint(str(Path(self.output_folder) / layout.BEST))
        return epoch_line(figures)

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint in one step: an interruption leaves the one before it whole."""
        if self.local_rank:  # another rank's file would be taken before it is whole
            return
        part = Path(f"{filename}.part")
        super().save_checkpoint(str(part))
        part.replace(filename)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Left out: nnU-Net would compute the pixel Dice; `instance_f1` judges our folds."""

    def instance_f1(self) -> dict[str, float]:
        """Mean F1 of the validation cases, by modality and over modalities; some are shown on a
        page in the fold's folder."""
        names = self.validator.dataset.identifiers
        page = Page(pick_cases(names, self.validator.cases, MOST_SHOWN))
        self.set_deep_supervision_enabled(False)
        validated = self.validator.look(self.plain_network().eval(), self.device)
        scores = means(page.watch(validated))
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        what = "learnt from" if self.fold == "all" else "held out"
        page.write(Path(self.output_folder), self.current_epoch, what)
        return scores

    def run_training(self) -> None:
        """nnU-Net's loop, which the clock may end, within an epoch too."""
        self.on_train_start()
        self.over = self.current_epoch >= self.num_epochs or self.time_is_up()
        while not self.over:  # asked once an epoch: what ends the training is what scores it last
            self.on_epoch_start()
            self.on_train_epoch_start()
            self.on_train_epoch_end([self.train_step(batch) for batch in self.epoch_batches()])
            with torch.no_grad():
                self.on_validation_epoch_start()
                outputs = [
                    self.validation_step(next(self.dataloader_val))
                    for _ in range(self.num_val_iterations_per_epoch)
                ]
                self.on_validation_epoch_end(outputs)
            self.on_epoch_end()
        self.on_train_end()

    def epoch_batches(self) -> Iterator[dict[str, Any]]:
        """The batches of an epoch, one at least; no more once the time is up."""
        for n in range(self.num_iterations_per_epoch):
            if n and self.time_is_up():
                return
            yield next(self.dataloader_train)
