"""The whole way from an image to its cells: normalise, network, decode. The package's front door.

>>> from reunet import load_model, segment
>>> model = load_model()
>>> labels = segment("image.png", model)  # (H, W) int32, 0 background, cells 1..N
"""

import ctypes
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reunet.arrays import ReUNetWarning, picture_of
from reunet.folds import Fold, Gpu, GpuFold, line, warn
from reunet.images import Picture, read_image
from reunet.normalise import normalise_channels
from reunet.predict import Network, classify_each
from reunet.small_cells import LARGEST, are_small, classify_enlarged, few_tiles
from reunet.tiles import STEP, Tiling
from reunet.weights import Bundle, WeightsError, choose_folds, open_bundle

DEVICES = ("auto", "cpu", "cuda", "mps")
DEFAULT_BUNDLE, GPU_BUNDLE = "compact", "paper"
DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # Linux, Windows' Linux, AMD's: all "cuda"


@dataclass(frozen=True)
class Model:
    """A bundle's networks on their device."""

    bundle: Bundle
    networks: tuple[Network, ...]  # one a fold; each is loaded when it is first called
    folds: tuple[str, ...]
    device: str  # cpu, cuda or mps
    batch: int = 1  # mirror images of tiles that it takes at once
    step: float = STEP  # distance of its tiles, as a share of one
    skip: bool = True  # spare the networks the tiles that `predict.is_empty`
    enlarge: bool = True  # look at `small_cells` once more
    vote: bool = True  # folds vote on cells (`voting`); else their logits are averaged

    def tiling(self, tta: bool = True) -> Tiling:
        """How `predict` cuts images for this model. tta: average over the mirror images."""
        bundle = self.bundle
        return Tiling(
            bundle.tile,
            bundle.smallest,
            bundle.architecture.divisor,
            mirror=tta,
            step=self.step,
            batch=self.batch,
            skip=self.skip,
        )


def load_model(
    weights: str | Path | None = None, device: str = "auto", folds: Sequence[str] | None = None
) -> Model:
    """Load a weight bundle.

    weights: folder of a bundle (None: the one that comes with reunet and suits the device).
    device: auto, cpu, cuda or mps; auto takes the fastest there is. folds: names of the folds to
    use (None: all). The first fold is loaded at once, the others when they are first used.
    Raises WeightsError, or ValueError for a device that this machine lacks or that fails; where
    auto chose it, a warning is given and the CPU takes over, here and later on.
    """
    chosen = choose_device(device)
    bundle = open_bundle(Path(weights) if weights else default_weights(chosen))
    names = choose_folds(bundle, folds)
    if chosen == "cpu":
        on_cpu = tuple(Fold(bundle, name) for name in names)
        on_cpu[0].load()
        return Model(bundle, on_cpu, names, chosen)
    try:
        return _on_gpu(bundle, names, chosen)
    except RuntimeError as error:
        cause = f"device {chosen} fails ({line(error)})"
        if device != "auto":
            raise ValueError(f"{cause}: use --device cpu") from error
        warn(f"{cause}: going on on the CPU")
    return load_model(weights, "cpu", folds)


def _on_gpu(bundle: Bundle, names: tuple[str, ...], device: str) -> Model:
    gpu = Gpu(device)
    networks = tuple(GpuFold(bundle, name, gpu) for name in names)
    networks[0].load()
    model = Model(bundle, networks, names, device)
    longest = few_tiles(model.tiling()).longest
    return replace(model, batch=gpu.batch_size(bundle, len(names), longest))


def segment(
    image: Any,
    model: Model,
    *,
    axes: str | None = None,
    tta: bool = True,
    decoder: str | None = None,
) -> np.ndarray:
    """Find the cells of one image.

    image: a file, an array (H, W) or (H, W, C) of any real dtype, or what `arrays.picture_of`
    makes one of. axes: of an array, such as "CYX", where its shape leaves them open. tta: average
    over the four mirror images. decoder: `regrow` or `paper` (None: the bundle's). Returns (H, W)
    int32: 0 background, cells 1..N. What is assumed about the image is a ReUNetWarning. Raises
    ImageError for a file that cannot be read and ValueError for an array that is no image, or of
    unclear axes.
    """
    if isinstance(image, str | os.PathLike):
        if axes:
            raise ValueError("axes are for arrays, a file tells its own: read it and pass an array")
        image = read_image(Path(image))
    elif not isinstance(image, Picture):
        image = picture_of(image, axes)
    for note in image.notes:
        warnings.warn(note, ReUNetWarning, stacklevel=2)
    class_maps = predict_classes(image, model, tta=tta)
    return find_instances(class_maps, decoder or model.bundle.decoder, model.bundle.encoding)


