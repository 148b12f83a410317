"""Ours beside nnU-Net's own predictor and the official baseline's way, taking turns in one run.

    python -m benchmarks.peers.side_by_side [--data DIR] [--runs 5] [--images 40] [TABLE ...]

Prints Markdown tables: `one` image and `folder` of images from the start of the process to the
label, against nnU-Net with the same weights; `baseline`, the challenge's;
`ceiling`, how near the network comes to the processor's; `gpu`, where there is one. Images are cut
from the bundled samples or, with --data, are validation images of a folder with images/ and a
meta.csv. Needs requirements-train.txt and requirements-benchmarks.txt.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.speed import ceiling, paper_on_gpu
from benchmarks.speed.timing import Command, Spent, in_turn, machine, print_ratios, run
from reunet.inference.normalise import normalise_channels
from reunet.io.images import read_image
from reunet.metric import read_meta
from reunet.network.bundle import fold_file, open_bundle, write_card
from reunet.pipeline import default_weights

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parents[1] / "tests/data/samples/images"
# (height, width) that are common among microscope images; the largest is the challenge's
SIZES = ((256, 256), (520, 696), (472, 512), (360, 360), (400, 400), (256, 320), (640, 640),
         (1024, 1024))  # fmt: skip
ONE = (512, 512)
FOLDS = 5
MARK_ONE, MARK_FOLDER = 4, 3  # times faster than nnU-Net
ON_CPU = ("--device", "cpu", "--no-tta", "--one-scale", "--average")  # as the others do it


@dataclass(frozen=True)
class Setting:
    """What all tables share.

    folder: for everything that is made on the way. weights: the bundle, with FOLDS folds.
    model: the same as nnU-Net's model folder. images: what `folder` and `baseline` segment.
    """

    folder: Path
    weights: Path
    model: Path
    images: Path
    runs: int


def main() -> None:
    """Prepare what both sides are given, then make the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"[{' '.join(TABLES)}]")
    parser.add_argument("--weights", type=Path, default=default_weights())
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=40, help="in the folder")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}: there are {', '.join(TABLES)}")
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        setting = prepare(Path(folder), options)
        for table in options.tables or TABLES:
            print(f"## {table}\n", flush=True)
            TABLES[table](setting)


def prepare(folder: Path, options: argparse.Namespace) -> Setting:
    """The weights and the images of both sides."""
    from benchmarks.peers.nnunet_model import write_model_folder

    weights, model, images = folder / "bundle", folder / "model", folder / "images"
    replicate_folds(options.weights, weights)
    bundle = open_bundle(weights)
    write_model_folder(bundle, bundle.folds, model)
    if options.data:
        copy_validation_images(options.data, images, options.images)
    else:
        cut_samples(images, list(islice(cycle(SIZES), options.images)))
    return Setting(folder, weights, model, images, options.runs)


def replicate_folds(source: Path, folder: Path) -> None:
    """A bundle of FOLDS folds: the source's own, over and over where it has fewer."""
    bundle = open_bundle(source)
    folder.mkdir()
    hashes = {}
    for number, fold in enumerate(islice(cycle(bundle.folds), FOLDS)):
        shutil.copy(source / fold_file(fold), folder / fold_file(str(number)))
        hashes[fold_file(str(number))] = bundle.about["sha256"][fold_file(fold)]
    names = [str(number) for number in range(FOLDS)]
    write_card(folder, {**bundle.about, "folds": names, "sha256": hashes})


