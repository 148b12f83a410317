"""The folds of a bundle as networks, on the device that there is.

Each is loaded when it is first called, so that folds for which there is no time cost nothing. On
GPUs PyTorch computes, on a CPU OpenVINO; where one fails, the next takes over in mid-image.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from reunet.errors import DeviceError, message_of, warn
from reunet.inference.ensemble import Average, Ensemble, Network
from reunet.inference.tiles import Flip
from reunet.network.architecture import Architecture
from reunet.network.bundle import SIZE, Bundle, load_tensors
from reunet.network.precision import Precision

if TYPE_CHECKING:
    from reunet.network.torch_backend import TorchNetwork


class Fold:
    """A fold on the CPU: by OpenVINO, or by PyTorch where that is missing or fails.

    ahead: the graph of the smallest tiles, which most images get, is compiled on a thread.
    """

    def __init__(
        self, bundle: Bundle, name: str, precision: Precision = "f32", ahead: bool = False
    ) -> None:
        self.bundle, self.name, self.precision, self.ahead = bundle, name, precision, ahead
        self._network: Network | None = None
        self._loading = threading.Lock()
        self._by_torch = False

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        try:
            return self.load()(tiles)
        except RuntimeError as error:
            if self._by_torch:
                raise
            return self._fall_back(error)(tiles)

    def load(self) -> Network:
        """What computes the fold. Raises WeightsError where its file is damaged."""
        with self._loading:
            if self._network is None:
                try:
                    self._network = self._by_openvino()
                except (ImportError, OSError, RuntimeError) as error:
                    return self._fall_back(error)
            return self._network

    def _fall_back(self, error: Exception) -> Network:
        cause = f"OpenVINO does not work here ({message_of(error)})"
        if not find_spec("torch"):
            raise DeviceError(
                f"{cause}, and PyTorch, which could take over, is not installed: "
                "pip install 'reunet[gpu]'"
            ) from error
        warn(f"{cause}: PyTorch, which is slower, takes over")
        self._network = self._on_torch()
        self._by_torch = True
        return self._network

    def _by_openvino(self) -> Network:
        from reunet.network import openvino_backend

        ahead = self.bundle.smallest if self.ahead else None
        parts = self._parts()
        return openvino_backend.build_network(*parts, self.bundle.tile, self.precision, ahead)

    def _on_torch(self) -> Network:
        from reunet.network import torch_backend

        return torch_backend.build_network(*self._parts(), "cpu", self.precision)

    def _parts(self) -> tuple[Architecture, Mapping[str, np.ndarray]]:
        return self.bundle.architecture, load_tensors(self.bundle, self.name)


class SizeFold(Fold):
    """The network that estimates the size of cells: on the CPU, as it is asked but twice."""

    def __init__(self, bundle: Bundle, precision: Precision = "f32") -> None:
        super().__init__(bundle, SIZE, precision)

    def _by_openvino(self) -> Network:
        from reunet.network import openvino_backend

        return openvino_backend.build_size_network(*self._parts(), self.precision)

    def _on_torch(self) -> Network:
        from reunet.network import torch_backend

        return torch_backend.build_size_network(*self._parts(), self.precision)


@dataclass
class Gpu:
    """A GPU that folds share: cuda or mps. Once it has failed, all of them go on on the CPU.

    precision: of the folds on the GPU. on_cpu: of the same folds once they are on the CPU.
    """

    name: str
    precision: Precision = "f32"
    on_cpu: Precision = "f32"
    failed: bool = False

    def batch_size(self, bundle: Bundle, folds: int, edge: int) -> int:
        """Mirror images of tiles, `edge` px wide, that it holds at once beside so many folds."""
        from reunet.network import torch_backend

        return torch_backend.batch_size(bundle.architecture, edge, folds, self.name)

    def give_up(self, error: RuntimeError) -> None:
        """Say so, once."""
        self.failed = True
        warn(f"device {self.name} fails ({message_of(error)}): going on on the CPU")


class GpuFold:
    """A fold on a GPU; on the CPU from the tile on with which the GPU fails."""

    def __init__(self, bundle: Bundle, name: str, gpu: Gpu) -> None:
        self.bundle, self.name, self.gpu = bundle, name, gpu
        self.on_cpu = Fold(bundle, name, gpu.on_cpu)
        self._network: TorchNetwork | None = None

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return OnGpu([self]).mean_logits(tiles, [()], len(tiles))

    def load(self) -> "TorchNetwork":
        """What computes the fold. Raises WeightsError, or RuntimeError where the GPU fails."""
        if self._network is None:
            from reunet.network import torch_backend

            tensors = load_tensors(self.bundle, self.name)
            arch = self.bundle.architecture
            self._network = torch_backend.build_network(
                arch, tensors, self.gpu.name, self.gpu.precision
            )
        return self._network


@dataclass(frozen=True)
class OnGpu:
    """Folds that share a GPU, as an `Ensemble`: each tile goes there and back only once."""

    networks: Sequence[GpuFold]

    def mean_logits(self, tiles: np.ndarray, flips: Sequence[Flip], batch: int) -> np.ndarray:
        """See `Ensemble`."""
        gpu = self.networks[0].gpu
        if not gpu.failed:
            try:
                loaded = [fold.load() for fold in self.networks]
                return loaded[0].mean_logits(loaded, tiles, flips, batch)
            except RuntimeError as error:  # PyTorch has no kind of its own for a GPU that is lost
                gpu.give_up(error)
        return Average([fold.on_cpu for fold in self.networks]).mean_logits(tiles, flips, 1)


def ensemble_of(networks: Sequence[Network]) -> Ensemble:
    """Networks of one device as one. Raises ValueError where there is none."""
    folds = [network for network in networks if isinstance(network, GpuFold)]
    return OnGpu(folds) if folds else Average(networks)
