"""Where the time of `sh predict.sh` on one image goes: the challenge starts a process an image.

    python benchmarks/one_image.py [IMAGE] [--runs 5] [--no-tta] [--device cpu] [--tiles]

Without IMAGE a 512×512 crop of the phase contrast sample. Prints medians over fresh processes, by
the clock and of all processors: the whole command, the way to its first tile, and the same steps
one by one. --tiles: also eager PyTorch beside OpenVINO, one tile of the shipped network in turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from timing import Spent, machine, print_ratios, print_table

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "tests/data/samples/images/usiigaci__set26.png"
TILE, ROUNDS, SEED = 512, 10, 0
STEPS = """
import json, sys, time
from pathlib import Path
marks, last = {}, (float(sys.argv[1]), 0.0)
def mark(step):
    global last
    now = time.time(), time.process_time()
    marks[step], last = (now[0] - last[0], now[1] - last[1]), now
mark("interpreter")
from reunet.io.images import read_image
from reunet.io.labels import write_label
from reunet.pipeline import find_and_tell, load_model, scaled, see
mark("imports")
model = load_model(device=sys.argv[4])
mark("backend and weights")
picture = read_image(Path(sys.argv[2]))
mark("reading")
tta = sys.argv[5] == "True"
shown = scaled(picture, model)
mark("size of the cells")
seen = see(shown, model, tta=tta)
mark("network, with its graphs")
labels, _ = find_and_tell(seen, model.bundle.decoder, model.bundle.encoding)
mark("instances")
write_label(Path(sys.argv[3]) / "x_label.tiff", labels)
mark("writing")
see(shown, model, tta=tta)
mark("(the network once more)")
print(json.dumps(marks))
"""
FIRST_TILE = """
import json, os, time
import reunet.network.ensemble
call = reunet.network.ensemble.Fold.__call__
def first(fold, tiles):
    before = time.time(), time.process_time()
    call(fold, tiles)
    print(json.dumps([before, [time.time(), time.process_time()]]), flush=True)
    os._exit(0)
reunet.network.ensemble.Fold.__call__ = first
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("image", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-tta", action="store_true")
    parser.add_argument("--tiles", action="store_true")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        image = options.image or crop_sample(Path(folder))
        print_steps(image, Path(folder), options.device, not options.no_tta, options.runs)
    if options.tiles:
        print_tiles()


def crop_sample(folder: Path) -> Path:
    """A 512×512 picture."""
    path = folder / "image.png"
    Image.open(SAMPLE).crop((0, 0, 512, 512)).save(path)
    return path


def print_steps(image: Path, folder: Path, device: str, tta: bool, runs: int) -> None:
    """The table; a first round warms the disk's cache and does not count."""
    rounds = [measure(image, folder, device, tta) for _ in range(runs + 1)][1:]
    rows = []
    for step in rounds[0]:
        wall, cpu = (statistics.median(r[step][n] for r in rounds) for n in (0, 1))
        rows.append((step, f"{wall:.2f}", f"{cpu:.2f}"))
    width, height = Image.open(image).size
    print_table((f"{width}×{height} px, {device}", "seconds", "processor seconds"), rows)


def measure(image: Path, folder: Path, device: str, tta: bool) -> dict[str, tuple[float, float]]:
    """One round: seconds by step, by the clock and of all processors."""
    command = ["sh", ROOT / "predict.sh", image, folder / "out", "--device", device]
    command += [] if tta else ["--no-tta"]
    found = first_tile(command, folder)
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment())
    wall, after = time.perf_counter() - started, os.times()
    used = after.children_user + after.children_system
    found["whole command"] = wall, used - before.children_user - before.children_system
    steps = [sys.executable, "-c", STEPS, str(time.time()), image, folder, device, str(tta)]
    return found | json.loads(subprocess.check_output(steps))


def first_tile(command: list[str | Path], folder: Path) -> dict[str, tuple[float, float]]:
    """The way of `sh predict.sh` to its first tile; nothing on a GPU, where no fold is on a CPU."""
    spy = folder / "spy"
    spy.mkdir(exist_ok=True)
    (spy / "sitecustomize.py").write_text(FIRST_TILE)
    started = time.time()
    spied = {**environment(), "PYTHONPATH": str(spy)}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=spied).stdout
    if not output.startswith("["):
        return {}
    entered, left = json.loads(output)
    return {
        "until the first tile enters the network": (entered[0] - started, entered[1]),
        "until it has left it": (left[0] - started, left[1]),
    }


def environment() -> dict[str, str]:
    """That of this process, with its own `reunet` found first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path}


def print_tiles() -> None:
    """One tile of the shipped network by OpenVINO and by eager PyTorch, in turn in one process."""
    from reunet.network import openvino_backend, torch_backend
    from reunet.network.bundle import load_tensors, open_bundle
    from reunet.pipeline import default_weights

    bundle = open_bundle(default_weights())
    arch, tensors = bundle.architecture, load_tensors(bundle, bundle.folds[0])
    ways = {
        "OpenVINO": openvino_backend.build_network(arch, tensors, TILE),
        "PyTorch, eager": torch_backend.build_network(arch, tensors, "cpu"),
    }
    shape = 1, arch.in_channels, TILE, TILE
    tile = np.random.default_rng(SEED).standard_normal(shape, np.float32)
    spent: dict[str, list[Spent]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, network in ways.items():
            spent[name].append(timed(lambda network=network: network(tile)))  # type: ignore[misc]
    best = {name: Spent(*map(min, zip(*times[1:], strict=True))) for name, times in spent.items()}
    print(f"One {TILE}×{TILE} tile, best of {ROUNDS} rounds")
    print_ratios(best)


def timed(work: Callable[[], object]) -> Spent:
    """Seconds of a call by the clock and of all processors."""
    started, before = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - started, time.process_time() - before)


if __name__ == "__main__":
    main()
