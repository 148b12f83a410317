"""Images and instance labels -> an nnU-Net data set, planned and preprocessed (paper §2.1).

Layout under ROOT: `raw/`, `preprocessed/`, `results/`, nnU-Net's three folders.
"""

import json
import os
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from reunet.errors import ImageError
from reunet.inference.normalise import normalise_channels
from reunet.inference.scale import scale_image, scale_labels, scaled_shape, typical_diameter
from reunet.instances.encode import CLASSES, encode
from reunet.instances.weight_map import weight_map
from reunet.io.collection import Labels, case_names, own_labels, short_name
from reunet.io.images import list_images, read_image, read_label
from reunet.io.labels import write_label
from reunet.metric import read_meta
from reunet.network.unet import Architecture
from reunet.training.data.field import distance_field
from reunet.training.presets import PRESETS

DATASET_ID, DATASET = 703, "Dataset703_ReUNet"
CONFIGURATION = "2d"
MAP_SCALE = 1000  # int16 holds weights up to 32.767 in steps of 0.001; the field ends at 1
SUFFIX = ".nii.gz"
MARKER = f"{CONFIGURATION}.complete"
Cases = dict[str, dict[str, str]]  # name -> {"modality", "source", "group", "pixels"}


def use_folder(root: Path) -> None:
    """Point nnU-Net's three environment variables below `root`."""
    for name in ("raw", "preprocessed", "results"):
        folder = root.resolve() / name
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder)


def plans_name(preset: str, stage: str = "baseline") -> str:
    """Name of a stage's plans, and part of the name of its results folder."""
    return f"plans_{preset}" if stage == "baseline" else f"plans_{preset}_{stage}"


def round_folder(base: Path, plans: str) -> Path:
    """The preprocessed cases of a round: the labelled ones, linked, and the pseudo-labelled.

    base: the preprocessed data set. plans: name of the round's plans.
    """
    return base / f"{plans}_{CONFIGURATION}"


def pseudo_cases_file(base: Path, plans: str) -> Path:
    """The list of a round's pseudo-labelled cases; it stands once all of them are there."""
    return base / f"{plans}_cases.json"


def instances_file(root: Path, case: str) -> Path:
    """The instance labels of a case, kept for the instance F1 and for weight maps."""
    return root / "raw" / DATASET / "instancesTr" / f"{case}_label.tiff"


