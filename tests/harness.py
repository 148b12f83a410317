"""The challenge's organiser, re-enacted on Linux as root: one container run for each image.

    python tests/harness.py [IMAGE ...] [--container]

An image is copied into an empty inputs/, `/bin/bash -c "sh predict.sh"` runs with the clock
ticking, and the label is moved away under the name that the organiser expects. A run sees a file
system of its own (an overlay in a private mount namespace): inputs read-only, no network, an empty
environment, 1 MB of /dev/shm; further hardships make up a Situation. `bare` is this machine with
this checkout's predict.sh and weights in /workspace; `container` is the image that the Dockerfile
makes, built by container-check. The real file system is left as it is.
"""

import argparse
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tifffile
from PIL import Image

import reunet

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLES = REPOSITORY / "tests" / "data" / "samples" / "images"
CONTAINER_CHECK = REPOSITORY.parent / "shared" / "tools" / "container-check"
BUILT = "localhost/reunet-check:latest"  # what container-check calls the image
NOBODY = 54321  # a user without a name: no entry in /etc/passwd
SECONDS = 10.0  # the challenge's tolerance up to a megapixel, and for each megapixel beyond

RUN = """
set -eu
base=$1 lower=$2 layer=$3 inputs=$4 outputs=$5 access=$6 shown=$7; shift 7
mount -t tmpfs -o mode=755 tmpfs "$base"
mkdir "$base/work" "$base/root"
cp -a "$layer" "$base/upper"
root=$base/root
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$base/upper,workdir=$base/work" "$root"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o size=1m,mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
IFS=:
for path in $shown; do
    mkdir -p "$root$path"
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
done
mount --bind "$inputs" "$root/workspace/inputs"
mount -o remount,bind,ro "$root/workspace/inputs"
mount --bind "$outputs" "$root/workspace/outputs"
mount -o "remount,bind,$access" "$root"
exec "$@"
"""


@dataclass(frozen=True)
class Situation:
    """What a run has to cope with beyond what all have."""

    user: int = 0
    read_only: bool = False  # the root file system, apart from /workspace/outputs and /tmp
    cores: int = 2

    def __str__(self) -> str:
        user = "nobody" if self.user else "root"
        return f"{user}, {'read-only' if self.read_only else 'writable'} root, {self.cores} cores"


SITUATIONS = (
    Situation(),
    Situation(read_only=True, cores=1),
    Situation(user=NOBODY, read_only=True),
    Situation(user=NOBODY, read_only=True, cores=1),
)


@dataclass(frozen=True)
class Root:
    """The file system of a container: what it holds, what lies over that, and where else to look.

    shown: paths that look the same inside.
    """

    lower: Path
    layer: Path
    shown: Sequence[Path] = ()


class Seconds(NamedTuple):
    """What a run took: by the organiser's clock, and of the cores. Other jobs stretch the first."""

    wall: float
    cores: float


def bare(folder: Path) -> Root:
    """This machine, and a layer in `folder` that holds what the Dockerfile puts into an image."""
    workspace, programs = folder / "workspace", folder / "usr" / "local" / "bin"
    for path in (workspace / "inputs", workspace / "outputs", programs):
        path.mkdir(parents=True)
    shutil.copy(REPOSITORY / "predict.sh", workspace)
    (workspace / "weights").symlink_to(REPOSITORY / "weights")
    package = Path(reunet.__file__).resolve().parents[1]
    start = f"import sys; sys.path.insert(0, {str(package)!r}); from reunet.cli import main; main()"
    (programs / "reunet").write_text(f"#!{sys.executable}\n{start}\n")
    (programs / "reunet").chmod(0o755)
    shown = [Path(sys.base_prefix), Path(sys.prefix), REPOSITORY, package]
    for path in shown:  # a user may have to pass through root's home to get at Python
        for parent in reversed(path.resolve().parents[:-1]):
            (folder / parent.relative_to("/")).mkdir(exist_ok=True)
    return Root(Path("/"), folder, [path.resolve() for path in dict.fromkeys(shown)])


@contextlib.contextmanager
def container(folder: Path) -> Iterator[Root]:
    """The file system of the image that container-check has built."""
    for name in ("inputs", "outputs"):
        (folder / "workspace" / name).mkdir(parents=True)
    name = buildah("from", BUILT)
    try:
        yield Root(Path(buildah("mount", name)), folder)
    finally:
        buildah("rm", name)


