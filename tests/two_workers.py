"""Two workers against one process with the same cores: images a second, a slide's labels, memory.

    python -m tests.two_workers [--images 200] [--slide 10000] [PREDICT OPTIONS]

Both ways start from nothing: `reunet predict`, and the same with `--workers N`, a thread each. The
folder holds copies of the bundled samples. Memory is looked at five times a second, of every
process that the command started. 0 leaves a part out.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import psutil

from benchmarks.speed.timing import SAMPLES, cores, machine, print_table, verdict
from benchmarks.speed.whole_run import write_slide
from reunet.io.images import read_label

SHARE, MEMORY = 0.9, 3e9  # of the throughput, at least; bytes of any process, at most


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--slide", type=int, default=10_000, metavar="EDGE", help="px")
    options, further = parser.parse_known_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        if options.images:
            images = Path(folder) / "images"
            images.mkdir()
            for n, sample in enumerate(islice(cycle(sorted(SAMPLES.iterdir())), options.images)):
                shutil.copy(sample, images / f"{n:04}{sample.suffix}")
            one, two = compare(images, Path(folder), further)
            reached = verdict(one / two >= SHARE, f"{SHARE} of the throughput of one process")
            print(f"{options.images} images: {one / two:.2f} of it, {reached}\n")
        if options.slide:
            slide = Path(folder) / "slide.tif"
            write_slide(slide, options.slide)
            compare(slide, Path(folder), further)


def compare(given: Path, folder: Path, further: list[str]) -> tuple[float, float]:
    """Seconds of one process and of workers; the labels have to be the same, pixel by pixel."""
    rows, found, most = [], [], 0.0
    for way, workers in (("one", []), ("workers", ["--workers", str(cores())])):
        output = folder / f"{given.stem}_{way}"
        seconds, memory = watched(["predict", given, output, "--device", "cpu", *further, *workers])
        labels = {path.name: read_label(path) for path in sorted(output.glob("*.tiff"))}
        found.append((seconds, labels))
        rows.append((way, f"{seconds:.1f}", len(labels), *(f"{n / 1e9:.2f}" for n in memory[:3])))
        most = max(most, memory[0])
    print_table(
        (given.name, "seconds", "labels", "GB of the largest process", "next", "next"), rows
    )
    (one, labels), (two, others) = found
    same = labels.keys() == others.keys() and all(
        np.array_equal(labels[name], others[name]) for name in labels
    )
    print("labels are the same to the bit" if same else "LABELS DIFFER")
    print(f"most memory of a process: {verdict(most < MEMORY, f'{MEMORY / 1e9:.0f} GB')}\n")
    return one, two


def watched(arguments: list[object]) -> tuple[float, list[float]]:
    """Seconds of a command, and the most bytes of each of its processes, the largest first."""
    command, memory = [sys.executable, "-m", "reunet", *map(str, arguments)], dict[int, float]()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    whole = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for each in (whole, *whole.children(recursive=True)):
                rss = each.memory_info().rss
                memory[each.pid] = max(rss, memory.get(each.pid, 0.0))
        except psutil.Error:  # it ended meanwhile
            pass
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{' '.join(command)}\nended with {process.returncode}")
    return time.perf_counter() - started, [*sorted(memory.values(), reverse=True), 0.0, 0.0]


if __name__ == "__main__":
    main()
