"""Images and instance labels -> an nnU-Net data set, planned and preprocessed (paper §2.1).

Layout under ROOT: `raw/`, `preprocessed/`, `results/`, nnU-Net's three folders.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from reunet.images import ImageError, list_images, read_image, read_label
from reunet.metric import read_meta
from reunet.network import Architecture
from reunet.normalise import normalise_channels
from reunet.targets import CLASSES, encode
from reunet.training.presets import PRESETS, Preset

DATASET_ID, DATASET = 703, "Dataset703_ReUNet"
CONFIGURATION = "2d"
FOLDS, FOLD_SEED = 5, 12345
SUFFIX = ".nii.gz"
Cases = dict[str, dict[str, str]]  # name -> {"modality", "source", "group"}


def use_folder(root: Path) -> None:
    """Point nnU-Net's three environment variables below `root`."""
    for name in ("raw", "preprocessed", "results"):
        folder = root.resolve() / name
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder)


def plans_name(preset: str) -> str:
    """Name of the plans file (and of the results folder) that belongs to a preset."""
    return f"plans_{preset}"


def convert(images: Path, labels: Path, root: Path, encoding: str) -> tuple[Cases, dict[str, str]]:
    """Write the raw data set: one NIfTI a channel, three-class labels, `dataset.json`.

    Where a `meta.csv` lies beside `images`, its `split` column keeps validation images out and
    its modality, source and group describe the cases. Returns the cases and, by file name, why an
    image was left out. Finished cases are not converted again.
    """
    raw = root / "raw" / DATASET
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    meta = read_meta(images)
    cases, left_out = {}, {}
    for path in list_images(images):
        case = path.name.split(".")[0]
        about = meta.get(case, {})
        if about.get("split", "train") != "train":
            continue
        try:
            _convert_case(path, find_label(labels, case), raw, case, encoding)
            cases[case] = {
                "modality": about.get("modality", "unknown"),
                "source": about.get("source", "unknown"),
                "group": about.get("group", case),
            }
        except ImageError as error:
            left_out[path.name] = str(error)
    _write_json(raw / "dataset.json", _dataset_json(len(cases), encoding))
    return cases, left_out


def find_label(folder: Path, case: str) -> Path:
    """The label file of a case: `<case>_label` or `<case>` with a TIFF or PNG ending."""
    for stem in (f"{case}_label", case):
        for ending in (".tiff", ".tif", ".png"):
            if (folder / (stem + ending)).is_file():
                return folder / (stem + ending)
    raise ImageError(f"{folder}: no label for {case}: expected {case}_label.tiff")


def _convert_case(image: Path, label: Path, raw: Path, case: str, encoding: str) -> None:
    target = raw / "labelsTr" / f"{case}{SUFFIX}"
    if target.exists():  # written last: stands for a complete case
        return
    pixels = normalise_channels(read_image(image).pixels)  # (H, W, 3)
    instances = read_label(label)
    if instances.shape != pixels.shape[:2]:
        raise ImageError(
            f"{label}: label is {instances.shape}, image is {pixels.shape[:2]}: pair them anew"
        )
    if not instances.any():
        raise ImageError(f"{label}: holds no cell: leave the image out or label it")
    for channel in range(pixels.shape[-1]):
        _write_nifti(raw / "imagesTr" / f"{case}_{channel:04d}{SUFFIX}", pixels[..., channel])
    _write_nifti(target, encode(instances, encoding))


def _write_nifti(path: Path, array: np.ndarray) -> None:
    part = path.with_name(f".part_{path.name}")
    sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(array)), str(part), True)
    part.replace(path)


def _dataset_json(cases: int, encoding: str) -> dict[str, Any]:
    return {
        "channel_names": {"0": "R", "1": "G", "2": "B"},  # any such name: z-score per channel
        "labels": {name: index for index, name in enumerate(CLASSES)},
        "numTraining": cases,
        "file_ending": SUFFIX,
        "encoding": encoding,
    }


