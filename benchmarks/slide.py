"""A slide through `reunet predict`: seconds, memory, and the share of time that is not the network.

    python benchmarks/slide.py [--edge 10000] [--device cpu] [--tta]

The slide is a compressed, tiled RGB TIFF, laid out from the bundled samples. It is segmented by the
command itself in a process of its own, in which the steps and the network only get a clock around
them. Memory is the most that the process ever held, weights and all.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from timing import machine, print_table

SAMPLES = Path(__file__).resolve().parents[1] / "tests/data/samples/images"
BLOCK = 512  # px, of the slide's tiles; each shows a part of one sample
MOST_GIGABYTES, MOST_BESIDE = 3.0, 15.0  # the marks; percent of the network's time
COMMAND = """
import json, resource, sys, time
seconds = {}
def clocked(step, function):
    def run(*args, **options):
        started = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            seconds.setdefault(step, []).append(time.perf_counter() - started)
    return run
from dataclasses import replace
from reunet import slides
from reunet.instances import decode
classify = slides.classify
def clocked_classify(slide, about, model, *args, **options):
    networks = [clocked("network", network) for network in model.networks]
    classify(slide, about, replace(model, networks=networks), *args, **options)
slides.survey = clocked("statistics", slides.survey)
slides.classify = clocked("classes", clocked_classify)
decode.decode = clocked("instances", decode.decode)
slides.write_label = clocked("writing", slides.write_label)
from reunet.cli import main
main(sys.argv[2:], standalone_mode=False)
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
with open(sys.argv[1], "w") as file:
    json.dump({"seconds": seconds, "peak": peak}, file)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--edge", type=int, default=10_000, help="pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tta", action="store_true")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        slide, measured = Path(folder) / "slide.tif", Path(folder) / "measured.json"
        write_slide(slide, options.edge)
        print(
            f"{options.edge} × {options.edge} px, {slide.stat().st_size / 1e6:.0f} MB", flush=True
        )
        tta = "--tta" if options.tta else "--no-tta"
        arguments = [slide, Path(folder) / "labels", "--device", options.device, tta]
        started = time.perf_counter()
        command = [sys.executable, "-c", COMMAND, measured, "predict", *arguments]
        subprocess.run(command, check=True)
        report(time.perf_counter() - started, **json.loads(measured.read_text()))


def write_slide(path: Path, edge: int) -> None:
    """An RGB slide in zlib tiles, with every sample in turn, cut anew and mirrored by chance."""
    random = np.random.default_rng(0)
    samples = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(SAMPLES.iterdir())]

    def tiles() -> Iterator[np.ndarray]:
        for n in range((-(-edge // BLOCK)) ** 2):
            pixels = samples[n % len(samples)]
            around = [(0, max(0, BLOCK - length)) for length in pixels.shape[:2]]
            pixels = np.pad(pixels, [*around, (0, 0)], mode="symmetric")
            top, left = (random.integers(length - BLOCK + 1) for length in pixels.shape[:2])
            down, right = random.choice([-1, 1], 2)
            yield pixels[top : top + BLOCK, left : left + BLOCK][::down, ::right]

    tifffile.imwrite(
        path,
        tiles(),
        shape=(edge, edge, 3),
        dtype=np.uint8,
        tile=(BLOCK, BLOCK),
        photometric="rgb",
        compression="zlib",
    )


def report(whole: float, seconds: dict[str, list[float]], peak: float) -> None:
    """Print the tables. whole: seconds of the process; seconds: of every call; peak: bytes."""
    spent = {step: sum(calls) for step, calls in seconds.items()}
    passes, network = len(seconds["network"]), spent.pop("network")
    spent["classes"] -= network
    spent["start, and all else"] = whole - network - sum(spent.values())
    rows = [("network", network), *spent.items(), ("**whole process**", whole)]
    print_table(
        ("step", "seconds", "of the network's time"),
        [(step, f"{time:.1f}", f"{time / network:.1%}") for step, time in rows],
    )
    beside = 100 * (whole / network - 1)
    gigabytes = peak / 1e9
    print(f"{passes} passes of the network, {network / passes:.3f} s each")
    print(f"beside the network {beside:.1f} %, the mark is {MOST_BESIDE:g} %")
    print(f"most memory {gigabytes:.2f} GB, the mark is {MOST_GIGABYTES:g} GB")


if __name__ == "__main__":
    main()
