"""Do two commits make the same labels, to the bit?  python tests/golden/compare.py BEFORE [AFTER]

Each is checked out on its own, segments the images of `inputs.py` on the CPU of this machine, and
every label is compared, with what it says of its origin. AFTER may be `.`, the default: the working
tree as it is; BEFORE may be `stored`: the labels in the repository, which another processor made.
The exit code is 1 where anything differs.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from inputs import OPTIONS, make_inputs

ROOT = Path(__file__).resolve().parents[2]
STORED = Path(__file__).parent / "labels"
START = "import sys; sys.path.insert(0, {!r}); from reunet.cli import main; main()"


class Label(NamedTuple):
    """A label image, and what it says it was made from."""

    cells: np.ndarray
    origin: str


def labels_of(commit: str, inputs: dict[str, Path], work: Path) -> dict[str, Label]:
    """The labels that a commit makes of the inputs, by file name."""
    if commit == "stored":
        return read_labels(STORED)
    source = ROOT if commit == "." else check_out(commit, work / "source")
    for name, options in OPTIONS.items():
        command = [sys.executable, "-c", START.format(str(source)), "predict", str(inputs[name])]
        weights = ["--weights", str(ROOT / "weights" / "compact"), "--device", "cpu"]
        weights += ["--precision", "f32"] * (source / "reunet/network/precision.py").exists()
        subprocess.run([*command, str(work / name), *weights, *options], check=True)
    return read_labels(work)


def read_labels(folder: Path) -> dict[str, Label]:
    """All labels below a folder, by file name."""
    labels = {}
    for path in sorted(folder.rglob("*_label.tiff")):
        with tifffile.TiffFile(path) as file:
            origin = (file.shaped_metadata or ({},))[0].get("origin", "")
            labels[path.name] = Label(file.asarray(), origin)
    return labels


def check_out(commit: str, folder: Path) -> Path:
    """The package as it was at a commit."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "-C", ROOT, "archive", commit, "reunet"], check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder


def difference(one: Label, other: Label | None) -> str:
    """What sets two labels apart; nothing where they are the same."""
    if other is None or one.cells.shape != other.cells.shape:
        return "missing, or of another shape"
    if differing := np.count_nonzero(one.cells != other.cells):
        return f"{differing} pixels differ"
    if one.cells.dtype != other.cells.dtype:
        return f"{one.cells.dtype} before, {other.cells.dtype} after"
    return "" if one.origin == other.origin else f"origins:\n  {one.origin}\n  {other.origin}"


def main() -> None:
    """Print a line for every label."""
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    commits = [*sys.argv[1:], "."][:2]
    with tempfile.TemporaryDirectory() as folder:
        work = [Path(folder, name) for name in ("before", "after")]
        for path in work:
            path.mkdir()
        inputs = make_inputs(Path(folder))
        before, after = (labels_of(c, inputs, w) for c, w in zip(commits, work, strict=True))
    differences = {name: difference(label, after.get(name)) for name, label in before.items()}
    for name, what in differences.items():
        print(f"{name}: {what or f'{before[name].cells.max()} cells, the same to the bit'}")
    sys.exit(any(differences.values()))


if __name__ == "__main__":
    main()
