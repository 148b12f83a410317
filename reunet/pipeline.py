"""The whole way from an image to its cells: normalise, network, decode. The package's front door.

>>> from reunet import load_model, segment
>>> model = load_model()
>>> labels = segment("image.png", model)  # (H, W) int32, 0 background, cells 1..N
"""

import ctypes
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from reunet.inference.normalise import normalise_channels
from reunet.inference.scale import scale_image, scaled_shape, zoom_for
from reunet.inference.second_pass import LARGEST, are_small, classify_enlarged, few_tiles
from reunet.inference.size import SizeNetwork, estimate_diameter, views_of
from reunet.inference.sliding_window import Maps, Network, map_each
from reunet.inference.tiles import Tiling
from reunet.io.arrays import ReUNetWarning, picture_of
from reunet.io.images import Picture, read_image
from reunet.network.bundle import Bundle, WeightsError, choose_folds, open_bundle
from reunet.network.ensemble import Fold, Gpu, GpuFold, SizeFold, line, warn

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
    step: float | None = None  # distance of its tiles, as a share of one (None: the bundle's)
    diameter: float | None = None  # px of the typical cell of every image (None: estimated)
    size_network: SizeNetwork | None = None  # estimates it
    skip: bool = True  # spare the networks the tiles that `sliding_window.is_empty`
    enlarge: bool = True  # look at `small_cells` once more
    vote: bool = True  # folds vote on cells (`voting`); else their logits are averaged

    def tiling(self, tta: bool = True) -> Tiling:
        """How `sliding_window` cuts images for this model. tta: average over the mirror images."""
        bundle = self.bundle
        return Tiling(
            bundle.tile,
            bundle.smallest,
            bundle.architecture.divisor,
            mirror=tta,
            step=self.step or bundle.step,
            batch=self.batch,
            skip=self.skip,
            outputs=bundle.architecture.outputs,
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
        return Model(bundle, on_cpu, names, chosen, size_network=_size_network(bundle))
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
    model = Model(bundle, networks, names, device, size_network=_size_network(bundle))
    longest = few_tiles(model.tiling()).longest
    return replace(model, batch=gpu.batch_size(bundle, len(names), longest))


def _size_network(bundle: Bundle) -> SizeNetwork | None:
    return SizeFold(bundle) if bundle.has_size else None


@dataclass(frozen=True)
class Scaled:
    """An image as the networks are shown it.

    image: (h, w, 3) uint8 of `normalise_channels`, its cells brought to the bundle's diameter
    where it has one. shape: (H, W) before. diameter: px of the typical cell before; None where it
    is not known or does not matter. notes: what was assumed about it.
    """

    image: np.ndarray
    shape: tuple[int, int]
    diameter: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What networks saw in an image of `shape` (H, W): maps, which may be of another size."""

    maps: Maps
    shape: tuple[int, int]


@dataclass(frozen=True)
class Result:
    """What was found in one image, and how.

    labels: (H, W) int32, 0 background, cells 1..N. notes: what was assumed about the image, as the
    command prints it. diameter: px of the typical cell that the image was scaled by, None where it
    was not. agreement: of the folds on each cell by its number, (N + 1,) 0 to 1, None where they
    did not vote. seconds: by step: size, network, decoding.
    """

    labels: np.ndarray
    notes: tuple[str, ...]
    diameter: float | None
    agreement: np.ndarray | None
    seconds: dict[str, float]


def segment(
    image: Any,
    model: Model,
    *,
    axes: str | None = None,
    tta: bool = True,
    decoder: str | None = None,
    diameter: float | None = None,
) -> np.ndarray:
    """Find the cells of one image.

    image: a file, an array (H, W) or (H, W, C) of any real dtype, or what `arrays.picture_of`
    makes one of. axes: of an array, such as "CYX", where its shape leaves them open. tta: average
    over the four mirror images. decoder: `field`, `regrow` or `paper` (None: the bundle's).
    diameter: px of the typical cell (None: the model's, or else it is estimated from the image).
    Returns (H, W) int32: 0 background, cells 1..N. What is assumed about the image is a
    ReUNetWarning. Raises ImageError for a file that cannot be read and ValueError for an array that
    is no image, or of unclear axes.
    """
    result = predict(image, model, axes=axes, tta=tta, decoder=decoder, diameter=diameter)
    for note in result.notes:
        warnings.warn(note, ReUNetWarning, stacklevel=2)
    return result.labels


def predict(
    image: Any,
    model: Model,
    *,
    axes: str | None = None,
    tta: bool = True,
    decoder: str | None = None,
    diameter: float | None = None,
) -> Result:
    """`segment`, with all that is known beside the labels; notes are no warnings here."""
    if isinstance(image, str | os.PathLike):
        if axes:
            raise ValueError("axes are for arrays, a file tells its own: read it and pass an array")
        image = read_image(Path(image))
    elif not isinstance(image, Picture):
        image = picture_of(image, axes)
    if diameter:
        model = replace(model, diameter=diameter)
    clock = [time.perf_counter()]
    picture = scaled(image, model)
    clock.append(time.perf_counter())
    seen = see(picture, model, tta=tta)
    clock.append(time.perf_counter())
    found = find_and_tell(seen, decoder or model.bundle.decoder, model.bundle.encoding)
    clock.append(time.perf_counter())
    steps = zip(("size", "network", "decoding"), pairwise(clock), strict=True)
    seconds = {step: end - start for step, (start, end) in steps}
    notes = (*image.notes, *picture.notes, *not_done(model, picture.image.shape))
    return Result(found[0], notes, picture.diameter, found[1], seconds)


def not_done(model: Model, shape: tuple[int, ...]) -> tuple[str, ...]:
    """A note on what is not done for an image of (h, w), as it is seen, because of its size."""
    if shape[0] * shape[1] <= LARGEST:
        return ()
    parts = ["its folds were averaged, not voted"] * (model.vote and len(model.networks) > 1)
    looks = model.enlarge and model.bundle.diameter is None
    parts += ["small cells got no second look"] * looks
    return (f"has more than {LARGEST:,} pixels: {' and '.join(parts)}",) if parts else ()


def scaled(picture: Picture, model: Model) -> Scaled:
    """Normalise an image and, where the bundle has a diameter, bring its cells to that."""
    image = normalise_channels(picture.pixels)
    shape = image.shape[0], image.shape[1]
    wanted = model.bundle.diameter
    if wanted is None:
        return Scaled(image, shape)
    diameter = model.diameter
    if diameter is None and model.size_network:
        diameter = estimate_diameter(views_of(image), model.size_network)
    zoom, note = zoom_for(diameter, wanted, shape)
    return Scaled(scale_image(image, scaled_shape(shape, zoom)), shape, diameter, (note,))


def see(picture: Scaled, model: Model, *, tta: bool = True) -> Seen:
    """What the networks see in an image: classes of every pixel and, if they have it, the field.

    One map for each fold that votes, or a single one by the mean of the folds' logits, where the
    image has more than LARGEST pixels or `model.vote` is off. Of a bundle without a diameter, where
    the cells of the first are small all are of a second look, enlarged, unless `model.enlarge` is
    off.
    """
    image, tiling = picture.image, model.tiling(tta)
    in_memory = image.shape[0] * image.shape[1] <= LARGEST
    voters = [[fold] for fold in model.networks] if model.vote and in_memory else [model.networks]
    maps = map_each(image, voters, tiling)
    if model.enlarge and in_memory and model.bundle.diameter is None:
        first = Seen(Maps(maps.classes[:1]), picture.shape)
        if are_small(find_and_tell(first, model.bundle.decoder, model.bundle.encoding)[0]):
            maps = Maps(np.stack([classify_enlarged(image, fold, tiling) for fold in voters]))
    return Seen(maps, picture.shape)


def find_and_tell(seen: Seen, decoder: str, encoding: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The cells of one map, or those that several agree on.

    Returns (H, W) int32, 0 background, cells 1..N, and how far the maps agree on each cell
    (`voting.vote_and_tell`). Raises ValueError for decoder `field` and maps without one.
    """
    from reunet.instances.voting import vote_and_tell  # not needed before the first tile

    labels, agreement = vote_and_tell(_decoded(seen, decoder, encoding))
    if labels.shape == seen.shape:
        return labels, agreement
    from reunet.instances.decode import at_size

    drawn = np.empty(seen.shape, np.int32)
    kept = at_size(labels, drawn)
    return drawn, None if agreement is None else agreement[kept]


def _decoded(seen: Seen, decoder: str, encoding: str) -> list[np.ndarray]:
    """The cells of each map, at the finer of the sizes of map and image."""
    from reunet.instances.decode import decode

    if decoder != "field":
        return [decode(classes, decoder, encoding) for classes in seen.maps.classes]
    from reunet.instances.peaks import decode_field

    if seen.maps.fields is None:
        raise ValueError("these weights have no distance field: use --decoder regrow")
    pairs = zip(seen.maps.classes, seen.maps.fields, strict=True)
    larger = max(seen.shape, seen.maps.classes.shape[1:])
    return [decode_field(classes, field, shape=larger) for classes, field in pairs]


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
