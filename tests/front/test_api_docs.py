"""docs/api.md: every block of Python in it runs, in order, as a reader would type it."""

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

PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


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
