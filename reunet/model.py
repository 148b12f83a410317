"""A model: the networks of a weight bundle on the device that there is."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reunet.errors import DeviceError, ReUNetError, WeightsError, message_of, warn
from reunet.inference.ensemble import Ensemble, Network
from reunet.inference.second_pass import few_tiles
from reunet.inference.tiles import STRETCH, STRETCH_OF_SIZED, Tiling
from reunet.network.bundle import STUDENT, Bundle, choose_folds, open_bundle
from reunet.network.ensemble import Fold, Gpu, GpuFold, SizeFold, ensemble_of
from reunet.network.precision import Precision, choose_precision
from reunet.network.shipped import shipped_folder
from reunet.options import DEVICES, Options

DEFAULT_BUNDLE, GPU_BUNDLE = "compact", "paper"
DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # Linux, Windows' Linux, AMD's: all "cuda"


@dataclass(frozen=True)
class Model:
    """A bundle's networks on their device.

    Threads may share it. It is pickled as its bundle's folder and hashes, device and folds, and the
    networks are loaded anew where it arrives (`received`).
    """

    bundle: Bundle
    networks: tuple[Network, ...]  # one a fold; each is loaded when it is first called
    folds: tuple[str, ...]
    device: str  # cpu, cuda or mps
    batch: int = 1  # mirror images of tiles that it takes at once
    size_network: SizeFold | None = None  # estimates the size of cells
    precision: Precision = "f32"  # of products in the networks
    together: Callable[[Sequence[Network]], Ensemble] = ensemble_of  # how folds predict as one

    def tiling(self, options: Options = Options()) -> Tiling:  # noqa: B008 - it is frozen
        """How `sliding_window` cuts images for this model."""
        bundle = self.bundle
        return Tiling(
            bundle.tile,
            bundle.smallest,
            bundle.architecture.divisor,
            views=options.views,
            step=options.step_of(bundle.step),
            stretch=STRETCH_OF_SIZED if bundle.diameter else STRETCH,
            batch=self.batch,
            skip=options.skip_empty,
            outputs=bundle.architecture.outputs,
        )

    def looks_twice(self, options: Options) -> bool:
        """Whether images of small cells get a second pass: not by weights that bring cells to a
        size, nor by those that cut cells apart by a field, which a second pass has none of."""
        bundle = self.bundle
        return options.enlarge and bundle.diameter is None and bundle.decoder != "field"

    def ensembles(self, vote: bool) -> list[Ensemble]:
        """Those that each make a map of an image: one a fold where folds vote, or one of all."""
        groups = [(fold,) for fold in self.networks] if vote else [self.networks]
        return [self.together(group) for group in groups]

    def expect(self, options: Options) -> None:
        """Load what images will be asked before their first tile. What is wrong with it, an image
        will meet with, too."""
        if self.size_network and options.diameter is None:
            with contextlib.suppress(ReUNetError):
                self.size_network.load()

    def __reduce__(self) -> tuple[Any, ...]:
        """What `received` makes a model of again."""
        folder = str(self.bundle.folder.resolve())
        hashes = self.bundle.about["sha256"]
        precision = "f32" if self.precision == "f32" else "auto"  # all that every machine has
        return received, (folder, hashes, self.device, self.folds, precision)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """What Dask tells tasks apart by: networks of the same origin are the same."""
        args: tuple[Any, ...] = self.__reduce__()[1]
        return args

    def at(self, quality: str) -> "Model":
        """The model of the folds that a level of quality asks for.

        With a student among them that is the student, but for `best`, which takes the others;
        without one it is the first for `fast`, else all.
        """
        others = tuple(fold for fold in self.folds if fold != STUDENT)
        if len(others) < len(self.folds):
            names = others or (STUDENT,) if quality == "best" else (STUDENT,)
        else:
            names = self.folds[:1] if quality == "fast" else self.folds
        if names == self.folds:
            return self
        networks = dict(zip(self.folds, self.networks, strict=True))
        return replace(self, networks=tuple(networks[name] for name in names), folds=names)

    def first(self, count: int) -> "Model":
        """The model of the first `count` folds."""
        return replace(self, networks=self.networks[:count], folds=self.folds[:count])


def load_model(
    weights: str | Path | None = None,
    device: str = "auto",
    folds: Sequence[str] | None = None,
    precision: str = "auto",
) -> Model:
    """Load a weight bundle.

    weights: folder of a bundle (None: the one that comes with reunet and suits the device).
    device: auto, cpu, cuda or mps; auto takes the fastest there is. folds: names of the folds to
    use (None: all that are there; which of them, the level of quality says, see `Model.at`). The
    first fold is loaded at once, the others when they are first used.
    precision: auto, f32 or bf16; auto is bf16 on CPUs that compute in it, half on NVIDIA's GPUs.
    Raises WeightsError, or DeviceError for a device that this machine lacks or that fails, or that
    lacks the precision; where auto chose a device that fails, a warning is given and the CPU takes
    over, here and later on.
    """
    chosen = choose_device(device)
    bundle = open_bundle(Path(weights) if weights else default_weights(chosen))
    names = choose_folds(bundle, folds)
    numbers = choose_precision(precision, chosen)
    if chosen == "cpu":
        first = Fold(bundle, names[0], numbers, ahead=bundle.has_size)  # sizes come before tiles
        on_cpu = (first, *(Fold(bundle, name, numbers) for name in names[1:]))
        on_cpu[0].load()
        size_network = _size_network(bundle, numbers)
        return Model(bundle, on_cpu, names, chosen, size_network=size_network, precision=numbers)
    later = "f32" if precision == "f32" else "auto"  # on the CPU, should the GPU fail
    try:
        return _on_gpu(bundle, names, Gpu(chosen, numbers, choose_precision(later)))
    except RuntimeError as error:
        cause = f"device {chosen} fails ({message_of(error)})"
        if device != "auto":
            raise DeviceError(f"{cause}: use --device cpu") from error
        warn(f"{cause}: going on on the CPU")
    return load_model(weights, "cpu", folds, later)


def received(
    folder: str, hashes: dict[str, str], device: str, folds: Sequence[str], precision: str
) -> Model:
    """The model that was pickled, with its bundle as it is on this machine.

    folder: where the bundle lay. hashes: of its files. Where the folder is missing, the bundle that
    comes with reunet serves if it is the same. Raises WeightsError where there is none, or another.
    """
    there = Path(folder)
    if not there.is_dir():
        there = default_weights()
    if open_bundle(there).about["sha256"] != hashes:
        raise WeightsError(
            f"{folder}: the model was made from this bundle, which is missing here or was changed: "
            "copy it there, or load the model on this machine"
        )
    return load_model(there, device, folds, precision)


def _on_gpu(bundle: Bundle, names: tuple[str, ...], gpu: Gpu) -> Model:
    networks = tuple(GpuFold(bundle, name, gpu) for name in names)
    networks[0].load()
    size_network, precision = _size_network(bundle, gpu.on_cpu), gpu.precision
    model = Model(bundle, networks, names, gpu.name, size_network=size_network, precision=precision)
    longest = few_tiles(model.tiling()).longest
    return replace(model, batch=gpu.batch_size(bundle, len(names), longest))


def _size_network(bundle: Bundle, precision: Precision) -> SizeFold | None:
    return SizeFold(bundle, precision) if bundle.has_size else None


def choose_device(name: str) -> str:
    """The device of a name in DEVICES: cpu, cuda or mps.

    PyTorch, which knows for sure, is only asked where there is a driver: to import it takes longer
    than to segment a small image. Raises DeviceError where this machine lacks the device.
    """
    if name not in DEVICES:
        raise DeviceError(f"device {name!r} does not exist: choose from {', '.join(DEVICES)}")
    if name == "cpu":
        return name
    found = _gpus()
    if name == "auto":
        return next(iter(found), "cpu")
    if name not in found:
        raise DeviceError(f"device {name} is not available on this machine: use --device auto")
    return name


def _gpus() -> list[str]:
    if not has_driver():
        return []
    try:
        import torch
    except ImportError:
        return []
    found = {"cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    return [name for name, there in found.items() if there]


def has_driver() -> bool:
    """Whether there may be a GPU that PyTorch can use."""
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
    """The bundle that comes with reunet: below $REUNET_WEIGHTS, or `shipped_folder`.

    On a GPU it is the paper's network where there is one, else the compact one.
    Raises WeightsError where there is none.
    """
    root = os.environ.get("REUNET_WEIGHTS")
    folder = Path(root) if root else shipped_folder()
    if device != "cpu" and (folder / GPU_BUNDLE).is_dir():
        return folder / GPU_BUNDLE
    bundle = folder / DEFAULT_BUNDLE
    if not bundle.is_dir():
        raise WeightsError(
            f"{bundle}: no weights there: give a bundle with --weights or set REUNET_WEIGHTS"
        )
    return bundle
