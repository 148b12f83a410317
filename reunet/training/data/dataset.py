"""Images and instance labels -> an nnU-Net data set, planned and preprocessed (paper §2.1)."""

import hashlib
import json
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from reunet.errors import ImageError
from reunet.inference.scale import scale_image, scale_labels, scaled_shape, typical_diameter
from reunet.instances.encode import CLASSES, encode
from reunet.instances.weight_map import weight_map
from reunet.io.atomic import replacing
from reunet.io.collection import Labels
from reunet.io.images import read_label
from reunet.io.labels import write_label
from reunet.io.meta import read_meta
from reunet.network.unet import Architecture
from reunet.training import layout
from reunet.training.data.field import distance_field
from reunet.training.data.labels import label_of, read_pair, training_images
from reunet.training.presets import PRESETS

MAP_SCALE = 1000  # int16 holds weights up to 32.767 in steps of 0.001; the field ends at 1
Cases = dict[str, dict[str, str]]  # name -> {"modality", "source", "group", "pixels"}


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
    raw, description = layout.raw(root), layout.raw_description(root)
    form = {"encoding": encoding, "diameter": diameter}
    if description.exists():
        there = {name: read_json(description).get(name) for name in form}
        if there != form:
            raise ValueError(f"{root}: holds the data set with {there}: name another --root")
    for folder in ("imagesTr", "labelsTr", "instancesTr", "digestsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    write_json(description, _dataset_json({}, form))  # first: an interrupted run is known by it
    meta = read_meta(images)
    cases: Cases = {}
    left_out = {}
    found = Labels(labels)
    for path, case in training_images(images).items():
        about = meta.get(case, {})
        if about.get("split", "train") != "train" or about.get("source") in without:
            continue
        try:
            if case in cases:
                raise ImageError(f"{path}: another image is called {case} too: rename one")
            _convert_case(path, label_of(found, labels, path), root, case, encoding, diameter)
            pixels = _stored_pixels(layout.classes_file(root, case))
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
        _remove_others(root, cases)
    write_json(description, _dataset_json(_versions(root, cases), form))
    return cases, left_out


def _remove_others(root: Path, cases: Cases) -> None:
    """Take out what earlier runs left of cases that are gone: nnU-Net would train on them."""
    wanted = {
        path
        for case in cases
        for path in (
            layout.instances_file(root, case),
            layout.classes_file(root, case),
            layout.digest_file(root, case),
            *(layout.channel_file(root, case, channel) for channel in range(3)),
        )
    }
    folders = [folder for folder in layout.raw(root).iterdir() if folder.is_dir()]
    for path in (path for folder in folders for path in folder.iterdir()):
        if path not in wanted:
            path.unlink()


def _versions(root: Path, cases: Cases) -> dict[str, int]:
    """When each case was converted: what was made from another version is out of date."""
    return {case: layout.classes_file(root, case).stat().st_mtime_ns for case in sorted(cases)}


def _stored_pixels(path: Path) -> int:
    """Pixels of a case, by the head of its file."""
    reader: Any = sitk.ImageFileReader  # its methods bear no types
    head = reader()
    head.SetFileName(str(path))
    head.ReadImageInformation()
    return int(np.prod(head.GetSize()))


def _convert_case(
    image: Path, label: Path, root: Path, case: str, encoding: str, diameter: float | None
) -> None:
    target = layout.classes_file(root, case)
    newest = max(image.stat().st_mtime_ns, label.stat().st_mtime_ns)
    if target.exists() and target.stat().st_mtime_ns > newest:  # written last: a complete case
        return
    pixels, instances = read_pair(image, label)
    digest = pixel_digest(pixels)
    if diameter:
        shape = scaled_shape(instances.shape, diameter / typical_diameter(instances))
        pixels, instances = scale_image(pixels, shape), scale_labels(instances, shape)
    for channel in range(pixels.shape[-1]):
        _write_nifti(layout.channel_file(root, case, channel), pixels[..., channel])
    _write_instances(layout.instances_file(root, case), instances, label)
    layout.digest_file(root, case).write_text(digest)
    _write_nifti(target, encode(instances, encoding))


def pixel_digest(pixels: np.ndarray) -> str:
    """sha256 of normalised pixels, (H, W, 3) uint8, and their shape."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


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
        "file_ending": layout.SUFFIX,
        **form,
        "cases": cases,  # with their versions: a set that changed is preprocessed anew
    }


def preprocess(root: Path, preset: str, processes: int) -> None:
    """nnU-Net's own fingerprint, plans and preprocessing, with the preset's network planned in,
    and the weight maps beside the labels.

    The presets share one preprocessed folder. `layout.marker` stands for a preprocessing that
    ended, with the data set it was made of; without it all is done anew.
    """
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

    layout.use_folder(root)
    fresh, marker = is_complete(root), layout.marker(root)
    nnunet.extract_fingerprint_dataset(
        layout.DATASET_ID, num_processes=processes, clean=not fresh, show_progress_bar=False
    )
    plans, _ = nnunet.plan_experiment_dataset(layout.DATASET_ID)
    plans = plan_preset(plans, preset)
    write_json(layout.plans_file(root, preset), plans)
    if fresh:
        return
    marker.unlink(missing_ok=True)
    nnunet.preprocess_dataset(
        layout.DATASET_ID,
        plans["plans_name"],
        (layout.CONFIGURATION,),
        (processes,),
        show_progress_bar=False,
    )
    store_weights(root, preset, processes)
    marker.write_text(layout.raw_description(root).read_text())


def is_complete(root: Path) -> bool:
    """Whether the preprocessed data set is whole and made of the raw data as they are now."""
    marker, description = layout.marker(root), layout.raw_description(root)
    both = marker.exists() and description.exists()
    return both and marker.read_text() == description.read_text()


def planned_configuration(root: Path, preset: str) -> dict[str, Any]:
    """What a preset's plans say of the configuration that is trained."""
    plans = read_json(layout.plans_file(root, preset))
    configuration: dict[str, Any] = plans["configurations"][layout.CONFIGURATION]
    return configuration


def cases_folder(root: Path, preset: str) -> Path:
    """The preprocessed labelled cases."""
    name: str = planned_configuration(root, preset)["data_identifier"]
    return layout.preprocessed(root) / name


def store_weights(root: Path, preset: str, processes: int) -> None:
    """Add to every preprocessed segmentation its weight map (paper §2.4) and distance field."""
    folder = cases_folder(root, preset)
    patch = tuple(planned_configuration(root, preset)["patch_size"])
    encoding = read_json(layout.raw_description(root))["encoding"]
    names = sorted(path.name.removesuffix(".pkl") for path in folder.glob("*.pkl"))
    jobs = [(folder, root, name, encoding, patch) for name in names]
    with get_context("spawn").Pool(processes) as pool:
        pool.starmap(_store_weights_of, jobs)


def _store_weights_of(
    folder: Path, root: Path, case: str, encoding: str, patch: tuple[int, ...]
) -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    _, stored, _, properties = nnUNetDatasetBlosc2(str(folder)).load_case(case)
    classes = np.asarray(stored[:])[:1]  # (1, 1, h, w)
    instances = read_label(layout.instances_file(root, case))
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
    planned = dict(plans["configurations"][layout.CONFIGURATION])
    planned["architecture"] = nnunet_architecture(planned["architecture"], chosen.architecture)
    planned["patch_size"] = [chosen.patch] * 2
    planned["batch_size"] = chosen.batch
    return {
        **plans,
        "plans_name": layout.plans_name(preset),
        "configurations": {layout.CONFIGURATION: planned},
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


def read_cases(root: Path) -> Cases:
    """What `sampling.write_folds` noted about the cases."""
    cases: Cases = read_json(layout.cases_file(root))
    return cases


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text())


def write_json(path: Path, content: object) -> None:
    """Write a JSON file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
