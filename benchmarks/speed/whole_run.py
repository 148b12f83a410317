"""What a whole run adds to its networks' time, and the memory it holds: a folder, or a slide.

    python -m benchmarks.speed.whole_run [--images 200 | --slide 10000] [PREDICT OPTIONS]

`reunet predict` runs on the CPU in a process of its own, in which nothing but the networks gets a
clock, those of the first tile of each shape with the code that OpenVINO makes for it. The folder
holds small pieces of the bundled samples in the common formats, the slide is a compressed, tiled
TIFF laid out from them. Processor seconds are hardly stretched by other jobs. Memory is looked at
after every pass of a network (Linux only): whether it grows from image to image shows there.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from benchmarks.speed.timing import SAMPLES, Spent, cut_samples, machine, print_table, run

SMALLEST, LARGEST = 256, 512  # px, edges of the folder's images
FORMATS = (".png", ".tif", ".bmp", ".jpg")
BLOCK = 512  # px, of the slide's tiles; each shows a part of one sample
COMMAND = """
import json, resource, sys, time
from reunet.network import openvino_backend
calls = {"network": [], "size network": []}
def clocked_builder(name, build):
    def clocked_build(*args, **options):
        network = build(*args, **options)
        def clocked(tiles):
            wall, cpu = time.perf_counter(), time.process_time()
            logits = network(tiles)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            with open("/proc/self/statm") as memory:
                calls[name].append((*spent, int(memory.read().split()[1]) * resource.getpagesize()))
            return logits
        return clocked
    return clocked_build
for name, builder in (("network", "build_network"), ("size network", "build_size_network")):
    build = getattr(openvino_backend, builder)
    setattr(openvino_backend, builder, clocked_builder(name, build))
from reunet.cli import main
main(sys.argv[2:], standalone_mode=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
with open(sys.argv[1], "w") as file:
    json.dump({"calls": calls, "peak": peak}, file)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=200, help="of the folder")
    parser.add_argument("--slide", type=int, metavar="EDGE", help="px: a slide instead of a folder")
    options, how = parser.parse_known_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        given, measured = Path(folder) / "given", Path(folder) / "measured.json"
        if options.slide:
            given = given.with_suffix(".tif")
            write_slide(given, options.slide)
            print(f"{options.slide} × {options.slide} px, {given.stat().st_size / 1e6:.0f} MB\n")
        else:
            edges = np.random.default_rng(0).integers(SMALLEST, LARGEST + 1, (options.images, 2))
            cut_samples(given, edges.tolist(), FORMATS)
            print(f"{options.images} images of {SMALLEST} to {LARGEST} px\n")
        command = (sys.executable, "-c", COMMAND, measured, "predict", given, f"{folder}/labels")
        spent = run((*command, "--device", "cpu", *how))
        report(spent, **json.loads(measured.read_text()))


def write_slide(path: Path, edge: int) -> None:
    """An RGB slide in zlib tiles, with every sample in turn, cut anew and mirrored by chance."""
    rng = np.random.default_rng(0)
    samples = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(SAMPLES.iterdir())]

    def tiles() -> Iterator[np.ndarray]:
        for n in range((-(-edge // BLOCK)) ** 2):
            pixels = samples[n % len(samples)]
            around = [(0, max(0, BLOCK - length)) for length in pixels.shape[:2]]
            pixels = np.pad(pixels, [*around, (0, 0)], mode="symmetric")
            top, left = (rng.integers(length - BLOCK + 1) for length in pixels.shape[:2])
            down, right = rng.choice([-1, 1], 2)
            yield pixels[top : top + BLOCK, left : left + BLOCK][::down, ::right]

    how = {"tile": (BLOCK, BLOCK), "photometric": "rgb", "compression": "zlib"}
    tifffile.imwrite(path, tiles(), shape=(edge, edge, 3), dtype=np.uint8, **how)


def report(whole: Spent, calls: dict[str, list[list[float]]], peak: float) -> None:
    """Print the tables. calls: seconds, processor seconds and bytes of every pass; peak: bytes."""
    network = np.array(calls["network"])
    rows: dict[str, Spent] = {
        f"{name}, {len(passes)} passes": Spent(*np.sum(passes, axis=0)[:2])
        for name, passes in calls.items()
        if passes
    }
    rest = np.subtract(whole, np.sum(list(rows.values()), axis=0))
    rows |= {"all else": Spent(*rest), "**whole run**": whole}
    own = Spent(*network.sum(axis=0)[:2])
    print_table(
        ("", "seconds", "of the network's", "processor seconds", "of the network's"),
        [
            (name, f"{s.wall:.1f}", f"{s.wall / own.wall:.1%}", f"{s.cpu:.1f}",
             f"{s.cpu / own.cpu:.1%}")
            for name, s in rows.items()
        ],
    )  # fmt: skip
    print(f"most memory {peak / 1e9:.2f} GB")
    later = network[len(network) // 10 :, 2]
    slope = np.polyfit(np.arange(len(later)), later, 1)[0] if len(later) > 1 else 0
    print(f"after the first tenth it grows by {slope / 1e3:.1f} kB a pass of the network")


if __name__ == "__main__":
    main()
