"""Which number format a network computes in: bfloat16 on CPUs that have it, half on NVIDIA's GPUs.

Told by the processor's flags and not by trial: OpenVINO takes bfloat16 on other CPUs, too, and
emulates it there, slower than float32. Legend: f32, bf16, f16 are OpenVINO's names of the formats.
"""

from pathlib import Path
from typing import Literal

from reunet.errors import DeviceError
from reunet.options import PRECISIONS

Precision = Literal["f32", "bf16", "f16"]

CPUINFO = Path("/proc/cpuinfo")
FLAGS = {"avx512_bf16", "amx_bf16"}  # products of bfloat16 on x86; OpenVINO has none for Arm
AMPERE = (8, 0)  # compute capability of NVIDIA's first GPUs with bfloat16


def choose_precision(name: str, device: str = "cpu") -> Precision:
    """The format of a name in PRECISIONS on a device; auto is the fastest that keeps the F1.

    device: cpu, cuda or mps. Raises ValueError for another name, and DeviceError for bf16 on a
    device that has no instructions for it.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision {name!r} does not exist: choose from {', '.join(PRECISIONS)}")
    if name == "bf16" and not _has_bf16(device):
        where = "this processor" if device == "cpu" else f"device {device}"
        raise DeviceError(f"precision bf16 is not available on {where}: use --precision auto")
    if name == "auto":
        return _fastest(device)
    return "bf16" if name == "bf16" else "f32"


def _fastest(device: str) -> Precision:
    if device == "cuda":
        return "f16"  # not bfloat16: 8 times finer, and older cards have it, too
    return cpu_precision() if device == "cpu" else "f32"


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_capability() >= AMPERE
    return device == "cpu" and cpu_precision() == "bf16"


def cpu_precision() -> Precision:
    """bf16 where a product of bfloat16 is an instruction of the processor, else f32.

    Linux tells the instructions in /proc/cpuinfo; other systems tell them to libraries alone that
    take longer to ask than a small image takes, so there it is f32.
    """
    try:
        with CPUINFO.open() as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return "f32"
    return "bf16" if FLAGS & set(flags.partition(":")[2].split()) else "f32"
