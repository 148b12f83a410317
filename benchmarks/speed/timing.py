"""What the side-by-side benchmarks share: runs in turn, medians, the machine in words."""

import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Command = Sequence[str | Path]
PACKAGES = ("torch", "openvino", "nnunetv2", "monai", "numpy")
LAST_WORDS = 2000  # characters shown of what a failed command said


class Spent(NamedTuple):
    """Seconds of a command: by the clock, and of all processors, those of its workers included.

    Another job on the machine stretches the first, hardly the second.
    """

    wall: float
    cpu: float


def run(command: Command) -> Spent:
    """Run a command and time it from the start of its process. Ends the benchmark if it fails."""
    before, started = _processor_seconds(), time.perf_counter()
    complete(command)
    return Spent(time.perf_counter() - started, _processor_seconds() - before)


def complete(command: Command) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it says. Ends the benchmark if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shown = " ".join(str(part) for part in command)
        said = (done.stdout + done.stderr)[-LAST_WORDS:]
        sys.exit(f"{shown}\nended with {done.returncode}:\n{said}")
    return done


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def in_turn(ways: Mapping[str, Callable[[], Spent]], runs: int) -> dict[str, Spent]:
    """Medians of every way, which take turns (A B A B …): a busy machine hits all alike.

    A first round warms the disk's cache and does not count.
    """
    rounds = [{name: way() for name, way in ways.items()} for _ in range(runs + 1)][1:]
    return {name: _median([spent[name] for spent in rounds]) for name in ways}


def _median(spent: Sequence[Spent]) -> Spent:
    return Spent(*(statistics.median(seconds) for seconds in zip(*spent, strict=True)))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table."""
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")
    print(flush=True)


def print_ratios(spent: Mapping[str, Spent], mark: float | None = None) -> None:
    """A row a way, and how many times as long as the first, ours, it takes.

    mark: what the smallest ratio has to reach.
    """
    ours, *others = spent.values()
    rows = []
    for name, (wall, cpu) in spent.items():
        ratios = f"{wall / ours.wall:.1f}", f"{cpu / ours.cpu:.1f}"
        rows.append((name, f"{wall:.2f}", ratios[0], f"{cpu:.2f}", ratios[1]))
    print_table(("way", "seconds", "times ours", "processor seconds", "times ours"), rows)
    if mark:
        reached = min(other.wall for other in others) / ours.wall
        print(f"{reached:.1f}× faster: {verdict(reached >= mark, f'≥ {mark:g}×')}\n", flush=True)


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
