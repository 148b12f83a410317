"""Kill a run at random moments, go on with --resume, and look for damage.

    python tests/killed.py [--rounds 50] [--images 30] [--seed 0] [--weights BUNDLE]

A round starts `reunet predict --resume --report` on pictures of 96×96 px, lets it finish a random
number of them, kills it (SIGKILL) up to a picture's time later, and starts it again. Lost: a label
that is missing at the end; wrong: one whose bytes are not those of an undisturbed run; redone: one
that was there when the run was killed and was written again. Exit code 1 if there is any.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

SAMPLES = Path(__file__).resolve().parent / "data/samples/images"
EDGE = 96  # px


def main() -> None:
    """Run the rounds and print what came of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as root:
        images, whole, output = (Path(root) / name for name in ("images", "whole", "output"))
        cut_pictures(images, options.images, rng)
        command = predict(images, options.weights)
        started = time.monotonic()
        subprocess.run([*command, whole], check=True, capture_output=True)
        start_up = time.monotonic() - started - seconds_of_images(whole)
        expected = {path.name: path.read_bytes() for path in whole.glob("*.tiff")}
        counts = dict.fromkeys(("lost", "wrong", "redone", "left over", "bad report"), 0)
        there = []
        for _ in range(options.rounds):
            shutil.rmtree(output, ignore_errors=True)
            there.append(kill(command, output, rng, options.images, start_up))
            for name, count in restart(command, output, expected).items():
                counts[name] += count
    found = ", ".join(f"{name} {count}" for name, count in counts.items())
    quartiles = statistics.quantiles(there, n=4)
    print(f"{options.rounds} rounds of {options.images} images, labels there when killed:")
    print(f"least {min(there)}, quartiles {quartiles}, most {max(there)}")
    print(found)
    sys.exit(any(counts.values()))


def cut_pictures(folder: Path, count: int, rng: random.Random) -> None:
    """Pieces of the samples, no two alike."""
    folder.mkdir()
    samples = [Image.open(path) for path in sorted(SAMPLES.iterdir())]
    for number in range(count):
        sample = samples[number % len(samples)]
        left, top = (rng.randrange(n - EDGE) for n in sample.size)
        piece = sample.crop((left, top, left + EDGE, top + EDGE))
        piece.save(folder / f"{number:03}.png")


def predict(images: Path, weights: Path | None) -> list[str | Path]:
    """The command, but for its output folder, which comes last."""
    reunet = Path(sys.executable).with_name("reunet")
    bundle = ["--weights", weights] if weights else []
    return [reunet, "predict", "--no-tta", "--resume", "--report", *bundle, images]


def seconds_of_images(output: Path) -> float:
    """What a run took without its start-up."""
    seconds: float = json.loads((output / "report.json").read_text())["seconds"]
    return seconds


def kill(
    command: list[str | Path], output: Path, rng: random.Random, images: int, start_up: float
) -> int:
    """Kill a run at a random moment. Returns the number of labels it has finished."""
    process = subprocess.Popen(
        [*command, output], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    until = rng.randrange(images)
    while process.poll() is None and len([*output.glob("*_label.tiff")]) < until:
        time.sleep(0.001)
    time.sleep(rng.random() * (0.1 if until else start_up))
    process.kill()
    process.communicate()
    return len([*output.glob("*_label.tiff")])


def restart(command: list[str | Path], output: Path, expected: dict[str, bytes]) -> dict[str, int]:
    """Go on where a killed run ended, and count what is not as it should be."""
    bad_report = (output / "report.json").exists() and not is_json(output / "report.json")
    before = {path: path.stat() for path in output.glob("*_label.tiff")}
    result = subprocess.run([*command, output], capture_output=True, text=True)
    if result.returncode:
        print(result.stderr, file=sys.stderr)
    redone = sum(
        (now.st_ino, now.st_mtime_ns) != (then.st_ino, then.st_mtime_ns)
        for then, now in ((then, path.stat()) for path, then in before.items())
    )
    labels = {path.name: path.read_bytes() for path in output.glob("*_label.tiff")}
    others = {path.name for path in output.iterdir()} - {*expected, "report.json"}
    bad_report |= not is_json(output / "report.json")
    return {
        "lost": len(expected.keys() - labels.keys()),
        "wrong": sum(labels[name] != expected[name] for name in labels.keys() & expected.keys()),
        "redone": redone,
        "left over": len(others),
        "bad report": int(bad_report),
    }


def is_json(path: Path) -> bool:
    """Whether a file is whole."""
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    main()
