"""Ours beside its peers in one run: seconds and memory for a small image, a large one, a folder.

    python -m benchmarks.peers.run [--only reunet,cellpose3] [--jobs small,folder] [--limit 60]

Every way is a process from its start to its files on disk, on the CPU; they take turns image set by
image set, so that a busy machine hits all alike. What each was shown before (a picture of 64 px,
uncounted) warms the disk's cache. Ours ends with labels, as do nnU-Net's predictor with the same
weights (class maps) and the official baseline's way; of the other peers the networks run alone,
with random weights, so their figures are lower bounds. --limit stops a process after so many
seconds; its row then says so, and larger sets are not tried. A peer that cannot be installed is
named with the reason. Needs requirements-train.txt; the peers' own packages are installed below
build/peers at the first run.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from itertools import cycle, islice
from math import inf, isinf
from pathlib import Path

from PIL import Image

from benchmarks.peers.environments import PACKAGES, NotInstalledError, environment, versions
from benchmarks.speed.timing import Command, Spent, cut_samples, machine, print_table, run
from reunet.inference.normalise import normalise_channels
from reunet.io.images import read_image
from reunet.model import default_weights

HERE = Path(__file__).resolve().parent
# (height, width) that are common among microscope images; the largest is the challenge's
SIZES = ((256, 256), (520, 696), (472, 512), (360, 360), (400, 400), (256, 320), (640, 640),
         (1024, 1024))  # fmt: skip
WARM_UP = 64  # px
STOPPED = Spent(inf, inf, inf)
OURS: dict[str, tuple[str, ...]] = {  # choices of `reunet predict`
    "reunet": (),
    "reunet --no-tta": ("--no-tta",),
    "reunet --no-tta, own size": ("--no-tta", "--diameter", "30"),
}
NAMES = ("reunet", "nnunet", *PACKAGES)
Way = Callable[[Path, Path], Command]  # folders of images and of outputs -> what is to be run


def main() -> None:
    """Make images, run all ways on each set of them, print a table a set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(NAMES), help=f"[{','.join(NAMES)}]")
    parser.add_argument("--jobs", default="small,large,folder")
    parser.add_argument("--small", type=int, default=512, help="px")
    parser.add_argument("--large", type=int, default=2048, help="px")
    parser.add_argument("--images", type=int, default=40, help="of the folder")
    parser.add_argument("--limit", type=float, default=60, help="seconds of a process")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as root:
        ways = ways_of(options.only.split(","), Path(root))
        sets = {
            "warm": [(WARM_UP, WARM_UP)],
            "small": [(options.small, options.small)],
            "large": [(options.large, options.large)],
            "folder": list(islice(cycle(SIZES), options.images)),
        }
        stopped: set[str] = set()
        for name in ("warm", *options.jobs.split(",")):
            images = Path(root) / name
            pixels = cut_samples(images, sets[name])
            spent = dict.fromkeys(ways, STOPPED)
            spent |= {w: once(ways[w], images, options.limit) for w in ways if w not in stopped}
            if name != "warm":
                stopped |= {way for way, seconds in spent.items() if isinf(seconds.wall)}
                print(f"\n## {name}: {len(sets[name])} images, {pixels / 1e6:.2f} megapixels\n")
                print_spent(spent, options.limit)


def ways_of(names: list[str], root: Path) -> dict[str, Way]:
    """The commands of the peers that can be run here, ours first; says which cannot, and why."""
    if unknown := set(names) - set(NAMES):
        sys.exit(f"no {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    ways: dict[str, Way] = {}
    for name in (name for name in NAMES if name in names):
        try:
            ways |= WAYS[name](root) if name in WAYS else other(name)
        except NotInstalledError as error:
            print(f"* {name} is left out: {error}", flush=True)
    return ways


def ours(_: Path) -> dict[str, Way]:
    """Our command, by default and with choices that make it do what the others do."""
    program, how = Path(sys.executable).with_name("reunet"), ("--device", "cpu")
    return {
        name: lambda images, out, own=own: (program, "predict", images, out, *how, *own)
        for name, own in OURS.items()
    }


def nnunet(root: Path) -> dict[str, Way]:
    """nnU-Net's predictor with the same weights, on normalised RGB under its names."""
    if not find_spec("nnunetv2"):
        raise NotInstalledError("requirements-train.txt is not installed")

    def way(images: Path, out: Path) -> Command:
        given = for_nnunet(images, root / f"{images.name}_nnunet")
        return (sys.executable, HERE / "nnunet.py", default_weights(), given, out)

    return {"nnU-Net's predictor, same weights": way}


def other(peer: str) -> dict[str, Way]:
    """A peer with random weights."""
    python = environment(peer)
    print(f"* {peer}: {versions(peer)}", flush=True)
    script = HERE / "networks.py"
    name = "official baseline" if peer == "baseline" else f"{peer}, network alone"
    return {name: lambda images, out: (python, script, peer, images, out)}


WAYS: dict[str, Callable[[Path], dict[str, Way]]] = {"reunet": ours, "nnunet": nnunet}


def for_nnunet(images: Path, folder: Path) -> Path:
    """Normalised RGB copies under nnU-Net's names. To make them costs it nothing: ours is timed."""
    folder.mkdir(exist_ok=True)
    for path in images.iterdir():
        image = normalise_channels(read_image(path).pixels)
        Image.fromarray(image).save(folder / f"{path.stem}_0000.png")
    return folder


def once(way: Way, images: Path, limit: float) -> Spent:
    """Run a way on a folder of images, into a folder of its own that is thrown away."""
    out = images.with_name("out")
    spent = run(way(images, out), limit)
    made = list(out.glob("*")) if out.exists() else []
    if not isinf(spent.wall) and len(made) < len(list(images.iterdir())):
        sys.exit(f"{len(made)} outputs of {images.name}")
    shutil.rmtree(out, ignore_errors=True)
    return spent


def print_spent(spent: dict[str, Spent], limit: float) -> None:
    """A row a way, and how many times as long as the first, ours, it takes."""
    ours = next(iter(spent.values()))
    rows = []
    for name, (wall, cpu, peak) in spent.items():
        if isinf(wall):
            rows.append(
                (name, f"stopped after {limit:g}", f"> {limit / ours.wall:.1f}", "", "", "")
            )
            continue
        ratios = f"{wall / ours.wall:.1f}", f"{cpu / ours.cpu:.1f}"
        rows.append((name, f"{wall:.1f}", ratios[0], f"{cpu:.1f}", ratios[1], f"{peak / 1e9:.2f}"))
    heads = ("", "seconds", "times ours", "processor seconds", "times ours", "most memory, GB")
    print_table(heads, rows)


if __name__ == "__main__":
    main()