def preprocess(root: Path, preset: str, processes: int) -> None:
    """nnU-Net's own fingerprint, plans and preprocessing, with the preset's network planned in."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

    use_folder(root)
    nnunet.extract_fingerprint_dataset(DATASET_ID, num_processes=processes, clean=False)
    plans, _ = nnunet.plan_experiment_dataset(DATASET_ID)
    plans = plan_preset(plans, preset)
    _write_json(root / "preprocessed" / DATASET / f"{plans['plans_name']}.json", plans)
    folder = root / "preprocessed" / DATASET
    marker = folder / f"{plans['plans_name']}.complete"
    content = (root / "raw" / DATASET / "dataset.json").read_text()
    if marker.exists() and marker.read_text() == content:
        return
    nnunet.preprocess_dataset(DATASET_ID, plans["plans_name"], (CONFIGURATION,), (processes,))
    marker.write_text(content)


def plan_preset(plans: dict[str, Any], preset: str) -> dict[str, Any]:
    """nnU-Net's plans with the network, patch and batch of a preset in configuration `2d`."""
    chosen = PRESETS[preset]
    planned = dict(plans["configurations"][CONFIGURATION])
    planned["architecture"] = nnunet_architecture(planned["architecture"], chosen.architecture)
    planned["patch_size"] = [chosen.patch] * 2
    planned["batch_size"] = chosen.batch
    return {
        **plans,
        "plans_name": plans_name(preset),
        "configurations": {CONFIGURATION: planned},
        "reunet_preset": preset,
    }


def nnunet_architecture(planned: dict[str, Any], arch: Architecture) -> dict[str, Any]:
    """Our description of the network in nnU-Net's words."""
    stages = len(arch.features)
    arguments = {
        **planned["arch_kwargs"],
        "n_stages": stages,
        "features_per_stage": list(arch.features),
        "kernel_sizes": [[3, 3]] * stages,
        "strides": [[1, 1]] + [[2, 2]] * (stages - 1),
        "n_conv_per_stage": [arch.convs_per_block] * stages,
        "n_conv_per_stage_decoder": [arch.convs_per_block] * (stages - 1),
        "dropout_op": "torch.nn.Dropout2d" if arch.dropout else None,
        "dropout_op_kwargs": {"p": arch.dropout} if arch.dropout else None,
    }
    return {**planned, "arch_kwargs": arguments}


def write_folds(cases: Cases, folder: Path) -> None:
    """Five seeded folds, stratified by modality and source; a group is never split over two."""
    from sklearn.model_selection import StratifiedGroupKFold

    names = np.array(sorted(cases))
    strata = [cases[n]["modality"] + "/" + cases[n]["source"] for n in names]
    groups = [cases[n]["group"] for n in names]
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=FOLD_SEED)
    folds = [
        {"train": names[train].tolist(), "val": names[val].tolist()}
        for train, val in splitter.split(names, strata, groups)
    ]
    _write_json(folder / "splits_final.json", folds)
    _write_json(folder / "cases.json", cases)


def balanced(names: Iterable[str], cases: Cases, draws: int = 20_000) -> list[str]:
    """Names repeated so that a uniform draw is even over modalities.

    Within a modality a source of n images has the weight √n: neither does a source of 244 images
    drown the others, nor is a source of one image shown as often. Every name stands in the result
    at least once.
    """
    by_source: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        about = cases.get(name, {"modality": "unknown", "source": "unknown"})
        by_source[about["modality"]][about["source"]].append(name)
    repeated = []
    for sources in by_source.values():
        total = sum(len(members) ** 0.5 for members in sources.values())
        for members in sources.values():
            share = len(members) ** 0.5 / total / len(by_source)  # of all draws
            repeated += members * max(1, round(draws * share / len(members)))
    return repeated


def describe(preset: Preset) -> dict[str, Any]:
    """The preset as plain values, for cards and logs."""
    return asdict(preset)


def _write_json(path: Path, content: object) -> None:
    part = path.with_name(f".part_{path.name}")
    part.write_text(json.dumps(content, indent=1))
    part.replace(path)