def buildah(*arguments: str) -> str:
    """What a command of buildah prints."""
    storage = {"STORAGE_DRIVER": os.environ.get("STORAGE_DRIVER", "overlay")}
    command, environment = ["buildah", *arguments], {**os.environ, **storage}
    return subprocess.check_output(command, text=True, env=environment).strip()


def can_isolate() -> bool:
    """Whether this process may make file systems of its own: Linux, root, not forbidden."""
    test = 'mount -t tmpfs tmpfs "$1" && cd "$1" && mkdir u w r && mount -t overlay overlay r -o '
    test += '"lowerdir=/,upperdir=$1/u,workdir=$1/w"'
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", "--mount", "--net", "sh", "-c", test, "sh", folder]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False


def run(root: Root, situation: Situation, inputs: Path, outputs: Path) -> tuple[int, str, Seconds]:
    """One container run. Returns its exit code, what it said, and the time it took."""
    os.chown(outputs, situation.user, situation.user)
    shown, access = ":".join(map(str, root.shown)), "ro" if situation.read_only else "rw"
    with tempfile.TemporaryDirectory() as base:
        folders = map(str, (base, root.lower, root.layer, inputs, outputs))
        cores = ["taskset", "--cpu-list", ",".join(map(str, cores_at_hand()[: situation.cores]))]
        user = [f"--userspec={situation.user}:{situation.user}", "--groups="]
        bash = ["/usr/bin/env", "-i", "/bin/bash", "-c", 'cd /workspace; /bin/bash -c "$0"']
        inside = [*cores, "chroot", *user, f"{base}/root", *bash, "sh predict.sh"]
        outside = ["unshare", "--mount", "--net", "sh", "-c", RUN, "sh", *folders, access, shown]
        started, before = time.monotonic(), core_seconds_of_children()
        result = subprocess.run(
            [*outside, *inside], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wall, cores_used = time.monotonic() - started, core_seconds_of_children() - before
        return result.returncode, result.stdout, Seconds(wall, cores_used)


def core_seconds_of_children() -> float:
    """Processor time of all processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cores_at_hand() -> list[int]:
    """Numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def evaluate_time(root: Root, situation: Situation, image: Path, results: Path) -> Seconds:
    """What the organiser does with one image. Returns its time; the label is then in `results`.

    Raises RuntimeError where there is no label, and ValueError where it is not the image's.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "inputs", Path(folder) / "outputs"
        inputs.mkdir()
        outputs.mkdir()
        shutil.copy(image, inputs)
        code, said, seconds = run(root, situation, inputs, outputs)
        label = outputs / f"{image.name.split('.')[0]}_label.tiff"
        if code or [*outputs.iterdir()] != [label]:
            raise RuntimeError(f"{image.name}, {situation}: exit code {code}: {said}")
        shutil.move(label, results / label.name)
    check_label(results / label.name, image)
    return seconds


def check_label(label: Path, image: Path) -> None:
    """Raises ValueError where a label is not one plane of integers of the image's size."""
    instances = tifffile.imread(label)
    with Image.open(image) as picture:
        size = picture.height, picture.width
    if instances.shape != size or instances.dtype.kind not in "iu" or instances.min() < 0:
        raise ValueError(f"{label.name}: {instances.shape} {instances.dtype}, image: {size}")


def tolerance(image: Path) -> float:
    """Seconds that the challenge does not count for an image."""
    with Image.open(image) as picture:
        return SECONDS * max(1.0, picture.height * picture.width / 1e6)


def in_words(seconds: Seconds, image: Path) -> str:
    """A run's time beside what the challenge allows."""
    spent = f"{seconds.wall:.2f} s ({seconds.cores:.2f} s of the cores)"
    return f"{spent} of {tolerance(image):.1f} s"


def main() -> None:
    """Print how long each image takes in each situation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", type=Path, nargs="*", default=sorted(SAMPLES.iterdir()))
    parser.add_argument("--container", action="store_true", help="else bare")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        layer, results = (
            Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)
        )
        layer.chmod(0o755)
        root = stack.enter_context(container(layer)) if options.container else bare(layer)
        shares = []
        for situation in SITUATIONS:
            print(f"{situation}:")
            for image in options.images:
                seconds = evaluate_time(root, situation, image, results)
                shares.append(seconds.wall / tolerance(image))
                print(f"  {image.name}: {in_words(seconds, image)}", flush=True)
    within = sum(share <= 1 for share in shares)
    slowest = f"slowest {max(shares):.0%} of its time"
    print(f"{len(shares)} runs, {within / len(shares):.0%} within tolerance, {slowest}")


if __name__ == "__main__":
    main()
