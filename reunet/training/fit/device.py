"""A network on a device: the precision it computes in, and how the sliding window calls it."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from reunet.inference.ensemble import Network
from reunet.inference.sliding_window import CLASSES

# without these instructions bfloat16 is emulated, slower than float32
BF16_CPU = bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def check_device(name: str, wanted: int = 1) -> None:
    """Raises ValueError where PyTorch does not find as many devices of a kind as are wanted."""
    if name == "cpu":
        return
    found = torch.cuda.device_count() if name == "cuda" else int(torch.backends.mps.is_available())
    if found < wanted:
        raise ValueError(
            f"--device {name}: PyTorch finds {found} of them here, {wanted} wanted: install a "
            f"driver and a PyTorch for it, or use --device cpu"
        )


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Half precision where the device has it: nnU-Net's on GPUs, bfloat16 on new CPUs."""
    if device.type == "cuda":
        return torch.autocast("cuda")
    if device.type == "cpu" and BF16_CPU:
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def as_network(module: torch.nn.Module, device: torch.device, outputs: int = CLASSES) -> Network:
    """A module in eval mode as `sliding_window` calls it: (N, 3, h, w) -> (N, C, h, w) float32.

    outputs: C, how many of its channels are wanted, from the first on.
    """
    module.to(device)

    @torch.inference_mode()
    def network(tiles: np.ndarray) -> np.ndarray:
        with autocast(device):
            logits = module(torch.from_numpy(tiles).to(device))
        values: np.ndarray = logits[:, :outputs].float().cpu().numpy()
        return values

    return network
