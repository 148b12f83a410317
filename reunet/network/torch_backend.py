"""The U-Net by PyTorch: on NVIDIA's and Apple's GPUs, and on a CPU where OpenVINO is missing.

Legend: N images, C classes, H, W pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from reunet.inference.tiles import Flip
from reunet.network.architecture import Architecture, parameter_shapes
from reunet.network.precision import Precision
from reunet.network.unet import SizeUNet, UNet

MEMORY = 9e9  # bytes that may be reserved on a GPU: the challenge's card has 10 GB
LIVE_MAPS = 10  # maps of the finest stage at once, at the decoder's end: 7, and cuDNN's buffers
LARGEST_BATCH = 32  # images at once; more keep no GPU busier

Tensors = Mapping[str, np.ndarray]


def build_network(
    arch: Architecture, tensors: Tensors, device: str, precision: Precision = "f32"
) -> "TorchNetwork":
    """The network of a fold on cpu, cuda or mps. tensors: by the names of `parameter_shapes`.

    precision: of products, see `precision.choose_precision`. Raises RuntimeError where the device
    fails.
    """
    return _loaded(UNet, arch, tensors, device, precision)


def build_size_network(
    arch: Architecture, tensors: Tensors, precision: Precision = "f32"
) -> "TorchNetwork":
    """The size network on the CPU. tensors: by the names of `size_parameter_shapes`."""
    return _loaded(SizeUNet, arch, tensors, "cpu", precision)


def _loaded(
    kind: type[nn.Module], arch: Architecture, tensors: Tensors, device: str, precision: Precision
) -> "TorchNetwork":
    with torch.device("meta"):  # no memory and no random numbers for weights that come from disk
        module = kind(arch)
    state = {name: torch.from_numpy(values) for name, values in tensors.items()}
    module.load_state_dict(state, assign=True)
    module.eval().requires_grad_(False)
    return TorchNetwork(module.to(device), precision)


def batch_size(arch: Architecture, tile: int, folds: int, device: str) -> int:
    """Images that a GPU holds at once beside the folds; never less than 1.

    tile: px, edge. Also keeps this process below MEMORY from now on: beyond it, as beyond the
    GPU's own memory, `TorchNetwork` goes on with half the batch.
    """
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, MEMORY / total))
    elif device == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    else:
        return 1  # on a CPU batches gain nothing
    weights = 4 * folds * sum(prod(shape) for shape in parameter_shapes(arch).values())
    image = LIVE_MAPS * arch.features[0] * tile**2 * (2 if device == "cuda" else 4)
    return int(min(max(1, (min(free, MEMORY) - weights) // image), LARGEST_BATCH))


class TorchNetwork:
    """A module in eval mode, (N, 3, H, W) -> (N, C, H, W), as a `Network`.

    It computes where the module lies; precision: of products, the network's outputs are float32.
    """

    def __init__(self, module: nn.Module, precision: Precision = "f32") -> None:
        self.module = module
        self.device = next(module.parameters()).device
        # NVIDIA's tensor cores want channels last; on a CPU it would cost nnU-Net's very bits.
        on_cuda = self.device.type == "cuda"
        self.layout = torch.channels_last if on_cuda else torch.contiguous_format
        module.to(memory_format=self.layout)  # type: ignore[call-overload]
        lower = {"bf16": torch.bfloat16, "f16": torch.float16}.get(precision)
        self.precision = torch.autocast(self.device.type, lower) if lower else nullcontext()
        self.at_once = LARGEST_BATCH  # images for which memory has sufficed so far

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.mean_logits([self], tiles, [()], len(tiles))

    @torch.inference_mode()
    def mean_logits(
        self,
        networks: Sequence["TorchNetwork"],
        tiles: np.ndarray,
        flips: Sequence[Flip],
        batch: int,
    ) -> np.ndarray:
        """`Ensemble.mean_logits` on the device: each tile goes there and back only once.

        An out-of-memory halves the batch, now and later. Raises RuntimeError where the device
        fails, torch.OutOfMemoryError where a single image is too much.
        """
        given = self._to_device(tiles)
        views = torch.cat([given.flip(axes) for axes in flips])
        total: Tensor | None = None
        for network in networks:
            for n, logits in enumerate(self._each(network.module, views, batch)):
                if total is None:
                    total = torch.zeros((len(tiles), *logits.shape), device=self.device)
                flip, tile = divmod(n, len(tiles))
                total[tile] += logits.flip(flips[flip])
        assert total is not None, "no network"
        return self._from_device(total / (len(networks) * len(flips)))

    def _each(self, module: nn.Module, images: Tensor, batch: int) -> Iterator[Tensor]:
        """Logits (C, H, W) of one image after the other."""
        first = 0
        while first < len(images):
            part = images[first : first + min(batch, self.at_once)]
            logits = self._if_it_fits(module, part)
            if logits is None:
                self.at_once = len(part) // 2
            else:
                yield from logits
                first += len(part)

    def _if_it_fits(self, module: nn.Module, images: Tensor) -> Tensor | None:
        try:
            with self.precision:
                return module(images)  # type: ignore[no-any-return]
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # not in `except`: there the error keeps all maps alive
        return None

    def _to_device(self, tiles: np.ndarray) -> Tensor:
        given = torch.from_numpy(tiles)
        if self.device.type == "cuda":
            given = given.pin_memory()
        moved = given.to(self.device, non_blocking=True)
        return moved.contiguous(memory_format=self.layout)

    def _from_device(self, logits: Tensor) -> np.ndarray:
        if self.device.type != "cuda":
            return logits.cpu().numpy()
        pinned = torch.empty(logits.shape, pin_memory=True)
        pinned.copy_(logits, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return pinned.numpy()
