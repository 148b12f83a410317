"""Which number format a network computes in on a CPU: bfloat16 where the processor has it.

Told by the processor's flags and not by trial: OpenVINO takes bfloat16 on others, too, and emulates
it there, slower than float32. Legend: bf16, f32 are OpenVINO's names of the two formats.
"""

from pathlib import Path
from typing import Literal

from reunet.options import PRECISIONS

Precision = Literal["f32", "bf16"]

CPUINFO = Path("/proc/cpuinfo")
FLAGS = {"avx512_bf16", "amx_bf16"}  # products of bfloat16 on x86; OpenVINO has none for Arm


def cpu_precision() -> Precision:
    """bf16 where each product of two bfloat16 is an instruction of the processor, else f32.

    Linux tells the instructions in /proc/cpuinfo; other systems tell them to libraries alone that
    take longer to ask than a small image takes, so there it is f32.
    """
    try:
        with CPUINFO.open() as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return "f32"
    return "bf16" if FLAGS & set(flags.partition(":")[2].split()) else "f32"


def choose_precision(name: str) -> Precision:
    """The format of a name in PRECISIONS; auto is `cpu_precision`.

    Raises ValueError for another name, and for bf16 on a processor that has no instructions for it.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision {name!r} does not exist: choose from {', '.join(PRECISIONS)}")
    fastest = cpu_precision()
    if name == "bf16" and fastest != "bf16":
        raise ValueError("precision bf16 is not available on this processor: use --precision auto")
    return "f32" if name == "f32" else fastest