def convert(
    images: Path,
    labels: Path,
    root: Path,
    encoding: str,
    diameter: float | None = None,
    without: Sequence[str] = (),
) -> tuple[Cases, dict[str, str]]:
    """Write the raw data set: one NIfTI a channel, three-class labels, instances, `dataset.json`.

    Where a `meta.csv` lies beside `images`, its `split` column keeps validation images out and
    its modality, source and group describe the cases. diameter: px that the typical cell of every
    image is brought to (None: images keep their size). without: sources of the `meta.csv` to leave
    out. Returns the cases and, by file name, why an
    image was left out. Finished cases are not converted again. Raises ValueError where `root`
    holds the data set in another encoding or size of cells.
    """
    raw = root / "raw" / DATASET
    description = raw / "dataset.json"
    form = {"encoding": encoding, "diameter": diameter}
    if description.exists():
        there = {name: read_json(description).get(name) for name in form}
        if there != form:
            raise ValueError(f"{root}: holds the data set with {there}: name another --root")
    for folder in ("imagesTr", "labelsTr", "instancesTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    write_json(description, _dataset_json({}, form))  # first: an interrupted run is known by it
    meta = read_meta(images)
    cases: Cases = {}
    left_out = {}
    found = Labels(labels)
    files = list_images(images)
    files = [path for path in files if path not in own_labels(files)]
    for path, case in case_names(files).items():
        about = meta.get(case, {})
        if about.get("split", "train") != "train" or about.get("source") in without:
            continue
        try:
            if case in cases:
                raise ImageError(f"{path}: another image is called {case} too: rename one")
            _convert_case(path, label_of(found, labels, path), root, case, encoding, diameter)
            pixels = _stored_pixels(raw / "labelsTr" / f"{case}{SUFFIX}")
        except ImageError as error:
            left_out[path.name] = str(error)
            continue
        cases[case] = {
            "modality": about.get("modality") or "unknown",
            "source": about.get("source") or "unknown",
            "group": about.get("group") or case,
            "pixels": str(pixels),
        }
    if cases:
        _remove_others(raw, cases)
    write_json(description, _dataset_json(_versions(raw, cases), form))
    return cases, left_out


def _remove_others(raw: Path, cases: Cases) -> None:
    """Take out what earlier runs left of cases that are gone: nnU-Net would train on them."""
    wanted = {f"{case}_label.tiff" for case in cases} | {f"{case}{SUFFIX}" for case in cases}
    wanted |= {f"{case}_{channel:04d}{SUFFIX}" for case in cases for channel in range(3)}
    for path in (p for folder in raw.iterdir() if folder.is_dir() for p in folder.iterdir()):
        if path.name not in wanted:
            path.unlink()


def _versions(raw: Path, cases: Cases) -> dict[str, int]:
    """When each case was converted: what was made from another version is out of date."""
    return {c: (raw / "labelsTr" / f"{c}{SUFFIX}").stat().st_mtime_ns for c in sorted(cases)}


def _stored_pixels(path: Path) -> int:
    """Pixels of a case, by the head of its file."""
    reader: Any = sitk.ImageFileReader  # its methods bear no types
    head = reader()
    head.SetFileName(str(path))
    head.ReadImageInformation()
    return int(np.prod(head.GetSize()))


def find_label(folder: Path, image: Path) -> Path:
    """The label file of an image, by the rule of `io.collection.Labels`.

    Raises ImageError where there is none; an image is not its own label.
    """
    return label_of(Labels(folder), folder, image)


def label_of(labels: Labels, folder: Path, image: Path) -> Path:
    """`find_label` among the labels of a folder."""
    path = labels.of(image.stem)
    if path is None or path == image or not path.is_file():
        case = short_name(image)
        raise ImageError(f"{folder}: no label for {case}: expected {case}_label.tiff")
    return path


def _convert_case(
    image: Path, label: Path, root: Path, case: str, encoding: str, diameter: float | None
) -> None:
    raw = root / "raw" / DATASET
    target = raw / "labelsTr" / f"{case}{SUFFIX}"
    newest = max(image.stat().st_mtime_ns, label.stat().st_mtime_ns)
    if target.exists() and target.stat().st_mtime_ns > newest:  # written last: a complete case
        return
    pixels = normalise_channels(read_image(image).pixels)  # (H, W, 3)
    instances = read_label(label)
    if instances.shape != pixels.shape[:2]:
        raise ImageError(
            f"{label}: label is {instances.shape}, image is {pixels.shape[:2]}: pair them anew"
        )
    if not instances.any():
        raise ImageError(f"{label}: holds no cell: leave the image out or label it")
    if diameter:
        shape = scaled_shape(instances.shape, diameter / typical_diameter(instances))
        pixels, instances = scale_image(pixels, shape), scale_labels(instances, shape)
    for channel in range(pixels.shape[-1]):
        _write_nifti(raw / "imagesTr" / f"{case}_{channel:04d}{SUFFIX}", pixels[..., channel])
    _write_instances(instances_file(root, case), instances, label)
    _write_nifti(target, encode(instances, encoding))


def _write_instances(path: Path, instances: np.ndarray, label: Path) -> None:
    try:
        write_label(path, instances, layout="challenge")
    except ImageError as error:  # no fault of this label: the disk
        raise OSError(str(error)) from error
    except ValueError as error:
        raise ImageError(f"{label}: {error}: renumber its cells") from error


def _write_nifti(path: Path, array: np.ndarray) -> None:
    part = path.with_name(f".part_{path.name}")
    try:
        sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(array)), str(part), True)
    except RuntimeError as error:  # SimpleITK's only kind, a full disk included
        part.unlink(missing_ok=True)
        raise OSError(f"{path}: could not be written") from error
    part.replace(path)


def _dataset_json(cases: dict[str, int], form: dict[str, Any]) -> dict[str, Any]:
    return {
        "channel_names": {"0": "R", "1": "G", "2": "B"},  # any such name: z-score per channel
        "labels": {name: index for index, name in enumerate(CLASSES)},
        "numTraining": len(cases),
        "file_ending": SUFFIX,
        **form,
        "cases": cases,  # with their versions: a set that changed is preprocessed anew
    }


