"""The paper's network on a GPU: 5 folds × 4 mirror images of one 1024×1024 picture.

    python -m benchmarks.speed.paper_on_gpu [--runs 3]

Random weights: only time and memory are looked at, those of `reunet predict` from the start of its
process on.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.speed.timing import complete, gpu, machine, print_table, verdict
from reunet.network.architecture import PAPER
from reunet.network.bundle import save_bundle

EDGE = 1024  # px, of the picture and the tile
FOLDS, FLIPS = 5, 4
SECONDS, GIGABYTES = 5, 9  # marks: less than
COMMAND = """
from reunet.cli import main
try:
    main()
finally:
    import json, torch
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.max_memory_reserved()
    print(json.dumps({"reserved": reserved, "used": total - free}))
"""


def main() -> None:
    """Measure and print; nothing but a line where there is no GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    if not gpu():
        sys.exit("no GPU")
    with tempfile.TemporaryDirectory() as folder:
        weights, image, out = (Path(folder, name) for name in ("paper", "picture.png", "labels"))
        write_random_bundle(weights)
        noise = np.random.default_rng(0).integers(0, 256, (EDGE, EDGE, 3), np.uint8)
        Image.fromarray(noise).save(image)
        wall, memory = whole_process(weights, image, out, options.runs)
    rows = [
        ("process start to label, s", f"{wall:.1f}"),
        ("reserved by PyTorch, GB", f"{memory['reserved'] / 1e9:.1f}"),
        ("in use on the GPU in all, GB", f"{memory['used'] / 1e9:.1f}"),
    ]
    print_table((f"paper network, {FOLDS} folds × {FLIPS} flips, {EDGE}×{EDGE}", ""), rows)
    in_time, fits = wall < SECONDS, memory["used"] < 1e9 * GIGABYTES
    print(verdict(in_time, f"< {SECONDS} s"), verdict(fits, f"< {GIGABYTES} GB"), sep="; ")


def write_random_bundle(folder: Path) -> None:
    """FOLDS folds as a new network is made."""
    from reunet.network.unet import build

    about = {"encoding": "thin", "decoder": "regrow", "tile": EDGE, "smallest": EDGE}
    save_bundle(
        folder, PAPER, {str(fold): build(PAPER).state_dict() for fold in range(FOLDS)}, about
    )


def whole_process(weights: Path, image: Path, out: Path, runs: int) -> tuple[float, dict[str, int]]:
    """Median seconds of the command, and the most memory of any run in bytes."""
    options = ("predict", image, out, "--weights", weights, "--device", "cuda", "--tta")
    seconds, memory = [], []
    for _ in range(runs + 1):
        started = time.perf_counter()
        done = complete((sys.executable, "-c", COMMAND, *options))
        seconds.append(time.perf_counter() - started)
        memory.append(json.loads(done.stdout.splitlines()[-1]))
    most = {key: max(m[key] for m in memory) for key in memory[0]}
    return statistics.median(seconds[1:]), most


if __name__ == "__main__":
    main()