def cut_samples(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """Pictures of the given (height, width) from the samples, continued by reflection."""
    folder.mkdir()
    samples = sorted(SAMPLES.iterdir())
    for number, ((height, width), path) in enumerate(zip(sizes, cycle(samples), strict=False)):
        pixels = read_image(path).pixels
        h, w = pixels.shape[:2]
        padded = np.pad(
            pixels, ((0, max(0, height - h)), (0, max(0, width - w)), (0, 0)), mode="symmetric"
        )
        Image.fromarray(padded[:height, :width]).save(folder / f"{number:03}.png")


def copy_validation_images(data: Path, folder: Path, number: int) -> None:
    """Validation images, evenly spread over the collection."""
    names = sorted(name for name, row in read_meta(data).items() if row["split"] == "val")
    if not names:
        sys.exit(f"{data}: no meta.csv with split == val there")
    folder.mkdir()
    for index in np.linspace(0, len(names) - 1, min(number, len(names))).round().astype(int):
        shutil.copy(data / "images" / f"{names[index]}.png", folder)


def for_nnunet(images: Path, folder: Path) -> Path:
    """Normalised RGB copies under nnU-Net's names. To make them costs it nothing: ours is timed."""
    folder.mkdir(exist_ok=True)
    for path in images.iterdir():
        image = normalise_channels(read_image(path).pixels)
        Image.fromarray(image).save(folder / f"{path.stem}_0000.png")
    return folder


def segmenting(command: Command, out: Path, images: Path) -> Callable[[], Spent]:
    """A way of `in_turn`: one label for each image, every time anew."""

    def way() -> Spent:
        shutil.rmtree(out, ignore_errors=True)
        spent = run(command)
        labels = [path for path in out.iterdir() if path.suffix in (".tiff", ".png")]
        expected = len(list(images.iterdir()))
        if len(labels) != expected:
            sys.exit(f"{command[0]} made {len(labels)} labels of {expected} images")
        return spent

    return way


def reunet(setting: Setting, images: Path, *options: str) -> Callable[[], Spent]:
    """Our command."""
    out = setting.folder / "ours"
    program = Path(sys.executable).with_name("reunet")
    command: Command = (
        program,
        "predict",
        images,
        out,
        "--weights",
        setting.weights,
        *ON_CPU,
        *options,
    )
    return segmenting(command, out, images)


def nnunet(setting: Setting, images: Path, *options: str) -> Callable[[], Spent]:
    """nnU-Net's predictor in a script. images: from `for_nnunet`."""
    out = setting.folder / "theirs"
    command: Command = (
        sys.executable,
        HERE / "nnunet_predictor.py",
        setting.model,
        images,
        out,
        *options,
    )
    return segmenting(command, out, images)


def print_one(setting: Setting) -> None:
    """One image, one fold."""
    images = setting.folder / "one"
    cut_samples(images, [ONE])
    theirs = for_nnunet(images, setting.folder / "one_nnunet")
    out = setting.folder / "theirs"
    program = Path(sys.executable).with_name("nnUNetv2_predict_from_modelfolder")
    where = ("-i", theirs, "-o", out, "-m", setting.model, "-f", "0")
    how = ("--disable_tta", "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_progress_bar")
    ways = {
        "`reunet predict`": reunet(setting, images, "--folds", "0"),
        "`nnUNetv2_predict_from_modelfolder`": segmenting((program, *where, *how), out, images),
        "`nnUNetPredictor`, no workers": nnunet(setting, theirs, "--folds", "1", "--sequential"),
    }
    print(f"One image of {ONE[0]}×{ONE[1]} px, one fold, no mirroring, CPU.\n")
    print_ratios(in_turn(ways, setting.runs), MARK_ONE)


def print_folder(setting: Setting) -> None:
    """Many images, all folds. nnU-Net with and without its worker processes."""
    theirs = for_nnunet(setting.images, setting.folder / "folder_nnunet")
    folds = ("--folds", str(FOLDS))
    ways = {
        "`reunet predict`": reunet(setting, setting.images),
        "`nnUNetPredictor`": nnunet(setting, theirs, *folds),
        "`nnUNetPredictor`, no workers": nnunet(setting, theirs, *folds, "--sequential"),
    }
    print(f"{describe(setting.images)}, {FOLDS} folds, no mirroring, CPU.\n")
    print_ratios(in_turn(ways, setting.runs), MARK_FOLDER)


def print_baseline(setting: Setting) -> None:
    """The official baseline: a smaller network, windows of 256 px."""
    from benchmarks.peers import official_baseline

    out = setting.folder / "theirs"
    command: Command = (sys.executable, HERE / "official_baseline.py", setting.images, out)
    ways = {
        "`reunet predict`": reunet(setting, setting.images, "--folds", "0"),
        "official baseline's way": segmenting(command, out, setting.images),
    }
    window = official_baseline.WINDOW
    own = 2e-9 * ceiling.multiply_adds(open_bundle(setting.weights).architecture, window, window)
    other = official_baseline.gflop_of_a_window()
    print(f"{describe(setting.images)}, one fold, no mirroring, CPU. {window}×{window} px are")
    print(f"{own:.1f} GFLOP of our network, {other:.1f} of the baseline's, overlaps not counted.\n")
    print_ratios(in_turn(ways, setting.runs))


def describe(images: Path) -> str:
    """How many images, and how large together."""
    paths = list(images.iterdir())
    pixels = sum(width * height for width, height in (Image.open(path).size for path in paths))
    return f"{len(paths)} images, {pixels / 1e6:.1f} megapixels"


def print_ceiling(setting: Setting) -> None:
    """The first fold's tile beside matrix products."""
    bundle = open_bundle(setting.weights)
    ceiling.print_ceiling(setting.weights, bundle.tile, setting.runs)


def print_gpu(setting: Setting) -> None:
    """The paper's network, where there is a GPU."""
    paper_on_gpu.print_gpu(setting.folder)


TABLES = {
    "one": print_one,
    "folder": print_folder,
    "baseline": print_baseline,
    "ceiling": print_ceiling,
    "gpu": print_gpu,
}

if __name__ == "__main__":
    main()
