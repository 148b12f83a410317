"""Where the time of `reunet predict` on one image goes: the challenge starts a process an image.

    python benchmarks/one_image.py [IMAGE] [--runs 5] [--no-tta] [--device cpu]

Without IMAGE a 512×512 crop of the phase contrast sample. Prints the median wall time of the whole
command and, from as many runs of the same steps in fresh processes, the median of each step.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

SAMPLE = Path(__file__).resolve().parents[1] / "tests/data/samples/images/usiigaci__set26.png"
STEPS = """
import json, sys, time
from pathlib import Path
started, marks = float(sys.argv[1]), {}
def mark(step):
    global started
    now = time.time()
    marks[step], started = now - started, now
mark("interpreter")
from reunet.pipeline import load_model, predict_classes
from reunet.instances import decode
from reunet.images import read_image, write_label
mark("imports")
model = load_model(device=sys.argv[4])
mark("weights")
picture = read_image(Path(sys.argv[2]))
mark("reading")
classes = predict_classes(picture, model, tta=sys.argv[5] == "True")
mark("normalisation and network")
labels = decode(classes, model.bundle.decoder, model.bundle.encoding)
mark("instances")
write_label(Path(sys.argv[3]) / "x_label.tiff", labels)
mark("writing")
print(json.dumps(marks))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("image", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-tta", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        image = options.image or crop_sample(Path(folder))
        tta = "--no-tta" if options.no_tta else "--tta"
        reunet = Path(sys.executable).with_name("reunet")
        command = [reunet, "predict", image, folder, "--device", options.device, tta]
        steps = [sys.executable, "-c", STEPS]
        arguments = [image, folder, options.device, str(not options.no_tta)]
        whole, marks = [], []
        for _ in range(options.runs + 1):
            started = time.time()
            subprocess.run(command, check=True, capture_output=True)
            whole.append(time.time() - started)
            printed = subprocess.check_output([*steps, str(time.time()), *map(str, arguments)])
            marks.append(json.loads(printed))
    report(Image.open(options.image).size if options.image else (512, 512), whole, marks)


def crop_sample(folder: Path) -> Path:
    """A 512×512 picture."""
    path = folder / "image.png"
    Image.open(SAMPLE).crop((0, 0, 512, 512)).save(path)
    return path


def report(size: tuple[int, int], whole: list[float], marks: list[dict[str, float]]) -> None:
    """Print medians; the first run warmed the disk cache and does not count."""
    import torch

    machine = f"{torch.get_num_threads()} threads, {platform.machine()}"
    print(f"{size[0]}×{size[1]} px, torch {torch.__version__}, {machine}")
    print("| step | seconds |\n|---|---|")
    for step in marks[0]:
        print(f"| {step} | {statistics.median(m[step] for m in marks[1:]):.2f} |")
    print(f"| **whole process** | **{statistics.median(whole[1:]):.2f}** |")


if __name__ == "__main__":
    main()
