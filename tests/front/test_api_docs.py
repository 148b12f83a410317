"""docs/api.md and evaluation.md: every block of Python in them runs, in order, as typed."""

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import reunet
from conftest import PICTURES, ROOT
from reunet.metric import score_folder, write_csv

PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(PAGE)


def test_every_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.asarray(Image.open(PICTURES / "nuclei.png").convert("L"))[:96, :128]
    tifffile.imwrite("image.tif", pixels)
    Path("broken.tif").write_bytes(b"II*\0 no more than a head")
    Path("images").mkdir()
    shutil.copy("image.tif", "images/one.tif")
    shutil.copy("broken.tif", "images/two.tif")
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", reunet.ReUNetWarning)
        for block in BLOCKS:
            exec(compile(block, "docs/api.md", "exec"), names)
    printed = capsys.readouterr().out
    assert len(BLOCKS) >= 9
    assert "tile 1 of 1" in printed
    assert "broken.tif: " in printed
    assert Path("labels/one_label.tiff").exists()
    assert not Path("labels/two_label.tiff").exists()


def test_everything_that_is_exported_is_told() -> None:
    assert not [name for name in reunet.__all__ if name not in PAGE]


def test_the_blocks_on_evaluation_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the table that `reunet evaluate` writes, and on two label maps."""
    monkeypatch.chdir(tmp_path)
    cases = ROOT / "tests/data/metric"
    write_csv(score_folder(cases / "gt", cases / "seg"), Path("scores.csv"))
    truth = np.zeros((20, 20), np.int32)
    truth[4:10, 4:10] = 1
    names: dict[str, object] = {"truth": truth, "labels": truth}
    for block in BLOCK.findall((ROOT / "docs/evaluation.md").read_text(encoding="utf-8")):
        exec(compile(block, "docs/evaluation.md", "exec"), names)
    f1 = [score.f1 for score in score_folder(cases / "gt", cases / "seg").scores.values()]
    told = capsys.readouterr().out.split("\n")
    assert told[0].startswith(f"{np.mean(f1):.3f} ± 0.")
    assert told[1] == "1.0 1 1 1"
