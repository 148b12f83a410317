"""A folder of small images: how near the whole run comes to the network's own speed.

    python benchmarks/folder.py [--images 200] [--repeats 3] [--no-tta] [--device cpu]

The network's own speed: the same tiles through the networks and nothing else. Both are measured in
turn in one process, by the clock and by the time of all cores, which other jobs hardly stretch.
Before that each tile is predicted once, uncounted: whichever came first would pay for the code that
OpenVINO makes for each new shape of a tile, of which there are 81 at most here. Each image is
looked at once (`--one-scale`): what the networks see is then known beforehand. Memory is looked at
after every image of the last run: how the peak of its last tenth compares with that of its second,
and the slope from there on.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from reunet.io.images import read_image
from reunet.pipeline import Model, load_model, scaled, see
from reunet.run.batch import segment_files

SAMPLES = Path(__file__).resolve().parents[1] / "tests/data/samples/images"
SMALLEST, LARGEST = 256, 512  # px, edges of the images
FORMATS = (".png", ".tif", ".bmp", ".jpg")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-tta", action="store_true")
    options = parser.parse_args()
    model, tta = replace(load_model(device=options.device), enlarge=False), not options.no_tta
    with tempfile.TemporaryDirectory() as root:
        images = cut_images(Path(root) / "images", options.images)
        seconds_of_network(images, model, tta=False)
        alone, whole = [], []
        for repeat in range(options.repeats):
            alone.append(seconds_of_network(images, model, tta))
            output = Path(root) / f"{repeat}"
            output.mkdir()
            started, megabytes = now(), []
            for outcome in segment_files(images, output, model, tta=tta, decoder=None):
                if outcome.error:
                    raise SystemExit(outcome.error)
                megabytes.append(resident_megabytes())
            whole.append(now() - started)
    print(f"{len(images)} images of {SMALLEST} to {LARGEST} px, {model.device}, mirroring {tta}")
    for k, clock in enumerate(("wall", "cores")):
        shares = [a[k] / w[k] for a, w in zip(alone, whole, strict=True)]
        medians = [statistics.median(seconds[k] for seconds in kind) for kind in (alone, whole)]
        print(f"{clock}: network alone {medians[0]:.1f} s, whole {medians[1]:.1f} s,", end=" ")
        print(f"share {statistics.median(shares):.1%} ({', '.join(f'{s:.1%}' for s in shares)})")
    tenth = max(1, len(megabytes) // 10)
    first, last = max(megabytes[tenth : 2 * tenth]), max(megabytes[-tenth:])
    slope = np.polyfit(np.arange(len(megabytes) - tenth), megabytes[tenth:], 1)[0]
    print(f"memory {first:.0f} MB, at the end {last:.0f} MB ({last / first:.3f}),", end=" ")
    print(f"slope {slope * 1000:.1f} kB an image")


def cut_images(folder: Path, count: int) -> list[Path]:
    """Pieces of the samples of any shape, in the common formats."""
    folder.mkdir()
    rng = random.Random(0)
    samples = [Image.open(path).convert("RGB") for path in sorted(SAMPLES.iterdir())]
    paths = []
    for number in range(count):
        sample = samples[number % len(samples)]
        width, height = (rng.randint(min(SMALLEST, n), min(LARGEST, n)) for n in sample.size)
        left, top = rng.randint(0, sample.width - width), rng.randint(0, sample.height - height)
        paths.append(folder / f"{number:04}{FORMATS[number % len(FORMATS)]}")
        sample.crop((left, top, left + width, top + height)).save(paths[-1])
    return paths


def now() -> np.ndarray:
    """Seconds by the clock, and of all cores that this process used."""
    return np.array([time.perf_counter(), time.process_time()])


def seconds_of_network(images: list[Path], model: Model, tta: bool) -> np.ndarray:
    """Time in the networks alone, on the tiles that `see` gives them."""
    seconds = np.zeros(2)
    for tiles in tiles_of(images, model, tta):
        for network in model.networks:
            for tile in tiles:
                started = now()
                network(tile)
                seconds += now() - started
    return seconds


def tiles_of(images: list[Path], model: Model, tta: bool) -> Iterator[list[np.ndarray]]:
    """What one network is given, image by image."""
    for image in images:
        tiles: list[np.ndarray] = []

        def record(given: np.ndarray, tiles: list[np.ndarray] = tiles) -> np.ndarray:
            tiles.append(given.copy())
            outputs = model.bundle.architecture.outputs
            return np.zeros((len(given), outputs, *given.shape[2:]), np.float32)

        shown = scaled(read_image(image), model)
        see(shown, replace(model, networks=(record,)), tta=tta)
        yield tiles


def resident_megabytes() -> float:
    """Memory of this process. Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    main()
