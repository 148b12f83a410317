"""Which label belongs to which image, and reading both: challenge, Cellpose and StarDist layouts.

Labels are `NAME_label.tiff` (the challenge's), `NAME_masks.tif|png` and `NAME_seg.npy` (Cellpose's,
beside their images as a rule), or files of the image's own name in a folder of their own
(StarDist's `images` and `masks`).
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from reunet.errors import ImageError
from reunet.inference.normalise import normalise_channels
from reunet.io.collection import Labels, case_names, own_labels, short_name
from reunet.io.images import list_images, read_image, read_label

SEG = "_seg.npy"  # what Cellpose's window saves
MASK_FOLDERS = ("masks", "labels")


class NoLabel(ImageError):
    """An image without a label."""


def folders_of(images: Path, labels: Path) -> tuple[Path, Path]:
    """The folders that hold the files: of one with `images` and `masks` in it, these two."""
    if (images / "images").is_dir():
        images = images / "images"
    for name in MASK_FOLDERS:
        if (labels / name).is_dir():
            return images, labels / name
    return images, labels


def training_images(folder: Path) -> dict[Path, str]:
    """The images of a folder that are no labels of others, and the names of their cases.

    Raises ImageError if the folder cannot be listed.
    """
    files = list_images(folder)
    own = own_labels(files)
    return case_names([path for path in files if path not in own])


def find_label(folder: Path, image: Path) -> Path:
    """The label file of an image. Raises NoLabel where there is none."""
    return label_of(Labels(folder), folder, image)


def label_of(labels: Labels, folder: Path, image: Path) -> Path:
    """`find_label` among the labels of a folder; an image is not its own label."""
    path = labels.of(image.stem)
    if path is None or path == image or not path.is_file():
        path = folder / f"{image.stem}{SEG}"
    if not path.is_file():
        case = short_name(image)
        raise NoLabel(f"{folder}: no label for {case}: expected {case}_label.tiff")
    return path


def check_fit(path: Path, pixels: np.ndarray, instances: np.ndarray) -> None:
    """Raise ImageError, which names `path`, where image and label have other shapes."""
    if instances.shape != pixels.shape[:2]:
        raise ImageError(
            f"{path}: label is {instances.shape}, image is {pixels.shape[:2]}: pair them anew"
        )


def read_pair(image: Path, label: Path) -> tuple[np.ndarray, np.ndarray]:
    """An image as the network sees it, (H, W, 3) uint8, and its cells, (H, W) integer.

    Raises ImageError for files that cannot be read, do not fit each other, or hold no cell.
    """
    pixels = normalise_channels(read_image(image).pixels)
    instances = read_instances(label)
    check_fit(label, pixels, instances)
    if not instances.any():
        raise ImageError(f"{label}: holds no cell: leave the image out or label it")
    return pixels, instances


def read_instances(path: Path) -> np.ndarray:
    """Instance labels of a label image or of Cellpose's `_seg.npy`, (H, W) integer.

    Raises ImageError for anything else.
    """
    if path.name.endswith(SEG):
        return _read_seg(path)
    return read_label(path)


class _ArraysOnly(pickle.Unpickler):
    """`_seg.npy` is a pickle, which could run any code: arrays, numbers and text are let in."""

    SAFE = ("_reconstruct", "scalar", "ndarray", "dtype", "_frombuffer", "encode")

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in ("numpy", "_codecs") and name in self.SAFE:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def _read_seg(path: Path) -> np.ndarray:
    """The entry `masks` of the dictionary that Cellpose saves."""
    way_out = "save the masks from Cellpose as PNG or TIFF"
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            masks = np.asarray(_ArraysOnly(file).load().item()["masks"])
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except Exception as error:  # unpickling bad bytes fails with whatever it pleases
        raise ImageError(f"{path}: no masks of Cellpose in it: {way_out}") from error
    if masks.ndim != 2 or masks.dtype.kind not in "iu" or masks.size == 0 or masks.min() < 0:
        raise ImageError(f"{path}: its masks are {masks.dtype} of shape {masks.shape}: {way_out}")
    return masks