def predict_classes(picture: Picture, model: Model, *, tta: bool = True) -> np.ndarray:
    """Most probable class of every pixel: background, interior, boundary.

    Returns (maps, H, W) uint8: one map for each fold that votes, or a single one by the mean of the
    folds' logits, where the image has more than LARGEST pixels or `model.vote` is off. Where the
    cells of the first are small all are of a second look, enlarged, unless `model.enlarge` is off.
    """
    image = normalise_channels(picture.pixels)
    tiling = model.tiling(tta)
    in_memory = image.shape[0] * image.shape[1] <= LARGEST
    voters = [[fold] for fold in model.networks] if model.vote and in_memory else [model.networks]
    class_maps = classify_each(image, voters, tiling)
    if model.enlarge and in_memory:
        first = find_instances(class_maps[:1], model.bundle.decoder, model.bundle.encoding)
        if are_small(first):
            return np.stack([classify_enlarged(image, fold, tiling) for fold in voters])
    return class_maps


def find_instances(
    class_maps: np.ndarray | Sequence[np.ndarray], decoder: str, encoding: str
) -> np.ndarray:
    """The cells of one class map, or those that several agree on.

    class_maps: from `predict_classes`. Returns (H, W) int32: 0 background, cells 1..N.
    """
    return find_and_tell(class_maps, decoder, encoding)[0]


def find_and_tell(
    class_maps: np.ndarray | Sequence[np.ndarray], decoder: str, encoding: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """`find_instances`, and how far the maps agree on each cell (`voting.vote_and_tell`)."""
    from reunet.instances import decode  # neither is needed before the first tile
    from reunet.voting import vote_and_tell

    return vote_and_tell([decode(classes, decoder, encoding) for classes in class_maps])


def choose_device(name: str) -> str:
    """The device of a name in DEVICES: cpu, cuda or mps.

    PyTorch, which knows for sure, is only asked where there is a driver: to import it takes longer
    than to segment a small image. Raises ValueError where this machine lacks the device.
    """
    if name not in DEVICES:
        raise ValueError(f"device {name!r} does not exist: choose from {', '.join(DEVICES)}")
    if name == "cpu":
        return name
    found = _gpus()
    if name == "auto":
        return next(iter(found), "cpu")
    if name not in found:
        raise ValueError(f"device {name} is not available on this machine: use --device auto")
    return name


def _gpus() -> list[str]:
    if not _has_driver():
        return []
    try:
        import torch
    except ImportError:
        return []
    found = {"cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    return [name for name, there in found.items() if there]


def _has_driver() -> bool:
    if sys.platform == "darwin":
        return True
    if sys.platform == "win32":
        try:
            ctypes.CDLL("nvcuda.dll")
        except OSError:
            return False
        return True
    return any(Path(path).exists() for path in DRIVERS)


def default_weights(device: str = "cpu") -> Path:
    """The bundle that comes with reunet: below $REUNET_WEIGHTS, or `weights/` of the checkout.

    On a GPU it is the paper's network where there is one, else the compact one.
    Raises WeightsError where there is none.
    """
    root = os.environ.get("REUNET_WEIGHTS")
    folder = Path(root) if root else Path(__file__).resolve().parents[1] / "weights"
    if device != "cpu" and (folder / GPU_BUNDLE).is_dir():
        return folder / GPU_BUNDLE
    bundle = folder / DEFAULT_BUNDLE
    if not bundle.is_dir():
        raise WeightsError(
            f"{bundle}: no weights there: give a bundle with --weights or set REUNET_WEIGHTS"
        )
    return bundle
