"""What must not move unawares: labels of the shipped weights, as they were when these were new.

`python tests/golden/compare.py BEFORE AFTER` compares two commits to the bit on one machine. The
stored labels were made on another processor, whose sums over pixels are rounded otherwise: logits
move by some 1e-4, a pixel between two classes may change sides, and rarely a pass between two
peaks. So cells have to be the same but for one in a hundred, and their pixels but for one in 200.
Whoever moves labels on purpose makes them anew, and says why:

    PYTHONPATH=tests python tests/project/test_golden.py
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from conftest import ROOT
from reunet.cli import main
from reunet.metric import score_pair

sys.path.insert(0, str(ROOT / "tests" / "golden"))
from inputs import OPTIONS, make_inputs

STORED = ROOT / "tests" / "golden" / "labels"
FLOAT32 = ["--precision", "f32"]  # which every processor has
CELLS, PIXELS = 0.99, 0.995


def labels_of(name: str, folder: Path) -> dict[str, np.ndarray]:
    """Label images that the command makes of an input of `golden.inputs`, by file name."""
    output = folder / name
    options = ["--weights", str(ROOT / "weights" / "compact"), "--device", "cpu", *FLOAT32]
    options += OPTIONS[name]
    main(["predict", str(make_inputs(folder)[name]), str(output), *options], standalone_mode=False)
    return {path.name: tifffile.imread(path) for path in sorted(output.glob("*_label.tiff"))}


@pytest.mark.parametrize(
    "name", ["samples", "small", pytest.param("slide", marks=pytest.mark.slow)]
)
def test_labels_are_those_that_were_stored(name: str, tmp_path: Path) -> None:
    found = labels_of(name, tmp_path)
    assert found
    for file, label in found.items():
        stored = tifffile.imread(STORED / file)
        assert stored.max() > 3
        assert score_pair(stored.astype(np.int32), label.astype(np.int32)).f1 >= CELLS
        cells = (stored > 0) | (label > 0)
        assert ((stored > 0) == (label > 0))[cells].mean() >= PIXELS


if __name__ == "__main__":
    import tempfile

    STORED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for each in OPTIONS:
            for file, label in labels_of(each, Path(folder)).items():
                tifffile.imwrite(STORED / file, label, compression="zlib")
