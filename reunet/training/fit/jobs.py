"""Jobs: what is trained, from what and how long, and their start on one device or several."""

import contextlib
import io
import os
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reunet.training import layout
from reunet.training.data.dataset import is_complete, read_json, write_json
from reunet.training.fit.ranks import BACKENDS, run_ranks
from reunet.training.layout import CONFIGURATION, DATASET, FINAL, LATEST
from reunet.training.presets import PRESETS, ROUNDS, WITH_UNLABELLED

# what must not change when a job goes on
IDENTITY = (
    "start", "weight_dice", "weight_ce", "pseudo_labels", "pseudo_share", "patch", "teachers",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A training, as it travels in nnU-Net's plans.

    stage: see `presets.STAGES`. start: checkpoint whose weights are taken over, `{fold}` standing
    for the fold (None: He-normal). hours: time in epochs after which the training ends, the
    learning rate at zero (schedules without halving). epochs: instead of the
    preset's. f1_every: epochs between two looks at the instance F1. pseudo_labels: of a round of
    self-training, a digest that tells its pseudo-labels from others. pseudo_share: of the draws
    that are pseudo-labelled cases (None: all cases alike). patch: px edge of a training patch,
    with a batch of about as many pixels (None: the preset's). teachers: checkpoints whose soft
    output is learnt, too (none: the labels alone). recolour: images where the preset does so.
    rate: share of the schedule's learning rate.
    """

    preset: str
    stage: str = "baseline"
    start: str | None = None
    hours: float | None = None
    epochs: int | None = None
    weight_dice: bool = False
    weight_ce: bool = False
    f1_every: int = 5
    pseudo_labels: str | None = None
    pseudo_share: float | None = None
    patch: int | None = None
    teachers: list[str] = field(default_factory=list)
    recolour: bool = True
    rate: float = 1.0

    @property
    def plans_name(self) -> str:
        """Name of the plans file and part of the results folder."""
        return layout.plans_name(self.preset, self.stage)


def limit_processes(device: str) -> None:
    """nnU-Net's processes for augmentation: more than the cores only slow the network down."""
    os.environ.setdefault("nnUNet_n_proc_DA", "1" if device == "cpu" else "8")
    os.environ.setdefault("nnUNet_def_n_proc", "2")


def train(root: Path, job: Job, fold: int | str, device: str = "cpu", num_gpus: int = 1) -> Path:
    """Train one fold, from where an interrupted run stopped. Returns the fold's folder.

    Nothing is done where the final checkpoint stands. num_gpus > 1 is nnU-Net's DDP, on a CPU with
    as many processes.
    Raises FileNotFoundError where something has to be done first, and ValueError for a job that
    cannot be done or is not the one whose results lie there.
    """
    layout.use_folder(root)
    output = layout.fold_folder(root, job.preset, job.stage, fold)
    check(root, job, fold, num_gpus, device)
    check_same(output, job, root)
    if (output / FINAL).exists():
        return output
    from reunet.training.fit.device import check_device

    check_device(device, num_gpus)
    plans = read_json(layout.plans_file(root, job.preset))
    plans |= {"plans_name": job.plans_name, "reunet": asdict(job)}
    planned = plans["configurations"][CONFIGURATION]
    if job.stage in WITH_UNLABELLED:
        planned["data_identifier"] = layout.round_cases(root, job.preset, job.stage).name
    if job.patch:
        planned["patch_size"] = [job.patch] * 2
        planned["batch_size"] = PRESETS[job.preset].batch_of(job.patch)
    write_json(layout.plans_file(root, job.preset, job.stage), plans)
    if num_gpus > 1:
        run_ranks(train_here, (plans, fold, device, output), num_gpus, device)
    else:
        train_here(plans, fold, device, output)
    return output


def describe(root: Path, job: Job, fold: int | str, num_gpus: int, device: str) -> str:
    """What `train` would do, in one line. Raises what it raises for a job that cannot be done."""
    check(root, job, fold, num_gpus, device)
    output = layout.fold_folder(root, job.preset, job.stage, fold)
    check_same(output, job, root)
    preset = PRESETS[job.preset]
    epochs = job.epochs or preset.schedule(job.stage).epochs
    length = f"{job.hours:g} h" if job.hours else f"{epochs} epochs"
    state = "from the start"
    if (output / FINAL).exists():
        state = "is trained already"
    elif (output / LATEST).exists():
        state = "goes on where it was"
    return (
        f"{job.stage}, fold {fold}: {length} of {preset.iterations_per_epoch} iterations an epoch "
        f"on {device}, {state}, in {output}"
    )


def check(root: Path, job: Job, fold: int | str, num_gpus: int, device: str) -> None:
    """Whether a job can be done. Raises FileNotFoundError or ValueError, see `train`."""
    folder, preset = layout.preprocessed(root), PRESETS[job.preset]
    if not layout.plans_file(root, job.preset).exists() or not is_complete(root):
        raise FileNotFoundError(
            f"{folder}: not ready for preset {job.preset}: run 1_prepare_data.sh with it first"
        )
    if job.start and not Path(job.start.format(fold=fold)).exists():
        raise FileNotFoundError(f"{job.start.format(fold=fold)}: train that stage first")
    pseudo_labelled = layout.pseudo_cases_file(root, job.preset, job.stage)
    if job.stage in ROUNDS and not pseudo_labelled.exists():
        raise FileNotFoundError(f"{folder}: no pseudo-labels of {job.stage}: run 4_self_train.sh")
    folds = len(read_json(layout.folds_file(root)))
    if fold != "all" and not (isinstance(fold, int) and 0 <= fold < folds):
        raise ValueError(f"fold {fold} does not exist: choose from 0 to {folds - 1}, or all")
    if job.hours and preset.schedule(job.stage).halve_every:
        raise ValueError(
            f"preset {job.preset} halves its rate by epochs: use --epochs, not --hours"
        )
    divisor = preset.architecture.divisor
    if job.patch and job.patch % divisor:
        raise ValueError(f"a patch of {job.patch} px: choose a multiple of {divisor}")
    batch = preset.batch_of(job.patch or preset.patch)
    if num_gpus > 1:
        check_ranks(job, num_gpus, device, batch)


def check_ranks(job: Job, num_gpus: int, device: str, batch: int) -> None:
    """Whether several processes can share a job's batch. Raises ValueError where they cannot."""
    asked = f"--num-gpus {num_gpus}"
    if device not in BACKENDS:
        raise ValueError(f"{asked}: choose --device {' or '.join(BACKENDS)}, not {device}")
    if job.hours:
        raise ValueError(f"{asked}: use --epochs, not --hours: each process has a clock of its own")
    if batch % num_gpus:
        fitting = ", ".join(str(n) for n in range(2, batch + 1) if batch % n == 0) or "1"
        raise ValueError(f"{asked}: a batch of {batch} is shared evenly: choose {fitting}")


def check_same(output: Path, job: Job, root: Path) -> None:
    """Whether results that lie there are this job's. Raises ValueError where they are not."""
    if not any((output / name).exists() for name in (FINAL, LATEST)):
        return
    way_out = "name another folder or take them away"
    there = asdict(Job(**read_json(output.parent / "plans.json")["reunet"]))
    if differing := [name for name in IDENTITY if there[name] != asdict(job)[name]]:
        raise ValueError(
            f"{output}: results of another {', '.join(differing)} lie there: {way_out}"
        )
    cases = read_json(output.parent / "dataset.json")["cases"]
    now = read_json(layout.description(root))["cases"]
    if cases != now:
        raise ValueError(f"{output}: results of another state of the data lie there: {way_out}")


def train_here(plans: dict[str, object], fold: int | str, device: str, output: Path) -> None:
    """Train in this process, alone or as one of the ranks of a process group."""
    import torch

    from reunet.training.fit.trainer import nnUNetTrainerReUNet

    dataset_json = read_json(Path(os.environ["nnUNet_preprocessed"], DATASET, "dataset.json"))
    plans = {**plans, "continue_training": (output / LATEST).exists()}
    # nnU-Net tells the device before it has a log, and takes every rank for one with a GPU
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*CUDA is not available", UserWarning)
        trainer = nnUNetTrainerReUNet(
            plans, CONFIGURATION, fold, dataset_json, torch.device(device)
        )
        trainer.initialize()  # and each rank its share of the batch
    torch.backends.cudnn.benchmark = True
    if (output / LATEST).exists():
        trainer.load_checkpoint(str(output / LATEST))
        trainer.tell(f"goes on at epoch {trainer.current_epoch}")
    trainer.run_training()