def preprocess(root: Path, preset: str, processes: int) -> None:
    """nnU-Net's own fingerprint, plans and preprocessing, with the preset's network planned in,
    and the weight maps beside the labels.

    The presets share one preprocessed folder. A file MARKER beside it stands for a preprocessing
    that ended, with the data set it was made of; without it all is done anew.
    """
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

    use_folder(root)
    folder = root / "preprocessed" / DATASET
    content = (root / "raw" / DATASET / "dataset.json").read_text()
    marker = folder / MARKER
    fresh = is_complete(root)
    nnunet.extract_fingerprint_dataset(
        DATASET_ID, num_processes=processes, clean=not fresh, show_progress_bar=False
    )
    plans, _ = nnunet.plan_experiment_dataset(DATASET_ID)
    plans = plan_preset(plans, preset)
    write_json(folder / f"{plans['plans_name']}.json", plans)
    if fresh:
        return
    marker.unlink(missing_ok=True)
    nnunet.preprocess_dataset(
        DATASET_ID, plans["plans_name"], (CONFIGURATION,), (processes,), show_progress_bar=False
    )
    store_weights(root, preset, processes)
    marker.write_text(content)


def is_complete(root: Path) -> bool:
    """Whether the preprocessed data set is whole and made of the raw data as they are now."""
    marker = root / "preprocessed" / DATASET / MARKER
    description = root / "raw" / DATASET / "dataset.json"
    both = marker.exists() and description.exists()
    return both and marker.read_text() == description.read_text()


def store_weights(root: Path, preset: str, processes: int) -> None:
    """Add to every preprocessed segmentation its weight map (paper §2.4) and distance field."""
    plans = read_json(root / "preprocessed" / DATASET / f"{plans_name(preset)}.json")
    planned = plans["configurations"][CONFIGURATION]
    folder = root / "preprocessed" / DATASET / planned["data_identifier"]
    encoding = read_json(root / "raw" / DATASET / "dataset.json")["encoding"]
    names = sorted(path.name.removesuffix(".pkl") for path in folder.glob("*.pkl"))
    jobs = [(folder, root, name, encoding, tuple(planned["patch_size"])) for name in names]
    with get_context("spawn").Pool(processes) as pool:
        pool.starmap(_store_weights_of, jobs)


def _store_weights_of(
    folder: Path, root: Path, case: str, encoding: str, patch: tuple[int, ...]
) -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    _, stored, _, properties = nnUNetDatasetBlosc2(str(folder)).load_case(case)
    classes = np.asarray(stored[:])[:1]  # (1, 1, h, w)
    instances = read_label(instances_file(root, case))
    rows, columns = (slice(*edges) for edges in properties["bbox_used_for_cropping"][1:])
    weights = weight_map(instances, encode(instances, encoding))[rows, columns]
    field = distance_field(instances)[rows, columns]
    stored = with_maps(classes[0, 0].astype(np.int16), weights, field)
    write_blosc(folder / f"{case}_seg.b2nd", stored, patch)


def with_maps(classes: np.ndarray, weights: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Classes, weights and distance field as training reads them.

    classes: (h, w) int16. weights, field: (h, w) float32. Returns (3, 1, h, w) int16: the class
    and MAP_SCALE times weight and field.
    """
    scaled = (np.round(values * MAP_SCALE).astype(np.int16) for values in (weights, field))
    return np.stack([classes, *scaled])[:, np.newaxis]


def write_blosc(path: Path, array: np.ndarray, patch: tuple[int, ...], **how: Any) -> None:
    """Write a (C, 1, h, w) array compressed, in chunks fit for patches of this size.

    how: blosc2's `cparams`. Raises OSError where it cannot be written; nothing is left then.
    """
    import blosc2
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

    blocks, chunks = comp_blosc2_params(array.shape, patch, array.itemsize)
    part = path.with_name(f".part_{path.name}")
    part.unlink(missing_ok=True)
    try:
        blosc2.asarray(array, urlpath=str(part), chunks=chunks, blocks=blocks, **how)
    except RuntimeError as error:  # blosc2's only kind, a full disk included
        part.unlink(missing_ok=True)
        raise OSError(f"{path}: could not be written: look to space and rights") from error
    part.replace(path)


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


def read_cases(folder: Path) -> Cases:
    """What `sampling.write_folds` noted about the cases."""
    cases: Cases = read_json(folder / "cases.json")
    return cases


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text())


def write_json(path: Path, content: object) -> None:
    """Write a JSON file in one step."""
    part = path.with_name(f".part_{os.getpid()}_{path.name}")  # folds are trained side by side
    part.write_text(json.dumps(content, indent=1))
    part.replace(path)
