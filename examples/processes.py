"""Several processes, each with its share of the cores; on a machine with more than four.

    python examples/processes.py IMAGES LABELS PROCESSES

The model travels to each process as the name of its bundle, and is loaded there once.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import reunet


def segment_share(images: list[Path], labels: Path, model: reunet.Model) -> list[str]:
    """Segment some images; a line for each."""
    done = reunet.segment_folder(images, labels, model, tta=False)
    return [image.error or f"{image.path.name}: {image.cells} cells" for image in done]


def main(images: Path, labels: Path, processes: int) -> None:
    """Deal the images out, one to each process in turn."""
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    files = sorted(path for path in images.iterdir() if path.suffix in (".png", ".tif", ".jpg"))
    shares, model = [files[n::processes] for n in range(processes)], reunet.load_model()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(segment_share, share, labels, model) for share in shares]
        for job in jobs:
            print("\n".join(job.result()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
