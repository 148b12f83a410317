"""Every path of a training root: nnU-Net's three folders, checkpoints, rounds of self-training.

ROOT/raw/DATASET                    images a channel each, classes, instances, dataset.json
ROOT/preprocessed/DATASET           what training reads: cases, folds, plans; unlabelled images
ROOT/results/DATASET/STAGE/fold_N   checkpoints, training.csv, training.png, predictions.html
ROOT/results/size                   the network that estimates the size of cells
ROOT/rounds/roundN                  pseudo-labels, overlays and tables of self-training
"""

import os
from dataclasses import dataclass
from pathlib import Path

DATASET_ID, DATASET = 703, "Dataset703_ReUNet"
CONFIGURATION = "2d"
TRAINER = "nnUNetTrainerReUNet"
SUFFIX = ".nii.gz"
FINAL, LATEST, BEST = "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"
SOUP = "soup.safetensors"
FOLD = "{fold}"  # in the path of a checkpoint: stands for the number of the fold


def use_folder(root: Path) -> None:
    """Point nnU-Net's three environment variables below `root`, and make the folders."""
    for name in ("raw", "preprocessed", "results"):
        folder = root.resolve() / name
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder)


# -- the labelled data


def raw(root: Path) -> Path:
    """The data set as nnU-Net takes it."""
    return root / "raw" / DATASET


def raw_description(root: Path) -> Path:
    """Its `dataset.json`, with the cases, their versions, encoding and size of cells."""
    return raw(root) / "dataset.json"


def channel_file(root: Path, case: str, channel: int) -> Path:
    """One channel of a case."""
    return raw(root) / "imagesTr" / f"{case}_{channel:04d}{SUFFIX}"


def classes_file(root: Path, case: str) -> Path:
    """The three classes of a case; written last, it stands for a complete case."""
    return raw(root) / "labelsTr" / f"{case}{SUFFIX}"


def instances_file(root: Path, case: str) -> Path:
    """The instance labels of a case, kept for the instance F1 and for weight maps."""
    return raw(root) / "instancesTr" / f"{case}_label.tiff"


def digest_file(root: Path, case: str) -> Path:
    """sha256 of the pixels of a case's image, before it was brought to another size."""
    return raw(root) / "digestsTr" / f"{case}.sha256"


def preprocessed(root: Path) -> Path:
    """The data set as training reads it."""
    return root / "preprocessed" / DATASET


def description(root: Path) -> Path:
    """nnU-Net's copy of `dataset.json` beside the preprocessed cases."""
    return preprocessed(root) / "dataset.json"


def cases_file(root: Path) -> Path:
    """Modality, source, group and size of each case."""
    return preprocessed(root) / "cases.json"


def folds_file(root: Path) -> Path:
    """Which cases each fold trains on, and which it is judged by; nnU-Net's name."""
    return preprocessed(root) / "splits_final.json"


def marker(root: Path) -> Path:
    """Stands for a preprocessing that ended, with the data set that it was made of."""
    return preprocessed(root) / f"{CONFIGURATION}.complete"


# -- stages


def plans_name(preset: str, stage: str = "baseline") -> str:
    """Name of a stage's plans, and part of the name of its results folder."""
    return f"plans_{preset}" if stage == "baseline" else f"plans_{preset}_{stage}"


def plans_file(root: Path, preset: str, stage: str = "baseline") -> Path:
    """nnU-Net's plans with a preset's network and a stage's job in them."""
    return preprocessed(root) / f"{plans_name(preset, stage)}.json"


def results_folder(root: Path, preset: str, stage: str) -> Path:
    """Where nnU-Net keeps the folds of a stage."""
    return root / "results" / DATASET / f"{TRAINER}__{plans_name(preset, stage)}__{CONFIGURATION}"


def fold_folder(root: Path, preset: str, stage: str, fold: int | str = FOLD) -> Path:
    """Checkpoints, log and plot of a fold."""
    return results_folder(root, preset, stage) / f"fold_{fold}"


def checkpoint(root: Path, preset: str, stage: str, fold: int | str = FOLD) -> Path:
    """The checkpoint that a fold ends with; without a fold, one for all with FOLD in it."""
    return fold_folder(root, preset, stage, fold) / FINAL


def size_folder(root: Path) -> Path:
    """Where the network that estimates the size of cells is trained."""
    return root / "results" / "size"


def size_file(root: Path) -> Path:
    """Its weights."""
    return size_folder(root) / "size.pth"


@dataclass(frozen=True)
class Trained:
    """Where a checkpoint belongs: its fold, the folder of its stage, the root of the training."""

    fold: str
    folder: Path
    root: Path

    @property
    def plans(self) -> Path:
        """The plans that it was trained with, the job in them."""
        return self.folder / "plans.json"

    @property
    def data(self) -> Path:
        """Description of the data set that it was trained on."""
        return self.folder / "dataset.json"


def trained(checkpoint: Path) -> Trained:
    """Read the path of a checkpoint, ROOT/results/DATASET/STAGE/fold_N/FILE, from its end."""
    fold, stage, _, _, root = list(checkpoint.parents)[:5]
    return Trained(fold.name.removeprefix("fold_"), stage, root)


def root_of(folder: Path) -> Path:
    """The root of the folder of a stage (`results_folder`) or of `preprocessed`."""
    return next(
        above for above in folder.parents if above.name in ("results", "preprocessed")
    ).parent


# -- self-training


def unlabelled_folder(root: Path) -> Path:
    """Unlabelled images, stored once as cases that every round reads."""
    return preprocessed(root) / "unlabelled"


def round_cases(root: Path, preset: str, stage: str) -> Path:
    """The preprocessed cases of a round, or of a distillation: the labelled ones, linked, and the
    unlabelled."""
    return preprocessed(root) / f"{plans_name(preset, stage)}_{CONFIGURATION}"


def soup_file(root: Path, preset: str, stage: str) -> Path:
    """The mean of the teachers' weights, which a distillation may start from."""
    return results_folder(root, preset, stage) / SOUP


def pseudo_cases_file(root: Path, preset: str, stage: str) -> Path:
    """The list of such a stage's unlabelled cases; it stands once all of them are there."""
    return preprocessed(root) / f"{plans_name(preset, stage)}_cases.json"


def rounds(root: Path) -> Path:
    """Records that the rounds share."""
    return root / "rounds"


def round_folder(root: Path, stage: str) -> Path:
    """Labels, overlays and tables of a round."""
    return rounds(root) / stage


def about_round(root: Path, stage: str) -> Path:
    """What a round is made with."""
    return round_folder(root, stage) / "about.json"


def round_marker(root: Path, stage: str) -> Path:
    """Stands for a complete round, which is not run again."""
    return round_folder(root, stage) / "complete.json"


def row_file(folder: Path, case: str) -> Path:
    """An image's row of the table of a round (its folder); it says that the image is done."""
    return folder / "rows" / f"{case}.json"


def unlabelled_record(root: Path) -> Path:
    """What is known of the unlabelled images stored."""
    return rounds(root) / "unlabelled.json"


def digests_record(root: Path) -> Path:
    """Digests of the labelled cases, which take minutes to compute."""
    return rounds(root) / "labelled.json"


def f1_record(root: Path) -> Path:
    """F1 of checkpoints on their folds, kept over the rounds."""
    return rounds(root) / "f1.json"
