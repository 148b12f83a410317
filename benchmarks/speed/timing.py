"""What benchmarks of time share: commands with a clock, pictures, tables, the machine in words."""

import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import cycle
from math import inf
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from PIL import Image

Command = Sequence[str | Path]
PACKAGES = ("torch", "openvino", "nnunetv2", "numpy")
SAMPLES = Path(__file__).resolve().parents[2] / "tests/data/samples/images"
LAST_WORDS = 2000  # characters shown of what a failed command said
# A small process between, so that the memory of this one is not taken for the command's.
LAUNCHER = """
import os, resource, sys, time
started = time.perf_counter()
process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(process, 0)
wall, unit = time.perf_counter() - started, 1 if sys.platform == "darwin" else 1024
children = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"\\n{wall} {children.ru_utime + children.ru_stime} {children.ru_maxrss * unit}")
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


class Spent(NamedTuple):
    """Of a command: seconds by the clock and of all processors, and the most memory in bytes.

    Its workers count for the processors; another job on the machine stretches the clock, hardly
    them. Memory is that of the largest process. Infinite: stopped at its limit.
    """

    wall: float
    cpu: float
    peak: float = 0


def run(command: Command, limit: float | None = None) -> Spent:
    """Run a command and time it from the start of its process. Ends the benchmark if it fails.

    limit: seconds after which the command is stopped, with all its workers.
    """
    launcher = (sys.executable, "-I", "-S", "-c", LAUNCHER, *command)
    process = subprocess.Popen(
        launcher,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Spent(inf, inf, inf)
    if process.returncode:
        _give_up(command, process.returncode, said)
    wall, cpu, peak = (float(word) for word in said.splitlines()[-1].split())
    return Spent(wall, cpu, peak)


def complete(command: Command) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it says. Ends the benchmark if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        _give_up(command, done.returncode, done.stdout + done.stderr)
    return done


def _give_up(command: Command, code: int, said: str) -> NoReturn:
    shown = " ".join(str(part) for part in command)[:LAST_WORDS]
    sys.exit(f"{shown}\nended with {code}:\n{said[-LAST_WORDS:]}")


def cut_samples(
    folder: Path, sizes: Sequence[tuple[int, int]], formats: Sequence[str] = (".png",)
) -> int:
    """Pictures of the given (height, width) from the bundled samples, continued by reflection.

    formats: endings of their files, in turn. Returns how many pixels there are.
    """
    folder.mkdir()
    samples = sorted(SAMPLES.iterdir(), reverse=True)  # the largest first
    for number, ((height, width), path) in enumerate(zip(sizes, cycle(samples), strict=False)):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        margins = [(0, max(0, n - h)) for n, h in zip((height, width), pixels.shape, strict=False)]
        padded = np.pad(pixels, [*margins, (0, 0)], mode="symmetric")[:height, :width]
        Image.fromarray(padded).save(folder / f"{number:04}{formats[number % len(formats)]}")
    return sum(height * width for height, width in sizes)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table."""
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")
    print(flush=True)


def verdict(reached: bool, mark: str) -> str:
    """Whether a mark is reached, in words."""
    return f"the mark ({mark}) is {'reached' if reached else 'missed'}"


def machine() -> str:
    """Processor, cores, GPU, versions, and how busy the machine is, on one line each."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = os.getloadavg()[0]
    busy = "" if load < 0.5 else ": not quiet, trust the processor seconds more than the others"
    return (
        f"* {processor()}, {cores()} cores, {gpu() or 'no GPU'}, {platform.system()}\n"
        f"* Python {platform.python_version()}, {versions}\n"
        f"* load at the start {load:.1f}{busy}\n"
    )


def version(package: str) -> str:
    """A package's version, or that it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def cores() -> int:
    """Cores that this process and its children may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def gpu() -> str | None:
    """Name of the GPU that PyTorch finds, if any."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
