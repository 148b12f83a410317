"""Where the time of `sh predict.sh` on one image goes: the challenge starts a process an image.

    python -m benchmarks.speed.one_image [IMAGE] [--runs 5] [--no-tta] [--device cpu]

Without IMAGE a 512×512 crop of the phase contrast sample. Prints medians over fresh processes, by
the clock and of all processors: the whole command, the way to its first tile, and the same steps
one by one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.speed.timing import cut_samples, machine, print_table

ROOT = Path(__file__).resolve().parents[2]
STEPS = """
import json, sys, time
from pathlib import Path
marks, last = {}, (float(sys.argv[1]), 0.0)
def mark(step):
    global last
    now = time.time(), time.process_time()
    marks[step], last = (now[0] - last[0], now[1] - last[1]), now
mark("interpreter")
from reunet import load_model, predict
from reunet.io.images import read_image
from reunet.io.labels import write_label
mark("imports")
model = load_model(device=sys.argv[4])
mark("backend and weights")
picture = read_image(Path(sys.argv[2]))
mark("reading")
tta = None if sys.argv[5] == "True" else False
found = predict(picture, model, tta=tta)
mark("from pixels to cells, with all graphs")
write_label(Path(sys.argv[3]) / "x_label.tiff", found.labels)
mark("writing")
marks |= {f"({step} of these)": (seconds, None) for step, seconds in found.seconds.items()}
again = predict(picture, model, tta=tta).seconds
marks["(the network once more)"] = again["network"], None
print(json.dumps(marks))
"""
FIRST_TILE = """
import json, os, sys, time
if "predict" in sys.orig_argv:
    from reunet.network import openvino_backend
    build = openvino_backend.build_network
    def spied_build(*args, **options):
        network = build(*args, **options)
        def first(tiles):
            before = time.time(), time.process_time()
            network(tiles)
            print(json.dumps([before, [time.time(), time.process_time()]]), flush=True)
            os._exit(0)
        return first
    openvino_backend.build_network = spied_build
"""

Seconds = dict[str, tuple[float, float | None]]  # by step: by the clock, of all processors


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("image", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-tta", action="store_true")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        image = options.image or Path(folder, "cut", "0000.png")
        if not options.image:
            cut_samples(image.parent, [(512, 512)])
        print_steps(image, Path(folder), options.device, not options.no_tta, options.runs)


def print_steps(image: Path, folder: Path, device: str, tta: bool, runs: int) -> None:
    """The table; a first round warms the disk's cache and does not count."""
    rounds = [measure(image, folder, device, tta) for _ in range(runs + 1)][1:]
    rows = []
    for step in rounds[0]:
        wall = statistics.median(r[step][0] for r in rounds)
        cpus = [r[step][1] for r in rounds if r[step][1] is not None]
        rows.append((step, f"{wall:.2f}", f"{statistics.median(cpus):.2f}" if cpus else ""))
    width, height = Image.open(image).size
    print_table((f"{width}×{height} px, {device}", "seconds", "processor seconds"), rows)


def measure(image: Path, folder: Path, device: str, tta: bool) -> Seconds:
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


def first_tile(command: list[str | Path], folder: Path) -> Seconds:
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


if __name__ == "__main__":
    main()
