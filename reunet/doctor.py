"""What this machine and installation can do, what is wrong with them, and what to do about it.

Every check gives one Finding; none of them raises, and none changes anything but the cache of
compiled graphs, which a first segmentation fills too. The self-test segments a picture drawn here,
whose cells are known. Packages are imported by the check that needs them: where one is missing, the
others still have something to say.
"""

import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reunet.network.precision import CPUINFO, cpu_precision

if TYPE_CHECKING:
    import numpy as np

State = Literal["fine", "note", "wrong"]

EXTRA = re.compile(r"extra == ['\"](\w+)['\"]")
NAME = re.compile(r"[\w.-]+")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")  # that OpenVINO uses
VARIABLES = ("REUNET_WEIGHTS", "REUNET_MAX_PIXELS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
SECONDS = 5.0  # that the self-test may take
EDGE, RADIUS, APART = 256, 13, 56  # px of the picture of the self-test, its cells and their grid


@dataclass(frozen=True)
class Finding:
    """What a check found: in one line, with the way out where something is wrong, and as facts."""

    name: str
    state: State
    text: str
    way_out: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def examine(weights: Path | None = None) -> Iterator[Finding]:
    """Run all checks, one after the other. weights: the bundle to look at (None: the shipped)."""
    checks: dict[str, Callable[[], Finding]] = {
        "system": system,
        "packages": packages,
        "processor": processor,
        "device": device,
        "weights": lambda: weights_found(weights),
        "cache": cache,
        "self-test": lambda: self_test(weights),
    }
    for name, check in checks.items():
        try:
            yield check()
        except Exception as error:  # a doctor tells of broken machines, and does not break on them
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            yield Finding(name, "wrong", text, "report it, with the output of reunet doctor --json")


def report(findings: list[Finding]) -> dict[str, Any]:
    """What `--json` prints: a version, whether anything is wrong, and every finding."""
    healthy = all(finding.state != "wrong" for finding in findings)
    about = {"reunet": metadata.version("reunet"), "healthy": healthy}
    return {**about, "findings": [asdict(finding) for finding in findings]}


def system() -> Finding:
    """Versions of Python, the system, and what environment variables decide."""
    set_here = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    facts = {
        "reunet": metadata.version("reunet"),
        "folder": str(Path(__file__).resolve().parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "variables": set_here,
    }
    text = f"reunet {facts['reunet']}, Python {facts['python']}, {facts['platform']}"
    text += "".join(f", {name}={value}" for name, value in set_here.items())
    if sys.platform != "linux" or platform.machine().lower() not in ("x86_64", "amd64"):
        untested = "reunet was never run on this kind of system: docs/install.md says what is known"
        return Finding("system", "note", text, untested, facts)
    return Finding("system", "fine", text, facts=facts)


def packages() -> Finding:
    """Versions of what reunet needs, and which extras are there."""
    needed: dict[str, str | None] = {}
    extras: dict[str, dict[str, str | None]] = {}
    for line in metadata.requires("reunet") or []:
        name, extra = _name_of(line), EXTRA.search(line)
        group = extras.setdefault(extra[1], {}) if extra else needed
        group[name] = _version(name)
    missing = [name for name, version in needed.items() if version is None]
    whole = [extra for extra, group in extras.items() if None not in group.values()]
    text = ", ".join(f"{name} {version or 'is missing'}" for name, version in needed.items())
    text += f"; extras: {', '.join(whole) or 'none'}"
    facts = {"needed": needed, "extras": extras}
    if missing:
        return Finding("packages", "wrong", text, f"pip install {' '.join(missing)}", facts)
    return Finding("packages", "fine", text, facts=facts)


def _name_of(requirement: str) -> str:
    match = NAME.match(requirement)
    return match[0] if match else requirement


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> Finding:
    """Cores that this process may use, memory, and the instructions that make it fast."""
    model, flags = _cpuinfo()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, Any] = {
        "model": model,
        "cores": cores,
        "memory_gb": _memory(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "precision": cpu_precision(),
    }
    memory = f", {facts['memory_gb']} GB" if facts["memory_gb"] else ""
    known = ", ".join(facts["instructions"]) or "instructions unknown"
    text = f"{model}, {cores} cores{memory}; {known}; fastest number format {facts['precision']}"
    if flags and "avx2" not in flags:
        return Finding(
            "processor", "note", text, "without AVX2 expect many times the seconds", facts
        )
    return Finding("processor", "fine", text, facts=facts)


def _cpuinfo() -> tuple[str, set[str]]:
    """Name of the processor, and its flags where the system tells them."""
    try:
        text = CPUINFO.read_text(errors="replace")
    except OSError:
        text = ""
    lines = dict(re.findall(r"^(model name|flags)\s*: (.*)$", text, re.MULTILINE))
    return lines.get("model name") or platform.processor(), set(lines.get("flags", "").split())


def _memory() -> float | None:
    """GB of memory, where the system tells it."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def device() -> Finding:
    """What computes by default; a GPU that is there and cannot be used, and why."""
    from reunet.model import choose_device, has_driver

    chosen, version = choose_device("auto"), _version("torch")
    facts = {"chosen": chosen, "driver": has_driver(), "torch": version}
    if chosen != "cpu":
        return Finding("device", "fine", f"{chosen}, by PyTorch {version}", facts=facts)
    if not facts["driver"]:
        return Finding(
            "device", "fine", "cpu, by OpenVINO; no driver of a GPU is there", facts=facts
        )
    if version is None:
        why = "cpu, by OpenVINO; there may be a GPU, but PyTorch is not installed"
        return Finding("device", "note", why, "pip install 'reunet[gpu]'", facts)
    why = f"cpu, by OpenVINO; there is a driver, but PyTorch {version} finds no GPU that it can use"
    way_out = (
        "update the driver, install the PyTorch that goes with it, or see CUDA_VISIBLE_DEVICES"
    )
    return Finding("device", "note", why, way_out, facts)


def weights_found(weights: Path | None = None) -> Finding:
    """Whether the bundle is there and every byte of its tensors is right."""
    from reunet.errors import WeightsError
    from reunet.model import default_weights
    from reunet.network.bundle import SIZE, folds_there, load_tensors, open_bundle

    try:
        bundle = open_bundle(weights or default_weights())
        for name in (*folds_there(bundle), *([SIZE] if bundle.has_size else [])):
            load_tensors(bundle, name)
    except WeightsError as error:
        cause, _, way_out = str(error).rpartition(": ")
        return Finding("weights", "wrong", cause, way_out)
    hashes = bundle.about["sha256"]
    facts = {
        "folder": str(bundle.folder),
        "folds": [*folds_there(bundle)],
        "decoder": bundle.decoder,
        "diameter": bundle.diameter,
        "sha256": hashes,
    }
    short = ", ".join(f"{file} {digest[:12]}" for file, digest in hashes.items())
    return Finding("weights", "fine", f"{bundle.folder}: {short}: as in the card", facts=facts)


def cache() -> Finding:
    """Where compiled networks are kept between runs."""
    from reunet.network.openvino_backend import CACHE_BYTES, cache_folder

    folder = cache_folder()
    if folder is None:
        why = (
            "nowhere: compiled networks are not kept, each run takes a few tenths of a second more"
        )
        way_out = "make ~/.cache, or set XDG_CACHE_HOME to a folder that can be written to"
        return Finding("cache", "note", why, way_out, {"folder": None})
    sizes = [path.stat().st_size for path in folder.glob("*.blob")]
    facts = {"folder": str(folder), "graphs": len(sizes), "bytes": sum(sizes), "most": CACHE_BYTES}
    text = f"{folder}: {len(sizes)} networks, {sum(sizes) / 1e6:.0f} of {CACHE_BYTES / 1e6:.0f} MB"
    return Finding("cache", "fine", text, facts=facts)


def drawn_cells() -> "tuple[np.ndarray, int]":
    """A picture of bright discs on dark ground, (EDGE, EDGE) uint8, and their number."""
    import numpy as np

    rows, columns = np.indices((EDGE, EDGE)) % APART - APART // 2
    inside = EDGE // APART * APART
    discs = (rows**2 + columns**2 <= RADIUS**2) & (np.indices((EDGE, EDGE)).max(0) < inside)
    noise = np.random.default_rng(0).normal(0, 4, discs.shape)
    return (40 + 120 * discs + noise).clip(0, 255).astype(np.uint8), (EDGE // APART) ** 2


def self_test(weights: Path | None = None) -> Finding:
    """Segment a picture whose cells are known, and time it."""
    picture, cells = drawn_cells()
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        from reunet.model import load_model
        from reunet.pipeline import predict

        try:
            model = load_model(weights)
            loading = time.perf_counter() - started
            result = predict(picture, model, tta=False)
        except ValueError as error:
            cause, _, way_out = str(error).rpartition(": ")
            return Finding("self-test", "wrong", cause, way_out)
    total, found = time.perf_counter() - started, int(result.labels.max())
    seconds = {name: round(s, 3) for name, s in {"loading": loading, **result.seconds}.items()}
    said = [" ".join(str(warning.message).split()) for warning in warned]
    facts = {"cells": found, "drawn": cells, "seconds": seconds, "device": model.device}
    text = f"{found} of {cells} cells of {EDGE} × {EDGE} px in {total:.1f} s on {model.device}"
    text += f" ({', '.join(f'{name} {s:.2f}' for name, s in seconds.items())})"
    text = "; ".join([text, *said])
    state, way_out = _judged(found == cells, total, said, weights)
    return Finding("self-test", state, text, way_out, {**facts, "warnings": said})


def _judged(
    right: bool, seconds: float, said: list[str], weights: Path | None
) -> tuple[State, str]:
    if not right and weights:
        return "note", "these weights may not be for such cells: look at labels of your own images"
    if not right:
        return "wrong", "do not trust labels made here: report it, with reunet doctor --json"
    if seconds > SECONDS:
        return "note", "slower than it should be: see whether other programs use the processor"
    return ("note", "see what the warning says") if said else ("fine", "")
